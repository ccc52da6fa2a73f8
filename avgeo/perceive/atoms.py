"""Atoms of a clip: encode its patches, name the atoms, and list when each one sounds and how strongly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from avgeo.perceive.coder import SparseCoder
from avgeo.perceive.encoders import patch_seconds
from avgeo.perceive.persistence import Listener
from avgeo.perceive.scores import auroc_error, auroc_matrix, best_cut
from avgeo.profiles import AtomSettings

_LISTENER = "listener.json"


@dataclass(frozen=True)
class Atom:
    """One acoustic atom heard in a clip: its name, when it sounds, and its greatest strength."""

    index: int
    name: str
    start_s: float
    end_s: float
    strength: float

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


def reach(settings: AtomSettings) -> int:
    """How many patches before and after share an atom's strength."""
    return round(settings.persist_s / patch_seconds(settings))


def encode_clips(
    model: Listener, patches: Float[np.ndarray, "clips time dim"], batch: int = 64
) -> Float[np.ndarray, "clips time atoms"]:
    """Codes (clips, time, atoms) of patches (clips, time, dim), so many clips at a time."""
    blocks = (patches[start : start + batch].astype(np.float32) for start in range(0, len(patches), batch))
    return np.concatenate([model.encode(torch.from_numpy(block)).numpy() for block in blocks])


def spoken(source: str) -> str:
    """A source of AVG-Sim in words: `siren:two_tone` is "siren two tone", `rain:rain` is "rain"."""
    cue, _, value = source.partition(":")
    words = cue if value in ("", cue) else f"{cue} {value}"
    return words.replace("_", " ")


def name_atoms(
    codes: Float[np.ndarray, "clips time atoms"],
    labels: Bool[np.ndarray, "clips sources"],
    sources: list[str],
    threshold: float,
) -> pd.DataFrame:
    """Name each atom by the source whose presence in a held-out clip its mean strength predicts best.

    `labels` says which source sounds in which clip. Best is the greatest lower end of the AUROC's 95 % interval
    (Hanley & McNeil 1982), so that a source heard in three clips names nothing by luck; an atom for which even that
    is under `threshold` stays unnamed, because a wrong name is worse than none. Columns: atom, name (or None), auroc,
    auroc_low, fires (share of patches), typical (mean strength over time in clips where it fires at all), heard_from
    (the mean strength from which on "it sounds" has its best F1 on these clips).
    """
    strength = codes.mean(1)
    area = auroc_matrix(strength, labels)
    low = np.nan_to_num(area - 1.96 * auroc_error(area, labels.sum(0), (~labels).sum(0)), nan=-np.inf)
    best = low.argmax(1)
    rows = np.arange(len(best))
    names = [spoken(sources[source]) if low[atom, source] >= threshold else None for atom, source in enumerate(best)]
    present = (codes > 0).any(1)
    return pd.DataFrame(
        {
            "atom": rows,
            "name": names,
            "auroc": area[rows, best],
            "auroc_low": low[rows, best],
            "fires": (codes > 0).mean((0, 1)).astype(float),
            "typical": (strength.sum(0) / np.maximum(present.sum(0), 1)).astype(float),
            "heard_from": [best_cut(strength[:, atom], labels[:, source]) for atom, source in enumerate(best)],
        }
    )


