"""TADA (Chen et al. 2025, arXiv 2506.21757, algorithm 1), rebuilt from the paper's text: its official code was not available.

The state is the data's position and its N - 1 derivatives, X [N, B, *shape], driven from t = 0 (noise) to t = 1 (data) by the force
that would bring the position to the data prediction at t = 1. The model sees y = r . X, which is the data plus noise of std `sigma`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np

from reference.paths import Model, Path


def mean(t: float, N: int) -> np.ndarray:
    """mu_t: E[X_t | data = 1] [N]."""
    return np.array([factorial(N) / factorial(N - j) * t ** (N - j) for j in range(N)])


def propagator(t: float, N: int) -> np.ndarray:
    """Phi(t, 0) [N, N] of the dynamics under that force."""
    drift = [[t ** (k - j) / factorial(k - j) if k >= j else 0.0 for k in range(N)] for j in range(N)]
    return np.array(drift) - np.outer(mean(t, N), [1 / factorial(k) for k in range(N)])


def reading(t: float, N: int, last_var: float) -> tuple[np.ndarray, float]:
    """r_t [N] and sigma_t: the weighted sum of X that is a sufficient statistic of the data, and its noise (proposition 3.1)."""
    S0 = np.array([1.0] * (N - 1) + [last_var])
    # In z = Phi^-1 X the noise keeps its covariance S0, and the data's share is c = Phi^-1 mu, known in closed form.
    binomial = [factorial(N) / factorial(k) / factorial(N - k) for k in range(N)]
    c = np.array([(-1) ** (N - k + 1) * factorial(k) * binomial[k] * t ** (N - k) / (1 - t) ** N for k in range(N)])
    return np.linalg.solve(propagator(t, N).T, c / S0) / (c @ (c / S0)), (c @ (c / S0)) ** -0.5


def time_of(sigma: float, N: int, last_var: float) -> float:
    """The t at which the model's input has this noise: sigma falls with t."""
    if sigma == np.inf:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if reading(middle, N, last_var)[1] > sigma else (low, middle)
    return 0.5 * (low + high)


def start(w: np.ndarray, rho: float, last_var: float) -> np.ndarray:
    """X at the level rho, from N normals w [N, B, *shape]; at rho = inf, t = 0, the normals themselves."""
    N = len(w)
    S0 = np.array([1.0] * (N - 1) + [last_var])
    return np.tensordot(propagator(time_of(rho, N, last_var), N) * np.sqrt(S0), w, 1)


def tada(
    model: Model,
    X: np.ndarray,
    levels: Sequence[float],
    path: Path,
    *,
    order: int = 2,
    last_var: float = 1.0,
    denoise: bool = True,
) -> np.ndarray:
    """From X at levels[0] to the data prediction at levels[-1], or (denoise=False) to what the model would be given there.

    The force is extrapolated in t, with order 1, 2, ... `order`. On a path with alpha the model is given alpha y, which at alpha = 0 is
    the last variable alone, of unit variance.
    """
    N, seen = len(X), []
    times = [time_of(path.rho(level), N, last_var) for level in levels]
    for i, (t, level) in enumerate(zip(times, levels, strict=True)):
        y = path.alpha(level) * np.tensordot(reading(t, N, last_var)[0], X, 1) if t else X[-1] / np.sqrt(last_var)
        if i == len(times) - 1:
            return model(y, level) if denoise else y
        data = model(y, level)
        taylor = sum((1 - t) ** k / factorial(k) * X[k] for k in range(N))
        seen = [(t, factorial(N) / (1 - t) ** N * (data - taylor)), *seen][:order]
        h = times[i + 1] - t
        # The force as a polynomial in tau - t through the last values, integrated along the chain of N integrators.
        inverse = np.linalg.inv(np.array([[(s - t) ** b for b in range(len(seen))] for s, _ in seen]))
        forces = [sum(p * F for p, (_, F) in zip(row, seen, strict=True)) for row in inverse]
        X = np.stack(
            [
                sum(h ** (m - k) / factorial(m - k) * X[m] for m in range(k, N))
                + sum(factorial(b) * h ** (N - k + b) / factorial(N - k + b) * F for b, F in enumerate(forces))
                for k in range(N)
            ]
        )
    raise ValueError("no levels")
