"""`fastsolve.accelerate`: a pipeline of diffusers whose denoising loop is one run of a `Sampler`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch.nn import Module
from typing_extensions import Self

from fastsolve import solvers
from fastsolve.adapters.diffusers.habits import UnlikeError
from fastsolve.adapters.diffusers.law import Law
from fastsolve.adapters.diffusers.laws import law_of
from fastsolve.adapters.diffusers.loop import Loop
from fastsolve.adapters.diffusers.network import standing_in
from fastsolve.grids import Explicit, Grid
from fastsolve.planner import make_plan

NETWORKS = ("unet", "transformer", "transformer_2")


class Accelerated:
    """A pipeline that is called as `pipe` is, and has its attributes. Made by `fastsolve.accelerate`; any number of threads may call it."""

    def __init__(self, pipe: Any, asked: Mapping[str, Any]) -> None:
        """asked: solver, steps, nfe, grid, options, executor and graph of `accelerate`."""
        import diffusers

        if not isinstance(pipe, diffusers.DiffusionPipeline):
            raise TypeError(
                f"accelerate takes a pipeline of diffusers, not {type(pipe).__name__}; for modular pipelines: "
                "pipe.update_components(scheduler=...) with a scheduler of fastsolve.adapters.diffusers"
            )
        solvers.get(asked["solver"])
        if asked["steps"] is not None and asked["nfe"] is not None:
            raise ValueError(f"give one of steps and nfe, not both (steps={asked['steps']}, nfe={asked['nfe']})")
        self.pipe: Any = pipe
        self._asked = asked
        names = inspect.signature(type(pipe).__call__).parameters
        if not self._networks() or "num_inference_steps" not in names or not hasattr(pipe, "scheduler"):
            raise ValueError(
                f"accelerate runs loops of num_inference_steps over a network `unet` or `transformer`, and {type(pipe).__name__} has none: "
                "fastsolve.sample(fastsolve.Denoiser(...)) takes any network"
            )
        self._law()
        if "controlnet" in vars(pipe):
            raise self._refused("what its ControlNet adds depends on the latents")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "pipe":  # while it is copied
            raise AttributeError(name)
        return getattr(self.pipe, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("pipe", "_asked"):
            super().__setattr__(name, value)
        else:
            setattr(self.pipe, name, value)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the pipeline, as its own `to` does."""
        self.pipe.to(*args, **kwargs)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the pipeline returns, for its own arguments."""
        pipe, names = self.pipe, inspect.signature(type(self.pipe).__call__)
        bound = names.bind(pipe, *args, **kwargs)
        _, *said = bound.arguments  # the first is the pipeline
        bound.apply_defaults()
        given = dict(list(bound.arguments.items())[1:])
        given |= given.pop("kwargs", {})
        law = self._law()
        steps = self._steps(law)
        if steps is not None:
            if "num_inference_steps" in said and given["num_inference_steps"] != steps:
                raise ValueError(
                    f"num_inference_steps is {given['num_inference_steps']}, and accelerate was asked for {steps} steps: leave one out"
                )
            given["num_inference_steps"] = steps
        callback = given.get("callback_on_step_end")
        self._check(given, callback)
        if "callback_on_step_end" in given:
            given["callback_on_step_end"] = None
        dry = copy.copy(pipe)
        loop = Loop(law, pipe.scheduler.config, self._asked, {name: v for name, v in given.items() if v is not None})
        loop.pipe, loop.callback = dry, callback
        nets = {name: standing_in(net, loop.note, loop.random) for name, net in self._networks().items()}
        vars(dry).update(nets, scheduler=loop, maybe_free_model_hooks=pipe.maybe_free_model_hooks)
        vars(dry)["progress_bar"] = lambda iterable=None, total=None: _bar(pipe, loop, iterable, total)
        vars(dry).pop("_num_timesteps", None)
        try:
            out = type(pipe).__call__(dry, **given)
        except UnlikeError as error:
            raise self._refused(str(error)) from None
        except AttributeError as error:
            if error.obj is not loop:
                raise
            raise self._refused(f"it asks its scheduler for {error.name}") from None
        finally:
            loop.pipe = None
        if not loop.ran:
            raise self._refused("it left its loop before the last step")
        return out

    def _networks(self) -> dict[str, Module]:
        found = {name: vars(self.pipe).get(name) for name in NETWORKS}
        return {name: net for name, net in found.items() if isinstance(net, Module)}

    def _law(self) -> Law:
        """The law of the pipeline's scheduler, as it is now. Raises ValueError for one of another family than the pipeline's."""
        scheduler = self.pipe.scheduler
        law = law_of({**scheduler.config, "_class_name": type(scheduler).__name__}, self._asked["solver"])
        annotation = str(inspect.signature(type(self.pipe).__init__).parameters["scheduler"].annotation)
        flow = "FlowMatch" in annotation
        if (flow and law.family != "flow") or ("KarrasDiffusionSchedulers" in annotation and law.family == "flow"):
            made_for = "flow matching" if flow else "a model trained on betas"
            raise ValueError(
                f"{type(self.pipe).__name__} is made for {made_for}, and the config of its {type(scheduler).__name__} is of the family "
                f"{law.family!r}: the result would be noise. Give the pipeline the scheduler it was saved with"
            )
        return law

    def _steps(self, law: Law) -> int | None:
        """Of accelerate's arguments; None where the call says how many."""
        asked = self._asked
        if asked["steps"] is not None:
            return int(asked["steps"])
        grid = asked["grid"]
        if grid is not None and not isinstance(grid, str | Grid):
            grid = Explicit(tuple(grid))
        if isinstance(grid, Explicit):
            return len(grid.values) - 1
        if asked["nfe"] is None:
            return None
        plan = make_plan(
            asked["solver"],
            schedule=law.schedule,
            grid=law.rule if grid is None else grid,
            nfe=asked["nfe"],
            prediction=law.prediction,
            options=asked["options"],
        )
        return len(plan.levels) - 1

    def _check(self, given: Mapping[str, Any], callback: object) -> None:
        if given.get("callback") is not None:
            raise ValueError(
                "callback is diffusers' old argument: give callback_on_step_end=(pipe, step, timestep, {'latents': ...}) -> {}"
            )
        if given.get("eta"):
            raise ValueError(
                f"eta is the solver's, not the call's: leave eta={given['eta']} out, and give accelerate(..., options={{'eta': "
                f"{given['eta']}}}) for a solver that has it"
            )
        own = [name for name in ("steps", "nfe", "grid") if self._asked[name] is not None]
        levels = [name for name in ("timesteps", "sigmas") if given.get(name) is not None]
        if own and levels:
            raise ValueError(
                f"{levels[0]} are given, and accelerate(..., {own[0]}=...) has levels of its own: leave one of them out"
            )
        wanted = list(
            getattr(callback, "tensor_inputs", given.get("callback_on_step_end_tensor_inputs") or ["latents"])
        )
        if callback is not None and wanted != ["latents"]:
            raise ValueError(f"callback_on_step_end can be shown ['latents'] here, not {wanted}")
        for name, net in self._networks().items():
            if getattr(net, "is_cache_enabled", False):
                raise self._refused(f"its {name} has a cache, which counts steps: pipe.{name}.disable_cache()")

    def _refused(self, why: str) -> ValueError:
        kind = "FastSolveFlowScheduler" if self._law().family == "flow" else "FastSolveScheduler"
        return ValueError(
            f"accelerate cannot run {type(self.pipe).__name__}: {why}. A scheduler can, for solvers of a fixed number of calls per step: "
            f"pipe.scheduler = fastsolve.adapters.diffusers.{kind}.from_config(pipe.scheduler.config, solver=...)"
        )


def _bar(pipe: Any, loop: Loop, iterable: Any, total: int | None) -> Any:
    """The pipeline's bar, which moves with the run and not with the dry loop."""
    bar = pipe.progress_bar(iterable, total)
    if total is not None:
        loop.tick = bar.update
        bar.update = lambda n=1: None
    return bar
