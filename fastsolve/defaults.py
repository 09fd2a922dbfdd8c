"""What a plan is made of where the caller names no solver."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from fastsolve import grids
from fastsolve.grids import Explicit, Grid
from fastsolve.recommended import recommend
from fastsolve.schedules import Schedule

Levels = str | Grid | Sequence[float]


def advised(
    law: Schedule,
    grid: Levels | None,
    steps: int | None,
    nfe: int | None,
    options: Mapping[str, object] | None,
    inverse: bool,
) -> tuple[str, Levels, Mapping[str, object]]:
    """Solver, grid and options for a budget; a step counts as one call. Raises ValueError for options without the solver they are for."""
    if options:
        raise ValueError(f"options are those of a solver: name the solver that {', '.join(map(repr, options))} is for")
    layout = None if grid is None else grids.get(grid, law)
    budget = len(layout.values) - 1 if isinstance(layout, Explicit) else steps if nfe is None else nfe
    try:
        calls = max(1, operator.index(budget))  # type: ignore[arg-type]
    except TypeError:  # the planner says what is wrong with it
        calls = 1
    found = recommend(calls, stochastic=False if inverse else None, schedule=law)
    return found.solver, found.grid if grid is None else grid, found.options
