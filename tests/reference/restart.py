"""Restart (Xu et al. 2023, arXiv 2306.14878, algorithm 2) over EDM's Heun step (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

Both live in y = x / alpha at level rho = sigma / alpha, which on VE is the state and its sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from reference.paths import Model, Path

Interval = tuple[int, int, float, float]  # number of levels, repetitions, t_min, t_max
Step = Callable[[Model, np.ndarray, float, float, Path], np.ndarray]  # (model, y, from level, to level, path) -> y


def slope(model: Model, y: np.ndarray, rho: float, path: Path) -> np.ndarray:
    """dy / d rho, which is the noise prediction."""
    t = path.clock(rho)
    return (y - model(path.alpha(t) * y, t)) / rho


def euler_step(model: Model, y: np.ndarray, a: float, b: float, path: Path) -> np.ndarray:
    """DDIM's step from level a to b."""
    return y + (b - a) * slope(model, y, a, path)


def heun_step(model: Model, y: np.ndarray, a: float, b: float, path: Path) -> np.ndarray:
    """From level a to b; Euler to 0."""
    first = slope(model, y, a, path)
    euler = y + (b - a) * first
    return y + (b - a) * (first + slope(model, euler, b, path)) / 2 if b > 0 else euler


def dpm_solver_3_step(model: Model, y: np.ndarray, a: float, b: float, path: Path) -> np.ndarray:
    """DPM-Solver-3 (Lu et al. 2022, arXiv 2206.00927, algorithm 2) in sigma / alpha, nodes at a third and two thirds; Euler to 0."""
    if b == 0:
        return euler_step(model, y, a, b, path)
    h = np.log(a / b)
    u, v = a * np.exp(-h / 3), a * np.exp(-2 * h / 3)
    first = slope(model, y, a, path)
    second = slope(model, y + (u - a) * first, u, path)
    at_v = y + (v - a) * first - 2 * v * (np.expm1(2 * h / 3) / (2 * h / 3) - 1) * (second - first)
    third = slope(model, at_v, v, path)
    return y + (b - a) * first - 3 / 2 * b * (np.expm1(h) / h - 1) * (third - first)


STEPS: dict[str, Step] = {"heun": heun_step, "ddim": euler_step, "dpm_solver_3": dpm_solver_3_step}


def inner_levels(count: int, top: float, low: float, inner_grid: str, rho: float, path: Path) -> np.ndarray:
    """EDM's grid between two levels, or ("linear") one even in the clock."""
    share_of_way = np.arange(count) / (count - 1)
    if inner_grid == "linear":
        first, last = path.clock(top), path.clock(low)
        levels = np.array([path.rho(first + w * (last - first)) for w in share_of_way])
    else:
        levels = (top ** (1 / rho) + share_of_way * (low ** (1 / rho) - top ** (1 / rho))) ** rho
    levels[0], levels[-1] = top, low
    return levels


def restart(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    noise: Sequence[np.ndarray],
    path: Path,
    *,
    intervals: Sequence[Interval],
    base: str = "heun",
    snap: str = "t_min",
    inner_grid: str = "karras",
    rho: float = 7.0,
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    gamma: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
) -> np.ndarray:
    """One draw a repetition, before those of its steps; without intervals this is EDM's stochastic sampler.

    t_min goes to the nearest level of the main grid, and so does t_max if snap is "both"; else it is taken as it is; both in rho. An
    interval fires when the main pass arrives at its t_min. s_churn: of the main steps, gamma: of the inner ones, flat; a step that rises
    draws one normal first. Churned levels must exist on the path.
    """
    grid, y = np.array([path.rho(t) for t in levels]), x
    laid = {}
    for n, k, t_min, t_max in intervals:
        i = int(np.argmin(abs(grid - t_min)))
        top = grid[np.argmin(abs(grid - t_max))] if snap == "both" else t_max
        laid[i] = k, inner_levels(n, top, grid[i], inner_grid, rho, path)
    step, draws = STEPS[base], iter(noise)

    def walked(y: np.ndarray, a: float, b: float, gamma: float) -> np.ndarray:
        if gamma and s_tmin <= a <= s_tmax:
            hat = (1 + gamma) * a
            y, a = y + np.sqrt(hat**2 - a**2) * s_noise * next(draws), hat
        return step(model, y, a, b, path)

    for i, (a, b) in enumerate(pairwise(grid)):
        if a == np.inf:  # all noise: the first step is Euler's, in its limit
            y = model(x, levels[0]) + b * x / path.sigma(levels[0])
        else:
            churn = min(s_churn / sum(grid > 0), np.sqrt(2) - 1)
            y = walked(y if i else x / path.alpha(levels[0]), a, b, churn)
        repetitions, inside = laid.get(i + 1, (0, grid))
        for _ in range(repetitions):
            y = y + np.sqrt(inside[0] ** 2 - inside[-1] ** 2) * s_noise * next(draws)
            for c, e in pairwise(inside):
                y = walked(y, c, e, gamma)
    return path.alpha(levels[-1]) * y


def stable_diffusion(
    model: Model,
    x: np.ndarray,
    timesteps: Sequence[int],
    noise: Sequence[np.ndarray],
    alphas_cumprod: np.ndarray,
    *,
    intervals: Sequence[Interval],
    second_order: bool = False,
    s_noise: float = 1.0,
) -> np.ndarray:
    """Restart as the authors' Stable Diffusion pipeline has it, in DDIM's own terms on a table; model(x, t) is the noise prediction.

    t_max goes to the nearest of all training timesteps, the inner timesteps are even and rounded, half to even. Main steps are DDIM's
    (second_order: the mean of two predictions, but not in the last), inner ones second order, but not the last if it ends at 1 or 0.
    """
    ab, draws = alphas_cumprod, iter(noise)
    sigma = np.sqrt((1 - ab) / ab)
    main = [int(np.argmin(abs(sigma[list(timesteps)] - low))) for _, _, low, _ in intervals]

    def ddim(x: np.ndarray, eps: np.ndarray, t: int, u: int) -> np.ndarray:
        return np.sqrt(ab[u] / ab[t]) * x + (np.sqrt(1 - ab[u]) - np.sqrt(ab[u] / ab[t]) * np.sqrt(1 - ab[t])) * eps

    def step(x: np.ndarray, t: int, u: int, twice: bool) -> np.ndarray:
        eps = model(x, t)
        return ddim(x, (eps + model(ddim(x, eps, t, u), u)) / 2 if twice else eps, t, u)

    for i, (t, u) in enumerate(pairwise(timesteps)):
        x = step(x, t, u, second_order and i < len(timesteps) - 2)
        for n, k, _, t_max in [part for part, at in zip(intervals, main, strict=True) if at == i + 1]:
            top = int(np.argmin(abs(sigma - t_max)))
            inner = [round((top * (n - 1 - m) + u * m) / (n - 1)) for m in range(n)]
            for _ in range(k):
                f = ab[top] / ab[u]
                x = np.sqrt(f) * x + np.sqrt(1 - f) * s_noise * next(draws)
                for m, (c, e) in enumerate(pairwise(inner)):
                    x = step(x, c, e, u > 1 or m < n - 2)
    return x
