"""The book's machinery: parameters, figures, twins, keys, execution of what is stale, rendering."""

from __future__ import annotations

import base64
import json
import re
import shutil
import types
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import pytest
from matplotlib import pyplot as plt
from papermill.exceptions import PapermillExecutionError

from avgeo.book import (
    BookError,
    ParameterError,
    Run,
    build_book,
    chapter_keys,
    parameters,
    players,
    provenance,
    read_chapters,
    show,
    sync_twins,
    table,
)
from avgeo.book import build as build_module
from avgeo.book.chapters import select
from avgeo.book.render import staged
from avgeo.book.twins import twin
from avgeo.profiles import ProfileError

CHAPTER = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
avgeo:
  needs: [{needs}]
---

# Chapter {name}

$$e = mc^2$$

```{{code-cell}} ipython3
:tags: [parameters]

profile = "smoke"
seed = 0
```

```{{code-cell}} ipython3
from avgeo.book import parameters, show

run = parameters(globals())
```

```{{code-cell}} ipython3
from matplotlib import pyplot as plt

fig, ax = plt.subplots()
ax.plot([0, run.seed])
show(fig, alt=f"A line from 0 to {{run.seed}}.", caption="A line.")
```
"""
NEEDS = {"01_first": "", "02_second": "01_first", "03_third": ""}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, repository_root):
    """A small checkout of its own: three chapters, the real configuration."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("notebooks", "book", "avgeo", "data"):
        (root / folder).mkdir()
    for name, needs in NEEDS.items():
        (root / "notebooks" / f"{name}.md").write_text(CHAPTER.format(name=name, needs=needs))
    (root / "avgeo" / "code.py").write_text("x = 1\n")
    (root / "data" / "table.csv").write_text("a\n1\n")
    (root / "constraints.txt").write_text("numpy==2.3.5\n")
    shutil.copy(repository_root / "_config.yml", root)
    shutil.copytree(repository_root / "book" / "_static", root / "book" / "_static")
    shutil.copy(repository_root / "book" / "references.bib", root / "book")
    (root / "book" / "intro.md").write_text("# Intro\n\nWords.\n")
    files = "\n".join(f"  - file: notebooks/{name}" for name in NEEDS)
    (root / "book" / "_toc.yml").write_text(f"format: jb-book\nroot: book/intro\nchapters:\n{files}\n")
    return root


@pytest.fixture
def here(checkout, monkeypatch):
    """The small checkout, with the book's functions pointed at it."""
    monkeypatch.setattr(build_module, "checkout", lambda: checkout)
    monkeypatch.setattr(build_module, "sync_twins", lambda check: [])
    return checkout


def test_parameters_give_the_run():
    run = parameters(
        {
            "profile": "smoke",
            "seed": 3,
            "In": [],
            "Out": {},
            "_i": "x",
            "np": types,
            "f": len,
            "__name__": "x",
        }
    )
    assert (run.profile.name, run.seed) == ("smoke", 3)


@pytest.mark.parametrize("name", ["profle", "Seed", "n_clips"])
def test_unknown_parameter_is_refused_with_the_valid_names(name):
    with pytest.raises(ParameterError, match=rf"'{name}'.*profile and seed"):
        parameters({"profile": "smoke", "seed": 0, name: 1})


@pytest.mark.parametrize("seed", [-1, 1.0, "1", True, None])
def test_seed_must_be_a_whole_number(seed):
    with pytest.raises(ParameterError, match="seed"):
        parameters({"profile": "smoke", "seed": seed})


def test_unknown_profile_and_missing_parameter():
    with pytest.raises(ProfileError, match="smoke"):
        parameters({"profile": "smoek", "seed": 0})
    with pytest.raises(ParameterError, match="'seed' is not set"):
        parameters({"profile": "smoke"})


def test_a_cell_run_again_in_a_session_accepts_the_sessions_variables():
    session: dict = {"profile": "smoke", "seed": 0}
    session["run"] = parameters(session)
    session |= {"rows": [1, 2], "seed": 5}
    assert parameters(session) == Run(session["run"].profile, 5)


