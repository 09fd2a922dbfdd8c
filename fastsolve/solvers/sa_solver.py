"""SA-Solver: stochastic Adams predictor and corrector."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.exponential_adams import Output, adams_step
from fastsolve.solvers.seeds_forms import Data, in_lambda


@solver(
    "sa_solver", forms="data, noise", order=2, weak_order=2, stochastic=True, source="arXiv 2309.05019, algorithm 1"
)
def sa_solver(
    draft: Draft,
    grid: Grid,
    *,
    order: int = 3,
    corrector_order: int = 4,
    eta: float = 1.0,
    s_noise: float = 1.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    variant: str = "exact",
    form: str = "data",
    pece: bool = False,
    lower_order_final: bool = True,
) -> Form:
    """SA-Solver (Xue et al. 2023, arXiv 2309.05019, algorithm 1): stochastic Adams in lambda, one noise for predictor and corrector.

    order: outputs used by the predictor, 1 to 4; corrector_order: by the corrector, with the new one, 0 (none) to 5.
    eta: tau^2, on steps that arrive at a level sigma / alpha within [s_tmin, s_tmax], elsewhere 0. variant: "simple" replaces the two-point
    rules as published for few steps. form: of the outputs, "data" or "noise". pece: call the model again after the corrector.
    lower_order_final: no more predictor points than positive levels left; for the corrector one more, or two where the grid does not end
    in 0 (as in ComfyUI, and in the authors' code and diffusers, whose grids do not).
    """
    one_of("order", order, range(1, 5))
    one_of("corrector_order", corrector_order, range(6))
    rule = {"exact": "exact", "simple": "bh1"}[one_of("variant", variant, ("exact", "simple"))]
    p, x, arrived, noise, past = in_lambda(form, eta), draft.start, draft.start, Form({}), list[Output]()
    positive, more = sum(node.sigma > 0.0 for node in grid), 1 if grid[-1].sigma == 0.0 else 2
    for i, (s, t) in enumerate(pairwise(grid)):
        d = draft.denoised(s, arrived)
        m = p.output(arrived, d, s)
        left = positive - 1 - i if lower_order_final else 9
        count, x_before, x = min(corrector_order, len(past) + 1, left + more), x, arrived
        if i and count and (t.sigma > 0.0 or pece) and (form == "data" or grid[i - 1].alpha > 0.0):
            points = [past[0], (s, m), *past[1 : count - 1]] if count > 1 else [(s, m)]
            x = draft.keep(adams_step(p, x_before, grid[i - 1], s, points, rule) + noise)
            if pece:
                d = draft.denoised(s, x)
                m = p.output(x, d, s)
        if t.sigma == 0.0:
            return draft.keep(d)
        p = in_lambda(form, eta if s_tmin * t.alpha <= t.sigma <= s_tmax * t.alpha else 0.0)
        q, outputs = (p, [(s, m), *past][: min(order, max(left, 1))]) if s.alpha else (Data(p.eta), [(s, d)])
        noise = (s_noise * q.noise(s, t)) * draft.noise()
        arrived = draft.keep(adams_step(q, x, s, t, outputs, rule) + noise)
        past = [(s, draft.keep(m)), *past][:4]
    return arrived
