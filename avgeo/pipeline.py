"""The whole system as a chain of artifacts: world -> features -> atoms -> reasoner -> proposals -> flow -> predictions.

Each of its properties is a finished artifact, made on first use together with whatever it rests on, and found in the
cache afterwards. Splits are by place: `train` teaches every stage; `val` names the atoms and trains the flow too, alone
in showing it proposals, because the reasoner has not seen its answers; `test` is touched by the evaluation alone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from avgeo.artifacts import Artifact, build
from avgeo.atlas import write_atlas
from avgeo.conditions import SHOWN, told
from avgeo.engine import default_workers
from avgeo.evaluate import best_constant, kernel_density
from avgeo.examples import examples, listened
from avgeo.flow import Condition, SphereFlow, point_estimate, train_flow
from avgeo.manifest import read_manifest
from avgeo.perceive import (
    AtomModel,
    Features,
    SightModel,
    compared,
    embed_corpus,
    fit_atoms,
    named,
    patch_seconds,
    source_activity,
    train_sights,
    visible_sources,
)
from avgeo.profiles import Profile
from avgeo.reason import Reasoner, load_reasoner, train_reasoner
from avgeo.recalibrate import FIRST_SEED, POINTS, fresh_world, recalibrate
from avgeo.sphere import from_degrees, to_degrees
from avgeo.world import simulate
from avgeo.world.ceiling import ceiling, fresh_ceiling
from avgeo.world.places import build_pool
from avgeo.world.posterior import observed

WORLD_TABLES = (
    "country_cues.csv",
    "language_voices.csv",
    "natural_earth/shapefiles/natural_earth/cultural/ne_110m_admin_0_countries.shp",
    "natural_earth/shapefiles/natural_earth/physical/ne_110m_coastline.shp",
    "natural_earth/shapefiles/natural_earth/physical/ne_110m_lakes.shp",
)

SENSES = {row: shown[0] if len(shown) == 1 else "both" for row, shown in SHOWN.items()}
SENSES |= {"constant": "both", "reasoner alone": "both"}
"""What the Bayes ceiling of each row of the evaluation may know."""

MODEL_PARTS = ("atoms", "sights", "reasoner", "flow", "recalibration")
"""The artifacts that locating a clip needs."""


@dataclass(frozen=True)
class Pipeline:
    """One profile and one seed of the whole system; with `only_find`, nothing is ever trained."""

    profile: Profile
    seed: int = 0
    only_find: bool = False

    @cached_property
    def world(self) -> Artifact:
        """AVG-Sim: manifest, truth, places and media."""
        return build(
            "world", self._make_world, settings=self.profile.world, seed=self.seed,
            code=("clips", "manifest", "engine", "world"), tables=WORLD_TABLES, only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def features(self) -> Artifact:
        """Log-mel patches and thumbnails of every clip."""
        return build(
            "features", self._make_features, settings=self.profile.atoms, seed=self.seed,
            inputs={"world": self.world}, code=("clips", "decode", "perceive/encoders", "perceive/embedding"),
            only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def atoms(self) -> Artifact:
        """The sparse autoencoder, its history and its named atoms, with the codes of every clip."""
        return build(
            "atoms", self._make_atoms, settings=self.profile.atoms, seed=self.seed,
            inputs={"world": self.world, "features": self.features},
            code=("perceive", "pipeline"), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def sights(self) -> Artifact:
        """The network that recognises visible cues, and its history."""
        return build(
            "sights", self._make_sights, settings=self.profile.atoms, seed=self.seed,
            inputs={"world": self.world, "features": self.features},
            code=("perceive", "pipeline"), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def atom_scores(self) -> Artifact:
        """Ours, a plain TopK autoencoder and an untrained one, scored on test places against the true sources."""
        return build(
            "atom_scores", self._make_atom_scores, seed=self.seed,
            settings={"atoms": asdict(self.profile.atoms), "evaluate": asdict(self.profile.evaluate)},
            inputs={"atoms": self.atoms}, code=("evaluate", "perceive", "pipeline"), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def atlas(self) -> Artifact:
        """A static page of every atom, by validation clips: `index.html`, and `summary.json`."""
        return build(
            "atlas", self._make_atlas, settings=self.profile.atoms, seed=self.seed,
            inputs={"world": self.world, "features": self.features, "atoms": self.atoms},
            code=("atlas", "clips", "decode", "perceive", "pipeline"),
            tables=("natural_earth/shapefiles/natural_earth/physical/ne_110m_land.shp",), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def reasoner(self) -> Artifact:
        """The language model after SFT, and its GRPO adapter."""
        return build(
            "reasoner", self._make_reasoner, settings=self.profile.reason, seed=self.seed,
            inputs={"world": self.world, "features": self.features, "atoms": self.atoms},
            code=("examples", "reason", "sphere", "pipeline"), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def proposals(self) -> Artifact:
        """The reasoner's answer for every clip, parse failures kept and counted."""
        return build(
            "proposals", self._make_proposals, settings=self.profile.reason, seed=self.seed,
            inputs={"reasoner": self.reasoner}, code=("reason",), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def flow(self) -> Artifact:
        """The conditional density over the sphere."""
        return build(
            "flow", self._make_flow, settings=self.profile.flow, seed=self.seed,
            inputs={"atoms": self.atoms, "sights": self.sights, "proposals": self.proposals},
            code=("conditions", "flow", "sphere", "pipeline"), only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def fresh(self) -> Pipeline:
        """A smaller world of other places, by which the flow is recalibrated."""
        return fresh_world(self, FIRST_SEED + self.seed, places=self.profile.evaluate.calibration_places)

    @cached_property
    def recalibration(self) -> Artifact:
        """Temperature and floor of every row, fitted on the fresh world."""
        return build(
            "recalibration", lambda out: recalibrate(self, self.fresh, out), settings=POINTS, seed=self.seed,
            inputs={"flow": self.flow, "fresh": self.fresh.features}, code=("conditions", "flow", "recalibrate"),
            only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def predictions(self) -> Artifact:
        """Every row's point and log density for every test clip."""
        return build(
            "predictions", self._make_predictions, settings=self.profile.flow, seed=self.seed,
            inputs={"flow": self.flow}, code=("conditions", "evaluate", "flow", "sphere", "pipeline"),
            only_find=self.only_find,
        )  # fmt: skip

    @cached_property
    def ceiling(self) -> Artifact:
        """The best any method can reach: `fresh.parquet` over fresh draws, `test.parquet` on the test clips."""
        return build(
            "ceiling", self._make_ceiling, settings=self.profile.evaluate, seed=self.seed,
            inputs={"world": self.world}, code=("world",), only_find=self.only_find,
        )  # fmt: skip

    # What the artifacts hold, opened.

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """One row per clip, in the order of every other table here."""
        return read_manifest(self.world.path / "manifest.parquet")

    @cached_property
    def truth(self) -> pd.DataFrame:
        """One row per audible or visible event."""
        return pd.read_parquet(self.world.path / "truth.parquet")

    @cached_property
    def places(self) -> pd.DataFrame:
        """One row per place, with its attributes."""
        return pd.read_parquet(self.world.path / "places.parquet")

    @cached_property
    def embedded(self) -> Features:
        """Patches and thumbnails."""
        return Features.load(self.features.path)

    @cached_property
    def atom_model(self) -> AtomModel:
        """The autoencoder with its names."""
        return AtomModel.load(self.atoms.path, self.profile.atoms)

    @cached_property
    def sight_model(self) -> SightModel:
        """The recogniser of visible cues."""
        return SightModel.from_pretrained(self.sights.path)

    @cached_property
    def codes(self) -> np.ndarray:
        """Codes (clips, time, atoms) of every clip."""
        return self.atom_model.encode(self.embedded.patches)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """What the reasoner is told and taught about every clip: heard atoms, and the true cues for its traces."""
        sound = listened(self.atom_model, self.codes, self.embedded.patches, times=self.profile.reason.prompt_times)
        return examples(self.manifest, self.truth, self.places, sound)

    @cached_property
    def points(self) -> torch.Tensor:
        """Where every clip was recorded: unit vectors (clips, 3)."""
        columns = (self.manifest[name].to_numpy(np.float32) for name in ("latitude_deg", "longitude_deg"))
        return from_degrees(*(torch.tensor(column) for column in columns))

    def rows_of(self, *splits: str) -> np.ndarray:
        """Row numbers of the clips in these splits."""
        return np.flatnonzero(self.manifest["split"].isin(splits))

    def condition(self, rows: np.ndarray) -> Condition:
        """What the flow may know of these clips; clips the reasoner was trained on come without its proposal."""
        proposals = pd.read_parquet(self.proposals.path / "proposals.parquet").iloc[rows]
        unseen = self.manifest["split"].iloc[rows].ne("train").to_numpy()
        frames = self.embedded.frames[rows]
        return told(self.atom_model, self.sight_model, self.codes[rows], frames, proposals, unseen)

    @cached_property
    def reasoner_model(self) -> Reasoner:
        """The trained language model."""
        return load_reasoner(self.reasoner.path)

    @cached_property
    def sphere_flow(self) -> SphereFlow:
        """The trained density."""
        return SphereFlow.from_pretrained(self.flow.path)

    # How each artifact is made.

    def _make_world(self, out: Path) -> None:
        simulate(self.profile.world, self.seed, out, workers=default_workers())

    def _make_features(self, out: Path) -> None:
        embed_corpus(self.manifest, self.world.path, self.profile.atoms, out, complete=True)

    def _make_atoms(self, out: Path) -> None:
        settings = self.profile.atoms
        train, held_out = self.rows_of("train"), self.rows_of("val")
        files = [self.world.path / path for path in self.manifest["path"].iloc[train]]
        heard, history = fit_atoms(self.embedded.patches[train], files, settings, self.seed)
        sources, labelled = self._labelled(held_out)
        named(heard, labelled, sources, settings).save(out)
        history.to_parquet(out / "history.parquet")

    def _labelled(self, rows: np.ndarray) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
        """All audible sources, and these clips' patches with what sounds in each."""
        patches = self.embedded.patches[rows]
        clips = self.manifest["clip_id"].iloc[rows].tolist()
        sources, active = source_activity(self.truth, clips, patches.shape[1], patch_seconds(self.profile.atoms))
        return sources, (patches, active)

    def _make_sights(self, out: Path) -> None:
        rows = self.rows_of("train")
        sources, present = visible_sources(self.truth, self.manifest["clip_id"].iloc[rows].tolist())
        model, history = train_sights(self.embedded.frames[rows], present, sources, self.profile.atoms, self.seed)
        model.save_pretrained(out)
        history.to_parquet(out / "history.parquet")

    def _make_atom_scores(self, out: Path) -> None:
        test = self.rows_of("test")
        compared(
            self.atom_model.listener, self.embedded.patches[self.rows_of("train")],
            (self._labelled(self.rows_of("val"))[1], self._labelled(test)[1]),
            self.manifest["place_id"].iloc[test].tolist(), self.profile.atoms,
            bootstrap=self.profile.evaluate.bootstrap, seed=self.seed,
        ).to_parquet(out / "scores.parquet")  # fmt: skip

    def _make_atlas(self, out: Path) -> None:
        rows = self.rows_of("val")
        about = self.places[["place_id", "name", "country"]].rename(columns={"name": "place"})
        clips = self.manifest.iloc[rows].merge(about, on="place_id", how="left")
        summary = write_atlas(
            out, self.atom_model, self.codes[rows], clips, root=self.world.path, seed=self.seed,
            title=f"Atlas of acoustic atoms: AVG-Sim, {self.profile.name}, seed {self.seed}",
            evidence="AVG-Sim (simulated), validation places",
        )  # fmt: skip
        (out / "summary.json").write_text(json.dumps(summary.as_dict(), indent=1) + "\n")

    def _make_reasoner(self, out: Path) -> None:
        rows = self.rows_of("train")
        train_reasoner(
            self.examples.iloc[rows].reset_index(drop=True),
            self.embedded.frames[rows],
            self.profile.reason,
            self.seed,
            out,
        )

    def _make_proposals(self, out: Path) -> None:
        proposed = self.reasoner_model.propose(self.examples, self.embedded.frames)
        proposed.to_parquet(out / "proposals.parquet")

    def _make_flow(self, out: Path) -> None:
        rows = self.rows_of("train", "val")
        flow, history = train_flow(self.points[rows], self.condition(rows), self.profile.flow, self.seed)
        flow.save_pretrained(out)
        history.to_parquet(out / "history.parquet")

    def _make_ceiling(self, out: Path) -> None:
        pool = build_pool(self.profile.world, self.seed)
        fresh = fresh_ceiling(self.places, pool, self.profile.evaluate.ceiling_clips, self.seed)
        fresh.to_parquet(out / "fresh.parquet")
        test = self.manifest.iloc[self.rows_of("test")]
        clips = observed(self.truth, test["clip_id"])
        ceiling(clips, test["place_id"].tolist(), self.places, pool).to_parquet(out / "test.parquet")

    def _make_predictions(self, out: Path) -> None:
        rows, known = self.rows_of("test"), self.rows_of("train", "val")
        clips = self.manifest["clip_id"].iloc[rows].to_numpy()
        points = self.points[rows]
        condition = self.condition(rows)
        tables = [self._constant_row(clips, points, known)]
        for row, shown in SHOWN.items():
            visible = condition.only(*shown)
            samples = self.sphere_flow.sample(visible, self.profile.flow.samples, seed=self.seed)
            log_prob = self.sphere_flow.log_prob(points, visible).numpy()
            tables.append(_row(row, clips, point_estimate(samples), log_prob))
        proposals = pd.read_parquet(self.proposals.path / "proposals.parquet").iloc[rows]
        tables.append(
            proposals[["clip_id", "latitude_deg", "longitude_deg"]].assign(
                row="reasoner alone", log_prob=np.nan, refused=~proposals["parsed"]
            )
        )
        pd.concat(tables, ignore_index=True).to_parquet(out / "predictions.parquet")

    def _constant_row(self, clips: np.ndarray, points: torch.Tensor, known: np.ndarray) -> pd.DataFrame:
        places = self.manifest.iloc[known].drop_duplicates("place_id").index.tolist()
        point = best_constant(self.points[places])
        log_prob = kernel_density(self.points[places]).log_prob(points).numpy()
        return _row("constant", clips, point.expand(len(clips), 3), log_prob)

    def export(self, folder: Path) -> None:
        """Copy what `avgeo locate` needs (`MODEL_PARTS` and `model.json`) into a folder of its own."""
        parts = {name: getattr(self, name) for name in MODEL_PARTS}
        folder.mkdir(parents=True, exist_ok=True)
        for name, artifact in parts.items():
            shutil.copytree(artifact.path, folder / name, dirs_exist_ok=True)
        (folder / "model.json").write_text(json.dumps(self.model_card(), indent=1) + "\n")

    def model_card(self) -> dict[str, Any]:
        """What a located clip's report says of the model: name, training data, settings, artifact keys, commit."""
        return {
            "name": f"avg-sim {self.profile.name}, seed {self.seed}",
            "trained_on": "AVG-Sim",
            "profile": self.profile.as_dict(),
            "keys": {name: getattr(self, name).key for name in MODEL_PARTS},
            "commit": self.flow.card()["commit"],
        }


def _row(name: str, clips: np.ndarray, points: torch.Tensor, log_prob: np.ndarray) -> pd.DataFrame:
    latitude, longitude = (part.numpy().astype(float) for part in to_degrees(points))
    return pd.DataFrame(
        {
            "clip_id": clips,
            "row": name,
            "latitude_deg": latitude,
            "longitude_deg": longitude,
            "log_prob": log_prob,
            "refused": False,
        }
    )
