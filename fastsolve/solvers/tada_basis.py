"""The closed forms of TADA's linear dynamics: a chain of N integrators driven by a force, and its rotating noise.

X = (x^(0) ... x^(N-1)) are derivatives of a position in time tau (0 noise, 1 data); X_0 ~ N(0, Sigma_0) with
Sigma_0 = diag(1, ..., 1, last_var). In the whitened state Z = Sigma_0^(-1/2) Phi(tau, 0)^-1 X the model sees y = rho u . Z, with u a
unit vector that turns as tau grows: TADA is ordinary diffusion whose noise rotates among N independent noises. Derived from
arXiv 2506.21757, sections 3.1, 3.2 and appendix F.2; the authors' code was not available to compare with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@functools.lru_cache(maxsize=8)
def noise_scales(n: int, last_var: float) -> Array:
    """Square roots of the diagonal of Sigma_0, [N]."""
    return np.array([1.0] * (n - 1) + [math.sqrt(last_var)])


def direction(n: int, last_var: float, tau: float) -> Array:
    """u(tau), [N]: the noise that the model sees, as a unit vector in Z; finite at tau = 0, where it is the last variable."""
    c = [(-1.0) ** (n - k + 1) * math.factorial(k) * math.comb(n, k) * tau ** (n - 1 - k) for k in range(n)]
    v = np.array(c) / noise_scales(n, last_var)
    return np.asarray(v / np.linalg.norm(v))


def _rho(n: int, last_var: float, tau: float) -> float:
    """sigma / alpha that the model sees at tau."""
    gamma = sum(weight * tau ** (2 * (n - k)) for k, weight in enumerate(_squares(n, last_var)))
    return (1.0 - tau) ** n / math.sqrt(gamma)


@functools.lru_cache(maxsize=8)
def _squares(n: int, last_var: float) -> tuple[float, ...]:
    variances = [1.0] * (n - 1) + [last_var]
    return tuple((math.factorial(k) * math.comb(n, k)) ** 2 / variance for k, variance in enumerate(variances))


def time_of(n: int, last_var: float, rho: float) -> float:
    """tau at which the model sees the level rho = sigma / alpha; 0 for rho = inf. Bisection in log(tau / (1 - tau)), to rounding."""
    if rho == math.inf:
        return 0.0
    low, high = -700.0, 36.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        tau = 1.0 / (1.0 + math.exp(-middle))
        low, high = (middle, high) if tau == 0.0 or _rho(n, last_var, tau) > rho else (low, middle)
    return 1.0 / (1.0 + math.exp(-0.5 * (low + high)))


def propagator(n: int, tau: float) -> Array:
    """Phi(tau, 0), [N, N], under the force that aims at zero data."""
    phi = np.zeros((n, n))
    for j in range(n):
        for k in range(n):
            shift = tau ** (k - j) / math.factorial(k - j) if k >= j else 0.0
            phi[j, k] = shift - math.factorial(n) / math.factorial(n - j) * tau ** (n - j) / math.factorial(k)
    return phi


def inverse_propagator(n: int, tau: float) -> Array:
    """Phi(tau, 0)^-1, [N, N]."""
    q = np.zeros((n, n))
    for k in range(n):
        for m in range(n):
            shift = (-tau) ** (m - k) / math.factorial(m - k) if m >= k else 0.0
            pull = (
                (1.0 - tau) ** (m - n)
                / math.factorial(m)
                * math.factorial(n)
                / math.factorial(n - k)
                * (-tau) ** (n - k)
            )
            q[k, m] = shift - pull
    return q


def frame(u: Array) -> Array:
    """An orthogonal matrix whose first row is u, [N, N], continuous in u: the reflection that takes the last axis to u."""
    n = len(u)
    w = u - np.eye(n)[-1]
    size = float(w @ w)
    reflection = np.eye(n) - (2.0 / size) * np.outer(w, w) if size > 1e-30 else np.eye(n)
    return np.asarray(np.roll(reflection, 1, axis=0))


def shift(n: int, h: float) -> Array:
    """exp(A h), [N, N]: the chain of integrators over a step h without force."""
    return np.array([[h ** (m - k) / math.factorial(m - k) if m >= k else 0.0 for m in range(n)] for k in range(n)])


def force_weights(n: int, taus: Sequence[float], end: float) -> Array:
    """Weights [N, p] of the last p forces, newest first at `taus`, in the step to `end`: the exact integral of their interpolant."""
    h, p = end - taus[0], len(taus)
    moments = np.array(
        [[math.factorial(b) * h ** (n - k + b) / math.factorial(n - k + b) for b in range(p)] for k in range(n)]
    )
    powers = np.array([[(tau - taus[0]) ** b for tau in taus] for b in range(p)])  # of Lagrange polynomials: powers^-1
    return np.asarray(moments @ np.linalg.inv(powers).T)
