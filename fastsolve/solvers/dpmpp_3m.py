"""Multistep samplers in data form with three predictions, DPM-Solver++(3M) and its SDE, and RES with two."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import decay
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.sa_solver import Output, adams_step, fresh

RULES = {"midpoint": "bh2", "heun": "exact"}


@solver("dpmpp_3m", order=2, source="arXiv 2211.01095; dpm_solver_pytorch.py, multistep_dpm_solver_third_update")
def dpmpp_3m(
    draft: Draft,
    grid: Grid,
    *,
    variant: str = "coded",
    warmup: str = "midpoint",
    lower_order_final: bool = False,
) -> Form:
    """DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095; their code's third-order multistep update).

    variant: "coded" halves the weight of the second difference as every published code does, which makes it second order and steadier at
    few steps; "exact" is the integral of the quadratic. warmup: the rule of two predictions, "midpoint" or "heun". lower_order_final:
    no more predictions than steps left; a step to sigma = 0 always takes one.
    """
    return _three_point(draft, grid, 0.0, 1.0, variant, warmup, lower_order_final)


@solver("dpmpp_3m_sde", order=2, weak_order=2, stochastic=True, source="k-diffusion sample_dpmpp_3m_sde")
def dpmpp_3m_sde(
    draft: Draft,
    grid: Grid,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    variant: str = "coded",
    warmup: str = "heun",
    lower_order_final: bool = False,
) -> Form:
    """SDE-DPM-Solver++(3M) (Crowson, k-diffusion sample_dpmpp_3m_sde, 2023; after Lu et al. 2022, arXiv 2211.01095).

    eta: 1 the reverse SDE, 0 the ODE (then dpmpp_3m). s_noise: factor on the noise. The other options as in `dpmpp_3m`. (The rule of this
    name in diffusers has a wrong sign and is first order.)
    """
    return _three_point(draft, grid, eta, s_noise, variant, warmup, lower_order_final)


def _three_point(
    draft: Draft, grid: Grid, eta: float, s_noise: float, variant: str, warmup: str, lower_order_final: bool
) -> Form:
    one_of("variant", variant, ("coded", "exact"))
    one_of("warmup", warmup, RULES)
    x, past = draft.start, list[Output]()
    for i, (s, t) in enumerate(pairwise(grid)):
        past = [(s, draft.denoised(s, x)), *past][:3]
        count = 1 if t.sigma == 0.0 else min(len(past), len(grid) - 1 - i) if lower_order_final else len(past)
        new = adams_step(x, s, t, past[:count], eta, RULES[warmup])
        if count == 3 and variant == "coded":
            (a, d_a), (b, d_b), (c, d_c) = past
            h, bend = t.lam - s.lam, (1.0 / (a.lam - b.lam)) * (d_a - d_b) - (1.0 / (b.lam - c.lam)) * (d_b - d_c)
            new = new - (t.alpha * decay(3, (1.0 + eta) * h) * h * h / (a.lam - c.lam)) * bend
        x = draft.keep(new + (s_noise * fresh(s, t, eta)) * draft.noise())
    return x


@solver("res_multistep", order=2, weak_order=2, source="arXiv 2308.02157; ComfyUI sample_res_multistep")
def res_multistep(draft: Draft, grid: Grid, *, eta: float = 0.0, s_noise: float = 1.0) -> Form:
    """RES multistep (Zhang et al. 2023, arXiv 2308.02157, two predictions; ComfyUI sample_res_multistep): dpmpp_2m's variant "heun".

    eta: ancestral, down along the ODE to a level below t and up with fresh noise; the past prediction lies as far back as the step that
    left it went down, so that with eta = 1 this is dpmpp_2m_sde's "heun". s_noise: factor on the noise.
    """
    x, past, went = draft.start, list[Output](), 0.0
    for s, t in pairwise(grid):
        past = [(s, draft.denoised(s, x)), *((node._replace(lam=s.lam - went), d) for node, d in past)]
        up = min(t.sigma, eta * t.sigma * math.sqrt(-math.expm1(2.0 * (s.lam - t.lam))))
        down = math.sqrt(max(t.sigma**2 - up**2, 0.0))
        below = t._replace(sigma=down, lam=math.log(t.alpha / down) if down else math.inf)
        x = draft.keep(adams_step(x, s, below, past[: 2 if down else 1]) + (up * s_noise) * draft.noise())
        past, went = past[:1] if s.alpha else [], below.lam - s.lam
    return x