@dataclass(frozen=True)
class AtomModel:
    """A trained autoencoder with its atoms' names and typical strengths: what turns sound into a list of atoms."""

    listener: Listener
    table: pd.DataFrame
    settings: AtomSettings

    @property
    def sae(self) -> SparseCoder:
        """The autoencoder."""
        return self.listener.coder

    def save(self, folder: Path) -> None:
        """Write the autoencoder, `listener.json` and `atoms.parquet`."""
        self.sae.save_pretrained(folder)
        heard = {"reach": self.listener.reach, "threshold": self.listener.threshold}
        (folder / _LISTENER).write_text(json.dumps(heard) + "\n")
        self.table.to_parquet(folder / "atoms.parquet")

    @classmethod
    def load(cls, folder: Path, settings: AtomSettings) -> AtomModel:
        """Read what `save` wrote."""
        listener = Listener(SparseCoder.from_pretrained(folder), **json.loads((folder / _LISTENER).read_text()))
        return cls(listener, pd.read_parquet(folder / "atoms.parquet"), settings)

    def encode(self, patches: Float[np.ndarray, "clips time dim"]) -> Float[np.ndarray, "clips time atoms"]:
        """Codes of clips as this model hears them."""
        return encode_clips(self.listener, patches)

    def sound_vector(self, codes: Float[np.ndarray, "*clips time atoms"]) -> Float[np.ndarray, "*clips two_atoms"]:
        """A clip's sound as one vector (2 * atoms): log(1 + strength / typical) of each atom's mean, then maximum.

        An atom that does not fire has 0 in both places, so removing an atom is setting its two entries to 0.
        """
        typical = np.maximum(self.table["typical"].to_numpy(), 1e-3)
        pooled = np.concatenate([codes.mean(-2) / typical, codes.max(-2) / typical], axis=-1)
        return np.log1p(pooled).astype(np.float32)

    def name(self, atom: int) -> str:
        """The atom's name, or "atom 17" when it has none."""
        named = self.table["name"].iloc[atom]
        return named if isinstance(named, str) else f"atom {atom}"

    def hear(self, patches: Float[np.ndarray, "time dim"]) -> list[Atom]:
        """The `events` of one clip, by its moments: persistence says which atoms sound, the patches say when."""
        return self.events(self.listener.moments(torch.from_numpy(patches)).numpy())

    def events(self, codes: Float[np.ndarray, "time atoms"]) -> list[Atom]:
        """Every stretch of time in which an atom fires without a pause, strongest first."""
        seconds = patch_seconds(self.settings)
        found = []
        for atom in np.flatnonzero(codes.max(0) > 0):
            on = np.concatenate([[0], (codes[:, atom] > 0).astype(np.int8), [0]])
            edges = np.flatnonzero(np.diff(on)).reshape(-1, 2)
            for start, end in edges:
                peak = float(codes[start:end, atom].max())
                found.append(Atom(int(atom), self.name(int(atom)), start * seconds, end * seconds, peak))
        return sorted(found, key=lambda event: -event.strength)

    def heard(self, codes: Float[np.ndarray, "time atoms"], limit: int = 10) -> list[tuple[str, float]]:
        """The named sounds of a clip, strongest first: (name, strength in units of the weakest that counts as heard).

        Each name is spoken for by the atom that predicts it best; the others of that name appear as events only.
        """
        strength = codes.mean(0)
        speakers = self._speakers()
        relative = strength[speakers["atom"].to_numpy()] / speakers["heard_from"].to_numpy()
        found = [
            (str(name), float(times)) for name, times in zip(speakers["name"], relative, strict=True) if times >= 1
        ]
        return sorted(found, key=lambda item: -item[1])[:limit]

    def times(self, codes: Float[np.ndarray, "time atoms"]) -> dict[str, tuple[float, float]]:
        """From when to when each named sound of a clip is there: name -> (first, last) second, pauses included.

        `codes` are the listener's moments; a name is spoken for as in `heard`, and without its atom firing is left out.
        """
        seconds = patch_seconds(self.settings)
        found = {}
        for atom, name in self._speakers()[["atom", "name"]].itertuples(index=False):
            fires = np.flatnonzero(codes[:, atom] > 0)
            if len(fires):
                found[str(name)] = float(fires[0] * seconds), float((fires[-1] + 1) * seconds)
        return found

    def _speakers(self) -> pd.DataFrame:
        """The best atom of each name: atom, name, heard_from."""
        named = self.table.loc[self.table["name"].notna()].sort_values(by="auroc_low", ascending=False)
        return named.drop_duplicates("name").loc[:, ["atom", "name", "heard_from"]]
