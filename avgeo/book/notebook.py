"""What a chapter calls: checked parameters, figures with alternative text, accessible tables.

Nothing here needs the `book` extra: a chapter opened on Colab has matplotlib and IPython and no more.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avgeo.paths import cache_dir
from avgeo.profiles import Profile, get_profile
from avgeo.quiet import quiet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PARAMETERS = ("profile", "seed")
_SESSION = {"In", "Out"}  # the two plain values that IPython itself keeps in a notebook's namespace
_PLAIN = (str, int, float, list, tuple, dict, type(None))  # what papermill can inject


class ParameterError(ValueError):
    """A parameter that no chapter has, or a value it cannot take; the message names the valid ones."""


@dataclass(frozen=True)
class Run:
    """A chapter's checked parameters: the profile's settings and the seed of everything random."""

    profile: Profile
    seed: int


def parameters(namespace: Mapping[str, Any]) -> Run:
    """The run that a notebook's `globals()` ask for; call it right after the cell tagged `parameters`.

    papermill only logs a parameter that it does not know, and carries on with the default; here it is
    refused. A namespace that already holds a `Run` is somebody's session, in which a cell is run again: its
    own variables are left alone and only `profile` and `seed` are checked.

    Raises `ParameterError` for an unknown or missing parameter or a seed that is not an integer >= 0, and
    `avgeo.profiles.ProfileError` for an unknown profile.
    """
    quiet()
    valid = f"valid parameters are {' and '.join(PARAMETERS)}"
    if not any(isinstance(value, Run) for value in namespace.values()):
        unknown = sorted(
            name
            for name, value in namespace.items()
            if isinstance(value, _PLAIN) and not name.startswith("_") and name not in _SESSION.union(PARAMETERS)
        )
        if unknown:
            raise ParameterError(f"unknown parameter {', '.join(map(repr, unknown))}: {valid}")
    missing = [name for name in PARAMETERS if name not in namespace]
    if missing:
        raise ParameterError(f"parameter {missing[0]!r} is not set: {valid}; set them in the cell tagged 'parameters'")
    seed = namespace["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ParameterError(f"parameter 'seed' must be an integer of 0 or more, not {seed!r}")
    return Run(get_profile(namespace["profile"]), seed)


def show(fig: Figure, alt: str, caption: str | None = None, dpi: int = 110) -> None:
    """Display a matplotlib figure as PNG with its alternative text, and close it.

    `alt` says in words what the figure's data show; it becomes the page's `<img alt>`. `caption` (MyST
    Markdown) is printed under the figure. The book takes one figure per cell. Raises `ValueError` when
    `alt` is empty.
    """
    from IPython.display import Markdown, display
    from matplotlib import pyplot

    if not alt.strip():
        raise ValueError("show(alt=...) is empty: say in words what the figure's data show")
    picture = io.BytesIO()
    fig.savefig(picture, format="png", dpi=dpi, bbox_inches="tight")
    pyplot.close(fig)
    bundle = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt, "caption": caption}}, raw=True)
    if caption:  # a live notebook has no captions, so there it is a line; the book moves it into the figure
        display(Markdown(f"*{caption}*"), metadata={"avgeo": {"caption": True}})


def _rounded(value: float, digits: int) -> str:
    """`value` to `digits` significant digits, but whole above that: 1234.5 is 1,234, not 1.23e+03."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def table(df: pd.DataFrame, caption: str, index: bool = False, digits: int = 3) -> None:
    """Display a DataFrame as an HTML table with a caption and header scopes that a screen reader can follow.

    `digits` significant digits for floats; missing values are shown as a dash.
    """
    from IPython.display import display

    # Sentences are read from the left, figures compared from the right.
    prose = [number for number, name in enumerate(df.columns, start=1 + index) if _is_prose(df[name])]
    classes = ["avgeo", *(f"avgeo-prose-{number}" for number in prose)]
    body = df.to_html(border=0, index=index, na_rep="–", classes=classes, float_format=lambda x: _rounded(x, digits))
    head, _, rows = body.partition("</thead>")
    head = head.replace("<th>", '<th scope="col">').replace(
        "<thead>", f"<caption>{html.escape(caption)}</caption><thead>"
    )
    rows = rows.replace("<th>", '<th scope="row">')
    label = html.escape(caption, quote=True)
    page = f'<div class="avgeo-table" role="region" tabindex="0" aria-label="{label}">{head}</thead>{rows}</div>'
    display({"text/html": page, "text/plain": f"{caption}\n{df.to_string(index=index)}"}, raw=True)


