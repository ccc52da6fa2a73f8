"""What `benchmarks/atoms.py` trains on and how it scores: planted data, AVG-Sim and ESC-10."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from avgeo.checksums import sha256
from avgeo.clips import read_audio
from avgeo.perceive import SAMPLE_RATE_HZ, Listener, Mixtures, mix_waveforms, patch_seconds, source_activity
from avgeo.perceive.encoders import patches
from avgeo.perceive.planted import SpectrogramBank, mix_spectrograms, superposition
from avgeo.perceive.probes import (
    best_probe,
    constant_loss,
    loss_recovered,
    pool,
    sparse_accuracy,
    sparse_probes,
)
from avgeo.perceive.recovery import SNR_DB, Triples, mixture_triples, recovery_curve
from avgeo.perceive.scores import score_atoms
from avgeo.perceive.stability import matched_cosines
from avgeo.pipeline import Pipeline
from avgeo.profiles import AtomSettings, get_profile

BOOTSTRAP = 20  # within a run: what counts here is the interval over runs
PROBED_AT = 16  # atoms at a time at which the codes of AVG-Sim are probed
PROBED = 2000  # test vectors on which the codes of different initialisations are compared
PAIRS = 200  # mixtures per SNR
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """Training vectors, mixtures for the consistency term (or None), test vectors, and the scores of a coder."""

    x: torch.Tensor
    mixtures: Mixtures | None
    probe_x: torch.Tensor
    score: Callable[[Listener, int, int], Rows]
    clips: torch.Tensor | None = None  # some of the training clips, where vectors follow each other in time


@dataclass(frozen=True)
class Source:
    """How a task is loaded: `load(quick, seed)`; `same_data` says whether every seed trains on the same data."""

    load: Callable[[bool, int], Task]
    settings: Callable[[bool], AtomSettings]
    same_data: bool = True
    reference: Callable[[bool, int], Any] = lambda quick, seeds: None


@torch.no_grad()
def dictionary_of(coder: Any, dim: int) -> np.ndarray:
    """What one unit of each atom adds to x (atoms, dim), whatever space a method's own dictionary lives in."""
    atoms = coder.encode(torch.zeros(1, dim)).shape[-1]
    return (coder.decode(torch.eye(atoms)) - coder.decode(torch.zeros(1, atoms))).numpy()


def _rows(table: pd.DataFrame) -> Rows:
    kept = table[["metric", "value", "low", "high"]].astype(object)
    return kept.where(table[["metric", "value", "low", "high"]].notna(), None).to_dict("records")


def _one(metric: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "value": float(value), "low": None, "high": None}


def _recovery(coder: Any, triples: dict[float, Triples], active: int) -> Rows:
    """Mixture recovery by SNR: above chance by both conventions, raw, and how much is held of the first sound."""
    curve = recovery_curve(coder.encode, triples, active, bootstrap=BOOTSTRAP)
    rows: Rows = []
    for row in curve.to_dict("records"):
        at = f"{row['snr_db']:+.0f} dB"
        if row["convention"] == "strongest":
            rows.append({"metric": f"recovery {at}", "value": row["recovery"], "low": row["low"], "high": row["high"]})
            rows += [
                _one(f"set F1 {at}", row["f1"]),
                _one(f"recovery kappa {at}", row["kappa"]),
                _one(f"first held {at}", row["first"]),
            ]
        else:
            rows += [
                {"metric": f"support recovery {at}", "value": row["recovery"], "low": row["low"], "high": row["high"]},
                _one(f"support F1 {at}", row["f1"]),
                _one(f"support kappa {at}", row["kappa"]),
            ]
    return rows


# --- planted data ---


def _planted_settings(quick: bool) -> AtomSettings:
    return replace(AtomSettings(), atoms=512, epochs=2 if quick else AtomSettings().epochs)


def _as_clips(x: torch.Tensor) -> np.ndarray:
    return x.numpy()[:, None]


@lru_cache(maxsize=1)
def _planted(quick: bool) -> Task:
    train, fit, test = (superposition(n, 0, draw) for draw, n in enumerate((10_000 if quick else 60_000, 4000, 4000)))
    pairs = superposition(2 * 4000, 0, 3)
    first, second = pairs.x[::2], pairs.x[1::2]
    mixtures = Mixtures(first, second, first + second)
    apart = superposition(2 * 1000, 0, 4)
    triples = {0.0: Triples.of_vectors(apart.x[::2], apart.x[1::2], apart.x[::2] + apart.x[1::2])}

    def score(coder: Any, active: int, seed: int) -> Rows:
        dictionary = dictionary_of(coder, train.x.shape[1])
        dictionary /= np.maximum(np.linalg.norm(dictionary, axis=1, keepdims=True), 1e-12)
        truth, child = train.directions.numpy(), train.child.numpy()
        cosines = matched_cosines(truth, dictionary)  # in the order of the true directions: there are more atoms
        parts = [(_as_clips(part.x), _as_clips(part.strength > 0)) for part in (fit, test)]
        places = [str(number) for number in range(len(test.x))]
        return [
            _one("dictionary MCC", cosines.mean()),
            _one("found at .9", (cosines >= 0.9).mean()),
            _one("dictionary MCC of children", cosines[child].mean()),
            _one("MMCS", (truth @ dictionary.T).max(1).mean()),
            *_rows(score_atoms(coder, *parts, places, bootstrap=100)),
            *_recovery(coder, triples, active),
        ]

    return Task(train.x, mixtures, test.x[:PROBED], score)


