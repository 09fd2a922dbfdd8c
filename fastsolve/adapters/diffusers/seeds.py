"""Seeds of a run from what pipelines hand to a scheduler: a torch.Generator, a list of them, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsolve.arguments import Seed

Generators = torch.Generator | Sequence[torch.Generator] | None


def seed_of(generator: Generators, batch: int) -> Seed:
    """One seed for each sample, from its generator, the one that all have, or torch's own."""
    if isinstance(generator, torch.Generator):
        return generator
    if generator is None:
        return torch.randint(-(2**63), 2**63 - 1, (batch,), dtype=torch.int64)
    given = list(generator)
    if len(given) == 1:
        return given[0]
    if len(given) != batch:
        raise ValueError(f"{len(given)} generators are given for {batch} samples: give one, or one for each")
    return torch.cat([_drawn(one) for one in given])


def _drawn(generator: torch.Generator) -> Tensor:
    drawn = torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator, device=generator.device, dtype=torch.int64)
    return drawn.cpu()
