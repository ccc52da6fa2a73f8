"""Sound for a web page: mono MP3, which every browser plays, in as few bytes as a one-second sound can have."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec.context import Flags
from jaxtyping import Float

from avgeo.perceive.inversion import PEAK

BITS_PER_S = 32_000
"""Measured on one second: MP3 4.5 kB at 32 kbit/s; Opus has 3.3 kB at 24 kbit/s, but Safari plays it only lately."""


def mp3(audio: Float[np.ndarray, " samples"], sample_rate_hz: int) -> bytes:
    """`audio`, in [-1, 1], as an MP3 file; the same sound gives the same bytes with the same encoder.

    The header tells how much the encoder has put before and after the sound, so that a browser plays its true length.
    """
    buffer = io.BytesIO()
    lame = {"b": str(BITS_PER_S), "compression_level": "7"}  # a third less time than by default
    options = {"fflags": "+bitexact", "id3v2_version": "0"}
    with av.open(buffer, "w", format="mp3", options=options) as out:
        stream: Any = out.add_stream("libmp3lame", rate=sample_rate_hz, layout="mono", options=lame)
        stream.codec_context.flags |= Flags.bitexact
        stream.codec_context.open()
        samples = np.ascontiguousarray(np.clip(audio, -1, 1)[None], dtype=np.float32)
        chunk = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        chunk.sample_rate, chunk.pts, chunk.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
        codec = stream.codec_context
        cutter = AudioResampler(format=codec.format, layout="mono", rate=sample_rate_hz, frame_size=codec.frame_size)
        for piece in [*cutter.resample(chunk), *cutter.resample(None), None]:
            out.mux(stream.encode(piece))
    return buffer.getvalue()


def levelled(audio: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """`audio` with its greatest sample at -3 dBFS; what is under -80 dBFS stays as it is."""
    peak = float(np.abs(audio).max(initial=0))
    return audio * (PEAK / peak) if peak > 1e-4 else audio
