"""The sampler of consistency models."""

from __future__ import annotations

from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver


@solver("lcm", order=0, weak_order=0, stochastic=True, source="arXiv 2303.01469, algorithm 1")
def lcm(draft: Draft, grid: Grid, *, s_noise: float = 1.0) -> Form:
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1; LCM, arXiv 2310.04378): x = alpha D + sigma z.

    For consistency models, whose one call is the whole way down. With an ordinary denoiser more steps do not converge: order 0.
    """
    x = draft.start
    for s, t in pairwise(grid):
        x = draft.keep(t.alpha * draft.denoised(s, x) + (t.sigma * s_noise) * draft.noise())
    return x
