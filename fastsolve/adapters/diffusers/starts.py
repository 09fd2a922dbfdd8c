"""Where a run starts: a pipeline's latents as a solver's state."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastsolve.plan import Plan


def state(plan: Plan, latents: Tensor, scale: float, draw: Callable[[], Tensor]) -> Tensor:
    """The start of a run in float32, [B, *shape] or, for a solver of N variables, [N, B, *shape].

    latents: [B, *shape]. The N variables are mixtures of N unit noises, one direction u of which the model sees first: along it lie the
    latents, divided by `scale`, the deviation that a pipeline gives them, and `draw` makes the others.
    """
    latents = latents.float()
    if not plan.variables:
        return latents
    names = ["x0", *(f"s{i}" for i in range(1, len(plan.variables)))]
    seen = plan.evals[0].x
    terms = next((dict(row.terms) for row in plan.rows() if row.out == seen), {seen: 1.0})
    u = [
        sum(terms.get(name, 0.0) * row[j] for name, row in zip(names, plan.variables, strict=True))
        for j in range(len(names))
    ]
    u = [c / math.hypot(*u) for c in u]
    drawn = [draw().float() for _ in u]
    along = latents / scale - sum(c * z for c, z in zip(u, drawn, strict=True))
    noises = [z + c * along for c, z in zip(u, drawn, strict=True)]
    return torch.stack([sum(c * z for c, z in zip(row, noises, strict=True)) for row in plan.variables])  # type: ignore[misc]
