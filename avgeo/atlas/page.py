"""Write the atlas: one small page that loads at once, and per atom three files that load when it is looked at.

A page opened from a disk may not fetch, so data come as scripts: `data.js` holds what the list needs (names, scores,
thumbnails, the map's outlines), `atoms/17.js` what atom 17 shows, `atoms/17.mp3` its sound and `atoms/17-clip.mp3` that
of the held-out clip in which it is strongest. `index.html` and what it looks like are the same for every model; no text
of a model is ever put into them as markup.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from avgeo.atlas.facts import AtlasError, AtomFacts, atom_facts
from avgeo.atlas.sounds import levelled, mp3
from avgeo.atlas.world import HEIGHT, WIDTH, outlines, project
from avgeo.clips import read_audio
from avgeo.perceive.atoms import AtomModel
from avgeo.perceive.encoders import SAMPLE_RATE_HZ, band_centres_hz, log_mel, patch_seconds
from avgeo.perceive.inversion import atom_patches, invertible, render_atoms
from avgeo.profiles import AtomSettings

ASSETS = ("index.html", "atlas.css", "draw.js", "atlas.js")
THUMB_BANDS, THUMB_FRAMES = 32, 16
MOST_DOTS = 400
"""Places on an atom's map: the strongest; the page says how many there are in all."""

TOP_PLACES = 6
_TICKS_HZ = (100, 200, 500, 1000, 2000, 4000, 8000, 16000)
_MADE = re.compile(r"\d+(-clip)?\.(js|mp3)")


@dataclass(frozen=True)
class AtlasSummary:
    """What an atlas holds. Named, unnamed and dead add up to atoms, heard and silent do when atoms can be inverted.

    `clips` counts the atoms shown with a held-out clip, `bytes` those of files by kind, and `first_load_bytes` what a
    browser reads before it has drawn the list.
    """

    atoms: int
    named: int
    unnamed: int
    dead: int
    heard: int
    silent: int
    clips: int
    files: int
    bytes: dict[str, int]
    first_load_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def write_atlas(
    folder: Path,
    model: AtomModel,
    codes: Float[np.ndarray, "clips time atoms"],
    clips: pd.DataFrame,
    *,
    root: Path | None = None,
    title: str = "Atlas of acoustic atoms",
    evidence: str = "",
    frame_s: float | None = None,
    cut_s: float = 1.6,
    seed: int = 0,
) -> AtlasSummary:
    """Write the atlas of `model` into `folder` and say what it holds; `folder/index.html` opens in any browser.

    `codes` are those of held-out clips, `clips` their rows of the manifest: clip_id, latitude_deg, longitude_deg, and,
    if there are such columns, place_id (clips of one place are one dot), place and country (its names). With `root`,
    the folder that the column `path` is relative to, `cut_s` seconds of the clip in which an atom is strongest can be
    heard and seen too. `evidence` says where the clips come from. `frame_s` is the time from one code to the next
    (default: that of log-mel patches). Atoms of features that are no log-mel patches are shown by their clips and maps
    alone.

    The same input gives the same bytes. Raises `AtlasError` for input that does not belong together, and
    `avgeo.clips.ClipError` for a clip that cannot be read.
    """
    settings, atoms = model.settings, codes.shape[-1]
    if len(model.table) != atoms:
        raise AtlasError(
            f"codes holds {atoms} atoms and the model {len(model.table)}: encode the clips with this model"
        )
    if root is not None and "path" not in clips.columns:
        raise AtlasError("clips has no column 'path': give the manifest's rows, or leave root out")
    if cut_s <= 0 or (frame_s is not None and frame_s <= 0):
        raise AtlasError(f"cut_s={cut_s} and frame_s={frame_s} must be positive")
    facts = atom_facts(codes, clips)
    details, sounds, thumbs = _alone(model, facts, seed)
    shown = _Writer(folder)
    for atom, sound in enumerate(sounds):
        if sound is not None:
            shown.write(f"atoms/{atom}.mp3", mp3(sound, SAMPLE_RATE_HZ), "atoms, sound")
    if root is not None:
        step = patch_seconds(settings) if frame_s is None else frame_s
        for atom, clip, sound in _strongest(facts, codes, clips, root, settings, step, cut_s):
            details[atom]["clip"] = clip
            shown.write(f"atoms/{atom}-clip.mp3", mp3(sound, SAMPLE_RATE_HZ), "clips, sound")
    for atom, detail in enumerate(details):
        detail["map"] = _mapped(facts, atom)
        shown.write(f"atoms/{atom}.js", _script(f"atlasDetail({atom},", detail, ")"), "atoms, seen and mapped")
    index = _index(model, facts, details, thumbs, {"title": title, "evidence": evidence, "clips": len(clips)})
    shown.write("data.js", _script("window.ATLAS=", index, ""), "list")
    for name in ASSETS:
        shown.write(name, Path(__file__).with_name(name).read_bytes(), "page")
    shown.remove_others()
    state = Counter(index["atoms"]["state"])
    return AtlasSummary(
        atoms=atoms,
        named=state["named"],
        unnamed=state["unnamed"],
        dead=state["dead"],
        heard=sum(detail["sound"] == "heard" for detail in details),
        silent=sum(detail["sound"] == "silent" for detail in details),
        clips=sum("clip" in detail for detail in details),
        files=len(shown.written),
        bytes=dict(shown.bytes),
        first_load_bytes=shown.bytes["list"] + shown.bytes["page"],
    )


