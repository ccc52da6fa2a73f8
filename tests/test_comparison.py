"""Reading comparison cards: what is apart, what is not, and what the tables and figures say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from avgeo import plots
from avgeo.artifacts import read_card
from avgeo.perceive.comparison import AtomComparison, ablations, concluded, raced, settled, stabilities, told, trainers
from avgeo.perceive.scores import across_seeds, paired_differences

ROOT = Path(__file__).parents[1]
MEANS = {"ours": 0.5, "TopK": 0.3, "BatchTopK": 0.495, "one stage": 0.4, "untrained": 0.1}


def card(tasks: tuple[str, ...] = ("sim",)) -> dict:
    rows = [
        {"task": task, "method": method, "l0": l0, "metric": metric, "seed": seed}
        | {"value": mean + l0 / 1000 + 0.01 * seed + shift}
        for task in tasks
        for method, mean in MEANS.items()
        for l0 in (8, 16)
        for metric, shift in (
            ("MCC", 0.0),
            ("F1", -0.05),
            ("support F1 +0 dB", 0.2),
            ("support F1 -10 dB", 0.1),
            ("support kappa +0 dB", 0),
        )
        for seed in range(3)
    ]
    long = pd.DataFrame(rows)
    likeness = {"task": "sim", "l0": 16, "of": "codes", "metric": "correlation", "value": 0.2, "low": 0.1, "high": 0.3}
    return {
        "result": {
            "summary": across_seeds(long).to_dict("records"),
            "ours_minus": paired_differences(long, "ours").to_dict("records"),
            "stability": [likeness | {"method": "ours"}, likeness | {"method": "TopK", "value": 0.1}],
        }
    }


def test_a_verdict_says_higher_only_where_intervals_are_apart():
    found = AtomComparison.of(card(), "sim")
    assert found.baselines() == ["TopK", "BatchTopK"]
    verdict = found.verdict("MCC", found.baselines())
    assert verdict["ours is"].tolist() == ["higher", "not apart"] * 2
    assert verdict["ours"].tolist() == pytest.approx([0.518, 0.518, 0.526, 0.526])
    text = concluded(verdict, "MCC")
    assert text == "MCC: ours is higher in 2 of 4 comparisons; not apart from BatchTopK at L0 8, BatchTopK at L0 16."
    flipped = verdict.assign(**{"ours is": ["lower", "higher", "higher", "higher"]})
    assert concluded(flipped, "F1").endswith("in 3 of 4 comparisons; lower than TopK at L0 8.")


def test_a_claim_is_settled_only_by_every_comparison():
    found = AtomComparison.of(card(), "sim")
    assert settled(found) == "undecided"  # BatchTopK is not apart
    without = replace(found, summary=found.summary.loc[found.summary["method"] != "BatchTopK"])
    assert settled(without) == "confirmed"
    names = {"ours": "TopK", "TopK": "ours"}
    assert settled(replace(without, summary=without.summary.replace({"method": names}))) == "refuted"


@pytest.mark.parametrize(("column", "name", "task"), [(4, "atoms-avg-sim", "avg-sim"), (5, "atoms-esc10", "esc10")])
def test_the_claims_ledger_says_what_the_card_says(column, name, task):
    head, *rows = [line for line in (ROOT / "book/claims.md").read_text().splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {head.count("|")}
    row = next(line for line in rows if line.startswith("| C3"))
    cell = row.split("|")[1:-1][column - 1].strip()
    if not (ROOT / f"data/results/{name}.json").is_file():
        assert cell == "not tested"
        return
    assert cell.startswith(settled(AtomComparison.of(read_card(name), task))) and f"{name}.json" in cell


def test_tables_hold_mean_and_interval_and_differences_are_paired():
    found = AtomComparison.of(card(), "sim")
    table = found.table(["ours", "TopK"], {"MCC": "agreement"}, [8, 16])
    assert table["agreement"].str.match(r"^0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]$").all() and len(table) == 4
    parts = ablations(card(), "sim")
    assert parts["method"].tolist() == ["ours", "one stage", "TopK"]  # of the baselines the best known alone
    assert parts["ours less it, MCC"].tolist() == ["", "0.100 [0.100, 0.100]", "0.200 [0.200, 0.200]"]
    likeness = stabilities(found, 16)
    assert likeness["codes, correlation"].tolist() == ["0.200 [0.100, 0.300]", "0.100 [0.100, 0.300]"]
    with pytest.raises(KeyError, match="elsewhere"):
        AtomComparison.of(card(), "elsewhere")


def test_one_run_is_told_by_its_intervals():
    rows = [("ours", "MCC", 0.4, 0.35, 0.45), ("TopK", "MCC", 0.3, 0.25, 0.34), ("ours", "F1", 0.3, 0.2, 0.4)]
    scores = pd.DataFrame([*rows, ("TopK", "F1", 0.5, 0.39, 0.6)], columns=["row", "metric", "value", "low", "high"])
    assert told(scores) == (
        "MCC of ours is 0.400 [0.350, 0.450], of TopK 0.300 [0.250, 0.340]: higher. "
        "F1 of ours is 0.300 [0.200, 0.400], of TopK 0.500 [0.390, 0.600]: not apart."
    )
    assert told(scores.assign(high=scores["high"].where(scores["row"] != "ours", 0.1))).endswith("lower.")


def test_curves_are_drawn_and_told():
    found = AtomComparison.of(card(("sim", "other")), "sim")
    rows = found.curve(["MCC", "F1"], ["ours", "TopK"])
    figure, alt = plots.comparison_curves(rows, "atoms at a time", lines=["ours", "TopK"], log_x=True)
    assert len(rows) == 8 and "MCC, ours: 0.518 at 8, 0.526 at 16" in alt and "F1, TopK" in alt
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["MCC", "F1"]
    snr = found.over_snr({"support F1": "set F1"}, ["ours", "TopK"], 16)
    assert sorted(snr["x"].unique()) == [-10, 0] and len(snr) == 4
    with pytest.raises(plots.PlotError, match="columns"):
        plots.comparison_curves(rows.drop(columns="low"), "x")
    with pytest.raises(plots.PlotError):
        plots.comparison_curves(rows.iloc[:0], "x")


def test_trainers_are_compared_over_seeds():
    def run(name: str, seed: int, cost: float) -> dict:
        return {"trainer": name, "seed": seed, "batch": 8, "rate": 0.1, "mmcs": 0.9, "found": 0.5} | {
            "cpu_s_per_million": cost, "wall_s_per_million": 9.0
        }  # fmt: skip

    runs = [run(name, seed, 1.0) for name in ("avgeo", "slow") for seed in (0, 1)]
    raced_in = [run("avgeo", 0, 60.0), run("slow", 0, 100.0), run("avgeo", 0, 62.0), run("slow", 0, 90.0)]
    told_of = [{"seed": seed, "mmcs": 0.9, "mmcs_of_best_peer": 0.89 + 0.02 * seed} for seed in (0, 1)]
    made = {
        "result": {"trainers": runs, "race": raced_in, "recovery": told_of, "pace": {"time_over_fastest_peer": 0.6}}
    }
    rows = trainers(made)
    assert rows["trainer"].tolist() == ["avgeo", "slow"]
    assert rows["CPU s per million vectors"].tolist() == [61.0, 95.0]
    assert rows["MMCS"].tolist() == ["0.900 [0.900, 0.900]"] * 2
    assert raced(made) == (
        "avgeo takes 0.60 of the fastest peer's CPU time (median over rounds). "
        "Its MMCS is 0.900, the best peer's 0.900: over 2 seeds ours less theirs is -0.010 to +0.010."
    )
