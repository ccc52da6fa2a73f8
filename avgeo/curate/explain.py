"""One clip through all gates: what each measured, where its threshold lies, and what it decided."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from avgeo.curate.candidate import Candidate, CurateError
from avgeo.curate.gates import GATES, OF_THE_CORPUS, examine
from avgeo.curate.sources import candidate_of
from avgeo.profiles import CurateSettings


def explain(clip: Path | str | Candidate, settings: CurateSettings | None = None) -> list[dict[str, Any]]:
    """One row per gate: gate, verdict ("open", "CLOSED", "flag", "not measured"), measured, thresholds, why.

    `clip` is a file, or a candidate of any source whose media are here. Gates that need the other items (duplicates,
    places, splits) are left out. Raises `CurateError` for a file that is not there.
    """
    settings = settings or CurateSettings()
    if not isinstance(clip, Candidate):
        path = Path(clip)
        if not path.exists():
            raise CurateError(f"{path}: no such file; give a clip to explain")
        clip = candidate_of(path)
    found = examine(clip, settings, everything=True)
    values = asdict(settings)
    rows = []
    for name, gate in GATES.items():
        if name == "download" or name in OF_THE_CORPUS:  # a file that is here, and alone
            continue
        verdicts = [verdict for verdict in found.verdicts if verdict.gate == name]
        row: dict[str, Any] = {"gate": name, "verdict": "not reached", "measured": {}, "why": ""}
        row["thresholds"] = {threshold: values[threshold] for threshold in gate.thresholds}
        for verdict in verdicts:  # readable judges twice: headers, and all of it
            row["measured"] |= verdict.measured
            if verdict.reason is not None:
                row |= {"verdict": "CLOSED", "why": verdict.reason}
            elif row["verdict"] != "CLOSED":
                why = verdict.skipped or "; ".join(verdict.flags)
                row |= {"verdict": "not measured" if verdict.skipped else "flag" if verdict.flags else "open"}
                row["why"] = why or row["why"]
        rows.append(row)
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """The rows of `explain` for a terminal."""
    lines = []
    for row in rows:
        lines.append(f"{row['gate']:12}  {row['verdict']:12}  {row['why']}".rstrip())
        for label in ("measured", "thresholds"):
            if row[label]:
                told = ", ".join(f"{name} {_short(value)}" for name, value in row[label].items())
                lines.append(f"{'':12}    {label}: {told}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return "+".join(str(part) for part in value) or "any"
    return "unknown" if value is None else str(value)
