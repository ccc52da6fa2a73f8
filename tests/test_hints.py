"""The analyst's clues: read to the last character or refused, likelihoods of a stated meaning, exact in any order."""

from __future__ import annotations

import itertools
import math
import time
from datetime import datetime

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avgeo.detect import EarthGrid, earth_grid, litert
from avgeo.detect.prior import log_prior
from avgeo.fusion import Clue, Fused, contradictions, fuse
from avgeo.hints import KINDS, SURE, Hint, HintError, cannot_both_hold, read_hint, read_hints
from avgeo.sphere import EARTH_RADIUS_KM
from avgeo.sun import SunBand
from avgeo.world.geography import coast_km, country_facts, koppen, languages

SUN = "sun=elevation=34±3,azimuth=210±10,time=2026-05-01T10:00Z"
VALID = (
    SUN, "language=ar", "script=Cyrillic", "country=KE", "near=52.5,13.4,300", "climate=Cfb", "hemisphere=south",
    "sea=within 5 km", "mains=60", "driving=left", "centre_line=yellow", "plate=eu_band", "worship=muezzin",
    "siren=wail", "crossing=cuckoo", "train_horn=uic", "warning_sign=diamond",
)  # fmt: skip


@pytest.fixture(scope="module")
def grid() -> EarthGrid:
    """Cells of 714 km: the same code, forty times as fast."""
    return earth_grid(1000)


def clue(hint: Hint, grid: EarthGrid) -> Clue:
    """As `avgeo.locate` makes it."""
    return Clue(hint.event, hint.likelihood(grid), f"hint: {hint.event.label}")


def fused(texts: list[str], grid: EarthGrid) -> Fused:
    return fuse(grid, [clue(hint, grid) for hint in read_hints(texts)], log_prior(grid))


def mass(found: Fused) -> np.ndarray:
    return np.exp(found.density.log_prob.numpy() + found.grid.log_area)


# --- reading ---


@pytest.mark.parametrize("text", VALID)
def test_every_kind_reads_and_says_something(text: str) -> None:
    """Finite on the usual grid, not flat, and labelled for people."""
    hint = read_hint(text)
    found = hint.likelihood(earth_grid())
    assert np.isfinite(found).all() and np.ptp(found) > 0.1
    assert hint.event.detector == "hint" and hint.event.label.isprintable()
    assert dict(hint.event.details) == {"hint": text, "kind": text.partition("=")[0], "sure": SURE}


def test_every_kind_is_among_the_valid_ones_above() -> None:
    assert {text.partition("=")[0] for text in VALID} | {"species"} == KINDS.keys()


