"""Voices: a documented formant synthesis whose rhythm, melody and vowels depend on the language; espeak-ng on request.

The formant voice is stylised, says no words and is nobody's: a glottal pulse train and hiss go through vowel
resonances that move from frame to frame (Klatt's scheme, J. Acoust. Soc. Am. 67:971, 1980, as a time-varying filter in
the short-time Fourier domain). A row of `data/language_voices.csv` gives the language's rhythm (syllable-, stress- or
mora-timed: Ramus et al., Cognition 73:265, 1999), its tone (none, pitch accent, level tones, contour tones), its
syllables per second and its vowels; an empty field, or a missing column, takes the default of the row's class. The
speaker (pitch, length of the vocal tract) is drawn alike for all languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float32, Float64
from scipy import fft

from avgeo.world.geography import WorldError, voice_rows
from avgeo.world.synthesis import TOP, Samples, Stem, clock, curve, cycles, harmonics, wander, wave

FORMANTS_HZ = {
    "i": (280, 2250, 2900), "y": (270, 1950, 2250), "ɨ": (320, 1650, 2400), "ɯ": (320, 1350, 2300),
    "u": (310, 780, 2250), "e": (400, 2050, 2600), "ø": (390, 1600, 2250), "ə": (500, 1450, 2450),
    "o": (430, 800, 2400), "ɛ": (570, 1850, 2500), "œ": (560, 1500, 2350), "ɔ": (580, 950, 2450),
    "ʌ": (630, 1200, 2450), "æ": (720, 1750, 2450), "a": (800, 1350, 2500), "ɑ": (730, 1080, 2450),
}  # fmt: skip
"""The first three resonances of a man's vowels in Hz, rounded from Peterson and Barney (1952) and Catford (1988)."""


@dataclass(frozen=True)
class Language:
    """How a language sounds to someone who does not speak it.

    `hiss` is the share of syllables that begin with a fricative, `hiss_hz` the band of these; `nasal` the share that
    begins with a nasal; the rest begins with a stop. All three are our choice, per class.
    """

    rhythm: str
    tone: str
    syllables_per_s: float
    vowels: str
    hiss: float
    hiss_hz: tuple[float, float]
    nasal: float


# Defaults per class: rates after Coupe et al., Sci. Adv. 5:eaaw2594 (2019) where it has a member, the rest our choice.
CLASSES = {
    "romance": Language("syllable", "none", 7.2, "ieɛaɔou", 0.25, (4000, 7000), 0.2),
    "germanic": Language("stress", "none", 5.5, "iyeøəɛaɔou", 0.4, (3000, 6500), 0.2),
    "slavic": Language("stress", "none", 5.8, "iɨɛaou", 0.55, (2200, 5500), 0.15),
    "uralic_baltic": Language("syllable", "none", 6.6, "iyeøæɑou", 0.15, (4000, 7000), 0.2),
    "afroasiatic": Language("stress", "none", 5.6, "iua", 0.45, (1200, 3500), 0.15),
    "indo_iranian": Language("syllable", "none", 6.5, "iueəoaɑ", 0.2, (2500, 5000), 0.25),
    "turkic_mongolic": Language("syllable", "none", 7.0, "iyɯueøaɔ", 0.2, (3000, 6000), 0.2),
    "sinitic": Language("syllable", "contour", 5.2, "iyuəɯaɔ", 0.4, (4500, 7400), 0.15),
    "japonic_koreanic": Language("mora", "pitch", 7.6, "ieaoɯ", 0.2, (3500, 7000), 0.25),
    "mainland_southeast_asian": Language("syllable", "contour", 5.0, "iɯueəoɛɔa", 0.12, (3500, 6000), 0.3),
    "austronesian": Language("syllable", "none", 6.2, "ieaou", 0.1, (3000, 6000), 0.35),
    "niger_congo": Language("mora", "level", 6.0, "ieɛaɔou", 0.12, (2500, 5000), 0.35),
}
RHYTHMS, TONES = ("syllable", "stress", "mora"), ("none", "pitch", "contour", "level")


