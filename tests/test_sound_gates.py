"""Gates on sound: each finds what was planted, at the level that it promises, and leaves the field alone."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.clips import MediaInfo, read_audio
from avgeo.curate import planted_sounds as planted
from avgeo.curate import speech
from avgeo.curate.localisable import localisable, picture_bits, sound_bits
from avgeo.curate.music import music, tones
from avgeo.curate.signals import Signals
from avgeo.curate.sound import ClipCounter, clipped, silent
from avgeo.curate.speech import available, speech_probabilities, voiceover
from avgeo.curate.windows import windows
from avgeo.fetch import MIRROR
from avgeo.profiles import CurateSettings
from avgeo.world.soundscape import mix

HZ = 16_000
SET = CurateSettings()
INFO = MediaInfo("audio", 4.0, False, True, None, None, None, HZ, "pcm_s16le", None)
needs_network = pytest.mark.skipif(available() is not None, reason=available() or "")


def signals(samples: np.ndarray | None = None, frames: np.ndarray | None = None, share: float | None = None) -> Signals:
    times = None if frames is None else np.arange(len(frames), dtype=np.float64)
    samples = None if samples is None else samples.astype(np.float32)
    return Signals(INFO, samples, frames, times, share, 4.0, 0.0, 0)


def noise(seconds: float, seed: int = 0, power: float = 1.0, level: float = 0.05) -> np.ndarray:
    """Gaussian noise whose spectrum falls as 1 / f**power."""
    count = round(seconds * HZ)
    frequency = np.maximum(np.fft.rfftfreq(count), 1 / count)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count)) * frequency ** (-power / 2)
    out = np.fft.irfft(spectrum, count)
    return (level * out / out.std()).astype(np.float32)


def scene(seed: int, seconds: float = 4.0) -> np.ndarray:
    """A street or a wood of AVG-Sim."""
    street = (("traffic", "car", 0.0, seconds, 18.0), ("worship", "church_bell", 0.2, seconds, 14.0))
    wood = (("birds", "palearctic_forest", 0.0, seconds, 20.0), ("wind", "gusts", 0.0, seconds, 15.0))
    return mix((street, wood)[seed % 2], seconds, HZ, np.random.default_rng(seed))


@cache
def field(folder: str, most: int) -> list[np.ndarray]:
    """Real sounds, evenly chosen from one folder of the mirror, which holds more than `data/sources.csv` names."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        pytest.skip(f"{MIRROR} names no folder of real files")
    found = sorted(path for path in (Path(mirror) / folder).rglob("*") if path.suffix in (".ogg", ".mp3"))
    if not found:
        pytest.skip(f"{MIRROR}={mirror} has no {folder}")
    return [read_audio(path, HZ, 60.0) for path in found[:: max(1, len(found) // most)]]


# --- silent ---


def test_silence_is_named_with_its_level() -> None:
    verdict = silent(signals(noise(2, level=1e-4)), SET)
    assert verdict.reason == "its sound is silent: -80 dBFS is below -70 dBFS"
    assert silent(signals(noise(2, level=1e-3)), SET).reason is None
    assert silent(signals(np.zeros(HZ)), SET).measured == {"level_dbfs": -120.0, "silent_share": 1.0}
    assert silent(signals(), SET).skipped == "has no sound"
    assert silent(signals(np.zeros(0)), SET).reason is not None


def test_a_click_in_an_empty_track_is_silence_and_a_pause_is_not() -> None:
    track = np.zeros(10 * HZ)
    track[: HZ // 2] = noise(0.5)
    verdict = silent(signals(track), SET)
    assert "95% of the time" in str(verdict.reason)
    track[: 2 * HZ] = noise(2)
    assert silent(signals(track), SET).reason is None


# --- clipped ---


def share(samples: np.ndarray, chunk: int = 4096) -> float:
    counter = ClipCounter()
    samples = np.atleast_2d(samples).astype(np.float32)
    for start in range(0, samples.shape[1], chunk):
        counter.update(samples[:, start : start + chunk])
    found = counter.share
    assert found is not None
    return found


def pcm(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767) / 32768


def overdriven(seed: int, part: float, count: int = 3 * 48_000) -> np.ndarray:
    """Noise of less than 3 kHz at 48 kHz, of which a known part lies at the limit, 1."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    spectrum[round(3000 / 48_000 * count) :] = 0
    wave = np.fft.irfft(spectrum, count)
    return np.clip(wave / np.quantile(np.abs(wave), 1 - part), -1, 1)


@pytest.mark.parametrize("gain", [1.0, 0.3])
@pytest.mark.parametrize("part", [0.03, 0.1, 0.3])
def test_flat_tops_are_counted_at_any_level(part: float, gain: float) -> None:
    assert share(pcm(gain * overdriven(1, part))) == pytest.approx(part, rel=0.1)


def test_only_one_channel_or_one_polarity() -> None:
    hot, calm = pcm(0.3 * overdriven(1, 0.2)), pcm(0.9 * noise(9, level=0.05))
    assert share(np.stack([hot, calm[: len(hot)]])) == pytest.approx(0.1, rel=0.15)
    assert share(np.maximum(hot, -0.2)) > 0.08


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3000), st.floats(0.05, 1.0))
def test_chunks_do_not_matter(seed: int, chunk: int, gain: float) -> None:
    wave = pcm(gain * overdriven(seed, 0.05, 4000)).reshape(2, 2000)
    assert share(wave, chunk) == share(wave, 2000)


@pytest.mark.parametrize("hz", [50, 100, 440, 480, 1000, 3000])
@pytest.mark.parametrize("gain", [0.98, 0.5, 0.1])
def test_tones_noise_and_quiet_sounds_are_not_clipped(hz: int, gain: float) -> None:
    tone = gain * np.sin(2 * np.pi * hz * np.arange(48_000) / 48_000 + 0.3)
    assert share(pcm(tone)) < SET.clipped_share
    assert share(tone) == 0
    loud = noise(2, hz, level=0.2)
    assert share(pcm(gain * loud / np.abs(loud).max())) < 0.001
    assert share(np.round(8 * noise(1, hz, level=1.0)) / 32768) == 0  # a few bits of hiss
    assert share(np.zeros(4000)) == 0


def test_a_buzzer_is_not_clipped_but_full_scale_always_is() -> None:
    square = np.sign(np.sin(2 * np.pi * 200 * np.arange(48_000) / 48_000 + 0.1))
    assert share(0.5 * square) == 0
    assert share(1.4 * square) > 0.9
    assert ClipCounter().share is None


def coded(samples: np.ndarray, codec: str, container: str) -> np.ndarray:
    """48 kHz mono through a lossy codec at 96 kbit/s, as floats."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=48_000, layout="mono")
        stream.bit_rate = 96_000
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        cut = av.AudioResampler(format="fltp", layout="mono", rate=48_000, frame_size=1152 if codec != "aac" else 1024)
        for piece in [*cut.resample(frame), *cut.resample(None), None]:
            out.mux(stream.encode(piece))
    file.seek(0)
    with av.open(file) as container_in:
        return np.concatenate([frame.to_ndarray() for frame in container_in.decode(audio=0)], axis=1)


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("libmp3lame", "mp3")])
def test_heavy_clipping_shows_through_lossy_coding(codec: str, container: str) -> None:
    assert share(coded(overdriven(2, 0.15), codec, container)) > SET.clipped_share
    assert share(coded(0.98 * noise(3, level=0.2), codec, container)) < 0.001


def test_the_gate_says_how_much_is_clipped() -> None:
    assert "3.0%" in str(clipped(signals(share=0.03), SET).reason)
    assert clipped(signals(share=0.01), SET).reason is None
    assert clipped(signals(), SET).skipped == "has no sound"


# --- voice-over ---


@needs_network
def test_probabilities_are_those_of_the_packages_own_model() -> None:
    torch = pytest.importorskip("torch")
    from silero_vad import load_silero_vad

    sound = np.concatenate([planted.speech(2.0, np.random.default_rng(0)), noise(1.03)])
    with torch.no_grad():
        expected = load_silero_vad().audio_forward(torch.from_numpy(sound)[None], HZ)[0].numpy()
    for at_once in (7, 1000):
        found = np.concatenate(list(speech_probabilities(sound, at_once)))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.max() > 0.9 and expected.min() < 0.1


@needs_network
@pytest.mark.parametrize("seed", range(6))
def test_a_voice_over_is_found_and_a_passer_by_is_not(seed: int) -> None:
    rng, street = np.random.default_rng(seed), scene(seed)
    talk = planted.speech(4.0, rng)
    assert "someone talks over it" in str(voiceover(signals(planted.over(street, talk, 35.0)), SET).reason)
    assert voiceover(signals(street), SET).reason is None
    assert voiceover(signals(planted.over(street, talk, 0.0)), SET).reason is None
    brief = np.concatenate([talk[:HZ], np.zeros(3 * HZ, np.float32)])
    assert voiceover(signals(planted.over(street, brief, 40.0)), SET).reason is None


@needs_network
def test_a_long_voice_over_may_be_softer() -> None:
    street = np.concatenate([scene(seed) for seed in range(8)])
    mixed = planted.over(street, planted.speech(32.0, np.random.default_rng(3)), 20.0)
    assert voiceover(signals(mixed), SET).reason is not None
    over_db = voiceover(signals(mixed), SET).measured["speech_over_db"]
    assert isinstance(over_db, float) and SET.voiceover_long_db < over_db < SET.voiceover_db + 10
    assert voiceover(signals(mixed), replace(SET, voiceover_long_db=over_db + 0.2)).flags == ("speech throughout",)


@needs_network
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.floats(0.05, 1.0), st.integers(8, 200))
def test_the_short_cut_is_a_bound(seed: int, least: float, steps: int) -> None:
    rng = np.random.default_rng(seed)
    energy = 10 ** rng.uniform(-8, 2, steps)
    spoken = np.zeros(steps, bool)
    spoken[rng.permutation(steps)[: rng.integers(int(np.ceil(least * steps)), steps + 1)]] = True
    assert speech._above(energy, spoken) <= speech._most_above(energy, least) + 1e-9


@needs_network
def test_short_cut_and_network_agree_on_real_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = field("esc10", 20) + field("xeno_canto", 6)
    sounds += [
        planted.over(sound, planted.speech(len(sound) / HZ + 1, np.random.default_rng(1)), 35.0) for sound in sounds
    ]
    quick = [voiceover(signals(sound), SET).reason for sound in sounds]
    monkeypatch.setattr(speech, "_most_above", lambda *_: 999.0)
    monkeypatch.setattr(speech, "_AT_ONCE", 10**6)
    assert [voiceover(signals(sound), SET).reason for sound in sounds] == quick
    assert quick[: len(quick) // 2] == [None] * (len(quick) // 2)
    assert sum(reason is not None for reason in quick) >= 0.8 * len(quick) / 2


def test_without_the_extra_the_gate_is_skipped_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech.importlib.util, "find_spec", lambda name: None)
    verdict = voiceover(signals(noise(4)), SET)
    assert verdict.reason is None
    assert "pip install 'avgeo[curate]'" in str(verdict.skipped)


# --- music ---


@pytest.mark.parametrize("style", planted.STYLES)
def test_music_is_found_alone_and_over_a_scene(style: str) -> None:
    found = [music(signals(planted.music(8.0, np.random.default_rng(seed), style)), SET).reason for seed in range(5)]
    assert all("its sound is music" in str(reason) for reason in found)
    mixed = [
        planted.over(scene(seed, 8.0), planted.music(8.0, np.random.default_rng(50 + seed), style), 10.0)
        for seed in range(5)
    ]
    assert sum(music(signals(sound), SET).reason is not None for sound in mixed) >= 4


@pytest.mark.parametrize("cue", [("siren", "wail"), ("train_horn", "uic"), ("worship", "muezzin"), ("mains_hum", "50"),
                                 ("crickets", "fast"), ("traffic", "motorcycle"), ("rooster", "crow")])  # fmt: skip
def test_tonal_and_regular_sounds_of_a_scene_are_no_music(cue: tuple[str, str]) -> None:
    for seed in range(4):
        sound = mix([(*cue, 0.0, 4.0, 22.0)], 4.0, HZ, np.random.default_rng(seed))
        assert music(signals(sound), SET).reason is None


def test_beats_without_tones_and_tones_without_beat_are_no_music() -> None:
    clicks = noise(8, level=0.001)
    clicks[:: HZ // 2] = 0.9
    assert tones(clicks)["beat"] > 0.5
    assert music(signals(clicks), SET).reason is None
    chord = sum(np.sin(2 * np.pi * hz * np.arange(8 * HZ) / HZ) for hz in (220, 277.2, 329.6))
    assert tones((0.2 * np.asarray(chord) + noise(8, level=0.001)).astype(np.float32))["tonal"] == 0
    assert music(signals(np.zeros(8 * HZ)), SET).reason is None
    assert "shorter" in str(music(signals(noise(1)), SET).skipped)


@pytest.mark.parametrize("folder", ["esc10", "xeno_canto"])
def test_real_field_sound_is_no_music(folder: str) -> None:
    for sound in field(folder, 40):
        assert music(signals(sound), SET).reason is None


# --- localisable ---


def frames(image: np.ndarray, grain: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(image[None, ..., None] + grain * rng.standard_normal((4, *image.shape, 3)), 0, 255).astype(np.uint8)


ROWS, COLUMNS = np.mgrid[:240, :320]
CAP = np.full((240, 320), 8.0)
WALL = 190 - 70 * ((COLUMNS - 160.0) ** 2 + (ROWS - 120.0) ** 2) / 40_000
VIEW = np.where(ROWS < 100, 200.0, 90.0) + 60 * ((COLUMNS // 37 + ROWS // 23) % 3 == 0)


@pytest.mark.parametrize("grain", [0.0, 5.0, 20.0])
def test_a_picture_is_judged_by_structure_not_by_noise_or_shade(grain: float) -> None:
    assert picture_bits(frames(CAP, grain)) < SET.picture_bits / 2
    assert picture_bits(frames(WALL, grain)) < SET.picture_bits / 2
    assert picture_bits(frames(VIEW, grain)) > 2 * SET.picture_bits


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seconds", [4.0, 30.0])
def test_stationary_noise_has_no_bits(power: float, seconds: float) -> None:
    found = [sound_bits(noise(seconds, seed, power)) for seed in range(8)]
    assert max(bits for bits in found if bits is not None) < SET.sound_bits
    hum = sum(np.sin(2 * np.pi * 50 * k * np.arange(round(seconds * HZ)) / HZ) / k for k in range(1, 12))
    humming = sound_bits((0.05 * np.asarray(hum) + 0.2 * noise(seconds)).astype(np.float32))
    assert humming is not None and humming < SET.sound_bits


def test_sounding_scenes_have_bits_whatever_their_level() -> None:
    for gain in (1.0, 0.01):
        bits = sound_bits((gain * scene(1)).astype(np.float32))
        assert bits is not None and bits > SET.sound_bits
    assert sound_bits(noise(1)) is None
    assert sound_bits(np.zeros(4 * HZ, np.float32)) == 0


def test_one_sense_is_enough() -> None:
    hiss, birds, cap, view = noise(4, power=0), scene(1), frames(CAP, 5), frames(VIEW, 5)
    nothing = localisable(signals(hiss, cap), SET)
    assert "nothing to go by" in str(nothing.reason) and "picture" in str(nothing.reason)
    for passing in (
        signals(birds, cap),
        signals(hiss, view),
        signals(birds, view),
        signals(birds),
        signals(None, view),
    ):
        assert localisable(passing, SET).reason is None
    assert len(localisable(signals(hiss, view), SET).flags) == 1
    assert localisable(signals(hiss), SET).reason is not None
    assert localisable(signals(None, cap), SET).reason is not None
    assert localisable(signals(noise(1)), SET).skipped is not None
    assert localisable(signals(noise(1), cap), SET).reason is None


@pytest.mark.parametrize("folder", ["esc10", "xeno_canto"])
def test_real_sound_alone_is_something_to_go_by(folder: str) -> None:
    for sound in field(folder, 40):
        assert localisable(signals(sound), SET).reason is None


# --- what is shared ---


@given(st.integers(0, 4000), st.integers(1, 6), st.floats(0.001, 0.05))
def test_windows_lie_evenly_and_inside(count: int, number: int, seconds: float) -> None:
    found = windows(np.arange(count, dtype=np.float32), number, seconds)
    assert len(found) in (1, number)
    if len(found) > 1:
        assert all(len(part) == round(seconds * HZ) for part in found)
        assert all(before[-1] < after[0] for before, after in pairwise(found))
        assert abs(found[0][0] - (count - 1 - found[-1][-1])) <= 2


def test_planted_sounds_are_repeatable_and_level() -> None:
    for make in (planted.speech, planted.music):
        first, again = (make(3.0, np.random.default_rng(7)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert len(first) == 3 * HZ and first.dtype == np.float32
        assert np.sqrt(np.mean(first**2)) == pytest.approx(0.1, rel=0.01)
    with pytest.raises(ValueError, match="choose one of band"):
        planted.music(1.0, np.random.default_rng(0), "polka")
    base = scene(0)
    mixed = planted.over(base, planted.music(4.0, np.random.default_rng(0)), 10.0)
    assert np.abs(mixed).max() <= 0.951
    assert np.sqrt(np.mean(mixed**2)) <= 1.01 * np.sqrt(np.mean(base**2))
