"""What a sampler is before it runs: a model, a plan and an executor, checked and bound to each other once."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from types import MethodType

import torch
from torch import Tensor

from fastsolve import arguments, executors, functions, schedules
from fastsolve.controls import Guidance
from fastsolve.denoiser import Denoiser
from fastsolve.executors import Setting
from fastsolve.functions import Hook
from fastsolve.grids import Explicit, Grid
from fastsolve.lower import lower
from fastsolve.plan import Apply, Plan
from fastsolve.planner import make_plan
from fastsolve.predictions import Prediction
from fastsolve.program import Program, stacked
from fastsolve.schedules import Schedule


class Compiled:
    """A model with its plan, the programs of it, and the pool of runs. Its arguments are those of `Sampler`."""

    def __init__(
        self,
        model: Denoiser | Callable[..., Tensor],
        shape: Sequence[int] | None = None,
        *,
        solver: str | None = None,
        steps: int | None = None,
        nfe: int | None = None,
        grid: str | Grid | Sequence[float] | Sequence[Grid | Sequence[float]] | None = None,
        schedule: str | Schedule | None = None,
        prediction: str | Prediction | None = None,
        guidance: float | Guidance | Sequence[float | Guidance] | None = None,
        clip: float | tuple[float, float] | None = None,
        x0_hook: Hook | None = None,
        options: Mapping[str, object] | None = None,
        start: int | None = None,
        stop: int | None = None,
        strength: float | None = None,
        inverse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        executor: str = "auto",
        graph: str = "auto",
        check_finite: bool = False,
    ) -> None:
        self.denoiser = arguments.as_denoiser(model, schedule, prediction)
        law = schedules.get(self.denoiser.schedule if schedule is None else schedule)
        if guidance is not None and self.denoiser.null is None and self.denoiser.guide is None:
            raise ValueError(
                "guidance needs the unconditional call: give a Denoiser whose null holds its keyword arguments ({} if they come as "
                "negative_kwargs with each call), or whose guide is another network"
            )
        if x0_hook is not None and not callable(x0_hook):
            raise TypeError(f"x0_hook is called as (x0, node) -> x0; {type(x0_hook).__name__} is not callable")
        whole = arguments.full_shape(shape, self.denoiser.shape)
        guidances = arguments.one_per_sample("guidance", guidance, whole[0])
        levels = arguments.one_per_sample("grid", grid, whole[0])
        explicit = (
            levels is not None or isinstance(grid, Explicit) or not (grid is None or isinstance(grid, str | Grid))
        )
        if steps is None and nfe is None and not explicit:
            nfe = self.denoiser.nfe
        make: Callable[..., Plan] = functools.partial(
            make_plan,
            solver,
            schedule=law,
            steps=steps,
            nfe=nfe,
            prediction=self.denoiser.prediction,
            clip=clip,
            hooked=x0_hook is not None,
            both=guidances is not None or levels is not None,
            options=options,
            start=start,
            stop=stop,
            strength=strength,
            inverse=inverse,
        )
        # Samples of one batch, each with its own numbers, are one program if their plans differ in nothing else.
        pairs = zip(guidances or repeat(guidance), levels or repeat(grid), range(whole[0]), strict=False)
        plans = (
            [make(guidance=w, grid=g) for w, g, _ in pairs]
            if guidances or levels
            else [make(guidance=guidance, grid=grid)]
        )
        self.plans = tuple(plans)
        if math.prod(whole[1:]) < 2 and any(isinstance(op, Apply) and op.function == "rescale" for op in self.plan.ops):
            raise ValueError(f"rescaled guidance needs samples of two elements or more, not {list(whole[1:])}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the state's dtype must be torch.float32 or torch.float64, not {dtype}; a model may have any"
            )
        input_dtype = self.denoiser.dtype or dtype
        self.setting = Setting(
            whole,
            arguments.place(device, self.denoiser),
            dtype,
            input_dtype,
            self.denoiser.output_dtype or input_dtype,
            input_dtype if input_dtype in (torch.float32, torch.float64) else dtype,  # bfloat16 turns 750 into 752
            self.denoiser.reuses_output,
        )
        self.executor = executors.choose(executor, self.setting)
        self.graph, self.inverse, self.guidance = graph, inverse, guidance
        self._pool = executors.runs(self.executor.name, graph, self.setting)
        self._programs: dict[tuple[object, ...], Program] = {}
        launched = self.executor.name in ("fused", "cuda") and importlib.util.find_spec("triton") is not None
        self._functions = dict(functions.LAUNCHED if launched else functions.PLAIN)
        if x0_hook is not None:
            self._functions["x0"] = functions.hooked(x0_hook)
        self._check_finite = check_finite
        self.program("", False, "", ())  # what cannot be one batch is found here

    @property
    def plan(self) -> Plan:
        """The plan; where samples have plans of their own, that of the first."""
        return self.plans[0]

    def share(self, other: Compiled) -> None:
        """Draws from the runs of a sampler of the same model, if they fit: graphs and buffers serve both, and only numbers differ.

        Any number of samplers may share, and run at the same time. Of another model nothing is shared.
        """
        mine, theirs = self.denoiser.model, other.denoiser.model
        if self.denoiser.guide is not other.denoiser.guide:
            return
        if mine is not theirs and not (
            isinstance(mine, MethodType) and mine == theirs
        ):  # a method is made anew at every look
            return
        if (self.setting, self.executor.name, self.graph) == (other.setting, other.executor.name, other.graph):
            self._pool = other._pool

    def close(self) -> None:
        """Gives back the memory of buffers and captured graphs; a later call makes them anew."""
        self._pool.close()

    def program(self, given: str, noise: bool, blend: str, seen: tuple[int, ...]) -> Program:
        key = (given, noise, blend, seen)
        if key not in self._programs:
            setting = self.setting
            ways = {
                "state_bytes": setting.dtype.itemsize,
                "raw_bytes": setting.raw_dtype.itemsize,
                "cast": setting.input_dtype != setting.dtype,
                "reused": setting.reuses_output,
                "paired": bool(self.denoiser.doubles),
            }
            lowered = [lower(plan, given=given, noise=noise, blend=blend, seen=seen, **ways) for plan in self.plans]
            self._programs[key] = stacked(lowered)
        return self._programs[key]

    def __str__(self) -> str:
        setting, (name, reason) = self.setting, self.executor
        where = f"{list(setting.shape)} {setting.dtype} on {setting.device}"
        return f"{where}, executor {name} ({reason}), {self._pool}\n{self.plan}"
