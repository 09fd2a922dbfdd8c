"""Batches in which every sample has a budget of its own: samples of the same budget are one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastsolve import arguments

_NOT_WITH = ("callback", "noise", "x_init")
_BY_SAMPLE = ("x0_init", "model_kwargs", "negative_kwargs")
_BROADCAST = ("inpaint", "overwrite")


def asked_for(steps: object, nfe: object) -> str | None:
    """Which of the two is given sample by sample. Raises ValueError for what is no budget."""
    for name, value in (("steps", steps), ("nfe", nfe)):
        if isinstance(value, list | tuple):
            if steps is not None and nfe is not None:
                raise ValueError("give one of steps and nfe, not both")
            if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in value):
                raise ValueError(f"{name} must be an int of at least 1, or one for each sample, not {value!r}")
            return name
    return None


def sample(
    one: Callable[..., Tensor], name: str, null: Mapping[str, object] | None, asked: dict[str, object]
) -> Tensor:
    """The samples [B, *shape], by one call of `one` for each budget.

    one: takes `asked` with a single budget. name: "steps" or "nfe". null: keyword arguments of the unconditional call. Tensors of B
    samples among the arguments are divided, and a list of guidance scales; a sample is the same as in a batch of its own budget.
    Raises ValueError for what cannot be divided.
    """
    budgets, shape, guidance = asked[name], asked["shape"], asked.get("guidance")
    assert isinstance(budgets, list | tuple)
    batch = len(budgets)
    for other in _NOT_WITH:
        if asked.get(other) is not None:
            raise ValueError(f"{other} cannot go with {name} of each sample's own: call a Sampler for each budget")
    if not isinstance(shape, Sequence) or not shape or shape[0] != batch:
        raise ValueError(f"{name} has {batch} entries, one per sample: shape must be ({batch}, ...), not {shape}")
    seeds = [int(key) for key in arguments.keys(asked["seed"], batch)]  # type: ignore[arg-type]
    scales = arguments.one_per_sample("guidance", guidance, batch)
    if null is not None and guidance is not None:
        asked = {**asked, "negative_kwargs": {**null, **(asked.get("negative_kwargs") or {})}}  # type: ignore[dict-item]
    out: Tensor | None = None
    for budget in dict.fromkeys(budgets):
        places = [i for i, own in enumerate(budgets) if own == budget]
        part = {**asked, **{key: _part(asked.get(key), places, batch) for key in _BY_SAMPLE}}
        part |= {key: _part(_ranked(asked.get(key), len(shape)), places, batch) for key in _BROADCAST}
        part |= {"seed": [seeds[i] for i in places], "shape": (len(places), *shape[1:]), name: budget}
        if scales is not None:
            part["guidance"] = [scales[i] for i in places]
        made = one(**part)
        out = made.new_empty(batch, *made.shape[1:]) if out is None else out
        out[torch.tensor(places, device=out.device)] = made
    assert out is not None
    return out


def _ranked(pair: object, rank: int) -> object:
    """A mask and what goes with it, of a rank at which the first dimension is the batch: a mask of a sample may be as long."""
    if not isinstance(pair, list | tuple):
        return pair
    return tuple(p.reshape((1,) * (rank - p.dim()) + p.shape) if isinstance(p, Tensor) else p for p in pair)


def _part(value: object, places: list[int], batch: int) -> object:
    """What belongs to some of the samples."""
    if isinstance(value, Tensor):
        return value[torch.tensor(places, device=value.device)] if value.dim() and len(value) == batch else value
    if isinstance(value, Mapping):
        return {key: _part(v, places, batch) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_part(v, places, batch) for v in value)
    return value
