"""CFG++: the noise of a step comes from the unconditional prediction, its data from the guided one."""

from __future__ import annotations

from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.ddim import ancestral_step, ddim_step


@solver("euler_cfg_pp", order=1, weak_order=1, source="arXiv 2406.08070, algorithm 1; ComfyUI sample_euler_cfg_pp")
def euler_cfg_pp(draft: Draft, grid: Grid, *, eta: float = 0.0, s_noise: float = 1.0) -> Form:
    """DDIM with CFG++ (Chung et al. 2024, arXiv 2406.08070, algorithm 1): a guidance scale between 0 and 1 is usual.

    eta: noise scale; 1 is ComfyUI's euler_ancestral_cfg_pp, but for its scale. s_noise: factor on the noise. Without guidance it is DDIM.
    """
    x = draft.start
    for s, t in pairwise(grid):
        d, u = draft.guided(s, x)
        step = ancestral_step(x, u, draft.noise(), s, t, eta, s_noise)
        x = draft.keep(step + t.alpha * (d - u))
    return x


@solver("dpmpp_2m_cfg_pp", order=2, source="arXiv 2406.08070; ComfyUI sample_dpmpp_2m_cfg_pp")
def dpmpp_2m_cfg_pp(draft: Draft, grid: Grid) -> Form:
    """DPM-Solver++(2M) with CFG++ (Chung et al. 2024, arXiv 2406.08070; ComfyUI's form of it). Without guidance it is dpmpp_2m."""
    x, before, h_before = draft.start, None, 0.0
    for s, t in pairwise(grid):
        h = t.lam - s.lam
        d, u = draft.guided(s, x)
        new = ddim_step(x, u, s, t) + t.alpha * (d - u)
        if before is not None and t.sigma > 0.0:
            new = new + ((t.alpha - s.alpha * t.sigma / s.sigma) * h / (2.0 * h_before)) * (d - before)
        x, before, h_before = draft.keep(new), draft.keep(u) if s.alpha > 0.0 else None, h
    return x
