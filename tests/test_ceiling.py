"""The exact posterior and the Bayes ceiling, held against loops, simulation, geometry and their own laws."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree
from scipy.stats import chisquare, kstest

from avgeo.evaluate import metrics
from avgeo.evaluate.bootstrap import bootstrap, interval
from avgeo.profiles import WorldSettings
from avgeo.world.ceiling import (
    LOG_DISC_AREA,
    all_guesses,
    ceiling,
    draw_clips,
    expected_scores,
    fresh_ceiling,
    mean_interval,
    unseen,
)
from avgeo.world.cues import CUES, NONE, Cue, cue_tables
from avgeo.world.geography import EARTH_RADIUS_KM, WorldError, unit_vectors
from avgeo.world.guesses import (
    GEOSCORE_SCALE_KM,
    GEOSCORE_STEP_KM,
    JITTER_KM,
    RADII_KM,
    STEPS_KM,
    _fibonacci_count,
    _lattice,
    accuracy_guesses,
    expected_geoscore,
    fibonacci,
    geoscore_guesses,
    share_within,
)
from avgeo.world.moment import P_MOMENT, Moment
from avgeo.world.places import build_places, build_pool
from avgeo.world.posterior import SENSES, Likelihood, mass_above, observed, posteriors

WORLD = WorldSettings(places=60, pool=160)
CLIPS = 10_000

# lattices so fine that a coarser one can be measured against them
FINE_KM = {1.0: 0.05, 25.0: 1.25, 200.0: 10.0, 750.0: 20.0, 2500.0: 50.0}


@pytest.fixture(scope="module")
def places() -> pd.DataFrame:
    return build_places(WORLD, seed=1)


@pytest.fixture(scope="module")
def pool() -> pd.DataFrame:
    return build_pool(WORLD, seed=1)


@pytest.fixture(scope="module")
def fresh(places: pd.DataFrame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """10,000 fresh clips of the 60 places: rows of the true sites, and the exact posteriors."""
    drawn = list(draw_clips(places, CLIPS, np.random.default_rng(8)))
    return np.array([row for row, _ in drawn]), posteriors([cues for _, cues in drawn], places)


@pytest.fixture(scope="module")
def best(places: pd.DataFrame, fresh: tuple[np.ndarray, dict[str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    return expected_scores({sense: p[:3000] for sense, p in fresh[1].items()}, all_guesses(places))


def jittered(sites: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points uniform by area in the disc around each site, on the sphere itself."""
    drop = rng.random(len(sites)) * (1 - math.cos(JITTER_KM / EARTH_RADIUS_KM))  # 1 - cos is uniform on a cap
    other = rng.normal(size=sites.shape)
    side = other - (other * sites).sum(-1, keepdims=True) * sites
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    return (1 - drop)[:, None] * sites + np.sqrt(drop * (2 - drop))[:, None] * side


def distance_km(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(np.linalg.norm(a - b, axis=-1) / 2, 1))


def vectors(sites: pd.DataFrame) -> np.ndarray:
    return unit_vectors(sites["latitude_deg"], sites["longitude_deg"])


# --- the posterior ---


def test_enumeration_equals_a_triple_loop_in_plain_python(places: pd.DataFrame) -> None:
    few = places.iloc[:5]
    records = few.to_dict("records")
    clips = [cues for _, cues in draw_clips(few, 4, np.random.default_rng(2))] + [{}]
    for cues in clips:
        total = {sense: [0.0] * len(few) for sense in SENSES}
        for site, place in enumerate(records):
            for month in range(1, 13):
                for hour in range(24):
                    tables = cue_tables(place, Moment(month, hour))
                    p = {"audible": 1.0, "visible": 1.0}
                    for name, cue in CUES.items():
                        p[cue.sense] *= tables[name].get(cues.get(name, NONE), 0.0)
                    weight = float(P_MOMENT[month - 1, hour])
                    total["sound"][site] += weight * p["audible"]
                    total["sight"][site] += weight * p["visible"]
                    total["both"][site] += weight * p["audible"] * p["visible"]
        exact = Likelihood(few)
        if not all(any(values) for values in total.values()):
            continue
        posterior = exact.posterior(cues)
        for sense, values in total.items():
            np.testing.assert_allclose(exact.probability(cues)[sense], values, rtol=1e-9)
            np.testing.assert_allclose(posterior[sense], np.array(values) / sum(values), rtol=1e-9)
            with np.errstate(divide="ignore"):
                np.testing.assert_allclose(exact.log_likelihood(cues)[sense], np.log(values), rtol=1e-9)


