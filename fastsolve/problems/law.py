"""Exactly solvable problems: data laws whose denoiser is known in closed form, computed in float64.

Every state is x = alpha x0 + sigma eps with x of shape [B, *shape]. A problem gives E[x0 | x]; `model` makes of it what
a network trained on that data would answer, in any schedule's clock and any prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fastsolve import schedules
from fastsolve.denoiser import Denoiser
from fastsolve.schedules import Schedule


class Problem(ABC):
    """A law of the data. shape: of one sample."""

    shape: tuple[int, ...]

    @abstractmethod
    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x = alpha x0 + sigma eps], float64; alpha and sigma broadcast against x. alpha = 0 is allowed."""

    @abstractmethod
    def draw(self, n: int, seed: int = 0) -> Tensor:
        """n samples of the data, float64 [n, *shape]."""

    def x0(self, x: Tensor, s: float) -> Tensor:
        """E[x0 | x = x0 + s eps]."""
        return self.denoise(x, *levels(x, [1.0], [s]))

    def model(self, schedule: str | Schedule, prediction: str = "x0", sigma_data: float = 0.5) -> Model:
        """The perfectly trained network, `model(x, t)`, float64 inside whatever the dtype of x."""
        return Model(self, schedules.get(schedule), prediction, sigma_data)

    def denoiser(self, schedule: str | Schedule = "edm", prediction: str = "x0") -> Denoiser:
        """`model` with all that sampling needs; its dtype is the state's."""
        law = schedules.get(schedule)
        model = self.model(law, prediction, getattr(law, "sigma_data", 0.5))
        return Denoiser(model, law, prediction, shape=self.shape)


class Model:
    """`model(x, t)`, t a [B] tensor of clock values, answering as `prediction` says. `calls` counts."""

    def __init__(self, problem: Problem, schedule: Schedule, prediction: str, sigma_data: float) -> None:
        self.problem, self.schedule, self.prediction, self.sigma_data = problem, schedule, prediction, sigma_data
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if t.shape != (len(x),):
            raise AssertionError(f"a model is given one clock value per sample, not {tuple(t.shape)} for {len(x)}")
        values = t.double().tolist()
        known = {value: self.schedule.node(value) for value in set(values)}
        state = x.double()
        alpha, sigma = levels(state, [known[v].alpha for v in values], [known[v].sigma for v in values])
        return self._raw(state, alpha, sigma).to(x.dtype)

    def _raw(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Spelled out, and not taken from `predictions`: two ways to say it check each other."""
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


def levels(x: Tensor, alphas: list[float], sigmas: list[float]) -> tuple[Tensor, Tensor]:
    """alpha and sigma of each sample, or one of all, in the shape and on the device that go with x."""
    shape = (-1, *[1] * (x.dim() - 1))
    alpha, sigma = (torch.tensor(v, dtype=torch.float64, device=x.device).view(shape) for v in (alphas, sigmas))
    return alpha, sigma
