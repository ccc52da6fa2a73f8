"""Parts of a Croissant 1.1 description (https://docs.mlcommons.org/croissant/): files, tables and their columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CROISSANT = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
RELEASED = "2026-11-22"  # of this version of avgeo, as in CITATION.cff: descriptions hold no clock

# The context that Croissant 1.1 prescribes.
CONTEXT: dict[str, Any] = {
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

_FORMATS = {".parquet": "application/x-parquet", ".tar": "application/x-tar", ".csv": "text/csv"}


def file_object(folder: Path, name: str, digest: str, description: str) -> dict[str, Any]:
    """A file `name` of `folder`, with its size and SHA-256."""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": description,
        "contentUrl": name,
        "contentSize": f"{(folder / name).stat().st_size} B",
        "encodingFormat": _FORMATS[Path(name).suffix],
        "sha256": digest,
    }


def file_set(name: str, includes: str, encoding: list[str], description: str) -> dict[str, Any]:
    """The files that match the pattern `includes`."""
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": description,
        "encodingFormat": encoding,
        "includes": includes,
    }


def record_set(file: Path, description: str, columns: Mapping[str, str], key: str | None = None) -> dict[str, Any]:
    """The rows of a Parquet file: every column with its type and its meaning, which `columns` tells."""
    table = file.stem
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{table}/{column.name}",
            "name": column.name,
            "description": columns[column.name],
            "dataType": data_type(column.type),
            "source": {"fileObject": {"@id": file.name}, "extract": {"column": column.name}},
        }
        for column in pq.read_schema(file)
    ]
    described = {"@type": "cr:RecordSet", "@id": table, "name": table, "description": description, "field": fields}
    return described | ({"key": {"@id": f"{table}/{key}"}} if key else {})


def data_type(kind: pa.DataType) -> str:
    """Croissant's name of an Arrow type; what is neither a number nor a truth value is text."""
    for is_kind, name in (
        (pa.types.is_boolean, "sc:Boolean"),
        (pa.types.is_integer, "sc:Integer"),
        (pa.types.is_float32, "cr:Float32"),
        (pa.types.is_floating, "cr:Float64"),
    ):
        if is_kind(kind):
            return name
    return "sc:Text"
