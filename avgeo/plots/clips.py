"""What a clip sounds and looks like: spectrogram with events, atoms over time, atlas of atoms, frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from avgeo.plots.style import (
    ACTIVE,
    PALETTE,
    SIGNED,
    SOUND,
    WIDTH,
    Drawn,
    PlotError,
    drawn,
    new_figure,
    readable,
    styled,
)

_OUTLINED = 5  # atoms; more would hide the sound


def _log_mel(audio: np.ndarray, rate: int, bands: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(time_s, centre_hz, dB (bands, times) below the loudest); mel scale of O'Shaughnessy (1987)."""
    from scipy.signal import spectrogram as stft

    window = min(len(audio), 2 ** round(math.log2(rate * 0.032)))
    hop = min(window, max(window - window * 3 // 4, len(audio) // 8000))  # a long recording fits into memory
    frequency, time_s, power = stft(
        audio, rate, nperseg=window, noverlap=window - hop, window="hann", detrend=cast(Any, False)
    )
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre)), 0, None)
    # a band narrower than the bins' spacing would be empty: give it its nearest bin
    bank[np.arange(bands), np.abs(frequency - centre).argmin(1)] += 1e-3
    mel = (bank / bank.sum(1, keepdims=True)) @ power
    block = math.ceil(len(time_s) / 2000)  # a long recording has more columns than a page has dots
    starts = np.arange(0, len(time_s), block)
    mel, time_s = np.maximum.reduceat(mel, starts, axis=1), time_s[starts]
    return time_s, centre[:, 0], 10 * np.log10(np.maximum(mel, 1e-12) / max(float(mel.max()), 1e-12))


def _events(events: pd.DataFrame | Sequence[Mapping[str, Any]] | None) -> list[tuple[str, float, float]]:
    """(label, onset_s, offset_s) of each event, under any of the names that stages use."""
    if events is None:
        return []
    rows: list[Any] = events.to_dict("records") if isinstance(events, pd.DataFrame) else list(events)
    found = []
    for row in rows:
        label = next((row[key] for key in ("source", "label", "name") if key in row), None)
        onset = next((row[key] for key in ("onset_s", "start_s") if key in row), None)
        offset = next((row[key] for key in ("offset_s", "end_s") if key in row), None)
        if label is None or onset is None or offset is None:
            raise PlotError("events need source, label or name, and onset_s and offset_s (or start_s and end_s)")
        found.append((str(label), float(onset), float(offset)))
    return found


def _mono(audio: np.ndarray) -> np.ndarray:
    audio = np.asarray(audio, dtype=np.float64)
    if audio.ndim != 1 or len(audio) < 16 or not np.isfinite(audio).all():
        raise PlotError(f"audio must be at least 16 finite mono samples, got shape {audio.shape}")
    return audio


def _draw_sound(axes: Any, level_db: np.ndarray, centre_hz: np.ndarray, duration: float) -> None:
    """A spectrogram whose lines are mel bands, with its frequencies and its scale."""
    extent = (0, duration, -0.5, len(centre_hz) - 0.5)
    image = axes.imshow(level_db, origin="lower", aspect="auto", cmap=SOUND, vmin=-80, vmax=0, extent=extent)
    ticks = [hz for hz in (125, 500, 1000, 2000, 4000, 8000, 16000) if hz <= centre_hz[-1] * 1.02]
    axes.set_yticks(np.interp(ticks, centre_hz, np.arange(len(centre_hz))), [f"{hz / 1000:g}" for hz in ticks])
    axes.set(ylabel="frequency (kHz)", xlim=(0, duration))
    axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=20).set_label("dB below loudest")


def _lanes(axes: Any, labels: Sequence[str], duration: float) -> None:
    """The frame of a time line with one lane per label."""
    axes.set_yticks(range(len(labels)), [drawn(label) for label in labels])
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel="time (s)", xlim=(0, duration))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _said_of(audio: np.ndarray, rate: int, time_s: np.ndarray, centre_hz: np.ndarray, level_db: np.ndarray) -> str:
    """A spectrogram in words."""
    band, moment = np.unravel_index(int(level_db.argmax()), level_db.shape)
    alt = f"Log-mel spectrogram of {len(audio) / rate:.1f} s of sound at {rate / 1000:g} kHz"
    return alt + (f", loudest near {centre_hz[band]:.0f} Hz at {time_s[moment]:.1f} s" if audio.any() else ", silent")


