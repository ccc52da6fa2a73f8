"""Detectors: what is in a clip, and how likely that is at every place on Earth."""

from avgeo.detect.event import DetectError, Detector, Event
from avgeo.detect.grid import EarthGrid, earth_grid

__all__ = ["DetectError", "Detector", "EarthGrid", "Event", "earth_grid"]
