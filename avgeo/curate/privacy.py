"""Privacy: faces and number plates are flagged, coordinates coarsened, places taken out of media files.

`coarsen` changes tables only: the coordinates that a phone or camera wrote into the media stay there. Whoever publishes
coarsened tables with the media must pass every file through `strip_location` (or publish no media).
"""

from __future__ import annotations

import math
import mmap
import shutil
import struct
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from avgeo.curate.candidate import CurateError
from avgeo.curate.metadata import read_locations
from avgeo.curate.signals import Signals
from avgeo.curate.verdict import Verdict
from avgeo.decode import is_image, open_media
from avgeo.profiles import CurateSettings

# --- faces and plates ---

_CURE = "not looked for: pip install 'avgeo[privacy]'"
_LOOKS = 3  # frames
_SMALLEST_PX = 160  # of the longer side: in smaller pictures nobody is known by their face
_FACE_SIDE_PX = 320  # faces are looked for in pictures of this longer side: small ones cost most and are found least
_FACE = 1 / 12  # of the longer side: the smallest that is looked for
_FACE_PX = 24  # the size that the cascades were trained at, or a little above
_PLATE_PX = (36, 12)
_SCALE = 1.2
# Overlapping finds that make one. Tuned for silence on scenes without faces; a lone picture has no other to agree with.
_FACES, _FACES_ALONE, _PLATES, _PLATES_ALONE = 5, 8, 3, 5
_CASCADES = ("frontalface_alt2", "profileface", "russian_plate_number")


def privacy(signals: Signals, settings: CurateSettings) -> Verdict:
    """Flags `face` and `plate`; never closes. Measured: how many of each, and the largest face and plate as a share of
    the picture's width.

    Haar cascades (Viola and Jones 2001; Lienhart and Maydt 2002) that come with OpenCV, on at most three frames. In a
    video a find counts when another frame has one too, so that one frame's chance likeness is no flag.

    A flag is a hint, and no flag is no promise: the cascades are old. They miss faces that are small (below 1/12 of the
    longer side), tilted, masked, in shadow, and faces of people whom their training pictures left out; profiles are
    looked for on one side in each frame. The plates are Russian ones: other countries' are found when they look alike
    (dark on light, one line), seen from straight ahead, and wider than a quarter of the picture.
    """
    if signals.frames is None or not len(signals.frames):
        return Verdict("privacy", skipped="has no picture")
    frames = signals.frames
    if max(frames.shape[1:3]) < _SMALLEST_PX:
        return Verdict("privacy", skipped=f"{frames.shape[2]} x {frames.shape[1]} pixels are too few for a face")
    try:
        import cv2
    except ImportError:
        return Verdict("privacy", skipped=_CURE)
    looks = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _LOOKS)).round().astype(int))
    alone = len(looks) == 1
    few_faces, few_plates = (_FACES_ALONE, _PLATES_ALONE) if alone else (_FACES, _PLATES)
    height, width = frames.shape[1:3]
    shrink = min(1.0, _FACE_SIDE_PX / max(height, width))
    small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    least = (max(_FACE_PX, round(_FACE * max(small))),) * 2
    frontal, profile, plate = (_cascade(name) for name in _CASCADES)
    faces: list[list[float]] = []
    plates: list[list[float]] = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # several threads find in no fixed order
    try:
        for turn, look in enumerate(looks):
            grey = cv2.equalizeHist(cv2.cvtColor(np.ascontiguousarray(frames[look]), cv2.COLOR_RGB2GRAY))
            plates.append(_shares(plate.detectMultiScale(grey, _SCALE, few_plates, minSize=_PLATE_PX), width))
            grey = cv2.resize(grey, small, interpolation=cv2.INTER_AREA)
            found = frontal.detectMultiScale(grey, _SCALE, few_faces, minSize=least)
            if not len(found):  # the cascade knows profiles that look left: every other frame is mirrored
                grey = np.ascontiguousarray(grey[:, ::-1]) if turn % 2 else grey
                found = profile.detectMultiScale(grey, _SCALE, few_faces, minSize=least)
            faces.append(_shares(found, small[0]))
    finally:
        cv2.setNumThreads(threads)
    measured: dict[str, float | int | str | None] = {"looked_at": len(looks)}
    flags = []
    for name, found in (("face", faces), ("plate", plates)):
        count = int(_agreed([float(len(widths)) for widths in found]))
        largest = _agreed([max(widths, default=0.0) for widths in found])
        measured |= {f"{name}s": count, f"largest_{name}": round(largest, 4)}
        flags += [name] if count else []
    return Verdict("privacy", measured, flags=tuple(flags))


