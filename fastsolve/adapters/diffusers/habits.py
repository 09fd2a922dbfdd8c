"""What one turn of a pipeline's loop shows: what its network is given, and how its outputs are combined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from fastsolve.adapters.diffusers.law import Law
from fastsolve.adapters.diffusers.network import BESIDE, Call, Form, Habits, leading
from fastsolve.controls import Guidance


class UnlikeError(ValueError):
    """A loop that no `Sampler` can run."""


class Turn(NamedTuple):
    """A turn of the loop. conditions: of the conditional call, and of the other one where there is guidance. doubled: both in one call."""

    net: Module
    habits: Habits
    form: Form
    x: Tensor
    doubled: bool
    guidance: Guidance | None
    conditions: list[dict[str, object]]


class _Branch(NamedTuple):
    x: Tensor
    conditions: dict[str, object]
    out: Tensor


def seen(
    calls: Sequence[Call], made: Tensor, time: float, latents: Tensor, law: Law, guidances: list[Guidance]
) -> Turn:
    """What the calls of the network, and what the scheduler was then given as its output at `time`, have in common with others.

    guidances: those that the pipeline's arguments may mean. Raises UnlikeError for what is none of ours.
    """
    if not calls:
        raise UnlikeError("its network is no `unet` or `transformer` that is called in every step")
    first = calls[0]
    if any(call.net is not first.net for call in calls):
        raise UnlikeError("it calls several networks in a step")
    branches, doubled = _branches(calls, len(latents))
    if made.shape != latents.shape:
        raise UnlikeError(f"its scheduler is given {list(made.shape)} for latents of {list(latents.shape)}")
    outs = [leading(branch.out, latents.shape[1:]) for branch in branches]
    guidance, order = _combined(outs, made, guidances)
    name = next(iter(first.arguments))
    factor, tokens = _clock(first.arguments.get("timestep"), time, law, len(first.out))
    along = {_along(branch, latents) for branch in branches}
    if len(along) > 1:
        raise UnlikeError("the inputs of its two calls are not alike")
    habits = Habits(name, law.told, factor, tokens, along.pop())
    conditions = [branches[i].conditions for i in order]
    return Turn(first.net, habits, first.form, first.arguments[name], doubled, guidance, conditions)


def _branches(calls: Sequence[Call], batch: int) -> tuple[list[_Branch], bool]:
    """The inputs, arguments and outputs of each branch; whether they came in one call."""
    found = []
    for call in calls:
        (_, x), *rest = call.arguments.items()
        if not isinstance(x, Tensor) or x.dim() == 0 or len(x) % batch:
            raise UnlikeError(f"its network is called on something else than {batch} latents")
        parts = len(x) // batch
        for i in range(parts):
            conditions = {key: _part(value, len(x), parts, i) for key, value in rest if key != "timestep"}
            found.append(_Branch(x.chunk(parts)[i], conditions, call.out.chunk(parts)[i]))
    if len(found) > 2:
        raise UnlikeError(
            f"it asks its network {len(found)} times for each sample in a step, which is no guidance of ours"
        )
    return found, len(calls) < len(found)


def _part(value: Any, rows: int, parts: int, i: int) -> Any:
    """An argument of one branch: its part of what is a tensor of all rows."""
    if parts == 1:
        return value
    if isinstance(value, Tensor):
        return value.chunk(parts)[i] if value.dim() and len(value) == rows else value
    if isinstance(value, Mapping):
        return {key: _part(v, rows, parts, i) for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_part(v, rows, parts, i) for v in value)
    return value


def _along(branch: _Branch, latents: Tensor) -> int:
    """The dimension in which the input is wider than the latents, 0 for none. What is beside them becomes a condition."""
    x, shape = branch.x, latents.shape
    wider = [dim for dim, size in enumerate(shape) if x.dim() == len(shape) and x.shape[dim] > size]
    if len(wider) < 2 and x.dim() == len(shape):
        along = wider[0] if wider else 0
        head = x.narrow(along, 0, shape[along])
        if head.shape == shape and torch.equal(head, latents.to(x.dtype)):
            if along:
                branch.conditions[BESIDE] = x.narrow(along, shape[along], x.shape[along] - shape[along])
            return along
    raise UnlikeError("the input of its network is not the latents, as they are or with others beside them")


def _combined(outs: list[Tensor], made: Tensor, guidances: list[Guidance]) -> tuple[Guidance | None, list[int]]:
    """The guidance by which the outputs became what the scheduler is given; which of them is conditional, and which is not."""
    if len(outs) == 1:
        if not _close(made, outs[0], 1.0):
            raise UnlikeError("it changes the output of its network before its scheduler sees it")
        return None, [0]
    for guidance in guidances:
        assert isinstance(guidance.scale, float)
        for order in ([1, 0], [0, 1]):
            conditional, other = (outs[i].to(made.dtype) for i in order)
            mixed = other + guidance.scale * (conditional - other)
            if guidance.rescale:
                dims = list(range(1, made.dim()))
                factor = conditional.std(dims, keepdim=True) / mixed.std(dims, keepdim=True)
                mixed = guidance.rescale * factor * mixed + (1.0 - guidance.rescale) * mixed
            if _close(made, mixed, 1.0 + abs(guidance.scale)):
                return guidance, order
    raise UnlikeError(
        "its two outputs are not combined by guidance as u + w (c - u), rescaled or not, with a w among its arguments (perturbed "
        "attention, skipped layers, normalised or zero-star guidance are not)"
    )


def _close(made: Tensor, expected: Tensor, scale: float) -> bool:
    """Equal to rounding in the dtype of what the scheduler is given; the outputs are standard normals."""
    error = (made.float() - expected.float()).square().mean().sqrt()
    return bool(error <= 4.0 * torch.finfo(made.dtype).eps * scale)


def _clock(given: object, time: float, law: Law, rows: int) -> tuple[float, tuple[int, ...]]:
    """The factor from the law's time to what the network is given, with its unit, and the shape of that beside the rows."""
    told = torch.as_tensor(given) if isinstance(given, Tensor | float | int) else torch.empty(0)
    if not told.numel() or not told.is_floating_point():
        raise UnlikeError("its network is not given the scheduler's time, in floating point, as `timestep`")
    low, high = float(told.min()), float(told.max())
    for factor in (1.0, 1.0 / law.train_steps):
        near = 4.0 * torch.finfo(told.dtype).eps * abs(factor * time)
        if low == high and abs(low - factor * time) <= near:
            unit = law.train_steps if law.told.startswith("flow") else 1.0
            return factor * unit, tuple(told.shape[1:]) if told.dim() and len(told) == rows else ()
    raise UnlikeError(
        f"its network is given {low:g} to {high:g} at the scheduler's time {time:g}, which is neither that nor a share"
    )


def changes(before: Turn, now: Turn) -> Iterator[str]:
    """What is not the same in two turns."""
    if before.net is not now.net:
        yield "the network"
    if before.guidance != now.guidance or len(before.conditions) != len(now.conditions):
        yield "guidance"
    elif before.habits != now.habits:
        yield "the call of the network"
    else:
        for one, other in zip(before.conditions, now.conditions, strict=True):
            yield from (key for key in one.keys() | other.keys() if not _same(one.get(key), other.get(key)))


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if (one.shape, one.dtype, one.stride()) != (other.shape, other.dtype, other.stride()):
            return False
        return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
