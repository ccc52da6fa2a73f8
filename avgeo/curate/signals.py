"""What the gates look at and listen to: one pass through a file gives all of it.

Decoding is the dear part of curation, so a file is decoded once, from front to back, on one thread.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from jaxtyping import Float32, Float64, UInt8

from avgeo.clips import ClipError, MediaInfo
from avgeo.curate.sound import ClipCounter
from avgeo.decode import (
    Resampler,
    audio_stream,
    end_s,
    open_media,
    packets,
    stated_s,
    time_s,
    upright,
    video_stream,
)

RATE_HZ = 16_000
LONGEST_SIDE_PX = 480
FEWEST_FRAMES, MOST_FRAMES, FRAMES_PER_S = 8, 64, 1.5
_SOUND_BATCH_S = 1.0
_LENIENT_S = 0.1  # a last frame without a duration, an encoder's padding


class TooSlowError(ClipError):
    """A file that was not examined in time, perhaps for the machine's sake."""


@dataclass(frozen=True)
class Signals:
    """Sound and picture of one item, as far as they were examined.

    `samples` is the sound, mono at 16 kHz in [-1, 1], from the start for at most `examine_s`; None without a sound
    track. `frames` are upright RGB pictures in the file's aspect ratio, longest side at most 480 px, about evenly
    spaced (1 to 2 a second, 8 to 64 where there are as many), with `times_s`; one for a photo, None for sound alone.
    `clipped_share` is the share of samples, at the file's own rate and in any channel, that lie in a run at the limit
    (`sound.ClipCounter`). `sound_s` and `picture_s` say how much decoded, the `stated` ones how much the headers
    promise (None: no such stream); `damaged` counts packets that did not decode.
    """

    info: MediaInfo
    samples: Float32[np.ndarray, " samples"] | None
    frames: UInt8[np.ndarray, "frames height width 3"] | None
    times_s: Float64[np.ndarray, " frames"] | None
    clipped_share: float | None
    sound_s: float
    picture_s: float
    damaged: int
    sound_stated_s: float | None = None
    picture_stated_s: float | None = None
    container: str = ""


