"""The flow: path, divergence, solver, and a density that integrates to one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import kstest

from avgeo.flow import (
    Base,
    Condition,
    KernelMixture,
    SphereFlow,
    Uniform,
    drop_modalities,
    entropy_bits,
    geodesic_path,
    integrate,
    integrate_back,
    log_likelihood,
    paired,
    point_estimate,
    sampled_areas,
    time_grid,
    total_probability,
    train_flow,
)
from avgeo.profiles import FlowSettings
from avgeo.sphere import (
    angle,
    distance_km,
    exp_map,
    fibonacci_grid,
    log_map,
    normalize,
    project,
    sample_uniform,
    sample_vmf,
    tangent_frame,
    uniform_log_density,
    vmf_log_prob,
)

SMALL = FlowSettings(
    width=48,
    depth=2,
    condition=24,
    steps=150,
    batch=64,
    times_per_clip=4,
    solver_steps=24,
    jitter_kappa=200.0,
    dropout=0.1,
    noise=0.1,
)


def condition_of(count: int, seed: int = 0) -> Condition:
    draw = torch.Generator().manual_seed(seed)
    known = torch.ones(count, dtype=torch.bool)
    return Condition(
        torch.rand(count, 5, generator=draw),
        torch.rand(count, 7, generator=draw),
        sample_uniform(count, draw),
        known, known, known,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> tuple[SphereFlow, Condition, torch.Tensor]:
    """Two kinds of clip, told apart by sound alone, recorded around two places."""
    draw = torch.Generator().manual_seed(1)
    kind = torch.randint(2, (300,), generator=draw)
    places = sample_vmf(torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8]])[kind], 60.0, draw)
    condition = condition_of(300)
    condition = replace(condition, sound=torch.nn.functional.one_hot(kind, 5).float())
    flow, history = train_flow(places, condition, SMALL, 0)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    return flow, condition, kind


def test_path_velocity_is_the_derivative_along_the_geodesic():
    draw = torch.Generator().manual_seed(0)
    start, end = (normalize(sample_uniform(64, draw).double()) for _ in range(2))
    time = torch.rand(64, generator=draw).double() * 0.98
    point, velocity = geodesic_path(start, end, time)
    step = 1e-5
    ahead, behind = (geodesic_path(start, end, time + sign * step)[0] for sign in (1, -1))
    assert float(((ahead - behind) / (2 * step) - velocity).abs().max()) < 1e-6
    assert float(exp_map(point, (1 - time)[:, None] * velocity).sub(end).abs().max()) < 1e-6
    assert float(geodesic_path(start, end, torch.zeros(64).double())[0].sub(start).abs().max()) < 1e-12


POINTS = normalize(torch.tensor([[1.0, 0.2, 0.1], [-0.3, 0.9, 0.4]]).double())
WEIGHTS = (0.3, 0.7)


def on_the_way(x: torch.Tensor, end: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """p_t(x | end), chapter 4's closed form."""
    r = angle(x, end)
    inside = r < (1 - time) * math.pi
    return inside * torch.sin(r / (1 - time)) / ((1 - time) * torch.sin(r)) / (4 * math.pi)


