"""One synthesiser per audible source, and the mix; every random number comes from the given generator.

A stem is a fixed, recognisable pattern (partials, melody, rhythm) with random detail; it has unit RMS over
its active span. The mix puts each stem at its SNR in dB above a low noise floor, over its own span. Voices
are a *stylised* formant synthesis (Klatt's idea: a pulse train through vowel resonances) with one rhythm-
and-melody class per language group after the typologies of rhythm (Ramus et al. 1999) and tone: they are
not speech and carry no words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.signal import butter, lfilter, sosfilt

Samples = Float[np.ndarray, " samples"]
Stem = Callable[[int, int, np.random.Generator], Samples]
NOISE_FLOOR = 0.004  # RMS of the background, full scale = 1


def _time(samples: int, rate_hz: int) -> Samples:
    return np.arange(samples) / rate_hz


def _phase(frequency_hz: np.ndarray, rate_hz: int) -> Samples:
    """The phase of an oscillator that glides through `frequency_hz` (one value per sample)."""
    return 2 * np.pi * np.cumsum(frequency_hz) / rate_hz


def _band(noise: Samples, low_hz: float, high_hz: float, rate_hz: int, order: int = 2) -> Samples:
    high_hz = min(high_hz, 0.48 * rate_hz)
    return np.asarray(sosfilt(butter(order, [low_hz, high_hz], "bandpass", fs=rate_hz, output="sos"), noise))


def _slow(samples: int, rate_hz: int, every_s: float, rng: np.random.Generator) -> Samples:
    """A smooth random curve in [0, 1] with a new level about every `every_s` seconds."""
    knots = rng.random(max(2, int(samples / rate_hz / every_s) + 2))
    return np.interp(np.arange(samples), np.linspace(0, samples, len(knots)), knots)


def _pulses(samples: int, rate_hz: int, starts_s: Iterable[float], grain: Samples) -> Samples:
    """`grain` added at each start."""
    out = np.zeros(samples)
    for start_s in starts_s:
        at = int(start_s * rate_hz)
        if 0 <= at < samples:
            piece = grain[: samples - at]
            out[at : at + len(piece)] += piece
    return out


# --- machines ---


def mains_hum(frequency_hz: float) -> Stem:
    """Even harmonics of the mains dominate (magnetostriction at 2f), with the fundamental beside them."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t, out = _time(samples, rate_hz), np.zeros(samples)
        for harmonic, level in ((1, 0.5), (2, 1.0), (4, 0.8), (6, 0.6), (8, 0.5), (12, 0.4), (16, 0.35)):
            out += level * np.sin(2 * np.pi * harmonic * frequency_hz * t + rng.uniform(0, 2 * np.pi))
        return out

    return stem


def siren(pattern: str) -> Stem:
    """Sweeps of 600-1400 Hz (wail 0.25 Hz, yelp 3.3 Hz) or two tones (587/440 Hz; Japan 960/770 Hz)."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t = _time(samples, rate_hz) + rng.uniform(0, 4)
        if pattern == "wail":
            pitch = 1000 - 400 * np.cos(2 * np.pi * 0.25 * t)
        elif pattern == "yelp":
            pitch = 1000 + 400 * (1 - 2 * (3.3 * t % 1))
        else:
            high, low, period_s = {"two_tone": (587.0, 440.0, 1.0), "two_tone_high": (960.0, 770.0, 1.3)}[pattern]
            pitch = np.where((t / period_s) % 1 < 0.5, high, low)
        phase = _phase(pitch, rate_hz)
        return np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.35 * np.sin(3 * phase)

    return stem


def traffic(kind: str) -> Stem:
    """A pass-by: rumble and tyre hiss of a car, or a motorcycle's pulse train with its falling pitch."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t = _time(samples, rate_hz)
        middle = t[-1] * rng.uniform(0.3, 0.7)
        near = 1 / (1 + ((t - middle) / 0.7) ** 2)
        noise = rng.standard_normal(samples)
        if kind == "car":
            return near * (1.5 * _band(noise, 60, 250, rate_hz) + 0.9 * _band(noise, 700, 1800, rate_hz))
        pitch = rng.uniform(75, 95) * (1 - 0.14 * np.tanh((t - middle) / 0.3))
        phase = _phase(pitch, rate_hz)
        buzz = sum(np.sin(k * phase) / k**0.4 for k in range(1, 24))
        return near * (buzz + 1.2 * _band(noise, 1500, 3500, rate_hz) * (0.5 + 0.5 * np.sin(phase)))

    return stem


# --- worship ---

