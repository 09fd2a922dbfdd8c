"""Small laws that tests share, with fixed numbers: measured orders stay what they are."""

from __future__ import annotations

import math

import numpy as np

from fastsolve.problems import Gaussian as Gaussian, Mixture as Mixture, golden_mixture as golden_mixture


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
