"""`sample` and `Sampler`: where all rooms meet."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastsolve import arguments, executors, schedules, solvers
from fastsolve.arguments import Noise, Seed
from fastsolve.denoiser import Denoiser
from fastsolve.executors.run import Run, Setting
from fastsolve.grids import Explicit, Grid
from fastsolve.lower import lower
from fastsolve.planner import make_plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule


def sample(
    model: Denoiser | Callable[..., Tensor],
    shape: Sequence[int] | None = None,
    *,
    solver: str = "seeds3",
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    schedule: str | Schedule | None = None,
    prediction: str | Prediction | None = None,
    seed: Seed = 0,
    x_init: Tensor | None = None,
    noise: Noise | None = None,
    guidance: float | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    executor: str = "auto",
    progress: bool = False,
    check_finite: bool = False,
) -> Tensor:
    """Samples of a model, [B, *shape] in `dtype`: one call of a new `Sampler`, whose arguments these are.

    seed, x_init, noise, model_kwargs and progress are those of `Sampler.__call__`. x_init gives shape (for solvers of one variable)
    and device where they are left out.
    """
    if isinstance(x_init, Tensor):
        shape = tuple(x_init.shape) if shape is None else shape
        device = x_init.device if device is None else device
    made = functools.partial(
        Sampler,
        model,
        solver=solver,
        steps=steps,
        nfe=nfe,
        grid=grid,
        schedule=schedule,
        prediction=prediction,
        guidance=guidance,
        options=options,
        device=device,
        dtype=dtype,
        executor=executor,
        check_finite=check_finite,
    )
    sampler = made(shape=shape)
    if isinstance(x_init, Tensor) and not sampler.plan.variables and x_init.shape[1:] == sampler.setting.shape:
        sampler = made(shape=x_init.shape)  # beside a batch of them, the shape of a sample will do
    return sampler(seed=seed, x_init=x_init, noise=noise, model_kwargs=model_kwargs, progress=progress)


class Sampler:
    """A sampler compiled once: `sampler(seed=...)` runs its plan. Any number of threads may call one at the same time.

    model: a `Denoiser`, or any callable model(x, t, **model_kwargs) with schedule and prediction beside it; t is [B], in the
    schedule's clock and in `dtype` (a float32 or float64 Denoiser gets it in its own). shape: [B, *sample]; a Denoiser that states
    the shape of a sample makes it optional (B = 1).
    solver, steps, nfe, grid, schedule, prediction, guidance, options: see `make_plan`; a Denoiser may state schedule, prediction and a
    usual nfe. guidance needs a Denoiser with `null`, the arguments of the unconditional call. device: the model's, if given at all.
    dtype: of the state; float32, or float64 for the eager executor. executor: "auto", "eager", "native", "fused" or "cuda".
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
            self.denoiser.reuses_output,
        )
        self.executor = executors.choose(executor, self.setting)
        self._check_finite = check_finite
        levels = torch.tensor([call.t for call in self.plan.evals], dtype=torch.float64)
        clock_dtype = (
            input_dtype if input_dtype in (torch.float32, torch.float64) else dtype
        )  # bfloat16 turns 750 into 752
        self._levels = levels.to(self.setting.device, clock_dtype)[:, None]
        self._idle: dict[tuple[bool, bool, int], list[Run]] = {}

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
        setting = self.setting
        seeds = arguments.keys(seed, setting.batch)
        start = [] if x_init is None else arguments.given_start(x_init, len(self.plan.start), setting)
        draws = arguments.given_draws(noise, self.plan.draws, setting)
        models = arguments.branches(self.denoiser, model_kwargs or {}, len(self.plan.evals[0].b))
        # On a GPU a run's kernels may still be queued when it is given back: only its own stream may take it again.
        on_gpu = setting.device.type == "cuda"
        stream = torch.cuda.current_stream(setting.device).cuda_stream if on_gpu else 0
        idle = self._idle.setdefault((x_init is not None, noise is not None, stream), [])
        try:
            run = idle.pop()
        except IndexError:
            run = self._run(x_init is not None, noise is not None)
        nothing = contextlib.nullcontext()
        device = torch.cuda.device(setting.device) if on_gpu else nothing
        try:
            with device, arguments.progress_bar(self.plan.nfe, self.plan.solver) if progress else nothing as bar:
                return run(models, seeds, start, draws, self._check_finite, None if bar is None else bar.update)
        finally:
            idle.append(run)

    def _run(self, given: bool, noise: bool) -> Run:
        setting = self.setting
        program = lower(
            self.plan,
            state_bytes=setting.dtype.itemsize,
            raw_bytes=setting.raw_dtype.itemsize,
            cast=setting.input_dtype != setting.dtype,
            reused=setting.reuses_output,
            given=given,
            noise=noise,
        )
        with torch.inference_mode(
            False
        ):  # an inference tensor keeps no version, by which a model that writes its t shows
            clocks = self._levels.repeat(1, setting.batch).unbind(0)
        return Run(program, setting, clocks, functools.partial(executors.backend, self.executor.name))

    def __str__(self) -> str:
        setting, (name, reason) = self.setting, self.executor
        return f"{list(setting.shape)} {setting.dtype} on {setting.device}, executor {name} ({reason})\n{self.plan}"


def list_solvers() -> list[str]:
    """Names of all solvers, sorted."""
    return solvers.names()


def cite(name: str) -> str:
    """What to cite for a solver: its source, and the first line of its description. Raises ValueError for an unknown name."""
    found = solvers.get(name)
    first = (found.text.__doc__ or "").strip().splitlines()[0]
    return f"{found.source}. {first}"
