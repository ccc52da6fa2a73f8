"""Riemannian flow matching on the sphere: a conditional density over the Earth, and what to ask of it."""

from avgeo.flow.base import Base, Uniform
from avgeo.flow.cells import CellDensity, Cells, PosteriorError, refine
from avgeo.flow.density import SphereFlow, point_estimate, total_probability
from avgeo.flow.kernels import DensityError, KernelMixture, fit_kernels, fit_plain
from avgeo.flow.likelihood import grid_probabilities, hutchinson, log_likelihood
from avgeo.flow.mixture import fit_vmf_mixture
from avgeo.flow.network import MODALITIES, Condition, ConditionError, VelocityField
from avgeo.flow.path import geodesic_path, sample_times
from avgeo.flow.posterior import (
    Estimate,
    Share,
    energy_score,
    entropy_bits,
    grid_entropy_bits,
    grid_probability_by,
    mode,
    probability_by,
    scatter,
)
from avgeo.flow.recalibration import HeldOut, Recalibration, fit_recalibration, hold_out, recalibration_intervals
from avgeo.flow.regions import Region, credible_regions, hpd_level, regions_geojson, sampled_areas
from avgeo.flow.solver import METHODS, SolverError, integrate, integrate_adaptive, integrate_back, time_grid
from avgeo.flow.training import drop_modalities, train_flow
from avgeo.flow.transport import paired

__all__ = [
    "METHODS",
    "MODALITIES",
    "Base",
    "CellDensity",
    "Cells",
    "Condition",
    "ConditionError",
    "DensityError",
    "Estimate",
    "HeldOut",
    "KernelMixture",
    "PosteriorError",
    "Recalibration",
    "Region",
    "Share",
    "SolverError",
    "SphereFlow",
    "Uniform",
    "VelocityField",
    "credible_regions",
    "drop_modalities",
    "energy_score",
    "entropy_bits",
    "fit_kernels",
    "fit_plain",
    "fit_recalibration",
    "fit_vmf_mixture",
    "geodesic_path",
    "grid_entropy_bits",
    "grid_probabilities",
    "grid_probability_by",
    "hold_out",
    "hpd_level",
    "hutchinson",
    "integrate",
    "integrate_adaptive",
    "integrate_back",
    "log_likelihood",
    "mode",
    "paired",
    "point_estimate",
    "probability_by",
    "recalibration_intervals",
    "refine",
    "regions_geojson",
    "sample_times",
    "sampled_areas",
    "scatter",
    "time_grid",
    "total_probability",
    "train_flow",
]
