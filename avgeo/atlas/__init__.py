"""The atlas: a static page of a model on which every acoustic atom can be heard, seen and mapped, with no server."""

from __future__ import annotations

from avgeo.atlas.facts import AtlasError
from avgeo.atlas.page import AtlasSummary, write_atlas

__all__ = ["AtlasError", "AtlasSummary", "write_atlas"]