def marginal(x: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """p_t(x) and u_t(x) of the law that is `POINTS` with `WEIGHTS`."""
    parts = [weight * on_the_way(x, end, time) for weight, end in zip(WEIGHTS, POINTS, strict=True)]
    density = sum(parts, torch.zeros(()))
    left = (1 - time)[..., None]
    ways = [part[..., None] * log_map(x, end.expand_as(x)) / left for part, end in zip(parts, POINTS, strict=True)]
    flux = sum(ways, torch.zeros(()))
    return density, flux / density[..., None]


@pytest.mark.parametrize("time", [0.0, 0.3, 0.8])
def test_the_law_on_the_way_to_a_point_in_closed_form(time):
    end = POINTS[:1].expand(4000, 3)
    start = sample_uniform(4000, torch.Generator().manual_seed(3)).double()
    points, _ = geodesic_path(start, end, torch.full((4000,), time).double())
    radius = angle(points, end).numpy()
    reach = (1 - time) * math.pi
    # the distribution of r that the density implies: 2π ∫ p sin r dr
    grid = torch.linspace(1e-6, reach - 1e-9, 20_001).double()
    around = exp_map(end[:1].expand(len(grid), 3), grid[:, None] * tangent_frame(end[:1])[..., 0])
    density = (
        2 * math.pi * torch.sin(grid) * on_the_way(around, end[:1].expand(len(grid), 3), torch.tensor(time).double())
    )
    share = torch.cumulative_trapezoid(density, grid).numpy()
    assert share[-1] == pytest.approx(1, abs=1e-6)
    found = kstest(radius, lambda r: np.interp(r, grid[1:].numpy(), share))
    assert found.pvalue > 1e-3


def test_marginal_velocity_satisfies_the_continuity_equation():
    points = sample_uniform(300, torch.Generator().manual_seed(1)).double()
    time, step = torch.tensor(0.25).double(), 1e-5
    reach = float(1 - time) * math.pi - 0.1
    points = points[(angle(points, POINTS[:1]) < reach) & (angle(points, POINTS[1:]) < reach)]
    assert len(points) > 100
    frame = tangent_frame(points)
    changes = (marginal(points, time + step)[0] - marginal(points, time - step)[0]) / (2 * step)

    def flux(x: torch.Tensor) -> torch.Tensor:
        density, velocity = marginal(x, time)
        return density[..., None] * velocity

    divergence = torch.zeros(len(points)).double()
    for axis in frame.unbind(-1):
        ahead, behind = (flux(exp_map(points, sign * step * axis)) for sign in (1, -1))
        divergence += ((ahead - behind) / (2 * step) * axis).sum(-1)
    assert float((changes + divergence).abs().max()) < 1e-6 < float(changes.abs().mean())


def test_marginal_velocity_is_the_least_squares_answer():
    """For any field v, E<v, conditional velocity> = E<v, marginal velocity>: so both losses have one gradient."""
    draw = torch.Generator().manual_seed(0)
    count = 60_000
    chosen = torch.multinomial(torch.tensor(WEIGHTS), count, replacement=True, generator=draw)
    time = 0.9 * torch.rand(count, generator=draw).double()
    x, conditional = geodesic_path(sample_uniform(count, draw).double(), POINTS[chosen], time)
    average = marginal(x, time)[1]
    for seed in range(3):
        field = project(x, torch.sin(3 * x @ torch.randn(3, 3, generator=draw).double() + seed + time[:, None]))
        gap = (field * (conditional - average)).sum(-1)
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(count)
    assert float((conditional - average).norm(dim=-1).mean()) > 0.1  # they do differ, sample by sample


def test_divergence_against_autograd_and_against_a_known_field():
    torch.manual_seed(0)
    flow = SphereFlow(SMALL, 5, 7)
    torch.nn.init.normal_(flow.field.head.weight)
    flow = flow.double()
    points = normalize(sample_uniform(16, torch.Generator().manual_seed(0)).double())
    modulation = torch.randn(16, SMALL.width * 2 * SMALL.depth).double()
    frame = tangent_frame(points)
    velocity, divergence = (part.detach() for part in flow.field.with_divergence(points, modulation, frame))
    assert float((velocity * points).sum(-1).abs().max()) < 1e-12
    assert torch.allclose(velocity, flow.field(points, modulation))
    for row in range(16):
        jacobian = torch.autograd.functional.jacobian(
            lambda p, row=row: flow.field(p[None], modulation[row : row + 1])[0], points[row]
        )
        expected = torch.trace(frame[row].T @ jacobian @ frame[row])
        assert float(divergence[row]) == pytest.approx(float(expected), abs=1e-9)


def test_ambient_trace_is_not_the_divergence():
    """The gradient of z as written, v(p) = e_z - z p: its divergence on the sphere is -2z, its ambient trace -4z."""
    points = normalize(fibonacci_grid(3000).double())
    pole = torch.tensor([0.0, 0, 1]).double()

    def field(p: torch.Tensor, time: float = 0.0) -> torch.Tensor:
        return project(p, pole.expand_as(p))

    for point in points[::60]:
        jacobian = torch.autograd.functional.jacobian(field, point)
        frame = tangent_frame(point[None])[0]
        intrinsic = float(torch.trace(frame.T @ jacobian @ frame))
        assert intrinsic == pytest.approx(-2 * float(point[2]), abs=1e-12)
        assert abs(float(torch.trace(jacobian)) - intrinsic) == pytest.approx(2 * abs(float(point[2])), abs=1e-12)
    # the change of variables makes a density of the one and not of the other
    total = {
        trace: float(
            log_likelihood(field, lambda p, t, _, trace=trace: (field(p), trace * p[:, 2]), points, 40).exp().mean()
            * 4 * math.pi
        )
        for trace in (-2.0, -4.0)
    }  # fmt: skip
    assert total[-2.0] == pytest.approx(1, abs=1e-3) and total[-4.0] > 1.5


def test_solver_is_second_order_and_stays_on_the_sphere():
    pole = torch.tensor([0.0, 0, 1]).double()
    start = normalize(sample_uniform(200, torch.Generator().manual_seed(0)).double())

    def field(points: torch.Tensor, time: float) -> torch.Tensor:
        turning = torch.linalg.cross(pole.expand_as(points), points) * 2
        return turning + project(points, torch.tensor([math.cos(3 * time), 1.0, 0.5]).double().expand_as(points))

    exact = integrate(field, start, 1000)
    errors = [float(distance_km(integrate(field, start, steps), exact).max()) for steps in (10, 20, 40)]
    assert errors[0] / errors[1] > 3.2 and errors[1] / errors[2] > 3.2
    assert float(integrate(field, start, 10).norm(dim=-1).sub(1).abs().max()) < 1e-12


def test_density_of_a_flow_known_in_closed_form():
    """Pushing the uniform law along a·grad(z): mu = tanh-shifted z, whose density has a closed form."""
    pole = torch.tensor([0.0, 0, 1]).double()
    speed = 1.3

    def field(points, time):
        return speed * project(points, pole.expand_as(points))

    def with_divergence(points, time, frame):
        return field(points, time), -2 * speed * points[:, 2]

    end = normalize(fibonacci_grid(4000).double())
    back, total = integrate_back(field, with_divergence, end, 200)
    # dz/dt = a (1 - z²), so z_0 = tanh(atanh z_1 - a) and p_1 = p_0 dz_0/dz_1
    z0 = torch.tanh(torch.atanh(end[:, 2]) - speed)
    assert float((back[:, 2] - z0).abs().max()) < 1e-3
    expected = uniform_log_density() + torch.log((1 - z0**2) / (1 - end[:, 2] ** 2))
    assert float((uniform_log_density() - total - expected).abs().max()) < 5e-3
    assert float(torch.exp(uniform_log_density() - total).mean() * 4 * math.pi) == pytest.approx(1, abs=1e-3)


def test_trained_density_integrates_to_one_and_finds_the_place(trained):
    flow, condition, kind = trained
    for row in (0, 1):
        found = total_probability(flow, condition[row : row + 1], steps=48)  # 24 leave 1.5e-3, 96 leave 4e-5
        assert found.grid == pytest.approx(1, abs=1e-3)
        assert found.sampling_se < 0.01 and abs(found.sampling - 1) < 4 * found.sampling_se
    samples = flow.sample(condition[:2], 200)
    assert samples.shape == (2, 200, 3)
    for row in (0, 1):
        truth = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8]])[kind[row]]
        assert float(distance_km(point_estimate(samples[row]), truth)) < 2500


