"""Splits share nothing that gives an answer away; planted leaks are found; places alone are split by their hash."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.curate.candidate import CurateError
from avgeo.curate.splits import LeakageError, assign_splits, audit_leakage, split_of
from avgeo.profiles import CurateSettings

DEFAULT = CurateSettings()


def clips(places: list[int], **columns) -> pd.DataFrame:
    """Clips at places 100 km apart on one meridian."""
    table = pd.DataFrame({"clip_id": [f"c{number:05d}" for number in range(len(places))]})
    table["place_id"] = [f"{place:+08.4f}+000.0000" for place in places]
    table["latitude_deg"], table["longitude_deg"] = np.array(places, float) % 80, 0.0
    return table.assign(**{name: pd.Series(values, dtype="object") for name, values in columns.items()})


def split(table: pd.DataFrame, pairs=(), chosen: CurateSettings = DEFAULT, seed: int = 0):
    """Manifest with splits, the clips left out, and the remarks."""
    splits, dropped, remarks = assign_splits(table, pairs, chosen, seed)
    assert list(splits.index) == list(table.index)
    assert set(table.loc[splits.isna(), "clip_id"]) == set(dropped)
    return table.assign(split=splits)[splits.notna()], dropped, remarks


def brute_force_leaks(manifest: pd.DataFrame, pairs=()) -> set[tuple[str, str]]:
    """Pairs of clips in different splits that share something, every one compared with every other."""
    twins = {frozenset(pair[:2]) for pair in pairs}
    found = set()
    rows = manifest.to_dict("records")
    for a in rows:
        for b in rows:
            if a["split"] < b["split"]:
                shared = [
                    name
                    for name in ("place_id", "uploader", "original", "sha256")
                    if isinstance(a.get(name), str) and a[name] == b.get(name) and a[name] != "unknown"
                ]
                if shared or {a["clip_id"], b["clip_id"]} in twins:
                    found.add((a["clip_id"], b["clip_id"]))
    return found


def test_places_alone_are_split_by_their_hash() -> None:
    table = clips([number // 3 for number in range(900)], uploader=[None, "unknown", ""] * 300)
    manifest, dropped, remarks = split(table)
    assert not dropped and not remarks
    assert manifest["split"].tolist() == [split_of(place, 0) for place in table["place_id"]]
    part, _, _ = split(table.iloc[:30])
    assert part["split"].tolist() == manifest["split"].tolist()[:30]  # clips added elsewhere change nothing
    assert split(table, seed=1)[0]["split"].tolist() != manifest["split"].tolist()


def test_fractions_are_those_asked_for() -> None:
    table = clips(list(range(4000)))
    for test, val in ((0.2, 0.2), (0.5, 0.0), (0.0, 0.1)):
        manifest, _, _ = split(table, chosen=replace(DEFAULT, test_fraction=test, val_fraction=val))
        share = manifest["split"].value_counts(normalize=True)
        assert share.get("test", 0) == pytest.approx(test, abs=0.03) and share.get("val", 0) == pytest.approx(
            val, abs=0.03
        )


def test_what_is_shared_stays_together() -> None:
    places = list(range(60))
    uploader = ["ann" if place in (3, 17, 40) else None for place in places]
    original = ["song" if place in (40, 5) else "unknown" for place in places]
    pairs = [("c00005", "c00009", "sound", 0.1), ("c00009", "gone", "picture", 3)]
    manifest, dropped, _ = split(clips(places, uploader=uploader, original=original), pairs)
    together = manifest.set_index("clip_id").loc[["c00003", "c00017", "c00040", "c00005", "c00009"], "split"]
    assert together.nunique() == 1 and not dropped
    audit_leakage(manifest, pairs).check(DEFAULT)


def local_corpus(seed: int = 0) -> pd.DataFrame:
    """40 towns of 5 places and 10 clips each; uploaders are local, but for a few travellers."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(200):
        for _ in range(10):
            travels = rng.random() < 0.05
            rows.append((place, f"t{rng.integers(20)}" if travels else f"u{place // 5}-{rng.integers(4)}"))
    places, uploaders = zip(*rows, strict=True)
    return clips(list(places), uploader=list(uploaders))


def test_travellers_are_cut_off_and_the_fractions_survive() -> None:
    table = local_corpus()
    manifest, dropped, (remark,) = split(table)
    assert "hang together" in remark and f"{len(dropped)} bridges" in remark
    assert 0 < len(dropped) < 0.05 * len(table)
    share = manifest["split"].value_counts(normalize=True)
    assert share["train"] < 0.8 and share["test"] > 0.1 and share["val"] > 0.1
    assert not brute_force_leaks(manifest)
    assert all(
        reason.startswith("uploader ") and "this one would join that to" in reason for reason in dropped.values()
    )


def test_splits_follow_from_contents_not_from_order() -> None:
    table = local_corpus(1)
    manifest, dropped, _ = split(table)
    again, left_out, _ = split(table.sample(frac=1, random_state=2))
    assert left_out == dropped
    assert again.set_index("clip_id")["split"].sort_index().equals(manifest.set_index("clip_id")["split"].sort_index())


def test_a_sole_uploader_cannot_be_cut_and_nothing_is_dropped() -> None:
    manifest, dropped, (remark,) = split(clips(list(range(30)), uploader=["ann"] * 30))
    assert not dropped and set(manifest["split"]) == {"train"} and "0 bridges" in remark


