"""Velocity models of flow matching, in either direction of time, as users of flow_matching, torchcfm and rectified flow have them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastsolve import predictions, schedules
from fastsolve.adapters.facts import Facts, Model, Net, stated, tensor_of
from fastsolve.denoiser import Denoiser
from fastsolve.schedules import Node


@dataclass(frozen=True)
class ToData(predictions.Flow):
    """raw = x0 - eps: the velocity towards data, of a time that is 0 at noise."""

    def x0(self, node: Node) -> tuple[float, float]:
        a, b = super().x0(node)
        return a, -b


def wrap(
    model: Net,
    *,
    noise_at: int,
    time_scale: float = 1.0,
    names: tuple[str, str] | None = None,
    time_first: bool = False,
    shift: float = 1.0,
    **facts: Unpack[Facts],
) -> Denoiser:
    """A Denoiser of a velocity dx/dt on the straight path between noise and data.

    noise_at: the model's time of pure noise, and so its direction: 1 (x = (1 - t) data + t noise, velocity noise - data, as SD3 and
    fastsolve have it) or 0 (x = t data + (1 - t) noise, velocity data - noise: flow_matching, torchcfm, rectified flow). The sign is a
    coefficient of the plan and costs nothing. time_scale: what the model is told, time_scale * t, a float tensor [B] (1000 or 999 for
    networks that embed such numbers). The call is model(x, t, **kwargs), or model(t, x) with time_first (torchcfm), or by keywords,
    names = (that of the state, that of the time) (flow_matching's `x` and `t`); the answer is a tensor, a tuple's first, or an object's
    `.sample`. shift: of named grids, as in `schedules.Flow`. facts: further fields of the Denoiser: shape, dtype, null ...

    Raises ValueError for another direction or scale, and for a call that is stated twice.
    """
    if isinstance(noise_at, bool) or noise_at not in (0, 1):
        raise ValueError(
            f"noise_at is the model's time of pure noise: 0 (data at 1) or 1 (data at 0), not {noise_at!r}"
        )
    if not 0.0 < time_scale < math.inf:
        raise ValueError(f"time_scale must be positive and finite, not {time_scale}: the direction is that of noise_at")
    if names is not None and (time_first or isinstance(names, str) or len(names) != 2):
        given = "time_first beside them" if time_first else repr(names)
        raise ValueError(f"names are two keywords, for the state and the time, and the order is theirs: not {given}")

    def told(t: Tensor) -> Tensor:
        if noise_at == 0:
            return torch.rsub(t, time_scale, alpha=time_scale)  # one launch: scale - scale * t
        return t if time_scale == 1.0 else t * time_scale

    def call(net: Net) -> Model:
        def velocity(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
            if names is not None:
                return tensor_of(net(**{names[0]: x, names[1]: told(t)}, **kwargs))
            return tensor_of(net(told(t), x, **kwargs) if time_first else net(x, told(t), **kwargs))

        return velocity

    return stated(call, model, schedules.Flow(shift), ToData() if noise_at == 0 else "flow", facts)