@pytest.mark.parametrize(
    "end", [";", "x", "]", ",", ",,", "=", " and", "±", "\u0661", "@", ",sure=", "\x1b[0m", "\u20dd"]
)
@pytest.mark.parametrize("text", VALID)
def test_nothing_at_the_end_is_passed_over(text: str, end: str) -> None:
    with pytest.raises(HintError):
        read_hint(text + end)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("sun=elevation=34+-3, azimuth=210 +/- 10, time=2026-05-01 10:00+00:00", SUN),
        ('sun="elevation=34°±3°,azimuth=210º±10º,time=2026-05-01T10:00:00Z"', SUN),
        ("sun=azimuth=210±10,time=2026-05-01T13:00+03:00,elevation=34±3", SUN),
        ("sun=azimuth=210±10,time=2026-05-01T05:00−05:00,elevation=34", SUN),
        ("near=52.5°,13.4°,300 km", "near=52.5N,13.4E,300"),
        ("near=−33.9,−70.5,20", "near=33.9S,70.5W,20"),
        ("LANGUAGE = Arabic", "language=ar"),
        ("language=farsi", "language=fa"),
        ("script=han", "script=Hani"),
        ("country=Côte d’Ivoire", "country=ivory coast"),
        ("country=USA", "country=us"),
        ("mains=60 Hz", "mains=60"),
        ("sea=5", "sea=within 5 km"),
        ("climate=cfb", "climate=Cfb"),
        ("country=KE,sure=0.8", "country=KE@0.8"),
        ("centre_line=Yellow", "centre_line=yellow"),
    ],
)
def test_ways_of_writing_the_same(text: str, same: str, grid: EarthGrid) -> None:
    one, other = read_hint(text), read_hint(same)
    assert one.event.label == other.event.label
    assert np.array_equal(one.likelihood(grid), other.likelihood(grid))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must be kind=value, with a kind of language, script"),
        ("mains", "must be kind=value"),
        ("colour=red", "must be kind=value"),
        ("mains=", "says nothing after mains="),
        ("mains=55", "mains 55 is not known; did you mean 50, 60?"),
        ("mains=60\u0308", "did you mean 50, 60?"),
        ("mains=６０", "did you mean 50, 60?"),
        ("mains=50,60", "one value is wanted, such as mains=50, and 2 are given"),
        ("driving=lft", "did you mean left, right?"),
        ("language=Arabik", "did you mean arabic"),
        ("country=Germny", "did you mean germany"),
        ("country=KE@1", "sure must be from 0.001 to 0.999, and 1 is given"),
        ("country=KE@0", "sure must be from 0.001 to 0.999"),
        ("country=KE,sure=0.9@0.9", "says twice how sure it is"),
        ("country=KE,sure=very", "sure very is no number"),
        ("near=52.5,13.4", "must be near=LAT,LON,KM"),
        ("near=91,0,5", "latitude must be from -90 to 90, and 91 is given"),
        ("near=52,13,0", "km must be from 0.001"),
        ("near=-52N,13,5", "latitude -52N is no angle"),
        ("near=52E,13,5", "latitude 52E is no angle"),
        ("sun=elevation=34±3", "a time is missing"),
        ("sun=time=2026-05-01T10:00Z", "give elevation=34±3, azimuth=210±10 or shadow=1.5"),
        ("sun=elevation=34,time=2026-05-01T10:00", "has no UTC offset; end it with Z"),
        ("sun=elevation=34,time=yesterday", "time yesterday cannot be read; write it as 2026"),
        ("sun=elevation=34,time=1666-05-01T10:00Z", "outside the years 1900 to 2100"),
        ("sun=elevation=34,5,time=2026-05-01T10:00Z", "5 is no name=value; write a decimal with a point"),
        ("sun=elevation=95,time=2026-05-01T10:00Z", "elevation must be from -90 to 90"),
        ("sun=elevation=34±0.2,time=2026-05-01T10:00Z", "finer than the map's cells"),
        ("sun=azimuth=34±0.2,time=2026-05-01T10:00Z", "finer than the map's cells"),
        ("sun=elevation=34±3±3,time=2026-05-01T10:00Z", "more than one ±"),
        ("sun=elevation=34,elevation=35,time=2026-05-01T10:00Z", "elevation is given twice"),
        ("sun=elevation=34,shadow=1,time=2026-05-01T10:00Z", "say the same"),
        ("sun=elevation=34,tme=2026-05-01T10:00Z", "there is no tme here, only elevation"),
        ("sun=shadow=1/0,time=2026-05-01T10:00Z", "height must be from 0.001"),
        ("country=K\u202eE", "has characters that cannot be seen"),
        ("language=" + "a" * 300, "is longer than 200 characters"),
        ("hemisphere=left", "did you mean north, south, east, west?"),
        ("climate=Xx", "climate Xx is not known"),
        ("sea=near", "km near is no number"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_cure(text: str, told: str) -> None:
    with pytest.raises(HintError) as error:
        read_hint(text)
    message = str(error.value)
    assert told in message and message.startswith("hint ") and message.isprintable()


STARTS = [f"{kind}=" for kind in KINDS]
OTHERS = ["2026-05-01T10:00Z", "time=", "sure=", "week=", "nan", "inf", "1e9", "0.5", *",@=±-−°1N '\"\u0665"]
PIECES = st.sampled_from([*VALID, *STARTS, *OTHERS])


@settings(max_examples=400)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=8).map("".join)))
@example("sun=elevation=nan,time=2026-05-01T10:00Z")
@example("near=1e400,0,5")
@example("sun=azimuth=1,time=9999-12-31T23:59:59-23:59")
@example("sun=azimuth=1,time=0001-01-01T00:00:00+23:59")
@example("sun=shadow=/,time=2026-05-01T10:00Z")
def test_any_text_is_a_hint_or_one_clear_line(text: str) -> None:
    try:
        hint = read_hint(text)
    except HintError as error:
        assert str(error).isprintable() and len(str(error)) < 700
    else:
        assert 0 < hint.event.details["sure"] < 1
        assert hint.event.label.isprintable()


