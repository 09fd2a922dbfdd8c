"""Exponential Heun in data form, as in ComfyUI."""

from __future__ import annotations

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.seeds import seeds2


@solver("exp_heun_2_x0", order=2, stages=2, source="ComfyUI sample_exp_heun_2_x0; arXiv 2305.14267, equation 53")
def exp_heun_2_x0(draft: Draft, grid: Grid) -> Form:
    """Exponential Heun of x0 (ComfyUI, 2025; Gonzalez et al. 2023, arXiv 2305.14267, equation 53, r = 1, without noise)."""
    return seeds2(draft, grid, r=1.0, variant="phi_2", eta=0.0)


@solver(
    "exp_heun_2_x0_sde",
    order=2,
    stages=2,
    weak_order=2,
    stochastic=True,
    source="ComfyUI sample_exp_heun_2_x0_sde; arXiv 2305.14267, equation 53",
)
def exp_heun_2_x0_sde(draft: Draft, grid: Grid, *, eta: float = 1.0, s_noise: float = 1.0) -> Form:
    """Exponential Heun of x0 for the SDE (ComfyUI, 2025; Gonzalez et al. 2023, arXiv 2305.14267, equation 53, r = 1)."""
    return seeds2(draft, grid, r=1.0, variant="phi_2", eta=eta, s_noise=s_noise)
