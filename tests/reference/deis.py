"""DEIS (Zhang & Chen 2022, arXiv 2204.13902) and iPNDM: d(x/alpha) = eps d rho, with eps extrapolated from the last outputs.

x_1 = (alpha_1/alpha_0) x_0 + alpha_1 (integral of eps over rho from rho_0 to rho_1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from reference.paths import Model, Path

Weights = Callable[[list[float], float, float], list[float]]  # C_j of (clock values of the outputs, newest first; s; t)

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


def rk_step(model: Model, x: np.ndarray, s: float, t: float, path: Path, tableau: str) -> np.ndarray:
    """An explicit Runge-Kutta step of v = x / alpha, dv/d rho = eps(alpha v)."""
    rows, b = TABLEAUS[tableau]
    v, h, slopes = x / path.alpha(s), path.rho(t) - path.rho(s), []
    for row in rows:
        at = path.clock(path.rho(s) + sum(row) * h)
        stage = v + h * sum(a * k for a, k in zip(row, slopes, strict=True))
        slopes.append(epsilon(model, path.alpha(at) * stage, at, path))
    return path.alpha(t) * (v + h * sum(w * k for w, k in zip(b, slopes, strict=True)))


def ddim_step(model: Model, x: np.ndarray, s: float, t: float, path: Path) -> np.ndarray:
    """The first-order step, which needs neither alpha > 0 at s nor sigma > 0 at t."""
    D = model(x, s)
    return path.alpha(t) * D + path.sigma(t) * (x - path.alpha(s) * D) / path.sigma(s)


def rho_rk(model: Model, x: np.ndarray, levels: Sequence[float], path: Path, *, tableau: str = "3kutta") -> np.ndarray:
    """rhoRK-DEIS; DDIM where rho is infinite or 0."""
    for s, t in pairwise(levels):
        end = path.alpha(s) == 0 or path.sigma(t) == 0
        x = ddim_step(model, x, s, t, path) if end else rk_step(model, x, s, t, path, tableau)
    return x


def multistep(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    path: Path,
    points: int,
    weights: Weights,
    warmup: str = "ramp",
    lower_order_final: bool = False,
    forget: bool = False,
) -> np.ndarray:
    """x_1 = (alpha_1/alpha_0) x_0 + sum_j C_j eps_j over the last `points` outputs; DDIM where rho is infinite or 0.

    warmup: while there are fewer outputs, "ramp" takes those there are, "heun" makes the first step Heun's, "rk" makes all of them
    classical Runge and Kutta's. lower_order_final: no more outputs than steps are left. forget: an output at infinite rho is not used.
    """
    seen: list[tuple[float, np.ndarray]] = []  # newest first
    for i, (s, t) in enumerate(pairwise(levels)):
        seen = [(s, epsilon(model, x, s, path)), *seen][:points]
        if path.alpha(s) == 0 or path.sigma(t) == 0:
            x = ddim_step(model, x, s, t, path)
            seen = [] if path.alpha(s) == 0 and forget else seen
        elif len(seen) < points and (warmup == "rk" or (warmup == "heun" and len(seen) == 1)):
            x = rk_step(model, x, s, t, path, {"rk": "4rk", "heun": "2heun"}[warmup])
        else:
            used = seen[: len(levels) - 1 - i] if lower_order_final else seen
            C = weights([node for node, _ in used], s, t)
            x = path.alpha(t) / path.alpha(s) * x + sum(c * eps for c, (_, eps) in zip(C, used, strict=True))
    return x


def adams_bashforth(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    path: Path,
    *,
    order: int = 3,
    variable: str = "t",
    warmup: str = "ramp",
    lower_order_final: bool = False,
) -> np.ndarray:
    """DEIS with eps interpolated in "t" (tAB-DEIS), "rho" (rhoAB-DEIS) or "logrho"; order: the degree of the polynomial."""
    place = {"t": path.clock, "rho": lambda rho: rho, "logrho": np.log}[variable]

    def weights(nodes: list[float], s: float, t: float) -> list[float]:
        at = [node if variable == "t" else place(path.rho(node)) for node in nodes]
        C = []
        for node in at:
            others = [other for other in at if other != node]

            def lagrange(rho: float, node: float = node, others: list[float] = others) -> float:
                return float(np.prod([(place(rho) - other) / (node - other) for other in others]))

            C.append(path.alpha(t) * integral(lagrange, path.rho(s), path.rho(t)))
        return C

    return multistep(model, x, levels, path, order + 1, weights, warmup, lower_order_final, forget=variable != "t")


def ipndm(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    path: Path,
    *,
    order: int = 4,
    warmup: str = "ramp",
    lower_order_final: bool = False,
) -> np.ndarray:
    """Improved PNDM: DDIM's step with eps replaced by Adams-Bashforth's constant weights, of order 1, 2, ... `order`."""

    def weights(nodes: list[float], s: float, t: float) -> list[float]:
        return [path.alpha(t) * (path.rho(t) - path.rho(s)) * w for w in ADAMS_BASHFORTH[len(nodes) - 1]]

    return multistep(model, x, levels, path, order, weights, warmup, lower_order_final)
