"""Frames: every value is drawn, stays itself beside the others, and the light obeys geometry; all by pixels."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avgeo.clips import read_frames, write_clip
from avgeo.world.cues import CUES
from avgeo.world.geography import WorldError
from avgeo.world.glyphs import GLYPHS
from avgeo.world.scene import draw_frames, shadow_direction, shadow_length
from avgeo.world.scene_street import POST, REGIONS
from avgeo.world.visible import SUNS, class_of_sun

VISIBLE = {name: item.values[:-1] for name, item in CUES.items() if item.sense == "visible"}
# Where a cue is looked for, in units of 1/160 and 1/120 of the picture; the furniture's regions are the scene's own.
WHOLE = (0, 0, 160, 120)
WHERE = {
    "vegetation": (0, 40, 160, 120), "horizon": (0, 20, 160, 66), "soil": (108, 86, 160, 120),
    "road_surface": (40, 66, 120, 120), "driving_side": (48, 60, 112, 104), "wetness": WHOLE,
    "snowfall": (20, 52, 140, 120), "sun": WHOLE, **REGIONS,
}  # fmt: skip


def sun_in(name: str | None, rng: np.random.Generator) -> tuple[float, float] | None:
    if name is None:
        return None
    (low, high), (west, east) = class_of_sun(name)
    return float(rng.uniform(low, high)), float(rng.uniform(west, east))


def draw(
    cues: dict[str, str], seed: int = 0, count: int = 1, sun: tuple[float, float] | None = None, size=(128, 96)
) -> np.ndarray:
    """The middle one of `count` frames as floats; a sun inside its class unless one is given."""
    sun = sun or sun_in(cues.get("sun"), np.random.default_rng(seed))
    return draw_frames(cues, sun, count, *size, np.random.default_rng(seed))[count // 2].astype(float)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    return frame.reshape(48, height // 48, 64, width // 64, 3).mean((1, 3))


def part(frame: np.ndarray, cue: str) -> np.ndarray:
    """The region of a cue."""
    (height, width, _), (left, top, right, bottom) = frame.shape, WHERE[cue]
    x, y = width / 160, height / 120
    return frame[math.floor(top * y) : math.ceil(bottom * y), math.floor(left * x) : math.ceil(right * x)]


def random_cues(rng: np.random.Generator, without: str = "", share: float = 0.55) -> dict[str, str]:
    return {cue: str(rng.choice(values)) for cue, values in VISIBLE.items() if cue != without and rng.random() < share}


# --- every value is drawn ---


@pytest.mark.parametrize("cue", VISIBLE)
def test_every_value_changes_its_region(cue: str) -> None:
    """Mean absolute difference to the picture without it, in 128 x 96 pixels and in thumbnails of 64 x 48."""
    base = {"vegetation": "temperate_green", "road_surface": "asphalt", "sun": "high_SE"}
    base.pop(cue, None)
    least = {"wetness": 3.0, "snowfall": 2.5, "driving_side": 2.5, "horizon": 4.0, "skyline": 5.0}.get(cue, 8.0)
    for value in VISIBLE[cue]:
        for seed in range(2):
            without, with_it = draw(base, seed), draw(base | {cue: value}, seed)
            assert np.abs(part(with_it, cue) - part(without, cue)).mean() > least, value
            small = np.abs(part(thumbnail(with_it), cue) - part(thumbnail(without), cue)).mean()
            assert small > 0.7 * least, value


@pytest.mark.parametrize("cue", [cue for cue in VISIBLE if len(VISIBLE[cue]) > 1])
def test_values_of_a_cue_differ_from_each_other(cue: str) -> None:
    """Every pair, in thumbnails, with the other details alike."""
    base = {"road_surface": "asphalt", "horizon": "hills"}
    base.pop(cue, None)
    least = {"sun": 1.5, "driving_side": 2.0, "horizon": 4.0, "plate": 5.0}.get(cue, 7.0)
    pictures = {value: part(thumbnail(draw(base | {cue: value})), cue) for value in VISIBLE[cue]}
    for a, b in combinations(pictures, 2):
        assert np.abs(pictures[a] - pictures[b]).mean() > least, (a, b)


def test_every_script_has_letters() -> None:
    assert set(GLYPHS) == set(VISIBLE["script"]) and min(map(len, GLYPHS.values())) >= 4


@pytest.mark.parametrize("cue", ["script", "plate", "warning_sign", "centre_line", "horizon"])
def test_values_survive_the_codec(cue: str, tmp_path) -> None:
    """After H.264 and the readers' resampling a thumbnail is nearest to what was drawn, among all values of the cue."""
    rng = np.random.default_rng(5)
    cues = random_cues(rng, without=cue, share=0.4) | {"road_surface": "asphalt"}
    cues.pop("horizon" if cue != "horizon" else "vegetation", None)
    drawn, read = {}, {}
    for value in VISIBLE[cue]:
        mine = cues | {cue: value}
        sun = sun_in(mine.get("sun"), np.random.default_rng(1))
        frames = draw_frames(mine, sun, 8, 128, 96, np.random.default_rng(2))
        write_clip(tmp_path / "clip.mp4", frames, 4, np.zeros(16_000, np.float32), 8000)
        drawn[value] = part(thumbnail(frames[4].astype(float)), cue)
        read[value] = part(read_frames(tmp_path / "clip.mp4", 1, 64, 48)[0].astype(float), cue)
    for value, seen in read.items():
        distance = {other: np.abs(picture - seen).mean() for other, picture in drawn.items()}
        assert min(distance, key=distance.__getitem__) == value


