"""Which part of a grid a plan walks, and which way: all of it from noise to data, a part, or from data to noise."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.plan import Plan
from fastsolve.schedules import Node
from fastsolve.solvers import Solver, get
from fastsolve.solvers.ddim import ddim_step, windowed

Options = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class Walk:
    """start, stop: step indices of the whole grid; strength: the last share of its steps, instead of start. inverse: the other way."""

    start: int | None = None
    stop: int | None = None
    strength: float | None = None
    inverse: bool = False

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            value = getattr(self, name)
            if value is not None:
                if isinstance(value, bool) or not hasattr(value, "__index__"):
                    raise TypeError(f"{name} must be an int, the index of a step, not {value!r}")
                object.__setattr__(self, name, operator.index(value))
        if self.strength is not None:
            if isinstance(self.strength, bool) or not isinstance(self.strength, int | float):
                raise TypeError(f"strength must be a number, not {self.strength!r}")
            if self.start is not None:
                raise ValueError(f"give one of start and strength, not both ({self.start} and {self.strength})")
            if not 0.0 < self.strength <= 1.0:
                raise ValueError(f"strength must lie in (0, 1], not {self.strength}")
        if not isinstance(self.inverse, bool):
            raise TypeError(f"inverse must be True or False, not {self.inverse!r}")

    def bounds(self, steps: int) -> tuple[int, int]:
        """(start, stop) on a grid of so many steps. Raises ValueError for a part that is not there."""
        stop, start = steps if self.stop is None else self.stop, self.start or 0
        if self.strength is not None:
            start = steps - int(steps * self.strength)  # as diffusers' image-to-image pipelines
            if start == steps:
                raise ValueError(
                    f"strength {self.strength:g} of {steps} steps is none: take {math.ceil(1e3 / steps) / 1e3:g} or more, or more steps"
                )
        if not 0 <= start < stop <= steps:
            raise ValueError(f"0 <= start < stop <= {steps} is needed on this grid, not {start} and {stop}")
        return start, stop

    def steps(self, made: int) -> int:
        """The least number of steps of a grid of which `made` are walked, to its end."""
        if self.strength is None:
            return made + max(self.start or 0, 0)
        steps = max(1, int(made / self.strength) - 1)
        while int(steps * self.strength) < made:
            steps += 1
        return steps

    def of(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """The nodes of the part, from noise to data."""
        start, stop = self.bounds(len(nodes) - 1)
        return nodes[start : stop + 1]

    def placed(self, options: dict[str, object], nodes: tuple[Node, ...]) -> dict[str, object]:
        """Options of the whole grid for the solver, which sees the part alone: its steps of a window, its share of s_churn."""
        start, stop = self.bounds(len(nodes) - 1)
        window, churn = options.get("window"), options.get("s_churn")
        if window is not None:
            windowed(0.0, window, nodes)  # type: ignore[arg-type]  # checks it
            first, last = (min(max(i, start), stop) - start for i in window)  # type: ignore[attr-defined]
            silent = first == last or self.inverse
            options = {**options, "window": None, "eta": 0.0} if silent else {**options, "window": (first, last)}
        if churn:
            share, whole = (sum(node.sigma > 0.0 for node in levels) for levels in (self.of(nodes), nodes))
            options = {**options, "s_churn": churn * share / whole}  # type: ignore[operator]  # solvers divide by the levels they see
        return options


def loud(options: Options) -> Options:
    """Options without factors on the noise: one of 0 makes a stochastic step silent, and no step of the ODE."""
    kept = ((name, value) for name, value in options if name != "s_noise")
    return tuple((name, loud(value) if name == "base_options" else value) for name, value in kept)  # type: ignore[arg-type]


def check_inverse(forwards: Plan, options: Mapping[str, object]) -> None:
    """Refuse the inverse of what is no solver of the ODE, by its plan from noise to data. Raises ValueError naming what to use."""
    name, fact = forwards.solver, get(forwards.solver)
    if forwards.variables:
        raise ValueError(
            f"{name} has {len(forwards.variables)} variables, and data is one: invert by ddim, heun or dpmpp_2m"
        )
    if forwards.draws or not fact.order:
        churns = next((option for option in ("intervals", "s_churn", "gamma") if options.get(option)), None)
        quiet = churns or ("eta" if "eta" in fact.options else None)
        way = f"leave out {quiet}, or take " if churns else "take options {'eta': 0.0}, or " if quiet else "take "
        raise ValueError(f"{name} draws noise, which has no inverse: {way}another solver: ddim, heun or dpmpp_2m")
    if options.get("denoise_final"):
        raise ValueError("denoise_final is a call at the end of the way to data: leave it out of an inverse")


def inverted(draft: Draft, solver: Solver, nodes: tuple[Node, ...], options: Mapping[str, object]) -> Form:
    """The solver's text on nodes in reverse order, from data to noise.

    The step to clean data, x = D(x_s), is undone by its fixed point x_s = alpha x + (alpha x - alpha D(x_s)), iterated once from
    alpha x: no model can be asked for the noise at sigma = 0. A step to alpha = 0 is DDIM's, as one from there is: x = sigma eps.
    Raises ValueError where no step is left between the two.
    """
    levels, x = nodes[::-1], draft.start
    positive = levels[1:] if levels[0].sigma == 0.0 else levels
    if len(positive) < 2:
        raise ValueError("one step to clean data has no inverse, it forgets the noise: take more steps")
    if positive is not levels:
        known = positive[0].alpha * x
        x = draft.keep(2.0 * known - positive[0].alpha * draft.denoised(positive[0], known))
    body = positive[:-1] if positive[-1].alpha == 0.0 else positive
    if len(body) > 1:
        x = draft.run(functools.partial(solver.text, **options), x, body)  # an option may bear the name of one of run's
    if body is not positive:
        x = draft.keep(ddim_step(x, draft.denoised(body[-1], x), body[-1], positive[-1]))
    return x
