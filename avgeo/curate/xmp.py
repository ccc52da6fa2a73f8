"""Coordinates in XMP packets (Adobe XMP specification, part 2, EXIF namespace; DJI's own namespace)."""

from __future__ import annotations

import re

from avgeo.curate.location import Location, locate, parse_time, unusable

# As attribute (name="value") or as element (<name>value</name>), under whatever prefix ends in exif or
# drone-dji.
_VALUE = rb'(?:[\w-]+:)%s(?:\s*=\s*["\']([^"\'<>]{1,64})["\']|\s*>\s*([^<]{1,64})<)'
_COORDINATE = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d+)?)(?:,(\d{1,2}(?:\.\d+)?))?\s*([NSEW])", re.IGNORECASE)


def _value(packet: bytes, name: bytes) -> str | None:
    match = re.search(_VALUE % name, packet)
    return (match.group(1) or match.group(2)).decode("utf-8", "replace").strip() if match else None


def _degrees(text: str, hemispheres: str) -> float:
    """Degrees of "DDD,MM.mmk" or "DDD,MM,SSk"; raises ValueError."""
    match = _COORDINATE.fullmatch(text)
    if match is None or match.group(4).upper() not in hemispheres:
        raise ValueError(f"XMP coordinate {text[:32]!r} is not of the form DDD,MM.mmk")
    degrees, minutes, seconds = (float(part or 0) for part in match.groups()[:3])
    if minutes >= 60 or seconds >= 60:
        raise ValueError(f"XMP coordinate {text[:32]!r} has minutes or seconds of 60 or more")
    total = degrees + minutes / 60 + seconds / 3600
    return -total if match.group(4).upper() in "SW" else total


def xmp_time(data: bytes) -> str | None:
    """When the XMP packets within `data` say that it was taken (ISO 8601), or None."""
    time = _value(data, b"DateTimeOriginal") or _value(data, b"CreateDate")
    return parse_time(time) if time else None


def xmp_locations(data: bytes) -> list[Location]:
    """Locations in the XMP packets within `data`: exif:GPSLatitude, drone-dji:GpsLatitude, and so on."""
    if b"GPSLatitude" not in data and b"GpsLatitude" not in data:
        return []
    found = []
    recorded_at = xmp_time(data)
    latitude, longitude = _value(data, b"GPSLatitude"), _value(data, b"GPSLongitude")
    if latitude and longitude:
        try:
            pair = _degrees(latitude, "NS"), _degrees(longitude, "EW")
        except ValueError as error:
            found.append(unusable("xmp", str(error)))
        else:
            found.append(locate("xmp", *pair, recorded_at=recorded_at))
    # DJI's early firmware spelt it "GpsLongtitude".
    latitude, longitude = _value(data, b"GpsLatitude"), _value(data, b"GpsLongt?itude")
    if latitude and longitude:
        try:
            found.append(locate("xmp", float(latitude), float(longitude), recorded_at=recorded_at))
        except ValueError:
            found.append(unusable("xmp", f"XMP coordinates {latitude!r}, {longitude!r} are not numbers"))
    return found
