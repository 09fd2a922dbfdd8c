"""DDIM and ancestral Euler, the first-order samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def windowed(eta: float, window: Sequence[int] | None, grid: Grid) -> list[float]:
    """The eta of every step: 0 outside the steps first to last - 1 of window = (first, last), counted from 0; None is all of them.

    Raises ValueError for a window that is none on this grid.
    """
    steps = len(grid) - 1
    if window is None:
        return [eta] * steps
    pair = tuple(window) if isinstance(window, Sequence) else ()
    if len(pair) != 2 or not all(type(i) is int for i in pair) or not 0 <= pair[0] < pair[1] <= steps:
        raise ValueError(f"window must be (first, last) with 0 <= first < last <= {steps}, the steps, not {window!r}")
    return [eta if pair[0] <= i < pair[1] else 0.0 for i in range(steps)]


@solver("ddim", order=1, weak_order=1, source="arXiv 2010.02502, equations 12 and 16")
def ddim(draft: Draft, grid: Grid, *, eta: float = 0.0, window: Sequence[int] | None = None) -> Form:
    """DDIM (Song, Meng & Ermon 2020, arXiv 2010.02502, equations 12, 16), for any schedule.

    eta: noise scale; 0 is the ODE (DPM-Solver-1), 1 is DDPM's ancestral sampling with the small variance. window: (first, last), steps
    outside which it is 0 (`windowed`).
    """
    x = draft.start
    for (s, t), scale in zip(pairwise(grid), windowed(eta, window, grid), strict=True):
        d = draft.denoised(s, x)
        x = draft.keep(ancestral_step(x, d, draft.noise(), s, t, scale, 1.0))
    return x


@solver("euler_ancestral", order=1, weak_order=1, stochastic=True, source="k-diffusion sample_euler_ancestral")
def euler_ancestral(
    draft: Draft, grid: Grid, *, eta: float = 1.0, s_noise: float = 1.0, window: Sequence[int] | None = None
) -> Form:
    """Ancestral Euler (Crowson, k-diffusion, 2022): DDIM with eta = 1 and a factor s_noise on the noise; window as in `ddim`."""
    x = draft.start
    for (s, t), scale in zip(pairwise(grid), windowed(eta, window, grid), strict=True):
        d = draft.denoised(s, x)
        x = draft.keep(ancestral_step(x, d, draft.noise(), s, t, scale, s_noise))
    return x
