"""A run as pipelines see it: one timestep for each model call, `order` of them for a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastsolve
from fastsolve.adapters.diffusers.law import Law
from fastsolve.plan import Plan
from fastsolve.schedules import Node
from fastsolve.stepper import Stepper

ELSEWHERE = "fastsolve.accelerate(pipe, solver={!r}, ...) runs it: a whole denoising loop at once"


def stages(solver: str, options: Mapping[str, Any], law: Law) -> int:
    """Model calls per step of a solver, the same in all of them but the last. Raises ValueError for one that has no such number."""
    tried = {
        name: value for name, value in options.items() if name != "window"
    }  # a window is one of the run's own steps
    low, top = law.schedule.t_min, law.schedule.t_max
    levels = [*(low + (top - low) * part for part in (1.0, 0.75, 0.5, 0.25)), law.schedule.t_clean]
    asked: dict[str, Any] = {"schedule": law.schedule, "grid": levels, "options": tried}
    plan = fastsolve.make_plan(solver, **asked)
    if fastsolve.make_plan(solver, **asked, guidance=2.0).takes_raw:
        raise ValueError(
            f"{solver} reads the unconditional output, and a pipeline hands in one that is combined already; {ELSEWHERE.format(solver)}"
        )
    order = plan.steps[2] - plan.steps[1] if len(plan.steps) > 2 else plan.nfe
    _idle(plan, order)
    try:
        Stepper(plan, (1,))
    except ValueError as error:
        raise ValueError(f"{error}; {ELSEWHERE.format(solver)}") from None
    return order


def _idle(plan: Plan, order: int) -> int:
    """How many timesteps of the first step have no call of the plan: where it starts at alpha = 0, it has one call, whatever the solver.

    Raises ValueError for steps that are not alike.
    """
    count = len(plan.levels) - 1
    for idle in (0, order - 1):
        if (
            plan.steps == (0, *range(order - idle, order * (count - 1) + 1 - idle, order))
            and plan.nfe <= order * count - idle
        ):
            return idle
    raise ValueError(
        f"{plan.solver} with these options makes steps of different numbers of model calls (they begin with calls "
        f"{', '.join(map(str, plan.steps[:5]))} ...), and a scheduler's steps must be alike; {ELSEWHERE.format(plan.solver)}"
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """The levels of a run and the plan of it, or of its part from a later step on. Nothing here changes: threads share it.

    times: what the network is told at the start of each step, where the caller says so himself. given: the caller gave the levels.
    idle: the timesteps before the first call of the plan, at its level: they keep step k at timestep order * k, and what the model says
    there is not used.
    """

    law: Law
    solver: str
    options: tuple[tuple[str, Any], ...]
    levels: tuple[float, ...]
    order: int
    device: torch.device | str | None
    times: tuple[float, ...] | None = None
    given: bool = False
    idle: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "idle", _idle(self.plan(0), self.order))

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def plan(self, first: int) -> Plan:
        """The plan from step `first` to the end."""
        return fastsolve.make_plan(
            self.solver,
            schedule=self.law.schedule,
            grid=self.levels,
            prediction=self.law.prediction,
            clip=self.law.clip,
            options=dict(self.options),
            start=first or None,
        )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The levels of the model calls, and the last one's after them."""
        node = self.law.schedule.node
        return (
            *(node(self.levels[0]),) * self.idle,
            *(node(call.t) for call in self.plan(0).evals),
            node(self.levels[-1]),
        )

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """The factor of the model's input, for each call."""
        return tuple(self.law.prediction.input_scale(node) for node in self.nodes)

    @cached_property
    def told(self) -> tuple[float, ...]:
        """What the network is told in each call."""
        clocks = [node.t for node in self.nodes[:-1]]
        if self.times is None:
            return tuple(map(self.law.time, clocks))
        levels, times = self.levels[::-1], (0.0, *self.times[::-1])
        return tuple(np.interp(clocks, levels, times).tolist())

    @cached_property
    def timesteps(self) -> Tensor:
        return torch.tensor(self.told, dtype=torch.float32, device=self.device)

    @cached_property
    def sigmas(self) -> Tensor:
        """sigma / alpha of each call (sigma, in flow matching), and of the end; float32, on the CPU."""
        flow = self.law.family == "flow"
        values = [n.sigma if flow else n.sigma / n.alpha if n.alpha else float("inf") for n in self.nodes]
        return torch.tensor(values, dtype=torch.float32)

    def nearest(self, time: float) -> int:
        """The call that begins the step whose timestep is nearest."""
        begins = range(0, len(self.told), self.order)
        return min(begins, key=lambda i: abs(self.told[i] - time))


def checked_times(law: Law, times: Sequence[float] | None, sigmas: Sequence[float] | None) -> tuple[float, ...] | None:
    """Timesteps that are given beside sigmas: what the network is told where the levels are others (CogView4's pipelines)."""
    if times is None or sigmas is None:
        return None
    values = tuple(float(t) for t in times)
    count = len(sigmas) - (float(sigmas[-1]) == 0.0)
    if len(values) != count:
        raise ValueError(f"timesteps and sigmas must be of the same number of steps, not {len(values)} and {count}")
    return values


def mixed(sample: Tensor, noise: Tensor, nodes: Sequence[Node]) -> Tensor:
    """alpha sample + sigma noise, of one node or of one for each sample."""
    shape = (-1, *(1,) * (sample.dim() - 1))
    alpha, sigma = (
        torch.tensor(values, dtype=sample.dtype, device=sample.device).reshape(shape)
        for values in ([n.alpha for n in nodes], [n.sigma for n in nodes])
    )
    return alpha * sample + sigma * noise
