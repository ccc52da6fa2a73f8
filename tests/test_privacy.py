"""Privacy: hints of faces and plates, coarsened coordinates, media without their places."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from avgeo.clips import MediaInfo
from avgeo.curate.candidate import CurateError
from avgeo.curate.metadata import read_locations
from avgeo.curate.privacy import coarsen, hidden_place, privacy, strip_location
from avgeo.curate.signals import Signals
from avgeo.profiles import CurateSettings

SETTINGS = CurateSettings()
latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 0.0, 89.99999, -89.99999]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 180.0, 0.0, 179.99999]))
sizes = st.floats(0.05, 5000)


def seen(frames: list[np.ndarray]) -> Signals:
    stack = np.stack(frames)
    kind = "video" if len(frames) > 1 else "image"
    info = MediaInfo(
        kind, len(frames) / 2, len(frames) > 1, False, stack.shape[2], stack.shape[1], 2.0, None, None, None
    )
    return Signals(info, None, stack, np.arange(len(frames)) / 2, None, 0.0, len(frames) / 2, 0)


def face(height: int) -> Image.Image:
    """A drawn face with what the cascade looks for: brows and eyes darker than cheeks and nose, mouth, shading."""
    high, wide = 4 * height, int(3.12 * height)
    image = Image.new("RGBA", (wide, high), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def oval(x: float, y: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse(((x - rx) * wide, (y - ry) * high, (x + rx) * wide, (y + ry) * high), fill=(*colour, 255))

    oval(0.5, 0.42, 0.5, 0.42, (60, 40, 30))  # hair
    oval(0.5, 0.52, 0.44, 0.47, (214, 170, 140))
    oval(0.5, 0.30, 0.34, 0.14, (225, 184, 154))  # forehead
    for x in (0.3, 0.7):
        oval(x, 0.47, 0.14, 0.065, (150, 105, 85))
        oval(x, 0.475, 0.1, 0.036, (245, 240, 235))
        oval(x, 0.475, 0.05, 0.036, (40, 30, 25))
        draw.rectangle(((x - 0.13) * wide, 0.385 * high, (x + 0.13) * wide, 0.415 * high), fill=(60, 40, 30, 255))
        oval(x, 0.62, 0.1, 0.06, (224, 178, 150))
    draw.polygon(
        [(wide / 2, 0.45 * high), (0.42 * wide, 0.66 * high), (0.58 * wide, 0.66 * high)], (226, 186, 158, 255)
    )
    for x in (0.44, 0.56):
        oval(x, 0.665, 0.035, 0.018, (120, 80, 65))
    oval(0.5, 0.79, 0.19, 0.045, (150, 70, 70))
    return image.filter(ImageFilter.GaussianBlur(height / 22)).resize((wide // 4, height), Image.Resampling.LANCZOS)


def plate(width: int) -> Image.Image:
    """A Russian plate: a letter, three digits, two letters, a region, black on white."""
    image = Image.new("RGBA", (4 * width, 4 * round(width * 0.22)), (250, 250, 250, 255))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=(20, 20, 20, 255), width=image.height // 16)
    font = ImageFont.load_default(image.height * 0.8)
    left = (image.width - draw.textlength("A 123 BC 77", font)) / 2
    draw.text((left, 0), "A 123 BC 77", font=font, fill=(15, 15, 15, 255), stroke_width=3, stroke_fill=(15, 15, 15))
    return image.resize((width, image.height // 4), Image.Resampling.LANCZOS)


def scene(thing: Image.Image | None, at: tuple[int, int] = (150, 60)) -> np.ndarray:
    """A street-like background of smooth shades, with something put on it."""
    y, x = np.mgrid[:270, :480]
    shade = 110 + 50 * np.sin(x / 90) + 0.2 * y
    back = Image.fromarray(np.stack([shade, shade * 0.9, shade * 0.8], -1).astype(np.uint8)).convert("RGBA")
    if thing is not None:
        back.alpha_composite(thing, at)
    return np.asarray(back.convert("RGB"))


def test_a_face_and_a_plate_are_flagged():
    pytest.importorskip("cv2")
    found = privacy(seen([scene(face(90), (150 + 5 * i, 60)) for i in range(4)]), SETTINGS)
    assert found.flags == ("face",) and found.reason is None and found.measured["faces"] == 1
    assert 0.08 < float(found.measured["largest_face"] or 0) < 0.25
    found = privacy(seen([scene(plate(120), (150 + 5 * i, 160)) for i in range(4)]), SETTINGS)
    assert found.flags == ("plate",) and found.measured["plates"] == 1


def test_a_photo_is_looked_at_alone_but_one_frame_of_a_video_is_no_flag():
    pytest.importorskip("cv2")
    assert privacy(seen([scene(face(120))]), SETTINGS).flags == ("face",)
    once = [scene(face(90)), scene(None), scene(None), scene(None)]
    assert privacy(seen(once), SETTINGS).flags == ()


def test_a_scene_without_people_has_no_flag_and_sound_alone_is_skipped():
    pytest.importorskip("cv2")
    assert privacy(seen([scene(None)] * 4), SETTINGS).flags == ()
    assert "too few" in (privacy(seen([np.zeros((96, 128, 3), np.uint8)]), SETTINGS).skipped or "")
    sound = Signals(MediaInfo("audio", 1.0, False, True, *[None] * 6), None, None, None, None, 1.0, 0.0, 0)
    assert privacy(sound, SETTINGS).skipped


def test_without_opencv_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "avgeo[privacy]" in (privacy(seen([scene(None)]), SETTINGS).skipped or "")


def apart_km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """By vectors, not by haversine: accurate at any distance (atan2 of cross and dot product)."""
    u, v = (
        np.array([math.cos(p) * math.cos(q), math.cos(p) * math.sin(q), math.sin(p)])
        for p, q in (map(math.radians, pair) for pair in (a, b))
    )
    return 6371.0088 * math.atan2(float(np.linalg.norm(np.cross(u, v))), float(u @ v))


@given(latitudes, longitudes, sizes)
def test_coarsening_moves_no_point_further_than_it_says(latitude: float, longitude: float, km: float):
    lat, lon, accuracy_km = coarsen(latitude, longitude, km)
    assert abs(lat) <= 90 and abs(lon) <= 180
    assert apart_km((latitude, longitude), (lat, lon)) <= accuracy_km + 1e-6
    assert 0 < accuracy_km <= km


@given(latitudes, longitudes, sizes)
def test_coarsening_twice_is_coarsening_once(latitude: float, longitude: float, km: float):
    once = coarsen(latitude, longitude, km)
    assert coarsen(once[0], once[1], km) == once


@given(latitudes, sizes)
def test_the_antimeridian_is_one_place(latitude: float, km: float):
    assert coarsen(latitude, 180.0, km) == coarsen(latitude, -180.0, km)


def test_cells_are_about_equal_and_shared():
    rng = np.random.default_rng(0)
    latitudes = np.degrees(np.arcsin(rng.uniform(-1, 1, 60_000)))
    cells: dict[tuple[float, float, float], int] = {}
    for latitude, longitude in zip(latitudes.tolist(), rng.uniform(-180, 180, 60_000).tolist(), strict=True):
        cell = coarsen(latitude, longitude, 2000.0)
        cells[cell] = cells.get(cell, 0) + 1
    counts = np.array([*cells.values()])
    # 5.1e8 km2 over 4e6 km2 is 128; points fall evenly on the sphere, so cells of equal area get equal counts.
    assert 128 <= len(cells) <= 170
    assert (
        counts[np.abs([cell[0] for cell in cells]) < 75].min() > 0.6 * counts.mean()
        and counts.max() < 1.6 * counts.mean()
    )


@pytest.mark.parametrize(
    "bad", [(91.0, 0.0, 1.0), (0.0, 181.0, 1.0), (math.nan, 0.0, 1.0), (0.0, 0.0, 0.0), (0, 0, -1)]
)
def test_coarsening_refuses_what_is_no_place_or_size(bad: tuple[float, float, float]):
    with pytest.raises(CurateError, match=r"choose|give"):
        coarsen(*map(float, bad))


def movie(path: Path, text: str = "+48.8577+002.2950/") -> Path:
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as out:
        out.metadata["location"] = text
        out.metadata["com.apple.quicktime.location.ISO6709"] = text
        stream = out.add_stream("mpeg4", rate=Fraction(4))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(0, 160, 20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_stripped_film_states_no_place_and_shows_the_same(tmp_path: Path, suffix: str):
    given = movie(tmp_path / f"given{suffix}")
    assert read_locations(given)
    strip_location(given, tmp_path / "out" / f"bare{suffix}")
    bare = tmp_path / "out" / f"bare{suffix}"
    assert not read_locations(bare) and b"48.8577" not in bare.read_bytes()
    assert np.array_equal(pictures(given), pictures(bare))
    assert [file.name for file in bare.parent.iterdir()] == [bare.name]


def test_a_stripped_sound_has_no_tags(tmp_path: Path):
    from mutagen.id3 import ID3, TXXX

    given = tmp_path / "given.mp3"
    with av.open(str(given), "w") as out:
        stream = out.add_stream("mp3", rate=16_000)
        wave = np.sin(np.arange(16_000) / 10).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for piece in [*av.AudioResampler("s16p", "mono", 16_000, 1152).resample(frame), None]:
            out.mux(stream.encode(piece))
    tags = ID3()
    tags.add(TXXX(encoding=3, desc="Latitude", text="48.8577"))
    tags.save(given)
    strip_location(given, tmp_path / "bare.mp3")
    bare = (tmp_path / "bare.mp3").read_bytes()
    assert b"48.8577" in given.read_bytes() and b"48.8577" not in bare and b"Latitude" not in bare


@pytest.mark.parametrize("progressive", [False, True])
def test_a_stripped_photo_keeps_its_picture_and_orientation(tmp_path: Path, progressive: bool):
    given, bare = tmp_path / "given.jpg", tmp_path / "bare.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 27.7), 3: "E", 4: (2.0, 17.0, 42.0)})
    Image.fromarray(noise).save(given, exif=exif, progressive=progressive, comment=b"Paris", icc_profile=b"profile")
    given.write_bytes(given.read_bytes() + b"\0\0\0\x18ftypmp42 a film with +48.8577+002.2950/")
    assert read_locations(given)
    strip_location(given, bare)
    with Image.open(given) as one, Image.open(bare) as two:
        assert np.array_equal(np.asarray(one), np.asarray(two))
        assert two.getexif()[0x0112] == 6 and not two.getexif().get_ifd(0x8825)
        assert two.info["icc_profile"] == b"profile"
    left = bare.read_bytes()
    assert not read_locations(bare) and b"Paris" not in left and b"ftyp" not in left


def test_what_cannot_be_stripped_is_refused_by_name(tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    with pytest.raises(CurateError, match=r"photo\.png.*convert"):
        strip_location(photo, tmp_path / "bare.png")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    with pytest.raises(CurateError, match=r"broken\.mp4"):
        strip_location(broken, tmp_path / "bare.mp4")
    with pytest.raises(CurateError, match="another name"):
        strip_location(broken, broken)
    assert not (tmp_path / "bare.mp4").exists() and not list(tmp_path.glob(".strip-*"))


def gps_photo(path: Path) -> Path:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 27.7), 3: "E", 4: (2.0, 17.0, 42.0)})
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(path, "JPEG", exif=exif)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_photo_that_is_called_a_film_loses_its_place(tmp_path: Path, suffix: str):
    given, bare = gps_photo(tmp_path / f"given{suffix}"), tmp_path / f"bare{suffix}"
    assert hidden_place(given) == "exif"
    strip_location(given, bare)
    assert hidden_place(bare) is None and not read_locations(bare) and b"Exif" not in bare.read_bytes()
    with Image.open(given) as one, Image.open(bare) as two:
        assert np.array_equal(np.asarray(one), np.asarray(two))


@pytest.mark.parametrize("note", ["exif", "xmp"])
def test_a_film_of_photos_with_places_is_refused(tmp_path: Path, note: str):
    photo = gps_photo(tmp_path / "photo.jpg").read_bytes()
    if note == "xmp":
        body = b'http://ns.adobe.com/xap/1.0/\0<x exif:GPSLatitude="48,51.46N" exif:GPSLongitude="2,17.7E"/>'
        strip_location(tmp_path / "photo.jpg", tmp_path / "bare.jpg")
        photo = (tmp_path / "bare.jpg").read_bytes()
        photo = photo[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + photo[2:]
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as out:
        stream = out.add_stream("mjpeg", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(8):
            packet = av.Packet(photo)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 4)
            out.mux(packet)
    assert hidden_place(film) == note
    with pytest.raises(CurateError, match=r"film\.mkv.*metadata of their own"):
        strip_location(film, tmp_path / "bare.mkv")
    assert not (tmp_path / "bare.mkv").exists()


def test_what_is_no_photo_under_a_films_name_is_refused(tmp_path: Path):
    photo = tmp_path / "photo.mp4"
    Image.new("RGB", (8, 8)).save(photo, "PNG")
    with pytest.raises(CurateError, match="it is a picture"):
        strip_location(photo, tmp_path / "bare.mp4")


def test_a_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    movie(tmp_path / "given.mp4")
    monkeypatch.chdir(tmp_path)
    folder = Path("http:", "127.0.0.1:9")  # FFmpeg would take either for an address
    folder.mkdir(parents=True)
    given = (tmp_path / "given.mp4").rename(folder / "given.mp4")
    strip_location(given, folder / "bare.mp4")
    assert len(pictures(tmp_path / folder / "bare.mp4")) == 8
    (tmp_path / "concat:").mkdir()
    given.rename(tmp_path / "concat:" / "x.mp4")
    strip_location(Path("concat:", "x.mp4"), Path("bare.mp4"))
    assert Path("bare.mp4").exists()


def test_the_work_is_done_where_it_may_be_and_never_through_a_link(tmp_path: Path):
    given, scratch, victim = movie(tmp_path / "given.mp4"), tmp_path / "work", tmp_path / "victim"
    scratch.mkdir()
    victim.write_text("mine")
    bare = tmp_path / "bare.mp4"
    bare.symlink_to(victim)
    strip_location(given, bare, scratch)
    assert victim.read_text() == "mine" and not bare.is_symlink() and len(pictures(bare)) == 8
    assert not list(scratch.iterdir())