def test_the_sum_over_moments_is_that_of_its_parts(places: pd.DataFrame) -> None:
    exact = Likelihood(places)
    ((_, cues),) = draw_clips(places, 1, np.random.default_rng(4))
    for sense in SENSES:
        parts = sum(
            P_MOMENT[month - 1, hour] * np.exp(exact.log_likelihood_at(cues, Moment(month, hour), sense))
            for month in range(1, 13)
            for hour in range(24)
        )
        np.testing.assert_allclose(exact.probability(cues)[sense], parts, rtol=1e-9)


def test_sound_and_sight_share_the_moment(fresh: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
    p = fresh[1]
    product = p["sound"] * p["sight"]
    product /= product.sum(1, keepdims=True)
    assert np.abs(product - p["both"]).max() > 0.1


def test_enumeration_equals_a_brute_force_posterior(places: pd.DataFrame) -> None:
    few, names = places.iloc[[0, 7, 21, 40]], ("traffic", "rooster", "driving_side", "street_light", "wetness")
    rng, count = np.random.default_rng(6), 250_000
    site, moment = rng.integers(4, size=count), rng.choice(288, size=count, p=P_MOMENT.ravel())
    drawn = np.empty((count, len(names)), dtype=int)
    for column, name in enumerate(names):
        full = (12, 24, len(CUES[name].values))
        table = np.stack([np.broadcast_to(CUES[name].table(p), full) for p in few.to_dict("records")])
        reach = np.cumsum(table.reshape(4, 288, -1), axis=-1)[site, moment]
        drawn[:, column] = (rng.random(count)[:, None] >= reach[:, :-1]).sum(1)
    exact, p_values = Likelihood(few, [CUES[name] for name in names]), []
    for codes, clips in Counter(map(tuple, drawn)).most_common(25):
        cues = {name: CUES[name].values[code] for name, code in zip(names, codes, strict=True)}
        kept = (drawn == codes).all(1)  # rejection: the clips with exactly these cues
        p = exact.posterior(cues)["both"]
        count_by_site = np.bincount(site[kept], minlength=4)
        assert not count_by_site[p == 0].any()
        if (p > 0).sum() > 1 and clips * p[p > 0].min() > 5:
            p_values.append(chisquare(count_by_site[p > 0], clips * p[p > 0]).pvalue)
    assert len(p_values) > 10
    assert min(p_values) * len(p_values) > 0.01


@pytest.mark.parametrize("sense", list(SENSES))
def test_the_posterior_is_calibrated(fresh: tuple[np.ndarray, dict[str, np.ndarray]], sense: str) -> None:
    true, p = fresh[0], fresh[1][sense]
    rng, rows = np.random.default_rng(9), np.arange(len(fresh[0]))
    own = p[rows, true]
    # mass of the likelier sites, and a random share of the true site's own: uniform if and only if calibrated; the
    # 90 % set takes sites by falling posterior, the last with the probability that makes its mass exactly 90 %
    above = np.where((p > own[:, None]) | ((p == own[:, None]) & (np.arange(p.shape[1]) < true[:, None])), p, 0).sum(1)
    rank = above + rng.random(len(own)) * own
    assert abs(np.mean(rank <= 0.9) - 0.9) < 0.01
    assert kstest(rank, "uniform").pvalue > 0.01
    mass = mass_above(p, true, rng)  # the same without ties, another lot with them
    assert abs(np.mean(mass <= 0.9) - 0.9) < 0.01 and kstest(mass, "uniform").pvalue > 0.01
    assert (np.abs(mass - above) <= np.isclose(p, own[:, None], rtol=1e-6, atol=0).sum(1) * own + 1e-9).all()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    # the score of the truth agrees with the entropy that the ceiling reports in its place
    bits = np.log2(own) + np.where(p > 0, -p * np.log2(np.where(p > 0, p, 1)), 0).sum(1)
    assert abs(bits.mean()) < 3 * bits.std() / math.sqrt(len(bits))


def test_a_prior_that_masks_sites_equals_a_world_without_them(places: pd.DataFrame) -> None:
    mask = np.arange(len(places)) % 3 == 0
    exact, fewer = Likelihood(places), Likelihood(places[mask])
    for _, cues in draw_clips(places[mask], 20, np.random.default_rng(3)):
        masked, alone = exact.posterior(cues, prior=mask), fewer.posterior(cues)
        for sense in SENSES:
            np.testing.assert_allclose(masked[sense][mask], alone[sense], rtol=1e-12)
            assert not masked[sense][~mask].any()
            assert np.isneginf(exact.log_posterior(cues, prior=mask)[sense][~mask]).all()


def test_blocks_of_sites_and_missing_facts_change_nothing(places: pd.DataFrame) -> None:
    many = pd.concat([places] * 9, ignore_index=True).assign(mains_hz=math.nan)  # 540 sites: more than two blocks
    ((_, cues),) = draw_clips(many.iloc[:1], 1, np.random.default_rng(3))
    found = Likelihood(many).probability(cues)
    for p in found.values():
        np.testing.assert_allclose(p, np.tile(p[: len(places)], 9), rtol=1e-12)
    assert all(p[0] > 0 for p in found.values())


def test_errors_name_the_argument(places: pd.DataFrame) -> None:
    exact = Likelihood(places)
    right = places[(places["driving_side"] == "right") & (places["settlement"] != "wild")]
    for cues, words in [
        ({"yeti": "howl"}, "'yeti' is no cue"),
        ({"rain": "cats"}, "rain has no value 'cats'"),
    ]:
        with pytest.raises(WorldError, match=words):
            exact.posterior(cues)
    with pytest.raises(WorldError, match="driving_side='left' cannot occur"):
        Likelihood(right).posterior({"driving_side": "left"})
    with pytest.raises(WorldError, match=r"street_light='lamps' cannot occur .* together with .*sun='high_S'"):
        Likelihood(right).posterior({"sun": "high_S", "street_light": "lamps", "horizon": "flat"})
    for prior in (np.zeros(60), np.ones(3), -np.ones(60), np.full(60, np.nan)):
        with pytest.raises(WorldError, match="prior"):
            exact.posterior({}, prior=prior)
    with pytest.raises(WorldError, match="lacks column 'siren'"):
        Likelihood(places.drop(columns="siren"))
    with pytest.raises(WorldError, match="no rows"):
        Likelihood(places.iloc[:0])


def test_the_truth_table_gives_the_cues_of_each_clip() -> None:
    truth = pd.DataFrame([("b", "rain", "rain"), ("a", "sun", "night"), ("b", "sun", "night"), ("x", "rain", "rain")],
                         columns=["clip_id", "cue", "value"])  # fmt: skip
    assert observed(truth, ["a", "b", "c"]) == [{"sun": "night"}, {"rain": "rain", "sun": "night"}, {}]
    twice = pd.concat([truth, truth.iloc[[1]].assign(value="twilight")])
    with pytest.raises(WorldError, match="clip a has sun"):
        observed(twice, ["a"])


# --- geometry ---


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1.2), st.sampled_from([0.5, 1.0, 2.9, 3.0, 3.1, 7.0, 25.0, 200.0, 2500.0]), st.integers(0, 99))
def test_the_share_of_the_disc_agrees_with_points_thrown_at_it(where: float, radius_km: float, seed: int) -> None:
    d = where * (radius_km + JITTER_KM) if where < 0.3 else radius_km + JITTER_KM * (2 * where - 1.4)
    d = max(d, 0.0)
    site = np.array([1.0, 0, 0])
    point = np.array([math.cos(d / EARTH_RADIUS_KM), math.sin(d / EARTH_RADIUS_KM), 0])
    thrown = jittered(np.tile(site, (20_000, 1)), np.random.default_rng(seed))
    hit = float((distance_km(thrown, point) <= radius_km).mean())
    exact = float(share_within(d, radius_km))
    assert abs(hit - exact) <= 5 * math.sqrt(exact * (1 - exact) / 20_000) + 1e-3
    score = 5000 * np.exp(-distance_km(thrown, point) / GEOSCORE_SCALE_KM)
    assert abs(float(expected_geoscore(d)) - score.mean()) <= 5 * score.std() / math.sqrt(20_000) + 0.05


