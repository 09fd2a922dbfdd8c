"""RES multistep, and its ancestral form."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.ddim import split
from fastsolve.solvers.exponential_adams import Output, adams_step
from fastsolve.solvers.seeds_forms import Data


@solver("res_multistep", order=2, weak_order=2, source="arXiv 2308.02157; ComfyUI sample_res_multistep")
def res_multistep(draft: Draft, grid: Grid, *, eta: float = 0.0, s_noise: float = 1.0) -> Form:
    """RES multistep (Zhang et al. 2023, arXiv 2308.02157, two predictions; ComfyUI sample_res_multistep): dpmpp_2m's variant "heun".

    eta: ancestral, down along the ODE to a level below t and up with fresh noise; the past prediction lies as far back as the step that
    left it went down, so that with eta = 1 this is dpmpp_2m_sde's "heun". s_noise: factor on the noise.
    """
    x, past, went = draft.start, list[Output](), 0.0
    for s, t in pairwise(grid):
        past = [(s, draft.denoised(s, x)), *((node._replace(lam=s.lam - went), d) for node, d in past)]
        down, up = split(s, t, eta)
        below = t._replace(sigma=down, lam=math.log(t.alpha / down) if down else math.inf)
        new = adams_step(Data(0.0), x, s, below, past[: 2 if down else 1])
        x = draft.keep(new + (up * s_noise) * draft.noise())
        past, went = past[:1] if s.alpha else [], below.lam - s.lam
    return x
