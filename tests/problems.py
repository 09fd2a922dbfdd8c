"""The laws that tests share: with fixed numbers, so that golden files and measured orders stay what they are."""

from __future__ import annotations

import math

import numpy as np

from fastsolve.problems import Gaussian as Gaussian, Mixture as Mixture


def golden_mixture() -> Mixture:
    """The law behind every golden trajectory: 5 components in 48 dimensions, standard deviation 0.42 per dimension.

    The golden files were made with these very numbers, drawn in this order: another order is another law.
    """
    rng = np.random.default_rng(20261121)
    means = 0.5 * rng.standard_normal((5, 48))
    weights = rng.dirichlet(np.ones(5))
    stds = 0.05 + 0.2 * rng.random(5)
    return Mixture(means.reshape(5, 3, 4, 4), weights, stds)


def plane_mixture() -> Mixture:
    """Three components in the plane, close enough to interact at middle noise levels: smooth and nonlinear."""
    means = np.array([[-1.0, 0.2], [0.6, 0.9], [0.5, -0.8]])
    return Mixture(means, np.array([0.3, 0.45, 0.25]), np.array([0.25, 0.35, 0.3]))


def line_mixture() -> Mixture:
    """Two components on the line, whose distribution function is known in closed form (`line_cdf`)."""
    return Mixture(np.array([[-0.8], [0.5]]), np.array([0.4, 0.6]), np.array([0.15, 0.25]))


def line_cdf(x: float) -> float:
    """Distribution function of `line_mixture`."""
    law = line_mixture()
    parts = zip(law.weights.tolist(), law.means[:, 0].tolist(), law.stds.tolist(), strict=True)
    return sum(w * 0.5 * math.erfc((m - x) / (s * math.sqrt(2.0))) for w, m, s in parts)