@cache
def _cascade(name: str) -> Any:
    import cv2
    from cv2 import data

    return cv2.CascadeClassifier(f"{data.haarcascades}haarcascade_{name}.xml")


def _shares(boxes: Any, width: int) -> list[float]:
    return [int(box[2]) / width for box in boxes]


def _agreed(values: Sequence[float]) -> float:
    """The second largest, so that one frame alone says nothing; of a lone picture its own."""
    return sorted(values)[-2] if len(values) > 1 else values[0]


# --- coordinates, coarsened ---

_RADIUS_KM = 6371.0088
_LARGEST_KM = 5000.0


def coarsen(latitude_deg: float, longitude_deg: float, km: float) -> tuple[float, float, float]:
    """The middle of the cell of about `km` x `km` that holds a point: latitude, longitude, accuracy in km.

    Bands of equal height run from pole to pole; each is cut into equal pieces no wider than `km`, so that cells have
    about the same area everywhere (rounding decimals gives slivers near the poles). All points of one cell become one
    point; none moves by more than `accuracy_km`, which is at most `km`; a point that was coarsened stays where it is.
    A point near the edge of a cell comes to lie across a border or in the sea: that is what coarse means.
    Only tables are coarsened: see `strip_location` for the media. Raises `CurateError` for a pair that is no place and
    for `km` outside (0, 5000].
    """
    if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):
        raise CurateError(f"({latitude_deg}, {longitude_deg}) is no place: give degrees in -90..90 and -180..180")
    if not 0 < km <= _LARGEST_KM:
        raise CurateError(
            f"km={km} (the setting coarsen_km): no cells of this size; choose more than 0 and at most {_LARGEST_KM:g}"
        )
    bands = math.ceil(math.pi * _RADIUS_KM / km)
    band = min(bands - 1, int((latitude_deg + 90) / 180 * bands))
    south, north = -90 + 180 * band / bands, -90 + 180 * (band + 1) / bands
    widest_deg = min(max(south, 0.0), north)  # the cell's parallel that is nearest the equator
    pieces = max(1, math.ceil(2 * math.pi * _RADIUS_KM * math.cos(math.radians(widest_deg)) / km))
    piece = int((longitude_deg + 180) / 360 * pieces) % pieces  # 180 and -180 are one meridian
    middle_deg = (south + north) / 2
    half_deg = 180 / pieces
    accuracy_km = max(distance_km(middle_deg, edge, half_deg) for edge in (south, north, widest_deg))
    return middle_deg, -180 + 360 * (piece + 0.5) / pieces, accuracy_km


def distance_km(one_deg: float, other_deg: float, apart_deg: float) -> float:
    """Great-circle distance between two latitudes whose longitudes lie `apart_deg` apart (haversine)."""
    one, other, apart = (math.radians(angle) for angle in (one_deg, other_deg, apart_deg))
    chord = math.sin((one - other) / 2) ** 2 + math.cos(one) * math.cos(other) * math.sin(apart / 2) ** 2
    return 2 * _RADIUS_KM * math.asin(min(1.0, math.sqrt(chord)))


# --- media, without their places ---

