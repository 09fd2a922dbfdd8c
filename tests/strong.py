"""The strong (pathwise) error of a stochastic solver on Gaussian data, exactly: no sample is drawn.

With eta = 1 the exact solution in VE is x_T = V_T / V_0 x_0 + m (1 - V_T / V_0) + int phi dW, phi = V_T / V sqrt(2) sigma, in lam, with
V = STD^2 + sigma^2 and m the mean. The draw of a sub-interval [a, b] stands for the same path's int w dW / |w|, where w is what the
solver's linear part leaves of the noise at b. Each draw's share of int phi dW is their covariance; the rest of it no draw knows, and
it is the error of any solver that sees the path through these draws only.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from catalogue import Case
from fastsolve import Plan
from moments import MEAN, STD, marginal, propagate
from orders import HIGH, LOW, ends, measured, plan_of

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(12)
SIGMA_DATA = 0.5
Array = npt.NDArray[np.float64]


def left(form: str, sigma: Array) -> Array:
    """w up to a factor: of the noise sigma dW, what the linear part of the form leaves until a fixed later level."""
    return {"data": np.ones_like(sigma) / sigma, "noise": sigma, "edm": sigma / (sigma**2 + SIGMA_DATA**2)}[form]


def covariances(levels: list[float], form: str) -> tuple[Array, float]:
    """For each sub-interval the covariance of int phi dW with its draw; and the variance that all draws leave unknown."""
    shares, unknown = [], 0.0
    for a, b in pairwise(-np.log(levels)):
        lam, dlam = a + 0.5 * (b - a) * (POINTS + 1.0), 0.5 * (b - a) * WEIGHTS
        sigma = np.exp(-lam)
        phi = (STD**2 + levels[-1] ** 2) / (STD**2 + sigma**2) * math.sqrt(2.0) * sigma
        unit = left(form, sigma)
        unit /= math.sqrt(dlam @ unit**2)
        share = float(dlam @ (phi * unit))
        shares.append(share)
        unknown += float(dlam @ (phi - share * unit) ** 2)  # the square of what is left: no cancellation
    return np.array(shares), unknown


def levels_of(plan: Plan, steps: int) -> list[float] | None:
    """The levels between which the draws are increments: those of the grid, or of all calls; None where neither fits their number."""
    grid = [float(HIGH * (LOW / HIGH) ** (i / steps)) for i in range(steps + 1)]
    calls = sorted({round(call.sigma / call.alpha, 12) for call in plan.evals} | {LOW}, reverse=True)
    return next((levels for levels in (grid, calls) if len(levels) == plan.draws + 1), None)


def strong_error(case: Case, steps: int, schedule: str = "ve") -> float:
    """Root mean square of the distance from the exact solution on the same Brownian path, in units of data."""
    plan, (high, low) = plan_of(case, steps, schedule, eta=1.0), ends(schedule)
    levels = levels_of(plan, steps)
    if levels is None:
        raise ValueError(f"the {plan.draws} draws of {case} are not the increments between its levels")
    mean, std = marginal(*high)
    out = propagate(plan, (mean + high[0], std))[plan.out] / low[0]  # 1 beside the path of the mean
    fade = (STD**2 + LOW**2) / (STD**2 + HIGH**2)
    shares, unknown = covariances(levels, str(case.options.get("form", "data")))
    right = np.array([MEAN + fade, fade * std / high[0], *shares])
    return math.sqrt(float((out - right) @ (out - right)) + unknown)


def strong_order(case: Case, schedule: str = "ve") -> tuple[float, list[float]]:
    return measured(lambda n: strong_error(case, n, schedule))
