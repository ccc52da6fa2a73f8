"""Files that are not what they seem: cut short, misnamed, bombs, playlists, hostile names and directory entries.

Each maker returns a `Planted`: the bytes, the ending of the name, the gates that may close, and how bad it is. No bomb
is larger than a megabyte on disk.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from avgeo.curate.planted_media import RATE_HZ, Coding, Take, encoded


@dataclass(frozen=True)
class Planted:
    """A faulty file: `gates` that may close on it (none: it is to be kept)."""

    data: bytes
    suffix: str
    gates: frozenset[str]
    detail: str


Tags = Mapping[str, str]
Maker = Callable[[Take, Tags, np.random.Generator], Planted]
_UNREADABLE = frozenset({"media", "readable"})
_NOT_A_CLIP = frozenset({"media", "readable", "streams", "duration", "resolution"})


def _truncated(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    front, share = bool(rng.random() < 0.5), rng.uniform(0.10, 0.95)
    data = encoded(take, Coding(front=front), tags)
    where = "in front" if front else "at the end"
    return Planted(data[: int(share * len(data))], ".mov", frozenset({"readable"}), f"{share:.0%} left, moov {where}")


def _jpeg(take: Take) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(take.frames[0]).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _wrong_extension(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr(zipfile.ZipInfo("clip.txt"), "no clip\n" * 99)
    kinds = [
        (b"This is a note about a clip.\n" * 40, "text", _UNREADABLE),
        (b"<!doctype html><title>404 Not Found</title><p>Not here.\n" * 8, "HTML", _UNREADABLE),
        (b'{"error": "quota exceeded"}\n', "JSON", _UNREADABLE),
        (archive.getvalue(), "a ZIP archive", _UNREADABLE),
        (b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n", "PDF", _UNREADABLE),
        # A photo is a medium, but no clip: it has no sound.
        (_jpeg(take), "a JPEG", _NOT_A_CLIP),
    ]
    data, what, gates = kinds[int(rng.integers(len(kinds)))]
    return Planted(data, str(rng.choice([".mp4", ".mov", ".webm", ".m4v"])), gates, what)


def _misnamed(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    """A sound film under the wrong ending. What a file is follows from its bytes, so it is a good medium."""
    suffix = str(rng.choice([".jpg", ".txt", ".wav", ".png", ".dat", ".MP3", ""]))
    return Planted(encoded(take, Coding(), tags), suffix, frozenset(), "a QuickTime film")


def _no_duration(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    brief = RATE_HZ // 32
    match int(rng.integers(4)):
        case 0:
            gates, what = {"frozen", "duration", "readable", "streams"}, "one picture, 4 s of sound"
            data = encoded(replace(take, frames=take.frames[:1]), Coding(), tags)
        case 1:
            gates, what = {"duration", "frozen", "readable"}, "one picture, 31 ms of sound"
            data = encoded(Take(take.frames[:1], take.sound[:brief]), Coding(), tags)
        case 2:
            count = int(rng.integers(2, 4))
            gates, what = {"duration"}, f"{count} pictures, {count / 8:g} s"
            data = encoded(Take(take.frames[:count], take.sound[: count * RATE_HZ // 8]), Coding(), tags)
        case _:
            gates, what, data = {"media", "readable"}, "no bytes at all", b""
    return Planted(data, ".mov", frozenset(gates), what)


def _frame_rate(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    rates = (10_000, 60_000, 1_000_000, Fraction(1, 600), Fraction(1, 3600))
    rate = Fraction(rates[int(rng.integers(len(rates)))])
    gates = frozenset({"readable", "streams", "duration", "resolution", "frozen"})
    return Planted(encoded(take, Coding(fps=rate), tags), ".mov", gates, f"{float(rate):.6g} pictures per second")


# --- bombs ---


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache(maxsize=4)
def _png(side: int, honest: bool) -> bytes:
    """A black PNG of side² pixels at one bit each; a dishonest one has the header and nothing after it."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side if honest else 4)) + packer.flush()
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _png_chunk(b"IDAT", rows) + _png_chunk(b"IEND", b"")


