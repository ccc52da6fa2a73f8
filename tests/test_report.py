"""The report: one file, no network, no script, escaped, accessible, plain about its model's training."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import re
import wave
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.clips import write_clip
from avgeo.report import MAX_SOUND_S, ReportError, html_report, write_report
from avgeo.sphere import fibonacci_grid, from_degrees, to_degrees, vmf_log_prob

LOCATED = {
    "estimate": {"latitude_deg": 33.9, "longitude_deg": -116.2, "kind": "geodesic median"},
    "regions": [{"mass": 0.5, "area_km2": 812345.0}, {"mass": 0.9, "area_km2": 7_100_000.0}],
    "places": [
        {"name": "Los Angeles", "country_code": "US", "probability": 0.413},
        {"name": "Tijuana", "country_code": "MX", "probability": 0.2},
    ],
    "evidence": [
        {
            "detector": "atom",
            "label": "siren wail",
            "start_s": 0.5,
            "end_s": 2.6,
            "bits": 1.32,
            "shift_km": 812.0,
        },
        {
            "detector": "sight",
            "label": "everything seen",
            "start_s": None,
            "end_s": None,
            "bits": 0.4,
            "shift_km": None,
        },
    ],
    "atoms": [{"name": "siren wail", "start_s": 0.5, "end_s": 0.9, "strength": 2.1}],
    "metadata_location": {"latitude_deg": 33.125, "longitude_deg": -117.331, "kind": "GoPro GPMF"},
    "entropy_bits": -6.25,
    "recalibration": {"shown": "both", "temperature": 1.5, "floor": 0.02},
    "model": {"name": "avg-sim smoke, seed 0", "trained_on": "AVG-Sim", "keys": {"flow": "abc"}},
    "versions": {"avgeo": "0.1.0", "torch": "2.13.0"},
    "input": {"sha256": "ab" * 32, "name": "karma.mp4"},
}
RATE = 8000
SOUND = np.sin(np.arange(RATE) * 0.4).astype(np.float32) * 0.3
FRAMES = np.full((3, 12, 16, 3), 99, dtype=np.uint8)


def density():
    grid = fibonacci_grid(800).double()
    latitude, longitude = (part.numpy() for part in to_degrees(grid))
    return (
        latitude,
        longitude,
        20 * np.cos(np.radians(latitude - 33.9)) * np.cos(np.radians(longitude + 116.2)),
    )


class Page(HTMLParser):
    """The page as a browser's parser sees it: tags with attributes, balanced, and the visible text."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"stray </{tag}>"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def full() -> str:
    return html_report(LOCATED, frames=FRAMES, audio=SOUND, sample_rate_hz=RATE, density=density())


def test_everything_found_is_on_the_page(full):
    text = re.sub(r"\s+", " ", Page(full).text)
    for part in (
        "33.9°N 116.2°W", "41.3 %", "Los Angeles (US)", "Tijuana (MX)", "siren wail", "0.5–0.9 s",
        "812,345 km²", "-6.25 bits", "temperature 1.50, uniform share 0.020", "GoPro GPMF", "33.1°N 117.3°W", "ab" * 32,
        "torch 2.13.0", "avg-sim smoke, seed 0", "1.32",
    ):  # fmt: skip
        assert part in text, part


def test_distance_to_the_metadata_is_a_great_circle(full):
    a, b = np.radians([33.9, -116.2]), np.radians([33.125, -117.331])
    cosine = np.sin(a[0]) * np.sin(b[0]) + np.cos(a[0]) * np.cos(b[0]) * np.cos(a[1] - b[1])
    assert f"{6371.0088 * np.arccos(cosine):.0f} km" in Page(full).text


def test_the_page_is_self_contained(full):
    page = Page(full)
    assert (
        len(page.all("script")) == 1 and not page.all("script")[0] and not page.all("link") and not page.all("iframe")
    )
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            if attrs.get(name):
                assert attrs[name].startswith(("data:image/png;base64,", "data:audio/wav;base64,", "#")), (
                    tag,
                    name,
                )
        assert not [name for name in attrs if name.startswith("on")]
    head = full.split("</head>")[0].replace("http-equiv", "")
    style = full.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in head
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = full.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and re.findall(r"script-src ([^;]*);", policy) == [f"'sha256-{digest}'"]
    assert script == html_report(LOCATED).split("<script>")[1].split("</script>")[0]  # it holds no data


