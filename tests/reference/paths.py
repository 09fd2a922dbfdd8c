"""Gaussian paths x = alpha x0 + sigma eps, each as three functions: alpha(t), sigma(t), and the clock of a level rho = sigma / alpha."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Model = Callable[[np.ndarray, float], np.ndarray]  # (state, clock value) -> data prediction


class Path(NamedTuple):
    alpha: Callable[[float], float]
    sigma: Callable[[float], float]
    clock: Callable[[float], float]

    def rho(self, t: float) -> float:
        return self.sigma(t) / self.alpha(t) if self.alpha(t) else np.inf

    def lam(self, t: float) -> float:
        return -np.log(self.rho(t))


VE = Path(lambda t: 1.0, lambda t: t, lambda rho: rho)

FLOW = Path(lambda t: 1.0 - t, lambda t: t, lambda rho: rho / (1.0 + rho))


def _linear(b: float) -> float:
    """The time at which B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 is b: the root in its stable form."""
    return 2.0 * b / (0.1 + np.sqrt(0.1**2 + 2.0 * 19.9 * b))


def _b(t: float) -> float:
    return 0.1 * t + 0.5 * 19.9 * t * t


VP = Path(
    lambda t: np.exp(-0.5 * _b(t)),
    lambda t: np.sqrt(-np.expm1(-_b(t))),
    lambda rho: _linear(np.log1p(rho * rho)),
)

SUB_VP = Path(
    lambda t: np.exp(-0.5 * _b(t)), lambda t: -np.expm1(-_b(t)), lambda rho: _linear(2.0 * np.arcsinh(0.5 * rho))
)


def _cos2(t: float) -> float:
    return (np.cos(0.5 * np.pi * (t + 0.008) / 1.008) / np.cos(0.5 * np.pi * 0.008 / 1.008)) ** 2


COSINE = Path(
    lambda t: np.sqrt(_cos2(t)),
    lambda t: np.sqrt(1.0 - _cos2(t)),
    lambda rho: (
        np.arccos(np.cos(0.5 * np.pi * 0.008 / 1.008) / np.sqrt(1.0 + rho * rho)) * 1.008 / (0.5 * np.pi) - 0.008
    ),
)

PATHS = {"ve": VE, "edm": VE, "flow": FLOW, "vp": VP, "sub_vp": SUB_VP, "vp_cosine": COSINE}
