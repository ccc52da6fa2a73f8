"""What the reasoner is asked and what it must say: prompt, trace, and a strict reading of the trace.

A prompt may tell which atoms are heard and how strongly, when each sounds, and what is known of the recording beside
the media (its month and hour, its title); frames stand before it as images. Each part can be left out, and coordinates
have no way in.

A completion is `<think>…</think><answer>{"country": …, "region": …, "latitude": …, "longitude": …}</answer>`
and nothing else. Inside `<think>`, a line `heard: a; b` cites atoms of the prompt and a line `seen: c; d`
cites sights. What does not parse is a `ParseFailure` with a reason, so that it can be counted; nothing is
repaired or guessed. A completion is untrusted text: it is read in time linear in its length, which is bounded, and
printed through `avgeo.untrusted.shown`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from avgeo.untrusted import hides

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Where was this recorded?"
NOTHING = "none"
MAX_HEARD = 8
"""Atoms named in a prompt, strongest first."""
MAX_NAME = 120
"""Characters of a cue, a country, a region or a title; a longer one is refused."""
MAX_CITED, MAX_SEEN = 4, 6
"""Heard atoms and sights that a training trace cites; they bound a trace's length."""
DECIMALS = 1
"""Decimals of a training trace's degrees: rounding moves a place by at most 8 km, and digits cost tokens."""
MAX_CHARACTERS = 16_384
"""A longer completion is refused unread: some 4,000 tokens of English, forty times what our reasoner may write."""

# The fixed parts of a trace. The tokenizer holds each as one token, so that steps are spent on what varies.
SKELETON = (
    "<think>heard: ", "\nseen: ", '</think><answer>{"country": "', '", "region": "', '", "latitude": ',
    ', "longitude": ', "}</answer>",
)  # fmt: skip

_LEVELS = (("strong", 2 / 3), ("clear", 1 / 3), ("faint", 0.0))
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_KEYS = ("country", "region", "latitude", "longitude")
_FORBIDDEN = re.compile(r"[;<>]")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
# What a row of examples may hold beside `heard`: the arguments of `question`.
_OPTIONAL = ("times", "recorded", "title", "without")

Reason = Literal[
    "empty", "too long", "missing tag", "repeated tag", "text outside the tags", "not JSON", "wrong keys", "not a name",
    "hidden character in a name", "not a number", "out of range",
]  # fmt: skip
"""Why a completion is no answer."""


class PromptError(ValueError):
    """A cue, name or coordinate that cannot be written into a prompt or a trace."""


@dataclass(frozen=True)
class Answer:
    """A parsed completion: the place in degrees and the cues cited for it, in the order written."""

    country: str
    region: str
    latitude_deg: float
    longitude_deg: float
    heard: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParseFailure:
    """A completion that is no answer, and why."""

    reason: Reason


def same_cue(label: str) -> str:
    """One spelling of a cue's label, so that `siren:two_tone` and `Siren two tone` are the same cue."""
    return re.sub(r"[\s:_]+", " ", label).strip().casefold()


def shown_atoms(heard: Iterable[tuple[str, float]] | None) -> list[tuple[str, str]]:
    """(name, "strong" | "clear" | "faint") of the atoms a prompt names, strongest first, `MAX_HEARD` at most.

    The coarse strength is relative to the clip's strongest atom, so it does not depend on the encoder's
    scale. Raises `PromptError` for a name of more than `MAX_NAME` characters or holding `;`, `<`, `>`, a line break or
    another character that cannot be seen, and for a strength that is not finite and ≥ 0.
    """
    strongest: dict[str, float] = {}
    for name, strength in () if heard is None else heard:
        if not math.isfinite(strength) or strength < 0:
            raise PromptError(f"heard: strength of {name!r} must be finite and not negative, got {strength}")
        label = _clean("heard", name)
        strongest[label] = max(strength, strongest.get(label, 0.0))
    ranked = sorted(strongest.items(), key=lambda item: (-item[1], item[0]))[:MAX_HEARD]
    top = ranked[0][1] if ranked else 0.0
    return [(name, next(word for word, least in _LEVELS if strength >= least * top)) for name, strength in ranked]