def test_sampling_and_log_prob_describe_one_law(trained):
    """E_p[1/p] over the part that is sampled is its area: the two directions of the flow must agree."""
    flow, condition, _ = trained
    same = condition[torch.zeros(800, dtype=torch.long)]
    samples = flow.sample(condition[:1], 800, steps=40)[0]
    log_prob = flow.log_prob(samples, same, steps=40)
    grid = fibonacci_grid(6000)
    on_grid = flow.log_prob(grid, condition[torch.zeros(6000, dtype=torch.long)], steps=40)
    threshold = float(log_prob.quantile(0.5))
    mass_on_grid = float((on_grid.exp() * (on_grid >= threshold)).mean() * 4 * math.pi)
    assert mass_on_grid == pytest.approx(0.5, abs=0.08)


def test_hidden_modalities_cannot_matter(trained):
    flow, condition, _ = trained
    other = replace(condition_of(300, seed=9), sound=condition.sound)
    points = sample_uniform(20, torch.Generator().manual_seed(0))
    first, second = (flow.log_prob(points, item[:20].only("sound")) for item in (condition, other))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="choose from sound, sight, proposal"):
        condition.only("smell")


def test_modalities_are_dropped_independently_at_their_rates():
    settings = replace(SMALL, drop_sound=0.3, drop_sight=0.5, drop_proposal=0.9)
    shown = drop_modalities(condition_of(20_000)[:], settings, torch.Generator().manual_seed(0))
    rates = [float(mask.float().mean()) for mask in (shown.has_sound, shown.has_sight, shown.has_proposal)]
    assert rates == pytest.approx([0.7, 0.5, 0.1], abs=0.02)
    both = float((shown.has_sound & shown.has_sight).float().mean())
    assert both == pytest.approx(0.35, abs=0.02)


