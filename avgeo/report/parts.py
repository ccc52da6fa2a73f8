"""What the report's sections are put together from; whatever text goes in is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avgeo import plots
from avgeo.untrusted import shown


def escape(text: str) -> str:
    """Text for the page: markup and quotes as entities, what cannot be seen as escapes, a runaway text cut short."""
    return html.escape(shown(text))


def section(title: str, body: str) -> str:
    """A titled part of the page; `body` is HTML."""
    anchor = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(title)}</h2>\n{body}\n</section>\n'


def picture(drawn: tuple[Any, str], caption: str = "") -> str:
    """A figure of `avgeo.plots` with its alt text, as a PNG in the page."""
    figure, alt = drawn
    data = base64.b64encode(plots.png(figure, 140)).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">{below}</figure>'


def table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; `heads` are (text, class), cells are escaped HTML, the first of each row is its header."""
    top = "".join(f'<th scope="col" class="{kind}">{escape(text)}</th>' for text, kind in heads)
    body = ""
    for first, *others in rows:
        cells = "".join(f'<td class="{kind}">{cell}</td>' for cell, (_, kind) in zip(others, heads[1:], strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def fact_list(pairs: Sequence[tuple[str, str]]) -> str:
    """Pairs of a name and what it is, as a list."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>"


def numeral(value: Any, digits: int = 1) -> str:
    """A number to read, or a dash where there is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "–"
    return f"{number:,.{digits}f}" if np.isfinite(number) else "–"


def span(item: Mapping[str, Any]) -> str:
    """When something happens, such as `0.5–2.6 s`, or a dash."""
    start, end = numeral(item.get("start_s")), numeral(item.get("end_s"))
    return "–" if "–" in (start, end) else f"{start}–{end} s"


def percent(value: Any) -> str:
    """A probability to read, in per cent, or a dash."""
    number = numeral(None if value is None else 100 * float(value))
    return f"{number} %" if number != "–" else "–"
