"""What a plan is made of where the caller names no solver."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from fastsolve import solvers
from fastsolve.grids import Grid
from fastsolve.recommended import recommend
from fastsolve.schedules import Schedule

ANY_GRID = "dpmpp_2m"
Levels = str | Grid | Sequence[float]


def advised(
    law: Schedule,
    grid: Levels | None,
    steps: int | None,
    nfe: int | None,
    options: Mapping[str, object] | None,
    inverse: bool,
) -> tuple[str, Levels, Mapping[str, object]]:
    """Solver, grid and options for a budget; a step counts as one call, so solvers of several calls a step are left to budgets of calls.

    With a grid of the caller's it is ANY_GRID: what is recommended was measured on its own. Raises ValueError for options of a solver.
    """
    if foreign := sorted(set(options or ()) - {"denoise_final"}):
        raise ValueError(f"options are those of a solver: name the solver that {', '.join(map(repr, foreign))} is for")
    if grid is not None:
        return ANY_GRID, grid, options or {}
    try:
        calls = max(1, operator.index(steps if nfe is None else nfe))  # type: ignore[arg-type]
    except TypeError:  # the planner says what is wrong with it
        calls = 1
    found = recommend(calls, stochastic=False if inverse else None, schedule=law)
    while nfe is None and solvers.get(found.solver).stages > 1:
        found = recommend(found.nfe - 1, stochastic=False if inverse else None, schedule=law)
    return found.solver, found.grid, {**found.options, **(options or {})}