def test_the_share_of_the_disc_at_its_ends() -> None:
    for radius in RADII_KM:
        assert share_within(0.0, radius) == pytest.approx(min(1, (radius / JITTER_KM) ** 2), rel=1e-12)
        assert share_within(radius + JITTER_KM, radius) == 0
        share = share_within(np.linspace(0, radius + 4, 2000), radius)
        assert (np.diff(share) <= 1e-9).all() and share.min() >= 0
    assert share_within(3.0, 3.0) == pytest.approx(2 / 3 - math.sqrt(3) / (2 * math.pi), rel=1e-12)  # vesica piscis


@pytest.mark.parametrize(("count", "step_km"), [(1, 40.0), (60, 40.0), (60, 600.0)])
def test_some_candidate_is_near_every_point_that_matters(places: pd.DataFrame, count: int, step_km: float) -> None:
    sites, reach_km = vectors(places)[:count], 10 * step_km
    lattice = _lattice(sites, reach_km, step_km)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40_000, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    seen = sum(distance_km(points, site) <= reach_km for site in sites)
    if count == 1:
        assert len(lattice) == 0
    else:
        gap = KDTree(lattice).query(points[seen >= 2])[0] * EARTH_RADIUS_KM
        assert (seen >= 2).sum() > 100 and gap.max() <= step_km
        assert gap.max() > step_km / 3  # nor is the lattice wastefully fine


