"""One look for every figure, and the way out as PNG; `avgeo.book.show` puts a figure on a page."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec, cast

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from avgeo.untrusted import shown

WIDTH = 8.0
"""Width of a figure in inches, for a page about 800 px wide."""

PALETTE = sns.color_palette("colorblind")
MARKERS = "oDs^vPX*"
INK, FAINT, SEA, LAND = "#22303c", "#8a97a3", "#eef3f7", "#dcdfd9"
HEAT, SOUND, ACTIVE, SIGNED = (sns.color_palette(name, as_cmap=True) for name in ("flare", "mako", "mako_r", "vlag"))

_STYLE: dict[str, Any] = sns.axes_style("ticks") | {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "grid.color": "#dfe5ea",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}

P = ParamSpec("P")
Drawn = tuple[Figure, str]


class PlotError(ValueError):
    """Data that cannot be drawn; the message names the argument and the cure."""


def styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Draw in the book's style, whatever the caller's matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with mpl.rc_context(cast(Any, _STYLE)):
            return draw(*args, **kwargs)

    return wrapper


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()


def place_text(latitude_deg: float, longitude_deg: float) -> str:
    """A place to read, such as `33.1°N 117.3°W`."""
    north, east = "N" if latitude_deg >= 0 else "S", "E" if longitude_deg >= 0 else "W"
    return f"{abs(latitude_deg):.1f}°{north} {abs(longitude_deg):.1f}°{east}"


def drawn(text: object) -> str:
    """`readable` text for a figure, cut to 40 characters; its `$` do not start a formula, no character hides."""
    whole = shown(readable(str(text)))
    return (whole if len(whole) <= 40 else whole[:39] + "…").replace("$", r"\$")


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of the book's width, inches."""
    return Figure(figsize=(width, height), layout="constrained")


def readable(name: str) -> str:
    """A name to read: `median_km` becomes `median km`, `siren:two_tone` becomes `siren: two tone`."""
    return str(name).replace("_", " ").replace(":", ": ").replace(":  ", ": ")
