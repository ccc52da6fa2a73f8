"""The gates in their order, what each asks, and how one item goes through them.

A gate is a plain function that returns a `Verdict`; this module only strings them together. What a source says is
judged before anything is fetched, headers before all is decoded. What needs the decoded signals is judged by all
gates at once, since decoding is what costs. Duplicates, places and splits need the other items and come afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from avgeo.checksums import sha256
from avgeo.clips import ClipError, MediaInfo, probe
from avgeo.curate import fingerprint, localisable, music, picture, privacy, sound, speech
from avgeo.curate.candidate import Candidate
from avgeo.curate.coordinates import coordinates
from avgeo.curate.licence import licence
from avgeo.curate.location import Location
from avgeo.curate.metadata import read_locations
from avgeo.curate.signals import Signals, TooSlowError, missing, read_signals
from avgeo.curate.verdict import Verdict
from avgeo.profiles import CurateSettings

MODALITIES = ("picture", "sound")


@dataclass(frozen=True)
class Gate:
    """What a gate asks, and the settings that are its thresholds."""

    asks: str
    thresholds: tuple[str, ...] = ()


GATES = {
    "media": Gate("Is it a media file, by name or by content?"),
    "licence": Gate("Is its licence known and among those allowed?", ("licences", "licence_required")),
    "download": Gate("Could it be fetched, whole and within the limits?"),
    "readable": Gate(
        "Is all of it there, and does it decode in time?", ("min_decoded", "examine_s", "time_limit_s", "max_pixels")
    ),
    "coordinates": Gate(
        "Is a possible place stated, on land or near the shore, and does nothing contradict it?",
        ("near_shore_km", "agree_km", "country_km", "clock_gap_min"),
    ),
    "streams": Gate("Has it the modalities that are needed?", ("need",)),
    "duration": Gate("Is it long enough, and not too long?", ("min_duration_s", "max_duration_s")),
    "resolution": Gate("Is its picture of a usable size and rate?", ("min_side_px", "max_pixels", "max_fps")),
    "frozen": Gate("Does anything in the picture move?", ("frozen_share",)),
    "black": Gate("Is there a picture at all?", ("black_luma",)),
    "silent": Gate("Is there a sound at all?", ("silence_dbfs", "silent_share")),
    "clipped": Gate("Was the recording overdriven?", ("clipped_share",)),
    "voiceover": Gate(
        "Does a narrator's voice lie over the scene?", ("voiceover_share", "voiceover_db", "voiceover_long_db")
    ),
    "music": Gate("Is music laid over the scene?", ("music_score",)),
    "captions": Gate("Are captions burned into the picture?", ("caption_score",)),
    "localisable": Gate("Is there anything to go by, in sound or picture?", ("picture_bits", "sound_bits")),
    "privacy": Gate(
        "Are there faces or number plates (a flag)? Can its own coordinates be taken out, where that is asked for?",
        ("coarsen_km",),
    ),
    "duplicate": Gate(
        "Is it a copy of another item?",
        ("duplicate_picture_bits", "duplicate_picture_share", "duplicate_sound_share"),
    ),
    "surplus": Gate(
        "Do its place, country and uploader have room for it?",
        ("place_radius_km", "separation_km", "places", "clips_per_place", "max_country_share", "max_uploader_share"),
    ),
    "leak": Gate("Would it carry something from one split into another?", ("test_fraction", "val_fraction")),
}
OF_THE_CORPUS = ("duplicate", "surplus", "leak")
"""The gates that need all items, and that no examination of one can judge."""


def short(error: Exception, path: Path) -> str:
    """An error without the file's name, which the rejects table has in a column of its own."""
    return " ".join(str(error).replace(f"{path}: ", "").split())[:300]


# --- gates that are too small for a module ---