def _is_prose(column: pd.Series) -> bool:
    """Whether a column holds texts with words, not figures with an interval."""
    return any(isinstance(value, str) and len(re.findall(r"[^\W\d_]{2,}", value)) > 1 for value in column)


def provenance(card: Mapping[str, Any]) -> str:
    """Where a number from a run card comes from, for a caption: command, seed, commit, machine, time."""
    minutes = card["seconds"] / 60
    took = f"{minutes:.0f} min" if minutes >= 2 else f"{card['seconds']:.0f} s"
    result = card["result"]
    if isinstance(result, dict) and (reused := result.get("reused_cells")):  # the time is only that of the last run
        took += f" with {reused} cells of earlier runs"
    machine = f"{card['machine']['cores']} cores, {card['machine']['device']}"
    made = f"{card['command']}, seed {card['seed']}, commit {card['commit']}"
    return f"run card: {made}, {machine}, {took}, {card['began'][:10]}"


def players(files: Sequence[Path], captions: Sequence[str]) -> None:
    """Display MP4 clips side by side, each to be played with its sound, under its caption (plain text).

    The files travel inside the page, so a notebook mailed to somebody still plays. Raises `ValueError` unless every
    file has a caption that says something.
    """
    from IPython.display import display

    if len(files) != len(captions) or not all(caption.strip() for caption in captions):
        raise ValueError(f"players: {len(files)} files need as many captions, none of them empty")
    figures = []
    for file, caption in zip(files, captions, strict=True):
        source = base64.b64encode(file.read_bytes()).decode()
        label = html.escape(caption, quote=True)
        # the first frame is shown before playing (#t): without it some browsers show black
        figures.append(
            f'<figure style="margin:0"><video controls playsinline preload="auto" style="width:100%" '
            f'aria-label="{label}" src="data:video/mp4;base64,{source}#t=0.01"></video>'
            f'<figcaption style="font-size:0.85em">{label}</figcaption></figure>'
        )
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:1rem"
    page = f'<div class="avgeo-players" style="{grid}">{"".join(figures)}</div>'
    display({"text/html": page, "text/plain": "\n".join(captions)}, raw=True)


def publish(artifact: Path, name: str, title: str) -> None:
    """Make a finished page, `index.html` in the folder of an artifact, part of the book as `_static/<name>/`.

    In the rendered book it stands in a frame where this was called, under a link; anywhere else, where no frame could
    show a local file, a line says where it lies. `title` says what it is. Only the artifact's name enters the notebook:
    no path of this machine does. Raises `ValueError` for what is no such folder, name or title.
    """
    from IPython.display import display

    if not (artifact / "index.html").is_file() or artifact.parent != cache_dir():
        raise ValueError(f"publish: {artifact.name} is no artifact with an index.html: pass the `path` of one")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name) or not title.strip():
        raise ValueError(
            f"publish: name={name!r} must be a plain lower-case word, and title={title!r} must say something"
        )
    where = f"{artifact.name}/index.html in the cache of artifacts (avgeo doctor says where that is)"
    page = f"<p>{html.escape(title)}: open <code>{html.escape(where)}</code> in a browser.</p>"
    published = {"name": name, "artifact": artifact.name, "title": title}
    bundle = {"text/html": page, "text/plain": f"{title}: open {where}"}
    display(bundle, metadata={"avgeo": {"published": published}}, raw=True)
