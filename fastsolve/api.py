"""`sample`, and the questions about solvers that need no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastsolve import memo, planner, solvers
from fastsolve.arguments import Noise, Seed
from fastsolve.denoiser import Denoiser, device_of
from fastsolve.grids import Grid
from fastsolve.predictions import Prediction
from fastsolve.sampler import Sampler
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
    graph: str = "auto",
    progress: bool = False,
    check_finite: bool = False,
) -> Tensor:
    """Samples of a model, [B, *shape] in `dtype`: one call of a `Sampler`, whose arguments these are.

    seed, x_init, noise, model_kwargs and progress are those of `Sampler.__call__`. x_init gives shape (for solvers of one variable)
    and device where they are left out. Samplers are kept for later calls as long as their model lives, the last eight of each: what
    was asked before is not compiled again, and on a GPU it becomes one CUDA graph.
    """
    if isinstance(x_init, Tensor):
        shape = tuple(x_init.shape) if shape is None else shape
        device = x_init.device if device is None else device
    make = functools.partial(
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
        graph=graph,
        check_finite=check_finite,
    )
    sampler = _kept(model, make, shape)
    if isinstance(x_init, Tensor) and not sampler.plan.variables and x_init.shape[1:] == sampler.setting.shape:
        sampler = _kept(model, make, x_init.shape)  # beside a batch of them, the shape of a sample will do
    return sampler(seed=seed, x_init=x_init, noise=noise, model_kwargs=model_kwargs, progress=progress)


_memo: memo.Memo[Sampler] = memo.Memo()


def _kept(
    model: Denoiser | Callable[..., Tensor], make: functools.partial[Sampler], shape: Sequence[int] | None
) -> Sampler:
    """The sampler that was made for the same question before, or a new one, which shares the runs of others of its model."""
    asked = dict(make.keywords, shape=shape)
    if not isinstance(asked["solver"], str):
        return make(shape=shape)  # which says what is wrong with it
    asked["solver"] = solvers.get(asked["solver"])  # a name may be given to another text
    for name in ("shape", "grid", "options"):
        if asked[name] is not None:
            asked[name] = planner.frozen(asked[name])
    key = (device_of(model), *asked.values())
    try:
        sampler = _memo.get(model, key)
    except TypeError:  # an argument that cannot be a key
        return make(shape=shape)
    if sampler is None:
        sampler = make(shape=shape)
        try:
            sampler.denoiser = memo.weakly(sampler.denoiser, model)
        except TypeError:  # there are no weak references to a model of this kind
            return sampler
        for other in _memo.all_of(model):
            if not isinstance(model, Denoiser):
                sampler.denoiser = replace(sampler.denoiser, model=other.denoiser.model)  # one weak reference for all
            sampler.share(other)
        _memo.keep(model, key, sampler)
    return sampler


def list_solvers() -> list[str]:
    """Names of all solvers, sorted."""
    return solvers.names()


def cite(name: str) -> str:
    """What to cite for a solver: its source, and the first line of its description. Raises ValueError for an unknown name."""
    found = solvers.get(name)
    first = (found.text.__doc__ or "").strip().splitlines()[0]
    return f"{found.source}. {first}"
