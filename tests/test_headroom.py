"""The leak detector: honest predictions stay under the Bayes ceiling, those that know the truth do not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from avgeo.evaluate import EvaluateError, distance_bits, evaluate_rows, headroom
from avgeo.profiles import WorldSettings
from avgeo.world import Likelihood, build_places, build_pool
from avgeo.world.ceiling import all_guesses, ceiling, unseen
from avgeo.world.plan import plan_clip

WORLD = WorldSettings(places=160, pool=320, clips_per_place=4)


def test_the_bayes_point_does_not_beat_the_ceiling_and_the_truth_does() -> None:
    places, pool = build_places(WORLD, 5), build_pool(WORLD, 5)
    test = [{str(k): v for k, v in place.items()} for place in places[places["split"] == "test"].to_dict("records")]
    plans = [plan_clip(place, WORLD, 5, number) for place in test for number in range(WORLD.clips_per_place)]
    manifest = pd.DataFrame(
        {
            "clip_id": plan.clip_id,
            "place_id": plan.place["place_id"],
            "latitude_deg": plan.latitude_deg,
            "longitude_deg": plan.longitude_deg,
        }
        for plan in plans
    )
    sites = unseen(places, pool)
    likelihood, guesses = Likelihood(sites), all_guesses(sites)["geoscore"]
    rows = []
    for sense in ("sound", "sight", "both"):
        posterior = np.stack([likelihood.posterior(plan.cues)[sense] for plan in plans])
        x, y, z = guesses.points[guesses.best(posterior)[1]].T
        where = {"latitude_deg": np.degrees(np.arcsin(z)), "longitude_deg": np.degrees(np.arctan2(y, x))}
        rows.append(pd.DataFrame({"clip_id": manifest["clip_id"], "row": sense, **where}))
    rows.append(manifest.drop(columns="place_id").assign(row="leak"))
    scored = evaluate_rows(pd.concat(rows), manifest, bootstrap=200, seed=0)
    best = ceiling([plan.cues for plan in plans], manifest["place_id"].tolist(), places, pool)
    found = headroom(scored, best, {"sound": "sound", "sight": "sight", "both": "both", "leak": "both"})
    honest, leak = found[found["row"] != "leak"], found[found["row"] == "leak"]
    assert not honest["beats"].any(), honest[honest["beats"]].to_string()
    caught = set(leak.loc[leak["beats"], "metric"])
    assert caught >= {"accuracy_1km", "accuracy_25km", "accuracy_200km", "accuracy_750km", "geoscore"}
    # and the ceiling is reached, not only respected
    geoscore = honest[honest["metric"] == "geoscore"]
    assert (geoscore["high"] > geoscore["best"]).all()


def test_only_an_interval_above_the_ceilings_own_is_an_alarm() -> None:
    best = pd.DataFrame(
        [("known places", 0.9, 0.85, 0.95), ("new places", 0.5, 0.4, 0.6)],
        columns=pd.Index(["protocol", "value", "low", "high"]),
    ).assign(sense="both", metric="accuracy_200km")
    rows = [("inside", 0.55, 0.52, 0.7), ("above", 0.7, 0.61, 0.8)]
    scored = pd.DataFrame(rows, columns=pd.Index(["row", "value", "low", "high"])).assign(metric="accuracy_200km")
    found = headroom(scored, best, {"inside": "both", "above": "both"}).set_index("row")
    assert found["beats"].to_dict() == {"inside": False, "above": True} and set(found["best"]) == {0.5}
    known = headroom(scored, best, {"inside": "both", "above": "both"}, protocol="known places")
    assert not known["beats"].any()


def test_distance_in_bits_leaves_out_what_the_list_of_sites_is_worth():
    """Of 8 equal sites with discs of 1/1024 of the Earth, cues that leave 2: 9 bits, of which information 2."""
    rows = [("new places", "both", "log_score", 9 * math.log(2) - math.log(4 * math.pi)),
            ("new places", "both", "information_bits", 2.0), ("known places", "both", "log_score", 0.0)]  # fmt: skip
    ceiling = pd.DataFrame(rows, columns=["protocol", "sense", "metric", "value"])
    (found,) = distance_bits({"both": 1.5}, ceiling).to_dict("records")
    expected = {"sense": "both", "ceiling": 9.0, "reached": 1.5, "distance": 7.5, "sites": 7.0, "information": 0.5}
    assert found == pytest.approx(expected)
    with pytest.raises(EvaluateError, match="no log_score of sense 'smell'"):
        distance_bits({"smell": 1.0}, ceiling)
