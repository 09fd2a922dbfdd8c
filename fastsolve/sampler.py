"""`Sampler`: a model, a plan and an executor, checked and bound to each other once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import repeat
from types import MethodType

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastsolve import arguments, branches, executors, functions, schedules, watching
from fastsolve.arguments import Asked
from fastsolve.controls import Guidance
from fastsolve.denoiser import Denoiser
from fastsolve.executors import Given, Setting
from fastsolve.functions import Hook
from fastsolve.grids import Explicit, Grid
from fastsolve.lower import lower
from fastsolve.plan import Plan
from fastsolve.planner import make_plan
from fastsolve.predictions import Prediction
from fastsolve.program import Program, stacked
from fastsolve.schedules import Schedule
from fastsolve.watching import At, Callback, Running, Step

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {"rescale": functions.rescale, "apg": functions.apg}


class Sampler:
    """A sampler compiled once: `sampler(seed=...)` runs its plan. Any number of threads may call one at the same time.

    model: a `Denoiser`, or any callable model(x, t, **model_kwargs) with schedule and prediction beside it; t is [B], in the
    schedule's clock and in `dtype` (a float32 or float64 Denoiser gets it in its own). shape: [B, *sample]; a Denoiser that states
    the shape of a sample makes it optional (B = 1).
    solver, steps, nfe, grid, schedule, prediction, guidance, clip, options: see `make_plan`; a Denoiser may state schedule, prediction and
    a usual nfe. guidance and explicit grids may be lists with an entry for each sample. guidance needs a Denoiser with `null`, the
    arguments of the unconditional call, or with `guide`, another network. x0_hook: a function (x0, node) -> x0 that is applied to every
    data prediction, at one launch more per call beside its own. device: the model's, if given at all.
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
        grid: str | Grid | Sequence[float] | Sequence[Grid | Sequence[float]] | None = None,
        schedule: str | Schedule | None = None,
        prediction: str | Prediction | None = None,
        guidance: float | Guidance | Sequence[float | Guidance] | None = None,
        clip: float | tuple[float, float] | None = None,
        x0_hook: Hook | None = None,
        options: Mapping[str, object] | None = None,
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
            both=guidances is not None,
            options=options,
        )
        # Samples of one batch, each with its own numbers, are one program if their plans differ in nothing else.
        pairs = zip(guidances or repeat(guidance), levels or repeat(grid), range(whole[0]), strict=False)
        plans = (
            [make(guidance=w, grid=g) for w, g, _ in pairs]
            if guidances or levels
            else [make(guidance=guidance, grid=grid)]
        )
        self.plans = tuple(plans)
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
        self.graph = graph
        self._pool = executors.runs(self.executor.name, graph, self.setting)
        self._programs: dict[tuple[object, ...], Program] = {}
        self._functions = dict(_FUNCTIONS) if x0_hook is None else {**_FUNCTIONS, "x0": functions.hooked(x0_hook)}
        self._check_finite = check_finite
        self._program("", False, "", ())  # what cannot be one batch is found here

    @property
    def plan(self) -> Plan:
        """The plan; where samples have plans of their own, that of the first."""
        return self.plans[0]

    def __call__(
        self, *, callback: Callback | None = None, at: At = "step", progress: bool = False, **given: Unpack[Asked]
    ) -> Tensor:
        """One batch of samples, [B, *shape], in a tensor that is the caller's.

        seed: an int (sample i is seeded by `philox.sample_seeds`), one int per sample, an int64 tensor [B], or a torch.Generator that
        gives one per sample. x_init: the state at the first level, at its scale, instead of noise; [N, B, *shape] for a
        solver of N variables. x0_init: data, to which the noise of the first level is added (img2img). noise: standard
        normals [B, *shape] in the order in which the solver draws, or a callable (draw index) -> tensor, instead of the seeded ones.
        model_kwargs: passed to every call of the model; negative_kwargs: over them and the Denoiser's null, to the unconditional one.
        inpaint: (mask, image): painted is where the mask is 1, and where it is 0 the result is the image; between, a mixture of data
        predictions. overwrite: (mask, value): where the mask is 1 the model sees the value, at every level, and so is the result.
        Masks and images broadcast to [B, *shape]. callback: called with a `Step`, at each "step", "call", or at the model calls of given
        numbers; if it returns False, the run ends with the data prediction it has seen. progress: a tqdm bar over model calls.

        A CUDA graph is split where a callback looks.
        """
        with arguments.progress_bar(self.plan.nfe, self.plan.solver) if progress else contextlib.nullcontext() as bar:
            run = self._begun(at if callback is not None else (), None if bar is None else bar.update, given)
            return watching.told(run, callback)

    def iterate(self, *, at: At = "step", **given: Unpack[Asked]) -> Running:
        """A run that waits at each "step", "call", or at the model calls of given numbers. Other arguments are those of a call."""
        return self._begun(at, None, given)

    def _begun(self, at: At, on_call: Callable[[], object] | None, given: Asked) -> Running:
        """All arguments checked, and nothing called yet."""
        arguments.known(given)
        setting, plan = self.setting, self.plan
        start, kind = arguments.beginning(given.get("x_init"), given.get("x0_init"), len(plan.start), setting)
        blend, way = arguments.blending(given.get("inpaint"), given.get("overwrite"), setting)
        models, kwargs = branches.of(
            self.denoiser,
            given.get("model_kwargs"),
            given.get("negative_kwargs"),
            plan.forwards > plan.nfe,
            setting.batch,
        )
        seen, noise = watching.calls_at(plan, at), given.get("noise")
        seeds, draws = arguments.keys(given.get("seed", 0), setting.batch), arguments.given_draws(noise, plan, setting)
        program = self._program(kind, noise is not None, way, seen)
        work = Given(seeds, start, draws, kwargs, blend, self._functions)
        numbers = {number: i for i, number in enumerate(plan.steps)} if at == "step" else {}

        def looks() -> Generator[Step, None, Tensor]:
            steps = self._pool(program, models, work, self._check_finite, on_call)
            while True:
                try:
                    with torch.no_grad(), _on(setting.device):
                        look = next(steps)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                node = watching.node_of(plan, look.number)
                yield Step(numbers.get(look.number, look.number), node, look.x, look.d, self)

        return Running(looks())

    def share(self, other: Sampler) -> None:
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

    def _program(self, given: str, noise: bool, blend: str, seen: tuple[int, ...]) -> Program:
        key = (given, noise, blend, seen)
        if key not in self._programs:
            setting = self.setting
            ways = {
                "state_bytes": setting.dtype.itemsize,
                "raw_bytes": setting.raw_dtype.itemsize,
                "cast": setting.input_dtype != setting.dtype,
                "reused": setting.reuses_output,
                "paired": self.denoiser.doubles,
            }
            lowered = [lower(plan, given=given, noise=noise, blend=blend, seen=seen, **ways) for plan in self.plans]
            self._programs[key] = stacked(lowered)
        return self._programs[key]

    def __str__(self) -> str:
        setting, (name, reason) = self.setting, self.executor
        where = f"{list(setting.shape)} {setting.dtype} on {setting.device}"
        return f"{where}, executor {name} ({reason}), {self._pool}\n{self.plan}"


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
