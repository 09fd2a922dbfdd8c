"""The sampler that is searched for, as a differentiable function of its numbers, and the problem that it is trained on.

All in y = x / alpha and s = sigma / alpha, in which every schedule is the same: a step from level s to t takes the state to
(t / s) y + (1 - t / s) sum_j w_j D_j, with the last data predictions D_j and weights that add up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fastsolve.problems import Mixture

Numbers = dict[str, float]
Denoise = Callable[[Tensor, Tensor], Tensor]  # of y [B, k] at level s

MEMORY = 3  # data predictions in a step
TOP = 80.0  # where training starts: EDM's
LOW = 1e-3  # where its exact ends are taken: far below the narrowest component


def training_mixture() -> Mixture:
    """24 Gaussians in 32 dimensions: centres spread over a decade of scales, widths from 0.03 to 0.6; root mean square 0.6."""
    rng = np.random.default_rng(0)
    axes = np.logspace(0.0, -1.0, 32)
    axes *= 0.6 / np.sqrt((axes**2).mean())
    means = axes * rng.standard_normal((24, 32))
    weights = rng.dirichlet(2.0 * np.ones(24))
    return Mixture(means, weights, 0.6 * 0.05 ** rng.random(24))


def denoiser_of(law: Mixture) -> Denoise:
    """E[x0 | y] at level s, in products of matrices; differentiable by both."""
    means, squares, log_weights, variances = law.means, law.means.square().sum(1), law.weights.log(), law.stds**2

    def denoise(y: Tensor, s: Tensor) -> Tensor:
        spread = variances + s * s
        off = y.square().sum(1, keepdim=True) - 2.0 * y @ means.T + squares
        r = (log_weights - off / (2.0 * spread) - 0.5 * means.shape[1] * spread.log()).softmax(1)
        gain = variances / spread
        return (r * (1.0 - gain)) @ means + (r @ gain)[:, None] * y

    return denoise


def exact_ends(denoise: Denoise, noise: Tensor, steps: int = 300) -> Tensor:
    """Ends of the paths from TOP times the noise: Runge and Kutta of order 4 in log s, right to 1e-7."""
    grid = torch.linspace(math.log(TOP), math.log(LOW), steps + 1, dtype=torch.float64)
    y = TOP * noise

    def slope(log_s: Tensor, y: Tensor) -> Tensor:
        return y - denoise(y, log_s.exp())

    for a, b in pairwise(grid):
        h = b - a
        k1 = slope(a, y)
        k2 = slope(a + h / 2, y + h / 2 * k1)
        k3 = slope(a + h / 2, y + h / 2 * k2)
        k4 = slope(b, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return denoise(y, grid[-1].exp())


def log_distance(end: Tensor, exact: Tensor) -> Tensor:
    """Logarithm of the distance of each path from its own exact end, root mean square over elements, [B]."""
    return (end - exact).flatten(1).square().mean(1).clamp(min=1e-30).log() / 2.0


def walk(denoise: Denoise, noise: Tensor, levels: Tensor, weights: Sequence[Tensor], scale: Tensor) -> Tensor:
    """The end of a sampler that calls at `levels` [N] and starts from TOP times the noise; weights[i] of step i, newest first.

    The first call is made at levels[0], below TOP, of the start shrunk as data N(0, scale^2) would shrink it.
    """
    y, past = TOP * noise, list[Tensor]()
    ahead = ((scale**2 + levels[0] ** 2) / (scale**2 + TOP**2)).sqrt()
    here = levels.new_tensor(TOP)
    for i, w in enumerate(weights):
        past = [denoise(y if i else ahead * y, levels[i]), *past][:MEMORY]
        below = levels[i + 1] if i + 1 < len(levels) else levels.new_tensor(0.0)
        mean = sum((c * d for c, d in zip(w, past, strict=False)), start=torch.zeros_like(y))
        y = (below / here) * y + (1.0 - below / here) * mean
        here = below
    return y


# A few numbers for all N.


def few_levels(numbers: Mapping[str, Tensor], calls: int) -> Tensor:
    """Call levels a (1 - u)^p / u^q at even u; the first is above the second by `reach` times the step of log s from it to the third."""
    u = (torch.arange(calls, dtype=torch.float64) + numbers["before"]) / (
        calls - 1 + numbers["before"] + numbers["after"]
    )
    s = numbers["a"] * (1.0 - u) ** numbers["p"] / u ** numbers["q"]
    return torch.cat([(s[1] * (s[1] / s[2]) ** numbers["reach"])[None], s[1:]])


def few_weights(numbers: Mapping[str, Tensor], levels: Tensor) -> list[Tensor]:
    """Weights of interpolation in log(s + c): through two points, or half way between two and three."""
    found = [torch.ones(1, dtype=torch.float64)]
    x, w = (torch.tensor(v, dtype=torch.float64) for v in np.polynomial.legendre.leggauss(16))
    position = (levels + numbers["c"]).log()
    for i in range(1, len(levels)):
        if i + 1 < len(levels):
            above, below = -levels[i].log(), -levels[i + 1].log()
            lam = (above + below) / 2.0 + (below - above) / 2.0 * x
            share = w * (lam - below).exp()
            share, where = share / share.sum(), ((-lam).exp() + numbers["c"]).log()
        else:
            share, where = torch.ones(1, dtype=torch.float64), numbers["c"].log()[None]
        points = [position[i - j] for j in range(min(i + 1, MEMORY))]
        two, every = ((_lagrange(points[:k], where) @ share) for k in (2, len(points)))
        found.append((torch.cat([two, two.new_zeros(len(every) - 2)]) + every) / 2.0)
    return found


def _lagrange(points: Sequence[Tensor], at: Tensor) -> Tensor:
    """[points, at]"""
    rows = []
    for j, p in enumerate(points):
        value = torch.ones_like(at)
        for m, q in enumerate(points):
            if m != j:
                value = value * (at - q) / (p - q)
        rows.append(value)
    return torch.stack(rows)


# A table for each N.


def table_levels(parameters: Mapping[str, Tensor]) -> Tensor:
    """From the logarithms of the first level and of the steps of log s."""
    steps = torch.cat([parameters["levels"].new_zeros(1), parameters["levels"][1:].exp().cumsum(0)])
    return (parameters["levels"][0] - steps).exp()


def table_weights(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Free but for their sum: the newest prediction takes what the others leave of 1."""
    free, found, used = parameters["weights"], [torch.ones(1, dtype=torch.float64)], 0
    for i in range(1, len(parameters["levels"])):
        count = min(i, MEMORY - 1)
        others = free[used : used + count]
        found.append(torch.cat([(1.0 - others.sum())[None], others]))
        used += count
    return found


def table_of(levels: Tensor, weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """The parameters of a table that is this sampler."""
    logs = levels.log()
    return {
        "levels": torch.cat([logs[:1], (logs[:-1] - logs[1:]).log()]),
        "weights": torch.cat([w[1:] for w in weights]),
    }
