"""Credible regions: areas against closed forms, outlines against shapely, pyproj and independent samples."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from avgeo.flow.cells import CellDensity, Cells, PosteriorError, even_cells, refine
from avgeo.flow.posterior import cell_mass
from avgeo.flow.regions import area_km2, credible_regions, hpd_level, outline, regions_geojson, sampled_areas
from avgeo.sphere import (
    EARTH_AREA_KM2,
    EARTH_RADIUS_KM,
    SPHERE_AREA,
    angle,
    fibonacci_grid,
    from_degrees,
    sample_vmf,
    to_degrees,
    uniform_log_density,
    vmf_log_prob,
)

MASSES = (0.5, 0.9, 0.95)
LAWS = {
    "broad": (50.0, 10.0, 1.0),
    "continent": (-25.0, 135.0, 30.0),
    "date line": (-20.0, 179.999, 1e5),
    "north pole": (90.0, 0.0, 300.0),
    "by the south pole": (-89.9, 40.0, 1e6),
    "a kilometre": (51.0, 7.0, 1e8),
}


def place(latitude_deg: float, longitude_deg: float) -> torch.Tensor:
    return from_degrees(*torch.tensor([latitude_deg, longitude_deg], dtype=torch.float64))


def drawn(name: str, n: int, seed: int) -> torch.Tensor:
    *at, kappa = LAWS[name]
    return sample_vmf(place(*at).expand(n, 3), kappa, torch.Generator().manual_seed(seed))


@cache
def density(name: str) -> CellDensity:
    *at, kappa = LAWS[name]
    return refine(lambda points: vmf_log_prob(points, place(*at), kappa), drawn(name, 300, 0))


def cap_km2(mass: float, kappa: float) -> float:
    """{1 - cos θ <= c} holds (1 - e^{-κc}) / (1 - e^{-2κ}) of vMF, on 2πc steradians."""
    return -math.log1p(mass * math.expm1(-2 * kappa)) / kappa * 2 * math.pi * EARTH_RADIUS_KM**2


def holds(shape: shapely.MultiPolygon, points: torch.Tensor) -> np.ndarray:
    latitude, longitude = (x.numpy() for x in to_degrees(points))
    return shapely.contains_xy(shape, longitude, latitude)


def check_rfc7946(shape: shapely.MultiPolygon) -> None:
    assert shape.is_valid and shape.geom_type == "MultiPolygon"
    left, bottom, right, top = shape.bounds
    assert left >= -180 and right <= 180 and bottom >= -90 and top <= 90
    for part in shape.geoms:
        assert part.exterior.is_ccw and not any(ring.is_ccw for ring in part.interiors)
        for ring in (part.exterior, *part.interiors):
            steps = np.abs(np.diff(shapely.get_coordinates(ring), axis=0))
            assert steps.max() <= 2 + 1e-9 and np.minimum(*steps.T).max() < 1e-9  # no long edge, none aslant


@pytest.mark.parametrize("name", LAWS)
def test_regions_of_a_von_mises_fisher_law(name):
    found, kappa = density(name), LAWS[name][2]
    regions = credible_regions(found.log_prob, found.cells.area, MASSES)
    fresh = drawn(name, 4000, seed=7)
    for region, mass in zip(regions, MASSES, strict=True):
        assert mass <= region.probability < mass + 1.1e-3
        assert region.area_km2 == pytest.approx(cap_km2(mass, kappa), rel=0.01)
        shape = outline(found.cells, region.inside)
        check_rfc7946(shape)
        assert area_km2(shape) == pytest.approx(region.area_km2, rel=1e-9)
        assert holds(shape, fresh).mean() == pytest.approx(mass, abs=4 * math.sqrt(mass * (1 - mass) / 4000) + 2e-3)
    inside = torch.stack([region.inside for region in regions])
    assert bool((inside[0] <= inside[1]).all() and (inside[1] <= inside[2]).all())  # nested


def test_date_line_and_poles_are_cut_as_rfc_7946_asks():
    found = density("date line")
    shape = outline(found.cells, credible_regions(found.log_prob, found.cells.area, (0.9,))[0].inside)
    assert len(shape.geoms) == 2 and shape.bounds[0] == -180 and shape.bounds[2] == 180
    found = density("north pole")
    shape = outline(found.cells, credible_regions(found.log_prob, found.cells.area, (0.9,))[0].inside)
    assert len(shape.geoms) == 1 and shape.bounds[::2] == (-180, 180) and shape.bounds[3] == 90
    everywhere = outline(even_cells(200), torch.ones(len(even_cells(200)), dtype=torch.bool))
    assert everywhere.equals(shapely.box(-180, -90, 180, 90))
    assert area_km2(everywhere) == pytest.approx(EARTH_AREA_KM2, rel=1e-12)


@pytest.mark.parametrize(("latitude_deg", "longitude_deg"), [(20.0, 30.0), (0.0, 180.0), (90.0, 0.0)])
def test_a_ring_has_a_hole_and_two_hills_two_parts(latitude_deg, longitude_deg):
    centre = place(latitude_deg, longitude_deg)

    def ring(points):  # a band of 0.02 rad at 0.3 rad from the centre, not normalised: its integral is divided out
        return -((angle(points, centre) - 0.3) ** 2) / (2 * 0.02**2)

    found = refine(ring)
    log_prob = found.log_prob - math.log(found.total)
    (region,) = credible_regions(log_prob, found.cells.area, (0.9,))
    shape = outline(found.cells, region.inside)
    check_rfc7946(shape)
    reach = 1.6449 * 0.02  # 90 % of a normal law, up to the ring's own curvature
    band = 2 * math.pi * (math.cos(0.3 - reach) - math.cos(0.3 + reach)) * EARTH_RADIUS_KM**2
    assert region.area_km2 == pytest.approx(band, rel=0.01)
    assert area_km2(shape) == pytest.approx(region.area_km2, rel=1e-9)
    assert not holds(shape, centre[None]).any()
    if longitude_deg == 30.0:
        assert len(shape.geoms) == 1 and len(shape.geoms[0].interiors) == 1
    two = torch.stack([place(0, 0), place(0, 90)])
    cells = refine(lambda points: torch.logsumexp(vmf_log_prob(points[:, None], two, 500.0), -1) - math.log(2), two)
    (region,) = credible_regions(cells.log_prob, cells.cells.area, (0.9,))
    assert len(outline(cells.cells, region.inside).geoms) == 2


@given(st.integers(0, 2**30), st.integers(20, 600))
@settings(max_examples=25)
def test_any_set_of_cells_has_a_valid_outline_of_its_own_area(seed, count):
    draw = torch.Generator().manual_seed(seed)
    cells = even_cells(count)
    again = torch.rand(len(cells), generator=draw) < 0.3
    cells = Cells(torch.cat([cells.bounds[~again], Cells(cells.bounds[again]).quartered().bounds]))
    inside = torch.rand(len(cells), generator=draw) < torch.rand(1, generator=draw).clamp_min(0.02)
    inside[int(torch.randint(len(cells), (1,), generator=draw))] = True
    shape = outline(cells, inside)
    check_rfc7946(shape)
    assert area_km2(shape) == pytest.approx(float(cells.area[inside].sum()) * EARTH_RADIUS_KM**2, rel=1e-9)
    assert holds(shape, cells.points[inside]).all() and not holds(shape, cells.points[~inside]).any()


def test_area_of_polygons_agrees_with_an_equal_area_map_and_with_pyproj():
    pyproj = pytest.importorskip("pyproj")
    ellipse = shapely.segmentize(shapely.affinity.scale(shapely.Point(20, 35).buffer(1, 64), 40, 20), 0.1)
    shape = ellipse.difference(shapely.box(10, 30, 25, 40))

    def lambert(degrees):
        return np.stack([np.radians(degrees[:, 0]), np.sin(np.radians(degrees[:, 1]))], -1)

    flat = shapely.transform(shapely.segmentize(shape, 0.01), lambert)
    assert area_km2(shape) == pytest.approx(flat.area * EARTH_RADIUS_KM**2, rel=1e-6)
    kite = shapely.Polygon([(0, -60), (100, 10), (30, 80), (-20, 20)])  # long edges aslant, each integrated exactly
    flat_kite = shapely.transform(shapely.segmentize(kite, 0.01), lambert)
    assert area_km2(kite) == pytest.approx(flat_kite.area * EARTH_RADIUS_KM**2, rel=1e-6)
    geod = pyproj.Geod(a=EARTH_RADIUS_KM * 1000, b=EARTH_RADIUS_KM * 1000)
    fine = shapely.geometry.polygon.orient(shapely.segmentize(shape, 0.05))
    assert area_km2(shape) == pytest.approx(geod.geometry_area_perimeter(fine)[0] / 1e6, rel=1e-4)


def test_geojson_is_plain_json_with_the_largest_region_first():
    found = density("date line")
    regions = credible_regions(found.log_prob, found.cells.area, MASSES)
    features = json.loads(json.dumps(regions_geojson(found, regions), allow_nan=False))
    assert [item["properties"]["mass"] for item in features] == [0.95, 0.9, 0.5]
    for item, region in zip(features, reversed(regions), strict=True):
        assert item["type"] == "Feature" and item["properties"]["role"] == "credible region"
        assert item["properties"]["area_km2"] == region.area_km2
        shape = shapely.geometry.shape(item["geometry"])
        check_rfc7946(shape)
        assert area_km2(shape) == pytest.approx(region.area_km2, rel=1e-9)
        for polygon in item["geometry"]["coordinates"]:
            assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in polygon)


def test_regions_are_the_smallest_sets_by_brute_force():
    draw = torch.Generator().manual_seed(0)
    log_prob = torch.log_softmax(torch.randn(9, generator=draw).double(), 0)
    area = torch.rand(9, generator=draw).double() + 0.5
    log_prob = log_prob - torch.logsumexp(log_prob + area.log(), 0)
    share = cell_mass(log_prob, area)
    for region in credible_regions(log_prob, area, (0.3, 0.6, 0.9)):
        sets = [torch.tensor([bool(code >> bit & 1) for bit in range(9)]) for code in range(1, 512)]
        # no set with as much mass is smaller than the region without its last cell
        enough = [float(area[chosen].sum()) for chosen in sets if float(share[chosen].sum()) >= region.mass]
        last = int(torch.where(region.inside, log_prob, math.inf).argmin())
        steradians = region.area_km2 / EARTH_RADIUS_KM**2
        assert steradians - float(area[last]) < min(enough) <= steradians + 1e-9
        assert float(share[region.inside].sum()) == pytest.approx(region.probability)


def test_an_even_density_takes_its_share_of_the_earth():
    regions = credible_regions(torch.full((1000,), uniform_log_density()), SPHERE_AREA / 1000, MASSES)
    for region, mass in zip(regions, MASSES, strict=True):
        assert region.area_km2 == pytest.approx(mass * EARTH_AREA_KM2, rel=2.5e-3)


@pytest.mark.parametrize("kappa", [2.0, 300.0, 1e6])
def test_areas_from_samples_and_their_errors(kappa):
    here = place(10.0, 179.9)
    runs = []
    for seed in range(60):
        samples = sample_vmf(here.expand(1500, 3), kappa, torch.Generator().manual_seed(seed))
        runs.append([(e.value, e.standard_error) for _, e in sampled_areas(vmf_log_prob(samples, here, kappa), MASSES)])
    values, errors = np.array(runs).transpose(2, 1, 0)
    for at, mass in enumerate(MASSES):
        assert values[at].mean() == pytest.approx(cap_km2(mass, kappa), rel=0.01)
        assert errors[at].mean() == pytest.approx(values[at].std(), rel=0.35)


# --- how much mass lies above the truth ---


@pytest.mark.parametrize("kappa", [0.5, 50.0, 1e6])
def test_level_is_the_mass_of_the_cap_through_the_truth(kappa):
    here = place(-45.0, 180.0)
    truths = sample_vmf(here.expand(400, 3), kappa, torch.Generator().manual_seed(1))
    samples = sample_vmf(here.expand(300, 3), kappa, torch.Generator().manual_seed(2))
    drop = (truths - here).square().sum(-1) / 2
    expected = torch.expm1(-kappa * drop) / math.expm1(-2 * kappa)
    at_truth = vmf_log_prob(truths, here, kappa)
    found = refine(lambda points: vmf_log_prob(points, here, kappa), samples)
    mass = cell_mass(found.log_prob, found.cells.area)
    on_cells = hpd_level(at_truth, found.log_prob.expand(400, -1), mass.expand(400, -1))
    assert float((on_cells - expected).abs().max()) < 0.01
    ranks = hpd_level(at_truth, vmf_log_prob(samples, here, kappa).expand(400, -1))
    assert float((ranks - expected).abs().max()) < 0.1
    assert kstest(on_cells.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("n", [1, 3, 40])
def test_rank_among_samples_is_uniform_for_any_number_of_them_and_with_ties(n):
    draw = torch.Generator().manual_seed(n)
    values = torch.randn(4000, n + 1, generator=draw)
    for log_prob in (values, values.round(), torch.zeros_like(values)):
        levels = hpd_level(log_prob[:, 0], log_prob[:, 1:], seed=3)
        assert kstest(levels.numpy(), "uniform").pvalue > 0.01
    mass = torch.full((4000, n), 1 / n)
    flat = hpd_level(torch.zeros(4000), torch.zeros(4000, n), mass)
    assert kstest(flat.numpy(), "uniform").pvalue > 0.01


def test_level_is_zero_at_the_mode_and_one_where_nothing_is():
    log_prob = torch.tensor([[0.0, -1.0, -2.0]]).expand(2, -1)
    mass = torch.tensor([[0.5, 0.3, 0.2]]).expand(2, -1)
    levels = hpd_level(torch.tensor([1.0, -math.inf]), log_prob, mass)
    assert levels.tolist() == pytest.approx([0, 1])
    assert hpd_level(torch.tensor([-1.5]), log_prob[:1], mass[:1]).tolist() == pytest.approx([0.8])


# --- bad input ---


def test_bad_input_is_named():
    cells = even_cells(100)
    even = torch.full((len(cells),), uniform_log_density())
    for masses in ((), (0.0,), (1.0,), (0.5, math.nan)):
        with pytest.raises(PosteriorError, match="masses must lie between 0 and 1"):
            credible_regions(even, cells.area, masses)
        with pytest.raises(PosteriorError, match="masses must lie between 0 and 1"):
            sampled_areas(even, masses)
    with pytest.raises(PosteriorError, match="log_prob is empty"):
        sampled_areas(torch.empty(0))
    with pytest.raises(PosteriorError, match="NaN"):
        credible_regions(torch.full((5,), math.nan), 1.0)
    with pytest.raises(PosteriorError, match="∫ p dA"):
        credible_regions(even + 1, cells.area)
    with pytest.raises(PosteriorError, match="cells: one truth value each"):
        outline(cells, torch.ones(3, dtype=torch.bool))
    with pytest.raises(PosteriorError, match="holds no cell"):
        outline(cells, torch.zeros(len(cells), dtype=torch.bool))
    with pytest.raises(PosteriorError, match="one row per clip"):
        hpd_level(torch.zeros(2), torch.zeros(3, 4))
    with pytest.raises(PosteriorError, match="give it alike"):
        hpd_level(torch.zeros(3), torch.zeros(3, 4), torch.ones(3, 5))
    with pytest.raises(PosteriorError, match="truth_log_prob holds NaN"):
        hpd_level(torch.full((3,), math.nan), torch.zeros(3, 4))


def test_a_fibonacci_grid_that_is_fine_enough_will_do():
    here = place(48.0, 2.0)
    log_prob = vmf_log_prob(fibonacci_grid(20_000).double(), here, 100.0)
    for region in credible_regions(log_prob, SPHERE_AREA / 20_000, MASSES):
        assert region.area_km2 == pytest.approx(cap_km2(region.mass, 100.0), rel=0.02)
