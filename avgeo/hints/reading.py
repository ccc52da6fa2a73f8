"""The text of a hint, `kind=value[,name=value...][,sure=0.8]` or `...@0.8`, in pieces; nothing of it is passed over."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from avgeo.untrusted import hides, shown

SURE = 0.95
"""How sure an analyst is of a hint who does not say."""

LONGEST = 200  # characters of a hint
_SUREST = 0.999  # a likelihood is never 0: a hint can be wrong
_NUMBER = r"[+-]?(?:\d{1,7}(?:\.\d{0,12})?|\.\d{1,12})"
_DEGREES = re.compile(rf"({_NUMBER})\s*(?:[°º˚]|deg)?", re.ASCII)
_POSITION = re.compile(rf"({_NUMBER})\s*°?\s*([NSEW]?)", re.ASCII)
_KM = re.compile(rf"(?:within\s+)?({_NUMBER})\s*(?:km)?", re.ASCII)
_PLUS_MINUS = re.compile(r"±|\+/-|\+-")


class HintError(ValueError):
    """A hint that cannot be read; the message names the hint and the cure."""


@dataclass(frozen=True)
class Written:
    """A hint as it was written: its kind, its parts between commas, and how sure the analyst is."""

    text: str
    kind: str
    parts: tuple[str, ...]
    sure: float

    def wrong(self, why: str) -> HintError:
        """The error to raise: names this hint."""
        return HintError(f"hint {shown(self.text)}: {why}")

    def only(self, example: str) -> str:
        """The one part, where a kind takes no more."""
        if len(self.parts) != 1:
            raise self.wrong(f"one value is wanted, such as {example}, and {len(self.parts)} are given")
        return self.parts[0]

    def named(self, allowed: Iterable[str], start: int = 0) -> dict[str, str]:
        """The parts from `start` on as name=value, each name once and one of `allowed`."""
        allowed, found = tuple(allowed), dict[str, str]()
        for part in self.parts[start:]:
            name, equals, value = (piece.strip() for piece in part.partition("="))
            name = name.casefold()
            if not equals:
                cure = "; write a decimal with a point, 34.5" if re.fullmatch(r"\d+.*", part) else ""
                raise self.wrong(f"{shown(part)} is no name=value{cure}")
            if name not in allowed:
                raise self.wrong(f"there is no {shown(name)} here, only {', '.join(allowed)}")
            if name in found:
                raise self.wrong(f"{name} is given twice")
            found[name] = value
        return found

    def number(self, name: str, text: str, low: float, high: float, pattern: re.Pattern[str] = _DEGREES) -> float:
        """A plain number from `low` to `high`."""
        match = pattern.fullmatch(plain(text))
        if match is None:
            raise self.wrong(f"{name} {shown(text)} is no number; write one as 34.5")
        value = float(match[1])
        if not low <= value <= high:
            raise self.wrong(f"{name} must be from {low:g} to {high:g}, and {value:g} is given")
        return value

    def km(self, text: str, most_km: float) -> float:
        """A distance: `5`, `5 km`, `within 5 km`."""
        return self.number("km", text, 0.001, most_km, _KM)

    def degrees(self, name: str, text: str, most: float, positive: str, negative: str) -> float:
        """A latitude or longitude: signed, or with N, S, E or W."""
        match = _POSITION.fullmatch(plain(text).upper())
        if match is None or match[2] not in ("", positive, negative) or (match[2] and match[1][0] in "+-"):
            raise self.wrong(f"{name} {shown(text)} is no angle; write one as -33.9 or 33.9{negative}")
        self.number(name, match[1], -most, most)
        return float(match[1]) * (-1 if match[2] == negative else 1)

    def measured(self, name: str, text: str, low: float, high: float, error: float) -> tuple[float, float]:
        """A value with its error, `34±3` or `34+-3`; `error` is that of a value without one."""
        value, *errors = _PLUS_MINUS.split(text)
        if len(errors) > 1:
            raise self.wrong(f"{name} {shown(text)} has more than one ±")
        middle = self.number(name, value, low, high)
        return middle, self.number(f"the error of {name}", errors[0], 0, high) if errors else error

    def one_of(self, value: str, names: Mapping[str, str], what: str) -> str:
        """What `value` stands for, whatever its case, in `names` (`folded`); an error tells the nearest ones."""
        key = folded(value)
        if key in names:
            return names[key]
        near = list(names) if len(names) <= 8 else get_close_matches(key, names, 4, 0.6)
        cure = f"; did you mean {', '.join(near)}?" if near else "; nothing known is spelt like it"
        raise self.wrong(f"{what} {shown(value)} is not known{cure}")


def read(text: str, kinds: Iterable[str]) -> Written:
    """A hint in its pieces; raises `HintError` for one that is no kind=value, too long, or unsure of how sure."""
    if len(text) > LONGEST:
        raise HintError(f"hint {shown(text, 40)}: is longer than {LONGEST} characters")
    if hides(text):
        raise HintError(f"hint {shown(text)}: has characters that cannot be seen; type it anew")
    kind, equals, rest = (piece.strip() for piece in text.partition("="))
    kind, known = kind.casefold(), tuple(kinds)
    if not equals or kind not in known:
        raise HintError(f"hint {shown(text)}: must be kind=value, with a kind of {', '.join(known)}")
    written = Written(text.strip(), kind, (), SURE)
    rest, at, given = rest.partition("@")
    rest = rest.strip()
    if rest[:1] in ("'", '"') and rest[-1:] == rest[:1] and len(rest) > 1:
        rest = rest[1:-1]
    parts = [part.strip() for part in rest.split(",")]
    sure = [given.strip()] if at else []
    kept = []
    for part in parts:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals and name.casefold() == "sure":
            sure.append(value)
        else:
            kept.append(part)
    if len(sure) > 1:
        raise written.wrong("says twice how sure it is")
    if not kept or not all(kept):
        raise written.wrong(f"says nothing after {kind}=" if not any(kept) else "has nothing between two commas")
    at_most = written.number("sure", sure[0], 0.001, _SUREST) if sure else SURE
    return Written(text.strip(), kind, tuple(kept), at_most)


def folded(text: str) -> str:
    """A name without case, accents on letters, curly quotes and spaces around: how names are compared."""
    letters = unicodedata.normalize("NFC", text.replace("’", "'").casefold())
    bare = "".join(unicodedata.normalize("NFD", letter)[0] for letter in letters)
    return " ".join(bare.split())


def plain(text: str) -> str:
    """Minus signs and dashes as they are typed (U+2212 and U+2013 as -), without spaces around."""
    return text.replace("−", "-").replace("–", "-").strip()
