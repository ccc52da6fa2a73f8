"""Curation: from a folder of media to a manifest of clips, with a reason for everything left out."""

from avgeo.curate.location import Location, coordinate_fault, parse_iso6709
from avgeo.curate.metadata import read_location, read_locations
from avgeo.curate.run import CurateReport, curate
from avgeo.curate.sources import SOURCES, Candidate, CurateError

__all__ = [
    "SOURCES",
    "Candidate",
    "CurateError",
    "CurateReport",
    "Location",
    "coordinate_fault",
    "curate",
    "parse_iso6709",
    "read_location",
    "read_locations",
]
