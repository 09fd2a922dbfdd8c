"""DPM-Solver++, singlestep: the steps of DPM-Solver with the data prediction in place of the noise."""

from __future__ import annotations

from collections.abc import Sequence

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.dpm_solver import blocks, step, taylor
from fastsolve.solvers.seeds_forms import parametrisation


@solver("dpmpp_2s", order=2, stages=2, source="arXiv 2211.01095, algorithm 1")
def dpmpp_2s(
    draft: Draft,
    grid: Grid,
    *,
    r: float = 0.5,
    variant: str = "dpm_solver",
    orders: Sequence[int] | None = None,
    inner: str = "lambda",
) -> Form:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, algorithm 1); a step at an end of lambda is first order.

    r: the inner node, in (0, 1]. variant: "dpm_solver" or "taylor". orders: of every step, 1 or 2. inner: "grid" takes the inner nodes
    from the grid (then a level is a model call), as diffusers does.
    """
    p, by_taylor, x = parametrisation("data", 0.0, None, draft.schedule), taylor(variant), draft.start
    for s, middle, t in blocks(draft, grid, orders, 2, (r,), inner):
        x = step(draft, p, x, s, middle, t, by_taylor)
    return x


@solver("dpmpp_3s", order=3, stages=3, source="arXiv 2211.01095, DPM-Solver++(3S)")
def dpmpp_3s(
    draft: Draft,
    grid: Grid,
    *,
    r1: float = 1.0 / 3.0,
    r2: float = 2.0 / 3.0,
    variant: str = "dpm_solver",
    orders: Sequence[int] | None = None,
    inner: str = "lambda",
) -> Form:
    """DPM-Solver++(3S) (Lu et al. 2022, arXiv 2211.01095, the third order of its family); a step at an end of lambda is first order.

    r1, r2: inner nodes, 0 < r1 < r2 <= 1; order 3 needs r2 = 2/3. orders: of every step, 1 to 3, as in their
    "fast" singlestep (3, 3, 2, 1). inner: "grid" takes the inner nodes from the grid (then a level is a model call).
    """
    p, by_taylor, x = parametrisation("data", 0.0, None, draft.schedule), taylor(variant), draft.start
    for s, middle, t in blocks(draft, grid, orders, 3, (r1, r2), inner):
        x = step(draft, p, x, s, middle, t, by_taylor)
    return x
