"""The rule for DDIM's steps that the authors of RBE released, reproduced exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fastsolve.calibrate.field import Field, field_of, noise
from fastsolve.denoiser import Denoiser
from fastsolve.grids import Explicit
from fastsolve.schedules import Node, Schedule, VPTable


def rbe_released(
    denoiser: Denoiser,
    steps: int,
    shape: Sequence[int] | None = None,
    *,
    samples: int = 64,
    base: int = 100,
    thres: float | None = None,
    seed: int = 0,
    guidance: float | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Explicit:
    """The schedule that the released code of RBE learns for DDIM (Gao et al. 2023, arXiv 2304.11446), for fidelity to it.

    Every sample steps from alpha-bar a to a + sqrt(thres / |grad |f|^2|), f the DDIM velocity in alpha-bar, snapped to one of `base`
    levels; the index lists of those that took exactly `steps` calls are averaged and rounded. thres: by default searched for, so
    that the mean is near `steps`. The paper's text was not available to us, only its code. It is not what the analysis behind `rbe`
    finds best: alpha-bar is not DDIM's own variable.
    """
    field = field_of(denoiser, model_kwargs, guidance)
    if not 1 <= steps <= base:
        raise ValueError(f"steps must be between 1 and the {base} base levels, not {steps}")
    nodes = released_base(field.schedule, base)
    z = noise(denoiser, shape, samples, seed, dtype)
    if thres is None:
        low, high = -9.0, 3.0  # log(thres / sqrt(d)); the number of calls falls with it
        for _ in range(12):
            middle = 0.5 * (low + high)
            lists, _ = released_lists(field, nodes, math.exp(middle) * math.sqrt(z[0].numel()), z, 4 * steps + 8)
            calls = sum(map(len, lists)) / len(lists)
            low, high = (middle, high) if calls > steps else (low, middle)
        thres = math.exp(0.5 * (low + high)) * math.sqrt(z[0].numel())
    lists, _ = released_lists(field, nodes, thres, z)
    kept = [visited for visited in lists if len(visited) == steps]
    if not kept:
        counts = ", ".join(f"{calls} calls: {n}" for calls, n in sorted(Counter(map(len, lists)).items()))
        raise ValueError(
            f"no sample took {steps} calls at thres {thres:.3g} ({counts}): give more samples or another thres"
        )
    mean = [round(sum(column) / len(kept)) for column in zip(*kept, strict=True)]
    if any(a <= b for a, b in pairwise(mean)):
        raise ValueError(f"{steps} steps repeat levels of a base of {base}: give a larger base")
    return Explicit((*(nodes[k].t for k in mean), field.schedule.t_clean))


def released_base(schedule: Schedule, count: int) -> tuple[Node, ...]:
    """`count` levels from clean to noisy: even indices of a table, rounded, or even clock values."""
    first, last = schedule.t_min, schedule.t_max
    clocks = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
    if isinstance(schedule, VPTable):
        clocks = [float(round(t)) for t in clocks]
        if len(set(clocks)) < count:
            raise ValueError(f"a base of {count} levels does not fit a table of {len(schedule.alphas_cumprod)}")
    nodes = tuple(schedule.node(t) for t in clocks)
    if nodes[-1].alpha == 0.0:
        raise ValueError(f"the released rule divides by alpha, which is 0 where {schedule.name!r} starts")
    return nodes


def released_lists(
    field: Field, nodes: Sequence[Node], thres: float, z: Tensor, limit: int | None = None
) -> tuple[list[list[int]], Tensor]:
    """The indices of `nodes` at which each sample of unit noise z called the model, and where it ended.

    Works in variance-preserving coordinates, x / sqrt(alpha^2 + sigma^2). limit: give up on a batch after so many calls.
    """
    if not 0.0 < thres < math.inf:
        raise ValueError(f"thres must be positive and finite, not {thres}")
    bars = [node.alpha**2 / (node.alpha**2 + node.sigma**2) for node in nodes]
    x, k = z.clone(), [len(nodes) - 1] * len(z)
    lists: list[list[int]] = [[] for _ in k]
    for _ in range(limit or len(nodes)):
        if max(k) < 0:
            break
        at = [max(i, 0) for i in k]
        a, near = [bars[i] for i in at], [bars[i - 1] if i else 1.0 for i in at]
        with torch.enable_grad():
            inside = x.detach().requires_grad_()
            eps = _eps(field, inside, [nodes[i] for i in at])
            velocity = (_ddim(inside, eps, a, near) - inside) / _columns(
                [q - p for p, q in zip(a, near, strict=True)], x
            )
            slope = torch.autograd.grad(velocity.square().sum(), inside)[0].flatten(1).norm(dim=1).tolist()
        chosen = []
        for sample, i in enumerate(k):
            if i >= 0:
                lists[sample].append(i)
            reach = math.sqrt(thres / slope[sample]) if slope[sample] > 0.0 else math.inf
            chosen.append(-1 if i < 0 else _snapped(bars, i, reach))
        moved = _ddim(x, eps.detach(), a, [bars[i] if i >= 0 else 1.0 for i in chosen])
        x = torch.where(_columns([float(i >= 0) for i in k], x) > 0.0, moved, x)
        k = chosen
    return lists, x


def _snapped(bars: Sequence[float], i: int, reach: float) -> int:
    """The least noisy level that the step does not overshoot, one on at least; -1 is clean data."""
    if i == 0 or reach >= 1.0 - bars[i]:
        return -1
    return min(next(j for j, bar in enumerate(bars) if bar <= bars[i] + reach), i - 1)


def _columns(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.dim() - 1))


def _eps(field: Field, x: Tensor, nodes: Sequence[Node]) -> Tensor:
    scale = _columns([math.hypot(node.alpha, node.sigma) for node in nodes], x)
    alpha, sigma = (_columns([getattr(node, part) for node in nodes], x) for part in ("alpha", "sigma"))
    return (scale * x - alpha * field.x0(scale * x, nodes)) / sigma


def _ddim(x: Tensor, eps: Tensor, a: Sequence[float], to: Sequence[float]) -> Tensor:
    ratio = [math.sqrt(q / p) for p, q in zip(a, to, strict=True)]
    shift = [math.sqrt(1.0 - q) - r * math.sqrt(1.0 - p) for p, q, r in zip(a, to, ratio, strict=True)]
    return _columns(ratio, x) * x + _columns(shift, x) * eps
