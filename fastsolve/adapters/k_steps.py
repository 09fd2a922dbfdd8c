"""What a caller of a k-diffusion function is told of a plan: the step of each call, its levels, the interval of each draw."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fastsolve.plan import Eval, Plan, Update


class Told(NamedTuple):
    """steps: call number -> (step, sigma_hat or None): the calls that begin a step of the caller's grid; the index never falls, also
    where a Restart comes by again, and sigma_hat is the level after churn. levels: all levels the model is called at, with those of
    the grid, decreasing, each once, as they are rounded for it. draws: (sigma, sigma_next) of each draw.
    """

    steps: dict[int, tuple[int, float | None]]
    levels: tuple[float, ...]
    draws: tuple[tuple[float, float], ...]


def told(plan: Plan, single: bool) -> Told:
    """What is told of a plan on an explicit grid. single: levels are float32."""
    grid = [t for t, *_ in plan.levels]
    every = {*grid, *(call.t for call in plan.evals)}
    levels = {float(np.float32(t)) for t in every} if single else every
    return Told(_steps(plan, grid), tuple(sorted(levels, reverse=True)), _intervals(plan, grid))


def _steps(plan: Plan, grid: list[float]) -> dict[int, tuple[int, float | None]]:
    steps, index, plain = dict[int, tuple[int, float | None]](), 0, len(plan.steps) == len(grid) - 1
    for k, number in enumerate(plan.steps):
        t = plan.evals[number].t
        index = k if plain else max(index, next(i for i, s in enumerate(grid) if s <= t))
        steps[number] = index, None if t == grid[index] else t
    return steps


def _intervals(plan: Plan, grid: list[float]) -> tuple[tuple[float, float], ...]:
    """The parts of a step between its draws: each ends where the state it is added to is looked at next.

    So a noise sampler that is a Brownian path gives independent increments. A draw that raises the state leads from the level below.
    """
    found, number, since, begins = dict[str, tuple[float, float]](), -1, grid[0], set(plan.steps)
    for op in plan.ops:
        if isinstance(op, Eval):
            number += 1
            since = op.t if number in begins else since
        elif isinstance(op, Update):
            new = sorted({name for row in op.rows for name, _ in row.terms if name[0] == "z"} - {*found})
            end = plan.evals[number + 1].t if number + 1 < plan.nfe else grid[-1]
            if new and number >= 0 and end >= since:
                last = plan.evals[number].t
                since = max(t for t in grid if t < last or (t == last and number not in begins))
            cuts = [since + (end - since) * i / max(len(new), 1) for i in range(len(new))]
            found.update(zip(new, pairwise([*cuts, end]), strict=True))
            since = end if new else since
    return tuple(found[f"z{i}"] for i in range(len(found)))
