"""A simulated world describes itself: Croissant for machines, a card for people, and both are true."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from avgeo.profiles import WorldSettings
from avgeo.world.publish import RELEASED, publish
from avgeo.world.simulate import TABLES, simulate

NAMES = (*TABLES, "places")
SETTINGS = WorldSettings(places=10, clips_per_place=1, duration_s=0.5, width=64, height=48, pool=200)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "w"
    simulate(SETTINGS, 5, out)
    return out


@pytest.fixture(scope="module")
def croissant(world: Path) -> dict:
    return json.loads((world / "croissant.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dataset(world: Path) -> Iterator:
    mlcroissant = pytest.importorskip("mlcroissant", reason="a development dependency")
    yield mlcroissant.Dataset(jsonld=str(world / "croissant.json"))


def table(world: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(world / f"{name}.parquet")


def test_mlcroissant_finds_nothing_to_say(dataset) -> None:
    issues = dataset.metadata.ctx.issues
    assert not issues.errors and not issues.warnings
    assert [record_set.uuid for record_set in dataset.metadata.record_sets] == [
        "manifest", "truth", "clips", "posterior", "places"
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_mlcroissant_reads_every_record(world: Path, dataset, name: str) -> None:
    expected = table(world, name)
    records = list(dataset.records(record_set=name))
    assert len(records) == len(expected)
    for column in expected:
        for record, value in zip(records, expected[column], strict=True):
            found = record[f"{name}/{column}"]
            if isinstance(value, str):
                assert found == value.encode()
            elif name == "posterior" and column.endswith("log_p"):
                assert list(found) == list(value)
            else:
                assert found == value or pd.isna(value)


def test_files_are_listed_with_their_sums(world: Path, croissant: dict) -> None:
    listed = {item["@id"]: item for item in croissant["distribution"]}
    assert listed.pop("media-files")["includes"] == "media/*/*.mp4"
    assert set(listed) == {path.name for path in world.glob("*.parquet")} == {f"{name}.parquet" for name in NAMES}
    for name, item in listed.items():
        content = (world / name).read_bytes()
        assert item["sha256"] == hashlib.sha256(content).hexdigest() and item["contentSize"] == f"{len(content)} B"


def test_every_column_has_a_type_and_a_meaning(world: Path, croissant: dict) -> None:
    kinds = {"sc:Text": "str", "sc:Integer": "int64", "cr:Float64": "float64", "sc:Boolean": "bool"}
    for records in croissant["recordSet"]:
        fields = {field["name"]: field for field in records["field"]}
        expected = table(world, records["@id"])
        assert list(fields) == list(expected)
        for name, field in fields.items():
            assert field["description"].endswith(".")
            if field.get("isArray"):
                assert field["dataType"] == "cr:Float32" and field["arrayShape"] == "10"
            elif expected[name].notna().any():
                assert str(expected[name].dtype) == kinds[field["dataType"]], name


def test_datasets_loads_each_table(world: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    for name in NAMES:
        loaded = load_dataset(str(world), name, split="full", cache_dir=str(tmp_path))
        expected = table(world, name)
        assert loaded.column_names == list(expected) and len(loaded) == len(expected)
        key = expected.columns[0]
        assert loaded[key][:] == expected[key].tolist()


def test_the_card_states_the_facts(world: Path) -> None:
    text = (world / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == ["cc0-1.0", "cc-by-4.0"]
    assert {item["config_name"] for item in front["configs"]} == set(NAMES)
    rows = dict(re.findall(r"\| `(\w+)\.parquet` \| ([\d,]+) \|", text))
    assert {name: int(count.replace(",", "")) for name, count in rows.items()} == {
        name: len(table(world, name)) for name in NAMES
    }
    for heading in ("Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Known limits"):
        assert f"**{heading}" in text
    assert "{" not in re.sub(r"@software\{.*", "", text, flags=re.DOTALL)  # nothing was left to fill in


def test_the_description_follows_from_the_folder_alone(world: Path, repository_root: Path) -> None:
    before = [(world / name).read_bytes() for name in ("croissant.json", "README.md")]
    publish(world, 5, json.loads((world / "world.json").read_text()))
    assert [(world / name).read_bytes() for name in ("croissant.json", "README.md")] == before
    citation = yaml.safe_load((repository_root / "CITATION.cff").read_text())
    assert str(citation["date-released"]) == RELEASED