@pytest.mark.parametrize("start", ["", "country=", "sun=", "near=", "sun=elevation=", "mains=1@"])
@pytest.mark.parametrize("piece", ["1", ",", "=", "±", " ", "@", "a=", "1,", "−", "'"])
def test_reading_takes_no_time(start: str, piece: str) -> None:
    for text in (start + piece * 1_000_000, (start + piece * 200)[:200]):
        begun = time.perf_counter()
        with pytest.raises(HintError):
            read_hint(text)
        assert time.perf_counter() - begun < 1


# --- meaning ---


@settings(max_examples=30)
@given(
    text=st.sampled_from([text for text in VALID if not text.startswith(("language", "script", "sea"))]),
    sure=st.integers(10, 990).map(lambda thousandths: thousandths / 1000),
)
def test_alone_a_hint_is_as_probable_as_its_author_is_sure(text: str, sure: float) -> None:
    """s + (1 - s) P(region) of what is known, exactly; what is unknown keeps its prior."""
    grid = earth_grid()
    hint = read_hint(f"{text}@{sure}")
    share = hint.likelihood.share(grid)
    prior = np.exp(log_prior(grid) + grid.log_area)
    prior /= prior.sum()
    posterior = prior * np.exp(hint.likelihood(grid))
    assert posterior.sum() == pytest.approx(1)
    known = ~np.isnan(share)
    assert posterior[~known].sum() == pytest.approx(prior[~known].sum())
    of_known = prior[known].sum()
    region = prior[share == 1].sum() / of_known
    assert posterior[share == 1].sum() / of_known == pytest.approx(sure + (1 - sure) * region)


def test_shares_are_those_of_the_tables() -> None:
    """Each looked up again, cell by cell."""
    grid = earth_grid()
    for kind, column in (("mains", "mains_hz"), ("driving", "driving_side"), ("plate", "plate")):
        value = {"mains": "60", "driving": "left", "plate": "yellow"}[kind]
        share = read_hint(f"{kind}={value}").likelihood.share(grid)
        for cell in range(0, len(grid), 7):
            told = country_facts().get(grid.country[cell], {}).get(column, "")
            wanted = (float(told == value) if told else math.nan) if grid.land[cell] else 0.0
            assert share[cell] == wanted or (math.isnan(share[cell]) and math.isnan(wanted))
    spoken = read_hint("language=de").likelihood.share(grid)
    total = sum(share for share, _ in languages("AT").values())
    assert spoken[grid.country == "AT"] == pytest.approx(languages("AT")["de"][0] / total)
    assert (spoken[grid.country == "KP"] == 0).all()
    cyrillic = read_hint("script=Cyrillic").likelihood.share(grid)
    assert (cyrillic[grid.country == "RU"] > 0.9).all() and (cyrillic[grid.country == "BR"] == 0).all()
    assert 0.2 < cyrillic[grid.country == "RS"].mean() < 0.8
    zones = koppen(grid.latitude_deg[::50], grid.longitude_deg[::50])
    land = grid.land[::50]
    oceanic = read_hint("climate=Cfb").likelihood.share(grid)[::50]
    assert ((oceanic == 1) == ((zones == "Cfb") & land)).all()
    south = read_hint("hemisphere=south").likelihood.share(grid)
    assert ((south == 1) == (grid.latitude_deg <= 0)).all()
    band = read_hint(SUN).likelihood.share(grid) == 1
    when = datetime.fromisoformat("2026-05-01T10:00Z")
    assert (band == SunBand(when, (31, 37), (210, 10)).holds(grid.latitude_deg, grid.longitude_deg)).all()


