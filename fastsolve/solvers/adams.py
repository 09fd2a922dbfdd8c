"""Adams-Bashforth samplers: iPNDM and PLMS with the constant weights of equal steps, LMS with those of the grid, gradient estimation.

They share DEIS's steps: DDIM's plus differences of noises. A step to sigma = 0 returns the denoised prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.deis import interpolated, multistep

# Adams-Bashforth weights of 1, 2, 3, 4 noises, newest first, on equal steps.
EQUAL_STEPS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _slope(s: Node, t: Node) -> float:
    """The factor of eps in a DDIM step."""
    return t.sigma - t.alpha / s.alpha * s.sigma


def _constant(nodes: Sequence[Node], t: Node) -> list[float]:
    return [_slope(nodes[0], t) * w for w in EQUAL_STEPS[len(nodes) - 1]]


@solver("ipndm", forms="noise", order=2, source="arXiv 2204.13902, iPNDM")
def ipndm(draft: Draft, grid: Grid, *, order: int = 4, warmup: str = "ramp", lower_order_final: bool = False) -> Form:
    """iPNDM (Zhang & Chen 2022, arXiv 2204.13902; after Liu et al. 2022, arXiv 2202.09778, equation 12): PNDM without its warm-up.

    order: noises used, 1 to 4; that is its order only on grids uniform in sigma / alpha, elsewhere it is 2. warmup: as in `deis`.
    """
    one_of("order", order, range(1, 5))
    return multistep(draft, grid, _constant, order, warmup=warmup, lower_order_final=lower_order_final)


@solver("pndm", forms="noise", order=2, source="arXiv 2202.09778, equations 12 and 13; diffusers PNDMScheduler")
def pndm(draft: Draft, grid: Grid, *, order: int = 4, warmup: str = "heun", lower_order_final: bool = False) -> Form:
    """PNDM (Liu et al. 2022, arXiv 2202.09778, equations 12, 13): ipndm with a start of its own.

    warmup: "heun", as PLMS and skip_prk_steps, does the first step twice, the second time with the mean of both noises: one call more;
    "prk", as published, starts with pseudo Runge-Kutta steps: three more each. A last call that changes nothing is not made.
    """
    one_of("order", order, range(1, 5))
    one_of("warmup", warmup, ("heun", "prk"))
    return multistep(draft, grid, _constant, order, warmup=warmup, lower_order_final=lower_order_final)


@solver("lms", forms="noise", order=2, source="k-diffusion sample_lms")
def lms(
    draft: Draft,
    grid: Grid,
    *,
    order: int = 4,
    warmup: str = "ramp",
    lower_order_final: bool = False,
    compat: str | None = None,
) -> Form:
    """Linear multistep in sigma / alpha (Crowson, k-diffusion sample_lms, 2022), which is rhoAB-DEIS; weights to rounding.

    order: noises used, 1 to 4. warmup: as in `deis`. compat="official" extrapolates in a step to sigma = 0 too, as published.
    """
    one_of("order", order, range(1, 5))
    one_of("compat", compat, (None, "official"))
    return multistep(
        draft,
        grid,
        interpolated(draft.schedule, "rho"),
        order,
        warmup=warmup,
        lower_order_final=lower_order_final,
        from_zero=False,
        to_zero=compat is not None,
    )


@solver("gradient_estimation", forms="noise", order=1, source="arXiv 2306.04848, algorithm 2")
def gradient_estimation(draft: Draft, grid: Grid, *, gamma: float = 2.0) -> Form:
    """Gradient estimation (Permenter & Yuan 2023, arXiv 2306.04848, algorithm 2): eps = gamma eps_0 + (1 - gamma) eps_1.

    gamma: 1 is DDIM, 1.5 is ipndm of order 2, the only second-order one.
    """
    if not math.isfinite(gamma):
        raise ValueError(f"gamma must be finite, not {gamma}")

    def weights(nodes: Sequence[Node], t: Node) -> list[float]:
        return [_slope(nodes[0], t) * w for w in (gamma, 1.0 - gamma)]

    return multistep(draft, grid, weights, 2)
