"""Sounds that curation must find, made to be planted: someone reading, music, and both laid over a scene.

The voice is AVG-Sim's (`avgeo.world.voices`): silero-vad hears speech in 84 to 95 % of it, whichever the language, so
no speech engine need be installed. The music is plain synthesis: chord progressions in random keys, tempi and tunings,
played by additive, plucked and frequency-modulated instruments (Chowning, J. Audio Eng. Soc. 21:526, 1973), with bass
and drums where the style has them. Same generator state, same samples.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32

from avgeo.world import stem_of

RATE_HZ = 16_000
STYLES = ("band", "piano", "pad", "club")
Sound = Float32[np.ndarray, " samples"]

_LANGUAGES = ("en", "de", "fr", "es", "ru", "ar", "hi", "zh", "ja", "sw", "id", "tr")
# Degrees of the major or minor scale on which the triads of common progressions stand.
_PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 4), (5, 3, 0, 4), (0, 3, 0, 4), (1, 4, 0, 0), (0, 6, 5, 4))
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}


def speech(seconds: float, rng: np.random.Generator, language: str | None = None) -> Sound:
    """Someone close to the microphone who reads without end, in `language` or one that is drawn. RMS -20 dBFS."""
    language = language or str(rng.choice(_LANGUAGES))
    return _at_rms(stem_of("voice", language)(round(seconds * RATE_HZ), RATE_HZ, rng))


def music(seconds: float, rng: np.random.Generator, style: str | None = None) -> Sound:
    """Instrumental music in one of `STYLES`, or in one that is drawn. RMS -20 dBFS, from the first sample on.

    Raises ValueError for an unknown style.
    """
    style = style or str(rng.choice(STYLES))
    if style not in STYLES:
        raise ValueError(f"style={style!r}: choose one of {', '.join(STYLES)}")
    beat_s = 60 / rng.uniform(70, 140) if style != "club" else 60 / rng.uniform(118, 135)
    bars = math.ceil(seconds / (4 * beat_s)) + 1
    out = np.zeros(round(bars * 4 * beat_s * RATE_HZ) + 4 * RATE_HZ, np.float32)
    scale = _SCALES[str(rng.choice(list(_SCALES)))]
    root = 48 + int(rng.integers(12)) + rng.uniform(-0.3, 0.3)  # MIDI; bands do not all tune to 440 Hz
    progression = _PROGRESSIONS[rng.integers(len(_PROGRESSIONS))]
    timbre = str(rng.choice({"band": ("pluck", "fm", "organ"), "piano": ("pluck", "fm"), "pad": ("string", "organ"),
                             "club": ("organ", "fm")}[style]))  # fmt: skip
    for bar in range(bars):
        degree = progression[bar % 4]
        chord = [root + scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4)]
        at_s = 4 * bar * beat_s
        _play_chord(out, style, timbre, chord, at_s, beat_s, rng)
        if style != "piano":
            for beat in range(4) if style != "pad" else (0,):
                length_s = 4 * beat_s if style == "pad" else 0.9 * beat_s
                _add(out, at_s + beat * beat_s, 0.9 * _note(chord[0] - 12, length_s, "bass", rng))
        if style in ("band", "piano"):
            _play_melody(out, root, scale, chord, at_s, beat_s, rng)
        if style in ("band", "club"):
            _play_drums(out, style, at_s, beat_s, rng)
    skip = int(rng.integers(round(4 * beat_s * RATE_HZ)))
    return _at_rms(out[skip : skip + round(seconds * RATE_HZ)])


def over(scene: Sound, sound: Sound, level_db: float) -> Sound:
    """`sound` laid over `scene`, its RMS `level_db` above the scene's; the mix has the scene's RMS, peak at most 0.95.

    The first `len(scene)` samples of `sound` are used, so it must be at least as long.
    """
    sound = sound[: len(scene)]
    mix = _at_rms(scene, 0.0) + _at_rms(sound, 0.0) * np.float32(10 ** (level_db / 20))
    level = float(np.sqrt(np.mean(np.square(scene), dtype=np.float64))) or 0.1
    mix = _at_rms(mix, 20 * math.log10(level))
    return mix * np.float32(min(1.0, 0.95 / max(float(np.abs(mix).max()), 1e-9)))


# --- instruments ---


def _at_rms(samples: Sound, dbfs: float = -20.0) -> Sound:
    rms = float(np.sqrt(np.mean(np.square(samples), dtype=np.float64)))
    return (samples * np.float32(10 ** (dbfs / 20) / max(rms, 1e-9))).astype(np.float32)


def _add(out: Sound, at_s: float, note: Sound) -> None:
    at = round(at_s * RATE_HZ)
    stop = min(at + len(note), len(out))
    out[at:stop] += note[: stop - at]


def _note(midi: float, length_s: float, timbre: str, rng: np.random.Generator) -> Sound:
    """One note of an instrument: partials below Nyquist under an envelope."""
    hz = 440 * 2 ** ((midi - 69) / 12)
    release_s = {"pluck": 0.25, "fm": 0.2, "string": 0.4, "organ": 0.06, "bass": 0.08}[timbre]
    t = np.arange(round((length_s + release_s) * RATE_HZ)) / RATE_HZ
    turns = 2 * np.pi * hz * t
    if timbre == "fm":  # an electric piano: carrier and modulator in unison, its index dying away
        out = np.sin(turns + 1.8 * np.exp(-3 * t) * np.sin(turns)) * np.exp(-1.5 * t)
    else:
        if timbre == "string":  # vibrato of 15 cents
            turns = turns + 2 * np.pi * hz * 0.0087 / (2 * np.pi * 5.5) * np.sin(
                2 * np.pi * 5.5 * t + rng.uniform(0, 6)
            )
        slope = {"pluck": 1.3, "string": 1.0, "organ": 1.6, "bass": 1.2}[timbre]
        damping = {"pluck": 1.2, "string": 0.0, "organ": 0.0, "bass": 1.0}[timbre]
        out = np.zeros(len(t))
        for k in range(1, min(12, int(0.45 * RATE_HZ / hz)) + 1):
            out += k**-slope * np.sin(k * turns + rng.uniform(0, 2 * np.pi)) * np.exp(-damping * k**0.7 * t)
    attack_s = {"string": 0.12, "organ": 0.02}.get(timbre, 0.005)
    shape = np.clip(t / attack_s, 0, 1) * np.clip((t[-1] - t) / release_s, 0, 1)
    return (out * shape * rng.uniform(0.8, 1.0)).astype(np.float32)


def _play_chord(
    out: Sound, style: str, timbre: str, chord: list[float], at_s: float, beat_s: float, rng: np.random.Generator
) -> None:
    if style == "piano":  # broken: one note after another in quavers
        for step in range(8):
            _add(out, at_s + step * beat_s / 2, 0.8 * _note(chord[(0, 1, 2, 1)[step % 4]], beat_s, timbre, rng))
        return
    starts = (0,) if style == "pad" else (0, 2) if style == "band" else (0.5, 1.5, 2.5, 3.5)
    length_s = {"pad": 4.0, "band": 1.9, "club": 0.4}[style] * beat_s
    for start in starts:
        for midi in chord:
            _add(out, at_s + start * beat_s, 0.45 * _note(midi + 12, length_s, timbre, rng))


def _play_melody(
    out: Sound, root: float, scale: tuple[int, ...], chord: list[float], at_s: float, beat_s: float,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    for beat in range(4):
        if rng.random() < 0.8:
            midi = chord[rng.integers(3)] if beat % 2 == 0 else root + scale[rng.integers(7)]
            _add(out, at_s + beat * beat_s, 0.6 * _note(midi + 24, rng.choice((0.5, 0.9)) * beat_s, "fm", rng))


def _play_drums(out: Sound, style: str, at_s: float, beat_s: float, rng: np.random.Generator) -> None:
    t = np.arange(round(0.25 * RATE_HZ)) / RATE_HZ
    kick = np.sin(2 * np.pi * (50 * t + 60 * (1 - np.exp(-30 * t)) / 30)) * np.exp(-14 * t)
    for beat in range(4):
        if style == "club" or beat % 2 == 0:
            _add(out, at_s + beat * beat_s, 1.4 * kick.astype(np.float32))
        if beat % 2:
            snare = rng.standard_normal(len(t)) * np.exp(-25 * t)
            _add(out, at_s + beat * beat_s, 0.35 * snare.astype(np.float32))
        for half in (0.0, 0.5):
            hat = np.diff(rng.standard_normal(len(t) + 1)) * np.exp(-70 * t)
            _add(out, at_s + (beat + half) * beat_s, 0.12 * hat.astype(np.float32))