def test_the_spiral_covers_the_earth_as_it_says() -> None:
    points = np.random.default_rng(1).normal(size=(200_000, 3))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    for step_km in (1500.0, 400.0, 130.0):
        gap = KDTree(fibonacci(_fibonacci_count(step_km))).query(points)[0] * EARTH_RADIUS_KM
        assert 0.8 * step_km < gap.max() < step_km


def test_a_finer_lattice_gains_next_to_nothing(
    places: pd.DataFrame, fresh: tuple[np.ndarray, dict[str, np.ndarray]]
) -> None:
    sites = vectors(places)
    for p in (fresh[1]["sound"][:300], fresh[1]["both"][:300]):
        for radius in RADII_KM:
            coarse, fine = (
                accuracy_guesses(sites, radius, step).best(p)[0].mean() for step in (STEPS_KM[radius], FINE_KM[radius])
            )
            assert -0.002 < fine - coarse < 0.004
        coarse, fine = (geoscore_guesses(sites, step).best(p)[0].mean() for step in (GEOSCORE_STEP_KM, 100.0))
        assert 0.999 < coarse / fine < 1.001


def test_constants_are_those_of_the_evaluation() -> None:
    assert RADII_KM == metrics.RADII_KM and GEOSCORE_SCALE_KM == metrics.GEOSCORE_SCALE_KM
    assert metrics.sphere.EARTH_RADIUS_KM == EARTH_RADIUS_KM
    cap = 2 * math.pi * (1 - math.cos(JITTER_KM / EARTH_RADIUS_KM))
    assert pytest.approx(math.log(cap), abs=1e-6) == LOG_DISC_AREA


# --- the ceiling ---


def test_information_obeys_its_laws(places: pd.DataFrame) -> None:
    table = fresh_ceiling(places, clips=250, seed=1)
    bits = table[table["metric"] == "information_bits"].set_index("sense")["value"]
    prior = float(table.loc[table["sense"] == "prior", "value"].iloc[0])
    assert prior == pytest.approx(math.log2(60))
    assert max(bits["sound"], bits["sight"]) < bits["both"] < prior
    assert bits["both"] == pytest.approx(bits["sight"] + bits["sound|sight"], abs=1e-12)
    assert bits["both"] == pytest.approx(bits["sound"] + bits["sight|sound"], abs=1e-12)
    assert bits["sound;sight"] == pytest.approx(bits["sound"] - bits["sound|sight"], abs=1e-12)
    assert min(bits["sound"], bits["sight"], bits["sound|sight"], bits["sight|sound"]) > 0
    site = table[table["metric"] == "site_log2"].set_index("sense")["value"]
    score = table[table["metric"] == "log_score"].set_index("sense")["value"]
    for sense in SENSES:
        assert site[sense] == pytest.approx(bits[sense] - prior, abs=1e-12)
        assert score[sense] == pytest.approx(site[sense] * math.log(2) - LOG_DISC_AREA, abs=1e-12)