def media(candidate: Candidate) -> Verdict:
    """It is a media file, by name or by content."""
    suffix = candidate.path.suffix.lower()[:12] if candidate.path is not None else None
    return Verdict("media", {"suffix": suffix}, candidate.problem)


def streams(info: MediaInfo, settings: CurateSettings) -> Verdict:
    """It has the modalities asked for. A photo has a picture; a video needs its frames."""
    present = {"picture": info.has_video or info.kind == "image", "sound": info.has_audio}
    lacking = [name for name in settings.need if not present[name]]
    has = "+".join(name for name in MODALITIES if present[name])
    codecs = "+".join(name for name in (info.video_codec, info.audio_codec) if name)
    reason = f"has no {' and no '.join(lacking)}" if lacking else None
    return Verdict("streams", {"has": has, "codecs": codecs}, reason)


def duration(info: MediaInfo, settings: CurateSettings) -> Verdict:
    """It is long enough and not too long; photos have no duration."""
    if info.kind == "image":
        return Verdict("duration", skipped="a photo has no duration")
    reason = None
    if info.duration_s < settings.min_duration_s:
        reason = f"{info.duration_s:.2f} s is shorter than {settings.min_duration_s:g} s"
    elif info.duration_s > settings.max_duration_s:
        reason = f"{info.duration_s:.0f} s is longer than {settings.max_duration_s:g} s"
    return Verdict("duration", {"duration_s": round(info.duration_s, 3)}, reason)


def readable(path: Path, settings: CurateSettings) -> tuple[Verdict, MediaInfo | None]:
    """Its headers can be read, and where there is a picture without sound, a first one decodes."""
    oversize = _oversize(path, settings.max_pixels)
    if oversize is not None:
        return oversize, None
    try:
        info = probe(path)
    except (OSError, MemoryError):  # the machine's fault, not the file's: `examine` tells
        raise
    except ClipError as error:
        return Verdict("readable", reason=short(error, path)), None
    except Exception as error:  # FFmpeg's own complaints about damaged headers
        return Verdict("readable", reason=f"cannot be read: {type(error).__name__}: {short(error, path)}"), None
    return Verdict("readable", {"kind": info.kind}), info


def _oversize(path: Path, max_pixels: int) -> Verdict | None:
    """A photo that announces more pixels than are ever decoded, from its header alone."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # it would warn; the gate decides
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception:  # no image that Pillow knows: FFmpeg will say
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if width * height <= max_pixels:
        return None
    measured = {"width_px": width, "height_px": height}
    return Verdict("resolution", measured, f"{width} x {height} pixels are more than {max_pixels}")


def decoded(path: Path, info: MediaInfo, settings: CurateSettings) -> tuple[Verdict, Signals | None]:
    """All of it is there and decodes, within the time limit; gives the signals on the way."""
    try:
        signals = read_signals(path, info, settings.examine_s, settings.time_limit_s)
        lacks = missing(path, signals, settings.examine_s, settings.min_decoded)
    except (TooSlowError, OSError, MemoryError):
        raise
    except ClipError as error:
        return Verdict("readable", {"kind": info.kind}, short(error, path)), None
    except Exception as error:  # FFmpeg's own complaints about damaged streams
        reason = f"does not decode: {type(error).__name__}: {short(error, path)}"
        return Verdict("readable", {"kind": info.kind}, reason), None
    measured = {
        "kind": info.kind, "sound_s": round(signals.sound_s, 2), "picture_s": round(signals.picture_s, 2),
        "damaged_packets": signals.damaged,
    }  # fmt: skip
    flags = (f"{signals.damaged} damaged packets",) if signals.damaged else ()
    return Verdict("readable", measured, lacks, flags), signals


_HEARD_AND_SEEN = (
    picture.frozen, picture.black, sound.silent, sound.clipped, speech.voiceover, music.music, picture.captions,
    localisable.localisable,
)  # fmt: skip


# --- one item through them ---


@dataclass
class Examined:
    """What the gates found about one item: their verdicts in order, and what the manifest needs of an item kept.

    `in_passing` says that the outcome may be the machine's (too slow, too little memory, a disk that failed) and is to
    be tried again.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    location: Location | None = None
    recorded_at: str | None = None
    info: MediaInfo | None = None
    sha256: str | None = None
    pictures: list[str] | None = None
    sound: str | None = None
    in_passing: bool = False

    @property
    def closed(self) -> list[Verdict]:
        """The verdicts that keep the item out, in the gates' order."""
        return [verdict for verdict in self.verdicts if verdict.reason is not None]


