"""Recorded paths of sampling, made by a plan's equations as they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastsolve import Denoiser, Plan
from fastsolve.ops import Eval
from fastsolve.transitions import path


def walk(
    denoiser: Denoiser,
    plan: Plan,
    start: Tensor,
    draws: Sequence[Tensor],
    branches: Sequence[Mapping[str, object]] = ({},),
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The states of a path in the start's dtype and the model's outputs. branches: keyword arguments, one dict per raw output."""
    known, raws = {"x0": start, **{f"z{i}": z for i, z in enumerate(draws)}}, []
    for op in plan.ops:
        if isinstance(op, Eval):
            x = known[op.x]
            t = torch.full((len(x),), op.t, dtype=x.dtype)
            inputs = (op.scale * x).to(denoiser.dtype or x.dtype)
            raws.append([denoiser.model(inputs, t, **kwargs) for kwargs in branches])
            known[op.d] = op.a * x + sum(b * raw.to(x.dtype) for b, raw in zip(op.b, raws[-1], strict=True))
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}
    return [known[name] for name in path(plan).states], raws


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
