"""Riemannian flow matching on the sphere: a conditional density over the Earth."""

from avgeo.flow.base import Base, Uniform, VmfMixture
from avgeo.flow.density import SphereFlow, Summary, point_estimate, summarize, total_probability
from avgeo.flow.network import MODALITIES, Condition, VelocityField
from avgeo.flow.path import geodesic_path, sample_times
from avgeo.flow.solver import integrate, integrate_back, time_grid
from avgeo.flow.training import drop_modalities, train_flow
from avgeo.flow.transport import paired

__all__ = [
    "MODALITIES",
    "Base",
    "Condition",
    "SphereFlow",
    "Summary",
    "Uniform",
    "VelocityField",
    "VmfMixture",
    "drop_modalities",
    "geodesic_path",
    "integrate",
    "integrate_back",
    "paired",
    "point_estimate",
    "sample_times",
    "summarize",
    "time_grid",
    "total_probability",
    "train_flow",
]
