"""Audit for shortcuts: does anything about a corpus' files, other than what they show and let hear, tell the place?

Six groups of features are measured on every file and nothing is decoded to pictures: what the container says, its
size, loudness, silence, what the codecs left (sizes of packets, keyframes), and how little of a packet is filler. From
each group alone, and from all together, places are predicted by nearest neighbours in folds that keep a place's clips
together, and scored against the best constant: the same rule with every training clip as neighbour. A gain whose
interval lies above 0 is a shortcut. Filler is what a constant bit rate leaves when sound and picture are simple, and
silence is what is heard between sources: a gain there may be honest evidence, if crude. Container, size, loudness and
codec should have none at all. What no group covers: the samples and pixels themselves, and the quantisers.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.spatial import KDTree

from avgeo.clips import read_audio
from avgeo.engine import map_items
from avgeo.manifest import read_manifest
from avgeo.world.geography import EARTH_RADIUS_KM, WorldError, unit_vectors
from avgeo.world.guesses import GEOSCORE_SCALE_KM

GROUPS = ("container", "size", "loudness", "silence", "codec", "filler")
_FOLDS = 5
_LEVEL = 1 - 0.05 / (2 * (len(GROUPS) + 1))  # two gains of each group and of all: 95 % for all intervals at once
_BLUR_KM = 750.0  # of the density that the log score is taken of
_TRUST = 0.5  # in the neighbours; the rest stays with the constant, so that noise costs little
_RATE_HZ = 16_000
_FILLER_NAL = 12


def clip_features(path: str | os.PathLike[str]) -> dict[str, float]:
    """What a file tells besides its content, as `group/name` -> number; raises `ClipError` for an unusable file."""
    found = {"size/bytes": float(Path(path).stat().st_size)}
    with av.open(str(path)) as file:
        tags = sorted({**file.metadata}.items())
        found["container/bit_rate"] = float(file.bit_rate or 0)
        found["container/duration"] = float(file.duration or 0)
        packets: dict[str, list[av.Packet]] = {stream.type: [] for stream in file.streams}
        for stream in file.streams:
            tags += sorted(stream.metadata.items())
            found[f"container/{stream.type}_start"] = float(stream.start_time or 0)
            found[f"container/{stream.type}_duration"] = float(stream.duration or 0)
            found[f"container/{stream.type}_setup"] = float(zlib.crc32(stream.codec_context.extradata or b""))
        found["container/tags"] = float(zlib.crc32(repr(tags).encode()))
        for packet in file.demux():
            if packet.size:
                packets[packet.stream.type].append(packet)
    for kind, items in packets.items():
        sizes = np.array([packet.size for packet in items], float)
        filler = np.array([_filler_bytes(kind, bytes(packet)) for packet in items], float)
        found |= {
            f"codec/{kind}_packets": float(len(items)),
            f"codec/{kind}_keyframes": float(sum(packet.is_keyframe for packet in items)),
            f"codec/{kind}_largest": sizes.max(),
            f"codec/{kind}_spread": sizes.std(),
            f"filler/{kind}_coded": (sizes - filler).mean(),
            f"filler/{kind}_coded_spread": (sizes - filler).std(),
        }
    return found | _sound_features(read_audio(path, _RATE_HZ))


def _filler_bytes(kind: str, packet: bytes) -> int:
    """Bytes of a packet that carry nothing: filler NAL units of H.264, zeros in AAC's fill elements."""
    if kind != "video":
        return packet.count(0)
    total, at = 0, 0
    while at + 5 <= len(packet):
        length = int.from_bytes(packet[at : at + 4], "big")
        total += length if packet[at + 4] & 31 == _FILLER_NAL else 0
        at += 4 + length
    return total


