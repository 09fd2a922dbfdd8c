"""UniPC: a predictor and a corrector of one order more that reuses the predictor's call."""

from __future__ import annotations

from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.sa_solver import Output, adams_step


@solver("unipc", order=2, source="arXiv 2302.04867, algorithms 1 and 2")
def unipc(
    draft: Draft,
    grid: Grid,
    *,
    order: int = 3,
    variant: str = "bh2",
    lower_order_final: bool = True,
    corrector: bool = True,
) -> Form:
    """UniPC (Zhao et al. 2023, arXiv 2302.04867, algorithms 1, 2) in data form; from three points on its weights are exact integrals.

    order: predictions used by the predictor, 1 to 3. variant: "bh1" or "bh2", B(h) = h or e^h - 1, which only two-point rules feel.
    lower_order_final: no more points than steps left, as published; without it the order is one more. corrector: False is UniP.
    The last step is not corrected; the published variant "vary_coeff" is wrong and not here.
    """
    one_of("order", order, range(1, 4))
    one_of("variant", variant, ("bh1", "bh2"))
    x, arrived, count, past = draft.start, draft.start, 1, list[Output]()
    for i, (s, t) in enumerate(pairwise(grid)):
        d = draft.denoised(s, arrived)
        if i and corrector:
            points = [past[0], (s, d), *past[1:count]]
            x = draft.keep(adams_step(x, grid[i - 1], s, points, rule=variant))
        else:
            x = arrived
        if t.sigma == 0.0:
            return draft.keep(d)
        past = [(s, d), *past][:3]
        count = min(order, len(past), len(grid) - 1 - i if lower_order_final else order)
        arrived = draft.keep(adams_step(x, s, t, past[:count], rule=variant))
    return arrived
