"""DDIM and ancestral Euler, the first-order samplers."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, solver


def ddim_step(x: Form, d: Form, s: Node, t: Node) -> Form:
    """Exact for a constant prediction; finite at alpha = 0 and sigma = 0."""
    ratio = t.sigma / s.sigma
    return ratio * x + (t.alpha - s.alpha * ratio) * d


def split(s: Node, t: Node, eta: float) -> tuple[float, float]:
    """Deviations at t of what is left of the noise at s, and of fresh noise (k-diffusion's get_ancestral_step)."""
    if not 0.0 <= eta < math.inf:
        raise ValueError(f"eta must be at least 0 and finite, not {eta}")
    left = math.exp(2.0 * (s.lam - t.lam))
    kept = max(0.0, (1.0 - eta) * (1.0 + eta) + eta * eta * left)
    fresh = min(1.0, -eta * eta * math.expm1(2.0 * (s.lam - t.lam)))
    return t.sigma * math.sqrt(kept), t.sigma * math.sqrt(fresh)


def ancestral_step(x: Form, d: Form, z: Form, s: Node, t: Node, eta: float, s_noise: float) -> Form:
    """From s down to a level below t along the ODE, then up to t with fresh noise; finite at alpha = 0 and sigma = 0."""
    down, up = split(s, t, eta)
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
