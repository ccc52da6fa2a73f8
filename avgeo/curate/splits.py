"""Splits that share no place, no uploader, no near-duplicate and no original, and the audit that proves it.

What must stay together (a place, all of an uploader's clips, the copies of one recording) forms groups, the connected
components of a graph of clips and what they share. A group's split follows from a hash of its first place's name, so
that a corpus which only has places is split place by place, and clips added elsewhere change nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from scipy.spatial import KDTree

from avgeo.curate.candidate import CurateError
from avgeo.curate.places import arc_km, components, unit_vectors
from avgeo.curate.quotas import known
from avgeo.manifest import SPLITS
from avgeo.profiles import CurateSettings

Pairs = Iterable[tuple[Any, ...]]
"""Near-duplicates: the clip_id of one, that of the other, and whatever follows."""

Key = tuple[str, str]
"""What clips share: its kind and its name."""

_TEXTS = {
    "uploader": "uploader {}",
    "original": "original {}",
    "sha256": "same bytes {}",
    "pair": "near-duplicates of {}",
}
_SWEEPS = 12


class LeakageError(CurateError):
    """Splits that share what they must not; the message names the clips."""


def split_of(place_id: str, seed: int, test_fraction: float = 0.2, val_fraction: float = 0.2) -> str:
    """The split of a place: a fraction of a hash, so it depends on nothing but the place and the seed."""
    fraction = int.from_bytes(hashlib.sha256(f"{seed}:{place_id}".encode()).digest()[:8], "big") / 2**64
    return "test" if fraction < test_fraction else "val" if fraction < test_fraction + val_fraction else "train"


def assign_splits(
    table: pd.DataFrame, pairs: Pairs, settings: CurateSettings, seed: int
) -> tuple[pd.Series, dict[str, str], list[str]]:
    """The split of every clip of `table` (clip_id, place_id; uploader, original, sha256 where there are such columns).

    A group of several places that is larger than its split's fraction of all clips goes where there is most room. One
    that fits nowhere is cut: places and what they share get splits of their own, such that few clips belong to two, and
    these bridges are left out. Unknown uploaders and originals join nothing.

    Returns the splits, indexed like `table`, None where left out; clip_id: reason for those; and remarks about what
    was cut. Raises `CurateError` for fractions that make no sense.
    """
    fractions = _fractions(settings)
    test, val = settings.test_fraction, settings.val_fraction
    if table.empty:
        return pd.Series([], index=table.index, dtype="object"), {}, []
    ordered = table.sort_values("clip_id", kind="stable")
    shared = _shared(ordered, pairs)
    names, place = np.unique(ordered["place_id"].astype(str).to_numpy(), return_inverse=True)
    groups = _Groups(place.reshape(-1), shared, fractions, [split_of(name, seed, test, val) for name in names])
    groups.assign()
    clips = ordered["clip_id"].astype(str).tolist()
    dropped = {clips[row]: reason for row, reason in groups.reasons().items()}
    split = {clip: SPLITS[groups.chosen[at]] for clip, at in zip(clips, groups.place, strict=True)}
    splits = [None if clip in dropped else split[clip] for clip in table["clip_id"].astype(str)]
    return pd.Series(splits, index=table.index, dtype="object"), dropped, groups.remarks


def _fractions(settings: CurateSettings) -> dict[str, float]:
    test, val = settings.test_fraction, settings.val_fraction
    for name, value in (("test_fraction", test), ("val_fraction", val)):
        if not 0 <= value <= 1:
            raise CurateError(f"{name}={value}: give a share from 0 to 1")
    if test + val > 1:
        raise CurateError(f"test_fraction={test}, val_fraction={val}: together they must not exceed 1")
    return {"train": 1 - test - val, "val": val, "test": test}


# --- what clips share ---


def _shared(table: pd.DataFrame, pairs: Pairs) -> dict[Key, Int[np.ndarray, " clips"]]:
    """Rows of every uploader, original, content and set of near-duplicates that occurs more than once."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for kind in ("uploader", "original", "sha256"):
        for at, value in enumerate(table.get(kind, ())):
            if text := known(value):
                found[kind, text].append(at)
    clips = table["clip_id"].astype(str).tolist()
    row = {clip: at for at, clip in enumerate(clips)}
    links = sorted({(row[str(a)], row[str(b)]) for a, b, *_ in pairs if str(a) in row and str(b) in row})
    if links:
        label = components(len(clips), np.array(links))
        first: dict[int, str] = {}
        for at in sorted({at for link in links for at in link}):
            found["pair", first.setdefault(int(label[at]), clips[at])].append(at)
    return {key: np.array(rows) for key, rows in found.items() if len(rows) > 1}


