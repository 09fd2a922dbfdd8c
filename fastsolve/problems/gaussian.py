"""Gaussian data, of which everything is known: the denoiser is affine and the flow a scaling."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsolve.problems.law import Problem
from fastsolve.schedules import Node


class Gaussian(Problem):
    """N(mean, std^2) in every element (or element by element, where mean and std are tensors of the sample's shape).

    The denoiser is affine, so every sampler's mean and variance follow exactly, and the probability flow is a scaling.
    """

    def __init__(self, mean: float | Tensor = 0.7, std: float | Tensor = 0.35, shape: tuple[int, ...] = (1,)) -> None:
        self.shape = shape
        self.mean, self.std = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, std))

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        mean, var = self.mean.to(x.device), self.std.to(x.device) ** 2
        return mean + alpha * var / (alpha**2 * var + sigma**2) * (x - alpha * mean)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        z = torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.mean + self.std * z

    def marginal(self, node: Node) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the state at a node."""
        return node.alpha * self.mean, (node.alpha**2 * self.std**2 + node.sigma**2).sqrt()

    def flow(self, x: Tensor, s: Node, t: Node) -> Tensor:
        """The probability-flow ODE's exact solution at t, started at x at s."""
        (mean_s, std_s), (mean_t, std_t) = self.marginal(s), self.marginal(t)
        return mean_t + std_t / std_s * (x - mean_s)