def test_near_a_coast_is_the_strips_share_of_a_cell() -> None:
    """Against points thrown into cells at random: right on average, and within a fifth for nearly all."""
    import torch

    from avgeo.sphere import to_degrees

    grid = earth_grid()
    share = read_hint("sea=30 km").likelihood.share(grid)
    cells = np.flatnonzero(coast_km(grid.latitude_deg, grid.longitude_deg) < 120)[::15]
    rng = torch.Generator().manual_seed(0)
    thrown = np.zeros(len(cells))
    some = type(grid.cells)(grid.cells.bounds[torch.from_numpy(cells)])
    for _ in range(60):
        across, up = torch.rand(2, len(cells), generator=rng, dtype=torch.float64)
        latitude, longitude = to_degrees(some.inside(across, up))
        thrown += coast_km(latitude.numpy(), longitude.numpy()) <= 30
    wrong = share[cells] - thrown / 60
    assert abs(wrong.mean()) < 0.1
    assert np.quantile(np.abs(wrong), 0.8) < 0.3
    assert (share[coast_km(grid.latitude_deg, grid.longitude_deg) > 150] == 0).all()


def test_shadows_are_elevations(grid: EarthGrid) -> None:
    """1 ± 0.2 is from atan(1/1.2) to atan(1/0.8); 3.6/1.8 is 26.6 deg and 3 more or less."""
    time_ = ",time=2026-05-01T10:00Z"
    low, high = (math.degrees(math.atan(1 / ratio)) for ratio in (1.2, 0.8))
    given_ = read_hint(f"sun=shadow=1±0.2{time_}").likelihood.share(grid)
    when = datetime.fromisoformat("2026-05-01T10:00Z")
    assert (given_ == SunBand(when, (low, high)).holds(grid.latitude_deg, grid.longitude_deg)).all()
    one = read_hint(f"sun=shadow=3.6/1.8{time_}")
    assert one.event.label.startswith("sun 23.6 to 29.6° high")
    assert read_hint(f"sun=shadow=2{time_}").event.label == one.event.label


def test_a_hint_that_holds_nowhere_is_told(grid: EarthGrid) -> None:
    """At the equinox the sun rises in the east for all: at the horizon it stands south of nobody."""
    hint = read_hint("sun=elevation=3±0.5,azimuth=180±1,time=2026-03-20T14:46Z")
    with pytest.raises(HintError, match="holds nowhere on the map"):
        hint.likelihood(grid)


needs_birdnet = pytest.mark.skipif(litert.missing() is not None, reason="extra detectors is not installed")


@needs_birdnet
def test_species_by_any_name_live_where_they_live() -> None:
    grid = earth_grid()
    one, other = read_hint("species=Turdus merula,week=18"), read_hint("species=eurasian blackbird, week=18")
    assert one.event.label == other.event.label == "species: Eurasian Blackbird (Turdus merula), week 18"
    found = one.likelihood(grid)
    assert np.array_equal(found, other.likelihood(grid))
    assert found[grid.country == "DE"].min() > 1 > 0 > found[grid.country == "BR"].max()


@needs_birdnet
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("species=Turdus merulla", "did you mean turdus merula"),
        ("species=Engine", "species Engine is not known"),
        ("species=Turdus merula,week=49", "week must be a number from 1 to 48"),
        ("species=Turdus merula,spring", "spring is no name=value"),
    ],
)
def test_unknown_species_are_told(text: str, told: str) -> None:
    with pytest.raises(HintError, match=told):
        read_hint(text)