class _Writer:
    """Writes files below a folder, counts their bytes by kind, and removes what an earlier atlas left there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bytes: Counter[str] = Counter()
        self.written: set[str] = set()
        (folder / "atoms").mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: bytes, kind: str) -> None:
        (self.folder / name).write_bytes(content)
        self.bytes[kind] += len(content)
        self.written.add(name)

    def remove_others(self) -> None:
        for file in (self.folder / "atoms").iterdir():
            if _MADE.fullmatch(file.name) and f"atoms/{file.name}" not in self.written:
                file.unlink()


def _script(before: str, data: Any, after: str) -> bytes:
    """A script that hands `data` over. ASCII, and with no "<": safe whatever the page around it is."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"{before}{text}{after};\n".encode("ascii")


def _packed(values: np.ndarray, kind: str) -> str:
    """Whole numbers as base64 of "i1", "u1" or little-endian "u2"."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()).decode("ascii")


def _quantized(values: np.ndarray, most: float) -> np.ndarray:
    """`values` within ± most as -127..127."""
    return np.rint(np.clip(values / most if most > 0 else 0 * values, -1, 1) * 127)


def _alone(
    model: AtomModel, facts: AtomFacts, seed: int
) -> tuple[list[dict[str, Any]], list[np.ndarray | None], np.ndarray]:
    """What each atom adds to a spectrogram, how that sounds, and its thumbnail (atoms, frames, bands)."""
    coder: Any = model.sae
    count = len(facts.fires)
    with torch.no_grad():
        dim = coder.decode(torch.zeros(1, count)).shape[-1]
    if not invertible(dim, model.settings):
        return [{"sound": "none"} for _ in range(count)], [None] * count, np.zeros((count, 0, 0))
    nothing, alone = atom_patches(coder, facts.strength, model.settings)
    change = (alone - nothing).numpy()
    centres = band_centres_hz(model.settings)
    thumbs = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(change),
        (min(THUMB_FRAMES, change.shape[1]), min(THUMB_BANDS, change.shape[2])),
    ).numpy()
    sounds = render_atoms(coder, facts.strength, model.settings, seed=seed)
    details: list[dict[str, Any]] = []
    for patch, sound in zip(change, sounds, strict=True):
        most = float(np.abs(patch).max())
        details.append(
            {
                "sound": "silent" if sound is None else "heard",
                "patch": {
                    "bands": patch.shape[1],
                    "frames": patch.shape[0],
                    "cells": _packed(_quantized(patch.T, most), "i1"),
                    "most": _short(most),
                    "loudest_hz": round(float(centres[patch.mean(0).argmax()])),
                },
            }
        )
    thumbs = np.stack([_quantized(thumb, float(np.abs(thumb).max())) for thumb in thumbs])
    return details, sounds, thumbs


def _strongest(
    facts: AtomFacts,
    codes: np.ndarray,
    clips: pd.DataFrame,
    root: Path,
    settings: AtomSettings,
    step: float,
    cut_s: float,
) -> Iterator[tuple[int, dict[str, Any], np.ndarray]]:
    """Of each atom that fires, the cut of the clip in which it is strongest: what is seen of it, and its sound.

    Each clip is read once. The time a patch covers begins at its index times `step`; the cut is around its middle.
    """
    rows = clips.reset_index(drop=True)
    for clip in np.unique(facts.clip[facts.clip >= 0]):
        audio = read_audio(root / str(rows.loc[clip, "path"]), SAMPLE_RATE_HZ)
        spectrogram = log_mel(torch.from_numpy(audio), settings).numpy()
        hop = settings.hop_s
        for atom in np.flatnonzero(facts.clip == clip):
            length = min(cut_s, len(audio) / SAMPLE_RATE_HZ)
            peak = (facts.frame[atom] + 0.5) * step
            first = round(float(np.clip(peak - length / 2, 0, len(audio) / SAMPLE_RATE_HZ - length)) / hop)
            start, frames = first * hop, max(1, round(length / hop))
            seen = spectrogram[first : first + frames]
            begin, end = int(start // step), int(np.ceil((start + length) / step - 1e-9))
            active = codes[clip, begin:end, atom]
            cell = {
                "id": str(rows.loc[clip, "clip_id"]),
                "start_s": _short(start),
                "length_s": _short(length),
                "bands": seen.shape[1],
                "frames": seen.shape[0],
                "cells": _packed(np.rint(seen.T / max(float(seen.max()), 1e-6) * 255), "u1"),
                "step_s": _short(step),
                "from_s": _short(begin * step - start),
                "active": [_short(value) for value in active.tolist()],
            }
            at = round(start * SAMPLE_RATE_HZ)
            yield int(atom), cell, levelled(audio[at : at + round(length * SAMPLE_RATE_HZ)])


def _mapped(facts: AtomFacts, atom: int) -> dict[str, Any]:
    """Where on Earth an atom fires: the strongest places as dots, the first of them in words."""
    strength = facts.by_place[:, atom]
    order = np.argsort(-strength, kind="stable")
    heard = order[strength[order] > 0]
    dots, top = heard[:MOST_DOTS], heard[:TOP_PLACES]
    most = float(strength[heard[0]]) if len(heard) else 1.0
    where = facts.places.iloc[dots]
    xy = project(where["latitude_deg"].to_numpy(float), where["longitude_deg"].to_numpy(float))
    return {
        "places": len(strength),
        "heard": len(heard),
        "xy": _packed(xy, "u2"),
        "strength": _packed(np.maximum(1, np.rint(strength[dots] / most * 255)), "u1"),
        "top": [[str(facts.places["label"].iloc[place]), _short(float(strength[place]) / most)] for place in top],
    }


def _index(
    model: AtomModel, facts: AtomFacts, details: list[dict[str, Any]], thumbs: np.ndarray, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What the list needs of every atom, column by column."""
    table, settings = model.table, model.settings
    area, low = (table[name].to_numpy(float) for name in ("auroc", "auroc_low"))
    named = [name if isinstance(name, str) and name else None for name in table["name"]]
    centres = band_centres_hz(settings)
    edges = (centres[0], centres[-1])
    return {
        **about,
        "places": len(facts.places),
        "threshold": settings.name_auroc,
        "patch_s": _short(patch_seconds(settings)),
        "atoms": {
            "name": named,
            "state": [
                "dead" if not fires else "unnamed" if name is None else "named"
                for name, fires in zip(named, facts.fires, strict=True)
            ],
            "auroc": [_short(value) for value in area],
            "low": [_short(value) for value in low],
            # Hanley & McNeil's interval is symmetric
            "high": [_short(value) for value in np.minimum(1, 2 * area - low)],
            "fires": [_short(value) for value in facts.fires],
            "sound": [detail["sound"] for detail in details],
        },
        "thumbs": _packed(thumbs, "i1"),
        "thumb": list(thumbs.shape[1:]),
        # how far up a spectrogram these frequencies lie: bands are at even steps of it
        "ticks": [
            [
                f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz} Hz",
                _short(float(np.interp(hz, centres, _middles(settings)))),
            ]
            for hz in _TICKS_HZ
            if edges[0] <= hz <= edges[1]
        ],
        "world": {"width": WIDTH, "height": HEIGHT, **outlines()},
    }


def _middles(settings: AtomSettings) -> Float[np.ndarray, " mels"]:
    return (np.arange(settings.mels) + 0.5) / settings.mels


def _short(value: float) -> float | None:
    """Four significant digits; None for what JSON has not."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
