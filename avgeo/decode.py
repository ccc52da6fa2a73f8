"""FFmpeg's libraries, politely: open a file of unknown origin and decode it, whatever is wrong with it.

A file is opened without its name and may open nothing else: not every file called .mp4 is one.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container.input import InputContainer
from av.error import EOFError as AvEOFError
from av.error import FFmpegError
from av.stream import Disposition
from jaxtyping import Float32, UInt8

# Beyond this jump it is cheaper to seek to a keyframe than to decode everything between two wanted frames.
_SEEK_AHEAD_S = 8.0

PHOTO_BRANDS = ("heic", "heix", "mif1", "avif")
MAX_PIXELS = 1 << 27
"""Larger pictures are not decoded: a file of a few kilobytes can announce more than fits into memory."""


class ClipError(ValueError):
    """A media file that cannot be used; the message names the file and the cure."""


class _Nameless(io.BufferedReader):
    name: Any = property(lambda self: "")  # PyAV would hand it to FFmpeg


@contextlib.contextmanager
def open_media(path: str | os.PathLike[str], metadata_errors: str = "ignore") -> Iterator[InputContainer]:
    """The container of a media file; raises `ClipError` for whatever is none, without opening anything else.

    `metadata_errors` is how bytes of its tags that are not UTF-8 are decoded (as `bytes.decode`'s errors).
    """
    file = Path(path)
    if file.is_dir():
        raise ClipError(f"{file}: is a directory; give a media file")
    if not file.exists():
        raise ClipError(f"{file}: no such file; check the path")
    if not file.is_file():
        raise ClipError(f"{file}: is not a regular file; give a media file")
    if file.stat().st_size == 0:
        raise ClipError(f"{file}: is empty (0 bytes); copy the file again")
    try:
        # without its name: FFmpeg takes some for patterns (%03d), addresses (http:) or text
        data = _Nameless(io.FileIO(file), 1 << 16)
    except OSError as error:
        raise ClipError(f"{file}: cannot be opened ({one_line(error.strerror)})") from None
    options = {"protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
    try:
        container: InputContainer = av.open(
            data, "r", options=options, metadata_errors=metadata_errors, buffer_size=1 << 16
        )
    except FFmpegError as error:
        data.close()
        why = one_line(error.strerror or error)
        raise ClipError(f"{file}: no media file, or truncated ({why}); copy or convert it again") from None
    except OSError as error:
        data.close()
        raise ClipError(f"{file}: cannot be opened ({one_line(error)})") from None
    with data, container:
        for stream in container.streams.video:
            if stream.codec_context is not None and not stream.codec_context.is_open:
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container


def video_stream(container: InputContainer) -> Any | None:
    """The first stream of pictures that is not a cover, or None. (PyAV's stream classes are untyped here.)"""
    for stream in container.streams.video:
        cover = bool(stream.disposition & Disposition.attached_pic)
        if not cover and stream.codec_context is not None and stream.codec_context.width > 0:
            return stream
    return None


def audio_stream(container: InputContainer) -> Any | None:
    """The first stream of sound, or None."""
    for stream in container.streams.audio:
        if stream.codec_context is not None and stream.rate:
            return stream
    return None


def is_image(container: InputContainer) -> bool:
    """Whether the container is a still picture; HEIF and AVIF are made of the boxes of films."""
    name, brand = container.format.name, container.metadata.get("major_brand", "").strip()
    return name == "image2" or name.endswith("_pipe") or (brand in PHOTO_BRANDS and not container.streams.audio)


def stated_s(container: InputContainer, stream: Any) -> float:
    """The duration that the file's headers state for `stream`, in seconds; 0 when they state none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else 0.0


def packets(container: InputContainer, *streams: Any) -> Iterator[Any]:
    """Packets of these streams as they lie in the file, the flushing ones last; a cut file simply ends."""
    found = container.demux(*streams)
    while True:
        try:
            packet = next(found, None)
        except FFmpegError:
            return
        if packet is None:
            return
        yield packet


def decode(container: InputContainer, stream: Any) -> Iterator[Any]:
    """Decoded frames of one stream; damaged packets are skipped."""
    if not stream.codec_context.is_open:  # after a seek it is, and the type stays
        stream.thread_type = "SLICE"  # frame threads would delay the first frame and multiply memory
    for packet in packets(container, stream):
        try:
            yield from packet.decode()
        except AvEOFError:
            break
        except FFmpegError:
            continue


class Resampler:
    """Mono float chunks at the wanted rate. A stream that changes its layout gets a fresh resampler."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._now: tuple[Any, ...] | None = None
        self._inner: AudioResampler | None = None

    def take(self, frame: Any) -> list[Float32[np.ndarray, " samples"]]:
        """What `frame` adds to the sound."""
        frame.pts = None  # gaps after damaged packets would be errors to the resampler
        layout, before = (frame.format.name, frame.layout.name, frame.sample_rate), []
        if layout != self._now or self._inner is None:
            before, self._now = self.finish(), layout
            self._inner = AudioResampler(format="flt", layout="mono", rate=self.sample_rate_hz)
        return before + [part.to_ndarray()[0] for part in self._inner.resample(frame)]

    def finish(self) -> list[Float32[np.ndarray, " samples"]]:
        """What is left at the end."""
        return [] if self._inner is None else [part.to_ndarray()[0] for part in self._inner.resample(None)]


def resampled(frames: Iterator[Any], sample_rate_hz: int) -> Iterator[Float32[np.ndarray, " samples"]]:
    """The sound of `frames`, chunk by chunk."""
    resampler = Resampler(sample_rate_hz)
    for frame in frames:
        yield from resampler.take(frame)
    yield from resampler.finish()


def frames_at(container: InputContainer, stream: Any, targets: np.ndarray) -> Iterator[tuple[Any, float]]:
    """For each time in ascending `targets` (seconds) the frame on show then (the last one at or before it),
    and how far into the file pictures are known to decode, in seconds."""
    frames = decode(container, stream)
    current = following = None
    for target in targets:
        position = time_s(following if following is not None else current)
        if stream.time_base and target - position > _SEEK_AHEAD_S:
            with contextlib.suppress(FFmpegError):
                container.seek(int(target / stream.time_base), stream=stream, backward=True)
                frames, following = decode(container, stream), None
        while True:
            if following is None:
                following = next(frames, None)
            if following is None or (current is not None and time_s(following) > target):
                break
            current, following = following, None
        if current is None:
            return
        yield current, time_s(following) if following is not None else end_s(current)


def time_s(frame: Any | None) -> float:
    """When a frame is shown, seconds; 0 without one."""
    return 0.0 if frame is None or frame.time is None else float(frame.time)


def end_s(frame: Any) -> float:
    """When a frame ceases to be shown, seconds, as far as its duration is known."""
    return time_s(frame) + float((frame.duration or 0) * (frame.time_base or 0))


def upright(frame: Any, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """One frame as RGB, turned upright by its display matrix (counterclockwise degrees)."""
    quarter_turns = round(frame.rotation / 90) % 4
    if quarter_turns % 2:
        width, height = height, width
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.ascontiguousarray(np.rot90(image, quarter_turns))


def scanned_s(path: str | os.PathLike[str]) -> float:
    """Duration from packet times, for files whose headers state none (live WebM, raw streams)."""
    end = 0.0
    with open_media(path) as container, contextlib.suppress(FFmpegError):
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


def one_line(error: object) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())
