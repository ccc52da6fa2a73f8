"""The reward functions on Qwen2.5-Omni's published answers to AGL1K: `python benchmarks/agl1k.py`, seconds.

Both files are fetched from AGL1K's repository, or read from $AVGEO_MIRROR; of their rows nothing but aggregates enters
the run card, `data/results/agl1k-rewards.json`.
"""

from __future__ import annotations

from avgeo.artifacts import run_card
from avgeo.curate.balance import FAILURE_KM, read_agl1k
from avgeo.evaluate.agl1k import REFUSALS, read_published, reward_published
from avgeo.evaluate.metrics import HALF_CIRCUMFERENCE_KM
from avgeo.fetch import fetch, source_files
from avgeo.paths import data_dir
from avgeo.reason.rewards import TAU_KM

TABLE, ANSWERS = "geoLocalization_schema.csv", "qwen25-omni_seed_42_progress_fixed.json"


def main() -> None:
    """Write the card."""
    what = "The reward functions on Qwen2.5-Omni's published answers to AGL1K"
    settings = {
        "tau_km": TAU_KM,
        "failure_km": {"agl1k": FAILURE_KM, "ours": HALF_CIRCUMFERENCE_KM},
        "refusals_of_agl1k": sorted(REFUSALS),
        "files": {name: source_files()[name].sha256 for name in (TABLE, ANSWERS)},
    }
    file = data_dir() / "results" / "agl1k-rewards.json"
    with run_card(file, what=what, command="python benchmarks/agl1k.py", settings=settings, seed=0) as card:
        card["result"] = found = reward_published(read_agl1k(fetch(TABLE)), read_published(fetch(ANSWERS)))
    for name, mean_km in found["mean_km"].items():
        print(f"{name}: {mean_km:.2f} km")


if __name__ == "__main__":
    main()
