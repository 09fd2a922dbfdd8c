"""UniPC: a predictor and a corrector of one order more that reuses the predictor's call."""

from __future__ import annotations

from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.exponential_adams import Output, adams_step
from fastsolve.solvers.seeds_forms import Data, in_lambda

RULES = {"bh1": "bh1", "bh2": "bh2", "vary_coeff": "exact"}  # of two outputs


@solver("unipc", forms="data, noise", order=2, source="arXiv 2302.04867, algorithms 1 and 2")
def unipc(
    draft: Draft,
    grid: Grid,
    *,
    order: int = 3,
    variant: str = "bh2",
    form: str = "data",
    lower_order_final: bool = True,
    corrector: bool = True,
) -> Form:
    """UniPC (Zhao et al. 2023, arXiv 2302.04867, algorithms 1, 2); from three points on its weights are exact integrals.

    order: outputs used by the predictor, 1 to 3. variant: "bh1" or "bh2", B(h) = h or e^h - 1, or "vary_coeff", exact; only rules of two
    points feel it. (The corrector of that name, as published, is wrong above order 1.) form: of the outputs, "data" or "noise".
    lower_order_final: no more points than steps left, as published; without it the order of convergence is one more than `order`, but
    3 at most from its own start. corrector: False is UniP. The last step is not corrected.
    """
    one_of("order", order, range(1, 4))
    one_of("variant", variant, RULES)
    p, rule = in_lambda(form, 0.0), RULES[variant]
    x, arrived, count, past = draft.start, draft.start, 1, list[Output]()
    for i, (s, t) in enumerate(pairwise(grid)):
        d = draft.denoised(s, arrived)
        m = p.output(arrived, d, s)
        if i and corrector and (form == "data" or grid[i - 1].alpha > 0.0):
            points = [past[0], (s, m), *past[1:count]]
            x = draft.keep(adams_step(p, x, grid[i - 1], s, points, rule))
        else:
            x = arrived
        if t.sigma == 0.0:
            return draft.keep(d)
        count = min(order, len(past) + 1, len(grid) - 1 - i if lower_order_final else order)
        if s.alpha > 0.0:
            arrived = draft.keep(adams_step(p, x, s, t, [(s, m), *past][:count], rule))
        else:
            arrived = draft.keep(Data(0.0).constant(x, d, s, t))
        past = [(s, draft.keep(m)), *past][:3]
    return arrived