@pytest.fixture
def displayed(monkeypatch):
    """What IPython is asked to display: (object, metadata) pairs."""
    shown: list[tuple[Any, dict]] = []
    monkeypatch.setattr(
        "IPython.display.display", lambda what, metadata=None, raw=False: shown.append((what, metadata or {}))
    )
    return shown


def test_show_gives_a_picture_with_words_and_closes_it(displayed):
    fig, _ = plt.subplots()
    show(fig, alt="Nothing yet.", caption="Empty axes.")
    (picture, described), (caption, _) = displayed
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert described["image/png"] == {"alt": "Nothing yet.", "caption": "Empty axes."}
    assert "Empty axes." in caption.data
    assert not plt.fignum_exists(fig.number)


def test_show_without_words_is_refused():
    with pytest.raises(ValueError, match="alt"):
        show(plt.figure(), alt=" ")
    plt.close("all")


def test_table_is_accessible_and_rounded(displayed):
    table(
        pd.DataFrame({"row": ["<both>"], "km": [1234.5], "p": [0.012345], "gap": [float("nan")]}),
        caption="A & B",
    )
    page = displayed[0][0]["text/html"]
    assert "<caption>A &amp; B</caption>" in page and page.count('<th scope="col">') == 4
    assert "&lt;both&gt;" in page and "<td>1,234</td>" in page and "<td>0.0123</td>" in page and "<td>–</td>" in page


def test_provenance_tells_command_time_and_what_was_reused():
    card: dict[str, Any] = {
        "command": "python run.py", "seed": 3, "commit": "abc", "seconds": 600.0, "began": "2026-11-23T10:00:00Z",
        "machine": {"cores": 2, "device": "cpu"}, "result": [],
    }  # fmt: skip
    assert provenance(card) == "run card: python run.py, seed 3, commit abc, 2 cores, cpu, 10 min, 2026-11-23"
    assert "10 min, 2026" in provenance(card | {"result": {"reused_cells": 0}})
    assert "10 min with 60 cells of earlier runs, 2026" in provenance(card | {"result": {"reused_cells": 60}})