def _sized(jpegs: bytes, side: int) -> bytes:
    """Every JPEG in these bytes says that it is side x side pixels (its frame header is patched)."""
    return re.sub(
        rb"(\xff\xc0\x00\x11\x08)....(?=\x03\x01)",
        lambda found: found.group(1) + struct.pack(">HH", side, side), jpegs, flags=re.DOTALL,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _flac(hours: int) -> bytes:
    """Digital silence at 8 kHz: a dozen bytes per 8 s."""
    rate = 8000
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(
            "flac", rate=rate, layout="mono", options={"compression_level": "0", "frame_size": "65535"}
        )
        stream.codec_context.format = "s16"
        stream.codec_context.open(strict=False)
        size = stream.codec_context.frame_size
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        for start in range(0, hours * 3600 * rate, size):
            frame.pts = start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def _many_samples(data: bytes) -> bytes:
    """A film whose tables of sample sizes (`stsz`, ISO/IEC 14496-12) say that there are 2^31 samples."""
    at = data.find(b"stsz")
    while at >= 0:
        data = data[: at + 12] + struct.pack(">I", 0x7FFFFFFF) + data[at + 16 :]
        at = data.find(b"stsz", at + 4)
    return data


def _bomb(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
    )
    wav = (
        b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\xdb\xff\xff\x7f"
        + bytes(4096)
    )
    big, side = int(rng.choice([12_000, 16_000, 20_000])), int(rng.choice([16_000, 65_500]))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(zipfile.ZipInfo("clip.mp4"), bytes(20 << 20), zipfile.ZIP_DEFLATED)
    sound = _NOT_A_CLIP | {"silent"}
    kinds: list[tuple[Callable[[], bytes], str, frozenset[str], str]] = [
        (lambda: _png(big, True), ".png", _NOT_A_CLIP, f"PNG of {big} x {big} pixels"),
        (lambda: _png(200_000, False), ".png", _NOT_A_CLIP, "PNG that says it has 200000 x 200000 pixels"),
        (lambda: _sized(_jpeg(take), side), ".jpg", _NOT_A_CLIP, f"JPEG that says it has {side} x {side} pixels"),
        (lambda: gif, ".gif", _NOT_A_CLIP, "GIF of 65535 x 65535 pixels"),
        (lambda: _sized(encoded(take, Coding("avi", "mjpeg", 5, "libmp3lame", 64_000, 44_100)), side), ".avi",
         frozenset({"readable", "resolution"}), f"motion JPEG that says it has {side} x {side} pixels"),
        (lambda: _flac(9), ".flac", sound, "FLAC of 9 h of silence"),
        (lambda: wav, ".wav", sound, "WAV of 4 KiB that says it has 2 GiB"),
        (lambda: archive.getvalue(), ".mp4", _UNREADABLE, "a ZIP archive of 20 MiB of zeros"),
        (lambda: gzip.compress(bytes(64 << 20), mtime=0), ".mov", _UNREADABLE, "64 MiB of zeros, gzipped"),
        (lambda: _many_samples(encoded(take, Coding(), tags)), ".mov", _NOT_A_CLIP, "QuickTime of 2^31 samples"),
    ]  # fmt: skip
    make, suffix, gates, what = kinds[int(rng.integers(len(kinds)))]
    return Planted(make(), suffix, gates, what)


# --- texts that make FFmpeg open other files ---


def _playlist(take: Take, tags: Tags, rng: np.random.Generator) -> Planted:
    target = str(rng.choice(["file:///etc/hostname", "/etc/hostname", "http://127.0.0.1:9/clip.mp4", "clip-00000.mov"]))
    texts = {
        "HLS playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n",
        "FFmpeg's concat list": f"ffconcat version 1.0\nfile '{target}'\nduration 4\n",
        "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=clip\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
               "a=rtpmap:96 H264/90000\n",
        "DASH manifest": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
                         'mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
                         '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
                         f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>\n",
        "RealMedia pointer": "rtsp://127.0.0.1:9/clip.rm\n",
        "concat address": f"concat:{target}|{target}\n",
    }  # fmt: skip
    what = str(rng.choice(sorted(texts)))
    suffix = str(rng.choice([".mp4", ".mov", ".mkv", ".m3u8", ".sdp", ".mpd"]))
    return Planted(texts[what].encode(), suffix, _UNREADABLE, f"{what} of {target}")


MAKERS: dict[str, Maker] = {
    "truncated": _truncated, "wrong extension": _wrong_extension, "misnamed": _misnamed, "bomb": _bomb,
    "no duration": _no_duration, "frame rate": _frame_rate, "playlist": _playlist,
}  # fmt: skip


# --- names ---

_NAMES = (
    "line\nbreak", "-rf", "$(rm -rf .)", "`id`", "it's \"quoted\"", "shot%03d", "img%d", "frame%2500d", "a..b",
    "\u2025\u2215passwd", "%2e%2e%2fpasswd", "\U0001f3d4\ufe0f\U0001f1f3\U0001f1f5", "\u202egpj.clip", "* ?[a]", "CON",
    "\u05e9\u05dc\u05d5\u05dd \u200f", "concat:a|b", "http:example.org", "file:clip", "<img src=x onerror=alert(1)>",
    "a;b&c|d", "tab\there", "\\server\\share", " lead and trail ", "e\u0301 and \u00e9", "\x01\x1b[31m", "#hash", "~",
    "comma,semi;colon", "@argument", "\ufeffbom", "=1+1",
)  # fmt: skip
_LONGEST = 255  # bytes in a name, on the file systems of Linux


def hostile_name(number: int, suffix: str, rng: np.random.Generator) -> str:
    """A name that shells, FFmpeg's patterns and protocols, tables or pages may stumble over; all are valid UTF-8."""
    name = str(rng.choice([*_NAMES, "long", "wide"]))
    tail = f" {number}{suffix}"
    if name == "long":
        return "n" * (_LONGEST - len(tail)) + tail
    if name == "wide":
        return "\u732b" * ((_LONGEST - len(tail)) // 3) + tail
    return name + tail


def unstorable_name(number: int, suffix: str, rng: np.random.Generator) -> str:
    """A name of bytes that are not UTF-8 (as Python's surrogates): no table and no archive can hold it."""
    stem = [b"caf\xe9", b"\xff\xfe", b"\xe3\x82", b"\xed\xa0\x80"][int(rng.integers(4))]
    return os.fsdecode(stem + f"-{number}{suffix}".encode())


# --- entries of a directory that are no files ---


def plant_entry(folder: Path, name: str, rng: np.random.Generator) -> str:
    """Make something of that name that is no file, and say what."""
    path = folder / name
    match int(rng.integers(4)):
        case 0:
            path.symlink_to(name)
            return "a link to itself"
        case 1:
            path.symlink_to(f"gone-{name}")
            return "a broken link"
        case 2 if hasattr(os, "mkfifo"):
            os.mkfifo(path)
            return "a FIFO that nobody writes"
        case _:
            path.symlink_to(os.devnull)
            return "a link to a device"
