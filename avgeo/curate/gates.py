"""Gates: each measures one thing about an item and says why it is kept out, or None.

A gate is a plain function that returns a `Verdict`; `examine` runs them from cheap to dear and stops at the
first that closes, so an item is rejected for one reason. Duplicates need the other items and are found
afterwards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from avgeo.clips import ClipError, MediaInfo, probe, read_audio, read_frames
from avgeo.curate.location import Location
from avgeo.curate.metadata import read_locations
from avgeo.curate.sources import UNKNOWN, Candidate, CurateError

GATES = ("media", "readable", "licence", "coordinates", "streams", "duration", "silent", "duplicate")
MODALITIES = ("picture", "sound")
_LISTEN_HZ = 8_000
_LISTEN_S = 600.0  # silence is judged on the first ten minutes
_LOOK_PX = 32


@dataclass(frozen=True)
class Settings:
    """Thresholds of the gates. `need` names the modalities an item must have; if none, any one will do."""

    need: tuple[str, ...] = ()
    min_duration_s: float = 0.5
    silence_dbfs: float = -70.0
    licence_required: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.need if name not in MODALITIES]
        if unknown:
            raise CurateError(f"need: unknown modality {unknown[0]!r}; choose from {', '.join(MODALITIES)}")
        if not 0 <= self.min_duration_s < math.inf:
            raise CurateError(f"min_duration_s must be 0 or more seconds, got {self.min_duration_s}")


@dataclass(frozen=True)
class Verdict:
    """What a gate measured, and why the item is kept out (None: it may pass)."""

    gate: str
    measurement: float | str | None
    reason: str | None


def _short(error: Exception, path: Path) -> str:
    """An error without the file's name, which the rejects table has in a column of its own."""
    return " ".join(str(error).replace(f"{path}: ", "").split())[:300]


def media(candidate: Candidate) -> Verdict:
    """It is a media file, by name or by content."""
    return Verdict("media", candidate.path.suffix.lower(), candidate.problem)


def licence(candidate: Candidate, required: bool) -> Verdict:
    """Its licence is known, if that is required. (Folders rarely say.)"""
    missing = required and candidate.licence in ("", UNKNOWN)
    return Verdict("licence", candidate.licence, "no licence is known" if missing else None)


def readable(path: Path) -> tuple[Verdict, MediaInfo | None]:
    """Its header can be read and a first picture or sound is there."""
    try:
        info = probe(path)
    except (ClipError, OSError) as error:
        return Verdict("readable", None, _short(error, path)), None
    except Exception as error:  # FFmpeg's own complaints about damaged headers
        return Verdict("readable", None, f"cannot be read: {type(error).__name__}: {_short(error, path)}"), None
    return Verdict("readable", info.kind, None), info


def coordinates(locations: Sequence[Location]) -> tuple[Verdict, Location | None]:
    """Something in or beside the file states a possible place; the first usable statement is taken."""
    usable = next((location for location in locations if location.fault is None), None)
    if usable is not None:
        return Verdict(
            "coordinates", f"{usable.kind} {usable.latitude_deg:.6f} {usable.longitude_deg:.6f}", None
        ), usable
    if not locations:
        return Verdict("coordinates", None, "no coordinates in the file or beside it"), None
    faults = "; ".join(dict.fromkeys(f"{location.kind}: {location.fault}" for location in locations))
    return Verdict("coordinates", len(locations), faults[:500]), None


def streams(info: MediaInfo, need: Sequence[str]) -> Verdict:
    """It has the modalities asked for. A photo has a picture; a video needs its frames."""
    present = {"picture": info.has_video or info.kind == "image", "sound": info.has_audio}
    missing = [name for name in need if not present[name]]
    has = "+".join(name for name in MODALITIES if present[name])
    return Verdict("streams", has, f"has no {' and no '.join(missing)}" if missing else None)


def duration(info: MediaInfo, min_duration_s: float) -> Verdict:
    """It is long enough; photos have no duration."""
    short = info.kind != "image" and info.duration_s < min_duration_s
    reason = f"{info.duration_s:.2f} s is shorter than {min_duration_s:g} s" if short else None
    return Verdict("duration", info.duration_s, reason)


def decodes(path: Path, info: MediaInfo) -> tuple[Verdict, Float32[np.ndarray, " samples"] | None]:
    """Its sound and pictures really decode, as `avgeo.clips` decodes them; gives the sound on the way."""
    try:
        samples = read_audio(path, _LISTEN_HZ, _LISTEN_S) if info.has_audio else None
        if info.kind != "audio":
            read_frames(path, 2, _LOOK_PX, _LOOK_PX)
    except (ClipError, OSError) as error:
        return Verdict("readable", info.kind, _short(error, path)), None
    except Exception as error:  # FFmpeg's own complaints about damaged streams
        return Verdict("readable", info.kind, f"does not decode: {type(error).__name__}: {_short(error, path)}"), None
    return Verdict("readable", info.kind, None), samples


def silent(samples: Float32[np.ndarray, " samples"] | None, silence_dbfs: float) -> Verdict:
    """Its sound, if it has any, is not silence: root mean square in dB relative to full scale."""
    if samples is None:
        return Verdict("silent", None, None)
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    level_dbfs = 10 * math.log10(power) if power > 0 else -math.inf
    quiet = level_dbfs < silence_dbfs
    reason = f"its sound is silent: {level_dbfs:.0f} dBFS is below {silence_dbfs:g} dBFS" if quiet else None
    return Verdict("silent", level_dbfs, reason)


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def examine(candidate: Candidate, settings: Settings) -> dict[str, Any]:
    """Run the gates over one candidate. A JSON value: `gate` and `reason` (None when it passed), what was
    measured, and for an item that passed its place, time, duration and content hash. Does not raise for
    damaged files.
    """
    found: dict[str, Any] = {"gate": None, "reason": None}

    def closed(verdict: Verdict) -> bool:
        if verdict.reason is not None:
            found.update(gate=verdict.gate, reason=verdict.reason)
        return verdict.reason is not None

    path = candidate.path
    if closed(media(candidate)):
        return found
    try:
        verdict, info = readable(path)
        if closed(verdict) or info is None:
            return found
        if closed(licence(candidate, settings.licence_required)):
            return found
        locations = read_locations(path)
        verdict, location = coordinates(locations)
        if closed(verdict) or location is None:
            return found
        if closed(streams(info, settings.need)) or closed(duration(info, settings.min_duration_s)):
            return found
        verdict, samples = decodes(path, info)
        if closed(verdict) or closed(silent(samples, settings.silence_dbfs)):
            return found
        digest = content_hash(path)
    except OSError as error:
        closed(Verdict("readable", None, f"cannot be opened: {error.strerror or error}"))
        return found
    times = [item.recorded_at for item in locations if item.recorded_at]
    return found | {
        "latitude_deg": location.latitude_deg,
        "longitude_deg": location.longitude_deg,
        "altitude_m": location.altitude_m,
        "recorded_at": location.recorded_at or (times[0] if times else None),
        "location_kind": location.kind,
        "duration_s": info.duration_s,
        "kind": info.kind,
        "sha256": digest,
    }
