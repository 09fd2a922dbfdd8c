"""Exactly solvable problems: data laws whose denoiser is known in closed form, computed in float64.

Every state is x = alpha x0 + sigma eps with x of shape [B, *shape]. A problem gives E[x0 | x]; `model` makes of it what
a network trained on that data would answer, in any schedule's clock and any prediction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from fastsolve import schedules
from fastsolve.schedules import Node, Schedule


class Problem(ABC):
    """A law of the data."""

    @abstractmethod
    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x = alpha x0 + sigma eps], float64; alpha and sigma broadcast against x. alpha = 0 is allowed."""

    @abstractmethod
    def draw(self, n: int, seed: int = 0) -> Tensor:
        """n samples of the data, float64."""

    def x0(self, x: Tensor, s: float) -> Tensor:
        """E[x0 | x = x0 + s eps]."""
        return self.denoise(x, *_levels(x, [1.0], [s]))

    def model(self, schedule: str | Schedule, prediction: str = "x0", sigma_data: float = 0.5) -> Model:
        return Model(self, schedules.get(schedule), prediction, sigma_data)


class Model:
    """`model(x, t)`, t a [B] tensor of clock values, answering as `prediction` says. `calls` counts."""

    def __init__(self, problem: Problem, schedule: Schedule, prediction: str, sigma_data: float) -> None:
        self.problem, self.schedule, self.prediction, self.sigma_data = problem, schedule, prediction, sigma_data
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if t.shape != (len(x),):
            raise AssertionError(f"a model is given one clock value per sample, not {tuple(t.shape)} for {len(x)}")
        nodes = [self.schedule.node(value) for value in t.double().tolist()]
        state = x.double()
        alpha, sigma = _levels(state, [n.alpha for n in nodes], [n.sigma for n in nodes])
        return self._raw(state, alpha, sigma).to(x.dtype)

    def _raw(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        x0 = self.problem.denoise(x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        match self.prediction:
            case "x0":
                return x0
            case "eps":
                return eps
            case "v":
                return alpha * eps - sigma * x0
            case "flow":
                return eps - x0
            case "score":
                return -eps / sigma
            case "edm":
                # Karras et al. 2022, table 1: D = c_skip y + c_out F, y = x / alpha; multiplied out, for alpha = 0.
                d, power = self.sigma_data, sigma**2 + (alpha * self.sigma_data) ** 2
                return (x0 - alpha * d * d / power * x) * power.sqrt() / (sigma * d)
        raise ValueError(f"no prediction {self.prediction!r}")


def _levels(x: Tensor, alphas: list[float], sigmas: list[float]) -> tuple[Tensor, Tensor]:
    shape = (-1, *[1] * (x.dim() - 1))
    return tuple(torch.tensor(v, dtype=torch.float64, device=x.device).view(shape) for v in (alphas, sigmas))


class Mixture(Problem):
    """sum_k weights[k] N(means[k], stds[k]^2 I) over shape; means is [K, *shape]."""

    def __init__(self, means: np.ndarray, weights: np.ndarray, stds: np.ndarray) -> None:
        self.shape = means.shape[1:]
        self.means = torch.tensor(means, dtype=torch.float64).flatten(1)
        self.weights, self.stds = (torch.tensor(v, dtype=torch.float64) for v in (weights, stds))

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        means, weights, var = (v.to(x.device) for v in (self.means, self.weights, self.stds**2))
        alpha, sigma = alpha.flatten(1), sigma.flatten(1)
        spread = alpha**2 * var + sigma**2  # [B, K], variance of x within a component
        off = x.flatten(1)[:, None] - alpha[..., None] * means
        log_r = weights.log() - off.square().sum(-1) / (2 * spread) - 0.5 * means.shape[1] * spread.log()
        inside = means + (alpha * var / spread)[..., None] * off
        return (log_r.softmax(1)[..., None] * inside).sum(1).view_as(x)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[which] + self.stds[which, None] * z).view(n, *self.shape)


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


def golden_mixture() -> Mixture:
    """The law behind every golden trajectory: 5 components in 48 dimensions, standard deviation 0.42 per dimension.

    The golden files were made with these very numbers, drawn in this order: another order is another law.
    """
    rng = np.random.default_rng(20261121)
    means = 0.5 * rng.standard_normal((5, 48))
    weights = rng.dirichlet(np.ones(5))
    stds = 0.05 + 0.2 * rng.random(5)
    return Mixture(means.reshape(5, 3, 4, 4), weights, stds)


def plane_mixture() -> Mixture:
    """Three components in the plane, close enough to interact at middle noise levels: smooth and nonlinear."""
    means = np.array([[-1.0, 0.2], [0.6, 0.9], [0.5, -0.8]])
    return Mixture(means, np.array([0.3, 0.45, 0.25]), np.array([0.25, 0.35, 0.3]))


def line_mixture() -> Mixture:
    """Two components on the line, whose distribution function is known in closed form (`line_cdf`)."""
    return Mixture(np.array([[-0.8], [0.5]]), np.array([0.4, 0.6]), np.array([0.15, 0.25]))


def line_cdf(x: float) -> float:
    """Distribution function of `line_mixture`."""
    law = line_mixture()
    parts = zip(law.weights.tolist(), law.means[:, 0].tolist(), law.stds.tolist(), strict=True)
    return sum(w * 0.5 * math.erfc((m - x) / (s * math.sqrt(2.0))) for w, m, s in parts)
