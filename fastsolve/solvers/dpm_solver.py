"""DPM-Solver, singlestep, second and third order; DPM-Solver++ shares its steps in data form (`dpmpp_single`).

Options shared by the four: variant "dpm_solver" as in their papers' algorithms, "taylor", all divided differences with their exact weights,
or "midpoint", which makes the last stage of the third order by the rule of the second, as diffusers does. orders: of every step, up to
that of the method, as in their "fast" singlestep (3, 3, 2, 1). inner: "grid" takes the inner nodes from the grid, so that a level is
a model call. A step at an end of lambda is first order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.ddim import ddim_step
from fastsolve.solvers.heun import churned
from fastsolve.solvers.seeds_forms import Data, Noise, in_lambda

NO_CHURN = (0.0, 0.0, math.inf, 1.0)


def blocks(grid: Grid, orders: Sequence[int] | None, highest: int, on_grid: bool) -> Iterator[tuple[int, Grid]]:
    """The steps of a singlestep method: the order of each, and its levels of the grid, two or (on_grid) one more than its order."""
    count = len(grid) - 1
    if orders is None:
        body = count - (on_grid and grid[-1].sigma == 0.0)
        rest = [body % highest] * (body % highest > 0) + [1] * (count - body)
        orders = [highest] * (body // highest) + rest if on_grid else [highest] * count
    if not isinstance(orders, Sequence) or any(order not in range(1, highest + 1) for order in orders):
        raise ValueError(f"orders must be numbers from 1 to {highest}, not {orders!r}")
    widths = list(orders) if on_grid else [1] * len(orders)
    if sum(widths) != count:
        raise ValueError(f"orders {tuple(orders)!r} are for a grid of {sum(widths)} steps, and this one has {count}")
    i = 0
    for order, width in zip(orders, widths, strict=True):
        levels = grid[i : i + width + 1]
        if width > 1 and (levels[0].alpha == 0.0 or levels[-1].sigma == 0.0):
            raise ValueError("a step to sigma = 0 or from alpha = 0 is first order: give it 1 in orders")
        yield order, levels
        i += width


def between(draft: Draft, s: Node, t: Node, nodes: Sequence[float]) -> list[Node]:
    """The inner nodes of a step; none where it reaches over all of lambda, at alpha = 0 or to sigma = 0."""
    if t.sigma == 0.0 or s.alpha == 0.0:
        return []
    return [t if r == 1.0 else draft.schedule.at_lam(s.lam + r * (t.lam - s.lam)) for r in nodes]


def singlestep(
    draft: Draft,
    grid: Grid,
    form: str,
    nodes: Sequence[float],
    variant: str,
    orders: Sequence[int] | None,
    inner: str,
    churn: tuple[float, float, float, float] = NO_CHURN,
) -> Form:
    """All steps; form "noise" is DPM-Solver, "data" DPM-Solver++. nodes: of the highest order; order 2 of order 3 has its in the middle."""
    if not all(a < b for a, b in pairwise((0.0, *nodes))) or not nodes[-1] <= 1.0:
        names = "r" if len(nodes) == 1 else "r1, r2"
        raise ValueError(f"inner nodes {names} must increase within (0, 1], not {', '.join(map(str, nodes))}")
    one_of("variant", variant, ("dpm_solver", "taylor", "midpoint"))
    on_grid = one_of("inner", inner, ("lambda", "grid")) == "grid"
    p, x, highest = in_lambda(form, 0.0), draft.start, len(nodes) + 1
    places = {1: (), 2: (0.5,), highest: tuple(nodes)}
    for order, (s, *middle, t) in blocks(grid, orders, highest, on_grid):
        x, s = churned(draft, x, s, grid, *churn)
        x = step(draft, p, x, s, middle if on_grid else between(draft, s, t, places[order]), t, variant)
    return x


def step(draft: Draft, p: Data | Noise, x: Form, s: Node, inner: Sequence[Node], t: Node, variant: str) -> Form:
    """One step with a model call at s and at each inner node.

    Second order: the slope of the model's output M between s and the inner node; third order: u_2 by the exact linear rule, then the
    slope between s and u_2.
    """
    d = draft.denoised(s, x)
    new = ddim_step(x, d, s, t)
    if not inner:
        return draft.keep(new)
    m, h, exact = p.output(x, d, s), t.lam - s.lam, p.weight(2, s, t)
    u, *others = inner
    r = (u.lam - s.lam) / h
    x_u = draft.keep(ddim_step(x, d, s, u))
    slope = (p.output(x_u, draft.denoised(u, x_u), u) - m) / r
    if not others:
        return draft.keep(new + (exact if variant == "taylor" else 0.5 * p.weight(1, s, t)) * slope)
    (v,) = others
    r_v = (v.lam - s.lam) / h
    inside = 0.5 * p.weight(1, s, v) if variant == "midpoint" else p.weight(2, s, v)
    x_v = draft.keep(ddim_step(x, d, s, v) + (r_v * inside) * slope)
    slope_v = (p.output(x_v, draft.denoised(v, x_v), v) - m) / r_v
    if variant != "taylor":
        return draft.keep(new + exact * slope_v)
    bend = (slope_v - slope) / (r_v - r)
    return draft.keep(new + exact * (slope - r * bend) + (2.0 * p.weight(3, s, t)) * bend)


@solver("dpm_solver_2", forms="noise", order=2, stages=2, source="arXiv 2206.00927, algorithm 1")
def dpm_solver_2(
    draft: Draft,
    grid: Grid,
    *,
    r: float = 0.5,
    variant: str = "dpm_solver",
    orders: Sequence[int] | None = None,
    inner: str = "lambda",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Form:
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, algorithm 1), also known as DPM2. Options as in the module.

    r: the inner node, in (0, 1]. s_churn, s_tmin, s_tmax, s_noise: as in `heun`.
    """
    return singlestep(draft, grid, "noise", (r,), variant, orders, inner, (s_churn, s_tmin, s_tmax, s_noise))


@solver("dpm_solver_3", forms="noise", order=3, stages=3, source="arXiv 2206.00927, algorithm 2")
def dpm_solver_3(
    draft: Draft,
    grid: Grid,
    *,
    r1: float = 1.0 / 3.0,
    r2: float = 2.0 / 3.0,
    variant: str = "dpm_solver",
    orders: Sequence[int] | None = None,
    inner: str = "lambda",
) -> Form:
    """DPM-Solver-3 (Lu et al. 2022, arXiv 2206.00927, algorithm 2). Options as in the module.

    r1, r2: inner nodes, 0 < r1 < r2 <= 1; order 3 needs r2 = 2/3.
    """
    return singlestep(draft, grid, "noise", (r1, r2), variant, orders, inner)
