"""DPM-Solver++ multistep, deterministic and stochastic."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import decay
from fastsolve.solvers import Grid, one_of, solver


@solver("dpmpp_2m", order=2, source="arXiv 2211.01095, algorithm 2")
def dpmpp_2m(draft: Draft, grid: Grid, *, variant: str = "midpoint", lower_order_final: bool = False) -> Form:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    variant: "midpoint" as published, or "heun", the exact integral of the linear interpolant (also known as RES multistep).
    lower_order_final: make the last step first order; a step to sigma = 0 always is.
    """
    return _two_point(draft, grid, 0.0, 1.0, variant, lower_order_final)


@solver(
    "dpmpp_2m_sde",
    order=2,
    weak_order=2,
    stochastic=True,
    source="arXiv 2211.01095, appendix; k-diffusion sample_dpmpp_2m_sde",
)
def dpmpp_2m_sde(
    draft: Draft, grid: Grid, *, eta: float = 1.0, s_noise: float = 1.0, variant: str = "midpoint"
) -> Form:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095; the eta family of k-diffusion's dpmpp_2m_sde).

    eta: 1 the reverse SDE, 0 the ODE (then dpmpp_2m). s_noise: factor on the noise. variant: as in dpmpp_2m.
    """
    return _two_point(draft, grid, eta, s_noise, variant, False)


def _two_point(draft: Draft, grid: Grid, eta: float, s_noise: float, variant: str, lower_order_final: bool) -> Form:
    """Exact integral of the linear extrapolant of D in lambda (heun), or its midpoint form; h = inf at the ends is no special case."""
    one_of("variant", variant, ("midpoint", "heun"))
    x, before = draft.start, None
    for i, (s, t) in enumerate(pairwise(grid)):
        d, h = draft.denoised(s, x), t.lam - s.lam
        fade = math.exp(-eta * h) if eta else 1.0
        weight = decay(1, (1.0 + eta) * h)
        new = (t.sigma / s.sigma * fade) * x + (t.alpha * weight) * d
        if before is not None and t.sigma > 0.0 and not (lower_order_final and i == len(grid) - 2):
            bend = 0.5 * weight if variant == "midpoint" else decay(2, (1.0 + eta) * h)
            new = new + (t.alpha * bend * h / (s.lam - grid[i - 1].lam)) * (d - before)
        noise = t.sigma * math.sqrt(-math.expm1(-2.0 * eta * h)) if eta else 0.0
        x, before = draft.keep(new + (noise * s_noise) * draft.noise()), d
    return x