@styled
def spectrogram(
    audio: Float[np.ndarray, " samples"],
    rate: int,
    events: pd.DataFrame | Sequence[Mapping[str, Any]] | None = None,
    title: str | None = None,
    limit: int = 12,
) -> Drawn:
    """Log-mel spectrogram of mono sound, above a time line of labelled events (stems, or atoms heard).

    `events` has one line per event: source, label or name; onset_s and offset_s, or start_s and end_s. At
    most `limit` labels are drawn, those that last longest; the alt text says how many were left out.
    """
    audio = _mono(audio)
    time_s, centre_hz, level_db = _log_mel(audio, rate)
    found = _events(events)
    lasting: dict[str, float] = {}
    for label, onset, offset in found:
        lasting[label] = lasting.get(label, 0.0) + offset - onset
    labels = sorted(lasting, key=lambda label: -lasting[label])[:limit]
    labels = sorted(labels, key=lambda label: min(onset for name, onset, _ in found if name == label))
    lane = 0.26 * max(len(labels), 1)
    figure = new_figure(2.9 + (lane + 0.2 if labels else 0))
    if labels:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, lane])
    else:
        axes, below = figure.subplots(), None
    duration = len(audio) / rate
    _draw_sound(axes, level_db, centre_hz, duration)
    if title:
        axes.set_title(title)
    if below is None:
        axes.set_xlabel("time (s)")
    else:
        for at, label in enumerate(labels):
            spans = [(onset, max(offset - onset, duration / 400)) for name, onset, offset in found if name == label]
            below.broken_barh(spans, (at - 0.36, 0.72), facecolor=PALETTE[at % len(PALETTE)])
        _lanes(below, labels, duration)
    alt = _said_of(audio, rate, time_s, centre_hz, level_db)
    if found:
        shown = sorted((event for event in found if event[0] in labels), key=lambda event: event[1])
        spoken = [f"{readable(name)} {onset:.1f}–{offset:.1f} s" for name, onset, offset in shown]
        alt += "; below it when each is active: " + ", ".join(spoken[:24])
        left = len(lasting) - len(labels)
        alt += f", and {left} more not drawn" if left else ""
    return figure, alt + "."


@styled
def atoms_heard(
    audio: Float[np.ndarray, " samples"],
    rate: int,
    atoms: Sequence[Mapping[str, Any]],
    title: str | None = None,
    limit: int = 10,
) -> Drawn:
    """The atoms of a sound on its spectrogram, and below it a time line of the `limit` strongest names.

    Each of `atoms` has name, start_s, end_s and strength (as `avgeo.perceive.Atom.as_dict` gives). Those of the five
    strongest names that also have low_hz and high_hz are outlined where they are strongest. The stronger, the darker.
    """
    audio = _mono(audio)
    keys = {"name", "start_s", "end_s", "strength"}
    if any(not keys <= set(atom) for atom in atoms):
        raise PlotError("atoms need name, start_s, end_s and strength: give Atom.as_dict() of each")
    time_s, centre_hz, level_db = _log_mel(audio, rate)
    duration = len(audio) / rate
    ordered = sorted(atoms, key=lambda atom: -atom["strength"])
    names = list(dict.fromkeys(str(atom["name"]) for atom in ordered))
    labels = names[:limit]
    lane = 0.26 * max(len(labels), 1)
    figure = new_figure(3.1 + lane + 0.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.8, lane])
    _draw_sound(axes, level_db, centre_hz, duration)
    if title:
        axes.set_title(title)
    most = max((atom["strength"] for atom in ordered), default=1.0) or 1.0
    for at, label in enumerate(labels):
        events = [atom for atom in ordered if str(atom["name"]) == label]
        spans = [(atom["start_s"], max(atom["end_s"] - atom["start_s"], duration / 400)) for atom in events]
        shares = [atom["strength"] / most for atom in events]
        colour = PALETTE[at % len(PALETTE)]
        below.broken_barh(spans, (at - 0.36, 0.72), facecolors=[(*colour, 0.2 + 0.8 * share) for share in shares])
        if at < _OUTLINED and "low_hz" in events[0]:  # where it is strongest
            low, high = np.interp([events[0]["low_hz"], events[0]["high_hz"]], centre_hz, np.arange(len(centre_hz)))
            box = Rectangle((spans[0][0], low - 1), spans[0][1], high - low + 2, fill=False, edgecolor=colour)
            box.set(linewidth=2.2, path_effects=[withStroke(linewidth=3.6, foreground="white", alpha=0.8)])
            axes.add_patch(box)
    _lanes(below, labels or ["no atom"], duration)
    alt = _said_of(audio, rate, time_s, centre_hz, level_db)
    if not ordered:
        return figure, alt + "; no atom fires."
    firsts = [next(atom for atom in ordered if str(atom["name"]) == label) for label in labels]
    alt += "; the atoms heard, strongest first, each where it is strongest: "
    alt += ", ".join(
        f"{readable(atom['name'])} {atom['start_s']:.1f}–{atom['end_s']:.1f} s ({atom['strength']:.3g})"
        for atom in firsts
    )
    left = len(names) - len(labels)
    return figure, alt + (f", and {left} more not drawn." if left else ".")