# --- nothing hides anything else ---

FURNITURE = ("script", "skyline", "warning_sign", "plate", "parked", "centre_line", "street_light", "soil")


def changed(a: np.ndarray, b: np.ndarray, cue: str) -> np.ndarray:
    return np.abs(part(a, cue) - part(b, cue)).max(-1) > 12


@pytest.mark.parametrize("cue", FURNITURE)
def test_regions_stay_visible_when_every_cue_is_present(cue: str) -> None:
    """Of the pixels that a cue alone changes in its region, most change when all the other cues are there."""
    visible = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        everything = random_cues(rng, share=1.0) | {"sun": "high_S"}
        others = {name: value for name, value in everything.items() if name != cue}
        bare = {"vegetation": everything["vegetation"], "sun": "high_S"}
        alone = changed(draw(bare | {cue: everything[cue]}, seed), draw(bare, seed), cue)
        together = changed(draw(everything, seed), draw(others, seed), cue)
        visible.append((alone & together).sum() / alone.sum())
    assert np.mean(visible) > 0.65


@pytest.mark.parametrize("cue", ["script", "warning_sign", "plate", "parked", "centre_line", "skyline"])
def test_another_value_changes_nothing_outside_its_region(cue: str) -> None:
    """Under an overcast sky (no shadows) every other pixel stays as it is, to the bit; two units of margin."""
    rng = np.random.default_rng(3)
    others = random_cues(rng, without=cue, share=0.7)
    for name in ("sun", "snowfall", "driving_side"):
        others.pop(name, None)
    left, top, right, bottom = REGIONS[cue]
    rows, columns = np.mgrid[:96, :128]
    x, y = (columns + 0.5) * 160 / 128, (rows + 0.5) * 120 / 96
    if cue == "centre_line":
        top = 52
    outside = (x < left - 2) | (x > right + 2) | (y < top - 2) | (y > bottom + 2)
    pictures = [draw(others | {cue: value}, 4) for value in VISIBLE[cue]]
    assert all((picture[outside] == pictures[0][outside]).all() for picture in pictures)
    assert any((picture[~outside] != pictures[0][~outside]).any() for picture in pictures)


