"""Ask every detector that is installed, and say which were not asked and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avgeo.clips import MediaInfo
from avgeo.curate.speech import available as speech_cure
from avgeo.detect import litert
from avgeo.detect.birds import Birds
from avgeo.detect.event import DetectError, Detector
from avgeo.detect.grid import EarthGrid
from avgeo.detect.hum import Hum
from avgeo.detect.occurrence import WEEKS
from avgeo.detect.speech import Speech
from avgeo.fusion import Clue

NAMES = ("birds", "mains hum", "speech")


@dataclass(frozen=True)
class Gathered:
    """Clues in the order of detectors; clues that were left out; why a detector was not asked; licences of those used.

    `refused` rows: detector, label, reason. `not_listened` are lines for people.
    """

    clues: list[Clue] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    not_listened: list[str] = field(default_factory=list)
    licences: dict[str, str] = field(default_factory=dict)


def gather(
    path: Path,
    info: MediaInfo,
    grid: EarthGrid,
    *,
    max_s: float | None,
    week: int | None = None,
    without: Sequence[str] = (),
    sight_only: bool = False,
) -> Gathered:
    """Everything that the detectors hear in the clip, as clues on the grid.

    `without` names detectors ("birds") or labels ("Common Blackbird") that are not to count: such a detector is not
    asked, such an event is refused. Raises `DetectError` for a name that is neither, `ClipError` for a bad file.
    """
    if week is not None and not 1 <= week <= WEEKS:
        raise DetectError(f"week must be 1 to {WEEKS} (four a month), got {week}")
    unwanted = {name.casefold(): name for name in without}
    found = Gathered()
    makers: dict[str, tuple[str | None, Callable[[], Detector]]] = {
        "birds": (litert.missing(), lambda: Birds(week, max_s)),
        "mains hum": (None, lambda: Hum(max_s)),
        "speech": (speech_cure(), lambda: Speech(max_s)),
    }
    silent = "--sight-only" if sight_only else None if info.has_audio else "the file has no sound"
    heard: set[str] = set()
    for name, (cure, make) in makers.items():
        told = f"left out by --without {unwanted[name]}" if name in unwanted else silent or cure
        if told is not None:
            found.not_listened.append(f"{name}: {told}")
            continue
        detector = make()
        found.licences[name] = detector.licence
        for event in detector.detect(path):
            heard.add(event.label.casefold())
            if event.label.casefold() in unwanted:
                found.refused.append({"detector": name, "label": event.label, "reason": "--without"})
            else:
                found.clues.append(Clue(event, detector.likelihood(event, grid), name))
    unknown = [name for key, name in unwanted.items() if key not in heard and key not in NAMES]
    if unknown:
        choices = ", ".join([*NAMES, *sorted(clue.event.label for clue in found.clues)])
        raise DetectError(f"--without {unknown[0]}: no such evidence; there is {choices}")
    return found