def test_the_page_is_accessible(full):
    page = Page(full)
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("main") and page.all("title")
    images = page.all("img")
    assert len(images) == 3 and all(len(image["alt"]) > 20 for image in images)
    assert any("metadata says 33.1°N" in image["alt"] for image in images)
    assert len(page.all("h1")) == 1
    heads = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert heads[0] == "h1" and set(heads[1:]) == {"h2"}
    assert all(cell["scope"] in {"col", "row"} for cell in page.all("th"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for section in page.all("section"):
        assert "aria-labelledby" not in section or section["aria-labelledby"] in ids
    assert page.all("audio")[0]["aria-label"] and "controls" in page.all("audio")[0]
    assert "prefers-color-scheme:dark" in full and "@media print" in full


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_has_contrast_in_light_and_dark(full):
    """WCAG 2 AA: 4.5 to 1, for every text colour on every ground it stands on."""
    light, dark = (dict(re.findall(r"--([a-z-]+):(#[0-9a-f]+)", part)) for part in full.split("@media (prefers")[:2])
    for colours in (light, light | dark):
        for ink, ground in (
            ("ink", "page"),
            ("ink", "card"),
            ("soft", "page"),
            ("soft", "card"),
            ("warn-ink", "warn"),
        ):
            a, b = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, ground)


def test_a_model_of_a_simulated_earth_is_announced(full):
    assert "trained on a simulated Earth" in full and "not evidence about the real place" in full
    real = LOCATED | {"model": {"name": "big", "trained_on": "20,000 real clips"}}
    assert "simulated Earth" not in html_report(real)
    assert "simulated Earth" in html_report(LOCATED | {"model": "avgeo AVG-Sim smoke"})


HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>' onmouseover=alert(3) </style></title>&lt;$x^$"


def spoil(value, text):
    """The same structure with every text replaced."""
    if isinstance(value, dict):
        return {key: spoil(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [spoil(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_hostile_text_stays_text():
    located = spoil(copy.deepcopy(LOCATED), HOSTILE)
    located["model"] = {HOSTILE: HOSTILE, "list": [HOSTILE]}
    located["versions"] = {HOSTILE: HOSTILE}
    page = Page(html_report(located, frames=FRAMES, audio=SOUND, sample_rate_hz=RATE, density=density()))
    assert len(page.all("script")) == 1
    assert {attrs["src"][:10] for attrs in page.all("img")} == {"data:image"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 8  # shown as it is


UNSEEN = "Ke\x1b[2Jn\x00y\u202ea\u200b\ud800\x9b31m\u2028\U000e0041"


def test_text_that_hides_is_shown():
    located = spoil(copy.deepcopy(LOCATED), UNSEEN + "<b>" + "k" * 100_000)
    page = html_report(located, frames=FRAMES, audio=SOUND, sample_rate_hz=RATE, density=density())
    assert not [c for c in set(page) - {"\n"} if not c.isprintable()]
    assert page.encode("utf-8") and len(page) < 10**6
    text = Page(page).text
    assert r"Ke\x1b[2Jn\x00y\u202ea\u200b\ud800\x9b31m\u2028\U000e0041<b>kkk" in text and "more characters" in text
    assert not Page(page).all("b")


@given(text=st.text(alphabet="<>&\"'/=`$\\ax\u202e\x00-!", max_size=30))
@settings(max_examples=60)
def test_no_text_can_add_a_tag(text):
    plain, odd = (Page(html_report(spoil(copy.deepcopy(LOCATED), part))) for part in ("x", text or "x"))
    assert [(tag, sorted(attrs)) for tag, attrs in odd.tags] == [(tag, sorted(attrs)) for tag, attrs in plain.tags]


def test_the_player_holds_the_sound_and_at_most_thirty_seconds(full):
    def decode(text):
        data = base64.b64decode(re.search(r"data:audio/wav;base64,([^\"]+)", text)[1])
        with wave.open(io.BytesIO(data)) as sound:
            assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, RATE)
            return np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32767

    assert decode(full) == pytest.approx(SOUND, abs=1e-4)
    long = html_report(LOCATED, audio=np.tile(SOUND, 40), sample_rate_hz=RATE)
    assert len(decode(long)) == MAX_SOUND_S * RATE
    assert "first 30 of 40 s" in Page(long).text


def test_either_modality_may_be_missing():
    nothing = LOCATED | {"atoms": [], "evidence": [], "places": [], "metadata_location": None, "regions": []}
    heard = Page(html_report(LOCATED, audio=SOUND, sample_rate_hz=RATE))
    assert "No picture was used" in heard.text and heard.all("audio")
    seen = Page(html_report(nothing, frames=FRAMES))
    assert "No sound was used" in seen.text and not seen.all("audio")
    assert "carries no location of its own" in seen.text
    assert "No acoustic atom was heard" in Page(html_report(nothing, audio=SOUND, sample_rate_hz=RATE)).text


def test_unknown_numbers_are_dashes():
    text = re.sub(r"\s+", " ", Page(html_report(LOCATED)).text)
    assert "nan" not in text.lower().split() and "None" not in text
    assert "–" in text


def test_a_wrong_result_is_named():
    with pytest.raises(ReportError, match="'estimate'"):
        html_report({"input": {}})
    with pytest.raises(ReportError, match="latitude_deg"):
        html_report(LOCATED | {"estimate": {"latitude_deg": "north"}})
    with pytest.raises(ReportError, match="sample_rate_hz"):
        html_report(LOCATED, audio=SOUND)


@pytest.mark.parametrize("sight_only", [False, True])
def test_a_located_file_is_reported_with_what_the_answer_rests_on(tmp_path, sight_only):
    clip = tmp_path / "clip.mp4"
    write_clip(clip, FRAMES.repeat(8, 0).repeat(4, 1).repeat(4, 2), 8, np.tile(SOUND, 3), RATE)
    home, points, areas = from_degrees(torch.tensor(33.9), torch.tensor(-116.2)), fibonacci_grid(4000), np.ones(4000)
    found = SimpleNamespace(
        as_dict=lambda: LOCATED | ({"atoms": []} if sight_only else {}),
        grid=lambda: (*(part.numpy() for part in (*to_degrees(points), vmf_log_prob(points, home, 300.0))), areas),
        has_sound=not sight_only,
        has_sight=True,
    )
    page = Page(write_report(clip, found, max_s=2.0))
    alts = [image["alt"] for image in page.all("img")]
    assert any("probability density" in alt and "close-up" not in alt for alt in alts)
    assert any(alt.startswith("6 frames of 240 by 180") for alt in alts)
    assert bool(page.all("audio")) is not sight_only
    assert ("No sound was used" in page.text) is sight_only
    if not sight_only:
        assert any("2.0 s of sound" in alt for alt in alts)  # max_s was kept
