"""What one turn of a pipeline's loop shows: what its network is given, and how its outputs are combined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsolve.adapters.diffusers.law import Law
from fastsolve.adapters.diffusers.network import BESIDE, Call, Habits, leading
from fastsolve.controls import Guidance


class UnlikeError(ValueError):
    """A loop that no `Sampler` can run."""


class Turn(NamedTuple):
    """A turn of the loop. made: what the scheduler was given. share: of the scheduler's time that the network is told. conditions: of
    the conditional branch, and of the other one where there is guidance; of a call for both, in the place of the latter.
    """

    calls: Sequence[Call]
    made: Tensor
    habits: Habits
    share: float
    guidance: Guidance | None
    conditions: list[dict[str, object]]


def seen(
    calls: Sequence[Call], made: Tensor, time: float, latents: Tensor, law: Law, guidances: list[Guidance]
) -> Turn:
    """What the first turn shows: the calls of the network, and what the scheduler was then given as its output at `time`.

    guidances: those that the pipeline's arguments may mean. Raises UnlikeError for what is none of ours.
    """
    if not calls:
        raise UnlikeError("it does not call its `unet` or `transformer` in every step")
    if any(call.net is not calls[0].net for call in calls):
        raise UnlikeError("it calls several networks in a step")
    batch = len(latents)
    if not all(isinstance(call.x, Tensor) and call.x.dim() and len(call.x) % batch == 0 for call in calls):
        raise UnlikeError(f"its network is called on something else than {batch} latents")
    if made.shape != latents.shape:
        raise UnlikeError(f"its scheduler is given {list(made.shape)} for latents of {list(latents.shape)}")
    outs = [half for call in calls for half in leading(call.out, latents.shape[1:]).chunk(len(call.x) // batch)]
    if len(outs) > 2:
        raise UnlikeError(
            f"it asks its network {len(outs)} times for each sample in a step, which is no guidance of ours"
        )
    guidance, order = _combined(outs, made, guidances)
    doubled = len(calls) < len(outs)
    if doubled and guidance is not None and guidance.scale == 1.0:
        raise UnlikeError("it asks its network without condition, too, and its guidance of scale 1 has no use for that")
    share, tokens = _clock(calls[0], time, law.train_steps)
    along = _along(calls[0].x, latents)
    unit = law.train_steps if law.told.startswith("flow") else 1.0
    habits = Habits(calls[0].name, law.told, share * unit, tokens, along, doubled, doubled and order == [1, 0])
    given = [_conditions(call, latents, along) for call in calls]
    turn = Turn(calls, made, habits, share, guidance, [{}, *given] if doubled else [given[i] for i in order])
    check(turn, calls, made, time, latents)
    return turn


def check(first: Turn, calls: Sequence[Call], made: Tensor, time: float, latents: Tensor) -> None:
    """Raises UnlikeError where a turn differs from the first one in more than the time and the latents; outputs are the same."""
    if [call.net for call in calls] != [call.net for call in first.calls]:
        raise UnlikeError("which networks it calls changes from step to step")
    for one, call in zip(first.calls, calls, strict=True):
        for key in one.arguments.keys() | call.arguments.keys():
            if key not in (call.name, "timestep") and not _same(one.arguments.get(key), call.arguments.get(key)):
                raise UnlikeError(f"{key} of its network changes from step to step (as what a ControlNet adds does)")
        told, expected = _told(call), first.share * time
        if abs(told - expected) > 4.0 * call.eps * abs(expected):
            raise UnlikeError(
                f"its network is told {told:g} at the scheduler's time {time:g}, and in its first step {first.share:g} times that"
            )
        if not _holds(call.x, latents, first.habits.along):
            raise UnlikeError("the input of its network is not the latents, as they are or with others beside them")
        if first.habits.along and not _same(*(_beside(c.x, latents, first.habits.along) for c in (one, call))):
            raise UnlikeError("what is beside the latents changes from step to step")
    if not _same(made, first.made):
        raise UnlikeError("its guidance changes from step to step")


def _conditions(call: Call, latents: Tensor, along: int) -> dict[str, object]:
    """What a call is given beside the latents and the time."""
    found = {key: value for key, value in call.arguments.items() if key not in (call.name, "timestep")}
    return {**found, BESIDE: _beside(call.x, latents, along)} if along else found


def _along(x: Tensor, latents: Tensor) -> int:
    """The dimension in which the input is wider than the latents, 0 for none."""
    if x.dim() != latents.dim():
        return 0  # and `check` says so
    return next((dim for dim in range(1, x.dim()) if x.shape[dim] > latents.shape[dim]), 0)


def _holds(x: Tensor, latents: Tensor, along: int) -> bool:
    """Whether the input is the latents, once for each of its branches, with others beside them or not."""
    if x.dim() != latents.dim() or len(x) % len(latents) or x.shape[along] < latents.shape[along]:
        return False
    head = x.narrow(along, 0, latents.shape[along]) if along else x
    parts = head.reshape(-1, *latents.shape) if head.shape[1:] == latents.shape[1:] else head.new_empty(0)
    return bool(parts.numel()) and bool((parts == latents.to(x.dtype)).all())


def _beside(x: Tensor, latents: Tensor, along: int) -> Tensor:
    return x.narrow(along, latents.shape[along], x.shape[along] - latents.shape[along])


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


def _clock(call: Call, time: float, train_steps: int) -> tuple[float, tuple[int, ...]]:
    """The share of the scheduler's time that the network is told, and the shape of the times of one sample."""
    told = call.arguments.get("timestep")
    if not isinstance(told, Tensor) or not told.is_floating_point() or bool((told != told.reshape(-1)[0]).any()):
        raise UnlikeError("its network is not told one time, in floating point, as `timestep`")
    for share in (1.0, 1.0 / train_steps):
        if abs(_told(call) - share * time) <= 4.0 * call.eps * abs(share * time):
            return share, tuple(told.shape[1:]) if told.dim() > 1 and len(told) == len(call.x) else ()
    raise UnlikeError(f"its network is told {_told(call):g} at the scheduler's time {time:g}, which is no share of it")


def _told(call: Call) -> float:
    told = call.arguments.get("timestep")
    return float(told.reshape(-1)[0]) if isinstance(told, Tensor) else math.nan


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