def test_players_hold_their_clips_and_captions(displayed, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    players([tmp_path / "a.mp4", tmp_path / "b.mp4"], ["Lagos <noon>", "Oslo"])
    page = displayed[0][0]["text/html"]
    assert [base64.b64decode(found) for found in re.findall(r"base64,([^#]*)#", page)] == [b"a.mp4", b"b.mp4"]
    assert page.count('aria-label="Lagos &lt;noon&gt;"') == page.count("Lagos &lt;noon&gt;</figcaption>") == 1
    with pytest.raises(ValueError, match="captions"):
        players([tmp_path / "a.mp4"], [" "])


def test_twin_is_a_function_of_the_source_and_ids_survive_an_insertion():
    text = CHAPTER.format(name="x", needs="")
    first, second = (nbformat.reads(twin(t), as_version=4) for t in (text, text.replace("$$e", "New.\n\n+++\n\n$$e")))
    assert twin(text) == twin(text)
    assert {c.id for c in first.cells[1:]} <= {c.id for c in second.cells}
    assert len({c.id for c in second.cells}) == len(second.cells) == len(first.cells) + 1
    nbformat.validate(second)
    assert second.metadata.kernelspec.language == "python" and second.metadata.avgeo.needs == []


def test_the_committed_twins_equal_their_sources():
    assert [path.name for path in sync_twins(check=True)] == []


def test_an_edit_changes_the_keys_of_the_chapter_and_of_those_downstream(checkout):
    chapters = read_chapters(checkout)
    before = chapter_keys(checkout, chapters, "smoke", 0)
    edited = [c if c.name != "01_first" else type(c)(c.name, c.source, c.text + "x", c.needs) for c in chapters]
    after = chapter_keys(checkout, edited, "smoke", 0)
    assert {n for n in before if before[n]["key"] != after[n]["key"]} == {"01_first", "02_second"}
    other = chapter_keys(checkout, chapters, "smoke", 1)
    assert all(before[n]["key"] != other[n]["key"] for n in before)


def test_selection_brings_what_it_needs(checkout):
    chapters = read_chapters(checkout)
    assert [c.name for c in select(chapters, ["2"])] == ["01_first", "02_second"]
    assert [c.name for c in select(chapters, ["03_third"])] == ["03_third"]
    with pytest.raises(BookError, match=r"no chapter '9'.*01_first"):
        select(chapters, ["9"])


@pytest.mark.parametrize(
    ("needs", "told"), [("needs: [07_later]", "none of the chapters before it"), ("other: 1", "lacks")]
)
def test_front_matter_is_checked(tmp_path, needs, told):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.md").write_text(CHAPTER.format(name="x", needs="").replace("needs: []", needs))
    with pytest.raises(BookError, match=told):
        read_chapters(tmp_path)


def _figure(**described):
    data = {"image/png": "aGk="}
    return nbformat.v4.new_output("display_data", data=data, metadata={"image/png": described})


def test_two_figures_in_a_cell_and_a_figure_without_words_are_refused():
    cell = nbformat.v4.new_code_cell("x", outputs=[_figure(alt="a"), _figure(alt="b")], execution_count=4)
    with pytest.raises(BookError, match=r"01_x, cell \[4\] shows 2 figures"):
        staged(nbformat.v4.new_notebook(cells=[cell]), "01_x")
    cell.outputs = [_figure()]
    with pytest.raises(BookError, match="without alternative text"):
        staged(nbformat.v4.new_notebook(cells=[cell]), "01_x")


def test_papermill_from_anywhere_refuses_a_misspelt_parameter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.ipynb").write_text(twin(CHAPTER.format(name="x", needs="")))
    with pytest.raises(
        PapermillExecutionError, match=r"unknown parameter 'profle': valid parameters are profile and seed"
    ):
        papermill.execute_notebook("in.ipynb", "out.ipynb", parameters={"profle": "smoke"}, progress_bar=False)


def executed(told: str) -> list[str]:
    return [line.split()[1].rstrip(":") for line in told.splitlines() if "executing" in line]


def test_the_book_executes_what_is_stale_and_nothing_else(here, capsys):
    with pytest.raises(BookError, match="stale pages: 01_first, 02_second, 03_third"):
        build_book(check=True)

    second = here / "notebooks" / "02_second.md"
    whole = second.read_text()
    second.write_text(whole.replace("run = parameters(globals())", "run = parameters(globals())\n1 / (run.seed - 0)"))
    with pytest.raises(BookError, match=r"chapter 02_second, cell \[\d\].*ZeroDivisionError: division by zero"):
        build_book()
    assert executed(capsys.readouterr().out) == ["01_first", "02_second"]

    second.write_text(whole)
    index = build_book()
    assert executed(capsys.readouterr().out) == ["02_second", "03_third"]
    assert index.is_file() and build_book(check=True) == index

    page = (here / "_build" / "html" / "notebooks" / "02_second.html").read_text()
    assert 'alt="A line from 0 to 0."' in page and "A line." in page and "Freshness seal" in page
    assert "blob/main/notebooks/02_second.ipynb" in page and "mathjax/tex-svg-full.js" in page
    key = json.loads((here / "_build" / "rendered.json").read_text())["keys"]["02_second"]
    assert key[:12] in page

    build_book()
    told = capsys.readouterr().out
    assert executed(told) == [] and "up to date" in told

    third = here / "notebooks" / "03_third.md"
    third.write_text(third.read_text() + "\nSee [nowhere](nowhere.md).\n")
    with pytest.raises(BookError, match=r"03_third.*nowhere"):
        build_book()
    assert executed(capsys.readouterr().out) == ["03_third"]
    with pytest.raises(BookError, match="nowhere"):  # a warning does not go away by asking again
        build_book()
