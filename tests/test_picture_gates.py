"""Gates of the picture: size, stills, black, captions, on pictures that went through a real encoder."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from avgeo.clips import Kind, MediaInfo, probe, read_frames, write_clip
from avgeo.curate.picture import black, captions, frozen, resolution
from avgeo.curate.signals import Signals
from avgeo.profiles import CurateSettings
from avgeo.world.scene import draw_frames

SETTINGS = CurateSettings()
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
SHOP = {"script": "latin", "plate": "white_eu", "warning_sign": "yellow_diamond"}


def signals(frames: np.ndarray, kind: Kind = "video", seconds: float = 4.0) -> Signals:
    height, width = frames.shape[1:3]
    info = MediaInfo(kind, seconds, kind == "video", False, width, height, 4.0, None, None, None)
    times = (np.arange(len(frames)) + 0.5) * seconds / len(frames)
    return Signals(info, None, frames, times, None, 0.0, seconds, 0)


SOUND = Signals(MediaInfo("audio", 1.0, False, True, *[None] * 6), None, None, None, None, 1.0, 0.0, 0)


def encoded(frames: np.ndarray, crf: int, fps: int = 4, keyframes: int = 8) -> np.ndarray:
    """The frames after H.264 at a constant quality."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        options = {"crf": str(crf), "g": str(keyframes), "preset": "veryfast", "threads": "1"}
        stream = out.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in [*(av.VideoFrame.from_ndarray(np.ascontiguousarray(f), format="rgb24") for f in frames), None]:
            out.mux(stream.encode(frame))
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def known(**cues: str) -> dict[str, str]:
    """Those cues that AVG-Sim draws, with the first value that it knows when ours is unknown."""
    from avgeo.world.cues import CUES

    return {name: value if value in CUES[name].values else CUES[name].values[0] for name, value in cues.items()}


@cache
def street(seed: int = 0, width: int = 320, height: int = 240, moving: bool = True, night: bool = False) -> np.ndarray:
    """16 frames of AVG-Sim's street, with a board, a plate and a warning sign."""
    cues = known(**SHOP, vegetation="temperate", horizon="hills", road_surface="asphalt", skyline="roofs")
    if moving:
        cues |= known(driving_side="right")
    if night:
        cues |= known(sun="night", street_light="warm")
    sun = (-30.0, 10.0) if night else None
    return draw_frames(cues, sun, 16, width, height, np.random.default_rng(seed))


