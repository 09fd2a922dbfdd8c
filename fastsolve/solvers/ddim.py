"""DDIM and ancestral Euler, the first-order samplers."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, solver


def ancestral_step(x: Form, d: Form, z: Form, s: Node, t: Node, eta: float, s_noise: float) -> Form:
    """From s down to a level below t along the ODE, then up to t with fresh noise; finite at alpha = 0 and sigma = 0."""
    up = min(t.sigma, eta * t.sigma * math.sqrt(-math.expm1(2.0 * (s.lam - t.lam))))
    down = math.sqrt(max(t.sigma**2 - up**2, 0.0))
    return (down / s.sigma) * x + (t.alpha - s.alpha * down / s.sigma) * d + (up * s_noise) * z


@solver("ddim", order=1, weak_order=1, source="arXiv 2010.02502, equations 12 and 16")
def ddim(draft: Draft, grid: Grid, *, eta: float = 0.0) -> Form:
    """DDIM (Song, Meng & Ermon 2020, arXiv 2010.02502, equations 12, 16), for any schedule.

    eta: noise scale; 0 is the ODE (DPM-Solver-1), 1 is DDPM's ancestral sampling with the small variance.
    """
    x = draft.start
    for s, t in pairwise(grid):
        d = draft.denoised(s, x)
        x = draft.keep(ancestral_step(x, d, draft.noise(), s, t, eta, 1.0))
    return x


@solver("euler_ancestral", order=1, weak_order=1, stochastic=True, source="k-diffusion sample_euler_ancestral")
def euler_ancestral(draft: Draft, grid: Grid, *, eta: float = 1.0, s_noise: float = 1.0) -> Form:
    """Ancestral Euler (Crowson, k-diffusion, 2022): DDIM with eta = 1 and a factor s_noise on the noise."""
    x = draft.start
    for s, t in pairwise(grid):
        d = draft.denoised(s, x)
        x = draft.keep(ancestral_step(x, d, draft.noise(), s, t, eta, s_noise))
    return x


@solver("euler", order=1, source="arXiv 2206.00364, equations 1 and 3; k-diffusion sample_euler")
def euler(draft: Draft, grid: Grid) -> Form:
    """Euler's method in sigma / alpha (Karras et al. 2022, arXiv 2206.00364, equations 1, 3): DDIM with eta = 0, DPM-Solver-1."""
    x = draft.start
    for s, t in pairwise(grid):
        x = draft.keep(ancestral_step(x, draft.denoised(s, x), draft.noise(), s, t, 0.0, 0.0))
    return x
