"""The datasheet of a curated folder, after Gebru et al. (2021, Commun. ACM 64:86), filled from the run.

Its front matter lets `datasets.load_dataset(FOLDER, "manifest")` read each table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

import avgeo
from avgeo.curate.candidate import UNKNOWN
from avgeo.curate.licence import normalise
from avgeo.manifest import SPLITS

_MOST = 30  # lines of a table

_COLUMNS = {
    "clip_id": "Name of the clip; its last part is the start of the SHA-256 of the original file, or, where "
    "coordinates are coarsened, of the published one.",
    "path": "Its media file, relative to this folder.",
    "latitude_deg": "Latitude, degrees north (WGS 84); of a place: of the middle of its clips.",
    "longitude_deg": "Longitude, degrees east.",
    "recorded_at": "When it was recorded, ISO 8601: with an offset where one is known, else local time.",
    "duration_s": "Length, seconds; 0 for a photo.",
    "place_id": "Name of the place: the position of its southernmost, then westernmost clip.",
    "split": "train, val or test; places, uploaders, near-duplicates and originals lie in one of them.",
    "source": "Where the item was listed.",
    "url": "Address of the original.",
    "licence": "Licence of the media, as the source names it; unknown where it names none.",
    "attribution": "Whom to credit.",
    "altitude_m": "Altitude, m, as stated.",
    "location_kind": "What stated the coordinates.",
    "sha256": "SHA-256 of the media file.",
    "uploader": "Who published it, where known.",
    "original": "What copies and derivatives of one recording have in common, where known.",
    "country": "Country (Natural Earth), by the coordinates; as stated where these lie at sea.",
    "title": "Title, as the source has it.",
    "flags": "Remarks that keep nothing out, such as faces.",
    "kind": "video, audio or image.",
    "width": "Width as shown, px.",
    "height": "Height as shown, px.",
    "accuracy_km": "How far the coordinates may lie from where it was recorded: they were coarsened.",
    "item": "Name of the item in its source.",
    "gate": "The first gate that refused it.",
    "reason": "Why.",
    "also": "Other gates that would have refused it.",
    "continent": "Continent of the country.",
    "found": "Clips found at the place.",
    "taken": "Clips of them that were taken.",
    "state": "taken; short: fewer clips than wanted; or surplus: no clip taken.",
}


class Columns(dict[str, str]):
    """Meaning of every column; one that is not known says so."""

    def __missing__(self, name: str) -> str:
        return f"Further column {name}."


def columns() -> Columns:
    """What the columns of all tables mean."""
    return Columns(_COLUMNS)


def licence_url(name: str) -> str:
    """The deed of a Creative Commons licence, else the name of the licence."""
    if name == "CC0-1.0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    if name == "PDM-1.0":
        return "https://creativecommons.org/publicdomain/mark/1.0/"
    found = re.fullmatch(r"CC-((?:BY|NC|ND|SA)(?:-(?:NC|ND|SA))*)-(\d\.\d)(?:-([A-Z]+))?", name)
    if not found:
        return name
    port = f"{found[3].lower()}/" if found[3] else ""
    return f"https://creativecommons.org/licenses/{found[1].lower()}/{found[2]}/{port}"


def card(table: pd.DataFrame, rejects: pd.DataFrame, report: Mapping[str, Any], tables: Mapping[str, str]) -> str:
    """The text of README.md: front matter, facts, and the datasheet's questions answered from the run."""
    from avgeo.curate.gates import GATES

    licences = Counter(normalise(text) or UNKNOWN for text in table["licence"].fillna(UNKNOWN))
    settings, published = report.get("settings", {}), report.get("published", {})
    by_gate = Counter(rejects["gate"])
    gates = [
        (name, gate.asks, _thresholds(gate.thresholds, settings), by_gate[name])
        for name, gate in GATES.items()
        if name not in settings.get("without", ())
    ]
    flags = Counter(part for text in table.get("flags", pd.Series(dtype=object)).dropna() for part in _flags(text))
    found = report.get("benchmark", {}).get("found", {}).get("places", "")
    files = {"manifest": len(table), "rejects": len(rejects), "places": found}
    values = {
        "configs": "\n".join(
            f"- config_name: {name}\n  data_files:\n  - split: full\n    path: {name}.parquet" for name in tables
        ),
        "front_licence": ", ".join(sorted({_hub(name) for name in licences})) or "unknown",
        "version": avgeo.__version__,
        "clips": f"{len(table):,}",
        "places": f"{table['place_id'].nunique():,}",
        "items": f"{len(table) + len(rejects):,}",
        "rejected": f"{len(rejects):,}",
        "names": ", ".join(tables),
        "files": _rows((f"`{name}.parquet`", files.get(name, ""), text) for name, text in tables.items()),
        "media": _media(table, published),
        "gates": _rows((name, asks, limits, count) for name, asks, limits, count in gates),
        "without": _without(settings),
        "licences": _table(("licence", "clips"), _most(licences)),
        "sources": _table(("source", "clips"), _most(Counter(table["source"].fillna(UNKNOWN)))),
        "where": _where(table, report),
        "durations": _durations(table),
        "splits": _splits(table),
        "leakage": _leakage(report),
        "short": _short(report),
        "flags": _table(("flag", "clips"), _most(flags)) if flags else "No clip carries a flag.",
        "licence_note": _licence_note(published),
        "coarse": _coarse(table, published),
        "notes": "".join(f"- {_line(note)}\n" for note in _notes(report)) or "- None.\n",
        "seed": report.get("seed", 0),
        "source": _line(report.get("source", UNKNOWN)),
    }
    return re.sub(r"<(\w+)>", lambda match: str(values.get(match[1], match[0])), _DATASHEET)


