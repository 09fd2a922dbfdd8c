"""From names and options to a plan: checks what was asked for, lays the grid, lets the solver write."""

from __future__ import annotations

import difflib
import functools
import math
import operator
from collections.abc import Mapping, Sequence

from fastsolve import advice, grids, predictions, schedules, solvers
from fastsolve.controls import Controls, Guidance
from fastsolve.draft import Draft
from fastsolve.forms import Form, FormError
from fastsolve.grids import Explicit, Grid
from fastsolve.plan import Plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule
from fastsolve.solvers import Solver

Options = tuple[tuple[str, object], ...]

_AT_LEAST_0 = {"eta", "s_noise", "s_churn", "s_tmin", "s_tmax"}


def make_plan(
    solver: str = "seeds3",
    *,
    schedule: str | Schedule,
    grid: str | Grid | Sequence[float] | None = None,
    steps: int | None = None,
    nfe: int | None = None,
    prediction: str | Prediction = "x0",
    guidance: float | Guidance | None = None,
    clip: float | tuple[float, float] | None = None,
    hooked: bool = False,
    both: bool = False,
    options: Mapping[str, object] | None = None,
) -> Plan:
    """The plan of a solver on a grid; needs no model. Plans are cached: the same question gives the same object.

    solver: a name of `list_solvers()`. schedule, prediction, grid: names or objects; a grid may also be decreasing clock values,
    the last included, and None is the schedule's usual one. One of steps (intervals of the grid) and nfe (a budget of model calls,
    of which the solver uses as many as whole steps allow), neither with explicit values. guidance: scale of classifier-free guidance, or
    a `Guidance`. clip: bounds of data predictions, c for (-c, c). hooked: a function of the caller's is applied to data predictions.
    both: a guided call asks both branches even where one would do, so that the samples of a batch may differ.
    options: the solver's keyword arguments; each solver also takes `denoise_final` (bool): one more call, at a last level above 0.

    Raises ValueError for unknown names and options (with the nearest match), for levels that do not decrease or lie outside the
    schedule, for both or neither of steps and nfe, and for a budget too small; TypeError for arguments of another type. Warns once
    per solver, grid and schedule of a grid, asked for by name, that is known to be far off for the solver in so many steps.
    """
    if not isinstance(solver, str):
        raise TypeError(f"solver must be a name of list_solvers(), not {solver!r}")
    law = schedules.get(schedule)
    meaning = predictions.get(prediction, getattr(law, "sigma_data", None))
    layout = grids.get(grid, law).for_order(solvers.get(solver).order)
    if guidance is not None and not isinstance(guidance, Guidance):
        guidance = Guidance(guidance)
    controls = Controls(guidance, _bounds(clip), hooked, both)
    chosen = _options(solver, options)
    count = _steps(layout, steps, nfe)
    if count is None:
        count = _affordable(solver, law, layout, _positive("nfe", nfe), meaning, controls, chosen)
    plan = _written(solver, law, layout, count, meaning, controls, chosen)
    if isinstance(grid, str):
        advice.warn_of(solver, law, grid, layout, count)
    return plan


def _steps(grid: Grid, steps: int | None, nfe: int | None) -> int | None:
    """The number of steps, or None where a budget decides."""
    if isinstance(grid, Explicit):
        if nfe is not None:
            raise ValueError("explicit grid values fix the number of steps: leave nfe out")
        count = len(grid.values) - 1
        if steps is not None and steps != count:
            raise ValueError(f"the grid given has {count} steps, not {steps}: leave steps out")
        return count
    if (steps is None) == (nfe is None):
        raise ValueError(
            f"give one of steps and nfe, not {'neither' if steps is None else f'both (steps={steps}, nfe={nfe})'}"
        )
    return None if steps is None else _positive("steps", steps)