def language_of(row: Mapping[str, str]) -> Language:
    """How a row of `data/language_voices.csv` sounds; WorldError names what it does not understand."""
    if row["voice"] not in CLASSES:
        raise WorldError(
            f"language_voices.csv: {row['language']}: class {row['voice']!r} is none of {', '.join(CLASSES)}"
        )
    given = {name: row[name] for name in ("rhythm", "tone", "vowels") if row.get(name)}
    language = replace(CLASSES[row["voice"]], **given)
    if row.get("syllables_per_s"):
        language = replace(language, syllables_per_s=float(row["syllables_per_s"]))
    for field, allowed in (("rhythm", RHYTHMS), ("tone", TONES), ("vowels", FORMANTS_HZ)):
        said = getattr(language, field)
        wrong = set(said) - set(allowed) if field == "vowels" else {said} - set(allowed)
        if wrong:
            raise WorldError(f"language_voices.csv: {row['language']}: {field}={said!r}: use only {', '.join(allowed)}")
    return language


@cache
def languages() -> dict[str, Language]:
    """CLDR language code -> how it sounds, from `data/language_voices.csv` and the defaults of its classes."""
    return {code: language_of(row) for code, row in voice_rows().items()}


# --- the vocal tract ---

_BANDWIDTHS_HZ = (70.0, 95.0, 130.0, 200.0)