# --- parts ---


def _line(text: Any, most: int = 200) -> str:
    """A stranger's text on one line of a Markdown table."""
    plain = re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(str(text).split()))
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def _rows(rows: Iterable[tuple[Any, ...]]) -> str:
    return "\n".join("| " + " | ".join(f"{x:,}" if isinstance(x, int) else str(x) for x in row) + " |" for row in rows)


def _table(names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
    return head + _rows((*map(_line, row[:1]), *row[1:]) for row in rows)


def _most(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    rows = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    rest = sum(count for _, count in rows[_MOST:])
    return rows[:_MOST] + ([(f"{len(rows) - _MOST} others", rest)] if rest else [])


def _thresholds(names: Iterable[str], settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(settings[name])}" for name in names if name in settings)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "any"
    return "no limit" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _without(settings: Mapping[str, Any]) -> str:
    names = ", ".join(settings.get("without", ()))
    return f"These gates did not judge: {names}." if names else "All gates judged."


def _flags(text: Any) -> list[str]:
    return [re.sub(r"\d+(\.\d+)?", "n", part.strip()) for part in str(text).split(";") if part.strip()]


def _hub(name: str) -> str:
    """A licence as the Hugging Face Hub spells it."""
    if name == UNKNOWN:
        return "unknown"
    return name.lower() if re.fullmatch(r"CC0-1\.0|CC-BY(-NC)?(-SA|-ND)?-[234]\.[05]", name) else "other"


def _media(table: pd.DataFrame, published: Mapping[str, Any]) -> str:
    lines = []
    if published.get("media_copied"):
        lines.append(f"| `media/*` | {published['media_copied']:,} | the clips' files |")
    if published.get("shards"):
        lines.append(f"| `shards/*.tar` | {published['clips_in_shards']:,} | the same as WebDataset shards |")
    return "".join(f"{line}\n" for line in lines)


def _where(table: pd.DataFrame, report: Mapping[str, Any]) -> str:
    country = table["country"].fillna(UNKNOWN) if "country" in table else pd.Series([UNKNOWN] * len(table))
    clips, places = Counter(country), table.assign(country=country).groupby("country")["place_id"].nunique()
    text = _table(("country", "places", "clips"), [(x, int(places.get(x, 0)), n) for x, n in _most(clips)])
    tally = report.get("benchmark", {}).get("by_continent", {})
    rows = [
        (name, one["places_found"], one["places_taken"], one["clips_found"], one["clips_taken"], one["clips_short"])
        for name, one in sorted(tally.items(), key=lambda item: (-item[1]["clips_taken"], item[0]))
    ]
    names = ("continent", "places found", "taken", "clips found", "taken", "short")
    return f"{_table(names, rows)}\n\n{text}" if rows else text


def _durations(table: pd.DataFrame) -> str:
    seconds = table["duration_s"].to_numpy(dtype=float)
    seconds = seconds[seconds > 0]
    if not len(seconds):
        return "No clip has a duration."
    low, middle, high = np.quantile(seconds, (0.05, 0.5, 0.95))
    kinds = Counter(table["kind"].dropna()) if "kind" in table else {}
    what = ", ".join(f"{count:,} {name}" for name, count in sorted(kinds.items()))
    total = f"{seconds.sum() / 3600:.1f} hours" if seconds.sum() >= 3600 else f"{seconds.sum() / 60:.1f} minutes"
    text = f"{total} in all; a clip lasts {middle:.1f} s (median; 90 % between {low:.1f} s and "
    return f"{text}{high:.1f} s).{f' By kind: {what}.' if what else ''}"


def _splits(table: pd.DataFrame) -> str:
    rows = []
    for name in SPLITS:
        part = table[table["split"] == name]
        share = f"{100 * len(part) / max(len(table), 1):.1f} %"
        uploaders = int(part["uploader"].nunique()) if "uploader" in part else 0
        rows.append((name, len(part), share, int(part["place_id"].nunique()), uploaders))
    return _table(("split", "clips", "share", "places", "known uploaders"), rows)


def _leakage(report: Mapping[str, Any]) -> str:
    found = report.get("leakage", {})
    near = ", ".join(f"{name} {km:,.2f} km" for name, km in found.get("nearest_km", {}).items())
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in found.items() if isinstance(count, int))
    moved = " (as coarsened)" if report.get("published", {}).get("coarsen_km") else ""
    near = near or "there is only one split"
    return f"Nearest clips of two splits{moved}: {near}. Across splits: {counts or 'not audited'}."


def _short(report: Mapping[str, Any]) -> str:
    benchmark = report.get("benchmark", {})
    wanted, taken, short = (benchmark.get(name, {}) for name in ("wanted", "taken", "short"))
    if not wanted.get("places") and not wanted.get("clips_per_place"):
        return "No number of places or clips was aimed at."
    each = wanted.get("clips_per_place")
    text = f"Wanted: {_value(wanted.get('places'))} places"
    text += f" of {each} clips each" if each else ""
    text += f". Taken: {taken.get('places', 0):,} places, {taken.get('clips', 0):,} clips"
    text += f", {taken.get('full_places', 0):,} places with all that was wanted" if each else ""
    missing = f"{short.get('places', 0):,} places, and {short.get('clips_at_places_taken', 0):,} clips at those taken"
    return f"{text}. Short of: {missing}."


def _licence_note(published: Mapping[str, Any]) -> str:
    count = published.get("clips_without_a_free_licence", 0)
    if not count:
        return "Every clip has a licence that lets copies be passed on under its conditions."
    text = f"**{count:,} clips have no licence that lets copies be passed on** (unknown, or all rights reserved): "
    if published.get("redistribute_unknown"):
        text += "they were put into the shards at the request of whoever ran this, who must have leave to. "
    elif published.get("shards"):
        text += "they are rows of the manifest, with their addresses, and in no shard. "
    else:
        text += "do not pass on their media; their rows give the addresses. "
    return text + ("`media/` holds copies of them for local use." if published.get("media_copied") else "")


def _coarse(table: pd.DataFrame, published: Mapping[str, Any]) -> str:
    if not published.get("coarsen_km"):
        return "Coordinates are as the sources state them."
    worst = float(table["accuracy_km"].max()) if len(table) else 0.0
    return (
        f"Coordinates are coarsened to cells of about {published['coarsen_km']:g} km (off by up to {worst:.1f} km) and "
        "taken out of the media, of the names of clips and items, and of titles and other texts. Who follows the "
        "addresses (column url) finds what was coarsened: they are kept, since credit needs them."
    )


def _notes(report: Mapping[str, Any]) -> list[str]:
    missing = [f"{why} ({count} items)" for why, count in report.get("not_measured", {}).items()]
    return [*report.get("notes", []), *report.get("benchmark", {}).get("notes", []), *missing]


_DATASHEET = """---
pretty_name: Geotagged clips curated by avgeo
license: [<front_licence>]
tags: [geolocation, audio, video]
configs:
<configs>
---

# Geotagged clips

<clips> clips at <places> places, made by avgeo <version> from <items> items of the source `<source>` (seed <seed>). The
other <rejected> items are in `rejects.parquet`, each with the gate that refused it and the reason.

| file | rows | what |
|---|---|---|
<files>
<media>| `CREDITS.csv` | <clips> | title, author, licence and address of every clip |
| `report.json` | | settings and counts of the run |
| `croissant.json` | | the same description for machines (Croissant 1.1) |
| `SHA256SUMS` | | digests: `sha256sum -c SHA256SUMS`, or `avgeo verify` for all there is to check |

```python
from datasets import load_dataset
clips = load_dataset("THIS FOLDER", "manifest", split="full")  # or <names>
```

## Datasheet

**Motivation.** To train and test systems that tell where a clip was recorded, from its sound and its picture.

**Composition.** An instance is a recording with the coordinates at which it was made. <durations>

<where>

<splits>

**Was anything short?** <short>

**Leakage audit.** <leakage> Splits share no place, uploader, near-duplicate or original, as far as these are known.

**Collection.** From these sources, with the coordinates that files, sidecars or sources state:

<sources>

**Selection.** Every item went through these gates. <without>

| gate | what it asks | thresholds | refused |
|---|---|---|---|
<gates>

**Licences and attribution.** Each clip keeps its own licence, which the columns licence, attribution and url name, and
`CREDITS.csv`. <licence_note>

<licences>

**People and privacy.** Recordings may show people and carry their voices; none of them was asked. <coarse>

<flags>

**Uses.** Benchmarks of geolocation and of evidence in sound and picture. Not for finding out where a person lives.

**Known limits.** Coordinates are those of a device or an uploader; the gates catch contradictions, not every error.
Places follow where people record and upload. Remarks of this run:

<notes>"""
