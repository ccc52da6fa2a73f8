"""Text of others: what is shown is printable whatever was written, and no output of ours obeys it."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from hostile import SHAPES
from hypothesis import given
from hypothesis import strategies as st

from avgeo import cli
from avgeo.cli import console, place
from avgeo.plots.style import drawn, new_figure, png
from avgeo.reason import prompts
from avgeo.reason.prompts import ParseFailure, parse
from avgeo.telling import located_lines
from avgeo.untrusted import SHOWN_CHARACTERS, hides, shown

anything = st.text(st.characters())  # every code point, lone surrogates too
HOSTILE = "\x1b]0;owned\x07\x1b[2JKe\rn\x00\ny\u202ea\u200b\u2066\ufeff\ud800\x9b\x85\u2028\u3164\U000e0041"


@given(anything, st.integers(0, 30))
def test_what_is_shown_is_printable(text, limit):
    for result in (shown(text), shown(text, limit)):
        assert result.isprintable() and result.encode("utf-8") == result.encode("utf-8", "replace")
    lines = shown(text, limit, lines=True)
    assert lines.replace("\n", "").isprintable()
    assert lines.count("\n") == text[:limit].count("\n")


@given(anything)
def test_what_does_not_hide_is_shown_as_it_is(text):
    if text.isprintable() and not hides(text):
        assert shown(text, len(text)) == text
    elif hides(text):
        assert shown(text, len(text)) != text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("Côte d'Ivoire, São Tomé — 日本 Ελλάδα ישראל 👍", None), ("a\tb\nc", r"a\tb\nc"), ("\x1b[31m", r"\x1b[31m"),
        ("\u202e", r"\u202e"), ("\ud800", r"\ud800"), ("\xa0", r"\xa0"), ("\u3164", r"\u3164"),
        ("\U000e0041", r"\U000e0041"), ("\x7f\x9b", r"\x7f\x9b"), (r"\x1b", None),
    ],
)  # fmt: skip
def test_escapes(text, escaped):
    assert shown(text) == (text if escaped is None else escaped)


def test_what_is_left_out_is_counted():
    assert shown("x" * 100_000, 10) == "x" * 10 + " … (99,990 more characters)"
    assert shown("x" * SHOWN_CHARACTERS) == "x" * SHOWN_CHARACTERS
    assert shown("\x00" * 3, 0) == " … (3 more characters)"
    with pytest.raises(ValueError, match="limit"):
        shown("", -1)


def test_spaces_do_not_hide():
    assert not hides("São\u00a0Tomé and\u3000Tokyo\u2009")
    assert all(hides(part) for part in HOSTILE if not part.isprintable() or part == "\u3164")


# --- where it reaches a terminal ---


def located(name: str) -> SimpleNamespace:
    place = {"name": name, "country_code": name, "probability": 0.5}
    return SimpleNamespace(
        latitude_deg=1.0, longitude_deg=2.0, entropy_bits=-3.0, recalibration={"shown": name}, regions=[(0.5, 10.0)],
        places=[place], countries=[place],
        atoms=[SimpleNamespace(start_s=0.0, end_s=1.0, strength=2.0, name=name)],
        evidence=[SimpleNamespace(bits=1.0, shift_km=2.0, detector=name, label=name, start_s=0.0, end_s=None)],
        metadata_location={"latitude_deg": 1.0, "longitude_deg": 2.0, "kind": name},
        model={"name": name, "trained_on": name}, condition=object(), fused=None, prior=name,
        gathered=SimpleNamespace(
            refused=[{"detector": name, "label": name, "reason": name}], not_listened=[name], licences={name: name}
        ),
    )  # fmt: skip


@given(anything)
def test_an_answer_is_as_many_printable_lines_whatever_things_are_called(name):
    lines = located_lines(located(name))
    assert all(line.isprintable() for line in lines)
    assert len(lines) == len(located_lines(located("Kenya")))
    assert all(len(line) < SHOWN_CHARACTERS + 40 for line in located_lines(located("x" * 100_000)))


def printable(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def test_the_terminal_gets_no_control_characters(monkeypatch, capfd, tmp_path):
    import_module("avgeo.locate")
    module = sys.modules["avgeo.locate"]  # so that the module, not the function, is patched
    monkeypatch.setattr(module, "usable", lambda *_, **__: None)
    monkeypatch.setattr(module, "locate", lambda *_, **__: located(HOSTILE))
    monkeypatch.setattr(place, "probe_file", lambda _: None)
    monkeypatch.setattr(place, "load_model", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["avgeo", "locate", "clip.mp4"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capfd.readouterr()
    assert stop.value.code in (0, None) and "estimate  1.00, 2.00" in out and r"\x1b[2JKe\rn\x00\ny\u202ea" in out
    assert printable(out) and err == ""


@pytest.mark.parametrize("command", ["locate", "atoms"])
def test_an_error_about_a_hostile_file_name_is_shown(monkeypatch, capfd, command):
    monkeypatch.setattr(sys, "argv", ["avgeo", command, "\x1b[31mred\u202e.mp4"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capfd.readouterr()
    assert out == "" and r"\x1b[31mred\u202e.mp4" in err and printable(err) and err.count("\n") == 1


def test_a_file_name_that_is_no_utf8_can_be_written(tmp_path):
    console.write(tmp_path / "a.json", '"caf\udce9"')
    assert (tmp_path / "a.json").read_bytes() == rb'"caf\udce9"'


def test_a_hostile_label_can_be_drawn(recwarn):
    figure = new_figure(1.0)
    figure.subplots().set_title(drawn("$x^$ \x1b[31m\u202e\ud800\\$"))
    assert png(figure) and not [w for w in recwarn if "Glyph" in str(w.message)]


# --- size: adversarial texts of growing length complete (benchmarks/test_hostile.py has the ratios) ---


@pytest.mark.parametrize("shape", SHAPES)
def test_long_texts_are_refused_unread_and_read_to_the_end_if_they_may_be(monkeypatch, shape):
    for characters in (100_000, 200_000, 400_000):
        text = SHAPES[shape](characters)
        assert parse(text) == ParseFailure("too long")
        assert len(shown(text)) < 10 * SHOWN_CHARACTERS + 40
        with monkeypatch.context() as patch:
            patch.setattr(prompts, "MAX_CHARACTERS", 10**7)
            assert parse(text) != ParseFailure("too long")