# --- together ---

WIDE = "sun=elevation=34±9,azimuth=210±30,time=2026-05-01T10:00Z"
FOUR = ["language=ar", "mains=60@0.7", WIDE, "near=24.7,46.7,900"]


def test_order_does_not_matter_bit_for_bit(grid: EarthGrid) -> None:
    first = fused(FOUR, grid)
    for order in itertools.permutations(FOUR):
        found = fused(list(order), grid)
        assert found.density.log_prob.numpy().tobytes() == first.density.log_prob.numpy().tobytes()
        assert found.estimate.numpy().tobytes() == first.estimate.numpy().tobytes()


@pytest.mark.parametrize("away", FOUR)
def test_taking_one_away_restores_the_map_exactly(away: str, grid: EarthGrid) -> None:
    """With and without from one set of clues, against a map that never knew of it; and all of them away, the prior."""
    clues = [clue(hint, grid) for hint in read_hints(FOUR)]
    left = fuse(grid, [one for one in clues if one.event.details["hint"] != away], log_prior(grid))
    never = fused([text for text in FOUR if text != away], grid)
    assert left.density.log_prob.numpy().tobytes() == never.density.log_prob.numpy().tobytes()
    bare = fuse(grid, [], log_prior(grid))
    assert fused([], grid).density.log_prob.numpy().tobytes() == bare.density.log_prob.numpy().tobytes()
    at = FOUR.index(away)
    assert fuse(grid, clues, log_prior(grid)).weights[at] == fused(FOUR, grid).weights[at]


circles = st.tuples(st.integers(-80, 80), st.integers(-179, 179), st.integers(500, 6000))


@settings(max_examples=50)
@given(one=circles, other=circles)
def test_circles_that_do_not_meet_cannot_both_hold(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """They meet if their middles are nearer than their radii together (cells are 714 km across: less a cell or so).

    Those that cannot both hold are among what fusion finds contradictory, at the usual reliability, where every place
    counts: under a prior of land it passes over what could only be out at sea.
    """
    grid = earth_grid(1000)
    hints = read_hints([f"near={latitude},{longitude},{km}" for latitude, longitude, km in (one, other)])
    a, b = ((math.radians(latitude), math.radians(longitude)) for latitude, longitude, _ in (one, other))
    cosine = math.sin(a[0]) * math.sin(b[0]) + math.cos(a[0]) * math.cos(b[0]) * math.cos(a[1] - b[1])
    apart_km = math.acos(max(-1.0, min(1.0, cosine))) * EARTH_RADIUS_KM
    clash = cannot_both_hold(hints, grid)
    assert cannot_both_hold(hints[::-1], grid) == [(second, first) for first, second in clash]
    if apart_km > one[2] + other[2] + 1:
        assert clash == [(hints[0], hints[1])]
    if apart_km < one[2] + other[2] - 2 * 714:
        assert clash == []
    if clash:
        found = fuse(grid, [clue(hint, grid) for hint in hints])
        assert len(contradictions(found)) == 1


def test_doubted_hints_are_still_told_to_exclude_each_other(grid: EarthGrid) -> None:
    """Where fusion says nothing, since each may well be wrong."""
    texts = ["hemisphere=north@0.6", "hemisphere=south@0.6", "driving=left"]
    hints = read_hints(texts)
    assert [(a.event.label, b.event.label) for a, b in cannot_both_hold(hints, grid)] == [
        ("hemisphere: north", "hemisphere: south")
    ]
    assert contradictions(fused(texts, grid)) == []
    assert cannot_both_hold(read_hints(["mains=60", "plate=yellow", "country=CO"]), grid) == []
    (pair,) = cannot_both_hold(read_hints(["country=JP", "driving=right", "mains=60"]), grid)
    assert [hint.event.label for hint in pair] == ["country: Japan", "driving: right"]  # Japan has both mains
