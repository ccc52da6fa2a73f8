"""Put the tables into a built wheel as `avgeo/_data`; an editable install reads them from the checkout."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tables(BuildHookInterface):
    """A plain `force-include` would copy the tables beside an editable install too, to go stale there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["data"] = "avgeo/_data"
