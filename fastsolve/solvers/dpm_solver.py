"""DPM-Solver, singlestep, second and third order; DPM-Solver++ shares its steps in data form (`dpmpp_single`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.seeds_forms import Parametrisation, parametrisation


def taylor(variant: str) -> bool:
    return one_of("variant", variant, ("dpm_solver", "taylor")) == "taylor"


def blocks(
    draft: Draft, grid: Grid, orders: Sequence[int] | None, highest: int, nodes: Sequence[float], inner: str
) -> list[tuple[Node, list[Node], Node]]:
    """The steps (s, inner nodes, t) of a singlestep method, by the order of each.

    inner "lambda": a step is a step of the grid, its inner nodes lie at `nodes` of it (order 2 of a third-order method: in the middle).
    "grid": a step takes as many levels of the grid as its order, the inner ones are its nodes, and a model call is a level.
    """
    if not all(a < b for a, b in pairwise((0.0, *nodes))) or not nodes[-1] <= 1.0:
        raise ValueError(f"inner nodes must increase within (0, 1], not {', '.join(map(str, nodes))}")
    one_of("inner", inner, ("lambda", "grid"))
    count = len(grid) - 1
    if orders is None:
        body = count - (inner == "grid" and (grid[-1].sigma == 0.0))
        rest = [body % highest] * (body % highest > 0) + [1] * (count - body)
        orders = [highest] * count if inner == "lambda" else [highest] * (body // highest) + rest
    if not isinstance(orders, Sequence) or any(order not in range(1, highest + 1) for order in orders):
        raise ValueError(f"orders must be numbers from 1 to {highest}, not {orders!r}")
    total = sum(orders) if inner == "grid" else len(orders)
    if total != count:
        raise ValueError(f"orders {tuple(orders)!r} are for a grid of {total} steps, and this one has {count}")
    at = {1: (), highest: tuple(nodes), **({2: (0.5,)} if highest == 3 else {})}
    steps, i = [], 0
    for order in orders:
        width = order if inner == "grid" else 1
        s, t = grid[i], grid[i + width]
        steps.append((s, list(grid[i + 1 : i + width]) if inner == "grid" else between(draft, s, t, at[order]), t))
        i += width
    if inner == "grid" and any(middle and (t.sigma == 0.0 or s.alpha == 0.0) for s, middle, t in steps):
        raise ValueError("a step to sigma = 0 or from alpha = 0 is first order: give it 1 in orders")
    return steps


def between(draft: Draft, s: Node, t: Node, nodes: Sequence[float]) -> list[Node]:
    """The inner nodes of a step; none where it reaches over all of lambda, at alpha = 0 or to sigma = 0."""
    if t.sigma == 0.0 or s.alpha == 0.0:
        return []
    return [t if r == 1.0 else draft.schedule.at_lam(s.lam + r * (t.lam - s.lam)) for r in nodes]


def first(x: Form, d: Form, s: Node, t: Node) -> Form:
    """DPM-Solver-1, which is DDIM, in the form that stays finite at both ends."""
    ratio = t.sigma / s.sigma
    return ratio * x + (t.alpha - s.alpha * ratio) * d


def step(draft: Draft, p: Parametrisation, x: Form, s: Node, inner: Sequence[Node], t: Node, by_taylor: bool) -> Form:
    """One step with a model call at s and at each inner node, in the form p (noise: DPM-Solver; data: DPM-Solver++).

    Second order: the slope of the model's output M between s and the inner node; third order: u_2 by the exact linear rule, then the
    slope between s and u_2. By Taylor's formula: all divided differences of M, each with its exact weight.
    """
    d = draft.denoised(s, x)
    if not inner:
        return draft.keep(first(x, d, s, t))
    m, h = p.output(x, d, s), t.lam - s.lam
    u, *others = inner
    r = (u.lam - s.lam) / h
    x_u = draft.keep(first(x, d, s, u))
    slope = (p.output(x_u, draft.denoised(u, x_u), u) - m) / r
    new, exact = first(x, d, s, t), p.weight(2, s, t)
    if not others:
        return draft.keep(new + (exact if by_taylor else 0.5 * p.weight(1, s, t)) * slope)
    (v,) = others
    r_v = (v.lam - s.lam) / h
    x_v = draft.keep(first(x, d, s, v) + (r_v * p.weight(2, s, v)) * slope)
    slope_v = (p.output(x_v, draft.denoised(v, x_v), v) - m) / r_v
    if not by_taylor:
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
) -> Form:
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, algorithm 1), also known as DPM2; a step at an end of lambda is first order.

    r: the inner node, in (0, 1]. variant: "dpm_solver" or "taylor". orders: of every step, 1 or 2. inner: "grid" takes the inner nodes
    from the grid (then a level is a model call), as diffusers does.
    """
    p, by_taylor, x = parametrisation("noise", 0.0, None, draft.schedule), taylor(variant), draft.start
    for s, middle, t in blocks(draft, grid, orders, 2, (r,), inner):
        x = step(draft, p, x, s, middle, t, by_taylor)
    return x


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
    """DPM-Solver-3 (Lu et al. 2022, arXiv 2206.00927, algorithm 2); a step at an end of lambda is first order.

    r1, r2: inner nodes, 0 < r1 < r2 <= 1; order 3 needs r2 = 2/3. orders: of every step, 1 to 3, as in their
    "fast" singlestep (3, 3, 2, 1). inner: "grid" takes the inner nodes from the grid (then a level is a model call).
    """
    p, by_taylor, x = parametrisation("noise", 0.0, None, draft.schedule), taylor(variant), draft.start
    for s, middle, t in blocks(draft, grid, orders, 3, (r1, r2), inner):
        x = step(draft, p, x, s, middle, t, by_taylor)
    return x