def judged(verdict: Verdict, settings: CurateSettings) -> Verdict:
    """The verdict, or where its gate is left out by `without`, only a remark that it would have closed."""
    if verdict.reason is None or verdict.gate not in settings.without:
        return verdict
    return replace(verdict, reason=None, flags=(*verdict.flags, f"{verdict.gate}: {verdict.reason}"))


def stated(candidate: Candidate, settings: CurateSettings) -> list[Verdict]:
    """The gates that need nothing but what the source says: before anything is fetched."""
    verdicts = [media(candidate)]
    if candidate.problem is None:
        verdicts.append(licence(candidate, settings))
        if candidate.path is None and candidate.stated:
            verdicts.append(coordinates(list(candidate.stated), settings, country=candidate.country)[0])
    return [judged(verdict, settings) for verdict in verdicts]


def examine(candidate: Candidate, settings: CurateSettings, everything: bool = False) -> Examined:
    """Run the gates over one candidate whose media are here.

    Before anything is decoded, the first gate that closes ends it, unless `everything` is asked for (`--explain`).
    Does not raise for damaged files.
    """
    found = Examined()
    try:
        signals = _before_decoding(candidate, settings, everything, found)
        if signals is not None:  # one decode has paid for all of these, so all are told
            found.verdicts += [judged(gate(signals, settings), settings) for gate in _HEARD_AND_SEEN]
            if everything or not found.closed:
                found.verdicts.append(privacy.privacy(signals, settings))  # dear, and only ever a flag
                found.pictures = fingerprint.picture_hashes(signals)
                found.sound = fingerprint.sound_fingerprint(signals)
                found.sha256 = sha256(candidate.path) if candidate.path is not None else None
    except (TooSlowError, OSError, MemoryError) as error:
        found.verdicts.append(Verdict("readable", reason=_in_passing(error, candidate.path)))
        found.in_passing = True
    return found


def _in_passing(error: Exception, path: Path | None) -> str:
    """What kept an item from being examined here and now."""
    if isinstance(error, MemoryError):
        return "needs more memory than one item may have"
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror or error}"
    return short(error, path) if path is not None else str(error)


def _before_decoding(
    candidate: Candidate, settings: CurateSettings, everything: bool, found: Examined
) -> Signals | None:
    """Verdicts from cheap to dear; the signals, unless a gate has closed."""

    def closed(verdict: Verdict) -> bool:
        found.verdicts.append(judged(verdict, settings))
        return found.verdicts[-1].reason is not None and not everything

    found.verdicts = stated(replace(candidate, stated=()), settings)
    path = candidate.path
    if path is None or candidate.problem is not None or (found.closed and not everything):
        return None
    verdict, found.info = readable(path, settings)
    if found.info is None:
        found.verdicts.append(verdict)
        return None
    locations = [*read_locations(path), *candidate.stated]
    verdict, found.location = coordinates(locations, settings, country=candidate.country)
    times = [location.recorded_at for location in locations if location.recorded_at]
    found.recorded_at = (found.location.recorded_at if found.location else None) or (times[0] if times else None)
    if closed(verdict):
        return None
    for gate in (streams, duration, picture.resolution):
        if closed(gate(found.info, settings)):
            return None
    verdict, signals = decoded(path, found.info, settings)
    return None if closed(verdict) else signals
