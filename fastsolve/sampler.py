"""`Sampler`: a model, a plan and an executor, checked and bound to each other once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import MethodType

import torch
from torch import Tensor

from fastsolve import arguments, executors, schedules
from fastsolve.arguments import Noise, Seed
from fastsolve.denoiser import Denoiser
from fastsolve.executors import Given, Setting
from fastsolve.grids import Explicit, Grid
from fastsolve.lower import Program, lower
from fastsolve.planner import make_plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule


class Sampler:
    """A sampler compiled once: `sampler(seed=...)` runs its plan. Any number of threads may call one at the same time.

    model: a `Denoiser`, or any callable model(x, t, **model_kwargs) with schedule and prediction beside it; t is [B], in the
    schedule's clock and in `dtype` (a float32 or float64 Denoiser gets it in its own). shape: [B, *sample]; a Denoiser that states
    the shape of a sample makes it optional (B = 1).
    solver, steps, nfe, grid, schedule, prediction, guidance, options: see `make_plan`; a Denoiser may state schedule, prediction and a
    usual nfe. guidance needs a Denoiser with `null`, the arguments of the unconditional call. device: the model's, if given at all.
    dtype: of the state; float32, or float64 for the eager executor. executor: "auto", "eager", "native", "fused" or "cuda".
    graph: "auto" captures a run with its model as one CUDA graph in the second call, where there is a GPU and the model allows it;
    "require" captures in the first call, and what cannot be captured is an error; "off". A captured model is seen to get other
    parameters, buffers, submodules or keyword arguments; what else it decides in Python stays as it was captured.
    check_finite: look at every output of the model for NaN and infinities (a synchronisation on a GPU).

    Raises ValueError or TypeError, before the model is called, for anything that cannot work.
    """

    def __init__(
        self,
        model: Denoiser | Callable[..., Tensor],
        shape: Sequence[int] | None = None,
        *,
        solver: str = "seeds3",
        steps: int | None = None,
        nfe: int | None = None,
        grid: str | Grid | Sequence[float] | None = None,
        schedule: str | Schedule | None = None,
        prediction: str | Prediction | None = None,
        guidance: float | None = None,
        options: Mapping[str, object] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        executor: str = "auto",
        graph: str = "auto",
        check_finite: bool = False,
    ) -> None:
        self.denoiser = arguments.as_denoiser(model, schedule, prediction)
        law = schedules.get(self.denoiser.schedule if schedule is None else schedule)
        if guidance is not None and self.denoiser.null is None:
            raise ValueError(
                "guidance needs the unconditional call: give a Denoiser whose null holds its keyword arguments"
            )
        explicit = isinstance(grid, Explicit) or not (grid is None or isinstance(grid, str | Grid))
        if steps is None and nfe is None and not explicit:
            nfe = self.denoiser.nfe
        self.plan = make_plan(
            solver,
            schedule=law,
            grid=grid,
            steps=steps,
            nfe=nfe,
            prediction=self.denoiser.prediction,
            guidance=guidance,
            options=options,
        )
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"the state's dtype must be torch.float32 or torch.float64, not {dtype}; a model may have any"
            )
        input_dtype = self.denoiser.dtype or dtype
        self.setting = Setting(
            arguments.full_shape(shape, self.denoiser.shape),
            arguments.place(device, self.denoiser),
            dtype,
            input_dtype,
            self.denoiser.output_dtype or input_dtype,
            input_dtype if input_dtype in (torch.float32, torch.float64) else dtype,  # bfloat16 turns 750 into 752
            self.denoiser.reuses_output,
        )
        self.executor = executors.choose(executor, self.setting)
        self.graph = graph
        self._pool = executors.runs(self.executor.name, graph, self.setting)
        self._programs: dict[tuple[bool, bool], Program] = {}
        self._check_finite = check_finite

    @torch.no_grad()
    def __call__(
        self,
        *,
        seed: Seed = 0,
        x_init: Tensor | None = None,
        noise: Noise | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """One batch of samples, [B, *shape], in a tensor that is the caller's.

        seed: an int (sample i is seeded by `philox.sample_seeds`), one int per sample, an int64 tensor [B], or a torch.Generator that
        gives one per sample. x_init: the state at the first level, at its scale, instead of noise; [N, B, *shape] for a
        solver of N variables. noise: standard normals
        [B, *shape] in the order in which the solver draws, or a callable (draw index) -> tensor, instead of the seeded ones.
        model_kwargs: passed to every call of the model. progress: a tqdm bar over model calls.
        """
        setting, plan = self.setting, self.plan
        start = [] if x_init is None else arguments.given_start(x_init, len(plan.start), setting)
        given = Given(
            arguments.keys(seed, setting.batch),
            start,
            arguments.given_draws(noise, plan.draws, setting),
            arguments.branches(self.denoiser, model_kwargs or {}, len(plan.evals[0].b)),
        )
        program = self._program(x_init is not None, noise is not None)
        nothing = contextlib.nullcontext()
        device = torch.cuda.device(setting.device) if setting.device.type == "cuda" else nothing
        with device, arguments.progress_bar(plan.nfe, plan.solver) if progress else nothing as bar:
            on_call = None if bar is None else bar.update
            return self._pool(program, self.denoiser.model, given, self._check_finite, on_call)

    def share(self, other: Sampler) -> None:
        """Draws from the runs of a sampler of the same model, if they fit: graphs and buffers serve both, and only numbers differ.

        Any number of samplers may share, and run at the same time. Of another model nothing is shared.
        """
        mine, theirs = self.denoiser.model, other.denoiser.model
        if mine is not theirs and not (
            isinstance(mine, MethodType) and mine == theirs
        ):  # a method is made anew at every look
            return
        if (self.setting, self.executor.name, self.graph) == (other.setting, other.executor.name, other.graph):
            self._pool = other._pool

    def close(self) -> None:
        """Gives back the memory of buffers and captured graphs; a later call makes them anew."""
        self._pool.close()

    def _program(self, given: bool, noise: bool) -> Program:
        if (given, noise) not in self._programs:
            setting = self.setting
            self._programs[given, noise] = lower(
                self.plan,
                state_bytes=setting.dtype.itemsize,
                raw_bytes=setting.raw_dtype.itemsize,
                cast=setting.input_dtype != setting.dtype,
                reused=setting.reuses_output,
                given=given,
                noise=noise,
            )
        return self._programs[given, noise]

    def __str__(self) -> str:
        setting, (name, reason) = self.setting, self.executor
        where = f"{list(setting.shape)} {setting.dtype} on {setting.device}"
        return f"{where}, executor {name} ({reason}), {self._pool}\n{self.plan}"
