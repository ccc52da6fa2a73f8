"""Evaluation: metrics against independent oracles, the bootstrap's coverage, what must never help a score."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.evaluate import (
    HALF_CIRCUMFERENCE_KM,
    LOG_SCORE_FLOOR,
    BaselineError,
    EvaluateError,
    best_constant,
    compare,
    coverage,
    display_rows,
    evaluate,
    evaluate_rows,
    kernel_density,
    place_interval,
)
from avgeo.evaluate.bootstrap import weighted_median
from avgeo.evaluate.tables import read_table
from avgeo.sphere import fibonacci_grid, from_degrees, sample_vmf


def haversine_km(lat1, lon1, lat2, lon2):
    lat1, lon1, lat2, lon2 = map(np.radians, (lat1, lon1, lat2, lon2))
    chord = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.minimum(1, np.sqrt(chord)))


def errors_km(predictions, truth):
    return haversine_km(*(table[name] for table in (truth, predictions) for name in ("latitude_deg", "longitude_deg")))


def vmf(cosine, kappa):
    """The density of von Mises and Fisher as written in Mardia & Jupp."""
    return kappa / (2 * math.pi * (1 - math.exp(-2 * kappa))) * torch.exp(kappa * (cosine - 1))


def tables(n: int = 200, places: int = 40, spread_deg: float = 6.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    place = rng.integers(0, places, n)
    place[:places] = np.arange(places)
    home_lat, home_lon = np.degrees(np.arcsin(rng.uniform(-1, 1, places))), rng.uniform(-180, 180, places)
    truth = pd.DataFrame(
        {
            "clip_id": [f"c{at:04d}" for at in range(n)],
            "latitude_deg": home_lat[place],
            "longitude_deg": home_lon[place],
            "place_id": [f"p{at}" for at in place],
        }
    )
    predictions = truth[["clip_id"]].assign(
        latitude_deg=np.clip(truth["latitude_deg"] + rng.normal(0, spread_deg, n), -90, 90),
        longitude_deg=(truth["longitude_deg"] + rng.normal(0, spread_deg, n) + 180) % 360 - 180,
        log_prob=rng.normal(0, 1, n),
    )
    return predictions, truth


def test_metrics_equal_a_haversine_in_numpy():
    predictions, truth = tables()
    d = errors_km(predictions, truth)
    found = evaluate(predictions.sample(frac=1, random_state=1), truth)
    assert found.median_km.value == pytest.approx(np.median(d), rel=1e-9)
    assert found.mean_km.value == pytest.approx(d.mean(), rel=1e-9)
    assert found.geoscore.value == pytest.approx((5000 * np.exp(-d / 1492.7)).mean(), rel=1e-9)
    assert found.log_score is not None
    assert found.log_score.value == pytest.approx(predictions["log_prob"].mean())
    for radius, item in found.accuracy.items():
        assert item.value == pytest.approx((d <= float(radius)).mean())
    assert (found.n_truth, found.n_missing, found.n_refused, found.n_invalid, found.n_extra) == (
        200,
        0,
        0,
        0,
        0,
    )
    for item in found.intervals().values():
        assert item.low <= item.value <= item.high


def test_intervals_equal_a_bootstrap_that_copies_rows():
    """The sums and weighted medians against resamples that really copy the clips of each drawn place."""
    predictions, truth = tables(n=60, places=12)
    found = evaluate(predictions, truth, bootstrap=400, seed=3)
    d = errors_km(predictions, truth)
    # the same draws, in the package's order of places
    drawn = np.random.default_rng(3).integers(0, 12, size=(400, 12))
    groups = [d[truth["place_id"] == place].to_numpy() for place in np.unique(truth["place_id"].astype(str))]
    copies = [np.concatenate([groups[at] for at in row]) for row in drawn]
    for item, statistic in ((found.median_km, np.median), (found.mean_km, np.mean)):
        low, high = np.quantile([statistic(copy) for copy in copies], [0.025, 0.975])
        assert (item.low, item.high) == pytest.approx((low, high), rel=1e-9)


def test_bootstrap_covers_the_true_mean_of_clustered_data():
    """Clips of a place share an error: intervals by place cover as stated, intervals by clip do not."""
    rng = np.random.default_rng(0)
    hits, naive, trials, mean = 0, 0, 60, 5.0
    for trial in range(trials):
        shared = rng.uniform(0, 10, 60)  # degrees of latitude that a whole place is off
        truth = pd.DataFrame({"id": range(300), "lat": 0.0, "lon": np.repeat(np.arange(60.0), 5)})
        truth["place_id"] = np.repeat(np.arange(60), 5)
        predictions = truth[["id", "lon"]].assign(lat=np.repeat(shared, 5))
        target = mean * math.pi / 180 * 6371.0088
        item = evaluate(predictions, truth, bootstrap=150, seed=trial).mean_km
        hits += item.low <= target <= item.high
        item = evaluate(predictions, truth.assign(place_id=range(300)), bootstrap=150, seed=trial).mean_km
        naive += item.low <= target <= item.high
    assert hits / trials > 0.88
    assert naive / trials < 0.8


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 5)), min_size=1, max_size=30))
def test_weighted_median_is_numpys_median_of_repeats(pairs):
    values, weights = (np.array(part) for part in zip(*sorted(pairs), strict=True))
    if weights.sum() == 0:
        weights[0] = 1
    assert weighted_median(values.astype(float), weights) == np.median(np.repeat(values, weights))


seeds = st.integers(0, 1000)


@given(seed=seeds, radii=st.lists(st.floats(1, 20000), min_size=2, max_size=6, unique=True))
@settings(max_examples=25)
def test_accuracy_grows_with_the_radius(seed, radii):
    predictions, truth = tables(n=30, places=6, seed=seed)
    found = evaluate(predictions, truth, radii_km=sorted(radii), bootstrap=20)
    values = [item.value for item in found.accuracy.values()]
    assert values == sorted(values)


@given(seed=seeds)
@settings(max_examples=25)
def test_row_order_does_not_matter(seed):
    predictions, truth = tables(n=30, places=6, seed=seed)
    found = evaluate(predictions, truth, bootstrap=50).intervals()
    shuffled = evaluate(
        predictions.sample(frac=1, random_state=seed),
        truth.sample(frac=1, random_state=seed + 1),
        bootstrap=50,
    ).intervals()
    for name, item in found.items():
        assert vars(shuffled[name]) == pytest.approx(vars(item))


@given(seed=seeds, how=st.sampled_from(["missing", "refused", "nan", "range"]), data=st.data())
@settings(max_examples=60)
def test_not_answering_never_improves_a_score(seed, how, data):
    """Whatever subset goes unanswered, and however bad its answers were, no metric gets better."""
    predictions, truth = tables(n=24, places=6, spread_deg=60, seed=seed)
    predictions["log_prob"] *= 20  # some far below the floor
    gone = np.array(data.draw(st.lists(st.booleans(), min_size=24, max_size=24)))
    gone[0] = False
    worse = predictions.copy()
    if how == "missing":
        worse = worse[~gone]
    elif how == "refused":
        worse["refused"] = gone
    else:
        worse.loc[gone, "latitude_deg"] = np.nan if how == "nan" else 91.0
    before, after = (evaluate(table, truth, bootstrap=5).intervals() for table in (predictions, worse))
    for name in before:
        less_is_better = name in {"median_km", "mean_km"}
        change = after[name].value - before[name].value
        assert (change >= -1e-9) if less_is_better else (change <= 1e-9), name


def test_unanswered_clips_are_counted_each_as_what_they_are():
    predictions, truth = tables(n=10, places=5)
    predictions["refused"] = ["false"] * 9 + ["true"]
    predictions["latitude_deg"] = predictions["latitude_deg"].astype(object)
    predictions.loc[0, "latitude_deg"] = "somewhere in Peru"
    predictions.loc[1, "longitude_deg"] = 250.0
    predictions = pd.concat([predictions.drop(index=2), predictions.iloc[[3]].assign(clip_id="unknown")])
    found = evaluate(predictions, truth, bootstrap=10)
    assert (found.n_truth, found.n_missing, found.n_refused, found.n_invalid, found.n_extra) == (
        10,
        1,
        1,
        2,
        1,
    )
    assert found.n_floored == 4
    answered = evaluate(predictions, truth.iloc[3:9], bootstrap=10)
    assert found.mean_km.value == pytest.approx((answered.mean_km.value * 6 + 4 * HALF_CIRCUMFERENCE_KM) / 10)
    assert found.geoscore.value == pytest.approx(answered.geoscore.value * 0.6, abs=0.01)
    assert found.log_score is not None and answered.log_score is not None
    assert found.log_score.value == pytest.approx(0.6 * answered.log_score.value + 0.4 * LOG_SCORE_FLOOR)
    wide = evaluate(predictions, truth, bootstrap=10, radii_km=[30000])
    assert wide.accuracy["30000"].value == 0.6  # unanswered is wrong at every radius


def test_json_has_the_promised_form_and_no_nan(tmp_path):
    predictions, truth = tables(n=5, places=1)
    found = evaluate(predictions, truth, bootstrap=10)
    content = json.loads(found.to_json(tmp_path / "metrics.json"))
    assert json.loads((tmp_path / "metrics.json").read_text()) == content
    assert {"n_truth", "n_missing", "n_refused", "accuracy", "median_km", "mean_km", "geoscore"} <= set(content)
    assert list(content["accuracy"]) == ["1", "25", "200", "750", "2500"]
    assert set(content["median_km"]) == {"value", "low", "high"}
    assert content["mean_km"]["low"] is None  # one place: no interval can be had
    assert list(found.to_frame().columns) == ["value", "low", "high"]


def test_formats_names_and_text_ids_agree(tmp_path):
    predictions, truth = tables(n=20, places=4)
    for table in (predictions, truth):
        table["clip_id"] = [f"{at:03d}" for at in range(20)]  # 007 must not become 7
    expected = evaluate(predictions, truth, bootstrap=20).to_json()
    renamed = predictions.rename(columns={"clip_id": "key", "latitude_deg": " Lat", "longitude_deg": "LNG"})
    renamed.to_csv(tmp_path / "p.csv", index=False)
    predictions.to_json(tmp_path / "p.jsonl", orient="records", lines=True, double_precision=15)
    predictions.to_parquet(tmp_path / "p.parquet")
    truth.rename(columns={"clip_id": "audio_id", "latitude_deg": "latitude"}).to_csv(tmp_path / "t.csv", index=False)
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        found = evaluate(str(tmp_path / name), tmp_path / "t.csv", bootstrap=20).as_dict()
        want = json.loads(expected)
        assert found["median_km"]["value"] == pytest.approx(want["median_km"]["value"], rel=1e-9)
        assert found["n_missing"] == 0
    whole = predictions.assign(clip_id=[float(at) for at in range(20)])
    assert evaluate(whole, truth.assign(clip_id=range(20)), bootstrap=5).n_missing == 0


def test_without_place_id_the_result_says_how_it_clustered():
    predictions, truth = tables(n=40, places=8)
    by_place, by_degrees = (evaluate(predictions, t, bootstrap=50) for t in (truth, truth.drop(columns="place_id")))
    assert by_place.clustering == "place_id"
    assert "no place_id" in by_degrees.clustering
    assert by_degrees.n_places == 8


def test_a_split_of_a_manifest_can_be_chosen():
    predictions, truth = tables(n=20, places=4)
    truth["split"] = ["test", "train"] * 10
    assert evaluate(predictions, truth, bootstrap=5, split="test").n_truth == 10
    assert evaluate(predictions, truth, bootstrap=5, split="test").n_extra == 10
    with pytest.raises(EvaluateError, match="split 'dev'"):
        evaluate(predictions, truth, split="dev")


def test_a_zero_has_an_exact_interval():
    predictions, truth = tables(n=20, places=20, spread_deg=20)
    item = evaluate(predictions, truth, bootstrap=50).accuracy["1"]
    assert (item.value, item.low) == (0, 0)
    assert item.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper-Pearson of 0 in 20


BAD = {
    "empty": (lambda p, t: (p.iloc[:0], t), "predictions has no rows"),
    "no latitude": (
        lambda p, t: (p.drop(columns="latitude_deg"), t),
        "no column 'latitude_deg'.*latitude, lat",
    ),
    "no id": (lambda p, t: (p, t.drop(columns="clip_id")), "truth has no column 'clip_id'.*audio_id"),
    "duplicate": (lambda p, t: (pd.concat([p, p.iloc[:1]]), t), "clip_id 'c0000' twice"),
    "empty id": (lambda p, t: (p.assign(clip_id=""), t), "empty clip_id"),
    "truth off the map": (lambda p, t: (p, t.assign(latitude_deg=100)), "clip 'c0000' is no place on Earth"),
    "no shared id": (lambda p, t: (p.assign(clip_id=range(len(p))), t), "use the same ids"),
    "missing file": (lambda p, t: ("nowhere.csv", t), "nowhere.csv does not exist"),
    "kind of file": (lambda p, t: (__file__, t), "save it as"),
    "refused": (lambda p, t: (p.assign(refused="perhaps"), t), "'perhaps': write true or false"),
    "place": (lambda p, t: (p, t.assign(place_id=None)), "without place_id"),
    "density": (lambda p, t: (p.assign(log_prob=np.inf), t), "log_prob"),
    "twice": (lambda p, t: (p.assign(**{"Latitude_deg": 0.0}), t), "occurs twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_give_one_clear_line(case):
    spoil, message = BAD[case]
    with pytest.raises(EvaluateError, match=message) as caught:
        evaluate(*spoil(*tables(n=10, places=3)))
    assert "\n" not in str(caught.value)


def test_something_that_is_no_table_is_named():
    with pytest.raises(EvaluateError, match="predictions is a list"):
        read_table([1, 2], "predictions")


@pytest.mark.parametrize("name", ["bad.parquet", "bad.jsonl"])
def test_broken_files_give_one_clear_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"{not a table\n\xff")
    with pytest.raises(EvaluateError, match=name) as caught:
        evaluate(tmp_path / name, tables(n=5, places=2)[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"bootstrap": 0}, {"level": 1.0}, {"radii_km": []}, {"geoscore_scale_km": 0.0}])
def test_bad_options_are_named(options):
    with pytest.raises(EvaluateError, match=next(iter(options))):
        evaluate(*tables(n=5, places=2), **options)


def test_compare_finds_the_better_system_and_not_a_copy():
    good, truth = tables(spread_deg=3)
    bad, _ = tables(spread_deg=9)
    found = compare(good, bad, truth).to_frame()
    assert found.loc["median_km", "difference"] == pytest.approx(
        evaluate(good, truth, bootstrap=2).median_km.value - evaluate(bad, truth, bootstrap=2).median_km.value
    )
    assert found.loc["median_km", "high"] < 0 and found.loc["median_km", "p_value"] < 0.01
    turned = compare(bad, good, truth).to_frame()
    assert turned["difference"].to_numpy() == pytest.approx(-found["difference"].to_numpy())
    same = compare(good, good, truth).to_frame()
    assert (same["difference"] == 0).all() and (same["p_value"] == 1).all()
    assert json.loads(compare(good, bad, truth).to_json())["metrics"]["median_km"]["p_value"] < 0.01


def test_compare_rejects_a_true_null_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    _, truth = tables(n=60, places=30)
    low = 0
    for trial in range(60):
        a, b = (
            truth[["clip_id", "longitude_deg"]].assign(
                latitude_deg=np.clip(truth["latitude_deg"] + rng.normal(0, 2, 60), -90, 90)
            )
            for _ in range(2)
        )
        low += compare(a, b, truth, bootstrap=200, seed=trial).to_frame().loc["mean_km", "p_value"] < 0.05
    assert low <= 9


def test_rows_are_scored_one_by_one():
    both, truth = tables(spread_deg=3)
    sound, _ = tables(spread_deg=9)
    rows = evaluate_rows(pd.concat([sound.iloc[20:].assign(row="sound only"), both.assign(row="both")]), truth)
    assert list(rows["row"].unique()) == ["sound only", "both"]
    alone = evaluate(both, truth).to_frame()
    part = rows[rows["row"] == "both"].set_index("metric")
    assert part.loc[alone.index, ["value", "low", "high"]].to_numpy() == pytest.approx(alone.to_numpy())
    assert rows.loc[rows["row"] == "sound only", "n_unanswered"].unique() == [20]
    shown = display_rows(rows)
    assert list(shown.index) == ["sound only", "both"]
    assert "% within 25 km" in shown.columns and "[" in shown.loc["both", "median km"]
    with pytest.raises(EvaluateError, match="'row'"):
        evaluate_rows(both, truth)


def test_coverage_of_a_calibrated_model_is_the_diagonal():
    rng = np.random.default_rng(0)
    table = coverage(rng.uniform(size=4000), np.arange(4000))
    assert np.abs(table["observed"] - table["nominal"]).max() < 0.03
    assert ((table["low"] <= table["nominal"]) & (table["nominal"] <= table["high"])).mean() > 0.8
    with pytest.raises(EvaluateError, match="truth_mass"):
        coverage(np.array([0.5, 1.5]), ["a", "b"])


def scattered(seed: int, n: int) -> torch.Tensor:
    """Two clouds of places on different continents, a third as many in the second."""
    draw = torch.Generator().manual_seed(seed)
    centers = from_degrees(torch.tensor([48.0, -23.0]).double(), torch.tensor([10.0, -47.0]).double())
    return sample_vmf(centers[(torch.arange(n) % 4 == 0).long()], 20.0, draw).double()


@pytest.mark.parametrize("seed", range(3))
def test_best_constant_beats_every_point_of_a_fine_grid(seed):
    points = scattered(seed, 40)
    found = best_constant(points)
    grid = fibonacci_grid(60_000).double()
    mean_angle = lambda x: (x.clamp(-1, 1)).acos().mean(-1)  # noqa: E731 - an oracle of its own, float64
    assert float(mean_angle(found @ points.T)) <= float(mean_angle(grid @ points.T).min()) + 1e-9
    assert float(found.norm()) == pytest.approx(1)


def test_best_constant_may_be_a_data_point_and_heeds_weights():
    points = scattered(0, 9)
    heavy = torch.ones(9)
    heavy[3] = 100
    assert torch.allclose(best_constant(points, heavy), points[3], atol=1e-9)
    repeated = torch.cat([points, points[3].expand(99, 3)])
    assert torch.allclose(best_constant(repeated), points[3], atol=1e-9)
    with pytest.raises(BaselineError, match="length 1"):
        best_constant(2 * points)


def test_kernel_density_integrates_to_one_and_knows_its_places():
    points = scattered(1, 200)
    density = kernel_density(points)
    grid = fibonacci_grid(40_000).double()
    assert float(density.log_prob(grid).exp().mean()) * 4 * math.pi == pytest.approx(1, abs=1e-3)
    unseen = scattered(2, 200)
    assert float(density.log_prob(unseen).mean()) > -math.log(4 * math.pi) + 0.5
    # by definition, one point at a time: (1 - u) mean vMF + u / 4π
    kappa, u = density.kappa, 1 / 201
    by_hand = math.log((1 - u) * float(vmf(unseen[0] @ points.T, kappa).mean()) + u / (4 * math.pi))
    assert float(density.log_prob(unseen[0])) == pytest.approx(by_hand, rel=1e-9)


def test_kernel_density_is_cross_validated_by_place():
    """Ten clips per place, metres apart: across clips a needle wins, across places a sensible kernel."""
    homes = scattered(3, 40)
    clips = sample_vmf(homes.repeat_interleave(10, 0), 1e9, torch.Generator().manual_seed(0))
    place = np.repeat(np.arange(40), 10)
    honest, leaky = kernel_density(clips, place_id=place), kernel_density(clips)
    assert honest.kappa < 1e3 < leaky.kappa
    assert honest.cross_validation[honest.kappa] == max(honest.cross_validation.values())
    with pytest.raises(BaselineError, match="folds"):
        kernel_density(homes[:3], folds=5)
    with pytest.raises(BaselineError, match="place_id"):
        kernel_density(homes, place_id=[1])


def test_cross_validation_equals_a_loop_over_folds():
    points = scattered(4, 30)
    found = kernel_density(points, kappas=[5.0, 50.0], folds=3, seed=7)
    sites, place = torch.unique(points, dim=0, return_inverse=True)
    fold = np.random.default_rng(7).permutation(len(sites))[place.numpy()] % 3
    for kappa, score in found.cross_validation.items():
        logs = []
        for held in range(3):
            train, u = points[torch.from_numpy(fold != held)], 1 / (30 * 2 / 3 + 1)
            for point in points[torch.from_numpy(fold == held)]:
                vmf = kappa / (2 * math.pi * (1 - math.exp(-2 * kappa))) * torch.exp(kappa * (train @ point - 1))
                logs.append(math.log((1 - u) * float(vmf.mean()) + u / (4 * math.pi)))
        assert score == pytest.approx(np.mean(logs), rel=1e-9)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_place_interval_covers_the_truth_where_an_interval_by_clip_would_not(statistic):
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        offsets = rng.normal(size=40)  # places differ, the clips of one place hardly do
        values = np.repeat(offsets, 5) + 0.01 * rng.normal(size=200)
        found = place_interval(values, np.repeat(np.arange(40), 5), statistic, bootstrap=200, seed=trial)
        assert found.value == pytest.approx(float(getattr(np, statistic)(values)))
        inside += found.low <= 0 <= found.high
    assert inside >= 50  # by clip, the interval would be sqrt 5 times too short and hold 0 in about 62 %


def test_place_interval_names_the_argument():
    with pytest.raises(EvaluateError, match="one value per clip"):
        place_interval(np.zeros(3), ["a", "b"])
    with pytest.raises(EvaluateError, match="'mean' or 'median'"):
        place_interval(np.zeros(1), ["a"], "mode")
