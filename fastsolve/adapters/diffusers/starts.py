"""Where a run starts: a pipeline's latents as a solver's state, and seeds for its own noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsolve.plan import Plan


def seeds(generator: Any, batch: int) -> list[int]:
    """A seed for each sample: of its generator where there is a list of them, of the one, or of torch's own."""
    several = generator if isinstance(generator, list) and len(generator) > 1 else None
    one = generator[0] if isinstance(generator, list) and generator else generator
    drawn = []
    for i in range(batch):
        source = one if several is None else several[i]
        device = "cpu" if source is None else source.device
        drawn.append(int(torch.randint(-(2**63), 2**63 - 1, (), generator=source, device=device)))
    return drawn


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
