"""Functions of data predictions that are no linear combination, as a plan's `Apply` calls them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastsolve.schedules import Node

Level = tuple[float, float, float]
Hook = Callable[[Tensor, Node], Tensor]


def rescale(
    x: Tensor, conditional: Tensor, unconditional: Tensor, level: Level, a: float, b: float, w: float, phi: float
) -> Tensor:
    """Guidance whose raw output has, by phi, the standard deviation of the conditional one, over all dimensions of a sample but the batch.

    Lin et al. 2023 (arXiv 2305.08891), equations 15 and 16; the data prediction a * x + b * raw is returned.
    """
    one, other = conditional.to(x.dtype), unconditional.to(x.dtype)
    guided = other + w * (one - other)
    ratio = _sizes(one, torch.std) / _sizes(guided, torch.std)
    return a * x + b * guided * (phi * ratio + (1.0 - phi))


def apg(
    x: Tensor,
    conditional: Tensor,
    unconditional: Tensor,
    level: Level,
    a: float,
    b: float,
    w: float,
    eta: float,
    threshold: float,
    momentum: float,
) -> Tensor:
    """Guidance along the part of the difference that is orthogonal to the conditional prediction, per sample, and eta of the rest.

    Sadat et al. 2024 (arXiv 2410.02416), algorithm 1, at its first call; predictions are a * x + b * raw.
    """
    one, other = conditional.to(x.dtype), unconditional.to(x.dtype)
    return _projected(a * x + b * one, b * (one - other), w, eta, threshold)


def apg_momentum(
    x: Tensor,
    conditional: Tensor,
    unconditional: Tensor,
    average: Tensor,
    level: Level,
    a: float,
    b: float,
    w: float,
    eta: float,
    threshold: float,
    momentum: float,
) -> Tensor:
    """The same at a later call, where the difference has momentum times the running sum of those before."""
    one, other = conditional.to(x.dtype), unconditional.to(x.dtype)
    return _projected(a * x + b * one, b * (one - other) + momentum * average, w, eta, threshold)


def _projected(conditional: Tensor, difference: Tensor, w: float, eta: float, threshold: float) -> Tensor:
    if threshold:
        difference = difference * (threshold / _sizes(difference, torch.linalg.vector_norm)).clamp(max=1.0)
    unit = conditional / _sizes(conditional, torch.linalg.vector_norm).clamp(min=1e-12)  # 0 has no direction
    parallel = _sizes(difference * unit, torch.sum) * unit
    return conditional + (w - 1.0) * (difference - (1.0 - eta) * parallel)


def _sizes(x: Tensor, size: Callable[..., Tensor]) -> Tensor:
    """A number for each sample, [B, 1, ...]."""
    return size(x.reshape(len(x), -1), dim=1).reshape(-1, *[1] * (x.dim() - 1))  # also where a sample is one number


# By the names that plans have for them: differentiable, on any device, in any dtype.
PLAIN: dict[str, Callable[..., Tensor]] = {"rescale": rescale, "apg": apg, "apg_momentum": apg_momentum}


def _rescale_launched(x: Tensor, conditional: Tensor, unconditional: Tensor, level: Level, *numbers: float) -> Tensor:
    from fastsolve.kernels import norms

    if norms.fits(x):
        return norms.rescale(x, conditional, unconditional, *numbers)
    return rescale(x, conditional, unconditional, level, *numbers)


def _apg_launched(x: Tensor, conditional: Tensor, unconditional: Tensor, level: Level, *numbers: float) -> Tensor:
    from fastsolve.kernels import norms

    if norms.fits(x):
        return norms.project(x, conditional, unconditional, None, *numbers)
    return apg(x, conditional, unconditional, level, *numbers)


def _apg_momentum_launched(
    x: Tensor, conditional: Tensor, unconditional: Tensor, average: Tensor, level: Level, *numbers: float
) -> Tensor:
    from fastsolve.kernels import norms

    if norms.fits(x):
        return norms.project(x, conditional, unconditional, average, *numbers)
    return apg_momentum(x, conditional, unconditional, average, level, *numbers)


# The same in one launch each, by Triton: for float32 states, without gradients, and plain for samples that are too large for it.
LAUNCHED: dict[str, Callable[..., Tensor]] = {
    "rescale": _rescale_launched,
    "apg": _apg_launched,
    "apg_momentum": _apg_momentum_launched,
}


def hooked(hook: Hook) -> Callable[..., Tensor]:
    """The caller's function of (x0, node) as a plan calls it."""

    def function(x0: Tensor, level: Level) -> Tensor:
        t, alpha, sigma = level
        return hook(x0, Node(t, alpha, sigma, math.log(alpha / sigma) if alpha > 0.0 else -math.inf))

    return function


def dynamic_threshold(quantile: float = 0.995, largest: float = math.inf) -> Hook:
    """A hook that cuts each sample at the quantile of its own sizes and divides by it, where that is above 1; at most `largest`.

    Saharia et al. 2022 (arXiv 2205.11487), section 2.3: for data in [-1, 1]. Raises ValueError for a quantile outside (0, 1].
    """
    if not 0.0 < quantile <= 1.0 or not largest >= 1.0:
        raise ValueError(f"a quantile must be in (0, 1] and the largest cut at least 1, not {quantile} and {largest}")

    def threshold(x0: Tensor, node: Node) -> Tensor:
        sizes = x0.abs().reshape(len(x0), -1)
        # torch.quantile refuses more than 16 million elements; a sort does not, and gives the same, linearly interpolated.
        place = quantile * (sizes.shape[1] - 1)
        low, high = (sizes.kthvalue(1 + k, dim=1).values for k in (math.floor(place), math.ceil(place)))
        cut = torch.lerp(low, high, place - math.floor(place)).clamp(1.0, largest)
        cut = cut.reshape(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-cut, cut) / cut

    return threshold
