"""Restart: jump back up to a noisier level with fresh noise and come down again, around any single-step solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node, Schedule, VPTable
from fastsolve.solvers import Grid, Solver, get, one_of, solver

LONGEST = 100_000  # levels of an interval's walk: a mistaken count is refused before a plan of that length is written

Run = Callable[[Form, Grid, float], Form]  # (state, grid, s_churn): a base solver with its options


@dataclass(frozen=True)
class Jump:
    """An interval laid on the grid: after the main step that arrives at `index`, k times back up and down `inner`."""

    index: int
    k: int
    inner: Grid


def level_of(node: Node) -> float:
    """sigma / alpha, the levels of EDM."""
    return node.sigma / node.alpha if node.alpha else math.inf


def raised(draft: Draft, x: Form, low: Node, high: Node, s_noise: float) -> Form:
    """The state of a level raised to the law of a noisier one by fresh noise, for any schedule; it rides on the update before it.

    x -> g x + n z with g = alpha_high / alpha_low and n^2 = sigma_high^2 - g^2 sigma_low^2.
    """
    n = high.sigma * math.sqrt(-math.expm1(2.0 * (high.lam - low.lam)))
    return draft.keep((high.alpha / low.alpha) * x + (n * s_noise) * draft.noise())


def options_of(base: Solver, given: Mapping[str, object] | Sequence[tuple[str, object]]) -> dict[str, object]:
    """The options of a wrapper's base solver. Raises ValueError for those it does not have and for values that it cannot take."""
    try:
        options = dict(given)
    except (TypeError, ValueError):
        raise ValueError(f"base_options must be a dict of options of {base.name!r}, not {given!r}") from None
    for option, value in options.items():
        if option not in base.options:
            known = ", ".join(sorted(base.options)) or "none"
            raise ValueError(f"{base.name} has no option {option!r}; it has {known}")
        if isinstance(base.options[option], float) and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"option {option} of {base.name} must be a number, not {value!r}")
        if (option == "eta" or option.startswith("s_")) and isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"option {option} of {base.name} must be at least 0, not {value}")
    return options


def _bound(draft: Draft, name: str, options: Mapping[str, object], shared: Mapping[str, float]) -> Run:
    """A base solver as a function (x, grid, s_churn), with the shared options where it has them."""
    base = get(name)
    if name == "restart":
        raise ValueError("restart cannot be its own base: intervals do not nest")
    given = {**{k: v for k, v in shared.items() if k in base.options}, **options}

    def run(x: Form, grid: Grid, s_churn: float) -> Form:
        if s_churn and "s_churn" not in base.options:
            raise ValueError(f"{name} has no churn: it cannot take s_churn or gamma")
        churn = {"s_churn": s_churn} if s_churn else {}
        return draft.run(base.text, x, grid, **{**given, **churn})

    return run


def _interval(entry: object) -> tuple[int, int, float, float]:
    shape = f"an interval is (n_levels, k, t_min, t_max), not {entry!r}"
    if not isinstance(entry, Sequence) or len(entry) != 4:
        raise ValueError(shape)
    if not all(isinstance(v, Real) and not isinstance(v, bool) for v in entry):
        raise ValueError(shape)
    n_levels, k, t_min, t_max = entry
    if n_levels % 1 or n_levels < 2:  # infinity % 1 is nan, and true
        raise ValueError(f"n_levels counts levels, both ends included: at least 2, not {n_levels}, in {entry!r}")
    if k % 1 or k < 1:
        raise ValueError(f"k is a number of restarts, at least 1, not {k}, in {entry!r}")
    if n_levels * k > LONGEST:
        raise ValueError(f"an interval may walk {LONGEST} levels, n_levels times k, not as many as {entry!r}")
    if not 0.0 <= t_min < math.inf or not 0.0 < t_max < math.inf:
        raise ValueError(f"t_min and t_max are finite levels sigma / alpha, at least 0, in {entry!r}")
    return int(n_levels), int(k), float(t_min), float(t_max)


def _nearest(grid: Grid, level: float) -> int:
    """Index of the main level nearest to a level; the noisier one of two."""
    return min(range(len(grid)), key=lambda i: abs(level_of(grid[i]) - level))


def _top(schedule: Schedule, level: float, on_index: bool) -> Node:
    """The node of t_max: exactly, or at the nearest index of a table, as Restart's Stable Diffusion code has it."""
    node = schedule.at_lam(-math.log(level))
    if not on_index:
        return node
    around = [schedule.node(t) for t in (math.floor(node.t), math.ceil(node.t)) if 0 <= t <= schedule.t_max]
    return min(around, key=lambda n: abs(level_of(n) - level))


def _down(schedule: Schedule, high: Node, low: Node, count: int, inner_grid: str, power: float) -> Grid:
    """The inner grid; its ends are exactly the two nodes, so that coming down leaves no gap of an ulp to be bridged by noise."""
    parts = range(1, count - 1)
    if inner_grid == "karras":  # level^(1/power) is linear; by logarithms, since a small power overflows
        ratio = math.expm1((high.lam - low.lam) / power)  # of the ends' roots, less 1
        inside = [schedule.at_lam(high.lam - power * math.log1p(m / (count - 1) * ratio)) for m in parts]
    else:
        clocks = [(high.t * (count - 1 - m) + low.t * m) / (count - 1) for m in parts]  # of indices: exact before round
        inside = [schedule.node(float(round(t)) if isinstance(schedule, VPTable) else t) for t in clocks]
    inner = (high, *inside, low)
    if any(t.lam <= s.lam for s, t in pairwise(inner)):
        raise ValueError(f"{count} levels from {level_of(high):.6g} to {level_of(low):.6g} repeat one: lower n_levels")
    return inner