@lru_cache(maxsize=1)
def _spectrogram(quick: bool) -> Task:
    bank = SpectrogramBank.make(0)
    (x, _), fit, test = (bank.sample(n, draw) for draw, n in enumerate((8000 if quick else 60_000, 4000, 4000)))
    parts, _ = bank.sample(2 * 4000, 3)
    mixtures = Mixtures(parts[::2], parts[1::2], mix_spectrograms(parts[::2], parts[1::2]))
    triples = {snr_db: Triples.of_vectors(*bank.pairs(1000, snr_db, 4)) for snr_db in SNR_DB}

    def score(coder: Any, active: int, seed: int) -> Rows:
        labelled = [(_as_clips(part), _as_clips(active)) for part, active in (fit, test)]
        places = [str(number) for number in range(len(test[0]))]
        return [
            *_rows(score_atoms(coder, *labelled, places, bootstrap=100)),
            *_recovery(coder, triples, active),
        ]

    return Task(x, mixtures, test[0][:PROBED], score)


# --- AVG-Sim ---


def _sim_settings(quick: bool) -> AtomSettings:
    settings = get_profile("smoke").atoms
    return replace(settings, epochs=2) if quick else settings


@lru_cache(maxsize=1)
def _avg_sim(quick: bool) -> Task:
    study, settings = Pipeline(get_profile("smoke"), 0, only_find=True), _sim_settings(quick)
    rows = {name: study.rows_of(name) for name in ("train", "val", "test")}
    features = study.embedded.patches
    x = torch.from_numpy(features[rows["train"]].astype(np.float32)).flatten(0, 1)
    some = np.random.default_rng(0).permutation(rows["train"])[: 40 if quick else settings.mixtures]
    sounds = [read_audio(study.world.path / path, SAMPLE_RATE_HZ) for path in study.manifest["path"].iloc[some]]
    shortest = min(map(len, sounds))
    audio = torch.from_numpy(np.stack([sound[:shortest] for sound in sounds]))
    mixtures = mix_waveforms(audio, len(some), settings, 0)

    clips = study.manifest["clip_id"].tolist()
    _, active = source_activity(study.truth, clips, features.shape[1], patch_seconds(settings))
    present = np.asarray(active.any(axis=1))
    places = study.manifest["place_id"].to_numpy()
    about = study.manifest.merge(study.places[["place_id", "region"]], on="place_id", how="left")
    region, names = pd.factorize(about["region"], sort=True)
    label = {name: region[which] for name, which in rows.items()}
    own = {name: pool(features[which].astype(np.float32)) for name, which in rows.items()}
    probe = best_probe([own["train"], own["val"]], [label["train"], label["val"]], len(names))
    original = probe.loss(own["test"], label["test"])
    constant = constant_loss(label["train"], label["test"], len(names))
    first, second = _sim_pairs(study, 20 if quick else PAIRS)
    triples = {
        snr_db: mixture_triples(first, second, snr_db, lambda sound: patches(sound, settings)) for snr_db in SNR_DB
    }

    def encoded(coder: Any, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation over time of the codes and of what they rebuild, clip by clip."""
        codes, rebuilt = [], []
        for start in range(0, len(which), 100):
            block = torch.from_numpy(features[which[start : start + 100]].astype(np.float32))
            with torch.no_grad():
                code = coder.encode(block)
                decoded = coder.decode(code)
            codes.append(pool(code.numpy()))
            rebuilt.append(pool(decoded.numpy()))
        return np.concatenate(codes), np.concatenate(rebuilt)

    def score(coder: Any, active_atoms: int, seed: int) -> Rows:
        parts = [(features[rows[name]], active[rows[name]]) for name in ("val", "test")]
        found = _rows(score_atoms(coder, *parts, places[rows["test"]].tolist(), bootstrap=BOOTSTRAP))
        found += _recovery(coder, triples, active_atoms)
        if active_atoms != PROBED_AT:  # probes cost more than all the rest
            return found
        pooled = {name: encoded(coder, which) for name, which in rows.items()}
        codes = {name: part[0] for name, part in pooled.items()}
        means = {name: part[:, : part.shape[1] // 2] for name, part in codes.items()}
        probes = sparse_probes((means["train"], present[rows["train"]]), (means["test"], present[rows["test"]]))
        for k, part in probes.groupby("k"):
            found += [_one(f"probe AUROC k={k}", part["auroc"].mean()), _one(f"probe F1 k={k}", part["f1"].mean())]
        reader = best_probe([codes["train"], codes["val"]], [label["train"], label["val"]], len(names))
        for what, loss in (
            ("reconstruction", probe.loss(pooled["test"][1], label["test"])),
            ("codes", reader.loss(codes["test"], label["test"])),
        ):
            kept = loss_recovered(constant, original, loss, places[rows["test"]].tolist(), bootstrap=BOOTSTRAP)
            of = {"replaced": f"place loss, {what}", "recovered": f"place loss recovered, {what}"}
            found += _rows(kept.assign(metric=kept["metric"].map(of)).dropna(subset="metric"))
        return found

    probe_x = torch.from_numpy(features[rows["test"]].astype(np.float32)).flatten(0, 1)
    chosen = np.random.default_rng(0).permutation(len(probe_x))[:PROBED]
    return Task(x, mixtures, probe_x[torch.from_numpy(chosen)], score, x.reshape(-1, *features.shape[1:])[::4])


def _sim_pairs(study: Pipeline, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pairs of clips of AVG-Sim in which one source sounds all along, 30 dB above the recorder's noise.

    They are rendered anew (`avgeo.world.soundscape.mix`): the same sources as in the world, other sounds.
    """
    from avgeo.world.soundscape import mix

    audible = study.truth.loc[study.truth["modality"] == "audible"]
    # a voice's languages are many, its sources few: every source is as likely, and of its values any
    by_source = {
        source: sorted(set(zip(part["cue"], part["value"], strict=True))) for source, part in audible.groupby("source")
    }
    rng, world = np.random.default_rng(10_007), study.profile.world
    sounds: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for _ in range(count):
        for place, source in enumerate(rng.choice(list(by_source), 2, replace=False)):
            cue, value = by_source[source][rng.integers(len(by_source[source]))]
            track = mix([(cue, value, 0.0, world.duration_s, 30.0)], world.duration_s, SAMPLE_RATE_HZ, rng)
            sounds[place].append(torch.from_numpy(track))
    return sounds


# --- ESC-10 ---

# The same recording lies in two folds (first digit of the name); the second copy joins the first one's fold.
DUPLICATES = {"5-151085-A": 3, "2-30322-A": 2}
BIRD_S = 60.0  # of each bird recording
AUDIBLE = 0.1  # log-mel; below it in every band a patch is the silence that recordings were padded with


def _esc_settings(quick: bool) -> AtomSettings:
    return replace(AtomSettings(), atoms=512, epochs=2 if quick else 30)


def _mirrored(folder: str, suffix: str) -> list[Path]:
    """The mirror's files under a folder, each checked against the SHA-256 in the mirror's own SOURCES.csv."""
    if "AVGEO_MIRROR" not in os.environ:
        raise SystemExit("set AVGEO_MIRROR to the folder that holds esc10/ and xeno_canto/")
    mirror = Path(os.environ["AVGEO_MIRROR"])
    table = pd.read_csv(mirror / "SOURCES.csv")
    wanted = table.loc[table["path"].str.startswith(f"{folder}/") & table["path"].str.endswith(suffix)]
    if wanted.empty:
        raise SystemExit(f"{mirror}/SOURCES.csv lists no {folder}/*{suffix}")
    for path, digest in zip(wanted["path"], wanted["sha256"], strict=True):
        if sha256(mirror / path) != digest:
            raise SystemExit(f"{mirror / path} is not the file that SOURCES.csv lists")
    return [mirror / path for path in sorted(wanted["path"])]


@dataclass(frozen=True)
class Recordings:
    """ESC-10 as sound (5 s each) and as patches; classes, folds; and patches of the birds."""

    names: list[str]
    sound: torch.Tensor
    patches: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    birds: torch.Tensor


@lru_cache(maxsize=1)
def recordings(quick: bool) -> Recordings:
    """Every ESC-10 recording, cut or padded with silence to 5 s, and the first minute of every bird's."""
    settings = _esc_settings(quick)
    files = _mirrored("esc10", ".ogg")
    length = 5 * SAMPLE_RATE_HZ
    read = [torch.from_numpy(read_audio(file, SAMPLE_RATE_HZ))[:length] for file in files]
    sound = torch.stack([torch.nn.functional.pad(part, (0, length - len(part))) for part in read])
    label, names = pd.factorize(np.array([file.parent.name.partition("_")[2] for file in files]), sort=True)
    fold = np.array([DUPLICATES.get(file.stem, int(file.stem[0])) for file in files])
    birds = _mirrored("xeno_canto", ".mp3")[: 3 if quick else None]
    songs = [patches(torch.from_numpy(read_audio(file, SAMPLE_RATE_HZ, BIRD_S)), settings) for file in birds]
    return Recordings(list(names), sound, patches(sound, settings).numpy(), label, fold, torch.cat(songs))


def _folds(seed: int) -> tuple[list[int], int, int]:
    """(training folds, the fold on which atoms are chosen, the test fold): every seed rotates by one."""
    turned = [(seed + number) % 5 + 1 for number in range(5)]
    return turned[:3], turned[3], turned[4]


def _clip_means(frames: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Mean of frames (clips, time, dim) over the time in which a clip is not silent."""
    return (frames * heard[..., None]).sum(1) / np.maximum(heard.sum(1), 1)[:, None]


@lru_cache(maxsize=1)
def _esc10(quick: bool, seed: int) -> Task:
    settings, all_of = _esc_settings(quick), recordings(quick)
    training, fit, test = _folds(seed % 5)
    heard = np.asarray((all_of.patches > AUDIBLE).any(axis=-1))
    rows = {
        "train": np.flatnonzero(np.isin(all_of.fold, training)),
        "fit": np.flatnonzero(all_of.fold == fit),
        "test": np.flatnonzero(all_of.fold == test),
    }
    x = torch.cat([torch.from_numpy(all_of.patches[rows["train"]][heard[rows["train"]]]), all_of.birds])
    mixtures = mix_waveforms(all_of.sound[rows["train"]], 40 if quick else settings.mixtures, settings, 0)
    active = heard[..., None] & (all_of.label[:, None, None] == np.arange(len(all_of.names)))
    present = all_of.label[:, None] == np.arange(len(all_of.names))
    first, second = _esc_pairs(all_of, rows["test"], 20 if quick else PAIRS, seed)
    triples = {
        snr_db: mixture_triples(first, second, snr_db, lambda sound: patches(sound, settings)) for snr_db in SNR_DB
    }

    def score(coder: Any, active_atoms: int, seed: int) -> Rows:
        parts = [(all_of.patches[rows[name]], active[rows[name]]) for name in ("fit", "test")]
        clips = [str(row) for row in rows["test"]]
        found = _rows(score_atoms(coder, *parts, clips, bootstrap=BOOTSTRAP))
        found += _recovery(coder, triples, active_atoms)
        with torch.no_grad():
            code = coder.encode(torch.from_numpy(all_of.patches)).numpy()
        means = _clip_means(code, heard)
        known = np.concatenate([rows["train"], rows["fit"]])
        taught, asked = (means[known], present[known]), (means[rows["test"]], present[rows["test"]])
        for k, part in sparse_probes(taught, asked).groupby("k"):
            found.append(_one(f"probe AUROC k={k}", part["auroc"].mean()))
        found += [_one(f"probe accuracy k={k}", value) for k, value in sparse_accuracy(taught, asked).items()]
        return found

    probe_x = torch.from_numpy(all_of.patches[rows["test"]][heard[rows["test"]]])
    clips = torch.from_numpy(all_of.patches[rows["train"]])
    return Task(x, mixtures, probe_x[:PROBED], score, clips)


def _esc_pairs(
    all_of: Recordings, rows: np.ndarray, count: int, seed: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pairs of recordings of two classes; recordings in which nothing sounds together are passed over later."""
    rng = np.random.default_rng(seed)
    first, second = [], []
    for _ in range(count):
        one = rng.choice(rows)
        other = rng.choice(rows[all_of.label[rows] != all_of.label[one]])
        first.append(all_of.sound[one])
        second.append(all_of.sound[other])
    return first, second


def _esc_reference(quick: bool, seeds: int) -> Any:
    """Accuracy of a dense softmax probe on mean log-mel frames, per rotation: what atoms are to keep."""
    all_of, found = recordings(quick), []
    heard = np.asarray((all_of.patches > AUDIBLE).any(axis=-1))
    means = _clip_means(all_of.patches, heard)
    for seed in range(seeds):
        training, fit, test = _folds(seed % 5)
        which = [np.isin(all_of.fold, training), all_of.fold == fit, all_of.fold == test]
        probe = best_probe([means[part] for part in which], [all_of.label[part] for part in which], len(all_of.names))
        found.append(float((probe(means[which[2]]).argmax(1) == all_of.label[which[2]]).mean()))
    return {"dense log-mel probe accuracy": found}


TASKS = {
    "planted": Source(lambda quick, seed: _planted(quick), _planted_settings),
    "spectrogram": Source(lambda quick, seed: _spectrogram(quick), _planted_settings),
    "avg-sim": Source(lambda quick, seed: _avg_sim(quick), _sim_settings),
    "esc10": Source(_esc10, _esc_settings, same_data=False, reference=_esc_reference),
}