class _Groups:
    """Places that must share a split, and the split of each: `chosen`; `dropped` has rows and what they shared."""

    def __init__(
        self,
        place: Int[np.ndarray, " clips"],
        shared: Mapping[Key, Int[np.ndarray, " clips"]],
        fractions: Mapping[str, float],
        hashed: Sequence[str],
    ) -> None:
        self.place, self.shared, self.fractions = place, shared, fractions
        self.sizes = np.bincount(place)
        self.chosen = np.array([SPLITS.index(name) for name in hashed])
        self.dropped: dict[int, Key] = {}
        self.remarks: list[str] = []

    def assign(self) -> None:
        """Decide group by group, the largest first, and untangle at the end what fits nowhere."""
        share = np.array([self.fractions[name] for name in SPLITS]) * len(self.place)
        room, tangled = share.copy(), []
        keys = [key for key in sorted(self.shared) if len(set(self.place[self.shared[key]])) > 1]
        for members in sorted(self._parts(keys), key=lambda part: (-self.sizes[part].sum(), part[0])):
            size, split = self.sizes[members].sum(), self.chosen[members[0]]
            if len(members) > 1 and size > share[split]:
                split = int(room.argmax())
                if size > room[split]:
                    tangled.append(members)
                    continue
                room[split] -= size
            self.chosen[members] = split
        if tangled:
            self._untangle(np.concatenate(tangled), keys)

    def _parts(self, keys: Sequence[Key]) -> list[Int[np.ndarray, " places"]]:
        """Places in the groups that `keys` make of them, each sorted."""
        links = [np.zeros((0, 2), dtype=np.int64)]
        for rows in (self.place[self.shared[key]] for key in keys):
            links.append(np.stack([np.full(len(rows), rows[0]), rows], axis=-1))
        label = components(len(self.sizes), np.concatenate(links))
        order = np.argsort(label, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)

    def _untangle(self, members: Int[np.ndarray, " places"], keys: Sequence[Key]) -> None:
        """Give every place and every key a split of its own; a clip stays where all that it belongs to agree.

        Coordinate ascent on Σ f log(1 + kept), a sum over the splits with their fractions f (proportional fairness,
        Kelly 1997): places start from their hashes, and each key and place in turn moves to where it gains most.
        """
        inside = np.isin(self.place, members)
        keys = [key for key in keys if inside[self.shared[key][0]]]
        keys.sort(key=lambda key: (-len(self.shared[key]), key))
        kinds = [*_TEXTS]
        nodes = np.full((len(self.place), 1 + len(kinds)), -1)
        nodes[:, 0] = self.place
        for number, key in enumerate(keys, start=len(self.sizes)):
            nodes[self.shared[key], 1 + kinds.index(key[0])] = number
        order = np.argsort(self.place, kind="stable")
        bounds = np.searchsorted(self.place[order], [members, members + 1])
        rows_of = [self.shared[key] for key in keys] + [order[low:high] for low, high in bounds.T]
        visits = list(zip([*range(len(self.sizes), len(self.sizes) + len(keys)), *members], rows_of, strict=True))
        label = np.concatenate([self.chosen, np.full(len(keys) + 1, -1)])  # -1: undecided, agrees with all
        kept = np.bincount(self.chosen[self.place], minlength=len(SPLITS)).astype(float)
        fraction = np.array([self.fractions[name] for name in SPLITS])
        for _ in range(_SWEEPS):
            before = label.copy()
            for node, rows in visits:
                present, label[node] = label[node], -1
                least, most = _span(label[nodes[rows]])
                agreed = np.bincount(most[(least == most) & (most >= 0)], minlength=len(SPLITS))
                gain_of = agreed + np.count_nonzero(most < 0)
                if present >= 0:
                    kept[present] -= gain_of[present]
                else:
                    kept -= agreed
                gain = fraction * np.log((kept + gain_of + 1) / (kept + 1))
                best = int(gain.argmax())
                if present >= 0 and gain[present] >= gain[best] - 1e-12:
                    best = int(present)
                label[node] = best
                kept[best] += gain_of[best]
            if (label == before).all():
                break
        self.chosen = label[: len(self.sizes)]
        for number, key in enumerate(keys, start=len(self.sizes)):
            for row in self.shared[key][self.chosen[self.place[self.shared[key]]] != label[number]]:
                self.dropped.setdefault(int(row), key)
        self.remarks.append(
            f"{int(inside.sum())} of {len(self.place)} clips, at {len(members)} places, hang together through "
            f"{len(keys)} shared uploaders, originals or near-duplicates: {len(self.dropped)} bridges are left out"
        )

    def reasons(self) -> dict[int, str]:
        """Why clips were left out, by row."""
        homes: dict[Key, str] = {}
        for key in set(self.dropped.values()):
            left = [SPLITS[self.chosen[self.place[row]]] for row in self.shared[key] if row not in self.dropped]
            common = sorted(Counter(left).items(), key=lambda item: (-item[1], item[0]))
            homes[key] = f"has {_count(common[0][1], 'clip')} in {common[0][0]}" if common else "is in several splits"
        return {
            row: f"{_named(key)} {homes[key]}: this one would join that to {SPLITS[self.chosen[self.place[row]]]}"
            for row, key in sorted(self.dropped.items())
        }


def _span(labels: Int[np.ndarray, "rows nodes"]) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Least and greatest of the labels that are decided; (large, -1) where none is."""
    return np.where(labels < 0, len(SPLITS), labels).min(axis=1), labels.max(axis=1)


def _named(key: Key) -> str:
    text = " ".join(key[1].split())
    return _TEXTS[key[0]].format(text if len(text) <= 60 else text[:59] + "…")


# --- the audit ---


@dataclass(frozen=True)
class LeakageReport:
    """What splits share. All but `nearest` should be empty.

    `nearest` has, for each two splits such as "train-test", the least distance (km) and the two clips; `places`,
    `uploaders`, `originals` and `contents` the clips of each that lies in more than one split; `pairs` near-duplicates
    in different splits. `accuracy_km` is how far the coordinates may have been moved on purpose.
    """

    nearest: Mapping[str, tuple[float, str, str]]
    places: Mapping[str, tuple[str, ...]]
    uploaders: Mapping[str, tuple[str, ...]]
    originals: Mapping[str, tuple[str, ...]]
    contents: Mapping[str, tuple[str, ...]]
    pairs: tuple[tuple[str, str], ...]
    accuracy_km: float = 0.0

    @property
    def nearest_km(self) -> float | None:
        """Distance of the nearest two clips of train and test, None where one of them is empty."""
        return self.nearest["train-test"][0] if "train-test" in self.nearest else None

    def summary(self) -> dict[str, Any]:
        """Distances and counts, as JSON has them."""
        return {
            "nearest_km": {name: round(km, 3) for name, (km, *_) in self.nearest.items()},
            "shared_places": len(self.places),
            "shared_uploaders": len(self.uploaders),
            "shared_originals": len(self.originals),
            "same_bytes": len(self.contents),
            "duplicate_pairs": len(self.pairs),
        }

    def problems(self, separation_km: float = 0.0) -> list[str]:
        """One line for each kind of leak, with clips to look at."""
        lines = []
        kinds = {"place": self.places, "uploader": self.uploaders, "original": self.originals, "content": self.contents}
        for kind, found in kinds.items():
            if found:
                name, clips = next(iter(found.items()))
                text = " ".join(str(name).split())[:60]
                lines.append(f"{_count(len(found), kind)} in more than one split, such as {text}: {_few(clips)}")
        if self.pairs:
            lines.append(f"{_count(len(self.pairs), 'near-duplicate pair')} across splits: {_few(self.pairs[0])}")
        for splits, (km, a, b) in self.nearest.items():
            if km < separation_km - 2 * self.accuracy_km - 1e-6:
                lines.append(f"{splits}: {a} and {b} lie {km:.3f} km apart, less than separation_km={separation_km:g}")
        return lines

    def check(self, settings: CurateSettings) -> None:
        """Raise `LeakageError` if the splits share anything, or come nearer than `settings.separation_km`."""
        if lines := self.problems(settings.separation_km):
            raise LeakageError("the splits leak: " + "; ".join(lines))


def audit_leakage(manifest: pd.DataFrame, pairs: Pairs | None = None) -> LeakageReport:
    """What the splits of `manifest` share; `pairs` are near-duplicates, by clip_id."""
    clips, split = manifest["clip_id"].astype(str).tolist(), manifest["split"].astype(str).tolist()
    of = dict(zip(clips, split, strict=True))
    across = {
        name: _across(manifest.get(name, []), clips, split) for name in ("place_id", "uploader", "original", "sha256")
    }
    twins = sorted({(min(str(a), str(b)), max(str(a), str(b))) for a, b, *_ in pairs or ()})
    accuracy = pd.to_numeric(manifest["accuracy_km"]).max() if "accuracy_km" in manifest and clips else 0.0
    return LeakageReport(
        _nearest(manifest, clips, np.array(split)),
        across["place_id"],
        across["uploader"],
        across["original"],
        across["sha256"],
        tuple(pair for pair in twins if len({of[clip] for clip in pair if clip in of}) > 1),
        float(accuracy) if np.isfinite(accuracy) else 0.0,
    )


def _across(values: Iterable[Any], clips: Sequence[str], split: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Clips of the values that occur in more than one split: the first of each split, then the others."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for value, clip, name in sorted(zip(map(known, values), clips, split, strict=False), key=lambda row: row[1]):
        if value is not None:
            found[value][name].append(clip)
    return {
        value: tuple([some[0] for some in by.values()] + [clip for some in by.values() for clip in some[1:]])
        for value, by in sorted(found.items())
        if len(by) > 1
    }


def _nearest(manifest: pd.DataFrame, clips: Sequence[str], split: np.ndarray) -> dict[str, tuple[float, str, str]]:
    latitude, longitude = (manifest[name].to_numpy(dtype=float) for name in ("latitude_deg", "longitude_deg"))
    points = unit_vectors(latitude, longitude)
    found = {}
    for one, other in combinations(SPLITS, 2):
        here, there = np.flatnonzero(split == one), np.flatnonzero(split == other)
        if len(here) and len(there):
            gaps, near = KDTree(points[there]).query(points[here])
            at = int(np.argmin(gaps))
            km = float(arc_km(np.asarray(gaps))[at])
            found[f"{one}-{other}"] = (km, clips[int(here[at])], clips[int(there[int(np.asarray(near)[at])])])
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _few(clips: Sequence[str]) -> str:
    return ", ".join(clips[:3]) + (f" and {len(clips) - 3} more" if len(clips) > 3 else "")
