"""Licences under one name each, SPDX-like, and the gate that lets through those allowed.

Names follow the SPDX License List where it has one (CC-BY-SA-4.0, CC0-1.0, CC-BY-SA-3.0-DE for a port). Beyond it:
PDM-1.0 (the Public Domain Mark), PD (public domain, no deed named), ARR (all rights reserved), NKC (no known
copyright restrictions), US-GOV.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from avgeo.curate.candidate import UNKNOWN, Candidate
from avgeo.curate.verdict import Verdict

if TYPE_CHECKING:
    from avgeo.profiles import CurateSettings

_DEED = re.compile(
    r"(?:^|//|[\s\"'(])(?:www\.)?creativecommons\.org/(licen[cs]es|publicdomain)/([a-z+-]+)"
    r"(?:/(\d\.\d)(?:/([a-z]{2,9})(?![a-z.]))?)?"
)
_CODE = re.compile(
    r"(?!by$)(?:cc|creative\W?commons)?[\s_:-]*(by(?:[\s_-](?:nc|nd|sa))*)"
    r"(?:[\s_-]+v?(\d\.\d)(?:[\s_(-]+([a-z]{2}|igo|scotland)\)?)?)?"
)
_ELEMENTS = ("by", "nc", "nd", "sa")
_WORDS = {
    "attribution": "by",
    "noncommercial": "nc",
    "noderivs": "nd",
    "noderivatives": "nd",
    "noderivative": "nd",
    "sharealike": "sa",
}
# Words that say nothing about which licence it is.
_FILLER = re.compile(
    r"\b(licen[cs]ed?|under|the|an?|creative|commons|cc|generic|international|unported|universal|public|reuse allowed|"
    r"works?|version|v)\b"
)
# Words beside a deed's address that may take back what it grants, or grant it for a part.
_LIMITS = re.compile(
    r"\b(not?|non|none|never|neither|nor|cannot|except|unless|only|but|without|elsewhere|some|parts?|reserved)\b|n['’]t\b|\?"
)
_ZERO = r"(?:cc[\s_-]?(?:0|zero)|creative commons (?:0|zero))"
_ZERO_WORDS = (
    rf"(?:{_ZERO}|v?1\.0|universal|public domain|dedication|licen[cs]ed?|waiver|version|under|the|"
    r"creative commons|[\s,;:_()-])*"
)
_FIXED = (
    (rf"{_ZERO_WORDS}{_ZERO}{_ZERO_WORDS}", "CC0-1.0"),
    (r"(cc[\s_-])?(public domain mark|pdm?[\s_-]mark|pdm)([\s_-]*1\.0)?", "PDM-1.0"),
    # Commons' templates say why: PD-self, PD-old-100. PD-US and its kin hold in one country only.
    (r"(cc[\s_-])?(public[\s_-]domain([\s_-](dedication|work))?|pd(-(?!(us|not?|none)\b)[a-z0-9]+)*)", "PD"),
    (r"no known copyright restrictions?|nkc", "NKC"),
    (r"(united states|u\.?s\.?)[\s_-](government|gov)([\s_-]works?)?", "US-GOV"),
    (r"all rights reserved|arr|©.*|\(c\).*|(standard )?copyright(ed)?|standard( youtube| vimeo)? licen[cs]e", "ARR"),
    (r"free art licen[cs]e|lal|fal( 1\.3)?", "FAL-1.3"),
)
_SPDX = {name.lower(): name for name in ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ODbL-1.0", "OGL-UK-3.0")}
_SPDX |= {"apache 2.0": "Apache-2.0", "odbl": "ODbL-1.0", "odbl 1.0": "ODbL-1.0"}


def _cc(code: str, version: str | None, port: str | None) -> str:
    """CC-BY-NC-SA-3.0-DE of the parts; the elements in the order that Creative Commons gives them."""
    parts = set(code.split("-"))
    ordered = [element for element in _ELEMENTS if element in parts]
    # Share-alike comes last, and no licence has both: ND-NC of version 1.0 is NC-ND today.
    name = "CC-" + "-".join(ordered).upper()
    return "-".join(part for part in (name, version, port.upper() if port and version else None) if part)


def normalise(text: str | None) -> str | None:
    """The SPDX-like name of a licence given as a deed's address, a short name or a full one; None if not recognised.

    A name without a version keeps none (CC-BY). Alternatives ("MIT or Apache-2.0") come as "MIT OR Apache-2.0" if
    each is recognised.
    """
    text = " ".join((text or "").split())[:300]
    low = text.lower().strip(" .;,")
    if not low or low == UNKNOWN:
        return None
    if " or " in low:
        names = [normalise(part) for part in re.split(r"\s+or\s+", low)]
        return " OR ".join(name for name in names if name) if all(names) else None
    deeds = {_of_deed(*found) for found in _DEED.findall(low)}
    if deeds:
        # two of them are of two parts, and nobody says which
        return (
            None if len(deeds) > 1 or _LIMITS.search(re.sub(r"[^\s\"'<>]*\.org/[^\s\"'<>]*", " ", low)) else deeds.pop()
        )
    if low in _SPDX:
        return _SPDX[low]
    for pattern, name in _FIXED:
        if re.fullmatch(pattern, low):
            return name
    gfdl = re.fullmatch(
        r"(?:gnu )?(?:gfdl|free documentation licen[cs]e)"
        r"(?:(?:version|[\s,v-])*(1\.[0-3])(?:\+|[\s-](?:only|or-later))?)?",
        low,
    )
    if gfdl:
        return f"GFDL-{gfdl[1]}" if gfdl[1] else "GFDL"
    code = _CODE.fullmatch(low)
    if code:
        return _cc(re.sub(r"[\s_]", "-", code[1]), code[2], code[3])
    return _of_words(low)


def _of_deed(kind: str, code: str, version: str, port: str) -> str | None:
    code = code.strip("-")
    if code in ("zero", "mark"):
        return {"zero": "CC0-1.0", "mark": "PDM-1.0"}[code]
    if code in ("publicdomain", "certification"):
        return "PD"
    if kind == "publicdomain" or not set(code.split("-")) <= set(_ELEMENTS):
        return None
    return _cc(code, version or None, None if port in ("", "deed", "legalcode") else port)


def _of_words(low: str) -> str | None:
    """A name in full: "Creative Commons Attribution-NonCommercial-ShareAlike 2.0 Generic", "Attribution License"."""
    words = re.sub(r"\bnon[\s-]commercial\b", "noncommercial", low)
    words = re.sub(r"\bno[\s-](derivs|derivatives?)(\s+works?)?\b", "noderivs", words)
    words = re.sub(r"\bshare[\s-]alike\b", "sharealike", words)
    version = re.search(r"\b(\d\.\d)\b", words)
    found = [_WORDS[word] for word in re.findall(r"[a-z]+", words) if word in _WORDS]
    left = re.sub(r"\b\d\.\d\b|[\W_]+", " ", _FILLER.sub(" ", re.sub("|".join(_WORDS), " ", words))).strip()
    if "by" not in found or left or "?" in low:
        return None
    # YouTube's only Creative Commons licence; its deed is that of 3.0 (support.google.com/youtube/answer/2797468).
    number = "3.0" if "reuse allowed" in low else version[1] if version else None
    return _cc("-".join(found), number, None)


def admits(allowed: str, name: str) -> bool:
    """Whether an entry of the allowed list covers a licence: the same one, in any version or port unless it names one.

    CC-BY covers CC-BY-4.0 and CC-BY-3.0-DE, neither CC-BY-SA-4.0 nor CC-BY-NC-4.0.
    """
    wanted = (normalise(allowed) or allowed).upper()
    more = r"-[A-Z]+" if wanted[-1:].isdigit() else r"-\d.*"
    return re.fullmatch(f"{re.escape(wanted)}({more})?", name.upper()) is not None


def licence(candidate: Candidate, settings: CurateSettings) -> Verdict:
    """Its licence is one of `settings.licences`; without such a list any will do, and an unknown one too unless
    `settings.licence_required`.
    """
    text = candidate.licence
    name = normalise(text)
    measured = {"licence": text[:200], "name": name}
    wanted = settings.licences
    if not wanted and not settings.licence_required:
        return Verdict("licence", measured)
    if text.strip() in ("", UNKNOWN):
        return Verdict("licence", measured, "no licence is known")
    if name is None:
        return Verdict("licence", measured, f"the licence {text[:80]!r} is not recognised")
    if wanted and not any(admits(entry, part) for part in name.split(" OR ") for entry in wanted):
        return Verdict("licence", measured, f"{name} is not among {', '.join(wanted)}")
    return Verdict("licence", measured)
