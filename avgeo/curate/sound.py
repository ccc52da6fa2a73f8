"""Gates `silent` and `clipped`, and the counter of clipped samples that runs beside the decoder.

This module imports nothing of the stage but the verdict, so that whoever decodes can count while decoding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from avgeo.curate.verdict import Verdict
from avgeo.profiles import CurateSettings

if TYPE_CHECKING:
    from avgeo.curate.signals import Signals

NO_SOUND = "has no sound"
_BLOCK = 320  # samples: 20 ms at 16 kHz
_FLOOR_DBFS = -120.0  # what digital silence is called


def silent(signals: Signals, settings: CurateSettings) -> Verdict:
    """Its sound is not silence: neither over all, nor for nearly all of the time.

    `level_dbfs` is the root mean square in dB of full scale (-120 for digital silence), `silent_share` the share of
    blocks of 20 ms below `silence_dbfs`. Rejected: a level below `silence_dbfs`, or a share above `silent_share`
    (a track that drops out, or a click in an empty one).
    """
    if signals.samples is None:
        return Verdict("silent", skipped=NO_SOUND)
    samples = signals.samples if len(signals.samples) else np.zeros(1, np.float32)
    whole = len(samples) // _BLOCK * _BLOCK
    level_dbfs = _decibel(float(np.mean(np.square(samples), dtype=np.float64)))
    blocks = samples[:whole].reshape(-1, _BLOCK) if whole else samples.reshape(1, -1)
    quiet = np.mean(np.square(blocks), axis=1) < 10 ** (settings.silence_dbfs / 10)
    share = float(np.mean(quiet))
    measured: dict[str, float | int | str | None] = {
        "level_dbfs": round(level_dbfs, 1),
        "silent_share": round(share, 3),
    }
    reason = None
    if level_dbfs < settings.silence_dbfs:
        reason = f"its sound is silent: {level_dbfs:.0f} dBFS is below {settings.silence_dbfs:g} dBFS"
    elif share > settings.silent_share:
        reason = f"its sound is silent for {share:.0%} of the time: more than {settings.silent_share:.0%}"
    return Verdict("silent", measured, reason)


def _decibel(power: float) -> float:
    return max(10 * math.log10(power), _FLOOR_DBFS) if power > 0 else _FLOOR_DBFS


def clipped(signals: Signals, settings: CurateSettings) -> Verdict:
    """It is not overdriven: at most `clipped_share` of its samples lie at a limit (see `ClipCounter`)."""
    share = signals.clipped_share
    if share is None:
        return Verdict("clipped", skipped=NO_SOUND)
    reason = None
    if share > settings.clipped_share:
        reason = f"its sound is clipped: {share:.1%} of the samples lie at the limit, over {settings.clipped_share:.1%}"
    return Verdict("clipped", {"clipped_share": round(share, 4)}, reason)


class ClipCounter:
    """Counts clipped samples chunk by chunk; `share` is the result so far, None before any sample.

    A flat top is a run of three samples or more of one sign that are equal to the last bit, or all 0.985 or more.
    What counts, whichever is most:

    - flat tops at full scale (0.985 and above, also beyond 1);
    - flat tops within 2 % of the recording's own peak, if that is 0.1 or more (16 bits round softer low tones to flat
      tops) and if they are less than 60 % of the sound (a rectangular wave is a buzzer): a preamplifier clipped, and
      the level was set afterwards;
    - all samples of 0.94 or more, where 0.05 % of them exceed 1.002. Lossy coding smears a flat top by some 6 % to both
      sides, and only what was clipped decodes to that much above full scale.

    Clipping below full scale leaves no trace in lossy files that could be told from a tone, and is not found in them.
    The result does not depend on how the sound is cut into chunks.
    """

    FULL, OVER, SMEARED = 0.985, 1.002, 0.94
    _OVERSHOT = 0.0005
    _QUIETEST = 0.1
    _BINS = 4096  # of amplitudes up to 1

    def __init__(self) -> None:
        self._samples = self._over = self._smeared = 0
        self._peak = 0.0
        self._open: list[Float32[np.ndarray, " samples"]] = []  # of each channel: its last run, which may go on
        self._flat = np.zeros(self._BINS + 1, np.int64)  # samples in flat tops, by their amplitude

    def update(self, chunk: Float32[np.ndarray, "channels samples"]) -> None:
        """Take the next samples at the file's own rate; the number of channels may not change (ValueError)."""
        if not chunk.size:
            return
        self._open = self._open or [np.zeros(0, np.float32)] * len(chunk)
        if len(self._open) != len(chunk):
            raise ValueError(f"chunk has {len(chunk)} channels, those before had {len(self._open)}")
        peak = max(float(chunk.max()), -float(chunk.min()))
        if not math.isfinite(peak):
            chunk = np.nan_to_num(chunk)
            peak = float(np.abs(chunk).max())
        self._samples += chunk.size
        self._peak = max(self._peak, peak)
        if peak >= self.SMEARED:
            magnitude = np.abs(chunk)
            self._smeared += int(np.count_nonzero(magnitude >= self.SMEARED))
            self._over += int(np.count_nonzero(magnitude > self.OVER))
        for channel, samples in enumerate(chunk):
            if peak < self._QUIETEST:
                self._close(channel)
                continue
            samples = np.concatenate([self._open[channel], samples])
            starts, stops = self._runs(samples)
            # the last run may go on in the next chunk (not for ever: a constant would fill the memory)
            begin = int(starts[-1]) if len(stops) and stops[-1] == len(samples) else len(samples) - 1
            if len(samples) - begin > 1 << 16:
                begin = len(samples) - 1
            self._take(samples, starts, stops, begin)
            self._open[channel] = samples[begin:].copy()

    def _runs(self, samples: Float32[np.ndarray, " samples"]) -> tuple[Int64[np.ndarray, " runs"], ...]:
        """First sample of each run of flat neighbours, and the one after its last."""
        left, right = samples[:-1], samples[1:]
        flat = left == right
        if flat.any():
            flat &= (right >= self._QUIETEST) | (right <= -self._QUIETEST)
        if max(samples.max(), -samples.min()) >= self.FULL:
            flat |= (np.minimum(left, right) >= self.FULL) | (np.maximum(left, right) <= -self.FULL)
        if not flat.any():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))
        return edges[::2], edges[1::2] + 1

    def _take(
        self, samples: Float32[np.ndarray, " samples"], starts: Int64[np.ndarray, " runs"],
        stops: Int64[np.ndarray, " runs"], before: int,
    ) -> None:  # fmt: skip
        """Count the runs of three or more that begin before a sample."""
        lengths = np.where((stops - starts >= 3) & (starts < before), stops - starts, 0)
        level = np.minimum(np.abs(samples[starts]) * self._BINS, self._BINS).astype(np.int64)
        self._flat += np.bincount(level, lengths, self._BINS + 1).astype(np.int64)

    def _close(self, channel: int) -> None:
        samples = self._open[channel]
        if len(samples) >= 3:
            self._take(samples, *self._runs(samples), before=len(samples))
        self._open[channel] = np.zeros(0, np.float32)

    @property
    def share(self) -> float | None:
        """Share of the samples so far that are clipped."""
        if not self._samples:
            return None
        still_open, self._open, counted = self._open, list(self._open), self._flat.copy()
        for channel in range(len(still_open)):
            self._close(channel)
        from_top = self._flat[::-1].cumsum()[::-1] / self._samples
        self._open, self._flat = still_open, counted
        full = from_top[int(self.FULL * self._BINS)]
        own = from_top[int(0.98 * min(self._peak, 1.0) * self._BINS)]
        smeared = self._smeared / self._samples if self._over > self._OVERSHOT * self._samples else 0.0
        return float(max(full, smeared, own if own < 0.6 else 0.0))