# Strike note in Hz, gap in s, partials (ratio, level, decay in s): a minor-third bell; a low temple bell.
_BELLS = {
    "church_bell": (
        420.0, 0.9,
        ((0.5, 0.6, 2.0), (1, 1, 1.4), (1.2, 0.8, 1.1), (1.5, 0.5, 0.9), (2, 0.9, 0.8), (2.67, 0.5, 0.5)),
    ),
    "temple_bell": (
        145.0, 2.2, ((1, 1, 3.0), (1.02, 0.8, 3.0), (2.3, 0.5, 1.6), (3.9, 0.35, 0.8), (5.6, 0.25, 0.5)),
    ),
}  # fmt: skip


def worship(kind: str) -> Stem:
    """Struck bells (sums of decaying partials) or a muezzin (long gliding melismas on a hijaz-like scale)."""

    def bell(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        strike_hz, gap_s, partials = _BELLS[kind]
        t, pitch = _time(samples, rate_hz), strike_hz * rng.uniform(0.93, 1.07)
        grain = sum(
            level * np.sin(2 * np.pi * ratio * pitch * t) * np.exp(-t / decay) for ratio, level, decay in partials
        )
        return _pulses(
            samples,
            rate_hz,
            np.arange(rng.uniform(0, 0.3), samples / rate_hz, gap_s),
            np.asarray(grain),
        )

    def muezzin(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t, tonic = _time(samples, rate_hz), rng.uniform(190, 230)
        scale = np.array([0, 1, 4, 5, 7, 8])
        steps = rng.integers(0, len(scale), max(2, int(t[-1] / 0.45) + 2))
        notes = scale[np.maximum.accumulate(steps // 2) + steps % 3].clip(0, 12)
        glide = np.interp(t, np.arange(len(notes)) * 0.45, notes) + 0.5 * np.sin(2 * np.pi * 5.5 * t)
        return _vowel(_phase(tonic * 2 ** (glide / 12), rate_hz), (700, 1150, 2500), rate_hz)

    return muezzin if kind == "muezzin" else bell


# --- voices ---


def _vowel(phase: Samples, formants_hz: Sequence[float], rate_hz: int) -> Samples:
    """A glottal pulse train (sawtooth) through resonances in parallel."""
    saw = (phase / np.pi) % 2 - 1
    out = np.zeros(len(saw))
    for formant, level in zip(formants_hz, (1.0, 0.7, 0.35), strict=False):
        radius = np.exp(-np.pi * 90 / rate_hz)
        poles = [1, -2 * radius * np.cos(2 * np.pi * formant / rate_hz), radius**2]
        out += level * np.asarray(lfilter([1 - radius], poles, saw))
    return out


_VOWELS = {
    "a": (750, 1250, 2500),
    "e": (450, 1950, 2550),
    "i": (290, 2250, 3000),
    "o": (470, 850, 2400),
    "u": (310, 750, 2250),
}
# class: syllables per s, base pitch in Hz, glide over a syllable and pattern of levels in semitones, vowels,
# share and band (Hz) of the consonants' hiss, alternation of long and short syllables.
_Voice = tuple[float, float, tuple[float, float], tuple[float, ...], str, float, tuple[float, float], float]
_VOICES: dict[str, _Voice] = {
    "romance": (7.0, 170, (0, 2), (0, 2, 4, 2), "aeio", 0.15, (3000, 5500), 0.0),
    "germanic": (4.2, 120, (3, -3), (0, -3), "aeu", 0.45, (4200, 7000), 0.6),
    "slavic": (5.2, 135, (0, 0), (0, 1, -2), "eoi", 0.6, (2200, 4500), 0.2),
    "uralic_baltic": (5.6, 150, (4, -4), (2, -1, -2, -3), "ieu", 0.1, (3000, 5000), 0.4),
    "afroasiatic": (5.0, 110, (0, -2), (0, 3), "aaau", 0.45, (900, 2000), 0.1),
    "indo_iranian": (6.4, 200, (-3, 3), (0, 4, -2), "aaio", 0.2, (1800, 3000), 0.1),
    "turkic_mongolic": (6.0, 140, (0, 5), (-3, -3, -3, 4), "uo", 0.2, (2500, 4000), 0.0),
    "sinitic": (4.0, 215, (7, -7), (0, 5, -5), "aiu", 0.3, (5000, 7500), 0.0),
    "japonic_koreanic": (8.0, 240, (0, 0), (0, 0, 0, 0, 4), "aiueo", 0.12, (4500, 7000), 0.0),
    "mainland_southeast_asian": (4.8, 250, (-6, 6), (-4, 4, 0, 7), "aeo", 0.08, (3500, 5000), 0.0),
    "austronesian": (5.8, 185, (1, -1), (3, 1, -1, -3), "aaiu", 0.05, (2500, 4000), 0.0),
    "niger_congo": (5.5, 155, (0, 0), (6, 0, 5, -1, 4, -2), "aeou", 0.06, (1200, 2200), 0.0),
}  # fmt: skip


def voice(kind: str) -> Stem:
    """Syllables of one class: rate, pitch contour, tone pattern, vowel set and hiss of consonants."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        per_s, pitch_hz, contour, tones, vowels, hiss, hiss_band, alternation = _VOICES[kind]
        pitch_hz = pitch_hz * rng.uniform(0.92, 1.08)
        out, at, index = np.zeros(samples), int(rng.uniform(0, 0.1) * rate_hz), 0
        noise = _band(rng.standard_normal(samples), *hiss_band, rate_hz)
        noise /= np.sqrt(np.mean(noise**2)) + 1e-9
        while at < samples:
            longer = 1 + alternation * (1 if index % 2 == 0 else -0.7)
            length = int(rate_hz / per_s * longer * rng.uniform(0.92, 1.08))
            t = np.arange(min(length, samples - at)) / max(length, 1)
            semitones = tones[index % len(tones)] + np.interp(t, [0, 1], contour)
            sound = _vowel(
                _phase(pitch_hz * 2 ** (semitones / 12), rate_hz),
                _VOWELS[vowels[rng.integers(len(vowels))]],
                rate_hz,
            )
            sound *= np.sin(np.pi * np.clip((t - 0.2) / 0.8, 0, 1)) ** 0.5
            sound /= np.sqrt(np.mean(sound**2)) + 1e-9
            out[at : at + len(t)] = (1 - hiss) * sound + 1.6 * hiss * noise[at : at + len(t)] * np.exp(
                -(((t - 0.12) / 0.1) ** 2)
            )
            at, index = at + length, index + 1
        return out

    return stem


# --- weather and water ---


def surf(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """Breakers: low-passed noise that swells and ebbs every few seconds, brighter at the crest."""
    t = _time(samples, rate_hz) + rng.uniform(0, 3)
    swell = (0.5 + 0.5 * np.sin(2 * np.pi * t / rng.uniform(2.4, 3.2))) ** 2
    noise = rng.standard_normal(samples)
    return (0.15 + swell) * _band(noise, 80, 700, rate_hz) * 1.5 + swell**2 * _band(noise, 700, 4000, rate_hz) * 0.8


def rain(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """Steady bright hiss with drops on top."""
    hiss = _band(rng.standard_normal(samples), 2500, 7600, rate_hz)
    drops = np.zeros(samples)
    count = int(60 * samples / rate_hz)
    drops[rng.integers(0, samples, count)] = rng.exponential(6, count)
    return hiss + _band(drops, 1500, 5000, rate_hz)


def wind(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """Gusts: deep noise with slow random swells and a whistling band."""
    level = 0.25 + _slow(samples, rate_hz, 0.8, rng) ** 2
    noise = rng.standard_normal(samples)
    return level * (_band(noise, 30, 180, rate_hz) * 2 + level * _band(noise, 350, 600, rate_hz, 4) * 0.6)


# --- animals ---


def insects(kind: str) -> Stem:
    """Crickets: bursts of three pulses at 4.6 kHz; cicadas: a rasp at 5.4-7 kHz modulated at 90 Hz."""

    def cricket(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t = _time(samples, rate_hz)
        chirps_hz = rng.uniform(2.0, 3.2)
        within = (chirps_hz * t) % 1 / chirps_hz
        gate = (within < 0.12) * np.sin(np.pi * (within / 0.04 % 1)) ** 2
        return gate * np.sin(2 * np.pi * rng.uniform(4450, 4750) * t)

    def cicada(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t = _time(samples, rate_hz)
        rasp = _band(rng.standard_normal(samples), 5400, 7000, rate_hz, 3)
        return (
            rasp
            * (0.6 + 0.4 * np.sin(2 * np.pi * 90 * t))
            * (0.6 + 0.4 * np.sin(2 * np.pi * t * rng.uniform(0.4, 0.7)))
        )

    return cicada if kind == "cicada" else cricket


# realm: gap between phrases in s and its notes (start Hz, end Hz, length s, harmonics): the grammar of one
# made-up species per realm, after the habit of its common songsters.
_SONGS: dict[str, tuple[float, tuple[tuple[float, float, float, int], ...]]] = {
    "nearctic": (
        0.5,
        ((3600, 3600, 0.18, 1), (3000, 3000, 0.18, 1), (3000, 3000, 0.18, 1)),
    ),  # clear steps down
    "neotropical": (0.35, ((900, 2600, 0.14, 1), (2600, 900, 0.22, 1))),  # rising and falling whoops
    "palearctic": (
        0.1,
        ((4200, 5200, 0.05, 1), (5200, 3400, 0.06, 1), (3400, 4600, 0.05, 1), (4600, 3000, 0.07, 1)),
    ),
    "afrotropical": (0.25, tuple((620, 560, 0.09, 2) for _ in range(5))),  # a dove's low, even row
    "indomalayan": (0.4, ((1300, 1500, 0.2, 1), (1500, 2100, 0.3, 1))),  # a koel's rising double note
    "australasian": (
        0.2,
        ((1700, 800, 0.12, 6), (800, 1700, 0.12, 6), (2400, 700, 0.16, 6)),
    ),  # harsh, noisy laughs
}


def birds(realm: str) -> Stem:
    """Phrases of frequency-swept notes in the grammar of the realm."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        gap_s, notes = _SONGS[realm]
        shift = rng.uniform(0.93, 1.07)
        parts = []
        for start_hz, end_hz, length_s, harmonics in notes:
            n = int(length_s * rate_hz)
            phase = _phase(shift * np.linspace(start_hz, end_hz, n), rate_hz)
            tone = sum(np.sin(k * phase) / k**0.5 for k in range(1, harmonics + 1))
            parts += [np.asarray(tone) * np.hanning(n), np.zeros(int(0.03 * rate_hz))]
        phrase = np.concatenate(parts)
        period_s = len(phrase) / rate_hz + gap_s
        return _pulses(samples, rate_hz, np.arange(rng.uniform(0, 0.4), samples / rate_hz, period_s), phrase)

    return stem


def frogs(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """A chorus of croaks: pulsed tones near 1 kHz from several animals."""
    out = np.zeros(samples)
    n = int(0.16 * rate_hz)
    t = np.arange(n) / rate_hz
    for _ in range(4):
        pitch = rng.uniform(900, 1500)
        croak = np.hanning(n) * (np.sin(2 * np.pi * 55 * t) > 0) * np.sin(2 * np.pi * pitch * t)
        out += _pulses(
            samples,
            rate_hz,
            np.arange(rng.uniform(0, 0.5), samples / rate_hz, rng.uniform(0.4, 0.6)),
            croak,
        )
    return out


def stem_of(cue: str, value: str) -> Stem:
    """The synthesiser of a source: (samples, rate_hz, rng) -> that many samples of any level."""
    fixed: dict[str, Stem] = {"surf": surf, "rain": rain, "wind": wind, "frogs": frogs}
    if cue in fixed:
        return fixed[cue]
    if cue == "mains_hum":
        return mains_hum(float(value))
    makers = {
        "siren": siren,
        "voice": voice,
        "worship": worship,
        "insects": insects,
        "birds": birds,
        "traffic": traffic,
    }
    return makers[cue](value)


def mix(
    events: Sequence[tuple[str, str, float, float, float]],
    duration_s: float,
    rate_hz: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " samples"]:
    """The sound track of `events` (cue, value, onset_s, offset_s, snr_db), peak at most 0.9.

    A stem has RMS `NOISE_FLOOR * 10**(snr_db / 20)` over its span, and its own generator spawned from `rng`.
    """
    samples = round(duration_s * rate_hz)
    floor_rng, *stem_rngs = rng.spawn(1 + len(events))
    white = floor_rng.standard_normal(samples)
    floor = np.asarray(lfilter([1.0], [1.0, -0.9], white)) + 0.5 * white
    track = NOISE_FLOOR * floor / np.sqrt(np.mean(floor**2))
    ramp = round(0.03 * rate_hz)
    for (cue, value, onset_s, offset_s, snr_db), stem_rng in zip(events, stem_rngs, strict=True):
        start, stop = round(onset_s * rate_hz), min(round(offset_s * rate_hz), samples)
        stem = np.array(stem_of(cue, value)(stop - start, rate_hz, stem_rng), dtype=float)
        edge = np.hanning(2 * ramp)
        stem[:ramp] *= edge[:ramp][: len(stem)]
        stem[-ramp:] *= edge[ramp:][-len(stem) :]
        level = np.sqrt(np.mean(stem**2))
        if level > 0:
            track[start:stop] += stem * (NOISE_FLOOR * 10 ** (snr_db / 20) / level)
    peak = np.abs(track).max()
    return (track * min(1.0, 0.9 / peak)).astype(np.float32)
