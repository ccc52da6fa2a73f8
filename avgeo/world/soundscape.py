"""The mix: every stem at its level over its own span, above a background, at a loudness that tells nothing.

A clip's loudness is drawn from the generator alone: otherwise the number of sources, and with it the place, could be
read from a level meter. Each stem has a generator of its own, keyed by cue and value, so a stem's samples do not depend
on what else sounds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from avgeo.world import animals, espeak, stems, voices
from avgeo.world.cues import CUES, NONE
from avgeo.world.geography import WorldError
from avgeo.world.synthesis import Samples, Stem, noise

Event = tuple[str, str, float, float, float]
"""(cue, value, onset_s, offset_s, snr_db)."""

LOUDNESS_DBFS = (-26.0, -20.0)
"""RMS of a clip, uniform between these, full scale = 0 dB."""
PEAK = 0.9
SHORTEST_S = 0.05
_EDGE_S = 0.03
_CREST = 6.0  # a stem's peak over its RMS: strokes and claps are held, as a recorder's limiter would

_MAKERS: dict[str, Callable[[str], Stem]] = {
    "mains_hum": stems.mains_hum,
    "siren": stems.siren,
    "crossing": stems.crossing,
    "train_horn": stems.train_horn,
    "voice": lambda value: voices.formant_voice(voices.languages()[value]),
    "worship": lambda value: voices.muezzin if value == "muezzin" else stems.worship_bell(value),
    "traffic": stems.traffic,
    "surf": lambda _: stems.surf,
    "rain": lambda _: stems.rain,
    "thunder": lambda _: stems.thunder,
    "wind": lambda _: stems.wind,
    "footsteps": stems.footsteps,
    "crickets": animals.crickets,
    "cicadas": lambda _: animals.cicadas,
    "birds": lambda value: animals.BIRDS[value].stem,
    "gulls": lambda _: animals.GULL.stem,
    "frogs": lambda _: animals.frogs,
    "rooster": lambda _: animals.COCK.stem,
}


def check_speech(speech: str) -> None:
    """Raise WorldError for a way of speaking that is unknown, or whose package is not installed."""
    if speech not in ("formant", "espeak"):
        raise WorldError(f"speech={speech!r}: choose 'formant' or 'espeak'")
    if speech == "espeak":
        espeak.is_spoken("en")


def stem_of(cue: str, value: str, speech: str = "formant") -> Stem:
    """The synthesiser of a source: (samples, rate_hz, rng) -> float32 (samples,) at any level.

    `speech="espeak"` lets espeak-ng speak the languages it knows (`espeak.is_spoken`); the others keep the formant
    voice. Raises WorldError for a cue or value that is not declared, and where espeak-ng is asked for but absent.
    """
    check_speech(speech)
    if cue not in _MAKERS:
        raise WorldError(f"cue={cue!r} has no sound: choose one of {', '.join(_MAKERS)}")
    if value == NONE or value not in CUES[cue].values:
        raise WorldError(
            f"value={value!r} of cue {cue!r} is not declared: choose one of {', '.join(CUES[cue].values[:-1])}"
        )
    if cue == "voice" and speech == "espeak" and espeak.is_spoken(value):
        return espeak.espeak_stem(value)
    return _MAKERS[cue](value)


def layers(
    events: Sequence[Event], duration_s: float, rate_hz: int, rng: np.random.Generator, speech: str = "formant"
) -> Iterator[tuple[int, Samples]]:
    """(first sample, samples) of the background, and then of each event in order, at their relative levels.

    The background has RMS 1 and each stem RMS 10**(snr_db / 20) over its span: the SNR is against the background.
    Raises WorldError for an event that does not fit into the clip.
    """
    samples = round(duration_s * rate_hz)
    key = rng.integers(2**32, size=4).tolist()
    yield 0, _background(samples, rate_hz, np.random.default_rng([*key, 0]))
    heard: dict[tuple[str, str], int] = {}
    for cue, value, onset_s, offset_s, snr_db in events:
        start, stop = round(onset_s * rate_hz), min(round(offset_s * rate_hz), samples)
        if start < 0 or stop - start < SHORTEST_S * rate_hz or not math.isfinite(snr_db):
            raise WorldError(
                f"event {cue}:{value} from {onset_s} to {offset_s} s at {snr_db} dB: it needs {SHORTEST_S} s or more"
                f" inside the clip of {duration_s} s, and a finite level"
            )
        heard[cue, value] = heard.get((cue, value), 0) + 1
        own = np.random.default_rng([*key, zlib.crc32(f"{cue}:{value}".encode()), heard[cue, value]])
        stem = stem_of(cue, value, speech)(stop - start, rate_hz, own)
        yield start, _settled(stem, rate_hz) * np.float32(10 ** (snr_db / 20))


def mix(
    events: Sequence[Event], duration_s: float, rate_hz: int, rng: np.random.Generator, speech: str = "formant"
) -> Samples:
    """The sound track of `events` (cue, value, onset_s, offset_s, snr_db): float32 (samples,), peak at most 0.9.

    Its RMS is drawn from `LOUDNESS_DBFS`, whatever sounds. Same state of `rng`, same samples. `speech` as in `stem_of`.
    An event that is both loud and far shorter than the clip is held by the limiter: its SNR is then lower than planned
    (below 1 dB for events of half a clip at up to 26 dB, as tested).
    """
    if not (duration_s >= SHORTEST_S and rate_hz >= 4000):
        raise WorldError(f"duration_s={duration_s}, rate_hz={rate_hz}: choose at least {SHORTEST_S} s and 4000 Hz")
    target = 10 ** (rng.uniform(*LOUDNESS_DBFS) / 20)
    parts = layers(events, duration_s, rate_hz, rng, speech)
    _, track = next(parts)
    for start, stem in parts:
        track[start : start + len(stem)] += stem
    return _limited(track, target, PEAK)


def _rms(samples: Samples) -> float:
    # no np.dot: its order of summation, and so the last bit, depends on BLAS's threads
    return math.sqrt(float(np.mean(np.square(samples), dtype=np.float64)))


def _background(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """What a recorder hears where nothing is: distant rumble and its own hiss, in drawn proportions, RMS 1."""
    rumble = noise(samples, rate_hz, 60, 400, rng) * np.float32(rng.uniform(0.5, 1.2))
    both = rumble + noise(samples, rate_hz, 300, 0.45 * rate_hz, rng)
    return both / np.float32(_rms(both))


def _settled(stem: Samples, rate_hz: int) -> Samples:
    """A stem with soft edges, a bounded crest and RMS 1."""
    edge = min(round(_EDGE_S * rate_hz), len(stem) // 2)
    rise = np.hanning(2 * edge + 1)[:edge].astype(np.float32)
    stem[:edge] *= rise
    stem[len(stem) - edge :] *= rise[::-1]
    return _limited(stem, 1.0, _CREST)


def _limited(samples: Samples, rms: float, peak: float) -> Samples:
    """`samples` scaled to an RMS, with what would pass `peak` bent softly below it.

    Bending lowers the RMS, so scale and bend are repeated until both hold; most clips need neither.
    """
    samples = samples * np.float32(rms / _rms(samples))
    knee = 0.7 * peak
    for _ in range(30):
        loud = np.flatnonzero(np.abs(samples) > peak)
        if not len(loud):
            return samples
        loud = np.flatnonzero(np.abs(samples) > knee)
        over = np.abs(samples[loud]) - knee
        samples[loud] = np.sign(samples[loud]) * (knee + (peak - knee) * np.tanh(over / (peak - knee)))
        samples *= np.float32(rms / _rms(samples))
    raise WorldError(f"a sound of peak {np.abs(samples).max():.3g} cannot be held at RMS {rms:.3g} below {peak:.3g}")