def _bounds(clip: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """(lo, hi) of data predictions."""
    if clip is None:
        return None
    try:
        low, high = (-float(clip), float(clip)) if isinstance(clip, int | float) else map(float, clip)
    except (TypeError, ValueError):
        raise TypeError(f"clip must be a bound c, for -c to c, or a pair (low, high), not {clip!r}") from None
    if not low < high:
        raise ValueError(f"clip must be a positive bound or an increasing pair, not {clip!r}")
    return low, high


def _positive(name: str, value: int | None) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {value!r}")
    count = operator.index(value)  # type: ignore[arg-type]
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
    return count


def _options(name: str, options: Mapping[str, object] | None) -> Options:
    """The options of a solver, checked against its own and in an order and form by which plans can be cached."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict of a solver's keyword arguments, not {options!r}")
    known = {**solvers.get(name).options, "denoise_final": False}
    for option, value in (options or {}).items():
        if option not in known:
            near = difflib.get_close_matches(str(option), known, 1, 0.0)
            raise ValueError(
                f"{name} has no option {option!r}; nearest is {near[0]!r}; it has {', '.join(sorted(known))}"
            )
        _check_value(name, option, value, known[option])
    chosen = tuple(sorted((option, frozen(value)) for option, value in (options or {}).items()))
    try:
        hash(chosen)
    except TypeError:
        raise TypeError(f"an option of {name} has a value that cannot be a key: {dict(chosen)}") from None
    return chosen


def _check_value(name: str, option: str, value: object, default: object) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"option {option} of {name} must be True or False, not {value!r}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise TypeError(f"option {option} of {name} must be a name, like {default!r}, not {value!r}")
    elif isinstance(default, float) or option in _AT_LEAST_0:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"option {option} of {name} must be a number, not {value!r}")
        if option in _AT_LEAST_0 and not value >= 0:
            raise ValueError(f"option {option} of {name} must be at least 0, not {value}")
        if math.isnan(value):
            raise ValueError(f"option {option} of {name} must be a number, not nan")


def frozen(value: object) -> object:
    """Lists as tuples and dicts as tuples of pairs, which can be keys."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), frozen(v)) for name, v in value.items()))
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=256)
def _affordable(
    solver: str,
    schedule: Schedule,
    grid: Grid,
    nfe: int,
    prediction: Prediction,
    controls: Controls,
    options: Options,
) -> int:
    """The most steps whose calls fit the budget; every step costs at least one call."""

    def write(steps: int) -> Plan:
        return _written(solver, schedule, grid, steps, prediction, controls, options)

    steps = max(1, (nfe - 1) // solvers.get(solver).stages + 1)
    plan = write(steps)
    while plan.nfe > nfe:
        if steps == 1:
            raise ValueError(f"a budget of {nfe} model calls is too small for {solver}: its least is {plan.nfe}")
        steps -= 1
        plan = write(steps)
    while plan.nfe < nfe:
        more = write(steps + 1)
        if more.nfe > nfe:
            break
        steps, plan = steps + 1, more
    return steps


def _written(
    solver: str,
    schedule: Schedule,
    grid: Grid,
    steps: int,
    prediction: Prediction,
    controls: Controls,
    options: Options,
) -> Plan:
    return _plan(solvers.get(solver), schedule, grid, steps, prediction, controls, options)


@functools.lru_cache(maxsize=256)
def _plan(
    solver: Solver,
    schedule: Schedule,
    grid: Grid,
    steps: int,
    prediction: Prediction,
    controls: Controls,
    options: Options,
) -> Plan:
    nodes = grids.nodes(grid, schedule, steps)
    chosen = dict(options)
    denoise_final = chosen.pop("denoise_final", False)
    draft = Draft(schedule, prediction, controls)
    try:
        final = solver.write(draft, nodes, chosen)
        if denoise_final and nodes[-1].sigma > 0.0:
            final = draft.denoised(nodes[-1], final)
        if not isinstance(final, Form):
            raise TypeError(
                f"the text of solver {solver.name!r} must return the form of the final state, not {final!r}"
            )
        return draft.finish(final, solver.name, schedule.start_std(nodes[0]), nodes)
    except FormError as error:
        raise ValueError(f"{solver.name} on {schedule.name}, after {draft.calls} model calls: {error}") from error
