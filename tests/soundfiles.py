"""Sound written to files of any kind, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np


def write(path: Path, audio: np.ndarray, rate: int, codec: str = "pcm_s16le", layout: str = "mono") -> Path:
    """A file with sound alone: mono samples, the same in every channel, in the container that the name asks for."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout)
        samples = np.clip(audio * 32767, -32768, 32767).astype(np.int16)
        packed = np.repeat(samples, 2) if layout == "stereo" else samples
        frame = av.AudioFrame.from_ndarray(packed[None], format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for piece in av.AudioResampler(stream.format, stream.layout, rate, frame_size=1024).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path
