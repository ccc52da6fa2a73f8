"""The report in headless Chromium: it plays, zooms, seeks, fits a phone, keeps hostile text text, and is accessible."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_report import FRAMES, LOCATED, RATE, density
from webdriver import CHROMIUM, DRIVER, Browser

from avgeo.report import html_report

HOSTILE = "\"><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'"
AXE = next(
    (path for path in (Path(os.environ.get("AVGEO_AXE", "")), Path(__file__).parents[1] / "_build/axe/axe.min.js")
     if path.is_file()), None,
)  # fmt: skip

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver on this machine"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    import numpy as np

    sound = 0.3 * np.sin(np.arange(4 * RATE) * 0.4)
    evidence = [*LOCATED["evidence"], LOCATED["evidence"][0] | {"label": HOSTILE, "start_s": 3.0, "end_s": 3.5}]
    located = LOCATED | {
        "evidence": evidence, "not_listened": {"speech": HOSTILE}, "licences": {"BirdNET": "CC BY-NC-SA 4.0"},
        "countries": [{"name": HOSTILE, "probability": 0.6}], "input": {"name": HOSTILE, "sha256": "ab" * 32},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(
        html_report(located, frames=FRAMES, audio=sound, sample_rate_hz=RATE, density=density()), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module", params=[1200, 360])
def browser(request):
    window = Browser(request.param, 800)
    yield window
    window.quit()


@pytest.fixture
def opened(browser, page):
    browser.open(page.as_uri())
    return browser


def test_the_page_fits_and_logs_no_error(opened):
    wide, view = opened.run("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert wide <= view
    cells = "return [...document.querySelectorAll('tbody th, tbody td:not(.track)')].map((one) => one.clientWidth)"
    assert min(opened.run(cells)) > 40  # no text a letter wide
    assert opened.run("return innerWidth") in (1200, 360)
    assert opened.logged() == []


def test_hostile_text_is_text(opened):
    title, text = opened.run("return [document.title, document.body.innerText]")
    assert title == f"Where was {HOSTILE} recorded?"
    assert text.count(HOSTILE) >= 4
    assert opened.run("return document.scripts.length") == 1


def test_the_map_zooms_and_pans(opened):
    box = "return document.getElementById('world').getAttribute('viewBox').split(' ').map(Number)"
    whole = opened.run(box)
    assert whole == [0, 0, 2000, 973]
    opened.run("document.querySelector('[data-zoom=\"2\"]').click()")
    assert opened.run(box) == pytest.approx([500, 243.25, 1000, 486.5])
    key = "document.getElementById('world').dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))"
    opened.run(key, "ArrowRight")
    assert opened.run(box) == pytest.approx([625, 243.25, 1000, 486.5])
    opened.run(
        "const m = document.getElementById('world'), b = m.getBoundingClientRect();"
        "m.focus(); m.dispatchEvent(new WheelEvent('wheel', {deltaY: -1, cancelable: true,"
        "clientX: b.left + b.width / 2, clientY: b.top + b.height / 2}))"
    )
    assert opened.run(box)[2] == pytest.approx(1000 / 1.2)
    opened.run("document.querySelector('[data-zoom=\"0\"]').click()")
    assert opened.run(box) == whole


def test_evidence_seeks_and_is_highlighted_and_the_playhead_moves(opened):
    state = opened.run(
        """
      const audio = document.querySelector("audio"), head = document.querySelector(".playhead");
      const later = (name) => new Promise((done) => audio.addEventListener(name, done, {once: true}));
      if (audio.readyState < 1) await later("loadedmetadata");
      const rows = [...document.querySelectorAll("td button[data-evidence]")], sought = later("seeked");
      rows.at(-1).click();
      await sought;
      const at = audio.currentTime, left = parseFloat(head.style.left);
      const on = [...document.querySelectorAll(".on")].map((one) => one.dataset.evidence);
      audio.muted = true;
      await audio.play();
      await new Promise((done) => setTimeout(done, 400));
      audio.pause();
      await new Promise((done) => setTimeout(done, 100));
      return {at, left, on, later: audio.currentTime, moved: parseFloat(head.style.left)};
    """.join(("return (async () => {", "})()"))
    )
    assert state["at"] == pytest.approx(3.0) and state["left"] == pytest.approx(75, abs=0.5)
    assert state["on"] == ["2", "2"]  # in the time line and in the table
    assert state["later"] > 3.05 and state["moved"] == pytest.approx(100 * min(1, state["later"] / 4), abs=3)


@pytest.mark.skipif(AXE is None, reason="no axe-core: `npm pack axe-core` into _build/axe, or set AVGEO_AXE")
def test_axe_finds_nothing_serious(opened):
    assert AXE is not None
    opened.run(AXE.read_text(encoding="utf-8"))
    opened.run("for (const more of document.querySelectorAll('details')) more.open = true")
    found = opened.run("return (async () => (await axe.run(document)).violations)()")
    bad = {v["id"]: [n["html"][:200] for n in v["nodes"]] for v in found if v["impact"] in ("serious", "critical")}
    assert bad == {}
