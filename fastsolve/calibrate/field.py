"""The model as calibration sees it: x0 at any state and level, with its arguments and its guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsolve.denoiser import Denoiser
from fastsolve.predictions import Prediction
from fastsolve.schedules import Node, Schedule

_TOP = 100.0  # sigma / alpha where a trajectory starts on a schedule that starts at alpha = 0


@dataclass(frozen=True)
class Field:
    """The model as x0(x, node of each sample), guided as it will be."""

    denoiser: Denoiser
    kwargs: Mapping[str, object]
    guidance: float | None

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule  # type: ignore[return-value]  # made an object by Denoiser

    def x0(self, x: Tensor, nodes: Sequence[Node]) -> Tensor:
        meaning: Prediction = self.denoiser.prediction  # type: ignore[assignment]

        def per_sample(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.dim() - 1))

        kind = self.denoiser.dtype or x.dtype
        t = torch.tensor([node.t for node in nodes], dtype=kind, device=x.device)
        scaled = (x * per_sample([meaning.input_scale(node) for node in nodes])).to(kind)
        raw = self.denoiser(scaled, t, **self.kwargs).to(x.dtype)
        if self.guidance is not None:
            null = self.denoiser(scaled, t, **{**self.kwargs, **(self.denoiser.null or {})}).to(x.dtype)
            raw = null + self.guidance * (raw - null)
        a, b = zip(*(meaning.x0(node) for node in nodes), strict=True)
        return per_sample(a) * x + per_sample(b) * raw


def field_of(denoiser: Denoiser, kwargs: Mapping[str, object] | None, guidance: float | None) -> Field:
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"calibration needs a Denoiser, which states schedule and prediction, not {type(denoiser)}")
    if guidance is not None and denoiser.null is None:
        raise ValueError(
            "guidance needs the unconditional call: give a Denoiser whose null holds its keyword arguments"
        )
    return Field(denoiser, kwargs or {}, guidance)


def noise(denoiser: Denoiser, shape: Sequence[int] | None, count: int, seed: int, dtype: torch.dtype) -> Tensor:
    of_sample = tuple(denoiser.shape or () if shape is None else shape)
    if not of_sample:
        raise ValueError("the shape of a sample is needed, from shape or from the Denoiser")
    if count < 1:
        raise ValueError(f"at least one trajectory is needed, not {count}")
    z = torch.randn(count, *of_sample, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.to(denoiser.device, dtype)


def lam_range(law: Schedule, sigma_max: float | None) -> tuple[float, float]:
    """First and last lam of a trajectory: the schedule's range, or from sigma_max (sigma / alpha)."""
    if sigma_max is not None and not 0.0 < sigma_max < math.inf:
        raise ValueError(f"sigma_max of a pilot must be positive and finite, not {sigma_max}")
    top = law.node(law.t_max)
    return top.lam if sigma_max is None and top.alpha else -math.log(sigma_max or _TOP), law.node(law.t_min).lam