def recognised(cue: str, values: tuple[str, ...], each: int = 30) -> float:
    """Share of thumbnails whose value a linear rule finds: nearest centroid in whitened log colours, half held out.

    The other cues are drawn at random. Regions are averaged to about 12 x 12 cells, logarithms make light additive, and
    the pooled covariance within values (shrunk by 5 %) whitens: Fisher's linear discriminant.
    """
    rng = np.random.default_rng(0)
    cells = []
    for value in values:
        for _ in range(2 * each):
            cues = random_cues(rng, without=cue) | ({} if value == "none" else {cue: value})
            sun = sun_in(cues.get("sun"), rng)
            frames = draw_frames(cues, sun, 3, 128, 96, rng)
            region = np.log(part(thumbnail(frames[1].astype(float)), cue) + 8)
            tall, wide = max(1, len(region) // 12), max(1, region.shape[1] // 12)
            region = region[: len(region) // tall * tall, : region.shape[1] // wide * wide]
            shape = (len(region) // tall, tall, region.shape[1] // wide, wide, 3)
            cells.append(region.reshape(shape).mean((1, 3)).ravel())
    features = np.array(cells).reshape(len(values), 2, each, -1)
    known, new = features[:, 0], features[:, 1]
    centroids = known.mean(1)
    within = (known - centroids[:, None]).reshape(-1, features.shape[-1])
    covariance = within.T @ within / len(within)
    covariance = 0.95 * covariance + 0.05 * np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    white = np.linalg.cholesky(np.linalg.inv(covariance))
    distance = ((new @ white)[:, :, None] - (centroids @ white)[None, None]) ** 2
    return float((distance.sum(-1).argmin(-1) == np.arange(len(values))[:, None]).mean())


def test_large_cues_are_recognised_among_random_others() -> None:
    assert recognised("vegetation", VISIBLE["vegetation"], each=20) > 0.85
    assert recognised("horizon", VISIBLE["horizon"], each=20) > 0.85
    assert recognised("sun", ("night", "twilight", "low_S", "high_S", "overhead", "none"), each=20) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("cue", VISIBLE)
def test_every_cue_is_recognised_among_random_others(cue: str) -> None:
    least = {"sun": 0.6, "snowfall": 0.5, "driving_side": 0.55, "wetness": 0.7, "soil": 0.7, "road_surface": 0.7}
    assert recognised(cue, (*VISIBLE[cue], "none")) > least.get(cue, 0.9)


# --- the light ---


def expected_shadow(sun: tuple[float, float]) -> np.ndarray:
    """Foot and tip of the post's shadow in units, from rays: an oracle of its own beside `shadow_tip`."""
    x, y, height, _ = POST
    north = 68 / (y - 52)
    east, high = (x - 80) * north / 68, height * north / 68
    elevation, azimuth = np.radians(sun)
    to_sun = np.array([np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)])
    tip = np.array([east, north, high]) - to_sun * high / to_sun[2]
    if tip[1] < 0.45:  # past the camera: any nearer point of the same line
        share = (north - 0.45) / (north - tip[1])
        tip = np.array([east, north, 0]) + share * (tip - [east, north, 0])
    return np.array([[x, y], [80 + 68 * tip[0] / tip[1], 52 + 68 / tip[1]]])


def seen_shadow(sun: tuple[float, float], seed: int) -> np.ndarray:
    """(n, 2) units: shaded pixels around the post, the post itself left out, in a steppe at 320 x 240."""
    sector = SUNS[2 + round(sun[1] / 45) % 8].removeprefix("low_")
    name = f"{'low' if sun[0] < 30 else 'high'}_{sector}"
    luminance = draw({"vegetation": "steppe", "sun": name}, seed, sun=sun, size=(320, 240)).mean(-1)
    rows, columns = np.mgrid[:240, :320]
    x, y = (columns + 0.5) / 2, (rows + 0.5) / 2
    foot_x, foot_y, height, width = POST
    beside_the_road = x > 81 + 46 * (y - 52) / 68
    around = beside_the_road & (y > 83) & (np.hypot(x - foot_x, y - foot_y) < 30)
    post = (np.abs(x - foot_x) < width / 2 + 1) & (y > foot_y - height - 1) & (y < foot_y + 1)
    dark = around & ~post & (luminance < 0.72 * np.median(luminance[around & ~post]))
    return np.stack([x[dark], y[dark]], axis=1)


@pytest.mark.parametrize("elevation", [35.0, 50.0])
def test_the_drawn_shadow_points_away_from_the_sun(elevation: float) -> None:
    errors = []
    for azimuth in range(0, 360, 15):
        shade = seen_shadow((elevation, float(azimuth)), azimuth)
        foot, tip = expected_shadow((elevation, float(azimuth)))
        if abs(tip[0] - foot[0]) < 8:  # right behind the post, or towards the camera under it
            continue
        far = shade[np.hypot(*(shade - foot).T) > 4] - foot
        mean, wanted = far.mean(0), tip - foot
        turn = math.atan2(mean[1], mean[0]) - math.atan2(wanted[1], wanted[0])
        errors.append(abs(math.degrees(math.remainder(turn, 2 * math.pi))))
    assert len(errors) >= 18 and max(errors) < 12 and np.mean(errors) < 4


@pytest.mark.parametrize("azimuth", [90.0, 270.0])
def test_lower_suns_draw_longer_shadows(azimuth: float) -> None:
    """The reach of the shade beside the post grows as the cotangent, as far as the ground beside the road."""
    for elevation in (66.0, 58.0, 52.0, 46.0):
        shade = seen_shadow((elevation, azimuth), 7)
        foot, tip = expected_shadow((elevation, azimuth))
        assert np.abs(shade[:, 0] - foot[0]).max() == pytest.approx(abs(tip[0] - foot[0]), rel=0.15, abs=2.0)


@settings(max_examples=60)
@given(elevation=st.floats(1, 90), azimuth=st.floats(0, 360))
def test_shadows_are_opposite_to_the_sun(elevation: float, azimuth: float) -> None:
    right, down = shadow_direction(azimuth)
    assert math.hypot(right, down) == pytest.approx(1)
    assert right * math.sin(math.radians(azimuth)) - down * math.cos(math.radians(azimuth)) == pytest.approx(-1)
    assert shadow_length(elevation) * math.sin(math.radians(elevation)) == pytest.approx(
        math.cos(math.radians(elevation))
    )


def test_no_shadow_without_a_sun_above_the_horizon() -> None:
    with pytest.raises(WorldError, match="between 0 and 90"):
        shadow_length(-1.0)
    for name in ("night", "twilight"):  # no azimuth in what lies on the ground
        a, b = (draw({"sun": name}, 1, sun=(-6.0, azimuth)) for azimuth in (30.0, 210.0))
        assert (a[50:] == b[50:]).all()
    assert (draw({"sun": "night"}, 1, sun=(-40.0, 10.0)) == draw({"sun": "night"}, 1, sun=(-8.0, 300.0))).all()


@pytest.mark.parametrize("sun", [(12.0, 350.0), (20.0, 12.0), (8.0, 25.0)])
def test_the_disc_stands_where_the_pinhole_sees_it(sun: tuple[float, float]) -> None:
    frame = draw({"sun": "low_N" if sun[1] != 25.0 else "low_NE", "horizon": "flat"}, 3, sun=sun)
    bearing = math.radians(sun[1])
    x = 80 + 68 * math.tan(bearing)
    y = 52 - 68 * math.tan(math.radians(sun[0])) / math.cos(bearing)
    rows, columns = np.nonzero(np.abs(frame - (255, 238, 160)).max(-1) < 12)
    assert len(rows) > 20
    assert math.hypot((columns.mean() + 0.5) / 0.8 - x, (rows.mean() + 0.5) / 0.8 - y) < 1.5


def test_night_is_darker_and_overcast_has_no_side() -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        cues = random_cues(rng, without="sun")
        night, day = draw(cues | {"sun": "night"}, seed).mean(), draw(cues | {"sun": "high_S"}, seed).mean()
        assert night < 0.7 * day
    skies = np.mean([draw({}, seed)[:30].mean((0, 2)) for seed in range(20)], axis=0)
    assert abs(skies[:64].mean() - skies[64:].mean()) < 6


# --- what moves ---


@pytest.mark.parametrize(("side", "on_right"), [("left", True), ("right", False)])
def test_the_vehicle_keeps_its_side_and_comes_nearer(side: str, on_right: bool) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cues = random_cues(rng, without="driving_side", share=0.6) | {"driving_side": side}
        for name in ("snowfall", "wetness"):
            cues.pop(name, None)
        sun = sun_in(cues.get("sun"), rng)
        frames = draw_frames(cues, sun, 12, 128, 96, np.random.default_rng(seed)).astype(int)
        still = draw_frames(
            {k: v for k, v in cues.items() if k != "driving_side"}, sun, 1, 128, 96, np.random.default_rng(seed)
        )
        present = np.abs(frames - still[0].astype(int)).max(-1) > 8
        columns = present.sum(1)  # (frames, 128)
        assert (columns[:, 64:] if on_right else columns[:, :64]).sum() > 0.98 * columns.sum()
        low = [np.nonzero(frame.any(1))[0].max() for frame in present]
        assert low == sorted(low) and low[-1] > low[0] + 15
        assert present[-1].sum() > 3 * present[0].sum()


def test_only_vehicles_and_weather_move() -> None:
    still = random_cues(np.random.default_rng(1), share=1.0)
    for name in ("driving_side", "wetness", "snowfall"):
        del still[name]
    sun = sun_in(still["sun"], np.random.default_rng(0))
    frames = draw_frames(still, sun, 5, 128, 96, np.random.default_rng(0))
    assert (frames == frames[:1]).all()
    for cue, value in (("snowfall", "flakes"), ("wetness", "wet")):
        frames = draw_frames(still | {cue: value}, sun, 5, 128, 96, np.random.default_rng(0)).astype(int)
        assert 0.01 < (np.abs(np.diff(frames, axis=0)).max(-1) > 20).mean() < 0.3


# --- the interface ---


def test_the_same_state_gives_the_same_bytes_and_another_another_picture() -> None:
    cues = random_cues(np.random.default_rng(2), share=0.8)
    sun = sun_in(cues.get("sun"), np.random.default_rng(0))
    a, b, c = (draw_frames(cues, sun, 4, 128, 96, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert a.dtype == np.uint8 and a.shape == (4, 96, 128, 3)
    assert (a == b).all() and (a != c).mean() > 0.05


def test_the_picture_is_the_same_at_any_size() -> None:
    cues = {"vegetation": "savanna_dry", "horizon": "sea", "plate": "eu_band", "script": "thai"}
    small, large = draw(cues, 3), draw(cues, 3, size=(256, 192))
    assert np.abs(large.reshape(96, 2, 128, 2, 3).mean((1, 3)) - small).mean() < 6


@pytest.mark.parametrize(
    ("cues", "sun", "size", "message"),
    [
        ({"smell": "sweet"}, None, (64, 48), "no visible cue"),
        ({"siren": "wail"}, None, (64, 48), "no visible cue"),
        ({"plate": "pink"}, None, (64, 48), "choose one of white, yellow"),
        ({"plate": "none"}, None, (64, 48), "leave it out"),
        ({"sun": "low_E"}, None, (64, 48), "both or neither"),
        ({}, (20.0, 90.0), (64, 48), "both or neither"),
        ({"sun": "low_E"}, (20.0, 270.0), (64, 48), "outside low_E"),
        ({"sun": "low_E"}, (40.0, 90.0), (64, 48), "outside low_E"),
        ({}, None, (8, 8), "16 x 16"),
    ],
)
def test_errors_name_the_cure(cues: dict, sun: tuple[float, float] | None, size: tuple[int, int], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        draw_frames(cues, sun, 1, *size, np.random.default_rng(0))
