"""Curation: from a source of media to a benchmark, with a reason for everything left out."""

from avgeo.curate.candidate import UNKNOWN, Candidate, CurateError
from avgeo.curate.explain import as_text, explain
from avgeo.curate.gates import GATES, examine
from avgeo.curate.location import Location, coordinate_fault, parse_iso6709
from avgeo.curate.metadata import read_location, read_locations
from avgeo.curate.run import CurateReport, curate
from avgeo.curate.sources import SOURCES
from avgeo.curate.splits import LeakageError, audit_leakage
from avgeo.curate.verify import verify

__all__ = [
    "GATES",
    "SOURCES",
    "UNKNOWN",
    "Candidate",
    "CurateError",
    "CurateReport",
    "LeakageError",
    "Location",
    "as_text",
    "audit_leakage",
    "coordinate_fault",
    "curate",
    "examine",
    "explain",
    "parse_iso6709",
    "read_location",
    "read_locations",
    "verify",
]
