"""Integrals of exponential integrators: phi functions, quadrature in lambda, exponentially weighted Lagrange weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

_SERIES_BELOW = 2.0  # |z| under which the recursion would cancel; the series has positive terms only
_SERIES_TERMS = 28
_WEIGHT_NODES = 32  # 16 reach 1e-15 on published grids, the rest is margin


def phi(k: int, z: float) -> float:
    """phi_0 = e^z, phi_{k+1}(z) = (phi_k(z) - 1/k!)/z; relative error below 1e-14 for k <= 4 and |z| <= 40.

    Near 0 by the Taylor series sum z^j/(j+k)!; for z < 0 through Kummer's transformation
    phi_k(-y) = e^-y/k! * sum k/(k+j) y^j/j!, whose terms do not alternate (Abramowitz & Stegun 13.1.27).
    """
    if k == 0:
        return math.exp(z)
    if abs(z) < _SERIES_BELOW:
        return _series(k, z) if z >= 0 else math.exp(z) * _kummer(k, -z)
    value = math.expm1(z) / z
    for j in range(1, k):
        value = (value - 1.0 / math.factorial(j)) / z
    return value


def _series(k: int, z: float) -> float:
    term = total = 1.0 / math.factorial(k)
    for j in range(1, _SERIES_TERMS):
        term *= z / (k + j)
        total += term
        if term < 1e-18 * total:
            break
    return total


def _kummer(k: int, y: float) -> float:
    power, total = 1.0, 1.0 / k
    for j in range(1, _SERIES_TERMS):
        power *= y / j
        total += power / (k + j)
        if power < 1e-18:
            break
    return total / math.factorial(k - 1)


def decay(k: int, h: float) -> float:
    """h phi_k(-h) for h in [0, inf]: the weight of theta^(k-1)/(k-1)! in the integral of a decaying exponential over a step."""
    if h == math.inf:
        return 1.0 / math.factorial(k - 1)
    return -math.expm1(-h) if k == 1 else h * phi(k, -h)


def growth(k: int, h: float) -> float:
    """h phi_k(h) for finite h >= 0: the same weight for a growing exponential."""
    return math.expm1(h) if k == 1 else h * phi(k, h)


@functools.lru_cache(maxsize=16)
def _gauss_nodes(n: int) -> tuple[tuple[float, float], ...]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return tuple(zip(nodes.tolist(), weights.tolist(), strict=True))


def gauss_legendre(f: Callable[[float], float], a: float, b: float, nodes: int = 32) -> float:
    """Integral of f over [a, b] by Gauss-Legendre; about 1e-15 relative for the weights of samplers, with a, b in lambda."""
    half, middle = 0.5 * (b - a), 0.5 * (a + b)
    return half * math.fsum(w * f(middle + half * u) for u, w in _gauss_nodes(nodes))


def lagrange(nodes: Sequence[float], j: int, u: float) -> float:
    """The j-th Lagrange polynomial through `nodes`, at u."""
    value = 1.0
    for m, node in enumerate(nodes):
        if m != j:
            value *= (u - node) / (nodes[j] - node)
    return value


def exponential_weights(
    start: float, end: float, nodes: Sequence[float], rate: float, position: Callable[[float], float] | None = None
) -> list[float]:
    """Integral over lambda in [start, end] of e^{-rate (end - lambda)} L_j(s(lambda)), L_j the Lagrange polynomials through `nodes`.

    The multistep weights of all exponential integrators: data form rate 1, SDE form rate 1 + eta, noise form rate -1 (times its own
    prefactor). position: the variable s of the interpolation as a function of lambda, in which `nodes` are given; lambda itself by
    default.
    """

    half, middle = 0.5 * (end - start), 0.5 * (start + end)
    points = [middle + half * u for u, _ in _gauss_nodes(_WEIGHT_NODES)]
    scale = [
        half * w * math.exp(-rate * (end - u)) for u, (_, w) in zip(points, _gauss_nodes(_WEIGHT_NODES), strict=True)
    ]
    where = points if position is None else [position(u) for u in points]
    return [math.fsum(c * lagrange(nodes, j, s) for c, s in zip(scale, where, strict=True)) for j in range(len(nodes))]


def level_weights(
    start: float, end: float, nodes: Sequence[float], position: Callable[[float], float] | None = None
) -> list[float]:
    """Integral of L_j(s) over rho = e^{-lambda} from e^{-start} down to e^{-end}: the noise form's weights, all of them negative in sum.

    nodes, position: as in `exponential_weights`, which has them up to a factor; end = inf is rho = 0, and is
    integrated in rho, where it is exact if s = rho.
    """
    if end < math.inf:
        return [-math.exp(-end) * w for w in exponential_weights(start, end, nodes, -1.0, position)]

    def at(rho: float, j: int) -> float:
        lam = -math.log(rho)
        return lagrange(nodes, j, lam if position is None else position(lam))

    return [gauss_legendre(lambda rho, j=j: at(rho, j), math.exp(-start), 0.0) for j in range(len(nodes))]  # type: ignore[misc]
