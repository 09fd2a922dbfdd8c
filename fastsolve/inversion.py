"""Inversion: the noise that a deterministic solver would have made a sample from, and the way between two noises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastsolve.denoiser import Denoiser
from fastsolve.grids import Grid
from fastsolve.predictions import Prediction
from fastsolve.sampler import Sampler
from fastsolve.schedules import Schedule


def invert(
    model: Denoiser | Callable[..., Tensor],
    x: Tensor,
    *,
    solver: str = "dpmpp_2m",
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    schedule: str | Schedule | None = None,
    prediction: str | Prediction | None = None,
    guidance: float | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    negative_kwargs: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    start: int | None = None,
    stop: int | None = None,
    strength: float | None = None,
    executor: str = "auto",
    graph: str = "auto",
    progress: bool = False,
    check_finite: bool = False,
) -> Tensor:
    """The state at the grid's first level from which the ODE leads to x, [B, *shape] in the dtype of x: `x_init` for the way back.

    x: data where the grid ends in clean data, else the state at its last level; float32, or float64 for the eager executor. Other
    arguments: those of `Sampler` and its call, and the part of `make_plan`. The way back with the same solver, steps and grid makes x
    again, but for the error of both ways, which falls with the steps at the solver's order, and for what the step to clean data
    forgets: the noise at sigma = 0 is that of the level before, by one call there. Guidance above 1 makes both larger.

    Raises ValueError or TypeError as `Sampler`, and for solvers that draw noise.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, [B, *shape], not {type(x).__name__}")
    sampler = Sampler(
        model,
        x.shape,
        solver=solver,
        steps=steps,
        nfe=nfe,
        grid=grid,
        schedule=schedule,
        prediction=prediction,
        guidance=guidance,
        options=options,
        start=start,
        stop=stop,
        strength=strength,
        inverse=True,
        device=x.device,
        dtype=x.dtype,
        executor=executor,
        graph=graph,
        check_finite=check_finite,
    )
    return sampler(x_init=x, model_kwargs=model_kwargs, negative_kwargs=negative_kwargs, progress=progress)


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Between two noises along the arc, sample by sample: a at weight 0, b at 1 (Shoemake 1985). a, b: [B, *shape]; weight: or [B].

    (sin((1 - w) angle) a + sin(w angle) b) / sin(angle), which keeps the norm where both have the same; a straight line is shorter in
    between, and less noise than a model expects. Opposite noises have no arc.
    """
    if a.shape != b.shape or not a.dim():
        raise ValueError(f"a and b must have the same shape, [B, *shape], not {list(a.shape)} and {list(b.shape)}")
    u, v = (torch.nn.functional.normalize(z.reshape(len(z), -1), dim=1) for z in (a, b))
    angle = 2.0 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # finite at 0, where acos has no digits

    def share(w: float | Tensor) -> Tensor:
        part: Tensor = w * torch.sinc(w * angle / math.pi) / torch.sinc(angle / math.pi)
        return part.view(-1, *[1] * (a.dim() - 1))

    return share(1.0 - weight) * a + share(weight) * b