def test_a_large_group_goes_where_there_is_room() -> None:
    """Half of the clips are one uploader's: they fit into train, whatever their hash says."""
    for seed in range(6):
        manifest, dropped, _ = split(clips(list(range(100)), uploader=["ann"] * 50 + [None] * 50), seed=seed)
        assert set(manifest.loc[manifest["uploader"] == "ann", "split"]) == {"train"} and not dropped


NAMES = st.sampled_from([None, "unknown", "ann", "bob", "cid", "dan"])


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 12), NAMES, NAMES), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=6),
    st.sampled_from([(0.2, 0.2), (0.5, 0.4), (0.0, 0.0), (0.3, 0.0)]),
    st.integers(0, 5),
)
def test_no_two_splits_share_anything(rows, links, fractions, seed) -> None:
    places, uploaders, originals = (list(column) for column in zip(*rows, strict=True))
    table = clips(places, uploader=uploaders, original=originals)
    pairs = [(f"c{a:05d}", f"c{b:05d}", "sound") for a, b in links if a != b]
    chosen = replace(DEFAULT, test_fraction=fractions[0], val_fraction=fractions[1])
    manifest, dropped, remarks = split(table, pairs, chosen, seed)
    assert not brute_force_leaks(manifest, pairs)
    audit_leakage(manifest, pairs).check(replace(chosen, separation_km=1.0))
    assert len(manifest) >= len(table) / 3  # never most of it
    assert all(dropped.values()) and (remarks or not dropped)
    used = {name for name, share in zip(("test", "val"), fractions, strict=True) if share} | {"train"}
    assert set(manifest["split"]) <= used


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), NAMES, NAMES, st.sampled_from(["train", "val", "test"])), min_size=1, max_size=25
    ),
    st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=4),
)
def test_the_audit_finds_what_brute_force_finds(rows, links) -> None:
    places, uploaders, originals, splits = (list(column) for column in zip(*rows, strict=True))
    manifest = clips(places, uploader=uploaders, original=originals, split=splits)
    pairs = [(f"c{a:05d}", f"c{b:05d}") for a, b in links if a != b and max(a, b) < len(rows)]
    report, leaks = audit_leakage(manifest, pairs), brute_force_leaks(manifest, pairs)
    found = [report.places, report.uploaders, report.originals, report.contents, report.pairs]
    assert bool(leaks) == any(found)
    of = manifest.set_index("clip_id")["split"]
    for clips_of in (*report.places.values(), *report.uploaders.values(), *report.originals.values(), *report.pairs):
        assert of[clips_of[0]] != of[clips_of[1]]
    train, test = (manifest[manifest["split"] == name] for name in ("train", "test"))
    if len(train) and len(test):
        gaps = np.abs(train["latitude_deg"].to_numpy()[:, None] - test["latitude_deg"].to_numpy())
        assert report.nearest_km == pytest.approx(gaps.min() * np.pi / 180 * 6371.0088, abs=1e-6)
    else:
        assert report.nearest_km is None


def clean() -> pd.DataFrame:
    columns = {name: [f"{name}{number}" for number in range(9)] for name in ("uploader", "original", "sha256")}
    return clips(list(range(9)), split=["train", "val", "test"] * 3, **columns)


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda table: table.loc[[0, 1], "place_id"], "place"),
        (lambda table: table.loc[[0, 1], "uploader"], "uploader"),
        (lambda table: table.loc[[0, 1], "original"], "original"),
        (lambda table: table.loc[[0, 1], "sha256"], "content"),
    ],
)
def test_planted_leaks_are_loud(plant, message) -> None:
    table = clean()
    audit_leakage(table).check(DEFAULT)
    column = str(plant(table).name)
    table.loc[1, column] = table.loc[0, column]
    with pytest.raises(LeakageError, match=f"1 {message} in more than one split.*c00000.*c00001") as raised:
        audit_leakage(table).check(DEFAULT)
    assert isinstance(raised.value, CurateError)


def test_near_twins_and_near_places_are_loud() -> None:
    table = clean()
    with pytest.raises(LeakageError, match="1 near-duplicate pair across splits: c00004, c00008"):
        audit_leakage(table, [("c00008", "c00004", "sound", 0.1), ("c00000", "c00003")]).check(DEFAULT)
    table.loc[2, "latitude_deg"] = table.loc[0, "latitude_deg"] + 0.005
    report = audit_leakage(table)
    assert report.nearest_km == pytest.approx(0.556, abs=0.001)
    assert report.summary()["nearest_km"]["train-test"] == pytest.approx(0.556, abs=0.001)
    with pytest.raises(LeakageError, match=r"train-test: c00000 and c00002 lie 0[.]556 km apart"):
        report.check(DEFAULT)
    report.check(replace(DEFAULT, separation_km=0.5))
    audit_leakage(table.assign(accuracy_km=0.5)).check(DEFAULT)  # moved on purpose: the distance is not known


def test_fractions_that_make_no_sense() -> None:
    for change in ({"test_fraction": -0.1}, {"val_fraction": 1.1}, {"test_fraction": 0.6, "val_fraction": 0.6}):
        with pytest.raises(CurateError, match=next(iter(change))):
            split(clean().drop(columns="split"), chosen=replace(DEFAULT, **change))
    splits, dropped, remarks = assign_splits(clips([]), [], DEFAULT, 0)
    assert len(splits) == 0 and not dropped and not remarks
