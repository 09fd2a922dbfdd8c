"""GITS: what DDIM would lose by jumping between the levels of a finely stepped trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from fastsolve.calibrate.field import Field, field_of, lam_range, noise
from fastsolve.denoiser import Denoiser
from fastsolve.grids import GITSPilot
from fastsolve.schedules import Node

_RHO = 7.0  # the published teacher's levels
# Adams-Bashforth of orders 1 to 4, newest slope first, on uneven steps as if they were even: iPNDM.
_ADAMS = (
    (1.0,),
    (3.0 / 2.0, -1.0 / 2.0),
    (23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0),
    (55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0),
)


def gits(
    denoiser: Denoiser,
    shape: Sequence[int] | None = None,
    *,
    trajectories: int = 256,
    levels: int = 61,
    batch: int = 64,
    coeff: float = 1.15,
    sigma_max: float | None = None,
    seed: int = 0,
    guidance: float | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
    path: str | Path | None = None,
) -> GITSPilot:
    """Measure a model's trajectories, and return the grid that GITS finds on them by dynamic programming (arXiv 2405.11326).

    shape: of one sample, [*shape]; by default the Denoiser's. trajectories x (levels - 1) calls of the model for one sample each, `batch`
    at a time, followed by iPNDM on levels even in sigma^(1/7), as published. coeff: weight of what follows a jump; for Stable Diffusion
    1.2 was published. sigma_max: where a schedule that starts at alpha = 0 is entered (sigma / alpha). dtype: of the state. path: JSON
    file that keeps the result, read instead if it is there (ValueError if it was measured with another guidance).

    Use: `grid = gits(model); fastsolve.sample(model, solver="ddim", grid=grid, steps=6)`. Needs no gradients.
    """
    if path is not None and Path(path).exists():
        return replace(GITSPilot.load(path, guidance), coeff=coeff)
    field = field_of(denoiser, model_kwargs, guidance)
    if levels < 3 or batch < 1:
        raise ValueError(f"GITS needs at least 3 levels and a batch of 1, not {levels} and {batch}")
    law = field.schedule
    high, low = (math.exp(-lam / _RHO) for lam in lam_range(law, sigma_max))
    lams = [-_RHO * math.log(high + (low - high) * i / (levels - 1)) for i in range(levels)]
    nodes = [law.at_lam(lam) for lam in lams]
    z = noise(denoiser, shape, trajectories, seed, dtype) * (law.start_std(nodes[0]) / nodes[0].alpha)
    total = torch.zeros(levels, levels, dtype=torch.float64)
    for start in torch.split(z, batch):
        total += _costs(nodes, *_teacher(field, nodes, start))
    costs = [row[i + 1 :] for i, row in enumerate((total / trajectories).tolist()[:-1])]
    pilot = GITSPilot(tuple(lams), tuple(map(tuple, costs)), coeff)
    if path is not None:
        pilot.save(path, guidance)
    return pilot


def _rho(node: Node) -> float:
    return node.sigma / node.alpha


@torch.no_grad()
def _teacher(field: Field, nodes: Sequence[Node], y: Tensor) -> tuple[Tensor, Tensor]:
    """States y = x / alpha at all nodes and slopes dy/drho at all but the last, flattened: [level, sample, value]."""
    states, slopes = [y], []
    for node, to in pairwise(nodes):
        y = states[-1]
        slopes.append((y - field.x0(node.alpha * y, [node] * len(y))) / _rho(node))
        weights = _ADAMS[min(len(slopes), len(_ADAMS)) - 1]
        slope = sum(w * d for w, d in zip(weights, reversed(slopes), strict=False))
        states.append(y + (_rho(to) - _rho(node)) * slope)
    return torch.stack(states).flatten(2), torch.stack(slopes).flatten(2)


def _costs(nodes: Sequence[Node], states: Tensor, slopes: Tensor) -> Tensor:
    """[from, to], summed over samples: distance of DDIM's jump from the chord of the whole trajectory, less the teacher's own."""
    chord = torch.nn.functional.normalize(states[-1] - states[0], dim=-1)

    def distance(points: Tensor) -> Tensor:
        rest = points - states[-1]
        across: Tensor = rest - (rest * chord).sum(-1, keepdim=True) * chord
        length: Tensor = torch.linalg.vector_norm(across, dim=-1)
        return length.double().sum(1).cpu()

    own, size = distance(states), len(nodes)
    costs = torch.zeros(size, size, dtype=torch.float64)
    for i, node in enumerate(nodes[:-1]):
        reach = torch.tensor([_rho(to) - _rho(node) for to in nodes[i + 1 :]], dtype=states.dtype)
        jumps = states[i] + reach.to(states.device).view(-1, 1, 1) * slopes[i]
        costs[i, i + 1 :] = distance(jumps) - own[i + 1 :]
    return costs
