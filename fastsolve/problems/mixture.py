"""Mixtures of Gaussians: several modes, smooth and nonlinear, with an exact denoiser."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.problems.law import Problem

Array = npt.NDArray[np.float64]


class Mixture(Problem):
    """sum_k weights[k] N(means[k], stds[k]^2 I) over shape; means is [K, *shape]."""

    def __init__(self, means: Array, weights: Array, stds: Array) -> None:
        self.shape = means.shape[1:]
        self.means = torch.tensor(means, dtype=torch.float64).flatten(1)
        self.weights, self.stds = (torch.tensor(v, dtype=torch.float64) for v in (weights, stds))

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        means, weights, var = (v.to(x.device) for v in (self.means, self.weights, self.stds**2))
        flat, alpha, sigma = x.flatten(1), alpha.flatten(1), sigma.flatten(1)
        spread = alpha**2 * var + sigma**2  # [B, K], variance of x within a component
        # |x - alpha m|^2 and the sum over components as products of matrices: no tensor is larger than [B, K] or x.
        off = flat.square().sum(1, keepdim=True) - 2.0 * alpha * (flat @ means.T) + alpha**2 * means.square().sum(1)
        log_r = weights.log() - off / (2 * spread) - 0.5 * means.shape[1] * spread.log()
        share, gain = log_r.softmax(1), alpha * var / spread
        inside = (share * (1.0 - alpha * gain)) @ means + (share * gain).sum(1, keepdim=True) * flat
        return inside.view_as(x)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[which] + self.stds[which, None] * z).view(n, *self.shape)


def golden_mixture() -> Mixture:
    """The law of this project's golden files and experiments: 5 components in 48 dimensions, standard deviation 0.42 per dimension.

    The golden files were made with these very numbers, drawn in this order: another order is another law.
    """
    rng = np.random.default_rng(20261121)
    means = 0.5 * rng.standard_normal((5, 48))
    weights = rng.dirichlet(np.ones(5))
    stds = 0.05 + 0.2 * rng.random(5)
    return Mixture(means.reshape(5, 3, 4, 4), weights, stds)
