"""From names and options to a plan: checks what was asked for, lays the grid, lets the solver write."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastsolve import advice, defaults, grids, predictions, schedules, solvers
from fastsolve.controls import NO_CONTROLS, Controls, Guidance
from fastsolve.draft import Draft
from fastsolve.forms import Form, FormError
from fastsolve.grids import Explicit, Grid
from fastsolve.plan import Plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule
from fastsolve.solvers import Solver
from fastsolve.walks import Walk, check_inverse, inverted, loud

Options = tuple[tuple[str, object], ...]
_NEAR = "; a node inside a step may be rounded to its end: take fewer steps, or a solver of one call a step"
_LARGEST = 3.4028234663852886e38  # of float32: no bound

_AT_LEAST_0 = {"eta", "s_noise", "s_churn", "s_tmin", "s_tmax"}


def make_plan(
    solver: str | None = None,
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
    start: int | None = None,
    stop: int | None = None,
    strength: float | None = None,
    inverse: bool = False,
) -> Plan:
    """The plan of a solver on a grid; needs no model. Plans are cached: the same question gives the same object.

    solver: a name of `list_solvers()`; None is what `recommend` says for the budget, with its options and its grid (a step counts as
    a call; an inverse takes the most exact solver without noise), or dpmpp_2m with a grid of the caller's. schedule, prediction,
    grid: names or objects; a grid may also be decreasing clock values, the last included, and None is the schedule's usual one. One of
    steps (intervals of the grid) and nfe (a budget of model calls, of which the solver uses as many as whole steps allow), neither with
    explicit values. guidance: scale of classifier-free guidance, or a `Guidance`. clip: bounds of data predictions, c for (-c, c).
    hooked: a function of the caller's is applied to data predictions. both: a guided call asks both branches even where one would do,
    so that the samples of a batch may differ.
    options: the solver's keyword arguments; each solver also takes `denoise_final` (bool): one more call, at a last level above 0.

    start, stop: the part from level `start` to level `stop` of the grid, 0 <= start < stop <= steps; strength: its last
    int(steps * strength) steps, in (0, 1], as in diffusers. The solver sees that part alone, but a window and s_churn are those of
    the whole grid. `steps` counts the whole grid, `nfe` the calls that are made. inverse: walk it from data to noise (see `invert`),
    for solvers that draw none; `nfe` buys the steps of the plan that it is the inverse of.

    Raises ValueError for unknown names and options (with the nearest match), for levels that do not decrease or lie outside the
    schedule, for both or neither of steps and nfe, for a budget too small, for parts that are not there, and for inverses that do
    not exist; TypeError for arguments of another type. Warns once
    per solver, grid and schedule of a grid, asked for by name, that is known to be far off for the solver in so many steps.
    """
    law = schedules.get(schedule)
    named = grid
    if solver is None:
        solver, grid, options = defaults.advised(law, grid, steps, nfe, options, inverse)
    if not isinstance(solver, str):
        raise TypeError(f"solver must be a name of list_solvers(), not {solver!r}")
    meaning = predictions.get(prediction, getattr(law, "sigma_data", None))
    layout = grids.get(grid, law).for_order(solvers.get(solver).order)
    if guidance is not None and not isinstance(guidance, Guidance):
        guidance = Guidance(guidance)
    controls = Controls(guidance, _bounds(clip), hooked, both)
    asked = _Asked(solver, law, layout, Walk(start, stop, strength), meaning, controls, _options(solver, options))
    if not isinstance(inverse, bool):
        raise TypeError(f"inverse must be True or False, not {inverse!r}")
    count = _steps(layout, steps, nfe)
    if count is None:
        if stop is not None:
            raise ValueError("stop counts the steps of a grid, and nfe leaves their number open: give steps instead")
        count = _affordable(asked, _positive("nfe", nfe))
    if inverse:
        check_inverse(_written(asked._replace(options=loud(asked.options)), count), dict(asked.options))
        asked = asked._replace(walk=dataclasses.replace(asked.walk, inverse=True))
    plan = _written(asked, count)
    if isinstance(grid, str) and named is not None:
        advice.warn_of(solver, law, grid, layout, count, asked.walk)
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
    return max(low, -_LARGEST), min(high, _LARGEST)


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
    elif isinstance(default, float) or (option in _AT_LEAST_0 and not (value is None and default is None)):
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


class _Asked(NamedTuple):
    """All that makes a plan, but the number of steps of the whole grid."""

    solver: str
    schedule: Schedule
    grid: Grid
    walk: Walk
    prediction: Prediction
    controls: Controls
    options: Options


@functools.lru_cache(maxsize=256)
def _affordable(asked: _Asked, nfe: int) -> int:
    """The steps of a grid whose walk makes the most calls that fit the budget; every step made costs at least one."""
    walk = asked.walk

    def write(made: int) -> Plan:
        return _written(asked, walk.steps(made))

    made = max(1, (nfe - 1) // solvers.get(asked.solver).stages + 1)
    plan = write(made)
    while plan.nfe > nfe:
        if made == 1:
            raise ValueError(f"a budget of {nfe} model calls is too small for {asked.solver}: its least is {plan.nfe}")
        made -= 1
        plan = write(made)
    while plan.nfe < nfe:
        more = write(made + 1)
        if more.nfe > nfe:
            break
        made, plan = made + 1, more
    return walk.steps(made)


def _written(asked: _Asked, steps: int) -> Plan:
    return _plan(solvers.get(asked.solver), asked, steps)  # a name may be given to another text


@functools.lru_cache(maxsize=256)
def _plan(solver: Solver, asked: _Asked, steps: int) -> Plan:
    schedule, walk = asked.schedule, asked.walk
    whole = grids.nodes(asked.grid, schedule, steps)
    nodes, chosen = walk.of(whole), walk.placed(dict(asked.options), whole)
    denoise_final = chosen.pop("denoise_final", False)
    draft = Draft(schedule, asked.prediction, asked.controls)
    first = next(node for node in reversed(nodes) if node.sigma > 0.0) if walk.inverse else nodes[0]
    try:
        final = inverted(draft, solver, nodes, chosen) if walk.inverse else solver.write(draft, nodes, chosen)
        if denoise_final and nodes[-1].sigma > 0.0:
            final = draft.denoised(nodes[-1], final)
        if not isinstance(final, Form):
            raise TypeError(
                f"the text of solver {solver.name!r} must return the form of the final state, not {final!r}"
            )
        levels = nodes[::-1] if walk.inverse else nodes
        plan = draft.finish(final, solver.name, schedule.start_std(first), levels)
    except FormError as error:
        near = "" if schedule.whole is schedule else _NEAR
        raise ValueError(f"{solver.name} on {schedule.name}, after {draft.calls} model calls: {error}{near}") from error
    before, _ = walk.bounds(steps)
    if before and plan.draws:  # the part before it has drawn, and a run that is continued draws on; whatever its model
        so_far = asked._replace(walk=Walk(stop=walk.stop), prediction=predictions.X0(), controls=NO_CONTROLS)
        plan = dataclasses.replace(plan, first_draw=_written(so_far, steps).draws - plan.draws)
    return plan
