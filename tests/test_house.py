"""The house holds together: versions, environments, licences, twins, sizes, names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"matplotlib": "matplotlib-base", "seaborn": "seaborn-base", "pvlib": "pvlib-python", "torch": "pytorch"}
REQUIRED = {
    "cartopy", "geomstats", "jupyter-book", "jupytext", "nbmake", "papermill",
    "peft", "seaborn", "torch", "transformers", "trl",
}  # fmt: skip


def requirements(*extras: str) -> dict[str, Requirement]:
    lines = [
        *PROJECT["dependencies"],
        *(line for e in extras for line in PROJECT["optional-dependencies"][e]),
    ]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in found if r.name != "avgeo"}


def pins() -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found: dict[str, Version] = {}
    for requirement in (Requirement(line) for line in lines if line):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{requirement} is no exact pin"
        found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


def conda() -> dict[str, SpecifierSet]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = [entry for entry in entries if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    lines += [line for line in pip if not line.startswith("-")]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in parsed}


def tracked() -> list[Path]:
    run = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if run.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_required_packages_are_declared():
    assert requirements("book", "dev").keys() >= REQUIRED
    offered = {"peers", "birds", "detectors", "book", "curate", "download", "lm", "privacy", "scale", "voices", "dev"}
    assert offered <= PROJECT["optional-dependencies"].keys()


def test_constraints_pin_every_dependency_within_its_range():
    pinned = pins()
    extras = ("birds", "detectors", "book", "curate", "download", "lm", "privacy", "scale", "voices", "dev")
    for name, requirement in requirements(*extras).items():
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert pinned[name] in requirement.specifier, f"constraints.txt pins {name} outside {requirement.specifier}"


def test_environment_matches_pyproject():
    given = conda()
    for name, requirement in requirements("book", "curate", "privacy", "dev").items():
        assert given.get(CONDA_NAMES.get(name, name)) == requirement.specifier, f"environment.yml: {name}"
    known = {CONDA_NAMES.get(name, name) for name in requirements("book", "curate", "privacy", "dev")}
    assert given.keys() - known == {"python", "pip"}
    assert given["python"] == SpecifierSet(PROJECT["requires-python"])


def test_one_version_everywhere():
    version = PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    latest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert latest and latest.group(1) == version


def test_licence_is_apache_2():
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert "CC BY 4.0" in (ROOT / "LICENSE-text.md").read_text()


def test_top_level_names_exist():
    names = [
        "_config.yml",
        "README.md",
        "environment.yml",
        "pyproject.toml",
        "Makefile",
        "constraints.txt",
        "jupytext.toml",
    ]
    names += [
        "CITATION.cff",
        "LICENSE",
        "CHANGELOG.md",
        ".ci/run",
        "avgeo",
        "notebooks",
        "book",
        "data",
        "tests",
    ]
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("target", ["help", "book", "test", "lint", "sync", "preview", "clean"])
def test_makefile_has_target(target):
    assert re.search(rf"^{target}:.* ## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_no_module_is_longer_than_400_lines():
    long = {
        str(p.relative_to(ROOT)): n
        for p in (ROOT / "avgeo").rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert long == {}


def test_public_definitions_have_docstrings():
    bare = []
    for path in (ROOT / "avgeo").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert bare == []


def test_notebooks_hold_no_outputs():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), path.name


def test_no_large_files_are_tracked():
    assert [p.name for p in tracked() if p.stat().st_size > 5_000_000] == []


def test_no_absolute_paths_are_tracked():
    pattern = re.compile(
        r"(?:^|[^A-Za-z0-9_.])/(?:wor[k]|roo[t]|hom[e]|Use[r]s|op[t]|tm[p]|far[m])/", flags=re.MULTILINE
    )
    found = []
    for path in tracked():
        if path.name == "CHANGELOG.md" or path.suffix in {
            ".png",
            ".mp4",
            ".npz",
            ".parquet",
            ".shp",
            ".shx",
            ".dbf",
            ".gz",
        }:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if match := pattern.search(text):
            found.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert found == []


def test_every_run_card_is_described():
    about = (ROOT / "data/README.md").read_text()
    cards = sorted(card.name for card in (ROOT / "data/results").glob("*.json"))
    assert cards and [card for card in cards if f"`{card}`" not in about] == []
