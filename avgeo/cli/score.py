"""Commands about scores: `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from avgeo.cli.console import SeedOption, app, echo, writable, write


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL: clip_id, latitude_deg, longitude_deg …")],
    truth: Annotated[Path, typer.Option(help="Table with the true places (a manifest will do).")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the metrics here.")] = None,
    split: Annotated[str | None, typer.Option(help="Score this split of the truth only.")] = None,
    bootstrap: Annotated[int, typer.Option(min=1, help="Resamples of places.")] = 1000,
    seed: SeedOption = 0,
) -> None:
    """Score anyone's predictions: accuracy at five radii, km, GeoScore, log score, with intervals by place."""
    from avgeo.evaluate import evaluate as run

    writable(json_out)
    metrics = run(predictions, truth, bootstrap=bootstrap, seed=seed, split=split)
    echo(*metrics.to_frame().to_string(float_format=lambda x: f"{x:.4g}").splitlines())
    echo(
        f"truth {metrics.n_truth}, missing {metrics.n_missing}, refused {metrics.n_refused}, "
        f"invalid {metrics.n_invalid}, not in truth {metrics.n_extra}; {metrics.clustering}"
    )
    if json_out is not None:
        write(json_out, metrics.to_json() + "\n")
