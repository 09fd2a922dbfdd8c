"""DEIS (Zhang & Chen 2022, arXiv 2204.13902) and iPNDM: d(x/alpha) = eps d rho, with eps extrapolated from the last outputs.

x_1 = (alpha_1/alpha_0) x_0 + alpha_1 (integral of eps over rho from rho_0 to rho_1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from reference.paths import Model, Path

TABLEAUS: dict[str, tuple[list[list[float]], list[float]]] = {  # rows of A (their sums are the nodes c), then b
    "midpoint": ([[], [1 / 2]], [0, 1]),
    "2heun": ([[], [1]], [1 / 2, 1 / 2]),
    "3kutta": ([[], [1 / 2], [-1, 2]], [1 / 6, 4 / 6, 1 / 6]),
    "3ral": ([[], [1 / 2], [0, 3 / 4]], [2 / 9, 3 / 9, 4 / 9]),
    "3heun": ([[], [1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4]),
    "3vdh": ([[], [8 / 15], [1 / 4, 5 / 12]], [1 / 4, 0, 3 / 4]),
    "3ssprk": ([[], [1], [1 / 4, 1 / 4]], [1 / 6, 1 / 6, 4 / 6]),
    "4rk": ([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 2 / 6, 2 / 6, 1 / 6]),
}
ADAMS_BASHFORTH = ([1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])


def epsilon(model: Model, x: np.ndarray, t: float, path: Path) -> np.ndarray:
    return (x - path.alpha(t) * model(x, t)) / path.sigma(t)


def integral(f: Callable[[float], float], start: float, end: float) -> float:
    """Of f over rho: Gauss-Legendre, 20 nodes in each of 12 panels that are even in log rho."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.geomspace(start, end, 13)
    return sum(
        0.5 * (b - a) * w * f(0.5 * (a + b) + 0.5 * (b - a) * u)
        for a, b in pairwise(edges)
        for u, w in zip(nodes, weights, strict=True)
    )


def adams_bashforth(
    model: Model, x: np.ndarray, levels: Sequence[float], path: Path, *, order: int = 3, variable: str = "t"
) -> np.ndarray:
    """tAB-DEIS (variable "t") or rhoAB-DEIS ("rho"); order: the degree of the polynomial, reached step by step."""
    place = (lambda rho: path.clock(rho)) if variable == "t" else (lambda rho: rho)
    seen: list[tuple[float, np.ndarray]] = []  # newest first
    for s, t in pairwise(levels):
        seen = [(place(path.rho(s)), epsilon(model, x, s, path)), *seen][: order + 1]
        x = path.alpha(t) / path.alpha(s) * x
        for j, (node, eps) in enumerate(seen):
            others = [other for k, (other, _) in enumerate(seen) if k != j]

            def lagrange(rho: float, node: float = node, others: list[float] = others) -> float:
                return float(np.prod([(place(rho) - other) / (node - other) for other in others]))

            x = x + path.alpha(t) * integral(lagrange, path.rho(s), path.rho(t)) * eps
    return x


def rho_rk(model: Model, x: np.ndarray, levels: Sequence[float], path: Path, *, tableau: str = "3kutta") -> np.ndarray:
    """rhoRK-DEIS: an explicit Runge-Kutta method on v = x / alpha, dv/d rho = eps(alpha v)."""
    rows, b = TABLEAUS[tableau]
    for s, t in pairwise(levels):
        v, h, slopes = x / path.alpha(s), path.rho(t) - path.rho(s), []
        for row in rows:
            at = path.clock(path.rho(s) + sum(row) * h)
            stage = v + h * sum(a * k for a, k in zip(row, slopes, strict=True))
            slopes.append(epsilon(model, path.alpha(at) * stage, at, path))
        x = path.alpha(t) * (v + h * sum(w * k for w, k in zip(b, slopes, strict=True)))
    return x


def ipndm(model: Model, x: np.ndarray, levels: Sequence[float], path: Path, *, order: int = 4) -> np.ndarray:
    """Improved PNDM: DDIM's step with eps replaced by Adams-Bashforth's constant weights, of order 1, 2, ... `order`."""
    seen: list[np.ndarray] = []
    for s, t in pairwise(levels):
        seen = [epsilon(model, x, s, path), *seen][:order]
        eps = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(seen) - 1], seen, strict=True))
        x = path.alpha(t) * (x / path.alpha(s) + (path.rho(t) - path.rho(s)) * eps)
    return x
