"""Exact moments of a sampler on Gaussian data, without a single sample.

The denoiser of Gaussian data is affine, so every tensor of a plan is a constant plus a combination of independent standard normals:
the start and the draws. `propagate` walks the plan on vectors of those coefficients.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fastsolve import Plan
from fastsolve.ops import Eval

MEAN, STD = 0.7, 0.35  # of the data, in every element

Vector = npt.NDArray[np.float64]  # [2 + draws]: constant, factor of the start's normal, factors of z0, z1 ...


def marginal(alpha: float, sigma: float) -> tuple[float, float]:
    """Mean and standard deviation of the state at a level."""
    return alpha * MEAN, math.hypot(alpha * STD, sigma)


def propagate(plan: Plan, start: tuple[float, float] | None = None) -> dict[str, Vector]:
    """All tensors and data predictions of a plan, started from (mean, standard deviation), by default the plan's own noise."""
    mean, std = (0.0, plan.start_std) if start is None else start
    known: dict[str, Vector] = {f"z{i}": _unit(plan, 2 + i) for i in range(plan.draws)}
    known["x0"] = mean * _unit(plan, 0) + std * _unit(plan, 1)
    for i, row in enumerate(
        plan.variables
    ):  # of several start tensors the normals beside the first come after the draws
        normals = [_unit(plan, 1 if j == 0 else 1 + plan.draws + j) for j in range(len(row))]
        known["x0" if i == 0 else f"s{i}"] = sum(c * z for c, z in zip(row, normals, strict=True))
    for op in plan.ops:
        if isinstance(op, Eval):
            gain = op.alpha * STD**2 / marginal(op.alpha, op.sigma)[1] ** 2
            known[op.d] = gain * known[op.x] + (1.0 - gain * op.alpha) * MEAN * _unit(plan, 0)
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}
    return known


def _unit(plan: Plan, i: int) -> Vector:
    return np.eye(1, 2 + plan.draws + max(0, len(plan.variables) - 1), i)[0]


def moments(plan: Plan, start: tuple[float, float] | None = None) -> tuple[float, float]:
    """Mean and variance of a plan's result."""
    out = propagate(plan, start)[plan.out]
    return float(out[0]), float(out[1:] @ out[1:])
