"""Licences have one name each, and a family admits its versions, not its stricter relatives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avgeo.curate.candidate import UNKNOWN, Candidate
from avgeo.curate.licence import admits, licence, normalise
from avgeo.profiles import CurateSettings


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("//creativecommons.org/licenses/by-nc-sa/4.0/", "CC-BY-NC-SA-4.0"),
        ("http://creativecommons.org/licenses/by-sa/3.0/de/", "CC-BY-SA-3.0-DE"),
        ("https://creativecommons.org/licenses/by/4.0/deed.de", "CC-BY-4.0"),
        ("https://www.creativecommons.org/licenses/by/3.0/igo/legalcode", "CC-BY-3.0-IGO"),
        ("https://creativecommons.org/licenses/by/4.0/legalcode", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/deed.en", "PDM-1.0"),
        ("http://creativecommons.org/licenses/publicdomain/", "PD"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("cc-by-sa-3.0 de", "CC-BY-SA-3.0-DE"),
        ("CC BY", "CC-BY"),
        ("by-nc", "CC-BY-NC"),
        ("CC0", "CC0-1.0"),
        ("Creative Commons Zero, Public Domain Dedication", "CC0-1.0"),
        ("Public domain", "PD"),
        ("PD-self", "PD"),
        ("Attribution-NonCommercial-ShareAlike License", "CC-BY-NC-SA"),
        ("Attribution-NoDerivs License", "CC-BY-ND"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution license (reuse allowed)", "CC-BY-3.0"),
        ("GNU Free Documentation License, Version 1.2", "GFDL-1.2"),
        ("GFDL", "GFDL"),
        ("Apache-2.0 or MIT", "Apache-2.0 OR MIT"),
        ("All Rights Reserved", "ARR"),
        ("Standard YouTube License", "ARR"),
        ("United States Government Work", "US-GOV"),
        ("No known copyright restrictions", "NKC"),
        ("research purposes only", None),
        ("Creative Commons, per recording: see the page", None),
        ("Attribution required, ask me first", None),
        ("not CC BY 4.0", None),
        ("https://notcreativecommons.org/licenses/by/4.0/", None),
        ("http://creativecommons.org/licenses/sampling+/1.0/", None),
        ("MIT or ask me", None),
        ("Creative Commons Zero (CC0)", "CC0-1.0"),
        ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", "CC0-1.0"),
        ("PD-old-100", "PD"),
        ("GFDL-1.2-or-later", "GFDL-1.2"),
        ('<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>', "CC-BY-4.0"),
        ("Public domain? No", None),
        ("public domain in the US only, all rights reserved elsewhere", None),
        ("PD-US", None),
        ("not (cc0)", None),
        ("No rights reserved except public domain (cc0) not granted", None),
        ("by", None),
        ("by us", None),
        ("CC BY no", None),
        ("No attribution", None),
        ("Attribution?", None),
        ("GFDL not granted", None),
        ("https://creativecommons.org/licenses/by/4.0/ does not apply", None),
        (
            "text: https://creativecommons.org/licenses/by/4.0/ sound: https://creativecommons.org/licenses/by-nc/4.0/",
            None,
        ),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_licences_have_one_name_each(text: str | None, name: str | None) -> None:
    assert normalise(text) == name
    assert normalise(name) == name  # a name is its own


@given(st.text())
def test_any_text_is_a_licence_or_not(text: str) -> None:
    name = normalise(text)
    assert name is None or normalise(name) == name


@pytest.mark.parametrize(
    ("allowed", "name", "covered"),
    [
        ("CC-BY", "CC-BY-4.0", True), ("CC-BY", "CC-BY-3.0-DE", True), ("CC-BY", "CC-BY", True),
        ("CC BY", "CC-BY-2.0", True), ("CC-BY", "CC-BY-NC-4.0", False), ("CC-BY", "CC-BY-SA-4.0", False),
        ("CC-BY", "CC-BY-ND", False), ("CC-BY-4.0", "CC-BY-3.0", False), ("CC-BY-SA", "CC-BY-SA-3.0-DE", True),
        ("cc-by-sa-3.0", "CC-BY-SA-3.0-DE", True), ("CC0", "CC0-1.0", True), ("CC", "CC-BY-4.0", False),
        ("PD", "PDM-1.0", False), ("GFDL", "GFDL-1.2", True), ("", "CC-BY-4.0", False),
    ],
)  # fmt: skip
def test_families_of_licences(allowed: str, name: str, covered: bool) -> None:
    assert admits(allowed, name) is covered


@pytest.mark.parametrize(
    ("text", "chosen", "reason"),
    [
        (UNKNOWN, {}, None),
        ("see page", {}, None),
        (UNKNOWN, {"licence_required": True}, "no licence is known"),
        ("", {"licence_required": True}, "no licence is known"),
        (UNKNOWN, {"licences": ("CC-BY",)}, "no licence is known"),
        ("see page", {"licence_required": True}, "the licence 'see page' is not recognised"),
        ("ARR", {"licence_required": True}, None),
        ("CC BY 4.0", {"licences": ("CC0", "CC-BY")}, None),
        ("Apache-2.0 or MIT", {"licences": ("MIT",)}, None),
        ("CC BY-NC 4.0", {"licences": ("CC0", "CC-BY")}, "CC-BY-NC-4.0 is not among CC0, CC-BY"),
    ],
)
def test_the_licence_gate(text: str, chosen: dict[str, Any], reason: str | None) -> None:
    verdict = licence(Candidate("a", None, "s", licence=text), CurateSettings(**chosen))
    assert (verdict.gate, verdict.reason) == ("licence", reason)
    assert verdict.measured["licence"] == text
