"""What a plan does: its coefficients, what becomes of errors and of noise, and its error against its calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from fastsolve.pictures.canvas import COLOURS, LOGSNR, blank, logsnr, plot_logsnr, style, tidy
from fastsolve.pictures.gaussian import gains, noise_budget
from fastsolve.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = "xsdrhz"  # states, start tensors, data predictions, outputs of a model and of a function, draws
_WRITTEN = 13  # columns up to which every number is written into its cell
_LABELLED = 26  # columns or rows up to which every one has its name


def plot_plan(plan: Plan) -> Figure:
    """The coefficients of every update, and the levels of the model calls.

    A row is a tensor that an update writes, a column what it reads: states x, data predictions d, outputs r of a model, draws z. Colours
    are logarithmic away from zero. Raises TypeError for what is no plan.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"a plan is made by make_plan, or is sampler.plan; this is {type(plan).__name__}")
    rows = list(plan.rows())
    read = sorted({name for row in rows for name, _ in row.terms}, key=_rank)
    written = len(read) <= _WRITTEN
    figure = blank(min(5.0 + 0.42 * len(read), 12.0) + 1.0, min(max(2.2 + 0.3 * len(rows), 3.4), 8.0))
    heat, levels = figure.subplots(1, 2, width_ratios=[2.2, 1.0])
    functions = f", {launches} launches" if (launches := plan.launches) != plan.nfe else ""
    figure.suptitle(
        f"{plan.solver} on {plan.schedule}: {plan.nfe} model calls{functions}, {plan.draws} draws", fontsize=11
    )
    _heat_map(heat, rows, read, written)
    plot_logsnr(levels, {plan.solver: [logsnr(call.alpha, call.sigma) for call in plan.evals]})
    tidy(levels, "model call", LOGSNR)
    levels.set_title("levels of the calls", fontsize=10)
    return figure


def _rank(name: str) -> tuple[int, int, str]:
    return _KINDS.find(name[0]), int(name[1:].rstrip("'")), name