def _sound_features(sound: Float64[np.ndarray, " samples"]) -> dict[str, float]:
    rms, peak = float(np.sqrt(np.mean(sound.astype(float) ** 2))), float(np.abs(sound).max())
    window = _RATE_HZ // 20
    pieces = sound[: len(sound) // window * window].reshape(-1, window).astype(float)
    levels_db = 10 * np.log10(np.mean(pieces**2, axis=1) + 1e-12)
    quiet = levels_db < -60
    return {
        "loudness/rms_db": 20 * np.log10(rms + 1e-6),
        "loudness/peak_db": 20 * np.log10(peak + 1e-6),
        "silence/share": float(quiet.mean()),
        "silence/zeros": float(np.mean(sound == 0)),
        "silence/quietest_db": float(levels_db.min()),
        "silence/lull_db": float(np.percentile(levels_db, 10) - np.median(levels_db)),
    }


def measure(folder: str | os.PathLike[str], workers: int = 1, engine: str = "process") -> pd.DataFrame:
    """`clip_features` of every clip of a corpus, indexed by clip_id, beside its place and coordinates."""
    manifest = read_manifest(folder)
    root = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    paths = [root / path for path in manifest["path"]]
    rows = map_items(clip_features, paths, engine=engine, workers=workers, description="audit", unit="clip")
    table = pd.DataFrame(list(rows)).fillna(0.0)
    for column in ("clip_id", "place_id", "latitude_deg", "longitude_deg"):
        table[column] = manifest[column].to_numpy()
    return table.set_index("clip_id")


def audit_shortcuts(
    corpus: str | os.PathLike[str] | pd.DataFrame, seed: int = 0, bootstrap: int = 4000, workers: int = 1
) -> pd.DataFrame:
    """One row per group of features, and one for "all": how well it tells places, against the best constant.

    `corpus` is a folder with a manifest, a manifest, or the table of `measure`. Columns: how many features vary;
    GeoScore and median distance of predictions and constant; `geoscore_gain` and `bits` (gain of the log score of a
    density of places, bits a clip), each with an interval by place (`_low`, `_high`), 95 % for all of
    them at once (Bonferroni), so that a sound corpus seldom shows a gain anywhere. Raises `WorldError` when
    there are fewer than ten places.
    """
    table = corpus if isinstance(corpus, pd.DataFrame) else measure(corpus, workers)
    place, _ = pd.factorize(table["place_id"])
    where = table.groupby(place)[["latitude_deg", "longitude_deg"]].mean().to_numpy()
    if len(where) < 2 * _FOLDS:
        raise WorldError(f"corpus: {len(where)} places are too few for an audit; give {2 * _FOLDS} or more")
    rows = []
    for group in (*GROUPS, "all"):
        names = [name for name in table.columns if name.startswith(f"{group}/") or (group == "all" and "/" in name)]
        features = table[names].to_numpy(float)
        features = features[:, np.ptp(features, axis=0) > 0]
        rows.append({"group": group, "features": len(names), "varying": features.shape[1]})
        rows[-1] |= _summary(_scores(features, place, where, seed), place, bootstrap, seed)
    return pd.DataFrame(rows).set_index("group")


def _scores(
    features: Float64[np.ndarray, "clips features"],
    place: Int64[np.ndarray, " clips"],
    where: Float64[np.ndarray, "places 2"],
    seed: int,
) -> dict[str, Float64[np.ndarray, " clips"]]:
    """Scores of every clip, predicted from the other folds' places."""
    vectors = unit_vectors(where[:, 0], where[:, 1])
    cosine = np.clip(vectors @ vectors.T, -1, 1)
    distance_km = EARTH_RADIUS_KM * np.arccos(cosine)
    geoscore = 5000 * np.exp(-distance_km / GEOSCORE_SCALE_KM)
    kernel = np.exp((cosine - 1) * (EARTH_RADIUS_KM / _BLUR_KM) ** 2) + 1e-6  # a floor: no place is impossible
    fold = np.random.default_rng(seed).permutation(len(where)) % _FOLDS
    names = ("geoscore", "constant_geoscore", "km", "constant_km", "bits")
    scores = {name: np.zeros(len(place)) for name in names}
    for number in range(_FOLDS):
        test = np.flatnonzero(fold[place] == number)
        train = np.flatnonzero(fold[place] != number)
        everywhere = np.bincount(place[train], minlength=len(where)) / len(train)
        belief = np.tile(everywhere, (len(test), 1))
        if features.shape[1]:
            near = _neighbours(features[train], features[test])
            belief *= 1 - _TRUST
            np.add.at(belief, (np.arange(len(test))[:, None], place[train][near]), _TRUST / near.shape[1])
        truth = place[test]
        for prefix, weights in (("", belief), ("constant_", np.tile(everywhere, (len(test), 1)))):
            guess = np.argmax(weights @ geoscore, axis=1)
            scores[f"{prefix}geoscore"][test] = geoscore[guess, truth]
            scores[f"{prefix}km"][test] = distance_km[guess, truth]
            bits = np.log2(np.einsum("cp,pc->c", weights, kernel[:, truth]))
            scores["bits"][test] += -bits if prefix else bits
    return scores


def _neighbours(train: np.ndarray, test: np.ndarray) -> Int64[np.ndarray, "clips k"]:
    """The nearest training clips of each test clip, features taken as ranks among the training clips."""
    order = np.sort(train, axis=0)
    ranked = [
        np.column_stack([np.searchsorted(order[:, j], values[:, j]) for j in range(values.shape[1])]) / len(train)
        for values in (train, test)
    ]
    count = max(5, round(2 * np.sqrt(len(train))))
    return np.atleast_2d(KDTree(ranked[0]).query(ranked[1], k=min(count, len(train)))[1])


def _summary(scores: Mapping[str, np.ndarray], place: np.ndarray, bootstrap: int, seed: int) -> dict[str, Any]:
    from avgeo.evaluate import place_interval  # loads torch, which the workers that measure files do without

    row: dict[str, Any] = {name: scores[name].mean() for name in ("geoscore", "constant_geoscore")}
    row |= {f"{prefix}median_km": float(np.median(scores[f"{prefix}km"])) for prefix in ("", "constant_")}
    gains = {"geoscore_gain": scores["geoscore"] - scores["constant_geoscore"], "bits": scores["bits"]}
    for name, gain in gains.items():
        found = place_interval(gain, place, bootstrap=bootstrap, level=_LEVEL, seed=seed)
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row
