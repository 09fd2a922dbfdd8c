"""What every adapter of a network states beside its call: the fields of a `Denoiser`, and the call of a guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from fastsolve.denoiser import Denoiser, device_of
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule

Net = Callable[..., Any]
Model = Callable[..., Tensor]


class Facts(TypedDict, total=False):
    """Fields of `fastsolve.Denoiser`; a guide is given as the network is, and called in the same way."""

    shape: tuple[int, ...] | None
    device: torch.device | str | None
    dtype: torch.dtype | None
    output_dtype: torch.dtype | None
    nfe: int | None
    null: Mapping[str, object] | None
    guide: Net | None
    doubles: bool
    reuses_output: bool


def stated(
    call: Callable[[Net], Model],
    net: Net,
    schedule: str | Schedule,
    prediction: str | Prediction,
    facts: Facts,
) -> Denoiser:
    """The Denoiser of `call(net)`, which makes `model(x, t, **kwargs) -> raw` of a network; device and dtype are the network's.

    What `call` makes has the network among its outer variables, or is the network: there a captured graph watches it.
    """
    _check(net, "a network")
    known: Facts = {"device": device_of(net), "dtype": _dtype_of(net), **facts}
    if (guide := known.get("guide")) is not None:
        _check(guide, "a guide, another network,")
        known["guide"] = call(guide)
    return Denoiser(call(net), schedule, prediction, **known)


def _check(net: object, name: str) -> None:
    if not callable(net):
        raise TypeError(f"{name} is needed, something that can be called; {type(net).__name__} is not callable")
    if isinstance(net, Denoiser):
        raise TypeError(
            f"{name} is needed, and this is a Denoiser already: sample it, or give the network that it was made of"
        )


def tensor_of(answer: Any) -> Tensor:
    """What a network of diffusers answers with: a tensor, the first of a tuple or a list, or an object's `.sample`."""
    if not isinstance(answer, Tensor):
        answer = answer[0] if isinstance(answer, tuple | list) else answer.sample
    return answer  # type: ignore[no-any-return]


def _dtype_of(net: object) -> torch.dtype | None:
    """A module's own, where it states one, which need not be its first parameter's; else that one's; None for anything else."""
    if not isinstance(net, torch.nn.Module):
        return None
    own = getattr(net, "dtype", None)
    if isinstance(own, torch.dtype) and own.is_floating_point:
        return own
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), None)
