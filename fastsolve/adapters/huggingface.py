"""Modules that are called as those of diffusers: `module(sample, timestep, ...)`, with a `.sample` or a tuple for an answer."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastsolve import schedules
from fastsolve.adapters.facts import Facts, Model, Net, stated, tensor_of
from fastsolve.denoiser import Denoiser, device_of
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule, VPTable

_TIMES = ("timestep", "timesteps", "time")


def wrap(
    module: torch.nn.Module,
    schedule: str | Schedule,
    prediction: str | Prediction,
    *,
    time_scale: float | None = None,
    learned_variance: bool | None = None,
    null_class: int | None = None,
    **facts: Unpack[Facts],
) -> Denoiser:
    """A Denoiser of a UNet or a transformer of diffusers, or of one that is called in the same way.

    The state is the module's first argument, the time the one called `timestep` (or the second), both looked up in its signature, once;
    `encoder_hidden_states`, `class_labels` and all others come as model_kwargs. The module is told time_scale * t, a float tensor
    [B], which never passes through half precision on the way: 1 for a table, whose clock is the index; without a table it must be
    stated (flow: 1000 for SD3, 1 for Flux, which multiplies itself). learned_variance: the second half of the output's channels is a
    variance, and cut off; None looks for twice as many out_channels as in_channels in the module's config. null_class: the label of
    no class, for classifier-free guidance (the number of classes in DiT). shape, where it is not given: (in_channels, sample_size,
    sample_size) of the config, where all convolutions are those of images. facts: further fields of the Denoiser.

    Raises TypeError for what is no module, ValueError where the time's scale is not stated.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, not {type(module).__name__}; any function is a Denoiser's model"
        )
    law, scale = schedules.get(schedule), time_scale
    if scale is None:
        if not isinstance(law, VPTable):
            raise ValueError(
                f"time_scale is needed on schedule {law.name!r}, whose t runs to {law.t_max:g}: 1000 if the module was trained on "
                "0 to 1000 (SD3), 1 if on 0 to 1 (Flux)"
            )
        scale = 1.0
    config = getattr(module, "config", None)
    inside, outside = getattr(config, "in_channels", None), getattr(config, "out_channels", None)
    halved = bool(inside and outside == 2 * inside) if learned_variance is None else learned_variance
    if null_class is not None:
        if facts.get("null") is not None:
            raise ValueError("null_class is the null of modules with class_labels: give it or null")
        facts["null"] = {"class_labels": torch.tensor([null_class], device=device_of(module))}
    facts.setdefault("shape", _shape(module, config))

    def call(net: Net) -> Model:
        plain = getattr(net, "_orig_mod", net)  # of a compiled module, whose own signature says nothing
        parameters = list(inspect.signature(getattr(plain, "forward", plain)).parameters)
        by_name = next((name for name in _TIMES if name in parameters), None)
        fixed = {"return_dict": False} if "return_dict" in parameters else {}

        def raw(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
            told = t if scale == 1.0 else t * scale
            named = {**fixed, **kwargs}
            answer = net(x, told, **named) if by_name is None else net(x, **{by_name: told}, **named)
            output = tensor_of(answer)
            return output[:, : x.shape[1]] if halved else output

        return raw

    return stated(call, module, law, prediction, facts)


def _shape(module: torch.nn.Module, config: object) -> tuple[int, ...] | None:
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    other = any(
        isinstance(part, torch.nn.Conv1d | torch.nn.Conv3d) for part in module.modules()
    )  # of sounds and videos
    if other or not isinstance(channels, int) or size is None:
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)