def jumps(
    schedule: Schedule, grid: Grid, intervals: Sequence[object], snap: str, inner_grid: str, power: float
) -> list[Jump]:
    """The intervals laid on a main grid, from noise to data. Raises ValueError for each that cannot be run as it is written."""
    one_of("snap", snap, ("t_min", "both", "none"))
    one_of("inner_grid", inner_grid, ("karras", "linear"))
    if not 0.0 < power < math.inf:
        raise ValueError(f"rho must be positive and finite, not {power}")
    if not isinstance(intervals, Sequence) or isinstance(intervals, str):
        raise ValueError(f"intervals is a list of (n_levels, k, t_min, t_max), not {intervals!r}")
    found: dict[int, tuple[object, Jump]] = {}
    top = max(level_of(grid[0]), level_of(schedule.node(schedule.t_max)))
    for entry in intervals:
        n_levels, k, t_min, t_max = _interval(entry)
        i = _nearest(grid, t_min)
        low, at = grid[i], f"{level_of(grid[i]):.6g}"
        if snap == "none" and abs(level_of(low) - t_min) > 1e-9 * t_min:
            raise ValueError(f"t_min = {t_min:g} of {entry!r} is no level of the grid; the nearest is {at}")
        if i == 0:
            raise ValueError(f"t_min of {entry!r} is the grid's first level, {at}, before which no step arrives")
        if i in found:
            raise ValueError(f"{found[i][0]!r} and {entry!r} both start from the level {at}: one of them would be lost")
        if snap != "both" and t_max > top:
            raise ValueError(
                f"t_max of {entry!r} is above all levels of the schedule {schedule.name!r}, up to {top:.6g}"
            )
        on_index = inner_grid == "linear" and isinstance(schedule, VPTable)
        try:
            high = grid[_nearest(grid, t_max)] if snap == "both" else _top(schedule, t_max, on_index)
            inner = _down(schedule, high, low, n_levels, inner_grid, power) if high.lam < low.lam else ()
        except ValueError as error:
            raise ValueError(f"{entry!r} does not fit the schedule: {error}") from None
        if not inner:
            raise ValueError(
                f"t_max of {entry!r}, {level_of(high):.6g} here, is not above t_min, which is the level {at}"
            )
        found[i] = entry, Jump(i, k, inner)
    return [found[i][1] for i in sorted(found)]


def _parts(down: Grid, inner: Run, last: Run | None) -> list[tuple[Run, Grid]]:
    """What walks the inner grid: one solver, or another one for the last step."""
    if last is None:
        return [(inner, down)]
    return [*([(inner, down[:-1])] if len(down) > 2 else []), (last, down[-2:])]


@solver("restart", forms="its base's", order=2, stages=2, source="arXiv 2306.14878, algorithm 2")
def restart(
    draft: Draft,
    grid: Grid,
    *,
    intervals: Sequence[object] = (),
    base: str = "heun",
    base_options: Mapping[str, object] | Sequence[tuple[str, object]] = (),
    inner_base: str | None = None,
    inner_last: str | None = None,
    snap: str = "t_min",
    inner_grid: str = "karras",
    rho: float = 7.0,
    s_churn: float = 0.0,
    gamma: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Form:
    """Restart (Xu et al. 2023, arXiv 2306.14878, algorithm 2; the inner loop has n_levels - 1 steps, as their NFE formula and code).

    intervals: (n_levels, k, t_min, t_max) in sigma / alpha; none is the base solver alone. base, base_options: any single-step solver
    (a multistep one starts anew after every jump); `orders`, one entry a main step, is the main grid's. inner_base, inner_last: another
    solver inside, and for the last step inside. snap: "t_min" to the nearest main level (as published), "both" (as webui), "none".
    inner_grid: "karras" with rho, or "linear" in the clock (rounded on tables, as their Stable Diffusion code). gamma: churn inside,
    s_churn outside, both between s_tmin and s_tmax.
    """
    if not 0.0 <= gamma <= math.sqrt(2.0) - 1.0:
        raise ValueError(f"gamma must be 0 to sqrt(2) - 1, EDM's bound, not {gamma}")
    laid = jumps(draft.schedule, grid, intervals, snap, inner_grid, rho)
    options = options_of(get(base), base_options)
    orders, shared = options.pop("orders", None), {"s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
    if orders is not None and (not isinstance(orders, Sequence) or len(orders) != len(grid) - 1):
        raise ValueError(f"orders must have one entry for each of the {len(grid) - 1} main steps, not {orders!r}")
    inner = _bound(draft, inner_base or base, {} if inner_base else options, shared)
    last = _bound(draft, inner_last, {}, shared) if inner_last else None
    levels, x, done = sum(node.sigma > 0.0 for node in grid), draft.start, 0
    for jump in [*laid, Jump(len(grid) - 1, 0, ())]:
        stop = jump.index
        if stop > done:
            cut = options if orders is None else {**options, "orders": orders[done:stop]}
            part = grid[done : stop + 1]
            share = sum(node.sigma > 0.0 for node in part) / levels  # the base divides s_churn by its own levels
            x = _bound(draft, base, cut, shared)(x, part, s_churn * share)
        for _ in range(jump.k):
            x = raised(draft, x, grid[stop], jump.inner[0], s_noise)
            for run, part in _parts(jump.inner, inner, last):
                x = run(x, part, gamma * sum(node.sigma > 0.0 for node in part))
        done = stop
    return x
