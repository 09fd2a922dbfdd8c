"""Restart (Xu et al. 2023, arXiv 2306.14878, algorithm 2) over EDM's Heun step (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

Both live in y = x / alpha at level rho = sigma / alpha, which on VE is the state and its sigma.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from reference.paths import Model, Path

Interval = tuple[int, int, float, float]  # number of levels, repetitions, t_min, t_max


def heun_step(model: Model, y: np.ndarray, a: float, b: float, path: Path) -> np.ndarray:
    """From level a to b; Euler to 0."""

    def slope(y: np.ndarray, rho: float) -> np.ndarray:
        t = path.clock(rho)
        return (y - model(path.alpha(t) * y, t)) / rho

    first = slope(y, a)
    euler = y + (b - a) * first
    return y + (b - a) * (first + slope(euler, b)) / 2 if b > 0 else euler


def heun(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    noise: Sequence[np.ndarray],
    path: Path,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
) -> np.ndarray:
    """EDM's stochastic sampler; draws one normal in each step that churns. Churned levels must exist on the path."""
    draws, y = iter(noise), x / path.alpha(levels[0])
    gamma = min(s_churn / sum(t > 0 for t in levels), np.sqrt(2) - 1)
    for s, t in pairwise(levels):
        a = path.rho(s)
        if gamma and s_tmin <= a <= s_tmax:
            hat = (1 + gamma) * a
            y, a = y + np.sqrt(hat**2 - a**2) * s_noise * next(draws), hat
        y = heun_step(model, y, a, path.rho(t), path)
    return path.alpha(levels[-1]) * y


def restart(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    noise: Sequence[np.ndarray],
    path: Path,
    *,
    intervals: Sequence[Interval],
    s_noise: float = 1.0,
) -> np.ndarray:
    """One draw a repetition. t_min goes to the nearest level of the main grid, t_max is taken as it is, both in rho.

    Between them lie the levels of EDM's grid (rho = 7). An interval fires when the main pass arrives at its t_min.
    """
    grid = np.array([path.rho(t) for t in levels])
    at = {int(np.argmin(abs(grid - t_min))): (n, k, t_max) for n, k, t_min, t_max in intervals}
    draws: Iterator[np.ndarray] = iter(noise)
    y = x / path.alpha(levels[0])
    for i, (a, b) in enumerate(pairwise(grid)):
        y = heun_step(model, y, a, b, path)
        n, repetitions, top = at.get(i + 1, (0, 0, 0.0))
        if repetitions:
            inside = (top ** (1 / 7) + np.arange(n) / (n - 1) * (b ** (1 / 7) - top ** (1 / 7))) ** 7
            inside[0], inside[-1] = top, b
        for _ in range(repetitions):
            y = y + np.sqrt(top**2 - b**2) * s_noise * next(draws)
            for c, e in pairwise(inside):
                y = heun_step(model, y, c, e, path)
    return path.alpha(levels[-1]) * y
