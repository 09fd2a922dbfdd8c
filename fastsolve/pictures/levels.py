"""Grids, as log SNR over their levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastsolve import grids as rules, schedules
from fastsolve.grids import Explicit, Grid
from fastsolve.pictures.canvas import LOGSNR, blank, logsnr, plot_logsnr, tidy
from fastsolve.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layout = str | Grid | Sequence[float]


def plot_grids(
    grids: Sequence[Layout] | Mapping[str, Layout], *, schedule: str | Schedule, steps: int | None = None
) -> Figure:
    """log SNR of the levels of several grids on a schedule. grids: names, objects or clock values; a dict gives them other labels.

    Clean data and alpha = 0 are on lines of their own. Raises ValueError for unknown names, for steps left out where a grid is a rule,
    and for levels outside the schedule.
    """
    law = schedules.get(schedule)
    if isinstance(grids, str) or not grids:
        raise TypeError(f"grids is a list or dict of grids, not {grids!r}")
    named = dict(grids) if isinstance(grids, Mapping) else {_label(grid, i): grid for i, grid in enumerate(grids)}
    values = []
    for grid in named.values():
        layout = rules.get(grid, law)
        count = len(layout.values) - 1 if isinstance(layout, Explicit) else steps
        if count is None:
            raise ValueError("steps is the number of steps of the grids: give it")
        values.append([logsnr(node.alpha, node.sigma) for node in rules.nodes(layout, law, count)])
    figure = blank(7.0, 4.0)
    axes = figure.subplots()
    plot_logsnr(axes, dict(zip(named, values, strict=True)))
    tidy(axes, "level of the grid, from noise to data", LOGSNR)
    axes.set_title(f"levels on {law.name}", fontsize=11)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure


def _label(grid: Layout, i: int) -> str:
    if isinstance(grid, str):
        return grid
    return f"{grid.name} ({i})" if isinstance(grid, Grid) else f"given ({i})"
