"""Diffusion policies (Chi et al. 2023, arXiv 2303.04137): networks `net(sample, timestep, global_cond=...)` of trajectories [B, T, D]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from fastsolve.adapters.facts import Facts, Model, Net, stated
from fastsolve.denoiser import Denoiser
from fastsolve.schedules import Node, VPTable, squared_cosine

_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@dataclass(frozen=True)
class Indexed(VPTable):
    """A table whose model knows whole indices only: every node, those that a solver places too, is at the nearest."""

    @cached_property
    def whole(self) -> VPTable:
        return VPTable(self.alphas_cumprod)

    def __hash__(self) -> int:
        return self._hash

    def node(self, t: float) -> Node:
        return super().node(float(round(super().node(t).t)))


def wrap(
    net: Net,
    scheduler: Any = None,
    *,
    horizon: int,
    action_dim: int,
    train_steps: int | None = None,
    prediction: str | None = None,
    whole_steps: bool = False,
    **facts: Unpack[Facts],
) -> Denoiser:
    """A Denoiser of a policy's network, called as net(sample [B, horizon, action_dim], timestep [B], **model_kwargs).

    scheduler: the policy's noise scheduler of diffusers, read for its table (`alphas_cumprod`) and `config.prediction_type`. Without
    one the table is `schedules.squared_cosine(train_steps)`, by default of 100, and prediction is "epsilon", the default, "sample" or
    "v_prediction". whole_steps: the network embeds integers only: it is told int64 steps, and every level is one of the table's.
    `global_cond` and `local_cond` come as model_kwargs; clip_sample is `clip=1.0` of a Sampler, and what is known of the trajectory
    `overwrite=(mask, value)` of a call. facts: further fields of the Denoiser; nfe is the policy's num_inference_steps.

    Raises ValueError for an unknown prediction, for one or train_steps beside a scheduler, and for more inference steps than there are
    in training.
    """
    if scheduler is not None:
        if train_steps is not None or prediction is not None:
            raise ValueError("train_steps and prediction are read from the scheduler: give it, or them")
        missing = [name for name in ("alphas_cumprod", "config") if not hasattr(scheduler, name)]
        if missing:
            raise TypeError(
                f"scheduler ({type(scheduler).__name__}) has no {' and no '.join(missing)}: give the policy's DDPM or DDIM scheduler, "
                "or none, and train_steps and prediction"
            )
        prediction = scheduler.config.prediction_type
    prediction = "epsilon" if prediction is None else prediction
    if prediction not in _PREDICTIONS:
        raise ValueError(f"prediction must be {', '.join(map(repr, _PREDICTIONS))}, not {prediction!r}")
    size = 100 if train_steps is None else train_steps
    table = tuple(squared_cosine(size).alphas_cumprod if scheduler is None else scheduler.alphas_cumprod.tolist())
    if (nfe := facts.get("nfe")) is not None and nfe > len(table):
        raise ValueError(
            f"{nfe} inference steps are more than the {len(table)} of training: give nfe of at most {len(table)}"
        )

    def call(model: Net) -> Model:
        def raw(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
            output: Tensor = model(x, t.long() if whole_steps else t, **kwargs)
            return output

        return raw

    law = Indexed(table) if whole_steps else VPTable(table)
    return stated(call, net, law, _PREDICTIONS[prediction], {"shape": (horizon, action_dim), **facts})