def read_signals(path: Path, info: MediaInfo, examine_s: float, time_limit_s: float) -> Signals:
    """Decode `path`, of which `probe` said `info`, from its start for at most `examine_s` seconds of its time.

    Raises `TooSlowError` when that takes longer than `time_limit_s`, `ClipError` when nothing decodes.
    """
    deadline = time.monotonic() + time_limit_s
    with open_media(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        takers: dict[int, _Picture | _Sound] = {}
        picture = sound = None
        if video is not None:
            video.thread_type = "SLICE"  # frame threads would use cores that are not ours
            video.codec_context.thread_count = 1
            picture = takers[video.index] = _Picture(video, info, examine_s)
        if audio is not None:
            sound = takers[audio.index] = _Sound(audio, examine_s)
        damaged = 0
        for packet in packets(container, *(stream for stream in (video, audio) if stream is not None)):
            if time.monotonic() > deadline:
                raise TooSlowError(
                    f"{path}: takes longer than {time_limit_s:g} s to examine; cut it or raise time_limit_s"
                )
            taker = takers[packet.stream.index]
            try:
                for frame in packet.decode():
                    damaged += bool(frame.is_corrupt)
                    taker.take(frame)
            except FFmpegError:
                damaged += packet.dts is not None or packet.pts is not None  # not the flushing packet at the end
            if all(taker.done for taker in takers.values()):
                break
        for taker in takers.values():
            taker.finish()
        sound_stated_s = stated_s(container, audio) if audio is not None else None
        picture_stated_s = stated_s(container, video) if video is not None else None
        name = container.format.name
    frames = np.stack(picture.frames) if picture is not None and picture.frames else None
    samples = sound.samples() if sound is not None else None
    if frames is None and samples is None:
        raise ClipError(f"{path}: neither sound nor picture decodes; copy the file again")
    return Signals(
        info=info,
        samples=samples,
        frames=frames,
        times_s=np.array(picture.times_s) if picture is not None and frames is not None else None,
        clipped_share=sound.clips.share if sound is not None else None,
        sound_s=sound.end_s if sound is not None else 0.0,
        picture_s=picture.end_s if picture is not None else 0.0,
        damaged=damaged,
        sound_stated_s=sound_stated_s,
        picture_stated_s=picture_stated_s,
        container=name,
    )


class _Picture:
    """Takes frames as they decode and keeps those on show at evenly spaced times."""

    def __init__(self, stream: Any, info: MediaInfo, examine_s: float) -> None:
        self.still = info.kind == "image"
        length_s = min(info.duration_s, examine_s)
        count = int(np.clip(length_s * FRAMES_PER_S, FEWEST_FRAMES, MOST_FRAMES))
        self.start_s = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        self.targets = [0.0] if self.still else list(self.start_s + (np.arange(count) + 0.5) * length_s / count)
        self.limit_s = self.start_s + examine_s
        self.frames: list[np.ndarray] = []
        self.times_s: list[float] = []
        self.current: Any = None
        self.end_s = 0.0
        self.done = False

    def take(self, frame: Any) -> None:
        if self.current is not None:
            self._show(self.current, time_s(frame))
        self.current = frame
        self.end_s = max(self.end_s, end_s(frame) - self.start_s)
        self.done = self.still or time_s(frame) > self.limit_s

    def finish(self) -> None:
        if self.current is not None:
            self._show(self.current, np.inf)
        self.current = None

    def _show(self, frame: Any, until_s: float) -> None:
        """Keep `frame` once if a wanted time lies before the next frame's."""
        wanted = False
        while self.targets and self.targets[0] < until_s:
            self.targets.pop(0)
            wanted = True
        if not wanted:
            return
        scale = min(1.0, LONGEST_SIDE_PX / max(frame.width, frame.height))
        width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
        if round(frame.rotation / 90) % 2:
            width, height = height, width
        picture = upright(frame, width, height)
        if not self.frames or picture.shape == self.frames[0].shape:  # a stream may change its size half-way
            self.frames.append(picture)
            self.times_s.append(time_s(frame) - self.start_s)


class _Sound:
    """Takes sound as it decodes: mono at 16 kHz for the gates, and the flat tops at the file's own rate."""

    def __init__(self, stream: Any, examine_s: float) -> None:
        self.resampler = Resampler(RATE_HZ)
        self.clips = ClipCounter()
        self.limit_s = examine_s
        self.chunks: list[np.ndarray] = []
        self.raw: list[np.ndarray] = []
        self.raw_count = 0
        self.end_s = 0.0
        self.done = False

    def take(self, frame: Any) -> None:
        if self.done or not frame.samples:
            return
        self.raw.append(_native(frame))
        self.raw_count += frame.samples
        if self.raw_count >= _SOUND_BATCH_S * frame.sample_rate:
            self._count()
        self.chunks += self.resampler.take(frame)
        self.end_s += frame.samples / frame.sample_rate
        self.done = self.end_s >= self.limit_s

    def finish(self) -> None:
        self.chunks += self.resampler.finish()
        self._count()

    def _count(self) -> None:
        if self.raw:
            self.clips.update(np.concatenate(self.raw, axis=1))
        self.raw, self.raw_count = [], 0

    def samples(self) -> Float32[np.ndarray, " samples"] | None:
        if not self.chunks:
            return None
        sound = np.concatenate(self.chunks)[: round(self.limit_s * RATE_HZ)]
        return np.clip(np.nan_to_num(sound, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)


def _native(frame: Any) -> Float32[np.ndarray, "channels samples"]:
    """The frame's samples as floats, full scale 1."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    if np.issubdtype(data.dtype, np.integer):
        return data.astype(np.float32) / float(-np.iinfo(data.dtype).min)
    return data.astype(np.float32)


# --- is all of it there? ---

_PER_STREAM = ("mov,mp4,m4a,3gp,3g2,mj2", "wav", "flac", "aiff")
_EXACT = (*_PER_STREAM, "matroska,webm", "avi")
"""Containers whose headers state durations exactly, of every stream or of the longest; an MP3's may be an estimate."""


def missing(path: Path, signals: Signals, examine_s: float, min_decoded: float) -> str | None:
    """What of the file is not there or does not decode, or None.

    Boxes that end beyond the file's end; sound or picture that stop before `min_decoded` of what the headers state
    (before half of it, where that is an estimate).
    """
    if signals.info.kind == "image":
        return None
    beyond = _bytes_beyond(path)
    if beyond:
        return f"truncated: {beyond} bytes are missing at the end"
    parts = [
        (what, min(promised_s, examine_s), decoded_s)
        for what, promised_s, decoded_s in (
            ("sound", signals.sound_stated_s, signals.sound_s),
            ("picture", signals.picture_stated_s, signals.picture_s),
        )
        if promised_s is not None
    ]
    for what, _, decoded_s in parts:
        if decoded_s <= 0:
            return f"none of its {what} decodes"
    if signals.container not in _PER_STREAM:
        parts = [max(parts, key=lambda part: part[2])]
    share = min_decoded if signals.container in _EXACT else 0.5
    for what, expected_s, decoded_s in parts:
        if decoded_s < share * expected_s - _LENIENT_S:
            return f"truncated: {decoded_s:.1f} s of {expected_s:.1f} s of {what} decode"
    return None


_MOST_BOXES = 100_000


def _bytes_beyond(path: Path) -> int:
    """How many bytes the last top-level box of an MP4 or QuickTime file (ISO/IEC 14496-12) lacks; 0 is also the answer
    for more boxes than `_MOST_BOXES`, which no recorder writes and which would take minutes to follow.
    """
    size, at = path.stat().st_size, 0
    with open(path, "rb") as file:
        if file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return 0
        for _ in range(_MOST_BOXES):
            if at + 8 > size:
                break
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            elif length == 0:
                return 0
            if length < 8 or not kind.isascii():
                return 0
            if at + length > size and kind in (b"mdat", b"moov"):
                return at + length - size
            at += length
    return 0
