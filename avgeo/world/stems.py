"""Stems of machines, bells, weather and water: what is known of a source's physics, and random detail around it.

A stem depends on the cue's value and on place-independent random numbers alone (see `cues.py`). Where a standard or a
measurement fixes a pitch, an interval or a rate, it stands here as a number with its source; the rest is our choice.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from avgeo.world.synthesis import (
    Samples,
    Stem,
    clock,
    curve,
    cycles,
    drops,
    harmonics,
    noise,
    onsets,
    place,
    repeated,
    ring,
    scatter,
    sing,
    wander,
    wave,
)

SOUND_M_S = 343.0


# --- machines ---


def mains_hum(value: str) -> Stem:
    """Harmonics of 50 or 60 Hz: 2f leads (magnetostriction); the frequency strays by hundredths, as grids do."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        levels = np.array([0.4, 1.0, 0.25, 0.7, 0.12, 0.5, 0.08, 0.4, 0, 0.25, 0, 0.3, 0, 0.15, 0, 0.2])
        levels *= rng.uniform(0.8, 1.2, len(levels))
        hz = float(value) + rng.normal(0, 0.01)
        return wave(hz * clock(samples, rate_hz) + rng.random(), levels.tolist()) * (
            1 + 0.1 * wander(samples, rate_hz, 0.7, rng)
        )

    return stem


TWO_TONES_HZ = {"two_tone_fourth": (440.0, 585.0), "two_tone_third": (770.0, 960.0), "two_tone_sixth": (392.0, 660.0)}
"""Low and high tone: DIN 14610 (Germany), Japan's ambulances, Italy's bitonale."""
_TONE_S = {"two_tone_fourth": 0.75, "two_tone_third": 0.65, "two_tone_sixth": 0.45}


