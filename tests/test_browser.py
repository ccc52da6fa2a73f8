"""The rendered book in headless Chromium without a network: what a reader sees. Run `make book` first."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = sorted((BOOK / "notebooks").glob("[0-9][0-9]_*.html"))

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not PAGES, reason="the book is not built: run `make book`"),
]


class Page:
    """A page once its scripts have run: the document, and every address that was asked for."""

    def __init__(self, address: str, folder: Path):
        log = folder / "net.json"
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--no-first-run", "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}", "--virtual-time-budget=15000", "--dump-dom", address,
        ]  # fmt: skip
        self.document = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        events = json.loads(log.read_text())["events"]
        asked = {event.get("params", {}).get("url") for event in events}
        self.asked = {url for url in asked if url and re.match(r"(https?|wss?):", url)}
        self.images = re.findall(r"<img\b[^>]*_images/[^>]*>", self.document)  # not the theme's own logos


@pytest.fixture(scope="module")
def chapters(tmp_path_factory) -> dict[str, Page]:
    return {page.stem: Page(page.as_uri(), tmp_path_factory.mktemp(page.stem)) for page in PAGES}


def test_equations_are_drawn_without_a_network(chapters):
    drawn = {name: len(re.findall(r"<mjx-container[^>]*>\s*<svg", page.document)) for name, page in chapters.items()}
    assert all(drawn.values()), drawn
    # A syntax error is drawn as an merror, an undefined macro as red text.
    wrong = re.compile(r"<[^>]*(data-mjx-error|data-mml-node=\"merror\"|data-mml-node=\"mtext\"[^>]*fill=\"red\")")
    assert {name: found.group() for name, page in chapters.items() if (found := wrong.search(page.document))} == {}


def test_nothing_is_asked_of_the_network(chapters):
    pages = {name: page.asked for name, page in chapters.items() if page.asked}
    own = re.compile(r"https?://[^/]*(google|gstatic|gvt1)[^/]*/")  # Chromium's own services, not the page's
    assert {
        n: {u for u in urls if not own.match(u)} for n, urls in pages.items() if any(not own.match(u) for u in urls)
    } == {}


def test_figures_say_in_words_what_they_show(chapters):
    for name, page in chapters.items():
        assert page.images, f"{name} has no figure"
        for image in page.images:
            alt = re.search(r'\balt="([^"]*)"', image)
            assert alt and len(html.unescape(alt.group(1))) > 10 and not alt.group(1).startswith("../"), (
                f"{name}: {image[:200]}"
            )


def test_colab_opens_the_twin(chapters):
    for name, page in chapters.items():
        assert f"https://colab.research.google.com/github/avgeo/avgeo/blob/main/notebooks/{name}.ipynb" in page.document


def test_every_chapter_ends_with_its_seal(chapters):
    for name, page in chapters.items():
        assert re.search(r'id="freshness-seal"', page.document), name


def test_search_finds_a_word(tmp_path):
    found = Page((BOOK / "search.html").as_uri() + "?q=geodesic", tmp_path)
    assert re.search(r"found \d+ page", found.document) and 'class="search"' in found.document
    assert re.search(r'<ul class="search"[^>]*>.*?<a href=', found.document, flags=re.DOTALL)


def test_the_eight_places_play_with_picture_and_sound(chapters, tmp_path):
    """Every player of chapter 1 holds a clip that this browser decodes, of the announced size and length."""
    sources = re.findall(r'<video\b[^>]*src="(data:video/mp4;base64,[^"#]*)', chapters["01_curation"].document)
    assert len(sources) == 8
    for number, source in enumerate(sources):
        page = tmp_path / f"{number}.html"
        page.write_text(
            f"<body><video muted src='{source}'></video><script>const v = document.querySelector('video');"
            "v.onerror = () => document.title = 'error ' + v.error.message;"
            "v.oncanplay = () => document.title = `${v.videoWidth}x${v.videoHeight} ${v.duration}`;</script></body>"
        )
        folder = tmp_path / str(number)
        folder.mkdir()
        title = re.search(r"<title>(.*?)</title>", Page(page.as_uri(), folder).document)
        assert title is not None, "the browser neither plays nor refuses the clip"
        size, _, seconds = title[1].partition(" ")
        assert re.fullmatch(r"\d+x\d+", size) and float(seconds) > 1, title[1]
