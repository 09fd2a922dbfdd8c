"""Restricting the backward error (Gao et al. 2023, arXiv 2304.11446): grids of equal backward error per step, in DDIM's own variable.

The paper's equations were not available; these are the equal-error grids derived for Gaussian data, on levels rho = sigma / alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def arctan_grid(steps: int, high: float, low: float, c: float = 1.0) -> np.ndarray:
    """The exact optimum of DDIM for data N(0, c^2): uniform in the angle arctan(rho / c)."""
    return c * np.tan(np.linspace(np.arctan(high / c), np.arctan(low / c), steps + 1))


def ddim_on_gaussian(x: np.ndarray, levels: Sequence[float], c: float) -> np.ndarray:
    """DDIM on VE with the exact denoiser of N(0, c^2), written out: each step shrinks x by (ab + c^2)/(a^2 + c^2)."""
    for a, b in pairwise(levels):
        D = c**2 / (a**2 + c**2) * x
        x = b / a * x + (1 - b / a) * D
    return x


def spectrum_grid(
    steps: int, high: float, low: float, stds: Sequence[float], *, order: int = 1, kappa: float = 0.5
) -> np.ndarray:
    """For data with these standard deviations along its axes and a solver of this order (1: DDIM, 2: DPM-Solver++(2M)).

    Density of steps in lambda: m^(1/(order+1)), m the rms over the axes of the local error times the gain (c/sqrt(c^2+rho^2))^kappa
    with which it reaches the end.
    """
    lam = np.linspace(-np.log(high), -np.log(low), 4000)
    s, c = np.exp(-lam)[:, None], np.asarray(stds)[None]
    first = c**2 * s**2 * (c**2 + s**2) ** -1.5
    second = c**2 * s**2 * (s**2 - 2 * c**2) * (c**2 + s**2) ** -2.5
    error = first if order == 1 else abs(5 / 12 * second + 1 / 12 * first)
    m = np.sqrt(np.mean((error * (c / np.sqrt(c**2 + s**2)) ** kappa) ** 2, axis=1))
    density = m ** (1 / (order + 1))
    passed = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(lam))])
    return np.exp(-np.interp(np.linspace(0, passed[-1], steps + 1), passed, lam))
