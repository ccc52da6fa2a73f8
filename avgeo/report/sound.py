"""The sound of the report: a player, and a spectrogram with the evidence on its time line."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avgeo.report.parts import escape, span

MAX_SOUND_S = 30.0
"""The player carries at most so much of the clip's sound."""


def time_line(audio: np.ndarray, rate: int, evidence: Sequence[Mapping[str, Any]]) -> str:
    """The spectrogram over the player's whole width, and under it one lane for each piece of timed evidence."""
    from matplotlib.image import imsave
    from scipy.signal import spectrogram

    length_s, window = len(audio) / rate, min(512, len(audio))
    power = spectrogram(np.nan_to_num(audio), rate, nperseg=window, noverlap=window // 2)[2]
    power = power[:, :: max(1, power.shape[1] // 1000)]
    level_db = 10 * np.log10(power + 1e-12)
    strip = io.BytesIO()
    imsave(
        strip, level_db, vmin=level_db.max() - 70, vmax=level_db.max() + 1e-3, cmap="magma", origin="lower",
        format="png",
    )  # fmt: skip
    alt = f"Spectrogram of {length_s:.1f} s of sound, 0 to {rate / 2000:.0f} kHz upwards, time to the right"
    source = base64.b64encode(strip.getvalue()).decode()
    lanes = ""
    for number, item in enumerate(evidence):
        if span(item) == "–" or float(item["start_s"]) >= length_s:
            continue
        start, end = max(0.0, float(item["start_s"])), min(length_s, float(item["end_s"]))
        left, wide = 100 * start / length_s, 100 * max(0.0, end - start) / length_s
        lanes += (
            f'<div class="lane"><button type="button" disabled {seek(number, item)} '
            f'style="left:min({left:.2f}%,100% - 1.6rem);width:{wide:.2f}%">{escape(str(item.get("label")))}'
            "</button></div>"
        )
    return (
        f'<div class="timeline" data-length="{length_s:.3f}"><img src="data:image/png;base64,{source}" '
        f'alt="{escape(alt)}">{lanes}<div class="playhead"></div></div>'
    )


def seek(number: int, item: Mapping[str, Any]) -> str:
    """What the script reads off a button that plays evidence `number` from its start: numbers only."""
    start, end = float(item["start_s"]), float(item["end_s"])
    return f'data-evidence="{number}" data-start="{start:.3f}" data-end="{end:.3f}" aria-pressed="false"'


def player(audio: np.ndarray, rate: int) -> str:
    """The sound as a WAV file in the page, at most `MAX_SOUND_S` of it."""
    kept = np.asarray(audio, dtype=np.float64)[: int(MAX_SOUND_S * rate)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(int(rate))
        sound.writeframes((np.clip(np.nan_to_num(kept), -1, 1) * 32767).astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:audio/wav;base64,{data}"
    tag = f'<audio controls preload="metadata" aria-label="Sound of the clip" src="{source}"></audio>'
    if len(kept) < len(audio):
        tag += f'<p class="note">The player has the first {MAX_SOUND_S:.0f} of {len(audio) / rate:.0f} s.</p>'
    return tag