def question(
    heard: Iterable[tuple[str, float]] | None,
    *,
    times: Mapping[str, tuple[float, float]] | None = None,
    recorded: datetime | None = None,
    title: str | None = None,
    without: Iterable[str] | None = None,
) -> str:
    """The prompt's text: the atoms by coarse strength, strongest first, then what else is known, then the question.

    - `heard`: (name, strength) of the atoms. Empty: none was heard; None: the prompt says nothing of sound.
    - `times`: name -> (first, last) second in which an atom sounds, written outwards in whole seconds: "rain, 0-3 s".
    - `recorded`: the local time of the recording, of which the month and the hour are told. An offset from UTC, which
      would give the longitude away, is not.
    - `title`: what somebody called the recording; each run of numerals, of any script, becomes "#", so that no
      coordinates come in as figures. What is spelled in words stays, and a place's name is what titles are made of.
    - `without`: atoms that are not written, in any spelling of `same_cue`. The others are written as they would be
      beside them: none becomes stronger because the strongest is gone, and none that `MAX_HEARD` kept out comes in.

    What is None is left out. Raises `PromptError` naming the argument for what cannot be written: see `shown_atoms`; a
    title is bounded as names are.
    """
    gone = {same_cue(name) for name in without or ()}
    shown = [(name + _span(name, times), word) for name, word in shown_atoms(heard) if same_cue(name) not in gone]
    lines = [
        f"{level}: " + "; ".join(name for name, word in shown if word == level)
        for level, _ in _LEVELS
        if any(word == level for _, word in shown)
    ]
    if heard is not None and not lines:
        lines = [f"heard {NOTHING}"]
    if recorded is not None:
        lines.append(f"recorded: {_month_and_hour(recorded)}")
    if title is not None:
        lines.append(f"title: {_without_digits(_clean('title', title))}")
    return "\n".join([*lines, QUESTION])


def questions(examples: pd.DataFrame) -> list[str]:
    """The prompt of every row, from its `heard` and, where there are such columns, the other arguments of `question`.

    A cell that holds nothing (None, NaN, NaT) leaves its part out.
    """
    parts = ("heard", *(name for name in _OPTIONAL if name in examples))
    cells = zip(*(examples[name] for name in parts), strict=True)
    return [
        question(**{name: cell if _is_there(cell) else None for name, cell in zip(parts, row, strict=True)})
        for row in cells
    ]


def trace(
    heard: Iterable[tuple[str, float]] | None,
    told: Iterable[str],
    seen: Iterable[str],
    country: str,
    region: str,
    latitude_deg: float,
    longitude_deg: float,
) -> str:
    """The completion to imitate: cites only atoms of the prompt that `told` confirms, only sights in `seen`.

    `told` are the labels of what truly sounds, in any spelling that `same_cue` equates with the atoms' names, `seen`
    those of what is truly in sight. Both are cited in the order of what they tell: a mapping label -> bits by its bits,
    the most first (of equal ones by name), any other collection as it comes. Raises `PromptError` for an empty name,
    a forbidden character, or a coordinate off the globe.
    """
    rank: dict[str, int] = {}
    for place, label in enumerate(_ranked(told)):
        rank.setdefault(same_cue(label), place)
    confirmed = [name for name, _ in shown_atoms(heard) if same_cue(name) in rank]
    cited = sorted(confirmed, key=lambda name: rank[same_cue(name)])[:MAX_CITED]
    sights = list(dict.fromkeys(_clean("seen", label) for label in _ranked(seen)))[:MAX_SEEN]
    if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):  # also false for NaN
        raise PromptError(f"latitude_deg, longitude_deg: ({latitude_deg}, {longitude_deg}) is not a place on Earth")
    parts = [
        "; ".join(cited) or NOTHING,
        "; ".join(sights) or NOTHING,
        *(
            json.dumps(_clean(key, name), ensure_ascii=False)[1:-1]
            for key, name in zip(_KEYS, (country, region), strict=False)
        ),
        # adding 0.0 turns -0.0 into 0.0
        *(f"{round(value, DECIMALS) + 0.0:.{DECIMALS}f}" for value in (latitude_deg, longitude_deg)),
    ]
    return "".join(fixed + free for fixed, free in zip(SKELETON, [*parts, ""], strict=True))