def test_estimate_areas_and_entropy_of_a_von_mises_fisher_law():
    mean = torch.tensor([0.0, 0.6, 0.8])
    kappa = 300.0
    samples = sample_vmf(mean.expand(20_000, 3), kappa, torch.Generator().manual_seed(0))
    log_prob = vmf_log_prob(samples[:4000], mean, kappa)
    assert float(distance_km(point_estimate(samples[:4000]), mean)) < 60
    for mass, area in sampled_areas(log_prob, (0.5, 0.9)):  # {1 - cos θ <= c} holds mass (1 - e^{-κc}) and area 2πc
        expected = -math.log(1 - mass) / kappa * 2 * math.pi * 6371.0088**2
        assert area.value == pytest.approx(expected, rel=0.1)
    nats = 1 - math.log(kappa / (2 * math.pi)) - math.log(4 * math.pi)  # entropy of a sharp vMF, against uniform
    assert entropy_bits(log_prob).value == pytest.approx(nats / math.log(2), abs=0.1)


def test_training_repeats_and_weights_survive_a_round_trip(tmp_path):
    places, condition = sample_uniform(40, torch.Generator().manual_seed(0)), condition_of(40)
    settings = replace(SMALL, steps=12)
    first, history = train_flow(places, condition, settings, 3)
    second, again = train_flow(places, condition, settings, 3)
    assert history["loss"].tolist() == again["loss"].tolist()
    first.save_pretrained(tmp_path)
    loaded = SphereFlow.from_pretrained(tmp_path)
    points = sample_uniform(40, torch.Generator().manual_seed(5))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]) and torch.equal(tensor, second.state_dict()[name]), name
    assert torch.allclose(loaded.log_prob(points, condition), second.log_prob(points, condition), atol=1e-4)
    assert not list(tmp_path.glob("*.p*t"))  # safetensors and JSON only


def two_kernels() -> KernelMixture:
    """vMF laws of κ 3 and 40, and the uniform law."""
    mean = normalize(torch.tensor([[1.0, 0, 0], [0, 1.0, 0.5]]))
    variance = torch.tensor([[1 / 3, 1 / 3], [1 / 40, 1 / 40]])
    return KernelMixture(mean, tangent_frame(mean)[..., 0], variance, torch.softmax(torch.tensor([0.0, 1, 0.5]), 0)[:2])


@pytest.mark.parametrize("base", [Uniform(), two_kernels()], ids=["uniform", "mixture"])
def test_a_base_integrates_to_one_and_is_what_it_samples(base):
    grid = fibonacci_grid(20_000)
    mass = base.log_prob(grid).exp() * 4 * math.pi / len(grid)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-3)
    drawn = base.sample(20_000, torch.Generator().manual_seed(0)).to(grid)
    for axis in (torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0.8, -0.6])):
        expected, noise = float((mass * (grid @ axis)).sum()), float((drawn @ axis).std()) / math.sqrt(len(drawn))
        assert abs(float((drawn @ axis).mean()) - expected) < 4 * noise
    assert base.sample(0).shape == (0, 3)