def test_a_world_of_one_site_holds_no_bits(places: pd.DataFrame) -> None:
    table = fresh_ceiling(places.iloc[:1], clips=20)
    assert (table.loc[table["metric"] == "information_bits", "value"] == 0).all()
    value = table[table["sense"] == "both"].set_index("metric")["value"]
    assert value["accuracy_1km"] == pytest.approx(1 / 9, rel=1e-6) and value["accuracy_25km"] == 1
    assert value["geoscore"] == pytest.approx(5000 * (1 - 2 / 1492.7), abs=0.02)  # the mean distance is 2 km
    bits = table[table["metric"] == "information_bits"]
    assert (bits[["low", "high"]] == 0).all(axis=None)
    of_one_place = ceiling([{}, {}], [str(places["place_id"].iloc[0])] * 2, places.iloc[:1])
    assert of_one_place.loc[of_one_place["sense"] != "prior", ["low", "high"]].isna().all(axis=None)


def test_a_perfect_cue_tells_everything_and_a_coin_nothing(places: pd.DataFrame) -> None:
    names = tuple(places["place_id"])
    name = Cue("name", "audible", (*names, NONE), ("place_id",), lambda place: {place["place_id"]: 1.0})
    coin = Cue("coin", "visible", ("heads", NONE), ("place_id",), lambda _: {"heads": 0.5})
    exact = Likelihood(places, [name, coin])
    clips = [{"name": place} | ({"coin": "heads"} if row % 2 else {}) for row, place in enumerate(names)]
    scores = expected_scores(posteriors(clips, exact), all_guesses(places))
    for sense, bits in {"sound": math.log2(60), "both": math.log2(60), "sight": 0.0, "sound;sight": 0.0}.items():
        np.testing.assert_allclose(scores[sense, "information_bits"], bits, atol=1e-9)
    np.testing.assert_allclose(scores["sound", "accuracy_25km"], 1, atol=1e-6)
    np.testing.assert_allclose(scores["sound", "accuracy_1km"], 1 / 9, atol=1e-6)


def test_two_senses_are_no_worse_than_one(best: dict[tuple[str, str], np.ndarray]) -> None:
    for (sense, metric), values in best.items():
        if sense in ("sound", "sight"):
            assert best["both", metric].mean() > values.mean()
    for sense in SENSES:
        found = [best[sense, f"accuracy_{radius:g}km"] for radius in RADII_KM]
        assert all((a <= b + 1e-6).all() for a, b in pairwise(found))


def test_no_estimator_beats_the_ceiling_and_the_best_point_meets_it(
    places: pd.DataFrame,
    fresh: tuple[np.ndarray, dict[str, np.ndarray]],
    best: dict[tuple[str, str], np.ndarray],
) -> None:
    sites, rng, guesses = vectors(places), np.random.default_rng(12), all_guesses(places)
    true, rows = fresh[0][:3000], np.arange(3000)
    clip = jittered(sites[true], rng)
    for sense in SENSES:
        p = fresh[1][sense][:3000]
        mean = p @ sites
        drawn = (np.cumsum(p, axis=1) < rng.random((3000, 1))).sum(1).clip(0, 59)
        estimators = {
            "likeliest site": sites[p.argmax(1)],
            "mean direction": mean / np.linalg.norm(mean, axis=1, keepdims=True),
            "a draw": sites[drawn],
            "likeliest site, 100 km off": jittered(sites[p.argmax(1)], rng) + rng.normal(size=(3000, 3)) / 90,
            "one place for all": np.tile(sites[0], (3000, 1)),
        }
        for metric, candidates in guesses.items():
            points = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in estimators.items()}
            points["best"] = candidates.points[candidates.best(p)[1]]
            for name, point in points.items():
                d = distance_km(point, clip)
                radius = 0.0 if metric == "geoscore" else float(metric.removeprefix("accuracy_").removesuffix("km"))
                score = 5000 * np.exp(-d / GEOSCORE_SCALE_KM) if metric == "geoscore" else (d <= radius).astype(float)
                gain = score - best[sense, metric][rows]
                error = gain.std() / math.sqrt(len(gain))
                assert gain.mean() < 4 * error + 1e-9, (sense, metric, name)
                if name == "best":  # the expectation is attained
                    assert abs(gain.mean()) < 4 * error + 1e-9, (sense, metric)


