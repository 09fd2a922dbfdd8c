"""The candidates as plans: `few` is the solver `fastsolve` on its grid, `table` is written from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import fastsolve
from fastsolve import Plan
from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.grids import Few, few as grid_of
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule
from fastsolve.solvers import few as solver_of
from fastsolve.solvers.ddim import ddim_step


def shipped() -> dict[str, float]:
    """The numbers that stand in the package, under the names that training gives them."""
    return {
        "c": solver_of.C,
        "reach": solver_of.REACH,
        "a": grid_of.A * Few().c,
        "p": grid_of.P,
        "q": grid_of.Q,
        "before": grid_of.BEFORE,
        "after": grid_of.AFTER,
    }


def few_plan(law: Schedule, calls: int, numbers: Mapping[str, float], prediction: Prediction) -> Plan:
    """The plan of `few`. Raises ValueError for other numbers than those of the package: they are judged where they are written."""
    if any(not math.isclose(value, shipped()[name], rel_tol=1e-12) for name, value in numbers.items()):
        raise ValueError(f"the package has the numbers {shipped()}, not {dict(numbers)}: write those there first")
    return fastsolve.make_plan("fastsolve", schedule=law, grid=Few(), nfe=calls, prediction=prediction)


def table_plan(
    law: Schedule, levels: Sequence[float], table: Sequence[Sequence[float]], c: float, prediction: Prediction
) -> Plan:
    """A plan that calls at levels (sigma / alpha), the first one below the start, with the weights of a table, newest first."""
    top, end = law.node(law.t_max), law.node(law.t_clean)
    first, *inner = (law.at_lam(-math.log(s)) for s in levels)
    draft, nodes = Draft(law, prediction), (top, *inner, end)
    ahead = math.hypot(first.alpha * c, first.sigma) / math.hypot(top.alpha * c, top.sigma)
    x, past = draft.start, list[Form]()
    for (s, t), weights in zip(pairwise(nodes), table, strict=True):
        d = draft.denoised(s, x) if past else draft.denoised(first, ahead * x)
        past = [d, *past][:3]
        mean = d
        for w, before in zip(weights[1:], past[1:], strict=True):
            mean = mean + w * (before - d)
        x = draft.keep(ddim_step(x, mean, s, t))
    return draft.finish(x, "table", law.start_std(top), nodes)