def test_a_flow_that_stands_still_is_its_base(tmp_path):
    flow = SphereFlow(SMALL, 5, 7, base=two_kernels()).eval()  # the head begins at zero
    points = sample_uniform(50, torch.Generator().manual_seed(0))
    assert torch.allclose(flow.log_prob(points, condition_of(50)), flow.base.log_prob(points), atol=1e-5)
    flow.save_pretrained(tmp_path)
    again = SphereFlow.from_pretrained(tmp_path)
    assert isinstance(again.base, KernelMixture) and again.settings == SMALL
    assert torch.equal(again.base.log_prob(points), flow.base.log_prob(points))


def test_training_from_another_base_is_still_a_density():
    draw = torch.Generator().manual_seed(1)
    places = sample_vmf(torch.tensor([[1.0, 0, 0]]).expand(200, 3), 60.0, draw)
    flow, _ = train_flow(places, Condition.nothing(200), replace(SMALL, transport=32), 0, two_kernels())
    assert total_probability(flow, Condition.nothing(1), count=10).grid == pytest.approx(1, abs=1e-3)
    assert float(flow.log_prob(places, Condition.nothing(200)).mean()) > float(flow.base.log_prob(places).mean()) + 0.5
    known = condition_of(200)
    with pytest.raises(ValueError, match="transport pairs rows across conditions"):
        train_flow(places, known, replace(SMALL, transport=32), 0)
    with pytest.raises(ValueError, match="give as many"):
        train_flow(places[:3], known, SMALL, 0)


def test_guidance_of_one_changes_nothing_and_any_other_is_a_density(trained):
    flow, condition, kind = trained
    points = sample_uniform(30, torch.Generator().manual_seed(0))
    plain = flow.log_prob(points, condition[:30])
    assert torch.equal(plain, flow.log_prob(points, condition[:30], guidance=1.0))
    hidden = flow.log_prob(points, condition[:30].only())
    assert torch.allclose(flow.log_prob(points, condition[:30], guidance=0.0), hidden, atol=1e-4)
    sure = []
    for guidance in (0.5, 1.0, 2.0):
        total = total_probability(flow, condition[:1], count=10, steps=48, guidance=guidance).grid
        assert total == pytest.approx(1, abs=1e-3), guidance
        samples = flow.sample(condition[:1], 300, guidance=guidance)[0]
        truth = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8]])[kind[0]]
        sure.append(float((distance_km(samples, truth) < 2500).float().mean()))
    assert sure[0] < sure[1] <= sure[2] + 0.02
    with pytest.raises(ValueError, match="guidance must be a number of at least 0"):
        flow.sample(condition[:1], 3, guidance=-1.0)


def test_transport_keeps_the_points_and_is_the_best_pairing():
    draw = torch.Generator().manual_seed(0)
    start, end = sample_uniform(70, draw), sample_uniform(70, draw)
    moved = paired(start, end, 32)
    for first in range(0, 70, 32):
        block = slice(first, first + 32)
        assert {tuple(row) for row in moved[block].tolist()} == {tuple(row) for row in start[block].tolist()}
        cost = angle(end[block][:, None], start[block][None]).square().numpy()
        best = cost[linear_sum_assignment(cost)].sum()
        assert float(angle(moved[block], end[block]).square().sum()) == pytest.approx(best, rel=1e-5)
    assert torch.equal(paired(start, end, 1), start) and len(paired(start[:0], end[:0], 8)) == 0
    with pytest.raises(ValueError, match="block must be at least 1"):
        paired(start, end, 0)


def test_bases_are_known_by_their_names():
    assert set(Base.kinds) >= {"Uniform", "KernelMixture"}


def test_bad_arguments_name_their_cure():
    flow = SphereFlow(SMALL, 5, 7)
    with pytest.raises(ValueError, match="one clip for all, or one a point"):
        flow.log_prob(sample_uniform(3), condition_of(2))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        time_grid(0)