def _heat_map(
    axes: Axes, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], read: list[str], written: bool
) -> None:
    from matplotlib.colors import SymLogNorm

    place = {name: i for i, name in enumerate(read)}
    cells = [[math.nan] * len(read) for _ in rows]
    for line, (_, terms) in zip(cells, rows, strict=True):
        for name, c in terms:
            line[place[name]] = c
    sizes = [abs(c) for _, terms in rows for _, c in terms]
    norm = SymLogNorm(linthresh=max(min(1e-2, max(sizes)), 1e-30), vmin=-max(sizes), vmax=max(sizes))
    image = axes.imshow(cells, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
    if written:
        for i, line in enumerate(cells):
            for j, c in enumerate(line):
                if not math.isnan(c):
                    dark = abs(norm(c) - 0.5) > 0.35
                    axes.text(
                        j, i, f"{c:.2g}", ha="center", va="center", fontsize=7.5, color="white" if dark else "black"
                    )
    for axis, names in ((axes.xaxis, read), (axes.yaxis, [out for out, _ in rows])):
        every = -(-len(names) // _LABELLED)
        axis.set_ticks(range(0, len(names), every), names[::every], fontsize=8)
    for j, (one, other) in enumerate(pairwise(read)):
        if one[0] != other[0]:
            axes.axvline(j + 0.5, color="0.5", linewidth=0.8)
    axes.set_facecolor("0.96")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(
        "reads: states x, predictions d, draws z"
        if any(n[0] == "z" for n in read)
        else "reads: states x, predictions d"
    )
    axes.set_ylabel("writes")
    axes.set_title("coefficients", fontsize=10)
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, pad=0.02, shrink=0.9)


def plot_stability(plans: Plan | Sequence[Plan], *, std: float = 0.5) -> Figure:
    """What becomes of an error in one model call: |d result / d error of call k|, exactly, for data N(0, std^2) (see `gains`).

    1 is an error that arrives as large as it was made. The sum over all calls, in the legend, is the most that errors of size 1
    can do together. Raises ValueError for plans that are not linear.
    """
    several = [plans] if isinstance(plans, Plan) else list(plans)
    if not several:
        raise ValueError("there is no plan to draw")
    figure = blank(7.5, 4.0)
    axes = figure.subplots()
    for i, plan in enumerate(several):
        values = gains(plan, std)
        label = f"{plan.solver}, {plan.nfe} calls: sum {math.fsum(values):.3g}"
        axes.plot(range(len(values)), values, label=label, **style(i))
    tidy(axes, "model call k", "|d result / d error of call k|")
    axes.set_ylim(bottom=0.0)
    axes.locator_params(axis="x", integer=True)
    axes.set_title(f"what becomes of an error in one call (Gaussian data, standard deviation {std:g})", fontsize=11)
    axes.legend(fontsize=9, frameon=False)
    return figure


def plot_noise_budget(plan: Plan, *, std: float = 0.5) -> Figure:
    """Which draw puts how much variance into the result, for data N(0, std^2), against the variance it should have (see `noise_budget`).

    Bars stand on each other, from the start's noise to the last draw. Raises ValueError for plans that are not linear, and for inverses.
    """
    budget = noise_budget(plan, std)
    if budget.target == 0.0:
        raise ValueError("std = 0 on a grid that ends in clean data has no variance to compare with: give std > 0")
    parts = [part / budget.target for part in (budget.start, *budget.draws)]
    below = [math.fsum(parts[:i]) for i in range(len(parts))]
    figure = blank(min(5.5 + 0.22 * len(parts), 11.0), 4.0)
    axes = figure.subplots()
    axes.bar(range(len(parts)), parts, bottom=below, color=[COLOURS[1], *[COLOURS[0]] * len(budget.draws)], width=0.8)
    axes.axhline(1.0, color="black", linewidth=1.0, linestyle="--")
    names = ["start", *(f"z{i}\n{t:.3g}" for i, t in enumerate(budget.at))]
    every = -(-len(names) // 16)
    axes.set_xticks(range(0, len(names), every), names[::every], fontsize=8)
    tidy(axes, "draw, and the clock value of the call before it", "variance of the result / target")
    axes.set_ylim(0.0, 1.08 * max(1.0, below[-1] + parts[-1]))
    off = 100.0 * (budget.total / budget.target - 1.0)
    axes.set_title(
        f"{plan.solver} on {plan.schedule}, {plan.nfe} calls: noise budget for data N(0, {std:g}²)\n"
        f"variance {budget.total:.4g}, target {budget.target:.4g} ({off:+.2g} %)",
        fontsize=11,
    )
    return figure


def plot_errors(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, error: str = "error", title: str = ""
) -> Figure:
    """Error against model calls, both logarithmic: `gaussian_errors`, or figures of the caller's. curves: name -> [(nfe, error), ...].

    error: what it is, with its unit. Raises ValueError where there is nothing to draw, or where a number is not positive and finite.
    """
    if not curves or not all(curves.values()):
        raise ValueError("curves is a dict of name -> [(nfe, error), ...], and each needs a point")
    for name, points in curves.items():
        for point in points:
            if len(point) != 2 or not all(0.0 < value < math.inf for value in point):
                raise ValueError(f"a point of {name} must be (nfe, error), both positive and finite, not {point!r}")
    figure = blank(7.0, 4.2)
    axes = figure.subplots()
    for i, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*sorted(points), strict=True), label=name, **style(i))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks: list[float] = []
    for calls in sorted({calls for points in curves.values() for calls, _ in points}):
        if not ticks or calls > 1.12 * ticks[-1]:  # else their labels would meet
            ticks.append(calls)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    tidy(axes, "model calls (NFE)", error)
    axes.set_title(title, fontsize=11)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure
