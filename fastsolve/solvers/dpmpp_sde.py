"""DPM-Solver++ (SDE), the two-stage stochastic sampler of k-diffusion."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.ddim import ancestral_step, split


@solver(
    "dpmpp_sde",
    order=2,
    stages=2,
    weak_order=2,
    stochastic=True,
    source="arXiv 2211.01095; k-diffusion sample_dpmpp_sde",
)
def dpmpp_sde(
    draft: Draft, grid: Grid, *, r: float = 0.5, eta: float = 1.0, s_noise: float = 1.0, compat: str | None = None
) -> Form:
    """DPM-Solver++ SDE (Lu et al. 2022, arXiv 2211.01095; Crowson, k-diffusion, 2022), with the stage's noise shared by the whole step.

    r: the inner node. eta: as in ancestral sampling; at 1 this is SEEDS-2. The noise at t is what the dynamics leave of the stage's, and
    fresh noise: so the variance is second order. compat="k_diffusion" draws them independently, as published: first order.
    """
    if not 0.0 < r <= 1.0:
        raise ValueError(f"r must lie in (0, 1], not {r}")
    one_of("compat", compat, (None, "k_diffusion"))
    x = draft.start
    for s, t in pairwise(grid):
        d = draft.denoised(s, x)
        if t.sigma == 0.0 or s.alpha == 0.0:
            x = draft.keep(ancestral_step(x, d, draft.noise(), s, t, eta, s_noise))
            continue
        u = t if r == 1.0 else draft.schedule.at_lam(s.lam + r * (t.lam - s.lam))
        (down_u, up_u), (down, up) = split(s, u, eta), split(s, t, eta)
        z1, z2 = draft.noise(), draft.noise()
        x_u = draft.keep(ancestral_step(x, d, z1, s, u, eta, s_noise))
        slope = (draft.denoised(u, x_u) - d) / (2.0 * r)
        carried = 0.0 if compat or not down_u else down / down_u * up_u
        fresh = math.sqrt(max(up * up - carried * carried, 0.0))
        mean = (down / s.sigma) * x + (t.alpha - s.alpha * down / s.sigma) * (d + slope)
        x = draft.keep(mean + (carried * s_noise) * z1 + (fresh * s_noise) * z2)
    return x
