"""SA-Solver: stochastic Adams predictor and corrector, and the Adams step in lambda that other samplers in data form share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import decay, exponential_weights
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, one_of, solver

Output = tuple[Node, Form]  # a node and the prediction there


def adams_step(x: Form, s: Node, t: Node, outputs: Sequence[Output], eta: float = 0.0, rule: str = "exact") -> Form:
    """From x at s to t with the polynomial in lambda through the outputs; eta is the SDE's, whose noise is left to the caller.

    rule: of two outputs, "exact", or with the first moment of the exponential over the step replaced: "bh1" by h^2 / 2, "bh2"
    by h / 2 times the zeroth. An output at alpha = 0 lies infinitely far back in lambda, where it has no weight among others.
    """
    h, whole = t.lam - s.lam, decay(1, (1.0 + eta) * (t.lam - s.lam))
    fade = math.exp(-eta * h) if eta else 1.0
    weights = [0.0]
    if len(outputs) == 2 and (rule == "bh2" or (rule == "bh1" and s.alpha > 0.0)):
        reach = 1.0 if outputs[1][0] == t else h / (outputs[1][0].lam - s.lam)
        weights = [0.0, 0.5 * reach * (h if rule == "bh1" else whole / (1.0 + eta))]
    elif len(outputs) > 1:
        outputs = [output for output in outputs if output[0].alpha > 0.0]
        if len(outputs) > 1:
            weights = exponential_weights(s.lam, t.lam, [node.lam for node, _ in outputs], 1.0 + eta)
    base = outputs[0][1]
    new = (t.sigma / s.sigma * fade) * x + (t.alpha * whole) * base
    for c, (_, d) in zip(weights[1:], outputs[1:], strict=True):
        new = new + (t.alpha * (1.0 + eta) * c) * (d - base)
    return new


def fresh(s: Node, t: Node, eta: float) -> float:
    """Standard deviation of the noise that the SDE adds from s to t."""
    return t.sigma * math.sqrt(-math.expm1(-2.0 * eta * (t.lam - s.lam))) if eta else 0.0


@solver("sa_solver", order=2, weak_order=2, stochastic=True, source="arXiv 2309.05019, algorithm 1")
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
    pece: bool = False,
    lower_order_final: bool = True,
) -> Form:
    """SA-Solver (Xue et al. 2023, arXiv 2309.05019, algorithm 1): stochastic Adams in lambda, one noise for predictor and corrector.

    order: predictions used by the predictor, 1 to 4; corrector_order: by the corrector, with the new one, 0 (none) to 5.
    eta: tau^2, on steps that arrive at a level sigma / alpha within [s_tmin, s_tmax], elsewhere 0. variant: "simple" replaces the two-point
    rules as published for few steps. pece: call the model again after the corrector. lower_order_final: no more predictor
    points than positive levels left, and one more for the corrector.
    """
    one_of("order", order, range(1, 5))
    one_of("corrector_order", corrector_order, range(6))
    one_of("variant", variant, ("exact", "simple"))
    rule = {"exact": "exact", "simple": "bh1"}[variant]
    x, arrived, noise, eta_t, past = draft.start, draft.start, Form({}), 0.0, list[Output]()
    positive = sum(node.sigma > 0.0 for node in grid)
    for i, (s, t) in enumerate(pairwise(grid)):
        d = draft.denoised(s, arrived)
        past = [(s, d), *past][:5]
        left = positive - 1 - i if lower_order_final else 9
        count = min(corrector_order, len(past), left + 1)
        if i and count and (t.sigma > 0.0 or pece):
            points = [past[1], past[0], *past[2:count]] if count > 1 else past[:1]
            x = draft.keep(adams_step(x, grid[i - 1], s, points, eta_t, rule) + noise)
            if pece:
                d = draft.denoised(s, x)
                past[0] = (s, d)
        else:
            x = arrived
        if t.sigma == 0.0:
            return draft.keep(d)
        eta_t = eta if s_tmin * t.alpha <= t.sigma <= s_tmax * t.alpha else 0.0
        noise = (s_noise * fresh(s, t, eta_t)) * draft.noise()
        arrived = draft.keep(adams_step(x, s, t, past[: min(order, max(left, 1))], eta_t, rule) + noise)
    return arrived
