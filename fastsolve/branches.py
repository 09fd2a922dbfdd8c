"""The branches of a guided call: which models are called, and with which keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastsolve.denoiser import Denoiser


def of(
    denoiser: Denoiser,
    kwargs: Mapping[str, object] | None,
    negative: Mapping[str, object] | None,
    guided: bool,
    batch: int,
) -> tuple[list[Callable[..., Tensor]], list[dict[str, object]]]:
    """The models of a run, one per branch, and the keyword arguments of each; where a guided call is one, that of both branches last."""
    kwargs = {} if kwargs is None else kwargs
    for name, given in (("model_kwargs", kwargs), ("negative_kwargs", {} if negative is None else negative)):
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise TypeError(f"{name} must be a dict of keyword arguments, not {given!r}")
    if not guided:
        if negative is not None:
            raise ValueError("negative_kwargs are those of the unconditional call: without guidance there is none")
        return [denoiser.model], [dict(kwargs)]
    null = {**(denoiser.null or {}), **(negative or {})}
    if not null and denoiser.guide is None:
        raise ValueError(
            "guidance needs the unconditional call: give a Denoiser with null, its keyword arguments, or guide, another network; or "
            "negative_kwargs with the call"
        )
    models, arguments = (
        [denoiser.model, denoiser.model if denoiser.guide is None else denoiser.guide],
        [dict(kwargs), {**kwargs, **null}],
    )
    if denoiser.doubles:
        models.append(denoiser.model)
        one, other = arguments
        if callable(denoiser.doubles):
            arguments.append(dict(denoiser.doubles(one, other)))
        else:
            arguments.append({key: _both(key, kwargs.get(key), value, batch) for key, value in other.items()})
    return models, arguments


def _both(name: str, one: object, other: object, batch: int) -> object:
    """An argument of the doubled call: tensors of a batch one after the other, everything else the same in both."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.dim() and other.dim():
        sizes = {len(one), len(other)}
        if sizes <= {1, batch} and one.shape[1:] == other.shape[1:] and one.dtype == other.dtype:
            return torch.cat([t.expand(batch, *t.shape[1:]) for t in (one, other)])
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return {key: _both(f"{name}[{key!r}]", one[key], other[key], batch) for key in one}
    if type(one) is type(other) and isinstance(one, list | tuple) and len(one) == len(other):  # type: ignore[arg-type]
        pairs = enumerate(zip(one, other, strict=True))  # type: ignore[call-overload]
        return type(one)(_both(f"{name}[{i}]", a, b, batch) for i, (a, b) in pairs)
    if one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and _same(one, other)):
        return one
    given = [f"{v.dtype} {list(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in (one, other)]
    raise ValueError(
        f"{name} cannot be joined for one call on a doubled batch of 2 x {batch}: it is {given[0]} with condition and {given[1]} without; "
        "both must be tensors of the batch or the same, or state doubles=False for two calls"
    )


def _same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # arrays, compared element by element
        return False
