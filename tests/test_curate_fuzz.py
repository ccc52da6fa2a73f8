"""Curation of hostile and damaged files: no crash, no hang, nothing written or opened elsewhere, none forgotten."""

from __future__ import annotations

import ctypes
import hashlib
import http.server
import io
import itertools
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avgeo.curate import CurateReport, curate, gates, journal
from avgeo.curate.candidate import Candidate
from avgeo.curate.planted import plant, score
from avgeo.curate.planted_media import RATE_HZ, Coding, Take, encoded
from avgeo.profiles import CurateSettings

SEED = 4
# noise tells of no place, and most of these pictures are noise
QUICK = CurateSettings(time_limit_s=20.0, without=("localisable",))
LIMIT_S = QUICK.time_limit_s + 60  # of one item, with the start of its process


# --- mutated media ---


def sounds(container: str, codec: str, rng: np.random.Generator) -> bytes:
    """One second of noise in a file that holds nothing else."""
    rate = 48_000 if codec == "libopus" else 44_100
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        with av.open(str(path), "w", format=container, options={"fflags": "+bitexact"}) as out:
            stream = out.add_stream(codec, rate=rate, layout="mono")
            stream.codec_context.open(strict=False)
            wanted = stream.codec_context
            noise = (0.1 * rng.standard_normal((1, rate))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            cutter = av.AudioResampler(
                format=wanted.format, layout="mono", rate=rate, frame_size=wanted.frame_size or 1024
            )
            for piece in [*cutter.resample(frame), *cutter.resample(None), None]:
                out.mux(stream.encode(piece))
        return path.read_bytes()


def originals() -> dict[str, bytes]:
    """Small sound files of every kind, by their ending."""
    rng = np.random.default_rng(SEED)
    frames = rng.integers(0, 255, (8, 48, 64, 3)).astype(np.uint8)
    take = Take(frames, (0.1 * rng.standard_normal(RATE_HZ)).astype(np.float32))
    tags = {"com.apple.quicktime.location.ISO6709": "+52.1000+004.3000/", "creation_time": "2023-05-01T10:00:00Z"}
    found = {
        ".mp4": encoded(take, Coding("mp4"), tags), ".mov": encoded(take, Coding("mov", front=False), tags),
        ".mkv": encoded(take, Coding("matroska", sound_codec="libopus", sound_rate_hz=48_000)),
        ".webm": encoded(take, Coding("webm", "libvpx", 20, "libopus", sound_rate_hz=48_000)),
        ".avi": encoded(take, Coding("avi", "mpeg4", 5, "libmp3lame", sound_rate_hz=44_100)),
        ".mp3": sounds("mp3", "libmp3lame", rng), ".ogg": sounds("ogg", "libopus", rng),
        ".flac": sounds("flac", "flac", rng), ".wav": sounds("wav", "pcm_s16le", rng),
    }  # fmt: skip
    for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP"), (".gif", "GIF")):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x8825] = {1: "N", 2: (52.0, 6.0, 0.0), 3: "E", 4: (4.0, 18.0, 0.0)}
        extra = {"exif": exif} if kind in ("JPEG", "WEBP", "PNG") else {}
        Image.fromarray(frames[0]).save(buffer, kind, **extra)
        found[suffix] = buffer.getvalue()
    return found


def _blocks(data: bytes, suffix: str, rng: np.random.Generator) -> list[bytes]:
    """The top-level boxes of a film, else some equal parts."""
    if suffix in (".mp4", ".mov"):
        parts, at = [], 0
        while at + 8 <= len(data):
            size = max(8, struct.unpack_from(">I", data, at)[0])
            parts.append(data[at : at + size])
            at += size
        return parts
    edges = [0, *sorted(rng.integers(0, len(data), 3).tolist()), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def mutated(suffix: str, data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One mutation of a file, of ten kinds; offsets favour the headers."""
    reach = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    at, end = sorted(rng.integers(0, reach, 2).tolist())
    match int(rng.integers(10)):
        case 0:
            bits = np.unpackbits(np.frombuffer(data, np.uint8))
            bits[rng.integers(0, 8 * reach, int(2 ** rng.uniform(0, 9)))] ^= 1
            return np.packbits(bits).tobytes()
        case 1:
            return data[: int(rng.integers(1, len(data)))]
        case 2:
            return data[:at] + other[min(at, len(other) // 2) :]
        case 3:
            return data[:at] + bytes(end - at) + data[end:]
        case 4:
            parts = _blocks(data, suffix, rng)
            return b"".join(parts[i] for i in rng.permutation(len(parts)))
        case 5:
            head = data[: int(rng.integers(8, 512))]
            return head * int(rng.integers(2, 9)) + data
        case 6:
            return data[:at] + rng.bytes(int(rng.integers(1, 4096))) + data[at:]
        case 7:
            return data[:at] + data[end:]
        case 8:  # a length, a count or a size becomes extreme
            extremes = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\xff\xff\xff\x7f")
            for _ in range(int(rng.integers(1, 9))):
                spot = int(rng.integers(0, max(1, reach - 4))) & ~3
                data = data[:spot] + extremes[int(rng.integers(5))] + data[spot + 4 :]
            return data
        case _:
            return rng.bytes(int(2 ** rng.uniform(0, 14)))


def fill(folder: Path, count: int) -> None:
    """`count` mutated files, and a table that gives each a place."""
    folder.mkdir()
    rng = np.random.default_rng((SEED, 1))
    media = originals()
    suffixes = sorted(media)
    lines = ["file_name,latitude,longitude"]
    for number in range(count):
        suffix, other = suffixes[number % len(suffixes)], suffixes[int(rng.integers(len(suffixes)))]
        name = f"m{number:03d}{suffix}"
        (folder / name).write_bytes(mutated(suffix, media[suffix], media[other], rng))
        lines.append(f"{name},52.1,4.3")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def listing(folder: Path, without: Path) -> dict[str, str]:
    """Every entry below a folder but those below `without`, with a digest of each file."""
    found = {}
    for root, _, files in os.walk(folder):
        if Path(root).is_relative_to(without):
            continue
        found[root] = "folder"
        for name in files:
            path = Path(root, name)
            regular = path.is_file() and not path.is_symlink()
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if regular else "other"
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the working directory and holds the one for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def accounted(report: CurateReport, source: Path, names: set[str]) -> pd.DataFrame:
    """Check that each file is in the manifest or in the rejects, once; returns the rejects."""
    manifest, rejects = pd.read_parquet(report.manifest), pd.read_parquet(report.rejects)
    kept = [
        (report.manifest.parent / path).resolve().relative_to(source.resolve()).as_posix() for path in manifest["path"]
    ]
    thrown = [item for item in rejects["item"] if item in names]
    assert sorted([*kept, *thrown]) == sorted(names)
    assert (report.kept, report.rejected) == (len(manifest), len(rejects))
    assert rejects["reason"].str.len().gt(0).all() and not rejects["reason"].str.contains("\n").any()
    assert not rejects["reason"].str.contains(str(source), regex=False).any()  # no machine's paths in the tables
    return rejects


@pytest.mark.parametrize("count", [65, pytest.param(500, marks=pytest.mark.slow)])
def test_mutated_media(place: Path, count: int) -> None:
    fill(place / "source", count)
    before, began = listing(place, place / "out"), time.monotonic()
    report = curate("folder", place / "source", place / "out", QUICK, workers=2)
    assert time.monotonic() - began < 60 + count * 2  # and none of them took
    names = {path.name for path in (place / "source").iterdir()} - {"metadata.csv"}
    rejects = accounted(report, place / "source", names)
    assert listing(place, place / "out") == before
    # Hardly any mutation leaves the process no choice but to die: that would hide a defect of ours.
    assert rejects["reason"].str.contains("ended its process|takes longer").sum() <= 0.01 * count
    assert 0.05 < report.kept / len(names) < 0.95  # the mutations do harm, and not all of them fatal harm


# --- files that kill, hang or swallow ---


def hazardous(candidate: Candidate, settings: CurateSettings) -> dict:
    """The examination of an item, but for some names: what a bug in a decoder would do."""
    name = candidate.path.name if candidate.path is not None else ""
    if name.startswith("crash"):
        ctypes.string_at(0)
    if name.startswith("hang"):
        time.sleep(3600)
    if name.startswith("exit"):
        os._exit(3)
    swallows = pytest.MonkeyPatch()
    if name.startswith("swallow"):
        swallows.setattr(gates, "read_signals", lambda *_: [bytes(1 << 28) for _ in range(64)])
    try:
        return _EXAMINED(candidate, settings)
    finally:
        swallows.undo()


_EXAMINED = journal._examined


@pytest.mark.slow
def test_an_item_that_takes_its_process_along_costs_itself_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place / "source"
    source.mkdir()
    media = originals()
    for name in ("crash.mp4", "exit.mp4", "hang.mp4", "swallow.mp4", "a.mp4", "z.jpg"):
        (source / name).write_bytes(media[Path(name).suffix] + b"\0" * (name == "z.jpg"))
    monkeypatch.setattr(journal, "_examined", hazardous)
    monkeypatch.setattr(journal, "_GRACE_S", 0.0)
    began = time.monotonic()
    report = curate("folder", source, place / "out", replace(QUICK, time_limit_s=15.0), workers=2)
    assert time.monotonic() - began < 120
    rejects = accounted(report, source, {path.name for path in source.iterdir()})
    reasons = rejects.set_index("item")["reason"]
    assert "SIGSEGV" in reasons["crash.mp4"] and "15 s" in reasons["hang.mp4"] and "3" in reasons["exit.mp4"]
    assert "memory" in reasons["swallow.mp4"].lower()
    assert report.kept == 2


# --- the planted corpus: names, playlists, bombs, directory entries ---


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", asked
        running.shutdown()


def test_texts_that_name_other_files_open_nothing(place: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    source = place / "source"
    source.mkdir()
    media = originals()
    (place / "secret.mp4").write_bytes(media[".mp4"])
    blank = Take(np.zeros((25, 48, 64, 3), np.uint8), np.zeros(RATE_HZ, np.float32))
    secret = encoded(blank, Coding("mpegts", "mpeg2video", 5, "aac", fps=Fraction(25)))
    for path in (place / "secret.ts", source / "neighbour.ts"):
        path.write_bytes(secret)
    targets = [
        f"{address}clip.ts",
        str(place / "secret.ts"),
        f"file:{place}/secret.ts",
        "../secret.mp4",
        "neighbour.ts",
    ]
    for number, target in enumerate(targets):
        texts = {
            "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n",
            "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
            "concat": f"concat:{target}",
            "mpd": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
                   f'<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{target}</BaseURL>'
                   "</Representation></AdaptationSet></Period></MPD>",
            "ism": f"#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",URI=\"{target}\"\n",
        }  # fmt: skip
        for kind, text in texts.items():
            for suffix in (".mp4", ".ts", f".{kind}"):
                (source / f"{kind}-{number}{suffix}").write_text(text)
    (source / "metadata.csv").write_text(
        "file_name,latitude,longitude\n" + "".join(f"{path.name},52.1,4.3\n" for path in sorted(source.iterdir()))
    )
    (source / "good.mp4").write_bytes(media[".mp4"])
    report = curate("folder", source, place / "out", QUICK, workers=1, engine="local")
    rejects = accounted(report, source, {path.name for path in source.iterdir()} - {"metadata.csv"})
    texts_only = rejects[rejects["item"] != "neighbour.ts"]
    assert report.kept == 1 and set(texts_only["gate"]) <= {"media", "readable"}
    assert asked == []
    with av.open(str(source / "ffconcat-4.mp4")) as tempted:  # what FFmpeg does when it is not told otherwise
        assert len(tempted.streams) == 2


def test_entries_that_are_no_files(place: Path) -> None:
    source = place / "source"
    (source / "x.mp4").mkdir(parents=True)
    good = originals()[".mp4"]
    (source / "x.mp4" / "inside.mp4").write_bytes(good)
    (source / "loop.mp4").symlink_to("loop.mp4")
    (source / "around").symlink_to(source, target_is_directory=True)
    (source / "gone.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(source / "pipe.mp4")
    (source / "zero.mp4").symlink_to("/dev/zero")
    report = curate("folder", source, place / "out", QUICK, workers=1, engine="local")
    rejects = pd.read_parquet(report.rejects).set_index("item")["gate"].to_dict()
    assert rejects == dict.fromkeys(("gone.mp4", "loop.mp4", "pipe.mp4", "zero.mp4"), "media")
    assert report.kept == 1


@pytest.mark.slow
def test_planted_files_are_told_apart(place: Path) -> None:
    faults = ("hostile name", "unstorable name", "misnamed", "bomb", "playlist", "truncated", "no duration", "no file",
              "frame rate", "wrong extension")  # fmt: skip
    key = plant(place / "source", 60, SEED, 0.8, workers=1, faults=faults)
    before = listing(place, place / "out")
    settings = CurateSettings(need=("picture", "sound"), time_limit_s=60.0)
    report = curate("folder", place / "source", place / "out", settings, workers=2)
    assert listing(place, place / "out") == before
    found = score(pd.read_parquet(report.rejects), pd.read_parquet(report.manifest), key).set_index(["of", "name"])
    assert found.loc["fault", "recall"].min() == 1, found.loc["fault"].to_string()