def tract(
    source: Samples, formants_hz: Float32[np.ndarray, "frames 4"], hop: int, rate_hz: int,
    hiss: Float32[np.ndarray, " frames"] | None = None, hiss_hz: tuple[float, float] = (0, 0),
    rng: np.random.Generator | None = None,
) -> Samples:  # fmt: skip
    """`source` through a cascade of moving resonances, plus band-limited hiss at a level per frame.

    Frames of 2 `hop` samples under a root-Hann window are filtered in the Fourier domain by the magnitude of Klatt's
    cascade, |H(f)| = prod F**2 / sqrt((f**2 - F**2)**2 + (B f)**2), and overlap-added.
    """
    size, frames = 2 * hop, len(formants_hz)
    window = np.sin(np.pi * (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size)
    padded = np.zeros((frames + 1) * hop, np.float32)
    padded[hop : hop + len(source)] = source
    blocks = padded.reshape(-1, hop)
    spectra = fft.rfft(np.concatenate([blocks[:-1], blocks[1:]], axis=1) * window, axis=1)
    f2 = (np.arange(hop + 1, dtype=np.float32) * np.float32(rate_hz / size)) ** 2
    squared = np.ones((frames, hop + 1), np.float32)
    for number, bandwidth in enumerate(_BANDWIDTHS_HZ):
        centre2 = formants_hz[:, number, None] ** 2
        squared *= (f2 - centre2) ** 2 / centre2**2 + np.float32(bandwidth**2) * f2 / centre2**2
    spectra /= np.sqrt(squared)
    if hiss is not None and rng is not None:
        low = min(hiss_hz[0], 0.6 * TOP * rate_hz)
        band = np.sqrt(f2)
        shape = 1 / (1 + (low / np.maximum(band, 1)) ** 6 + (band / np.float32(hiss_hz[1])) ** 6)
        loud = np.flatnonzero(hiss > 0)
        drawn = rng.standard_normal((len(loud), 2 * (hop + 1)), dtype=np.float32).view(np.complex64)
        spectra[loud] += drawn * shape * hiss[loud, None] * np.float32(np.sqrt(hop))
    out = np.asarray(fft.irfft(spectra, size, axis=1)) * window
    return (out[:-1, hop:] + out[1:, :hop]).reshape(-1)[: len(source)]


def _frames(samples: int, rate_hz: int) -> tuple[int, int, Float64[np.ndarray, " frames"]]:
    """Hop (8 ms, a power of two), number of frames, and the time of each in s."""
    hop = 2 ** round(np.log2(0.008 * rate_hz))
    frames = samples // hop + 2
    return hop, frames, np.arange(frames) * hop / rate_hz


# --- speech ---


def _durations(language: Language, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Relative lengths of syllables (mean about 1), and which are strong.

    Stress timing alternates long full syllables with short reduced ones; mora timing is even but for one double mora in
    five; syllable timing is nearly even.
    """
    if language.rhythm == "stress":
        strong = np.cumsum(rng.integers(2, 4, count))
        mask = np.zeros(count, bool)
        mask[strong[strong < count]] = True
        mask[0] = True
        return np.where(mask, 1.6, 0.68) * rng.uniform(0.85, 1.15, count), mask
    if language.rhythm == "mora":
        return np.where(rng.random(count) < 0.2, 1.7, 0.83) * rng.uniform(0.97, 1.03, count), rng.random(count) < 0.2
    return rng.uniform(0.88, 1.12, count), rng.random(count) < 0.3


# Semitones at the start, middle and end of a syllable.
_CONTOURS = np.array([(5, 5, 5), (-2, 0, 4.5), (-2, -5, 0), (6, 1, -5)])
_LEVELS = np.array([(4, 4, 4), (0, 0, 0), (-4, -4, -4)])


def _melody(language: Language, within: np.ndarray, strong: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(syllables, 3) semitones; `within` runs from 0 to 1 through each phrase, along which every melody sinks."""
    sink = -4 * within[:, None] + np.zeros(3)
    if language.tone == "contour":
        return 0.4 * sink + _CONTOURS[rng.integers(4, size=len(within))]
    if language.tone == "level":
        return 0.7 * sink + _LEVELS[rng.integers(3, size=len(within))]
    if language.tone == "pitch":  # low onset, high plateau, a step down at the accent
        accent = 0.2 + 0.6 * np.repeat(rng.random(len(within)), 5)[: len(within)]
        return 0.5 * sink + np.where((within > 0.08) & (within < accent), 5.0, -1.0)[:, None]
    hats = strong[:, None] * rng.uniform(2, 4.5, (len(within), 1)) * np.array([0.4, 1.0, 0.3])
    return sink + hats


def formant_voice(language: Language) -> Stem:
    """Someone talking: syllables of consonant and vowel in phrases with breaths between them."""
    vowels = np.array([FORMANTS_HZ[vowel] for vowel in language.vowels], np.float32)

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        hop, frames, at_s = _frames(samples, rate_hz)
        base_hz, tract_scale = (rng.uniform(95, 135), 1.0) if rng.random() < 0.5 else (rng.uniform(170, 225), 1.14)
        count = int(samples / rate_hz * language.syllables_per_s * 1.3) + 8
        lengths, strong = _durations(language, count, rng)
        lengths = lengths / language.syllables_per_s
        # phrases of 6-12 syllables, a breath between them
        first = np.concatenate([[0], np.cumsum(rng.integers(6, 13, count // 6 + 1))])
        first = first[first < count]
        phrase = np.zeros(count, int)
        phrase[first[1:]] = 1
        phrase = np.cumsum(phrase)
        size = np.bincount(phrase)
        within = (np.arange(count) - first[phrase]) / np.maximum(size[phrase] - 1, 1)
        pauses = np.where(np.diff(phrase, append=phrase[-1]) > 0, rng.uniform(0.18, 0.35, count), 0.0)
        start = rng.uniform(0, min(0.05, 0.1 * samples / rate_hz)) + np.concatenate(
            [[0], np.cumsum(lengths + pauses)[:-1]]
        )

        kind = rng.random(count)
        fricative, nasal = kind < language.hiss, (kind >= language.hiss) & (kind < language.hiss + language.nasal)
        onset = np.minimum(0.4 * lengths, np.where(fricative, 0.075, 0.055))
        full = strong | (language.rhythm != "stress")
        level = np.where(full, rng.uniform(0.85, 1.0, count), 0.5)

        # voicing: closed (or murmuring) onset, vowel, soft end
        murmur = np.where(nasal, 0.3 * level, 0.02)
        times = start[:, None] + np.stack([0 * onset, 0.2 * onset, onset, 1.35 * onset, 0.85 * lengths, lengths], 1)
        voicing = np.stack([0 * level, murmur, murmur, level, 0.9 * level, 0.15 * level * (pauses == 0)], 1)
        semitones = _melody(language, within, strong, rng)
        pitch_s = start[:, None] + lengths[:, None] * np.array([0.2, 0.55, 0.95])
        # formants: from the consonant's locus to the vowel, held, and on
        target = vowels[rng.integers(len(vowels), size=count)]
        target = np.where(full[:, None], target, 0.35 * target + 0.65 * np.array(FORMANTS_HZ["ə"], np.float32))
        locus = np.stack([np.full(count, 260.0), rng.choice((900, 1750, 2200), count), np.full(count, 2500.0)], 1)
        points = np.stack([0.5 * locus + 0.5 * target, target, target], 1)
        formant_s = start[:, None] + np.stack([onset, onset + 0.25 * (lengths - onset), 0.9 * lengths], 1)
        formants = np.full((frames, 4), 3500, np.float32)
        for number in range(3):
            formants[:, number] = np.interp(at_s, formant_s.ravel(), points[:, :, number].ravel())
        # hiss: the fricative's whole onset, or the stop's burst at its end
        begin = np.where(fricative, 0.0, onset - 0.012)
        noisy = np.where(fricative, 0.5, np.where(nasal, 0.0, 0.35))
        hiss_s = start[:, None] + np.stack([begin, begin + 0.006, onset, onset + 0.008], 1)
        hiss = np.interp(at_s, hiss_s.ravel(), (noisy[:, None] * np.array([0, 1, 1, 0])).ravel()).astype(np.float32)

        hz = np.float32(base_hz) * np.exp2(curve(pitch_s.ravel(), semitones.ravel() / 12, samples, rate_hz))
        hz *= 0.99 + 0.02 * wander(samples, rate_hz, 0.04, rng)
        pulses = wave(cycles(hz, rate_hz), harmonics(float(hz.max()), rate_hz, 1.0, 60))
        pulses *= curve(times.ravel(), voicing.ravel(), samples, rate_hz)
        return tract(pulses, formants * np.float32(tract_scale), hop, rate_hz, hiss, language.hiss_hz, rng)

    return stem


def muezzin(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """A long-drawn chant through a loudspeaker: melismas on the hijaz tetrachords, vibrato, echoes."""
    hop, frames, at_s = _frames(samples, rate_hz)
    scale = np.array([0, 1, 4, 5, 7, 8, 10, 12])
    count = int(samples / rate_hz / 0.25) + 4
    # a walk on the scale that lingers: half of the notes repeat
    walk = np.abs(3 + np.cumsum(rng.choice((-1, 0, 0, 0, 1), count)))
    notes = scale[np.minimum(walk, 14 - walk).clip(0, 7)]
    starts = np.cumsum(rng.uniform(0.18, 0.5, count)) - 0.3
    glide_s = (starts[:, None] + np.array([0.0, 0.1])).ravel()
    semitones = curve(glide_s, np.concatenate([notes[:1], np.repeat(notes, 2)])[: 2 * count], samples, rate_hz)
    vibrato = 0.35 * wave(rng.uniform(5, 6) * clock(samples, rate_hz))
    hz = np.float32(rng.uniform(170, 230)) * np.exp2((semitones + vibrato) / np.float32(12))
    vowels = np.array([FORMANTS_HZ[vowel] for vowel in "aaɑoə"])[rng.integers(5, size=count)]
    formants = np.full((frames, 4), 2900, np.float32)  # the singer's formant
    for number in range(3):
        formants[:, number] = np.interp(at_s, starts, vowels[:, number])
    phrase_s, breath = rng.uniform(3, 5), 0.7 * rng.random()
    phrases = np.arange(int(samples / rate_hz / phrase_s) + 2)[:, None] - breath
    level_s = phrase_s * (phrases + np.array([0, 0.08, 0.85, 0.93])).ravel()
    level = curve(level_s, np.tile((0, 1, 0.8, 0), len(phrases)), samples, rate_hz)
    dry = tract(wave(cycles(hz, rate_hz), harmonics(float(hz.max()), rate_hz, 0.8, 40)) * level, formants, hop, rate_hz)
    wet = dry.copy()
    for delay_s, gain in ((0.13, 0.4), (0.29, 0.28), (0.47, 0.18)):
        late = round(delay_s * rate_hz)
        if late < samples:
            wet[late:] += np.float32(gain) * dry[: samples - late]
    return wet
