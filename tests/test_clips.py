"""Media in and out: round trips, odd files, damaged files, the manifest."""

from __future__ import annotations

import os
import resource
import struct
import time
import wave
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avgeo.clips import (
    ClipError,
    probe,
    read_audio,
    read_frames,
    write_clip,
)
from avgeo.manifest import ManifestError, read_manifest, write_manifest

RATE = 16_000


def tone(duration_s: float, hz: float = 440.0, rate_hz: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


def ramp_frames(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frame i is grey of level 10 + 14 i, so that a frame tells its number."""
    levels = (10 + 14 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_clip(path, ramp_frames(16), 4, tone(4.0), RATE)
    return path


def encode(path: Path, **streams: object) -> Path:
    """A file of any kind: sound=(codec, rate, layout, seconds), picture=(codec, times_s, width, height)."""
    with av.open(str(path), "w") as out:
        todo = []
        if "picture" in streams:
            codec, times_s, width, height = streams["picture"]  # type: ignore[misc]
            stream = out.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            pictures = []
            for number, time_s in enumerate(times_s):
                image = np.full((height, width, 3), 10 + 14 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
                pictures.append(frame)
            todo.append((stream, pictures))
        if "sound" in streams:
            codec, rate, layout, seconds = streams["sound"]  # type: ignore[misc]
            stream = out.add_stream(codec, rate=rate, layout=layout)
            channels = stream.codec_context.layout.nb_channels
            samples = np.repeat(tone(seconds, rate_hz=rate)[None], channels, axis=0)
            resampler = av.AudioResampler(
                stream.codec_context.format, layout, rate, frame_size=stream.codec_context.frame_size or 1024
            )
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            todo.append((stream, [*resampler.resample(frame), *resampler.resample(None)]))
        for stream, frames in todo:
            for frame in [*frames, None]:
                out.mux(stream.encode(frame))
    return path


def test_round_trip(clip: Path) -> None:
    info = probe(clip)
    assert (info.kind, info.video_codec, info.audio_codec) == ("video", "h264", "aac")
    assert (info.width, info.height, info.fps, info.sample_rate_hz) == (64, 48, 4.0, RATE)
    assert info.duration_s == pytest.approx(4.0, abs=0.05)
    sound = read_audio(clip, RATE)
    assert sound.dtype == np.float32 and sound.shape == (4 * RATE,)
    inside = slice(RATE, 3 * RATE)
    assert np.corrcoef(sound[inside], tone(4.0)[inside])[0, 1] > 0.99  # no shift by the encoder's priming samples
    frames = read_frames(clip, 4, 32, 24)
    assert frames.shape == (4, 24, 32, 3) and frames.dtype == np.uint8
    levels = frames.mean((1, 2, 3))
    assert np.allclose(levels, 10 + 14 * np.array([2, 6, 10, 14]), atol=4)  # middles of four equal parts


def test_an_impulse_stays_where_it_was(tmp_path: Path) -> None:
    audio = np.zeros(4 * RATE, np.float32)
    audio[RATE] = audio[3 * RATE] = 0.9
    write_clip(tmp_path / "c.mp4", ramp_frames(4), 1, audio, RATE)
    loudest = np.sort(np.argsort(-np.abs(read_audio(tmp_path / "c.mp4", RATE)))[:2])
    assert np.abs(loudest - [RATE, 3 * RATE]).max() <= 16


def test_writing_is_deterministic_and_atomic(clip: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "again.mp4", ramp_frames(16), 4, tone(4.0), RATE)
    assert (tmp_path / "again.mp4").read_bytes() == clip.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("frames", "audio", "says"),
    [
        (np.zeros((2, 47, 64, 3), np.uint8), tone(1), "even"),
        (np.zeros((2, 48, 64, 3), np.float32), tone(1), "uint8"),
        (np.zeros((0, 48, 64, 3), np.uint8), tone(1), "uint8"),
        (ramp_frames(2), np.array([np.nan], np.float32), "finite"),
        (ramp_frames(2), np.zeros((2, 5), np.float32), "one dimension"),
    ],
)
def test_write_clip_names_the_bad_argument(tmp_path: Path, frames: np.ndarray, audio: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write_clip(tmp_path / "c.mp4", frames, 4, audio, RATE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.wav", "pcm_s16le", 44_100, "stereo"),
        ("a.flac", "flac", 22_050, "mono"),
        ("a.mp3", "libmp3lame", 48_000, "stereo"),
        ("a.ogg", "libopus", 48_000, "stereo"),
        ("a.m4a", "aac", 48_000, "5.1"),
        ("a.mka", "ac3", 44_100, "5.1"),
    ],
)
def test_any_sound(tmp_path: Path, name: str, codec: str, rate: int, layout: str) -> None:
    path = encode(tmp_path / name, sound=(codec, rate, layout, 2.0))
    info = probe(path)
    assert (info.kind, info.has_video, info.has_audio, info.sample_rate_hz) == ("audio", False, True, rate)
    sound = read_audio(path, RATE)
    assert len(sound) == pytest.approx(2 * RATE, abs=0.08 * RATE)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    assert np.argmax(spectrum) * RATE / len(sound) == pytest.approx(440, abs=2)
    assert read_audio(path, RATE, max_s=0.5).shape == (RATE // 2,)
    with pytest.raises(ClipError, match="no picture"):
        read_frames(path, 1, 8, 8)


def test_max_s_bounds_the_work(tmp_path: Path) -> None:
    """Ten hours of sound in a sparse WAV: reading the first second must not decode them."""
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.ones(RATE * 2, np.int16).tobytes())
    with path.open("r+b") as raw:
        size = 44 + 2 * 36_000 * RATE
        raw.truncate(size)  # sparse: takes no disk
        raw.seek(4)
        raw.write((size - 8).to_bytes(4, "little"))
        raw.seek(40)
        raw.write((size - 44).to_bytes(4, "little"))
    assert probe(path).duration_s == pytest.approx(36_000, rel=1e-3)
    began = time.process_time()
    assert read_audio(path, RATE, max_s=1.0).shape == (RATE,)
    assert time.process_time() - began < 1.0  # all of it takes tens of seconds


def test_a_silent_video_and_variable_frame_rate(tmp_path: Path) -> None:
    times_s = [0.0, 0.1, 0.2, 0.3, 2.0, 3.9]
    path = encode(tmp_path / "v.mp4", picture=("libx264", times_s, 64, 48))
    info = probe(path)
    assert info.kind == "video" and not info.has_audio and info.audio_codec is None
    with pytest.raises(ClipError, match="no sound"):
        read_audio(path, RATE)
    duration_s = info.duration_s
    shown = read_frames(path, 8, 16, 12).mean((1, 2, 3))
    middles_s = (np.arange(8) + 0.5) * duration_s / 8
    expected = [10 + 14 * max(i for i, t in enumerate(times_s) if t <= m) for m in middles_s]
    assert np.allclose(shown, expected, atol=4)


def test_one_frame_and_odd_sizes(tmp_path: Path) -> None:
    path = encode(tmp_path / "one.mkv", picture=("ffv1", [0.0], 63, 47))
    assert (probe(path).width, probe(path).height) == (63, 47)
    frames = read_frames(path, 3, 31, 17)
    assert frames.shape == (3, 17, 31, 3) and (frames[0] == frames[2]).all()


def test_rotation_metadata_is_applied(tmp_path: Path) -> None:
    """A phone held upright writes sideways pictures and a track matrix: a quarter turn clockwise."""
    frames = np.zeros((2, 48, 64, 3), np.uint8)
    frames[:, :, :32] = 255  # the left half is white: upright, the top half
    path = tmp_path / "phone.mp4"
    write_clip(path, frames, 1, tone(2.0), RATE)
    data = bytearray(path.read_bytes())
    matrix_at = data.index(b"tkhd") + 44
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], dtype=">i4")
    data[matrix_at : matrix_at + 36] = quarter.tobytes()
    path.write_bytes(data)
    assert (probe(path).width, probe(path).height) == (48, 64)
    upright = read_frames(path, 1, 24, 32)[0]
    assert upright.shape == (32, 24, 3)
    assert upright[:12].min() > 200 and upright[20:].max() < 50


def test_a_photo_is_an_image(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    Image.new("RGB", (40, 20), (200, 30, 30)).save(path, quality=95)
    info = probe(path)
    assert (info.kind, info.has_video, info.duration_s, info.width, info.height) == (
        "image",
        False,
        0.0,
        40,
        20,
    )
    assert np.abs(read_frames(path, 2, 8, 8).astype(int) - [200, 30, 30]).max() < 12


def test_a_cover_is_not_a_video(tmp_path: Path) -> None:
    """An ID3 tag with a picture, as music players write it."""
    from mutagen.id3 import APIC, ID3

    path = encode(tmp_path / "song.mp3", sound=("libmp3lame", 44_100, "stereo", 1.0))
    cover = tmp_path / "c.jpg"
    Image.new("RGB", (32, 32)).save(cover)
    tags = ID3()
    tags.add(APIC(encoding=0, mime="image/jpeg", type=3, desc="", data=cover.read_bytes()))
    tags.save(path)
    info = probe(path)
    assert info.kind == "audio" and not info.has_video and info.has_audio
    with pytest.raises(ClipError, match="no picture"):
        read_frames(path, 1, 8, 8)


@pytest.mark.parametrize("read", [probe, lambda p: read_audio(p, RATE), lambda p: read_frames(p, 2, 8, 8)])
@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "text", "text.txt", "no moov"])
def test_unusable_files_give_one_line(tmp_path: Path, clip: Path, kind: str, read) -> None:
    path = tmp_path / ("notes.txt" if kind == "text.txt" else "x.mp4")
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind.startswith("text"):
        path.write_text("this is no video\n" * 50)
    elif kind == "no moov":
        data = clip.read_bytes()
        path.write_bytes(data[: data.index(b"moov") - 4] + data[data.index(b"mdat") - 4 :])
    with pytest.raises(ClipError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message


def cut(clip: Path, share: float) -> Path:
    """The clip's first `share` of media data; its index comes first (faststart), so it still opens."""
    data = clip.read_bytes()
    start = data.index(b"mdat")
    path = clip.with_name(f"cut{share}.mp4")
    path.write_bytes(data[: start + int(share * (len(data) - start))])
    return path


def test_less_than_half_is_an_error_and_most_is_not(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 48, 64, 3), dtype=np.uint8)
    path = tmp_path / "noise.mp4"
    write_clip(path, noise, 4, tone(4.0), RATE)
    for read in (lambda p: read_audio(p, RATE), lambda p: read_frames(p, 4, 8, 8)):
        with pytest.raises(ClipError, match="truncated"):
            read(cut(path, 0.2))
    kept = read_audio(cut(path, 0.85), RATE)
    assert 2 * RATE <= len(kept) < 4 * RATE
    assert read_frames(cut(path, 0.85), 4, 8, 8).shape == (4, 8, 8, 3)


def manifest() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "clip_id": ["a", "b"], "path": ["a.mp4", "b.mp4"], "latitude_deg": [1.0, -2.0],
            "longitude_deg": [3.0, 180.0], "recorded_at": [None, "2023-01-01T00:00:00+00:00"],
            "duration_s": [4.0, 5.0], "place_id": ["p", "q"], "split": ["train", "test"],
            "source": ["s", "s"],
            "url": [None, None], "licence": ["CC0-1.0"] * 2, "attribution": ["x"] * 2,
        }
    )  # fmt: skip


