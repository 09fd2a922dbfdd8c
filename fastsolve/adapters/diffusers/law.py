"""What a scheduler's config says of its model and its levels, brought into our words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

from fastsolve import grids, predictions
from fastsolve.adapters.diffusers.spacings import RESPACED, Given, Respaced
from fastsolve.grids import Grid, Stretched
from fastsolve.predictions import Prediction
from fastsolve.schedules import Flow, Node, Schedule


@dataclass(frozen=True)
class EDMVelocity(predictions.EDM):
    """EDM's preconditioning of a network whose output has the other sign: x0 = c_skip x - c_out raw (SVD, CosXL, Stable Audio)."""

    name: ClassVar[str] = "edm_v"

    def x0(self, node: Node) -> tuple[float, float]:
        a, b = super().x0(node)
        return a, -b


@dataclass(frozen=True)
class Backwards(predictions.Flow):
    """raw = x0 - eps, the velocity in a time that runs from noise to data (invert_sigmas: Mochi)."""

    name: ClassVar[str] = "flow_backwards"

    def x0(self, node: Node) -> tuple[float, float]:
        a, b = super().x0(node)
        return a, -b


@dataclass(frozen=True)
class Law:
    """A model and its levels, as a scheduler's config states them. Levels are clock values of `schedule`, decreasing.

    family: "vp", "ve" or "flow". clip: the bound of data predictions. rule: the positive levels. final: the last level. told: what the
    network is told of a level t: "index" (t itself), "flow" (train_steps * t), "flow_backwards" (train_steps * (1 - t)), "log"
    (log(t) / 4) or "atan" (2 atan(t) / pi). dynamic: the shift comes with each call, as mu. shifted: sigma of the first level scales a
    pipeline's first noise, as Euler's does, and not 1.
    """

    family: str
    schedule: Schedule
    prediction: Prediction
    clip: float | None
    rule: Grid
    final: float
    told: str
    train_steps: int
    order: int
    dynamic: str | None = None
    terminal: float | None = None
    respaced: str | None = None
    scaled: bool = False

    def time(self, t: float) -> float:
        """What the network is told at level t."""
        match self.told:
            case "flow":
                return self.train_steps * t
            case "flow_backwards":
                return self.train_steps * (1.0 - t)
            case "log":
                return 0.25 * math.log(t)
            case "atan":
                return math.atan(t) / math.pi * 2.0
        return t

    def level(self, time: float) -> float:
        """The level at which the network is told `time`."""
        match self.told:
            case "flow":
                return time / self.train_steps
            case "flow_backwards":
                return 1.0 - time / self.train_steps
            case "log":
                return math.exp(4.0 * time)
            case "atan":
                return math.tan(0.5 * math.pi * time)
        return time

    def start_scale(self, first: float | None = None) -> float:
        """init_noise_sigma: the factor of a pipeline's unit noise, for a run from level `first` (by default the schedule's highest)."""
        node = self.schedule.node(self.schedule.t_max if first is None else first)
        if self.family == "ve":
            return node.sigma if self.scaled else math.hypot(node.sigma, 1.0)
        return node.sigma if self.scaled else 1.0

    def levels(
        self,
        steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        grid: str | Grid | Sequence[float] | None = None,
    ) -> tuple[float, ...]:
        """The steps + 1 levels of a run, the last included.

        timesteps: what the network is told at the start of each step, instead. sigmas: sigma / alpha (flow: t, before the shift) at the
        start of each step; a 0 at their end is left out. mu: log of the shift, for configs with use_dynamic_shifting. grid: a grid of
        `fastsolve.grids` (a name, an object, or clock values) instead of the config's own rule. Raises ValueError for what does not fit.
        """
        schedule = self._shifted(mu)
        given = None if sigmas is None else _numbers("sigmas", sigmas)
        if given is not None:
            given = given[:-1] if given[-1] == 0.0 else given
            if not given or min(given) <= 0.0:
                raise ValueError("sigmas must be positive, but for one 0 after the last, and one at least")
        named = given if given is not None else None if timesteps is None else _numbers("timesteps", timesteps)
        if named is not None and steps is not None and steps != len(named):
            raise ValueError(
                f"num_inference_steps is {steps}, and {len(named)} levels are given: leave num_inference_steps out"
            )
        if named is None and (isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1):
            raise ValueError(
                f"num_inference_steps must be a positive int, or timesteps or sigmas be given instead, not {steps!r}"
            )
        count = len(named) if named is not None else int(steps or 0)
        if named is not None:
            _check_decreasing(
                "sigmas" if given is not None else "timesteps",
                named,
                self.told in ("flow_backwards",) and given is None,
            )
        if grid is not None and named is None:
            layout = grids.get(grid, schedule).for_order(self.order)
            return tuple(node.t for node in grids.nodes(layout, schedule, count))
        if timesteps is not None and given is None:
            assert named is not None
            positive = [self.level(time) for time in named]
        else:
            positive = self._rule(given).positive(schedule, count)
        # A step that goes nowhere is a model call for nothing: where the last level is the end, the step goes on to clean data.
        return (*positive, self.final if positive[-1] > self.final else schedule.t_clean)

    def _shifted(self, mu: float | None) -> Schedule:
        if not self.dynamic:
            if mu is not None and self.family != "flow":  # Flux' pipelines give it to every scheduler
                raise ValueError(
                    f"mu={mu:g} shifts flow-matching levels, and this is a model of noise levels: leave mu out"
                )
            return self.schedule
        if mu is None:
            raise ValueError(
                "use_dynamic_shifting=True needs mu in set_timesteps(..., mu=...): the pipeline computes it from the size"
            )
        assert isinstance(self.schedule, Flow)
        return dataclasses.replace(self.schedule, shift=math.exp(mu) if self.dynamic == "exponential" else mu)

    def _rule(self, given: Sequence[float] | None) -> Grid:
        if given is None and self.family != "flow":
            return self.rule
        rule: Grid = self.rule if given is None else Given(tuple(given))
        if self.family == "flow":
            rule = rule if self.terminal is None else Stretched(self.terminal, rule)
            rule = rule if self.respaced is None else Respaced(RESPACED[self.respaced], rule)
        return rule


def _numbers(name: str, given: Sequence[float]) -> list[float]:
    """A list or tensor of the caller's as floats, left as it is."""
    try:
        values = [float(value) for value in given]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a sequence of numbers, not {type(given).__name__}") from None
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"{name} must be finite numbers, one for each step, and one at least")
    return values


def _check_decreasing(name: str, values: Sequence[float], upwards: bool) -> None:
    way = -1.0 if upwards else 1.0
    for i in range(1, len(values)):
        if not way * values[i] < way * values[i - 1]:
            raise ValueError(
                f"{name} must {'increase' if upwards else 'decrease'}, but entry {i} is {values[i]:g} after {values[i - 1]:g}: "
                "give one for each step (not the stages between, which scheduler.timesteps has, too)"
            )