def test_intervals_are_those_of_resampled_places() -> None:
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(120), rng.integers(1, 9, 120)).astype(np.int64)
    values = rng.normal(size=120)[cluster] + rng.normal(size=len(cluster))
    mean, low, high = mean_interval(values, cluster)
    draws, _ = bootstrap(values[:, None], np.empty((len(values), 0)), cluster, count=4000, seed=1)
    (other_low,), (other_high,) = interval(draws, 0.95)
    assert mean == pytest.approx(values.mean())
    assert abs(low - other_low) < 0.05 * (high - low) and abs(high - other_high) < 0.05 * (high - low)
    alone = mean_interval(values, np.arange(len(values)))
    assert (alone[2] - alone[1]) / 2 == pytest.approx(1.9645 * values.std(ddof=1) / math.sqrt(len(values)), rel=1e-3)


def test_a_data_set_is_scored_under_both_protocols(places: pd.DataFrame, pool: pd.DataFrame) -> None:
    test = places[places["split"] == "test"].reset_index(drop=True)
    drawn = list(draw_clips(test, 200, np.random.default_rng(7)))
    clips, place_id = [cues for _, cues in drawn], [test["place_id"][row] for row, _ in drawn]
    table = ceiling(clips, place_id, places, pool)
    assert list(table.columns) == ["protocol", "sense", "metric", "value", "low", "high", "clips"]
    assert (table["clips"] == 200).all() and not table.isna().any(axis=None)
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    value = table.set_index(["protocol", "sense", "metric"])["value"]
    candidates = len(pool) - int((places["split"] != "test").sum())
    assert value["new places", "prior", "entropy_bits"] == pytest.approx(math.log2(candidates))
    assert value["new places", "both", "accuracy_25km"] < value["known places", "both", "accuracy_25km"]
    assert len(ceiling(clips, place_id, places)) * 2 == len(table)
    pd.testing.assert_frame_equal(table, ceiling(clips, place_id, places, pool))

    training = str(places.loc[places["split"] == "train", "place_id"].iloc[0])
    with pytest.raises(WorldError, match="no site of 'new places'"):
        ceiling(clips, [training, *place_id[1:]], places, pool)
    with pytest.raises(WorldError, match="one place_id per clip"):
        ceiling(clips, place_id[1:], places)
    side = {"left": "right", "right": "left"}[str(test["driving_side"][0])]
    with pytest.raises(WorldError, match=r"cannot occur at place-.* not the clip's own"):
        ceiling([{"driving_side": side}], [str(test["place_id"][0])], places)


def test_new_places_are_the_pool_without_the_training_places(places: pd.DataFrame, pool: pd.DataFrame) -> None:
    left = set(unseen(places, pool)["place_id"])
    training = set(places.loc[places["split"] != "test", "place_id"])
    assert left == set(pool["place_id"]) - training and training
    with pytest.raises(WorldError, match="does not hold all of places"):
        unseen(places, pool.iloc[5:])
    with pytest.raises(WorldError, match="all of its sites are seen places"):
        unseen(places.assign(split="train"), places)


def test_sites_whose_discs_overlap_are_refused(places: pd.DataFrame) -> None:
    with pytest.raises(WorldError, match="km apart"):
        all_guesses(pd.concat([places, places.iloc[:1]]))


def test_a_fresh_ceiling_is_the_same_twice_and_follows_its_seed(places: pd.DataFrame) -> None:
    first, again, other = (fresh_ceiling(places.iloc[:12], clips=60, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first["value"].equals(other["value"])
    with pytest.raises(WorldError, match="clips=0"):
        fresh_ceiling(places, clips=0)
