"""Places are bounded and apart, by brute force; the benchmark's limits hold and nothing is dropped without a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.curate.candidate import CurateError
from avgeo.curate.places import assign_places, linked, unit_vectors
from avgeo.curate.quotas import choose
from avgeo.profiles import CurateSettings, get_profile

DEFAULT = CurateSettings()
EARTH_KM = 6371.0088
KM_DEG = 360 / (2 * np.pi * EARTH_KM)


def clips(latitude, longitude, **columns) -> pd.DataFrame:
    table = pd.DataFrame({"latitude_deg": np.asarray(latitude, float), "longitude_deg": np.asarray(longitude, float)})
    table.insert(0, "clip_id", [f"clip-{number:03d}" for number in range(len(table))])
    return table.assign(sha256=[f"content {number}" for number in range(len(table))], **columns)


def distances_km(table: pd.DataFrame) -> np.ndarray:
    """All distances by the haversine formula."""
    lat, lon = np.deg2rad(table["latitude_deg"].to_numpy()), np.deg2rad(table["longitude_deg"].to_numpy())
    haversine = (
        np.sin((lat[:, None] - lat) / 2) ** 2
        + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    )
    return 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(haversine, 0, 1)))


def single_linkage(distance: np.ndarray, reach_km: float) -> list[set[int]]:
    left, groups = set(range(len(distance))), []
    while left:
        group, new = set(), {min(left)}
        while new:
            group |= new
            new = {b for a in new for b in range(len(distance)) if distance[a, b] <= reach_km} - group
        groups.append(group)
        left -= group
    return groups


def cap_radius_km(table: pd.DataFrame, enough_km: float) -> float:
    """Radius of a small cap around all clips, or one below `enough_km`: steps towards the farthest clip."""
    points = unit_vectors(table["latitude_deg"].to_numpy(), table["longitude_deg"].to_numpy())
    centre, best = points.mean(axis=0), np.inf
    for step in range(1, 400):
        gap = np.linalg.norm(points - centre / np.linalg.norm(centre), axis=-1)
        best = min(best, 2 * EARTH_KM * np.arcsin(gap.max() / 2))
        if best <= enough_km:
            break
        centre = centre + (points[gap.argmax()] - centre) / (step + 1)
    return best


CENTRES = st.sampled_from([(0.0, 0.0), (51.5, -0.1), (-16.5, 180.0), (-16.5, -179.999), (89.999, 10.0), (-90.0, 0.0)])


@st.composite
def crowds(draw) -> pd.DataFrame:
    """Clips within a few kilometres of some odd spots, and a few anywhere."""
    points = []
    for _ in range(draw(st.integers(1, 3))):
        latitude, longitude = draw(CENTRES)
        for _ in range(draw(st.integers(1, 12))):
            north, east = draw(st.floats(-4, 4)), draw(st.floats(-4, 4))
            here = float(np.clip(latitude + north * KM_DEG, -90, 90))
            there = longitude + east * KM_DEG / max(np.cos(np.deg2rad(here)), 1e-3)
            points.append((here, (there + 180) % 360 - 180))
    points += draw(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), max_size=4))
    return clips(*np.array(points).T)


@settings(max_examples=50)
@given(crowds(), st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.2, 1.0, 2.0]), st.randoms())
def test_places_are_bounded_apart_and_independent_of_order(table, radius_km, separation_km, random) -> None:
    chosen = replace(DEFAULT, place_radius_km=radius_km, separation_km=separation_km)
    places, left_out = assign_places(table, chosen)
    distance = distances_km(table)
    kept = places.notna().to_numpy()
    assert set(table.loc[~kept, "clip_id"]) == set(left_out)
    apart = (places.to_numpy()[:, None] != places.to_numpy()) & kept[:, None] & kept
    assert not (distance[apart] < separation_km - 1e-6).any()
    for name, group in table[kept].groupby(places[kept]):
        assert cap_radius_km(group, radius_km * (1 + 1e-9)) <= radius_km * (1 + 1e-9)
        corner = min(zip(group["latitude_deg"] + 0.0, group["longitude_deg"] + 0.0, strict=True))
        assert name == f"{corner[0]:+08.4f}{corner[1]:+09.4f}"
    blocked = distance[np.ix_(~kept, kept)]
    assert (blocked.min(axis=1) < separation_km + 1e-6).all() if len(blocked) else True

    order = list(range(len(table)))
    random.shuffle(order)
    mixed = table.iloc[order].reset_index(drop=True)
    mixed["clip_id"] = [f"other-{number}" for number in range(len(mixed))]
    again, _ = assign_places(mixed, chosen)
    assert [again[order.index(number)] for number in range(len(table))] == places.tolist()


@settings(max_examples=30)
@given(crowds())
def test_groups_that_fit_the_radius_are_single_linkage(table) -> None:
    groups = single_linkage(distances_km(table), 1.0)
    places, _ = assign_places(table, DEFAULT)
    for group in groups:
        rows = sorted(group)
        if cap_radius_km(table.iloc[rows], 0.98) <= 0.98:
            assert places.iloc[rows].nunique() == 1 and places.iloc[rows].notna().all()
            assert set(places.iloc[rows]).isdisjoint(places.drop(index=rows).dropna())
        else:
            assert places.iloc[rows].notna().any()  # cut, never dropped altogether


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=40), st.floats(0.05, 3))
def test_cubes_link_what_brute_force_links(offsets, reach_km) -> None:
    table = clips(*(np.array(offsets).T * KM_DEG))
    distance = distances_km(table)
    if (np.abs(distance - reach_km) < 1e-6).any():
        return  # on the edge the two formulas may differ
    points = unit_vectors(table["latitude_deg"].to_numpy(), table["longitude_deg"].to_numpy())
    label = linked(points, 2 * np.sin(reach_km / EARTH_KM / 2))
    found = {frozenset(np.flatnonzero(label == number)) for number in set(label)}
    assert found == {frozenset(group) for group in single_linkage(distance, reach_km)}


def test_a_long_chain_is_cut_and_the_moat_says_why() -> None:
    table = clips(np.arange(30) * 0.8 * KM_DEG, np.zeros(30))
    places, left_out = assign_places(table, DEFAULT)
    assert places.nunique() > 4 and left_out
    for reason in left_out.values():
        assert "km from a clip of place +" in reason and "1 km around a place are kept free" in reason
    assert len(left_out) + places.notna().sum() == 30


def test_a_dense_city_is_fast_and_keeps_places() -> None:
    rng = np.random.default_rng(0)
    table = clips(51.5 + rng.normal(0, 0.05, 20_000), rng.normal(0, 0.05, 20_000))
    places, _ = assign_places(table, DEFAULT)
    assert places.nunique() > 50
    assert 0.2 < places.notna().mean() < 0.9
    kept = table[places.notna()]
    middle = kept.sample(300, random_state=0)
    gap = distances_km(middle)
    name = places[middle.index].to_numpy()
    assert gap[name[:, None] != name].min() >= 1.0 - 1e-6 and gap[name[:, None] == name].max() <= 2.0 + 1e-6


def test_the_date_line_and_a_pole_are_like_anywhere() -> None:
    places, _ = assign_places(clips([-17, -17, 90, 89.9999], [179.999, -179.999, 0, 180]), DEFAULT)
    assert places[0] == places[1] == "-17.0000-179.9990" and places[2] == places[3]
    assert assign_places(clips([], []), DEFAULT)[1] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"separation_km": 0.0}, "separation_km"),
        ({"separation_km": float("nan")}, "separation_km"),
        ({"place_radius_km": -1.0}, "place_radius_km"),
    ],
)
def test_distances_that_make_no_sense(change, message) -> None:
    with pytest.raises(CurateError, match=message):
        assign_places(clips([1], [1]), replace(DEFAULT, **change))


# --- what is taken ---

CAPITALS = {"France": (48.85, 2.35), "Germany": (52.5, 13.4), "Kenya": (-1.3, 36.8), "Brazil": (-15.8, -47.9)}


def corpus(*groups: tuple[str, int, int, str | None]) -> pd.DataFrame:
    """Groups of (country, places, clips of each, uploader): places 10 km apart around a capital."""
    rows = []
    placed: Counter[str] = Counter()
    for country, places, each, uploader in groups:
        latitude, longitude = CAPITALS[country]
        for _ in range(places):
            number = placed[country]
            placed[country] += 1
            here = (latitude + (number // 8) * 0.1, longitude + (number % 8) * 0.15)
            rows += [(*here, f"{country}-{number}", uploader)] * each
    table = pd.DataFrame(rows, columns=["latitude_deg", "longitude_deg", "place_id", "uploader"])
    extra = {name: table[name].astype("object") for name in ("place_id", "uploader")}
    return clips(table["latitude_deg"], table["longitude_deg"], **extra)


def test_without_limits_everything_is_taken() -> None:
    table = corpus(("France", 3, 5, "ann"), ("Kenya", 1, 1, None))
    choice = choose(table, DEFAULT, 0)
    assert choice.dropped == {} and choice.summary["taken"] == {"places": 4, "full_places": 4, "clips": 16}
    assert choice.summary["short"] == {"places": 0, "clips_at_places_taken": 0} and choice.summary["notes"] == []
    assert list(choice.places["state"]) == ["taken"] * 4
    assert choice.summary["by_continent"]["Africa"]["clips_taken"] == 1


def test_places_are_capped_and_the_fuller_ones_come_first() -> None:
    table = corpus(("France", 6, 8, None), ("Germany", 4, 3, None))
    chosen = replace(DEFAULT, places=7, clips_per_place=5)
    choice = choose(table, chosen, 0)
    taken = table[~table["clip_id"].isin(choice.dropped)]
    assert Counter(taken["place_id"].str.split("-").str[0]) == {"France": 30, "Germany": 3}
    assert choice.summary["short"] == {"places": 0, "clips_at_places_taken": 2}
    states = choice.places.set_index("place_id")["state"]
    assert Counter(states) == {"taken": 6, "short": 1, "surplus": 3}
    reasons = Counter(choice.dropped.values())
    assert reasons["place France-0 has 8 clips, 5 are taken"] == 3
    assert sum(count for text, count in reasons.items() if "beyond the 7 places wanted" in text) == 9
    assert choose(table, replace(chosen, places=20), 0).summary["short"]["places"] == 10


def test_shares_hold_of_what_is_taken() -> None:
    table = corpus(
        ("France", 30, 4, "ann"), ("France", 10, 4, "bob"), ("Germany", 12, 4, "cid"), ("Kenya", 10, 4, None),
        ("Brazil", 10, 4, "dan"),
    )  # fmt: skip
    chosen = replace(DEFAULT, max_country_share=0.4, max_uploader_share=0.3, clips_per_place=4)
    choice = choose(table, chosen, 0)
    taken = table[~table["clip_id"].isin(choice.dropped)]
    country = taken["place_id"].str.split("-").str[0].value_counts(normalize=True)
    assert country.max() <= 0.4 and taken["uploader"].value_counts().max() <= 0.3 * len(taken)
    assert len(taken) > 0.7 * len(table) and choice.summary["notes"] == []
    assert choice.summary["largest_country"]["share"] == pytest.approx(country.max(), abs=1e-4)
    assert {"country France has its share of 40 %"} & set(choice.dropped.values())
    # most places that are taken are taken whole
    assert (taken.groupby("place_id").size() == 4).mean() > 0.9


def test_a_share_that_few_countries_cannot_meet_is_raised_and_noted() -> None:
    table = corpus(("France", 10, 4, "ann"), ("Kenya", 2, 4, "bob"))
    choice = choose(table, replace(DEFAULT, max_country_share=0.1, max_uploader_share=0.02), 0)
    assert len(choice.dropped) <= len(table) / 2
    country, uploader = choice.summary["notes"]
    assert "max_country_share 0.1 would cost more than half of the clips with 2 known countries" in country
    assert "2 known uploaders; " in uploader
    one = choose(corpus(("France", 3, 2, "ann")), get_profile("full").curate, 0)
    assert one.dropped == {} and len(one.summary["notes"]) == 2


def test_unknown_uploaders_are_not_limited() -> None:
    table = corpus(("France", 10, 2, None), ("Kenya", 5, 2, "unknown"), ("Brazil", 5, 2, "ann"))
    choice = choose(table, replace(DEFAULT, max_uploader_share=0.1), 0)
    assert set(table.set_index("clip_id").loc[list(choice.dropped), "uploader"]) == {"ann"}


def test_the_choice_follows_from_contents_not_from_names_or_order() -> None:
    table = corpus(("France", 9, 6, "ann"), ("Kenya", 7, 9, "bob"))
    chosen = replace(DEFAULT, places=8, clips_per_place=4, max_uploader_share=0.7)
    kept = set(table["sha256"]) - set(table.set_index("clip_id").loc[list(choose(table, chosen, 0).dropped), "sha256"])
    mixed = table.sample(frac=1, random_state=3).reset_index(drop=True)
    mixed["clip_id"] = [f"x{number}" for number in range(len(mixed))]
    again = choose(mixed, chosen, 0)
    assert set(mixed.loc[~mixed["clip_id"].isin(again.dropped), "sha256"]) == kept
    other = choose(mixed, chosen, 1)
    assert set(mixed.loc[~mixed["clip_id"].isin(other.dropped), "sha256"]) != kept


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(CAPITALS)), st.integers(1, 4), st.integers(1, 6),
                       st.sampled_from(["ann", "bob", None])), min_size=1, max_size=6),
    st.sampled_from([None, 1, 3]), st.sampled_from([None, 2, 5]), st.floats(0.05, 1), st.floats(0.05, 1),
)  # fmt: skip
def test_every_clip_is_taken_or_has_a_reason(groups, places, each, country, uploader) -> None:
    table = corpus(*groups)
    chosen = replace(
        DEFAULT, places=places, clips_per_place=each, max_country_share=country, max_uploader_share=uploader
    )
    choice = choose(table, chosen, 0)
    taken = table[~table["clip_id"].isin(choice.dropped)]
    assert len(taken) + len(choice.dropped) == len(table) and len(taken) >= 1
    assert all(choice.dropped.values())
    assert taken["place_id"].nunique() <= (places or 99)
    assert taken.groupby("place_id").size().max() <= (each or 99)
    assert choice.summary["taken"]["clips"] == len(taken) == choice.places["taken"].sum()
    if not choice.summary["notes"]:
        assert taken["uploader"].value_counts().max() <= max(1, uploader * len(taken)) or taken["uploader"].isna().all()


@pytest.mark.parametrize(
    "change", [{"places": 0}, {"clips_per_place": 0}, {"max_country_share": 0.0}, {"max_uploader_share": 1.5}]
)
def test_limits_that_make_no_sense(change) -> None:
    with pytest.raises(CurateError, match=next(iter(change))):
        choose(corpus(("France", 1, 1, None)), replace(DEFAULT, **change), 0)