@styled
def activation_map(
    codes: Float[np.ndarray, "times atoms"],
    hop_s: float,
    names: Sequence[str] | None = None,
    top: int = 12,
    title: str | None = None,
) -> Drawn:
    """How strongly each of the `top` most active atoms fires over time; `codes` has a line per `hop_s`."""
    codes = np.asarray(codes, dtype=np.float64)
    if codes.ndim != 2 or not codes.size:
        raise PlotError(f"codes must have shape (times, atoms), got {codes.shape}")
    if names is not None and len(names) != codes.shape[1]:
        raise PlotError(f"names has {len(names)} entries for {codes.shape[1]} atoms: give one per atom")
    strength = codes.sum(0)
    chosen = [int(at) for at in np.argsort(-strength, kind="stable")[:top] if strength[at] > 0]
    labels = [names[at] if names is not None else f"atom {at}" for at in chosen]
    figure = new_figure(1.2 + 0.27 * max(len(chosen), 2))
    axes = figure.subplots()
    shown = codes[:, chosen].T if chosen else np.zeros((1, len(codes)))
    extent = (0, len(codes) * hop_s, len(shown) - 0.5, -0.5)
    image = axes.imshow(shown, aspect="auto", cmap=ACTIVE, vmin=0, extent=extent, interpolation="nearest")
    axes.set_yticks(range(len(labels)), [drawn(label) for label in labels])
    axes.set(xlabel="time (s)")
    axes.tick_params(axis="y", length=0)
    figure.colorbar(image, ax=axes, pad=0.01, aspect=20).set_label("activation")
    if title:
        axes.set_title(title)
    heard = [
        f"{label} (peak {codes[:, at].max():.2g} at {codes[:, at].argmax() * hop_s:.1f} s)"
        for at, label in zip(chosen, labels, strict=True)
    ]
    firing = int((strength > 0).sum())
    alt = f"Activation over {len(codes) * hop_s:.1f} s of the {len(chosen)} strongest of {firing} active atoms"
    return figure, alt + (": " + ", ".join(heard) if heard else "") + "."


@styled
def atom_atlas(
    patches: Float[np.ndarray, "atoms mels frames"],
    names: Sequence[str] | None = None,
    hop_s: float | None = None,
    limit: int = 24,
    columns: int = 8,
) -> Drawn:
    """What atoms look like: decoder vectors as log-mel patches (low pitch below), each on its own scale."""
    patches = np.asarray(patches, dtype=np.float64)
    if patches.ndim != 3 or not patches.size:
        raise PlotError(f"patches must have shape (atoms, mels, frames), got {patches.shape}")
    if names is not None and len(names) != len(patches):
        raise PlotError(f"names has {len(names)} entries for {len(patches)} atoms: give one per atom")
    count = min(limit, len(patches))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(1.35 * rows + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False)
    for at, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if at < count:
            size = float(np.abs(patches[at]).max()) or 1.0
            axes.imshow(patches[at], origin="lower", aspect="auto", cmap=SIGNED, vmin=-size, vmax=size)
            label = readable(names[at] if names is not None else f"atom {at}")
            short = drawn(label if len(label) <= 16 else label[:15] + "…")
            axes.set_title(short, fontsize=8, fontweight="normal", pad=2)
    shape = f"{patches.shape[1]} mel bands by {patches.shape[2]} frames"
    shape += f" ({patches.shape[2] * hop_s:.2f} s)" if hop_s is not None else ""
    alt = f"{count} of {len(patches)} dictionary atoms as patches of {shape}, red above and blue below zero"
    if names is not None:
        alt += ": " + ", ".join(readable(name) for name in names[:count])
    return figure, alt + "."


@styled
def contact_sheet(
    frames: UInt8[np.ndarray, "frames height width 3"],
    times_s: Sequence[float] | None = None,
    columns: int = 6,
) -> Drawn:
    """Frames of a clip side by side, each under its time when `times_s` is given."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames) or frames.dtype != np.uint8:
        raise PlotError(f"frames must be uint8 of shape (n, height, width, 3), got {frames.dtype} {frames.shape}")
    if times_s is not None and len(times_s) != len(frames):
        raise PlotError(f"times_s has {len(times_s)} entries for {len(frames)} frames: give one per frame")
    across = min(columns, len(frames))
    rows = math.ceil(len(frames) / across)
    tile = WIDTH / max(across, 3)
    figure = new_figure(
        rows * (tile * frames.shape[1] / frames.shape[2] + (0.22 if times_s is not None else 0.04)),
        tile * across,
    )
    for at, axes in enumerate(figure.subplots(rows, across, squeeze=False).flat):
        axes.set_axis_off()
        if at < len(frames):
            axes.imshow(frames[at], interpolation="nearest" if frames.shape[2] < 160 else "antialiased")
            if times_s is not None:
                axes.set_title(f"{times_s[at]:.1f} s", fontsize=9, fontweight="normal", pad=2)
    light = [float(frame.mean()) / 2.55 for frame in frames]
    alt = f"{len(frames)} frame{'s' * (len(frames) != 1)} of {frames.shape[2]} by {frames.shape[1]} pixels"
    if times_s is not None:
        alt += f" from {times_s[0]:.1f} to {times_s[-1]:.1f} s"
    return figure, alt + f"; mean brightness {min(light):.0f} to {max(light):.0f} %."
