"""DPM-Solver++ multistep, deterministic and stochastic; in noise form it is DPM-Solver multistep."""

from __future__ import annotations

from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.exponential_adams import Output, adams_step
from fastsolve.solvers.seeds_forms import Data, Noise, in_lambda

RULES = {"midpoint": "bh2", "heun": "exact"}  # of two outputs


def multistep(
    draft: Draft,
    grid: Grid,
    p: Data | Noise,
    points: int,
    rule: str,
    *,
    coded: bool = False,
    s_noise: float = 1.0,
    lower_order_final: bool = False,
) -> Form:
    """Steps through the last `points` outputs; coded: with half the weight of the second difference."""
    x, past = draft.start, list[Output]()
    for i, (s, t) in enumerate(pairwise(grid)):
        d, count = draft.denoised(s, x), min(points, len(grid) - 1 - i) if lower_order_final else points
        m, step = p.output(x, d, s), p
        outputs = [(s, m), *past][:count]
        if s.alpha == 0.0 or t.sigma == 0.0:  # a step over all of lambda has one output, and noise form no limit
            step, outputs = Data(p.eta), [(s, d)]
        new = adams_step(step, x, s, t, outputs, rule)
        if coded and len(outputs) == 3:
            (a, m_a), (b, m_b), (c, m_c) = outputs
            h, bend = t.lam - s.lam, (1.0 / (a.lam - b.lam)) * (m_a - m_b) - (1.0 / (b.lam - c.lam)) * (m_b - m_c)
            new = new - (p.weight(3, s, t) * h * h / (a.lam - c.lam)) * bend
        x = draft.keep(new + (s_noise * step.noise(s, t)) * draft.noise())
        past = [(s, draft.keep(m)), *past][: points - 1]
    return x


@solver("dpmpp_2m", order=2, forms="data, noise", source="arXiv 2211.01095, algorithm 2")
def dpmpp_2m(
    draft: Draft, grid: Grid, *, variant: str = "midpoint", form: str = "data", lower_order_final: bool = False
) -> Form:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    variant: "midpoint" as published, or "heun", the exact integral of the linear interpolant (also known as RES multistep). form: "data",
    or "noise", which makes it DPM-Solver-2M. lower_order_final: make the last step first order; a step to sigma = 0 always is.
    """
    one_of("variant", variant, RULES)
    return multistep(draft, grid, in_lambda(form, 0.0), 2, RULES[variant], lower_order_final=lower_order_final)


@solver(
    "dpmpp_2m_sde",
    forms="data, noise",
    order=2,
    weak_order=2,
    stochastic=True,
    source="arXiv 2211.01095, appendix; k-diffusion sample_dpmpp_2m_sde",
)
def dpmpp_2m_sde(
    draft: Draft,
    grid: Grid,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    variant: str = "midpoint",
    form: str = "data",
    lower_order_final: bool = False,
) -> Form:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095; the eta family of k-diffusion's dpmpp_2m_sde).

    eta: 1 the reverse SDE, 0 the ODE (then dpmpp_2m). s_noise: factor on the noise. The other options as in `dpmpp_2m`; form "noise",
    SDE-DPM-Solver-2M, needs many steps.
    """
    one_of("variant", variant, RULES)
    p = in_lambda(form, eta)
    return multistep(draft, grid, p, 2, RULES[variant], s_noise=s_noise, lower_order_final=lower_order_final)


@solver(
    "dpmpp_3m",
    forms="data, noise",
    order=2,
    source="arXiv 2211.01095; dpm_solver_pytorch.py, multistep_dpm_solver_third_update",
)
def dpmpp_3m(
    draft: Draft,
    grid: Grid,
    *,
    variant: str = "coded",
    warmup: str = "midpoint",
    form: str = "data",
    lower_order_final: bool = False,
) -> Form:
    """DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095; their code's third-order multistep update).

    variant: "coded" halves the weight of the second difference as every published code does, which makes it second order and steadier at
    few steps; "exact" is the integral of the quadratic, third order but for its start. warmup: the rule of two predictions, "midpoint"
    or "heun". form: "data", or "noise", which makes it DPM-Solver-3M. lower_order_final: no more predictions than steps left; a step to
    sigma = 0 always takes one.
    """
    return _three_points(draft, grid, in_lambda(form, 0.0), variant, warmup, 1.0, lower_order_final)


@solver(
    "dpmpp_3m_sde",
    forms="data, noise",
    order=2,
    weak_order=2,
    stochastic=True,
    source="k-diffusion sample_dpmpp_3m_sde",
)
def dpmpp_3m_sde(
    draft: Draft,
    grid: Grid,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    variant: str = "coded",
    warmup: str = "heun",
    form: str = "data",
    lower_order_final: bool = False,
) -> Form:
    """SDE-DPM-Solver++(3M) (Crowson, k-diffusion sample_dpmpp_3m_sde, 2023; after Lu et al. 2022, arXiv 2211.01095).

    eta: 1 the reverse SDE, 0 the ODE (then dpmpp_3m). s_noise: factor on the noise. The other options as in `dpmpp_3m`. (The rule of this
    name in diffusers has a wrong sign and is first order.)
    """
    return _three_points(draft, grid, in_lambda(form, eta), variant, warmup, s_noise, lower_order_final)


def _three_points(
    draft: Draft,
    grid: Grid,
    p: Data | Noise,
    variant: str,
    warmup: str,
    s_noise: float,
    lower_order_final: bool,
) -> Form:
    one_of("variant", variant, ("coded", "exact"))
    one_of("warmup", warmup, RULES)
    return multistep(
        draft,
        grid,
        p,
        3,
        RULES[warmup],
        coded=variant == "coded",
        s_noise=s_noise,
        lower_order_final=lower_order_final,
    )