def test_manifest_round_trip(tmp_path: Path) -> None:
    write_manifest(manifest(), tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(read_manifest(tmp_path), read_manifest(tmp_path / "manifest.parquet"))
    assert list(read_manifest(tmp_path)["clip_id"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("latitude_deg", 91.0, "latitude_deg must lie"),
        ("longitude_deg", float("nan"), "longitude_deg is empty"),
        ("duration_s", -1.0, "duration_s must lie"),
        ("clip_id", "b", "more than once"),
        ("split", "dev", "split 'dev'"),
    ],
)
def test_manifest_errors_name_the_column(tmp_path: Path, column: str, value: object, says: str) -> None:
    table = manifest()
    table.loc[0, column] = value
    with pytest.raises(ManifestError, match=says):
        write_manifest(table, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="missing columns"):
        write_manifest(manifest().drop(columns=column), tmp_path / "m.parquet")
    assert not list(tmp_path.iterdir())


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.parquet").write_text("nonsense")
    with pytest.raises(ManifestError, match="not a Parquet"):
        read_manifest(tmp_path)


@pytest.mark.skipif("AVGEO_MIRROR" not in os.environ, reason="AVGEO_MIRROR (a folder of real media) is not set")
def test_real_media() -> None:
    mirror = Path(os.environ["AVGEO_MIRROR"])
    for path in sorted((mirror / "video").glob("*.mp4")):  # GoPro: data streams and timecode beside the picture
        info = probe(path)
        assert info.has_video and info.has_audio and info.duration_s > 3
        assert len(read_audio(path, RATE)) == pytest.approx(RATE * info.duration_s, rel=0.05)
        assert read_frames(path, 4, 64, 48).std() > 5
    for path in sorted((mirror / "xeno_canto").glob("*.mp3"))[:5]:
        assert probe(path).kind == "audio" and len(read_audio(path, RATE, max_s=3.0)) <= 3 * RATE
    with pytest.raises(ClipError):
        read_audio(mirror / "xeno_canto" / "index.csv", RATE)


@pytest.mark.parametrize("name", ["img%03d.jpg", "http:x.jpg", "concat:a.jpg", "-i.jpg", "$(x) 'y'.jpg", "a\nb.jpg"])
def test_a_name_is_only_a_name(tmp_path, name):
    """FFmpeg takes some names for patterns, addresses or lists."""
    Image.new("RGB", (64, 48), "green").save(tmp_path / name)
    info = probe(tmp_path / name)
    assert (info.kind, info.width, info.height) == ("image", 64, 48)
    assert read_frames(tmp_path / name, 1, 8, 8).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"],
)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "txt"])
def test_a_playlist_opens_nothing(tmp_path, text, suffix):
    """A file that FFmpeg would follow to another file is no medium."""
    write_clip(tmp_path / "secret.mp4", np.zeros((4, 32, 32, 3), np.uint8), 4, np.zeros(RATE, np.float32), RATE)
    (tmp_path / f"list.{suffix}").write_text(text.format(tmp_path / "secret.mp4"))
    with pytest.raises(ClipError, match="no media file"):
        probe(tmp_path / f"list.{suffix}")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ClipError, match="not a regular file"):
        probe(tmp_path / "pipe.mp4")


def test_a_picture_larger_than_memory_is_not_decoded(tmp_path):
    """A PNG of a few kilobytes that announces 1.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ClipError):
        probe(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB; decoded it would be 4.8 GB
