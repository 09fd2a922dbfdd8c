"""Who samples: fastsolve as one graph and launch by launch, loops in torch, diffusers' schedulers, k-diffusion, and the model alone.

A provider makes from a Problem a function that samples once and returns the result. A foreign library is imported by its provider, so
that its absence is that provider's reason and nobody else's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import loops
from benchmarks.gpu_clock import Place
from benchmarks.subjects import SIGMAS, Subject
from fastsolve import Sampler

Run = Callable[[], Tensor]
RESTARTS = (3, 2, 0.06, 0.3)  # levels, times, from, to


@dataclass(frozen=True)
class Task:
    """A solver under a law. lengths: steps of a short and of a long run."""

    solver: str
    law: str
    lengths: tuple[int, int]
    options: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.solver} ({self.law})"


@dataclass(frozen=True)
class Problem:
    """A task of so many steps for a subject. start: a float32 state at the first level; noise: for each run, where its draws come from."""

    task: Task
    steps: int
    subject: Subject
    batch: int
    where: Place
    start: Callable[[], Tensor]
    noise: Callable[[], loops.Noise]
    given: Mapping[str, object] | None = None  # start and noise as fastsolve takes them; None: it makes its own

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, *sample]."""
        return (self.batch, *self.subject.shape)

    @property
    def levels(self) -> list[float]:
        """Clock values of the grid, the last included."""
        if self.task.law == "edm":
            high, low = (s ** (1 / 7) for s in SIGMAS)
            return [(high + i * (low - high) / (self.steps - 1)) ** 7 for i in range(self.steps)] + [0.0]
        if self.task.law == "flow":
            return np.linspace(1.0, 0.001, self.steps, dtype=np.float32).astype(np.float64).tolist() + [0.0]
        if self.task.solver == "ddim":  # "leading", the only spacing whose steps are those that DDIMScheduler takes
            return [float(i * (1000 // self.steps)) for i in reversed(range(self.steps))] + [-1.0]
        return np.linspace(0, 999, self.steps + 1).round()[:0:-1].tolist() + [-1.0]

    @property
    def first(self) -> float:
        """Standard deviation of the state at the first level."""
        return self.levels[0] if self.task.law == "edm" else 1.0


def sampler(problem: Problem, graph: str = "off", executor: str = "auto") -> Sampler:
    """fastsolve's."""
    task = problem.task
    return Sampler(
        problem.subject.denoiser(task.law, problem.where.device),
        problem.shape,
        solver=task.solver,
        grid=problem.levels,
        options=task.options,
        executor=executor,
        graph=graph,
    )


def ours(problem: Problem, graph: str = "off", executor: str = "auto") -> Run:
    made, seeds = sampler(problem, graph, executor), itertools.count()
    if problem.given is not None:
        return lambda: made(**problem.given)  # type: ignore[arg-type]
    return lambda: made(seed=next(seeds))


def torch_loop(problem: Problem) -> Run:
    """The hand-written loop of the task, its levels on the device beforehand."""
    sigmas, name, model = problem.levels, problem.task.solver, problem.subject.in_float()
    schedule: Any = sigmas
    if name == "restart":
        schedule = restart_parts(sigmas)
        told = [level for part in schedule for level in loops.heun_levels(part)]
    else:
        told = loops.seeds3_levels(sigmas) if name == "seeds3" else sigmas
    levels = list(loops.told(told, problem.start()))
    loop = getattr(loops, name)
    return lambda: loop(model, problem.start(), levels, schedule, problem.noise())


def restart_parts(sigmas: list[float]) -> list[list[float]]:
    """The stretches that Restart walks: down to the level nearest to its lower end, so often up and down again, and on."""
    n, times, low, high = RESTARTS
    at = min(range(len(sigmas)), key=lambda i: abs(sigmas[i] - low))
    a, b = high ** (1 / 7), sigmas[at] ** (1 / 7)
    inner = [high, *((a + m * (b - a) / (n - 1)) ** 7 for m in range(1, n - 1)), sigmas[at]]
    return [sigmas[: at + 1], *[inner] * times, sigmas[at:]]


def device_loop(problem: Problem) -> Run:
    """SEEDS-3 with its levels on the device, as it is usually written."""
    sigmas = torch.tensor(problem.levels).to(problem.where.device)
    model = problem.subject.in_float()
    return lambda: loops.seeds3_on_device(model, problem.start(), sigmas, problem.noise())


def diffusers(problem: Problem) -> Run:
    """A pipeline's loop around a scheduler's `step`; the state has the model's dtype. Setting the timesteps is not counted."""
    import diffusers as library

    task, subject = problem.task, problem.subject
    if task.law == "flow":
        scheduler: Any = library.FlowMatchEulerDiscreteScheduler()
    elif task.solver == "ddim":
        scheduler = library.DDIMScheduler(beta_schedule="linear", clip_sample=False)
    else:
        scheduler = library.DPMSolverMultistepScheduler(beta_schedule="linear", algorithm_type="dpmsolver++")
    scheduler.set_timesteps(problem.steps, device=problem.where.device)
    if hasattr(scheduler, "set_begin_index"):  # as pipelines do: else the first step looks for its index
        scheduler.set_begin_index(0)
    timesteps = list(scheduler.timesteps)
    net = subject.net

    def run() -> Tensor:
        scheduler._step_index = None
        if hasattr(scheduler, "model_outputs"):
            scheduler.model_outputs, scheduler.lower_order_nums = [None] * scheduler.config.solver_order, 0
        x = problem.start().to(subject.dtype)
        for t in timesteps:
            told = (t / 1000 if task.law == "flow" else t).expand(len(x))
            x = scheduler.step(net(x, told), t, x, return_dict=False)[0]
        return x

    return run


def k_diffusion(problem: Problem, sigmas_on: str | None = None, brownian: bool = False) -> Run:
    """k-diffusion's sampler; its levels on the device as it has them, or on the CPU, where its loops do not wait for the GPU."""
    sampling = k_diffusion_sampling()
    sigmas = torch.tensor(problem.levels).to(sigmas_on or problem.where.device)
    sample, model = getattr(sampling, f"sample_{problem.task.solver}"), problem.subject.in_float()

    def run() -> Tensor:
        extra: dict[str, object] = {}
        if problem.task.solver.endswith("sde") and not brownian:
            draw = problem.noise()
            extra["noise_sampler"] = lambda sigma, sigma_next: draw()
        out: Tensor = sample(model, problem.start(), sigmas, disable=True, **extra)
        return out

    return run


@functools.cache
def k_diffusion_sampling() -> types.ModuleType:
    """Its samplers without the package's own import, which asks for the libraries of its training."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    try:
        return importlib.import_module("k_diffusion.sampling")
    except ImportError:
        # Else the next provider would hear of a package without a spec, and not what is missing.
        del sys.modules["k_diffusion"]
        raise


def model_alone(problem: Problem) -> Run:
    """As many calls of the model as the sampler makes, and nothing else."""
    net, calls = problem.subject.net, sampler(problem).plan.nfe
    x = problem.start().to(problem.subject.dtype)
    t = torch.full((len(x),), problem.levels[1], device=x.device)

    def run() -> Tensor:
        for _ in range(calls):
            out = net(x, t)
        return out

    return run
