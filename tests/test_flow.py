"""The flow: path, divergence, solver, and a density that integrates to one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from avgeo.flow import (
    Condition,
    SphereFlow,
    drop_modalities,
    geodesic_path,
    integrate,
    integrate_back,
    summarize,
    time_grid,
    total_probability,
    train_flow,
)
from avgeo.profiles import FlowSettings
from avgeo.sphere import (
    distance_km,
    exp_map,
    fibonacci_grid,
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
    # the gradient of z on the sphere has divergence -2z; extended by projection only, its ambient trace is -4z + ...
    points = normalize(sample_uniform(50, torch.Generator().manual_seed(0)).double())
    pole = torch.tensor([0.0, 0, 1]).double()

    def field(p: torch.Tensor) -> torch.Tensor:
        return project(p, pole.expand_as(p))

    for point in points:
        jacobian = torch.autograd.functional.jacobian(field, point)
        frame = tangent_frame(point[None])[0]
        intrinsic = float(torch.trace(frame.T @ jacobian @ frame))
        assert intrinsic == pytest.approx(-2 * float(point[2]), abs=1e-12)
        assert abs(float(torch.trace(jacobian)) - intrinsic) == pytest.approx(2 * abs(float(point[2])), abs=1e-12)


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
        total, error = total_probability(flow, condition[row : row + 1], count=4000)
        assert abs(total - 1) < max(4 * error, 0.02), (total, error)
        assert error < 0.2
    samples = flow.sample(condition[:2], 200)
    assert samples.shape == (2, 200, 3)
    for row in (0, 1):
        truth = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8]])[kind[row]]
        assert float(distance_km(summarize(samples[row], torch.zeros(200)).estimate, truth)) < 2500


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


def test_summary_of_a_von_mises_fisher_law():
    mean = torch.tensor([0.0, 0.6, 0.8])
    kappa = 300.0
    samples = sample_vmf(mean.expand(20_000, 3), kappa, torch.Generator().manual_seed(0))
    found = summarize(samples[:4000], vmf_log_prob(samples[:4000], mean, kappa))
    assert float(distance_km(found.estimate, mean)) < 60
    for mass, area in found.regions:  # {1 - cos θ <= c} holds mass (1 - e^{-κc}) and area 2πc
        expected = -math.log(1 - mass) / kappa * 2 * math.pi * 6371.0088**2
        assert area == pytest.approx(expected, rel=0.1)
    nats = 1 - math.log(kappa / (2 * math.pi)) - math.log(4 * math.pi)  # entropy of a sharp vMF, against uniform
    assert found.entropy_bits == pytest.approx(nats / math.log(2), abs=0.1)


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


def test_bad_arguments_name_their_cure():
    flow = SphereFlow(SMALL, 5, 7)
    with pytest.raises(ValueError, match="one point per clip"):
        flow.log_prob(sample_uniform(3), condition_of(2))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        time_grid(0)
