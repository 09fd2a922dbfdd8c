"""`sample`, and the questions about solvers that need no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastsolve import budgets, memo, planner, solvers
from fastsolve.arguments import Noise, Seed
from fastsolve.controls import Guidance
from fastsolve.denoiser import Denoiser, device_of
from fastsolve.functions import Hook
from fastsolve.grids import Grid
from fastsolve.predictions import Prediction
from fastsolve.sampler import Sampler
from fastsolve.schedules import Schedule
from fastsolve.watching import At, Callback


def sample(
    model: Denoiser | Callable[..., Tensor],
    shape: Sequence[int] | None = None,
    *,
    solver: str | None = None,
    steps: int | Sequence[int] | None = None,
    nfe: int | Sequence[int] | None = None,
    grid: str | Grid | Sequence[float] | Sequence[Grid | Sequence[float]] | None = None,
    schedule: str | Schedule | None = None,
    prediction: str | Prediction | None = None,
    seed: Seed = 0,
    x_init: Tensor | None = None,
    x0_init: Tensor | None = None,
    noise: Noise | None = None,
    guidance: float | Guidance | Sequence[float | Guidance] | None = None,
    clip: float | tuple[float, float] | None = None,
    x0_hook: Hook | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    negative_kwargs: Mapping[str, object] | None = None,
    inpaint: tuple[Tensor, Tensor] | None = None,
    overwrite: tuple[Tensor, Tensor] | None = None,
    options: Mapping[str, object] | None = None,
    start: int | None = None,
    stop: int | None = None,
    strength: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    executor: str = "auto",
    graph: str = "auto",
    callback: Callback | None = None,
    at: At = "step",
    grad: bool | str = False,
    progress: bool = False,
    check_finite: bool = False,
) -> Tensor:
    """Samples of a model, [B, *shape] in `dtype`: one call of a `Sampler`, whose arguments these are.

    seed, x_init, x0_init, noise, model_kwargs, negative_kwargs, inpaint, overwrite, callback, at, grad and progress are those of
    `Sampler.__call__`. x_init or x0_init gives shape (for solvers of one variable) and device where they are left out. steps or nfe may
    have an entry for each sample: those of the same budget are one batch, and tensors of B samples among the arguments are divided.

    Samplers are kept for later calls as long as their model lives, the last eight of each: what was asked before is not compiled again,
    and on a GPU it becomes one CUDA graph.
    """
    asked = dict(locals())
    first = x0_init if x_init is None else x_init
    if isinstance(first, Tensor):
        shape = tuple(first.shape) if shape is None else shape
        device = first.device if device is None else device
    if (budget := budgets.asked_for(steps, nfe)) is not None:
        null = model.null if isinstance(model, Denoiser) else None
        return budgets.sample(sample, budget, null, {**asked, "shape": shape, "device": device})
    assert not isinstance(steps, Sequence)
    assert not isinstance(nfe, Sequence)
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
        clip=clip,
        x0_hook=x0_hook,
        options=options,
        start=start,
        stop=stop,
        strength=strength,
        device=device,
        dtype=dtype,
        executor=executor,
        graph=graph,
        check_finite=check_finite,
    )
    sampler = _kept(model, make, shape)
    if isinstance(first, Tensor) and not sampler.plan.variables and first.shape[1:] == sampler.setting.shape:
        sampler = _kept(model, make, first.shape)  # beside a batch of them, the shape of a sample will do
    return sampler(
        callback=callback,
        at=at,
        grad=grad,
        progress=progress,
        seed=seed,
        x_init=x_init,
        x0_init=x0_init,
        noise=noise,
        model_kwargs=model_kwargs,
        negative_kwargs=negative_kwargs,
        inpaint=inpaint,
        overwrite=overwrite,
    )


_memo: memo.Memo[Sampler] = memo.Memo()


def _kept(
    model: Denoiser | Callable[..., Tensor], make: functools.partial[Sampler], shape: Sequence[int] | None
) -> Sampler:
    """The sampler that was made for the same question before, or a new one, which shares the runs of others of its model."""
    asked = dict(make.keywords, shape=shape)
    if isinstance(asked["solver"], str):
        asked["solver"] = solvers.get(asked["solver"])  # a name may be given to another text
    elif asked["solver"] is not None:
        return make(shape=shape)  # which says what is wrong with it
    for name in ("shape", "grid", "options", "guidance", "clip"):
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