def parse(completion: str) -> Answer | ParseFailure:
    """Read a completion strictly; total on strings, so it never raises, and linear in their length.

    Demands `MAX_CHARACTERS` at most, exactly one of each tag in order, only white space around them, a JSON object with
    exactly the four keys once each, two non-empty names in which no character hides (`avgeo.untrusted.hides`: such a
    name equals no true one, and a lone surrogate can be written to no file), two finite JSON numbers (not booleans, not
    strings), latitude in [-90, 90] and longitude in [-180, 180] degrees. The thought is free text.
    """
    if len(completion) > MAX_CHARACTERS:
        return ParseFailure("too long")
    text = completion.strip()
    if not text:
        return ParseFailure("empty")
    counts = [text.count(tag) for tag in _TAGS]
    if 0 in counts:
        return ParseFailure("missing tag")
    if max(counts) > 1:
        return ParseFailure("repeated tag")
    match = re.fullmatch(r"<think>(.*)</think>\s*<answer>(.*)</answer>", text, re.DOTALL)
    if match is None:
        return ParseFailure("text outside the tags")
    thought, body = match.groups()
    try:
        # Pairs, not a dictionary: a repeated key must not silently win. Integers as floats: Python reads a long one in
        # quadratic time, and beyond 4,300 digits not at all, though it is good JSON.
        pairs = json.loads(body, object_pairs_hook=_Pairs, parse_constant=_refuse, parse_int=float)
    except (ValueError, RecursionError):
        return ParseFailure("not JSON")
    if not isinstance(pairs, _Pairs) or sorted(key for key, _ in pairs) != sorted(_KEYS):
        return ParseFailure("wrong keys")
    fields = dict(pairs)
    names = [fields["country"], fields["region"]]
    if not all(isinstance(name, str) and name.strip() for name in names):
        return ParseFailure("not a name")
    if any(hides(name) for name in names):
        return ParseFailure("hidden character in a name")
    degrees = [fields["latitude"], fields["longitude"]]
    if not all(isinstance(value, float) for value in degrees):  # integers are floats by now, booleans are not
        return ParseFailure("not a number")
    if not all(abs(value) <= limit for value, limit in zip(degrees, (90, 180), strict=True)):
        return ParseFailure("out of range")
    return Answer(
        names[0].strip(), names[1].strip(), degrees[0] + 0.0, degrees[1] + 0.0,  # no -0.0
        heard=_cited(thought, "heard"), seen=_cited(thought, "seen"),
    )  # fmt: skip


def without_cited(thought: str, cue: str) -> str:
    """A thought whose lines `heard: a; b` no longer hold the cue, in any spelling of `same_cue`; the rest is as it was.

    Lines are what `parse` takes for lines, up to the tag that ends the thought. One that held nothing else says
    `NOTHING`.
    """
    written, tag, after = thought.partition("</think>")
    lines = written.splitlines(keepends=True)
    for at, line in enumerate(lines):
        body = line.splitlines()[0]
        start, sense, cited = body.partition("heard:")
        if sense and start.strip() in ("", "<think>"):
            kept = [one for one in cited.split(";") if same_cue(one) != same_cue(cue)]
            if len(kept) < len(cited.split(";")):
                lines[at] = f"{start}heard:{';'.join(kept) or ' ' + NOTHING}{line[len(body) :]}"
    return "".join(lines) + tag + after


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion, given as a string or as trl's list of chat messages."""
    if isinstance(completion, str):
        return completion
    contents = [message["content"] for message in completion]
    return "".join(
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        for content in contents
    )


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its key-value pairs, repeats kept."""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _cited(thought: str, sense: str) -> tuple[str, ...]:
    """The cues on the lines `sense: a; b` of a thought, as written, without `NOTHING`."""
    lines = [line.strip() for line in thought.splitlines()]
    found = [line.removeprefix(f"{sense}:") for line in lines if line.startswith(f"{sense}:")]
    cues = [cue.strip() for line in found for cue in line.split(";")]
    return tuple(cue for cue in cues if cue and cue != NOTHING)


def _clean(argument: str, label: str) -> str:
    text = cast(object, label)
    if not isinstance(text, str) or not text.strip() or _FORBIDDEN.search(text) or hides(text):
        raise PromptError(f"{argument}: {label!r:.80} must be a non-empty text without ; < > or characters that hide")
    if len(text.strip()) > MAX_NAME:
        raise PromptError(f"{argument}: has {len(text.strip()):,} characters; shorten it to {MAX_NAME} at most")
    return text.strip()


def _ranked(labels: Iterable[str]) -> list[str]:
    """The labels, those that tell most first."""
    if isinstance(labels, Mapping):
        return sorted(labels, key=lambda label: (-labels[label], label))
    return list(labels)


def _span(name: str, times: Mapping[str, tuple[float, float]] | None) -> str:
    """ ", 0-3 s" when it is known when the atom sounds."""
    if times is None or name not in times:
        return ""
    first, last = times[name]
    if not 0 <= first <= last < math.inf:  # also false for NaN
        raise PromptError(f"times: {name!r} cannot sound from {first} to {last} s; give 0 <= first <= last")
    return f", {math.floor(first)}-{math.ceil(last)} s"


def _month_and_hour(recorded: datetime) -> str:
    if not isinstance(cast(object, recorded), datetime):
        raise PromptError(f"recorded: give the local datetime of the recording, got {recorded!r}")
    return f"{_MONTHS[recorded.month - 1]}, {recorded.hour} h"


def _without_digits(text: str) -> str:
    return re.sub("#+", "#", "".join("#" if character.isnumeric() else character for character in text))


def _is_there(cell: Any) -> bool:
    """Whether a table's cell holds something; NaN and NaT differ from themselves."""
    return cell is not None and not (isinstance(cell, float | datetime) and cell != cell)
