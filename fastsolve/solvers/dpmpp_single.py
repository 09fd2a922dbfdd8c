"""DPM-Solver++, singlestep: the steps of DPM-Solver with the data prediction in place of the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.dpm_solver import singlestep


@solver("dpmpp_2s", order=2, stages=2, source="arXiv 2211.01095, algorithm 1")
def dpmpp_2s(
    draft: Draft,
    grid: Grid,
    *,
    r: float = 0.5,
    variant: str = "dpm_solver",
    orders: Sequence[int] | None = None,
    inner: str = "lambda",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Form:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, algorithm 1). Options as in `dpm_solver_2`."""
    return singlestep(draft, grid, "data", (r,), variant, orders, inner, (s_churn, s_tmin, s_tmax, s_noise))


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
    """DPM-Solver++(3S) (Lu et al. 2022, arXiv 2211.01095, the third order of its family). Options as in `dpm_solver_3`."""
    return singlestep(draft, grid, "data", (r1, r2), variant, orders, inner)
