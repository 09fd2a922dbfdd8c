"""The sampler that is searched for, as an engine runs it: a solver's text, a grid, and plans of frozen numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fastsolve import Plan
from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import exponential_weights, lagrange
from fastsolve.predictions import X0
from fastsolve.schedules import Node, Schedule
from fastsolve.solvers import Grid
from fastsolve.solvers.ddim import ddim_step

NOISY = 10.0  # times c: a start with less noise than this is not shrunk


def first_call(schedule: Schedule, grid: Grid, c: float, reach: float) -> Node:
    """Where the first call is made: one step, `reach` times the second, above the first level; or at the start, if that is not above."""
    start = grid[0]
    if len(grid) < 4 or start.sigma < NOISY * c * start.alpha:
        return start
    lam = grid[1].lam - reach * (grid[2].lam - grid[1].lam)
    return schedule.at_lam(lam) if start.lam < lam < grid[1].lam else start


def shrunk(c: float, s: Node, t: Node) -> float:
    """What the flow multiplies data N(0, c^2) by."""
    return math.hypot(t.alpha * c, t.sigma) / math.hypot(s.alpha * c, s.sigma)


def weights(nodes: Sequence[Node], s: Node, t: Node, c: float) -> list[float]:
    """Of data predictions at nodes, newest first, adding up to 1: interpolated in log(rho + c), rho = sigma / alpha = e^-lam."""

    def position(lam: float) -> float:
        return math.log(math.exp(-lam) + c)

    def through(count: int) -> list[float]:
        where = [position(node.lam) for node in nodes[:count]]
        if t.sigma == 0.0:
            found = [lagrange(where, j, position(t.lam)) for j in range(count)]
        else:
            found = exponential_weights(s.lam, t.lam, where, 1.0, position)
        return [w / sum(found) for w in found] + [0.0] * (len(nodes) - count)

    return [(a + b) / 2.0 for a, b in zip(through(min(2, len(nodes))), through(len(nodes)), strict=True)]


def few(draft: Draft, grid: Grid, *, c: float, reach: float) -> Form:
    """The solver's text, of the numbers c and reach."""
    x, past = draft.start, list[tuple[Node, Form]]()
    for i, (s, t) in enumerate(pairwise(grid)):
        at = s if i else first_call(draft.schedule, grid, c, reach)
        d = draft.denoised(at, x if at == s else shrunk(c, s, at) * x)
        past = [(at, d), *[output for output in past if output[0].alpha > 0.0]][:3]
        mean = d
        for w, (_, before) in zip(weights([n for n, _ in past], at, t, c)[1:], past[1:], strict=True):
            mean = mean + w * (before - d)
        x = draft.keep(ddim_step(x, mean, s, t))
    return x


def tabled(draft: Draft, grid: Grid, first: float, table: Sequence[Sequence[float]], c: float) -> Form:
    """The same with a level of the first call (sigma / alpha), and weights from a table, newest first."""
    x, past = draft.start, list[Form]()
    for i, (s, t) in enumerate(pairwise(grid)):
        at = s if i else draft.schedule.at_lam(-math.log(first))
        d = draft.denoised(at, x if i else shrunk(c, s, at) * x)
        past = [d, *past][:3]
        mean = d
        for w, before in zip(table[i][1:], past[1:], strict=True):
            mean = mean + w * (before - d)
        x = draft.keep(ddim_step(x, mean, s, t))
    return x


def few_nodes(schedule: Schedule, calls: int, numbers: dict[str, float]) -> list[Node]:
    """The grid of so many calls: the schedule's start, levels a (1 - u)^p / u^q at even u, clean data."""
    wide = calls - 1 + numbers["before"] + numbers["after"]
    u = [(i + numbers["before"]) / wide for i in range(1, calls)]
    lams = [-math.log(numbers["a"] * (1.0 - v) ** numbers["p"] / v ** numbers["q"]) for v in u]
    return [
        schedule.node(schedule.t_max),
        *(schedule.at_lam(lam) for lam in lams),
        schedule.node(schedule.t_clean),
    ]


def few_plan(schedule: Schedule, calls: int, numbers: dict[str, float], prediction: object = None) -> Plan:
    """The plan of `few` on its grid, for a model that predicts data unless told otherwise."""
    nodes = few_nodes(schedule, calls, numbers)
    draft = Draft(schedule, prediction or X0())  # type: ignore[arg-type]
    form = few(draft, tuple(nodes), c=numbers["c"], reach=numbers["reach"])
    return draft.finish(form, "few", schedule.start_std(nodes[0]), nodes)


def table_plan(
    schedule: Schedule, levels: Sequence[float], table: Sequence[Sequence[float]], c: float, prediction: object = None
) -> Plan:
    """The plan of `tabled`: levels are those of the calls."""
    nodes = [
        schedule.node(schedule.t_max),
        *(schedule.at_lam(-math.log(s)) for s in levels[1:]),
        schedule.node(schedule.t_clean),
    ]
    draft = Draft(schedule, prediction or X0())  # type: ignore[arg-type]
    form = tabled(draft, tuple(nodes), levels[0], table, c)
    return draft.finish(form, "table", schedule.start_std(nodes[0]), nodes)
