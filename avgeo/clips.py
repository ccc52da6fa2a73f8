"""Clips: what is in a media file, its sound, its frames, and how a clip is written.

All goes through PyAV (FFmpeg's libraries inside a wheel). A file that cannot be used raises `ClipError`
with one line that names the file and the cure; a damaged file is used when at least half of it decodes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec.context import Flags
from jaxtyping import Float32, UInt8

from avgeo.decode import (
    ClipError,
    audio_stream,
    decode,
    frames_at,
    is_image,
    open_media,
    resampled,
    scanned_s,
    stated_s,
    upright,
    video_stream,
)

__all__ = ["ClipError", "Kind", "MediaInfo", "probe", "read_audio", "read_frames", "write_clip"]

Kind = Literal["video", "audio", "image"]


@dataclass(frozen=True)
class MediaInfo:
    """What a media file holds. `width` and `height` are those displayed; absent facts are None."""

    kind: Kind
    duration_s: float
    has_video: bool
    has_audio: bool
    width: int | None
    height: int | None
    fps: float | None
    sample_rate_hz: int | None
    audio_codec: str | None
    video_codec: str | None


# --- reading ---


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """What `path` holds, from its headers and its first picture; raises `ClipError`.

    A cover picture inside an audio file is no video; a photo has kind "image", duration 0, `has_video` False.
    """
    with open_media(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        if video is None and audio is None:
            raise ClipError(f"{path}: holds neither sound nor picture; give a video or audio file")
        still = video is not None and is_image(container)
        width = height = None
        if video is not None:
            first = next(decode(container, video), None)
            if first is None:
                if audio is None:
                    raise ClipError(f"{path}: no picture can be decoded (truncated?); copy the file again")
                width, height = video.codec_context.width, video.codec_context.height
            else:
                turned = first.rotation % 180 != 0
                width, height = (first.height, first.width) if turned else (first.width, first.height)
        streams = [stream for stream in (video, audio) if stream is not None]
        duration_s = 0.0 if still else max(stated_s(container, stream) for stream in streams)
        rate = None if video is None or still else (video.average_rate or video.base_rate)
        info = MediaInfo(
            kind="image" if still else "video" if video is not None else "audio",
            duration_s=duration_s,
            has_video=video is not None and not still,
            has_audio=audio is not None,
            width=width,
            height=height,
            fps=float(rate) if rate else None,
            sample_rate_hz=audio.rate if audio is not None else None,
            audio_codec=audio.codec_context.name if audio is not None else None,
            video_codec=video.codec_context.name if video is not None else None,
        )
    return info if info.duration_s > 0 or still else _with_scanned_duration(info, path)


def read_audio(
    path: str | os.PathLike[str], sample_rate_hz: int, max_s: float | None = None
) -> Float32[np.ndarray, " samples"]:
    """The sound of `path`, mixed to mono and resampled, in [-1, 1]; `max_s` limits what is decoded.

    Raises `ClipError` when there is no sound or less than half of its announced duration decodes.
    """
    if sample_rate_hz <= 0 or (max_s is not None and max_s <= 0):
        raise ValueError(f"sample_rate_hz={sample_rate_hz} and max_s={max_s} must be positive")
    limit = None if max_s is None else max(1, round(max_s * sample_rate_hz))
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise ClipError(f"{path}: has no sound track; give a clip with sound")
        announced_s = stated_s(container, stream)
        chunks, count = [], 0
        # The last AAC packet is padded; MP4 states the true length.
        true_count = round(announced_s * sample_rate_hz) if "mp4" in container.format.name else None
        for chunk in resampled(decode(container, stream), sample_rate_hz):
            chunks.append(chunk)
            count += len(chunk)
            if limit is not None and count >= limit:
                break
    expected_s = announced_s if max_s is None else min(announced_s, max_s)
    if count == 0 or count / sample_rate_hz < 0.5 * expected_s:
        raise _truncated(path, "sound", count / sample_rate_hz, expected_s)
    if true_count is not None and 0 < count - true_count < 0.2 * sample_rate_hz:
        limit = true_count if limit is None else min(limit, true_count)
    samples = np.nan_to_num(np.concatenate(chunks)[:limit], nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(samples, -1.0, 1.0)


def read_frames(
    path: str | os.PathLike[str], count: int, width: int, height: int
) -> UInt8[np.ndarray, "count height width 3"]:
    """`count` RGB frames at the middles of equal parts of the clip, upright, of width x height pixels.

    The aspect ratio is not kept; a photo or a one-frame video is repeated. Raises `ClipError` when there is
    no picture or less than half of its announced duration decodes.
    """
    if min(count, width, height) < 1:
        raise ValueError(f"count={count}, width={width} and height={height} must be at least 1")
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise ClipError(f"{path}: has no picture; give a video")
        announced_s = 0.0 if is_image(container) else stated_s(container, stream)
        if announced_s <= 0 and not is_image(container):
            announced_s = scanned_s(path)
        start_s = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        targets = start_s + (np.arange(count) + 0.5) * announced_s / count
        shown: list[UInt8[np.ndarray, "height width 3"]] = []
        reached_s, last_pts, last_picture = 0.0, None, None
        for frame, decoded_s in frames_at(container, stream, targets):
            reached_s = max(reached_s, decoded_s - start_s)
            if last_picture is None or frame.pts is None or frame.pts != last_pts:
                last_pts, last_picture = frame.pts, upright(frame, width, height)
            shown.append(last_picture)
    if not shown or reached_s < 0.48 * announced_s:  # one frame asked for lies at exactly one half
        raise _truncated(path, "picture", reached_s, announced_s)
    return np.stack(shown)


def _with_scanned_duration(info: MediaInfo, path: str | os.PathLike[str]) -> MediaInfo:
    return replace(info, duration_s=scanned_s(path))


def _truncated(path: str | os.PathLike[str], what: str, decoded_s: float, stated_s: float) -> ClipError:
    return ClipError(f"{path}: truncated: {decoded_s:.1f} s of {stated_s:.1f} s of {what} decode; copy the file again")


# --- writing ---


def write_clip(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "frames height width 3"],
    fps: int | Fraction,
    audio: Float32[np.ndarray, " samples"],
    sample_rate_hz: int,
) -> None:
    """Write an MP4 with H.264 (yuv420p) and mono AAC; the file appears only when complete.

    Both streams have a constant bit rate frame by frame (pictures: 1 bit per pixel; sound: 6 bits per sample), so that
    neither the size of the file nor that of a packet tells what is in it. The encoders run on one thread and bit-exact:
    the same input gives the same bytes with the same codecs.
    """
    frames, audio = np.asarray(frames), np.asarray(audio, dtype=np.float32)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 (n, height, width, 3), got {frames.dtype} {frames.shape}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames are {frames.shape[2]} x {frames.shape[1]} pixels: H.264 needs even sizes")
    if audio.ndim != 1 or not len(audio) or not np.isfinite(audio).all():
        raise ValueError(f"audio must be finite samples in one dimension, got shape {audio.shape}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own per process: an orphan of a killed run may still be writing the same clip.
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    x264 = _x264(frames.shape[2], frames.shape[1], Fraction(fps))
    mp4 = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(partial), "w", format="mp4", options=mp4) as out:
        picture: Any = out.add_stream("libx264", rate=Fraction(fps), options=x264)
        picture.height, picture.width = frames.shape[1:3]
        picture.pix_fmt = "yuv420p"
        # The fast coder keeps its rate better, and at twice the speed: SNR within 1 dB of the default's, or above it.
        aac = {"b": str(4 * sample_rate_hz), "aac_coder": "fast"}
        sound: Any = out.add_stream("aac", rate=sample_rate_hz, layout="mono", options=aac)
        for stream in (picture, sound):
            stream.codec_context.flags |= Flags.bitexact  # no encoder version in the stream
        for image in frames:
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(picture.encode(None))
        chunk = av.AudioFrame.from_ndarray(np.clip(audio, -1, 1)[None, :], format="fltp", layout="mono")
        chunk.sample_rate, chunk.pts, chunk.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
        # The encoder takes 1024 samples at a time; the FIFO inside PyAV's resampler cuts them.
        cutter = AudioResampler(format="fltp", layout="mono", rate=sample_rate_hz, frame_size=1024)
        for piece in [*cutter.resample(chunk), *cutter.resample(None), None]:
            out.mux([_filled(packet) for packet in sound.encode(piece)])
    partial.replace(target)


def _x264(width: int, height: int, fps: Fraction) -> dict[str, str]:
    """Options for a constant size of every frame: a rate buffer of one frame, filled up with filler data."""
    # whole macroblocks, in kbit; no fewer than x264 needs for the headers of a tiny picture
    kilobits = max(8, -(-height // 16) * -(-width // 16) * 256 / 1000)
    rate, buffer = round(kilobits * fps), round(kilobits)
    steady = f"nal-hrd=cbr:bitrate={rate}:vbv-maxrate={rate}:vbv-bufsize={buffer}:force-cfr=1"
    # Keyframes at fixed places, not where the scene changes. With its macroblock tree on, x264's bytes varied from run
    # to run on 64 x 48 pictures.
    steady += ":scenecut=0:mbtree=0:rc-lookahead=0:bframes=0"
    return {"preset": "veryfast", "threads": "1", "x264-params": steady}


AAC_FRAME_BYTES = 768  # the most that one channel may take (ISO/IEC 14496-3: 6144 bits)


def _filled(packet: av.Packet) -> av.Packet:
    """An AAC packet brought to its greatest size by fill elements (ISO/IEC 14496-3, 4.4.2.7) before its end mark."""
    data = bytes(packet)
    bits = int.from_bytes(data, "big")
    padding = (bits & -bits).bit_length() - 1  # the end mark is the last three ones
    bits >>= padding + 3
    gap = 8 * (AAC_FRAME_BYTES - len(data)) + padding
    while gap >= 7:
        escaped = gap >= 15 + 8 * 15
        count = min((gap - 15) // 8, 269) if escaped else min((gap - 7) // 8, 14)
        header, width = (0b1101111 << 8 | count - 14, 15) if escaped else (0b110 << 4 | count, 7)
        bits, gap = (bits << width | header) << 8 * count, gap - width - 8 * count
    filled = av.Packet(((bits << 3 | 0b111) << gap).to_bytes(AAC_FRAME_BYTES, "big"))
    filled.pts, filled.dts, filled.duration = packet.pts, packet.dts, packet.duration
    filled.time_base, filled.stream, filled.is_keyframe = packet.time_base, packet.stream, packet.is_keyframe
    return filled
