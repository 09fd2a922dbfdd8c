"""DDPM's ancestral sampling."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver


@solver("ddpm", order=1, weak_order=1, stochastic=True, source="arXiv 2006.11239, algorithm 2, equations 6 and 7")
def ddpm(draft: Draft, grid: Grid, *, variance: str = "small", s_noise: float = 1.0) -> Form:
    """DDPM (Ho, Jain & Abbeel 2020, arXiv 2006.11239, algorithm 2, equations 6, 7), between any levels of a variance-preserving grid.

    variance: "small", the posterior's for known data (DDIM with eta = 1), or "large", beta of the step. A step to sigma = 0 has no noise.
    """
    one_of("variance", variance, ("small", "large"))
    if any(abs(node.alpha**2 + node.sigma**2 - 1.0) > 1e-9 for node in grid):
        raise ValueError(
            f"ddpm needs a variance-preserving schedule: its beta says nothing of {draft.schedule.name!r}; "
            "ddim with eta = 1 is the same step on any schedule"
        )
    x = draft.start
    for s, t in pairwise(grid):
        d, a = draft.denoised(s, x), s.alpha / t.alpha
        beta, share = s.sigma**2 * -math.expm1(2.0 * (s.lam - t.lam)), (t.sigma / s.sigma) ** 2
        std = math.sqrt(beta * share if variance == "small" else beta if t.sigma else 0.0)
        x = draft.keep((a * share) * x + (t.alpha * beta / s.sigma**2) * d + (std * s_noise) * draft.noise())
    return x