_FORMATS = {
    ".mp4": "mp4", ".m4v": "ipod", ".m4a": "ipod", ".mov": "mov", ".3gp": "3gp", ".mkv": "matroska", ".webm": "webm",
    ".mp3": "mp3", ".flac": "flac", ".ogg": "ogg", ".wav": "wav",
}  # fmt: skip
_JPEG = frozenset({".jpg", ".jpeg"})
_STILLS = frozenset({"webp", "tiff", "gif", "bmp", "jpegxl", "jpeg2000", "apng", "exr", "svg", "psd"})
_NOTES = (b"Exif\0\0", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"http://ns.adobe.com/")  # within a JPEG or PNG
_NAMES = tuple(
    name.encode(code)
    for name in ("GPSLatitude", "GpsLatitude", "GPSLongitude", "GpsLongitude", "GpsLongtitude")
    for code in ("ascii", "utf-16-le")  # the latter holds what utf-16-be would, but for its first byte
)
_GPS_IFD = 0x8825


def strip_location(src: Path | str, dst: Path | str, scratch: Path | None = None) -> None:
    """Copy media without metadata: no tags, chapters, covers, telemetry or subtitles; picture and sound are copied bit
    for bit. `dst` appears only when nothing in it states a place any more.

    What a file holds decides, not its name: video and sound pass through FFmpeg (PyAV), JPEG photos through a copy of
    those segments that make the picture, and of the orientation. What is seen and heard may still tell the place, and
    user data within coded video frames (SEI) are not looked for. The work is done in the folder `scratch` (default:
    that of `dst`), where a killed process may leave a folder `.strip-*`.

    Raises `CurateError`, naming the file, for formats that it cannot strip (PNG, WebP, HEIC, TIFF: convert them to JPEG
    first), for films of still pictures with metadata of their own, for a change of suffix, for files that cannot be
    read, and when the copy still states a place.
    """
    source, target = Path(src), Path(dst)
    suffix = source.suffix.lower()
    if suffix not in _JPEG and suffix not in _FORMATS:
        raise CurateError(
            f"{source}: metadata of {suffix or 'a file without suffix'} cannot be removed; convert it first"
        )
    if target.suffix.lower() != suffix or target.resolve() == source.resolve():
        raise CurateError(f"{source}: give dst another name that ends in {suffix}, got {target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own: no sidecar of another file speaks for the copy, and no half-written file is taken for whole.
    with tempfile.TemporaryDirectory(dir=scratch or target.parent, prefix=".strip-") as folder:
        copy = Path(folder, f"copy{suffix}")
        try:
            with source.open("rb") as file:
                head = file.read(3)
            if suffix in _JPEG or head == b"\xff\xd8\xff":
                copy.write_bytes(_bare_jpeg(source.read_bytes()))
            else:
                _remux(source, copy, _FORMATS[suffix])
            left = [found.kind for found in read_locations(copy)] or [*filter(None, [hidden_place(copy)])]
        except (FFmpegError, ValueError, OSError) as error:
            why = " ".join(str(error).removeprefix(f"{source}: ").split())
            raise CurateError(f"{source}: its metadata cannot be removed ({why}); convert it first") from None
        if left:
            raise CurateError(f"{source}: a place is left after stripping ({left[0]}); convert it first")
        target.unlink(missing_ok=True)  # never through a link
        shutil.move(copy, target)


def hidden_place(path: Path) -> str | None:
    """What states a place somewhere among a file's bytes, such as within the pictures of a film: "exif" or "xmp".

    Looks for Exif blocks with a GPS directory (Exif 2.32, 4.6.3) and for the names of XMP's GPS fields. Compressed
    text is not looked into. Raises OSError for a file that cannot be opened.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = -1
            while (at := data.find(b"Exif\0\0", at + 1)) >= 0:
                if _has_gps(data[at + 6 : at + 6 + (1 << 16)]):
                    return "exif"
            return "xmp" if any(data.find(name) >= 0 for name in _NAMES) else None


def _has_gps(tiff: bytes) -> bool:
    """Whether the first directory of a TIFF header (6.0, section 2) points to a GPS directory."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return False
    at = struct.unpack_from(f"{order}I", tiff, 4)[0]
    if at + 2 > len(tiff):
        return False
    tags = range(at + 2, at + 2 + 12 * struct.unpack_from(f"{order}H", tiff, at)[0], 12)
    return any(struct.unpack_from(f"{order}H", tiff, tag)[0] == _GPS_IFD for tag in tags if tag + 2 <= len(tiff))


def _remux(source: Path, copy: Path, kind: str) -> None:
    """Pictures and sound, packet by packet, in a container (FFmpeg's name of it) without metadata."""
    options = {"fflags": "+bitexact"}  # no clock, no version
    # "file:", since FFmpeg takes some names for addresses.
    with open_media(source) as given, av.open(f"file:{copy}", "w", format=kind, options=options) as out:
        if is_image(given):
            raise ValueError("it is a picture, whatever its name says")
        kept: dict[int, Any] = {}
        for stream in (*given.streams.video, *given.streams.audio):
            if bool(stream.disposition & Disposition.attached_pic):
                continue
            if stream.codec_context is not None and stream.codec_context.name in _STILLS:
                raise ValueError(f"it is a film of {stream.codec_context.name} pictures, which have metadata")
            kept[stream.index] = out.add_stream_from_template(stream)
        if not kept:
            raise ValueError("it holds neither sound nor picture")
        stills = {index for index, to in kept.items() if to.codec_context.name in ("mjpeg", "mjpegb", "ljpeg", "png")}
        count = 0
        for packet in given.demux([given.streams[index] for index in kept]):
            if packet.dts is None:
                continue
            data = bytes(packet) if packet.stream.index in stills else b""
            if said := [note for note in _NOTES if note in data]:
                raise ValueError(f"its pictures have metadata of their own: {said[0].decode()}")
            packet.stream = kept[packet.stream.index]
            out.mux(packet)
            count += 1
        if not count:
            raise ValueError("no packet can be read")


_STANDALONE = (0x01, *range(0xD0, 0xD8))


def _bare_jpeg(data: bytes) -> bytes:
    """A JPEG's picture, its colour profile and its orientation; ITU-T T.81, annex B. What follows its end is left out
    (phones append second pictures and whole films there, with metadata of their own)."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("it is no JPEG")
    parts, at = [b"\xff\xd8", *_orientation(data)], 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("a segment is damaged")
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0xD9:
            break
        if marker in _STANDALONE:
            parts.append(data[at : at + 2])
            at += 2
            continue
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : end]
        comment = marker == 0xFE or 0xE0 <= marker <= 0xEF
        needed = marker == 0xEE or (marker == 0xE0 and body[:5] == b"JFIF\0") or body[:12] == b"ICC_PROFILE\0"
        if marker == 0xE0 and needed:
            body = body[:12] + b"\0\0"  # without its thumbnail
        if not comment or needed:
            parts.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
        at = end
        if marker == 0xDA:  # coded data run to the next marker that is neither stuffing nor a restart
            scan = at
            while (scan := data.find(b"\xff", scan)) >= 0 and scan + 1 < len(data):
                if data[scan + 1] != 0x00 and data[scan + 1] not in _STANDALONE:
                    break
                scan += 2
            end = len(data) if scan < 0 or scan + 1 >= len(data) else scan
            parts.append(data[at:end])
            at = end
    return b"".join(parts) + b"\xff\xd9"


def _orientation(data: bytes) -> list[bytes]:
    """An Exif segment that holds the orientation alone, if the photo has one that matters."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            turn = image.getexif().get(0x0112, 1)
    except Exception:  # foreign bytes: Pillow raises anything, and a picture without a turn is still one
        return []
    if not isinstance(turn, int) or not 2 <= turn <= 8:
        return []
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, turn, 0, 0)
    body = b"Exif\0\0" + tiff
    return [struct.pack(">BBH", 0xFF, 0xE1, len(body) + 2) + body]
