"""Gate `voiceover`: someone talks over the recording, from first to last and close to the microphone.

Speech is found by silero-vad (Silero Team, 2021-, MIT), whose network lies in the wheel as an ONNX graph over whole
sequences. The extra `curate` brings it. A voice that belongs to the scene passes: it does not
fill the recording (a passer-by, an announcer who names the bird), or it does not stand far above what else is heard (a
market), because near by is where a voice-over is spoken and the scene is not.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import fft

from avgeo.curate.signals import RATE_HZ, Signals
from avgeo.curate.sound import NO_SOUND
from avgeo.curate.verdict import Verdict
from avgeo.curate.windows import windows
from avgeo.profiles import CurateSettings

STEP, CONTEXT = 512, 64  # samples: the network takes 32 ms at a time, and 4 ms of what was before
_SPEECH = 0.5  # probability
_LONG_S = 20.0  # of speech: nobody passes by for so long
_BAND_HZ = (150.0, 4000.0)
_QUIET = 5.0  # per cent
_SHORTEST_S = 1.0
_AT_ONCE = 32  # steps: a second


def available() -> str | None:
    """None if speech can be found here, otherwise the cure."""
    missing = [name for name in ("silero_vad", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'avgeo[curate]'" if missing else None


@cache
def _network() -> Any:
    """The session, made once per process: on one thread, and silent about its unused weights."""
    import onnxruntime

    # The wheel's own import brings torch, and the graph is a file beside it.
    found = importlib.util.find_spec("silero_vad")
    assert found is not None and found.origin is not None  # `available` was asked
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = Path(found.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def speech_probabilities(
    samples: Float32[np.ndarray, " samples"], at_once: int
) -> Iterator[Float32[np.ndarray, " steps"]]:
    """The probability of speech in each 32 ms of 16 kHz `samples`, `at_once` steps at a time.

    The last step is padded with silence. The network's state goes on from one piece to the next.
    """
    steps = -(-len(samples) // STEP)
    padded = np.zeros(CONTEXT + steps * STEP, np.float32)
    padded[CONTEXT : CONTEXT + len(samples)] = samples
    blocks = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + STEP)[::STEP]
    h = c = np.zeros((1, 1, 128), np.float32)
    for start in range(0, steps, at_once):
        piece = np.ascontiguousarray(blocks[start : start + at_once])
        found, h, c = _network().run(["speech_probs", "hn", "cn"], {"input": piece, "h": h, "c": c})
        yield found


def _listen(parts: Sequence[Float32[np.ndarray, " samples"]], steps: int, least: float) -> Bool[np.ndarray, " steps"]:
    """In which whole steps of the parts someone speaks, as far as it takes to know: the network is asked no more once
    too many are without speech for a share of `least`. `steps` is how many there are in all.
    """
    heard: list[np.ndarray] = []
    without = 0
    for part in parts:
        left = len(part) // STEP
        for found in speech_probabilities(part, _AT_ONCE):
            heard.append(found[:left] > _SPEECH)
            left -= len(heard[-1])
            without += int(np.count_nonzero(~heard[-1]))
            if without > (1 - least) * steps:
                return np.concatenate(heard)
    return np.concatenate(heard)


def _energy(samples: Float32[np.ndarray, " samples"]) -> Float64[np.ndarray, " steps"]:
    """Energy of each whole step in the band of speech."""
    whole = len(samples) // STEP * STEP
    spectra: Any = fft.rfft(samples[:whole].reshape(-1, STEP) * np.hanning(STEP).astype(np.float32), axis=1)
    spectra = spectra[:, slice(*(round(hz * STEP / RATE_HZ) for hz in _BAND_HZ))]
    return (spectra.real**2 + spectra.imag**2).sum(axis=1, dtype=np.float64) + 1e-9


def _above(energy: Float64[np.ndarray, " steps"], speech: Bool[np.ndarray, " steps"]) -> float:
    """Mean level of the speech, in dB above the quietest 5 % of the time from its first to its last sound."""
    spoken = np.flatnonzero(speech)
    if not len(spoken):
        return 0.0
    quiet = np.percentile(energy[spoken[0] : spoken[-1] + 1], _QUIET)
    return 10 * math.log10(float(np.mean(energy[speech])) / float(quiet))


def _most_above(energy: Float64[np.ndarray, " steps"], share: float) -> float:
    """An upper bound of `_above` for any speech that takes `share` of the steps or more.

    Its mean is at most that of as many loudest steps; its span has at least as many steps, whose k-th quietest is at
    least as loud as the k-th quietest of all.
    """
    ranked = np.sort(energy)
    least = max(1, math.ceil(share * len(ranked)))
    quiet = np.interp(_QUIET / 100 * (least - 1), np.arange(len(ranked)), ranked)
    return 10 * math.log10(float(np.mean(ranked[-least:])) / float(quiet))


def voiceover(signals: Signals, settings: CurateSettings) -> Verdict:
    """Nobody talks over it: for `voiceover_share` of the time or more, and `voiceover_db` or more above the rest.

    From 20 s of speech on, `voiceover_long_db` is enough. `speech_over_db` is the level of the speech from 150 to
    4000 Hz above the quietest 5 % of its span: what is heard in the pauses and between the syllables. (A room fills
    these, so that distant speech stands out less.) Of sound of more than a minute six windows of 10 s are heard.

    Where the levels alone leave no room for a voice-over, the network is not asked: `speech_share` is then None, and
    `speech_over_db` what speech could reach at most. It is asked no further than it takes to know that too much is
    without speech; both are then those of what was heard. Neither changes a verdict. Speech that fills the recording
    without standing out is flagged.
    """
    if signals.samples is None:
        return Verdict("voiceover", skipped=NO_SOUND)
    total_s = len(signals.samples) / RATE_HZ
    if total_s < _SHORTEST_S:
        return Verdict("voiceover", skipped=f"shorter than {_SHORTEST_S:g} s")
    cure = available()
    if cure is not None:
        return Verdict("voiceover", skipped=cure)
    share_least = settings.voiceover_share
    parts = windows(signals.samples, 6, 10.0)
    energy = np.concatenate([_energy(part) for part in parts])
    possible_db = _most_above(energy, share_least)
    if possible_db < (settings.voiceover_db if total_s < _LONG_S else settings.voiceover_long_db):
        return Verdict("voiceover", {"speech_share": None, "speech_over_db": round(possible_db, 1)})
    speech = _listen(parts, len(energy), share_least)
    share, over_db = float(np.mean(speech)), _above(energy[: len(speech)], speech)
    needed_db = settings.voiceover_db if share * total_s < _LONG_S else settings.voiceover_long_db
    measured: dict[str, float | int | str | None] = {
        "speech_share": round(share, 3), "speech_over_db": round(over_db, 1)
    }  # fmt: skip
    if len(speech) < len(energy) or share < share_least:
        return Verdict("voiceover", measured)
    if over_db < needed_db:
        return Verdict("voiceover", measured, flags=("speech throughout",))
    reason = f"someone talks over it: speech in {share:.0%} of the time, {over_db:.0f} dB above the rest"
    return Verdict("voiceover", measured, reason)
