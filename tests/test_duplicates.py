"""Copies of picture and sound are found however they were re-encoded, cropped or cut; what is no copy is not."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from typing import Any

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from scipy.signal import resample_poly

from avgeo.curate.candidate import CurateError
from avgeo.curate.duplicates import KINDS, Pair, choose, duplicate_pairs, find_duplicates, groups, within
from avgeo.curate.fingerprint import Picture, Sound, mirror_mask, picture_hashes, sound_fingerprint, spellings
from avgeo.curate.likeness import Placement, agreement, sound_difference
from avgeo.profiles import CurateSettings

HZ = 16_000


def scene(seed: int, count: int = 3, width: int = 256, height: int = 192) -> np.ndarray:
    """Frames of one scene: blobs of several sizes, some of which move."""
    rng = np.random.default_rng(seed)
    base = np.zeros((height, width, 3))
    for size in (2, 5, 12, 30):
        base += size * gaussian_filter(rng.standard_normal(base.shape), (size, size, 0), mode="nearest")
    base = 128 + 55 * base / base.std()
    frames = [base.copy() for _ in range(count)]
    for number, frame in enumerate(frames):
        frame[20:60, 20 + 12 * number : 60 + 12 * number] = rng.uniform(0, 255, 3)
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def noise_music(seed: int, seconds: float = 6.0) -> np.ndarray:
    """A sound that changes: notes at random times and pitches over faint noise."""
    rng = np.random.default_rng(seed)
    samples = 0.005 * rng.standard_normal(int(HZ * seconds))
    for _ in range(int(8 * seconds)):
        start, length = rng.integers(0, len(samples) - 2000), int(rng.uniform(1500, 8000))
        part = samples[start : start + length]
        time_s = np.arange(len(part)) / HZ
        part += rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * rng.uniform(300, 5500) * time_s) * np.exp(-6 * time_s)
    return samples.astype(np.float32)


def signals(frames: np.ndarray | None = None, samples: np.ndarray | None = None) -> Any:
    times_s = None if frames is None else 1.5 * np.arange(len(frames))
    return SimpleNamespace(frames=frames, samples=samples, times_s=times_s)


def item(name: str, frames: np.ndarray | None = None, samples: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    seen = signals(frames, samples)
    size = (None, None) if frames is None else frames.shape[2:0:-1]
    return {
        "id": name, "sha256": name * 2, "pictures": picture_hashes(seen), "sound": sound_fingerprint(seen),
        "width": size[0], "height": size[1], "duration_s": 3.0, "original": None, **more,
    }  # fmt: skip


def jpeg(frames: np.ndarray, quality: int = 40, size: tuple[int, int] | None = None) -> np.ndarray:
    import io

    out = []
    for frame in frames:
        image, stored = Image.fromarray(np.ascontiguousarray(frame)), io.BytesIO()
        (image if size is None else image.resize(size)).save(stored, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(stored)))
    return np.stack(out)


def captioned(frames: np.ndarray) -> np.ndarray:
    out = []
    for frame in frames:
        image = Image.fromarray(frame)
        ImageDraw.Draw(image).rectangle((0, 165, 255, 191), fill="black")
        ImageDraw.Draw(image).text((60, 170), "Hello, world", fill="white")
        out.append(np.asarray(image))
    return np.stack(out)


PICTURE_COPIES = {
    "lower quality": lambda f: jpeg(f, 15),
    "smaller": lambda f: jpeg(f, 60, (120, 90)),
    "larger": lambda f: jpeg(f, 60, (400, 300)),
    "stretched": lambda f: jpeg(f, 60, (240, 240)),
    "cropped by 5 %": lambda f: jpeg(f[:, 9:-9, 13:-13]),
    "cropped by 10 to 20 %": lambda f: jpeg(f[:, 20:-38, 51:-26]),
    "captioned": captioned,
    "brighter": lambda f: np.clip(f * 0.7 + 70, 0, 255).astype(np.uint8),
    "more contrast": lambda f: np.clip((f - 128.0) * 1.5 + 120, 0, 255).astype(np.uint8),
    "mirrored": lambda f: f[:, :, ::-1],
    "one frame of it": lambda f: f[1:2],
}


@pytest.fixture(scope="module")
def haystack() -> list[dict[str, Any]]:
    return [item(f"hay-{seed:02d}", scene(seed), noise_music(seed)) for seed in range(12)]


@pytest.mark.parametrize("kind", PICTURE_COPIES)
def test_a_copied_picture_is_found(kind: str, haystack: list[dict[str, Any]]) -> None:
    copies = [item(f"copy-{seed:02d}", PICTURE_COPIES[kind](scene(seed)), noise_music(90 + seed)) for seed in range(4)]
    pairs = find_duplicates(haystack + copies)
    assert [pair[:3] for pair in pairs] == [(f"copy-{seed:02d}", f"hay-{seed:02d}", "picture") for seed in range(4)]
    assert all(("mirrored" in pair.evidence) == (kind == "mirrored") for pair in pairs)
    assert all(("cropped" in pair.evidence) == ("cropped" in kind) for pair in pairs)


def codec(samples: np.ndarray, name: str, bit_rate: int, hz: int = HZ) -> np.ndarray:
    """`samples` through a lossy codec and back."""
    import io

    import av

    stored = io.BytesIO()
    with av.open(stored, "w", format={"libmp3lame": "mp3", "aac": "mp4"}[name]) as out:
        stream: Any = out.add_stream(name, rate=hz, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = HZ, 0
        resampler = av.AudioResampler("fltp", "mono", hz, frame_size=1152 if name == "libmp3lame" else 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    stored.seek(0)
    with av.open(stored, "r") as back:
        resampler = av.AudioResampler("fltp", "mono", HZ)
        return np.concatenate([r.to_ndarray()[0] for f in back.decode(audio=0) for r in resampler.resample(f)])


SOUND_COPIES = {
    "quieter": lambda s: 0.1 * s,
    "MP3 at 32 kbit/s": lambda s: codec(s, "libmp3lame", 32_000),
    "AAC at 32 kbit/s": lambda s: codec(s, "aac", 32_000),
    "AAC at 44.1 kHz": lambda s: codec(s, "aac", 128_000, 44_100),
    "by way of 11 kHz": lambda s: resample_poly(resample_poly(s, 11, 16), 16, 11).astype(np.float32),
    "1.3 s later": lambda s: s[int(1.3 * HZ) :],
    "half as long": lambda s: s[: len(s) // 2],
    "half, late, AAC": lambda s: codec(s[int(2.517 * HZ) :], "aac", 48_000),
    "silence before": lambda s: np.concatenate([np.zeros(int(0.77 * HZ), np.float32), s]),
}


@pytest.mark.parametrize("kind", SOUND_COPIES)
def test_a_copied_sound_is_found(kind: str, haystack: list[dict[str, Any]]) -> None:
    copies = [item(f"copy-{seed:02d}", scene(90 + seed), SOUND_COPIES[kind](noise_music(seed))) for seed in range(4)]
    expected = [(f"copy-{seed:02d}", f"hay-{seed:02d}", "sound") for seed in range(4)]
    assert duplicate_pairs(haystack + copies) == expected


def test_what_shows_and_says_nothing_is_not_remembered() -> None:
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0, 255, 256)[None, None, :, None], (2, 192, 256, 3)).astype(np.uint8)
    for frames in (np.zeros((2, 96, 128, 3), np.uint8), np.full((2, 96, 128, 3), 200, np.uint8), ramp):
        assert picture_hashes(signals(frames)) == []
    time_s = np.arange(5 * HZ) / HZ
    hiss = 0.1 * rng.standard_normal(5 * HZ)
    hum = 0.1 * np.sin(2 * np.pi * 50 * time_s) + 0.05 * np.sin(2 * np.pi * 700 * time_s)
    for samples in (np.zeros(5 * HZ), hiss, hum, hum + 0.01 * hiss, noise_music(0)[: HZ // 2]):
        assert sound_fingerprint(signals(samples=samples.astype(np.float32))) is None
    assert picture_hashes(signals()) == [] and sound_fingerprint(signals()) is None


def test_one_camera_at_two_hours_is_no_duplicate() -> None:
    """The same background, and half of the view changed: that is what clips of one place look like."""
    first, second = scene(1), scene(1)
    second[:, :, 110:] = scene(2)[:, :, 110:]
    assert find_duplicates([item("a", first, noise_music(1)), item("b", second, noise_music(2))]) == []


def test_one_siren_in_two_sounds_is_no_duplicate() -> None:
    time_s = np.arange(6 * HZ) / HZ
    siren = 0.1 * np.sin(2 * np.pi * (900 * time_s + 60 * np.sin(2 * np.pi * 0.5 * time_s)))
    made = [item(f"s{seed}", None, (noise_music(seed) + siren).astype(np.float32)) for seed in range(6)]
    assert find_duplicates(made) == []


def test_hashes_are_those_of_imagehash() -> None:
    for seed in range(8):
        frame = scene(seed, 1)[0]
        picture = Picture.of(picture_hashes(signals(frame[None]))[0])
        for image, ours in ((frame, picture.whole), (frame[:, ::-1], picture.mirrored)):
            theirs = int(str(imagehash.phash(Image.fromarray(np.ascontiguousarray(image)))), 16)
            assert (ours ^ theirs).bit_count() <= 2  # we hash a smaller picture: one for all measurements


def test_a_mirror_image_turns_words_as_foretold() -> None:
    frame = scene(3, 1)
    one, two = (Picture.of(picture_hashes(signals(seen))[0]) for seen in (frame, frame[:, :, ::-1]))
    turned = spellings(one.words)[0] ^ mirror_mask()
    ours = set(zip(95 - one.x_px, one.y_px, turned, strict=True))
    theirs = set(zip(two.x_px, two.y_px, spellings(two.words)[0], strict=True))
    assert len(ours & theirs) >= 0.9 * len(theirs) > 10


def test_texts_are_compact_and_come_back() -> None:
    made = item("a", scene(5), noise_music(5))
    assert [Picture.of(text).text() for text in made["pictures"]] == made["pictures"]
    assert Sound.of(made["sound"]).text() == made["sound"]
    assert max(map(len, made["pictures"])) < 4000 and len(made["sound"]) < 500 * 6


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=14)), max_size=30),
    st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_the_index_of_hashes_equals_brute_force(hashes: list[int], near: list[Any], bits: int) -> None:
    changed = [hashes[at % len(hashes)] ^ sum(1 << bit for bit in flips) for at, flips in near if hashes]
    one, two = np.array(hashes, np.uint64), np.array(changed, np.uint64)
    i, j, differ = within(one, two, bits)
    every = {(a, b): (x ^ y).bit_count() for a, x in enumerate(hashes) for b, y in enumerate(changed)}
    assert list(zip(i, j, differ, strict=True)) == sorted((*at, n) for at, n in every.items() if n <= bits)


@given(st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_the_order_of_items_does_not_matter(shuffle: random.Random) -> None:
    items = _family()
    pairs = find_duplicates(items)
    mixed = list(items)
    shuffle.shuffle(mixed)
    assert find_duplicates(mixed) == pairs
    assert choose(mixed, shuffle.sample(pairs, len(pairs))) == choose(items, pairs)


_MADE: list[dict[str, Any]] = []


def _family() -> list[dict[str, Any]]:
    """A recording, the same bytes, a smaller copy, its sound elsewhere, another take; and a stranger."""
    if not _MADE:
        first = item("b-first", scene(0), noise_music(0), original="take-1")
        _MADE.extend([
            first, {**first, "id": "a-again"}, item("c-small", jpeg(scene(0), 40, (120, 90)), noise_music(50)),
            item("d-sound", scene(51), noise_music(0)), item("e-take", scene(52), noise_music(52), original="take-1"),
            item("f-stranger", scene(53), noise_music(53)),
        ])  # fmt: skip
    return _MADE


def test_a_group_keeps_one_and_says_why_of_the_others() -> None:
    pairs = find_duplicates(_family())
    assert [pair[:3] for pair in pairs] == [
        ("a-again", "b-first", "bytes"), ("a-again", "c-small", "picture"), ("a-again", "d-sound", "sound"),
        ("a-again", "e-take", "original"),
    ]  # fmt: skip
    assert groups(pairs) == [["a-again", "b-first", "c-small", "d-sound", "e-take"]]
    reasons = choose(_family(), pairs)
    assert list(reasons) == ["b-first", "c-small", "d-sound", "e-take"]
    assert reasons["b-first"] == "same bytes as a-again"
    assert reasons["c-small"].startswith("near-duplicate of a-again: picture (3 of 3 frames, ")
    assert reasons["d-sound"].startswith("near-duplicate of a-again: sound (0.0 % of ")
    assert reasons["e-take"] == "same original as a-again"


def test_the_largest_then_longest_is_kept() -> None:
    def made(name: str, width: int | None, duration_s: float, sha: str) -> dict[str, Any]:
        return {"id": name, "sha256": sha, "width": width, "height": width, "duration_s": duration_s}

    items = [made("a", 10, 9.0, "3"), made("b", 20, 5.0, "2"), made("c", 20, 6.0, "1"), made("d", None, 99.0, "0")]
    chain = [Pair("a", "b", "sound", "x"), Pair("b", "c", "picture", "y"), Pair("c", "d", "sound", "z")]
    assert choose(items, chain) == {
        "a": "near-duplicate of b: x (and through it of c)", "b": "near-duplicate of c: y",
        "d": "near-duplicate of c: z",
    }  # fmt: skip
    assert choose(items, []) == {} and groups([]) == []


@given(st.sets(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda ends: ends[0] < ends[1])))
def test_groups_are_connected_components(ends: set[tuple[int, int]]) -> None:
    names = [f"{number:02d}" for number in range(13)]
    pairs = [Pair(names[a], names[b], "sound", "") for a, b in ends]
    together: list[set[str]] = []
    for a, b in ends:  # by merging sets
        touched = [group for group in together if {names[a], names[b]} & group]
        together = [group for group in together if group not in touched] + [set.union({names[a], names[b]}, *touched)]
    assert groups(pairs) == sorted(sorted(group) for group in together)
    items = [{"id": name, "sha256": name} for name in names]
    assert len(choose(items, pairs)) == sum(len(group) - 1 for group in together)


def test_no_items_odd_items_and_two_of_one_name() -> None:
    assert find_duplicates([]) == []
    bare = [{"id": name, "sha256": name, "pictures": [], "sound": None} for name in "abc"]
    assert find_duplicates(bare) == []
    with pytest.raises(CurateError, match="two are called a"):
        find_duplicates([*bare, bare[0]])


def test_agreement_is_symmetric_and_finds_the_crop() -> None:
    whole = np.asarray(Image.fromarray(scene(7, 1)[0]).convert("L").resize((96, 72)), dtype=np.float32)
    part = Image.fromarray(scene(7, 1)[0][20:170, 30:230]).convert("L").resize((96, 72))
    cropped = np.asarray(part, dtype=np.float32)
    rough = Placement(1.2, -12.0, 1.2, -8.0)
    share, found = agreement(whole, cropped, rough)
    assert share > 0.9
    assert (found.x_scale, found.y_scale) == pytest.approx((256 / 200, 192 / 150), rel=0.02)
    back, inverse = agreement(cropped, whole, rough.inverse())
    assert back == pytest.approx(share)
    assert inverse.inverse().x_px == pytest.approx(found.x_px)
    stranger = np.asarray(Image.fromarray(scene(8, 1)[0]).convert("L").resize((96, 72)), dtype=np.float32)
    assert agreement(whole, stranger, Placement())[0] < 0.3
    assert agreement(whole, 255 - whole, Placement())[0] == 0


def test_difference_of_sounds_is_symmetric_and_half_for_strangers() -> None:
    one, two = (Sound.of(sound_fingerprint(signals(samples=noise_music(seed))) or "") for seed in (1, 2))
    later = Sound.of(sound_fingerprint(signals(samples=noise_music(1)[32 * 512 :])) or "")
    assert sound_difference(one, one, 0)[0] == 0
    assert sound_difference(one, later, -30)[::2] == (pytest.approx(0, abs=0.02), -32)
    assert sound_difference(later, one, 32)[1] == sound_difference(one, later, -32)[1]
    assert sound_difference(one, two, 0)[0] > 0.3
    assert sound_difference(one, two, 10_000) == (1.0, 0, 10_000)


def test_thresholds_are_obeyed() -> None:
    items = [item("a", scene(0), noise_music(0)), item("b", captioned(scene(0)), noise_music(0)[HZ:])]
    assert {pair[2] for pair in duplicate_pairs(items)} == {"picture"}
    assert duplicate_pairs(items, CurateSettings(duplicate_picture_share=1.0))[0][2] == "sound"
    assert not duplicate_pairs(items, CurateSettings(duplicate_picture_share=1.0, duplicate_sound_share=-1.0))
    assert KINDS == ("bytes", "original", "picture", "sound")


@pytest.mark.slow
def test_twenty_thousand_items_and_what_is_planted_among_them() -> None:
    """Random items and 20 planted pairs, in a time that all pairs (2e8 of them) would take many times over."""
    rng = np.random.default_rng(0)
    grey = [Picture.of(picture_hashes(signals(scene(seed, 1)))[0]).grey for seed in range(50)]

    def random_item(number: int) -> dict[str, Any]:
        pictures = []
        for _ in range(4):
            whole, mirrored = (int(value) for value in rng.integers(0, 2**63, 2))
            x_px, y_px, scale_px = rng.integers((2, 2, 2), (94, 70, 7), (48, 3)).astype(np.float32).T
            words = rng.integers(0, 2**24, 48).astype(np.uint32) | (rng.integers(0, 24, 48).astype(np.uint32) << 24)
            pictures.append(Picture(whole, mirrored, x_px, y_px, scale_px, words, grey[number % 50], 96).text())
        bits, trusted = (rng.integers(0, 2**32, 300, dtype=np.uint32) for _ in range(2))
        anchors = np.sort(rng.choice(300, 80, replace=False))
        sound = Sound(bits, trusted, anchors).text()
        return {"id": f"{number:06d}", "sha256": f"{number:06d}", "pictures": pictures, "sound": sound}

    items = [random_item(number) for number in range(20_000)]
    for number in range(10):
        items.append({**items[number], "id": f"p{number}", "sha256": f"p{number}", "sound": None})
        items.append({**items[100 + number], "id": f"s{number}", "sha256": f"s{number}", "pictures": []})
    started = time.process_time()
    found = set(duplicate_pairs(items))
    took_s = time.process_time() - started
    print(f"{took_s:.1f} s of one core for {len(items)} items")
    assert found == {(f"{number:06d}", f"p{number}", "picture") for number in range(10)} | {
        (f"{100 + number:06d}", f"s{number}", "sound") for number in range(10)
    }
    assert took_s < 600


def test_a_crowd_of_like_hashes_is_chained_not_paired_one_by_one() -> None:
    n = 2000
    rng = np.random.default_rng(0)
    near = rng.integers(0, 2**64, dtype=np.uint64) ^ (np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64))
    for hashes in (np.full(n, 5, np.uint64), near):
        i, j, differ = within(hashes, hashes, 7, np.arange(n))
        assert (i < j).all() and (differ <= 7).all()
        assert len(i) < n * 1000  # of 2 million pairs
        assert {(a, a + 1) for a in range(n - 1)} <= set(zip(i.tolist(), j.tolist(), strict=True))


@given(st.lists(st.tuples(st.integers(0, 8), st.sets(st.integers(0, 63), max_size=4)), max_size=30))
@settings(max_examples=40, deadline=None)
def test_of_owners_the_index_of_hashes_gives_each_pair_once(made: list[tuple[int, set[int]]]) -> None:
    owner = np.sort(np.array([who for who, _ in made], dtype=np.int64))
    hashes = np.array([sum(1 << bit for bit in flips) for _, flips in made], np.uint64)
    i, j, differ = within(hashes, hashes, 7)
    kept = owner[i] < owner[j]
    for ours, theirs in zip(within(hashes, hashes, 7, owner), (i, j, differ), strict=True):
        assert ours.tolist() == theirs[kept].tolist()
