"""Text that a model, a file or a table of someone else's wrote, made fit to be printed. Imports nothing heavy.

A terminal obeys control characters (colours, titles, cleared screens), a bidirectional override turns the line around
it, a zero-width character makes two names look alike, and a lone surrogate cannot be encoded at all. `shown` replaces
them by escapes that can be seen. It says nothing about markup: a page escapes that itself, after `shown`.
"""

from __future__ import annotations

import re
import unicodedata

SHOWN_CHARACTERS = 2000
"""How much of a text `shown` shows by default: a screenful, so that a runaway answer does not scroll the rest away."""

# Invisible, although their categories are letters and marks: fillers, joiners and selectors of variants.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def hides(text: str) -> bool:
    """Whether a text holds what cannot be seen: control, format (bidi, zero-width), surrogate or unassigned characters.

    Spaces of every width are no offence; line and paragraph breaks are.
    """
    if _INVISIBLE.search(text):
        return True
    return not text.isprintable() and any(_unseen(character) for character in set(text))


def shown(text: str, limit: int = SHOWN_CHARACTERS, *, lines: bool = False) -> str:
    r"""`text` to print: `limit` characters of it at most, and how many more there are; what is unseen is escaped.

    The result is printable (`str.isprintable`), ASCII spaces aside without any white space, so it is one line: a line
    break is shown as `\n`, unless `lines` keeps it. A backslash of the text's own stays one, so this is for reading,
    not for reading back. Takes time linear in `limit`. Raises `ValueError` for a negative limit.
    """
    if limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}")
    head = text[:limit]
    if not head.isprintable() or _INVISIBLE.search(head):
        head = "".join(_escaped(character, lines) for character in head)
    left = len(text) - limit
    return head + (f" … ({left:,} more characters)" if left > 0 else "")


def _unseen(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) != "Zs"


def _escaped(character: str, lines: bool) -> str:
    if lines and character == "\n":
        return character
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    # repr knows \n, \x1b, \u202e and \U000e0001; it leaves what it takes for printable
    escape = repr(character)[1:-1]
    return escape if escape != character else character.encode("ascii", "backslashreplace").decode()