def siren(value: str) -> Stem:
    """Two alternating tones; or sweeps of 600-1400 Hz, slow (wail, 11-15 a minute) or fast (yelp, 3-3.4 a second)."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        start, t = rng.random(), clock(samples, rate_hz)
        if value in TWO_TONES_HZ:
            hz = np.take(TWO_TONES_HZ[value], (t / _TONE_S[value] + 2 * start).astype(np.int64) & 1)
        elif value == "wail":
            hz = 600 + 400 * (1 + wave(rng.uniform(0.18, 0.25) * t + start))
        else:
            hz = 1400 - 800 * ((rng.uniform(3.0, 3.4) * t + start) % 1)
        detune = np.float32(rng.uniform(0.995, 1.005))
        tone = sing(detune * hz.astype(np.float32), rate_hz, slope=1.0, most=9)
        return tone * (0.6 + 0.4 * wander(samples, rate_hz, 1.0, rng))

    return stem


CUCKOO_HZ = (1250.0, 1000.0)  # a major third down


def crossing(value: str) -> Stem:
    """Audible pedestrian signals.

    rapid_tick: 880 Hz ticks, 8-10 a second (MUTCD 4K); percussive: slow tocks, then a falling chirp and fast tocks
    (after the Australian PB/5); beeps: 4 pips a second; cuckoo: two notes a third apart.
    """

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        out = np.zeros(samples, np.float32)
        length_s = samples / rate_hz
        if value == "rapid_tick":
            starts = onsets(samples, rate_hz, 1 / rng.uniform(8, 10), rng)
            grain = ring(0.06, rate_hz, ((880, 1, 0.008), (1760, 0.5, 0.006), (2640, 0.3, 0.004)))
        elif value == "percussive":
            change_s = rng.uniform(0.2, 0.45) * length_s
            slow, fast = onsets(samples, rate_hz, 0.9, rng), onsets(samples, rate_hz, 0.125, rng)
            starts = np.concatenate([slow[slow < change_s], change_s + 0.15 + fast])
            grain = ring(0.08, rate_hz, ((500, 1, 0.012), (1000, 0.7, 0.009), (2900, 0.3, 0.003)))
            sweep = np.geomspace(3000, 500, max(8, round(0.12 * rate_hz))).astype(np.float32)
            place(out, round(change_s * rate_hz), sing(sweep, rate_hz) * np.hanning(len(sweep)).astype(np.float32), 0.8)
        elif value == "beeps":
            starts = onsets(samples, rate_hz, 0.25, rng)
            grain = _blast(rng.uniform(2000, 2400), 0.11, rate_hz, 3)
        else:
            starts = onsets(samples, rate_hz, 1.4, rng)
            first, second = (_blast(hz, length, rate_hz, 2) for hz, length in zip(CUCKOO_HZ, (0.18, 0.32), strict=True))
            grain = np.concatenate([first, np.zeros(round(0.06 * rate_hz), np.float32), second])
        for start_s in starts:
            place(out, round(start_s * rate_hz), grain)
        return out

    return stem


def _blast(hz: float, length_s: float, rate_hz: int, most: int) -> Samples:
    """A steady tone with edges of 8 ms."""
    n = max(8, round(length_s * rate_hz))
    shape = curve((0, 0.008, length_s - 0.008, length_s), (0, 1, 1, 0), n, rate_hz)
    return sing(np.full(n, hz, np.float32), rate_hz, 1.2, most) * shape


HORNS_HZ = {
    "chime": (311.1, 370.0, 415.3, 493.9, 622.3),
    "two_tone": (311.1, 370.0),
    "uic": (370.0, 660.0),
    "single": (415.3,),
}
"""Nathan K5LA (D#4 F#4 G#4 B4 D#5); British two-tone (one after the other); UIC 644 (together); one trumpet."""
# Each blast: which tones sound (-1 = all), seconds of sound, seconds of pause after it.
_BLASTS = {
    "chime": ((-1, 1.3, 0.4), (-1, 1.3, 0.4), (-1, 0.4, 0.3), (-1, 2.0, 0.8)),  # long, long, short, long
    "two_tone": ((1, 0.6, 0.02), (0, 0.8, 0.9)),
    "uic": ((-1, 1.6, 0.7),),
    "single": ((0, 0.9, 0.5),),
}


def train_horn(value: str) -> Stem:
    """Reed trumpets: bright harmonic tones, each slightly out of tune, that speak and stop softly."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        t, out = clock(samples, rate_hz), np.zeros(samples, np.float32)
        starts, at, number = [], rng.uniform(0, min(0.2, 0.1 * samples / rate_hz)), 0
        while at * rate_hz < samples:
            which, sound_s, pause_s = _BLASTS[value][number % len(_BLASTS[value])]
            starts.append((which, at, at + sound_s))
            at, number = at + sound_s + pause_s, number + 1
        for index, hz in enumerate(HORNS_HZ[value]):
            times, levels = [0.0], [0.0]
            for which, begin, end in starts:
                if which in (-1, index):
                    times += [begin, begin + 0.05, end, end + 0.12]
                    levels += [0.0, 1.0, 1.0, 0.0]
            phase = hz * rng.uniform(0.997, 1.003) * t + rng.random()
            out += wave(phase, harmonics(hz, rate_hz, 0.8, 14)) * curve(times, levels, samples, rate_hz)
        return out

    return stem


# --- traffic ---


def pass_by(
    time_s: Float64[np.ndarray, " n"], speed_m_s: float, closest_m: float
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """(emission time in s, distance in m at emission) of what is heard at `time_s`.

    The source moves on a straight line at constant speed and is at its closest, `closest_m`, at time 0. Solves
    c (t - s) = sqrt(d**2 + v**2 s**2) for the retarded time s; the heard pitch is f0 ds/dt = f0 / (1 + r'/c) with r'
    the rate at which the distance grows, so far before and after the pitches stand as (c + v) / (c - v).
    """
    c, v, d = SOUND_M_S, speed_m_s, closest_m
    gap = c**2 - v**2
    emitted = (c**2 * time_s - np.sqrt(c**2 * v**2 * time_s**2 + gap * d**2)) / gap
    return emitted, np.hypot(d, v * emitted)


def vehicle(
    samples: int, rate_hz: int, closest_s: float, speed_m_s: float, closest_m: float, firing_hz: float,
    slope: float, most: int,
) -> tuple[Samples, Samples]:  # fmt: skip
    """(engine's tone, nearness) of a vehicle that is closest at `closest_s`: true Doppler, and 1/r as d / r <= 1.

    The tone has up to `most` harmonics k**-slope of the firing frequency.
    """
    t = clock(samples, rate_hz)
    # straight lines over 5 ms: the pitch is off by less than one part in a thousand
    coarse = np.arange(-0.005, samples / rate_hz + 0.01, 0.005)
    emitted_s, distance_m = pass_by(coarse - closest_s, speed_m_s, closest_m)
    near = curve(coarse, closest_m / distance_m, samples, rate_hz)
    top_hz = firing_hz * SOUND_M_S / (SOUND_M_S - speed_m_s)
    # 1000 cycles on, the phase is positive, where truncation and rounding down agree
    phase = np.interp(t, coarse, firing_hz * emitted_s) + 1000.0
    return near * wave(phase, harmonics(top_hz, rate_hz, slope, most)), near


def traffic(value: str) -> Stem:
    """Vehicles one after another: tyres over a low engine (car), or the bright firing tone of motorcycles."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        car = value == "car"
        tones, nears = np.zeros(samples, np.float32), np.full(samples, 0.03, np.float32)
        gap_s = rng.uniform(2.8, 4.0)
        closest_s = rng.uniform(0.3, 0.7) * min(gap_s, samples / rate_hz)
        while closest_s < samples / rate_hz:
            firing_hz = rng.uniform(45, 70) if car else rng.uniform(70, 125)
            slope, most = (0.8, 8) if car else (0.5, 24)
            tone, near = vehicle(
                samples, rate_hz, closest_s, rng.uniform(10, 20), rng.uniform(6, 14), firing_hz, slope, most
            )
            tones += tone
            nears += near
            closest_s += gap_s * rng.uniform(0.8, 1.3)
        # the nearer, the brighter: air and ground take the highs of what is far
        if car:
            hiss = nears * noise(samples, rate_hz, 700, 2000, rng)
            return 0.4 * tones + nears * (noise(samples, rate_hz, 60, 250, rng) + hiss)
        return 0.6 * tones + 0.4 * nears**2 * noise(samples, rate_hz, 1500, 4000, rng)

    return stem


# --- bells ---

BELL_PARTIALS = (
    (0.5, 0.55, 3.5), (1.0, 1.0, 1.8), (1.2, 0.8, 1.3), (1.5, 0.35, 0.7), (2.0, 0.9, 0.9),
    (3.0, 0.45, 0.4), (4.0, 0.3, 0.25),
)  # fmt: skip
"""Hum, prime, tierce, quint, nominal, superquint, octave nominal: ratio to the prime, level, decay in s.

Ratios of a minor-third bell after Rossing, The Science of Percussion Instruments (2000), chapter 11."""
# A hanging temple bell: a low pair that beats slowly, and wide inharmonic partials.
_TEMPLE_PARTIALS = ((1.0, 1.0, 3.5), (1.012, 0.8, 3.5), (2.29, 0.6, 1.8), (3.92, 0.4, 0.9), (5.65, 0.25, 0.5))


def worship_bell(value: str) -> Stem:
    """A swinging church bell, about a stroke a second, or a temple bell struck with a beam every few seconds."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        if value == "church_bell":
            prime_hz, gap_s, partials = rng.uniform(300, 520), rng.uniform(0.85, 1.2), BELL_PARTIALS
        else:
            prime_hz, gap_s, partials = rng.uniform(130, 170), rng.uniform(2.6, 3.4), _TEMPLE_PARTIALS
        grain = ring(
            min(samples / rate_hz, 5.0),
            rate_hz,
            [(ratio * prime_hz, level * rng.uniform(0.8, 1.2), decay_s) for ratio, level, decay_s in partials],
        )
        return repeated(grain, samples, rate_hz, gap_s, rng, jitter=0.03, softest=0.8)

    return stem


# --- weather, water and ground ---


def surf(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """Breakers every 4-7 s: a low roar that builds up, a bright crash, and a long hiss that runs out."""
    period_s = rng.uniform(4, 7)
    waves = int(samples / rate_hz / period_s) + 2
    turns = np.arange(waves)[:, None] - rng.random()

    def swell(points: tuple[float, ...], levels: tuple[float, ...]) -> Samples:
        return curve((period_s * (turns + points)).ravel(), np.tile(levels, waves), samples, rate_hz)

    roar = swell((0, 0.35, 0.45, 0.999), (0.15, 0.8, 1.0, 0.15))
    crash = swell((0, 0.3, 0.4, 0.6, 0.999), (0.05, 0.1, 1.0, 0.4, 0.05))
    return roar * noise(samples, rate_hz, 80, 500, rng) + 0.7 * crash * noise(samples, rate_hz, 700, 5000, rng)


def rain(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """A steady bright hiss, and drops that ring at 1.5-5 kHz."""
    out = 0.5 * noise(samples, rate_hz, 1500, 7000, rng)
    count = max(4, int(rng.uniform(60, 120) * samples / rate_hz))
    levels = rng.exponential(0.8, count).clip(0, 4)
    scatter(out, rng.integers(0, samples, count), drops(rng.uniform(1500, 5000, count), levels, 0.002, rate_hz))
    return out


def thunder(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """Rolling: claps along a long channel arrive one after another, duller the later they are."""
    length_s = samples / rate_hz
    t = np.arange(0, length_s + 0.01, 0.005)
    late_s = rng.uniform(0, 0.05 * length_s) + np.concatenate(
        [[0], np.cumsum(0.1 + rng.exponential(0.45, int(6 * length_s)))]
    )
    late_s = late_s[late_s < length_s][:, None]
    after = np.maximum(t - late_s, 0)
    clap = np.minimum(after / 0.03, 1) * np.exp(-after / rng.uniform(0.25, 0.7, late_s.shape))
    loud = rng.uniform(0.4, 1.0, late_s.shape)
    rumble = curve(t, 0.04 + (loud * clap).sum(0), samples, rate_hz)
    crack = curve(t, (0.5 * loud * 0.8 ** np.arange(len(late_s))[:, None] * clap**2).sum(0), samples, rate_hz)
    return rumble * noise(samples, rate_hz, 30, 140, rng) + crack * noise(samples, rate_hz, 150, 1100, rng)


def wind(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
    """Gusts: deep noise that swells, and a whistle whose pitch rises with the gust."""
    gust = wander(samples, rate_hz, 0.8, rng)
    level = 0.2 + gust**2
    whistle_hz = rng.uniform(350, 500) * (1 + 0.4 * gust)
    # a slow random envelope on a tone is narrow-band noise
    knots = int(30 * samples / rate_hz) + 3
    flutter = curve(np.arange(knots) / 30 - 0.02, rng.standard_normal(knots), samples, rate_hz)
    roar = noise(samples, rate_hz, 30, 220, rng) + 0.25 * noise(samples, rate_hz, 250, 1200, rng)
    return level * (roar + 0.5 * level * flutter * wave(cycles(whistle_hz, rate_hz)))


def footsteps(value: str) -> Stem:
    """Heel and toe, about 1.8 steps a second: dense dull crunching of snow, or sparse bright stones of gravel."""

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        out = np.zeros(samples, np.float32)
        steps = onsets(samples, rate_hz, rng.uniform(0.5, 0.62), rng, jitter=0.04)
        count, low_hz, high_hz, decay_s = (160, 500, 1800, 0.0022) if value == "snow" else (160, 1500, 5200, 0.0018)
        # heel first, then a longer roll over the toe
        within = np.where(
            rng.random((len(steps), count)) < 0.35,
            rng.gamma(2, 0.012, (len(steps), count)),
            0.1 + rng.gamma(2.5, 0.025, (len(steps), count)),
        )
        at = ((steps[:, None] + within) * rate_hz).astype(np.int64).ravel()
        hz = rng.uniform(low_hz, high_hz, len(at)).astype(np.float32)
        levels = rng.exponential(1, len(at)).clip(0, 3) * rng.choice((-1, 1), len(at))
        scatter(out, at, drops(hz, levels, decay_s, rate_hz))
        if value == "snow":  # cold snow squeaks: the load slips in jerks
            squeak = noise(samples, rate_hz, 250, 450, rng)
            load = np.zeros(samples, np.float32)
            hump = np.hanning(max(8, round(0.26 * rate_hz))).astype(np.float32)
            for start_s in steps:
                place(load, round(start_s * rate_hz), hump)
            out += load * squeak * (1 + wave(rng.uniform(90, 130) * clock(samples, rate_hz)))
        return out

    return stem
