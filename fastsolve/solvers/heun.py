"""EDM's samplers with stochastic churn: Euler and Heun."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.ddim import ddim_step


def churned(
    draft: Draft, x: Form, s: Node, grid: Grid, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> tuple[Form, Node]:
    """The state raised by fresh noise to (1 + gamma) times its level, and its new node (EDM, algorithm 2, lines 4 to 6).

    Levels are sigma / alpha; gamma = min(s_churn / number of positive levels, sqrt(2) - 1) where s_tmin <= level <= s_tmax. A schedule
    that ends at t_max is not left: churn raises to its top at most.
    """
    if not s_churn or s.alpha == 0.0 or not s_tmin <= s.sigma / s.alpha <= s_tmax:
        return x, s
    gamma = min(s_churn / sum(node.sigma > 0.0 for node in grid), math.sqrt(2.0) - 1.0)
    top = draft.schedule.node(draft.schedule.t_max).lam if draft.schedule.t_limit is None else -math.inf
    hat = draft.schedule.at_lam(max(s.lam - math.log1p(gamma), top))
    if hat.lam >= s.lam:
        return x, s
    added = hat.sigma * math.sqrt(-math.expm1(2.0 * (hat.lam - s.lam)))
    return draft.keep((hat.alpha / s.alpha) * x + (added * s_noise) * draft.noise()), hat


@solver("euler", order=1, source="arXiv 2206.00364, equations 1 and 3; k-diffusion sample_euler")
def euler(
    draft: Draft,
    grid: Grid,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Form:
    """Euler's method in sigma / alpha (Karras et al. 2022, arXiv 2206.00364, equations 1, 3): DDIM with eta = 0, DPM-Solver-1.

    s_churn, s_tmin, s_tmax, s_noise: as in `heun`.
    """
    x = draft.start
    for s, t in pairwise(grid):
        x, s = churned(draft, x, s, grid, s_churn, s_tmin, s_tmax, s_noise)
        x = draft.keep(ddim_step(x, draft.denoised(s, x), s, t))
    return x


@solver("heun", forms="noise", order=2, stages=2, source="arXiv 2206.00364, algorithm 2")
def heun(
    draft: Draft,
    grid: Grid,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Form:
    """Heun's method in sigma / alpha with churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2), for any schedule.

    s_churn, s_tmin, s_tmax, s_noise: as in EDM, s_tmin and s_tmax in sigma / alpha. A step from alpha = 0 or to sigma = 0 is Euler's.
    """
    x = draft.start
    for s, t in pairwise(grid):
        x, s = churned(draft, x, s, grid, s_churn, s_tmin, s_tmax, s_noise)
        d = draft.denoised(s, x)
        ahead = draft.keep(ddim_step(x, d, s, t))
        if t.sigma == 0.0 or s.alpha == 0.0:
            x = ahead
            continue
        slope, slope_t = (x - s.alpha * d) / s.sigma, (ahead - t.alpha * draft.denoised(t, ahead)) / t.sigma
        x = draft.keep(ahead + 0.5 * (t.sigma - t.alpha / s.alpha * s.sigma) * (slope_t - slope))
    return x