def handheld(seed: int = 0, count: int = 12) -> np.ndarray:
    """A camera that wanders over a textured picture with a shop's sign in it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (60, 90), np.uint8))
    noise = np.asarray(coarse.resize((720, 480), Image.Resampling.BICUBIC))
    place = Image.fromarray(np.stack([noise // 2 + 60, noise // 2 + 50, noise // 3 + 40], -1))
    ImageDraw.Draw(place).text((250, 230), "GRAND HOTEL", font=ImageFont.truetype(FONT, 26), fill=(255, 255, 255))
    shots = [place.crop((100 + 9 * i, 100 + 4 * (i % 3), 480 + 9 * i, 314 + 4 * (i % 3))) for i in range(count)]
    return np.stack([np.asarray(shot) for shot in shots])


def written(frames: np.ndarray, text: str, style: str = "outline") -> np.ndarray:
    """Frames with a line of text laid over them."""
    height, width = frames.shape[1:3]
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    font = ImageFont.truetype(FONT, max(10, round(0.055 * height)))
    x = (width - draw.textlength(text, font)) / 2
    y = {"upper": 0.05, "centre": 0.55}.get(style, 0.88) * height
    if style == "box":
        draw.rectangle((x - 4, y - 1, width - x + 4, y + 0.075 * height), fill=(0, 0, 0, 210))
    fill = {"yellow": (250, 230, 40, 255), "faint": (255, 255, 255, 170)}.get(style, (255, 255, 255, 255))
    edge = 0 if style in ("box", "faint") else 1
    if style == "faint":
        draw.text((x + 1, y + 1), text, font=font, fill=(0, 0, 0, 110))
    draw.text((x, y), text, font=font, fill=fill, stroke_width=edge, stroke_fill=(0, 0, 0, 255))
    over = np.asarray(layer).astype(np.float32)
    alpha = over[..., 3:] / 255
    return (frames * (1 - alpha) + over[..., :3] * alpha + 0.5).astype(np.uint8)


# --- size ---


def test_resolution_names_what_is_wrong():
    fine = MediaInfo("video", 4.0, True, True, 320, 240, 25.0, 16_000, "aac", "h264")
    found = resolution(fine, SETTINGS)
    assert found.reason is None and found.measured == {"width": 320, "height": 240, "fps": 25.0}
    assert "shorter side is below 48" in (resolution(replace(fine, height=32), SETTINGS).reason or "")
    assert "more than 120000000" in (resolution(replace(fine, width=30_000, height=30_000), SETTINGS).reason or "")
    assert "90000 frames a second" in (resolution(replace(fine, fps=90_000.0), SETTINGS).reason or "")
    assert resolution(replace(fine, fps=math.inf), SETTINGS).reason
    assert resolution(replace(fine, width=48, height=48, fps=1000.0), SETTINGS).reason is None


@pytest.mark.parametrize("fps", [None, 0.0, math.nan, -1.0])
def test_an_unknown_frame_rate_is_no_fault(fps: float | None):
    info = MediaInfo("video", 4.0, True, True, 320, 240, fps, None, None, None)
    found = resolution(info, SETTINGS)
    assert found.reason is None and found.measured["fps"] is None


def test_sound_alone_is_skipped_everywhere():
    assert resolution(SOUND.info, SETTINGS).skipped
    for gate in (frozen, black, captions):
        found = gate(SOUND, SETTINGS)
        assert found.skipped and found.reason is None and found.gate == gate.__name__


# --- stills ---


@pytest.mark.parametrize("width,height", [(128, 96), (320, 240)])
@pytest.mark.parametrize("night", [False, True])
def test_a_still_camera_on_a_street_with_one_car_moves(tmp_path: Path, width: int, height: int, night: bool):
    write_clip(tmp_path / "a.mp4", street(1, width, height, True, night), 4, np.zeros(16_000, np.float32), 16_000)
    found = frozen(signals(read_frames(tmp_path / "a.mp4", 8, width, height)), SETTINGS)
    assert found.reason is None and float(found.measured["still_share"] or 0) < 0.5


@pytest.mark.parametrize("crf,keyframes", [(20, 250), (30, 8), (40, 8), (48, 250)])
def test_a_still_at_any_bit_rate_is_frozen(crf: int, keyframes: int):
    still = np.repeat(street(2, moving=False)[:1], 16, axis=0)
    found = frozen(signals(encoded(still, crf, keyframes=keyframes)[::2]), SETTINGS)
    assert found.reason and "still" in found.reason and found.measured["stills"] == 1


def test_a_slide_show_is_frozen_and_its_stills_are_counted():
    slides = np.repeat(np.stack([street(s, moving=False, night=s == 4)[0] for s in (3, 4)]), 12, axis=0)
    found = frozen(signals(encoded(slides, 26, keyframes=24)[::2]), SETTINGS)
    assert "slide show of 2 stills" in (found.reason or "") and found.measured["still_share"] == 1.0


def test_half_a_clip_that_moves_is_measured_and_kept():
    moving = street(1)
    mixed = np.concatenate([np.repeat(moving[:1], 16, axis=0), moving])
    found = frozen(signals(encoded(mixed, 26)[::2]), SETTINGS)
    assert found.reason is None and 0.35 < float(found.measured["still_share"] or 0) < 0.7


def test_a_camera_before_nothing_is_kept_for_its_noise_but_a_still_is_not():
    still = np.repeat(street(5, moving=False)[:1], 16, axis=0)
    noise = np.random.default_rng(0).normal(0, 3, still.shape)
    alive = encoded(np.clip(still + noise, 0, 255).astype(np.uint8), 20, keyframes=250)[::2]
    found = frozen(signals(alive), SETTINGS)
    assert found.reason is None and found.measured["still_share"] == 1.0 and float(found.measured["grain"] or 0) > 0.7
    assert frozen(signals(encoded(still, 20, keyframes=250)[::2]), SETTINGS).reason


def test_slow_movement_adds_up():
    """Shifts of a fifth of a pixel between frames are below any threshold; over the clip they are not."""
    wide = np.asarray(Image.fromarray(handheld(3, 1)[0]).resize((1900, 1070), Image.Resampling.BICUBIC))
    crops = (Image.fromarray(wide[:1000, i : 1600 + i]) for i in range(40))
    shots = [crop.resize((320, 200), Image.Resampling.BOX) for crop in crops]
    found = frozen(signals(np.stack([np.asarray(shot) for shot in shots])), SETTINGS)
    assert found.reason is None and 0.5 < float(found.measured["still_share"] or 0) < 0.95


def test_one_frame_is_a_still_and_a_photo_is_exempt():
    assert frozen(signals(street()[:1]), SETTINGS).reason
    photo = frozen(signals(street()[:1], "image"), SETTINGS)
    assert photo.skipped and photo.reason is None


def test_real_videos_move():
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "video"
    films = sorted(folder.glob("*.mp4"))
    if not films:
        pytest.skip("the shared videos are not here")
    for film in films:
        info = probe(film)
        frames = read_frames(film, 8, 480, round(480 * (info.height or 1) / (info.width or 1)))
        found = [gate(signals(frames, seconds=info.duration_s), SETTINGS) for gate in (frozen, black, captions)]
        assert [verdict.reason for verdict in found] == [None] * 3, film.name


# --- black ---


def test_black_and_one_colour_are_kept_out_and_night_is_not():
    shape = (8, 120, 160, 3)
    noise = np.random.default_rng(0).integers(0, 6, shape).astype(np.uint8)
    assert "black" in (black(signals(noise), SETTINGS).reason or "")
    blue = encoded(noise + np.array([30, 90, 200], np.uint8), 30)
    assert "one colour" in (black(signals(blue), SETTINGS).reason or "")
    assert black(signals((street(6, night=True) * 0.4).astype(np.uint8)), SETTINGS).reason is None
    lamp = noise.copy()
    lamp[:, 50:56, 70:76] = 220
    assert black(signals(lamp), SETTINGS).reason is None, "a lamp in the night"
    late = noise.copy()
    late[5] = street(6, 160, 120)[0]
    assert black(signals(late), SETTINGS).reason is None, "one picture is enough"
    assert black(signals(noise[:1], "image"), SETTINGS).reason, "a photo can be black, too"


def test_black_borders_are_flagged_only():
    boxed = street(7).copy()
    boxed[:, :30] = boxed[:, -30:] = 0
    found = black(signals(encoded(boxed, 24)), SETTINGS)
    assert found.reason is None and found.flags == ("letterbox",)
    assert float(found.measured["letterbox"] or 0) == pytest.approx(0.25, abs=0.04)
    pillars = street(7).copy()
    pillars[:, :, :40] = pillars[:, :, -40:] = 0
    assert black(signals(encoded(pillars, 24)), SETTINGS).flags == ("pillarbox",)
    assert black(signals(street(7)), SETTINGS).flags == ()


# --- captions ---

LINES = ("Where are we going today?", "Добро пожаловать в город", "Καλημέρα, πού είναι;")


@pytest.mark.parametrize("style", ["outline", "yellow", "box", "faint", "upper", "centre"])
@pytest.mark.parametrize("line", LINES)
def test_captions_are_found_over_a_street_and_over_a_moving_camera(style: str, line: str):
    for frames in (street(8)[::2], handheld(2)):
        found = captions(signals(encoded(written(frames, line, style), 28)), SETTINGS)
        assert found.reason, found.measured
        assert ("upper" in found.reason) == (style == "upper")


def test_captions_that_come_and_go_are_found():
    frames = street(9).copy()
    for part, line in ((slice(0, 6), LINES[0]), (slice(9, 15), LINES[2])):
        frames[part] = written(frames[part], line)
    assert captions(signals(encoded(frames, 28)), SETTINGS).reason


@pytest.mark.parametrize("seed", range(6))
def test_boards_plates_and_shop_signs_are_no_captions(seed: int):
    for frames in (street(seed)[::2], street(seed, night=True)[::2], handheld(seed)):
        found = captions(signals(encoded(frames, 26)), SETTINGS)
        assert found.reason is None, found.measured


def test_the_same_sign_on_a_wandering_camera_scores_less_than_laid_over():
    scene = captions(signals(encoded(handheld(4), 26)), SETTINGS).measured["caption_score"]
    laid = captions(signals(encoded(written(handheld(4), "GRAND HOTEL"), 26)), SETTINGS).measured["caption_score"]
    assert float(scene or 0) < 0.25 < 0.5 < float(laid or 0)


def test_small_pictures_single_frames_and_photos_are_skipped():
    assert "too few" in (captions(signals(street(0, 128, 96)), SETTINGS).skipped or "")
    assert "one frame" in (captions(signals(street()[:1]), SETTINGS).skipped or "")
    assert "photo" in (captions(signals(street()[:1], "image"), SETTINGS).skipped or "")


@pytest.mark.parametrize("shape", [(2, 90, 160), (3, 480, 90), (64, 161, 97), (2, 49, 480), (1, 16, 16), (5, 480, 480)])
@pytest.mark.parametrize("fill", [0, 255, None])
def test_no_shape_breaks_a_gate(shape: tuple[int, int, int], fill: int | None):
    frames = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    frames = frames if fill is None else np.full_like(frames, fill)
    for gate in (frozen, black, captions):
        found = gate(signals(frames), SETTINGS)
        assert not (found.skipped and found.reason)
        assert all(isinstance(v, int | float | str | None) and v == v for v in found.measured.values())
        assert gate(signals(frames), SETTINGS) == found
