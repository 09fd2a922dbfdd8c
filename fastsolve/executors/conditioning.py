"""A model's keyword arguments under a captured graph: tensors in buffers of their own, everything else part of the question."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from fastsolve.executors.hindrance import UnfollowedError

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def signature(arguments: Sequence[dict[str, object]], device: torch.device) -> tuple[Hashable, list[Tensor]]:
    """What makes two sets of arguments ask for the same graph, and their tensors. Raises UnfollowedError with a reason."""
    tensors: list[Tensor] = []
    if not any(arguments):
        return None, tensors
    return tuple(_signed(kwargs, "model_kwargs", device, tensors) for kwargs in arguments), tensors


def _signed(value: object, name: str, device: torch.device, tensors: list[Tensor]) -> Hashable:
    if isinstance(value, Tensor):
        if value.device != device:
            raise UnfollowedError(f"{name} lies on {value.device}, and a graph on {device} would not see it change")
        if value.layout is not torch.strided or value.is_nested:
            raise UnfollowedError(f"{name} is no dense tensor, and a graph would read what it held at first")
        tensors.append(value)
        return (value.dtype, value.shape, value.stride(), type(value))
    if isinstance(value, _PLAIN):
        return (type(value), repr(value))  # which tells 0.0 from -0.0, and no nan from another
    if type(value) is dict:
        return (dict, *((key, _signed(v, f"{name}[{key!r}]", device, tensors)) for key, v in value.items()))
    if type(value) is list or type(value) is tuple:
        parts = (_signed(v, f"{name}[{i}]", device, tensors) for i, v in enumerate(value))
        return (type(value), *parts)
    raise UnfollowedError(f"{name} is of type {type(value).__name__}, whose changes a graph would not see")


def contents(arguments: Sequence[dict[str, object]], device: torch.device) -> Hashable:
    """What changes when a model writes into its arguments. Raises UnfollowedError as `signature`."""
    asked, tensors = signature(arguments, device)
    return asked, tuple((id(tensor), tensor._version) for tensor in tensors)


def changed(before: Hashable, arguments: Sequence[dict[str, object]], device: torch.device) -> bool:
    """Whether their contents are other ones than before, or hold what the model alone can have put there."""
    try:
        return contents(arguments, device) != before
    except UnfollowedError:
        return True


def replaced(kwargs: dict[str, object], tensors: Iterator[Tensor]) -> dict[str, object]:
    """The same arguments around other tensors, taken in the order of `signature`."""
    return {name: _rebuilt(value, tensors) for name, value in kwargs.items()}


def _rebuilt(value: object, tensors: Iterator[Tensor]) -> object:
    if isinstance(value, Tensor):
        return next(tensors)
    if type(value) is dict:
        return {key: _rebuilt(v, tensors) for key, v in value.items()}
    if type(value) is list or type(value) is tuple:
        return type(value)(_rebuilt(v, tensors) for v in value)
    return value
