"""SEEDS (Gonzalez et al. 2023, arXiv 2305.14267), one to three stages, in its three forms; and DDIM(eta).

The linear part of the reverse SDE is solved exactly, the model output M is interpolated in lambda (form "edm": in lambda_F):

    x_b = P x_a + W1 M + W2 M' + W3 M'' + N z,   M', M'' the derivatives by the relative position within the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from reference.paths import Model, Path


def E(k: int, H: float) -> float:
    """The integral of e^-(H-u) (u/H)^(k-1)/(k-1)! over u in [0, H]: H phi_k(-H). With -H: minus the integral of e^(H-u)."""
    if k == 1:
        return -np.expm1(-H)
    return 1.0 / (1.0, 1.0, 2.0)[k - 1] - E(k - 1, H) / H


class Coefficients(NamedTuple):
    """Of an interval from a to b: propagator, weights of 1, theta, theta^2/2 (W[1:]), standard deviation of the noise."""

    P: float
    W: tuple[float, float, float, float]
    N: float


def coefficients(form: str, a: float, b: float, path: Path, eta: float, d: float) -> Coefficients:
    alpha_a, alpha_b, sigma_a, sigma_b = path.alpha(a), path.alpha(b), path.sigma(a), path.sigma(b)
    h = path.lam(b) - path.lam(a)
    if form == "data":
        P, scale, H, N = (
            sigma_b / sigma_a * (np.exp(-eta * h) if eta else 1.0),
            alpha_b,
            (1 + eta) * h,
            sigma_b * np.sqrt(-np.expm1(-2 * eta * h)) if eta else 0.0,
        )
    elif form == "noise":
        P, scale, H, N = alpha_b / alpha_a, (1 + eta) * sigma_b, -h, sigma_b * np.sqrt(eta * np.expm1(2 * h))
    elif eta == 1:  # F in EDM's own terms, y = x / alpha at level rho
        ra, rb = path.rho(a), path.rho(b)
        P = alpha_b / alpha_a * (rb**2 + d**2) / (ra**2 + d**2)
        scale, H = -2 * alpha_b * rb * np.sqrt(rb**2 + d**2) / d, -(lam_F(rb, d, eta) - lam_F(ra, d, eta))
        N = alpha_b * np.sqrt((rb**2 + d**2) * (ra**2 - rb**2) / (ra**2 + d**2))
    else:  # the same without noise
        ra, rb = path.rho(a), path.rho(b)
        P = alpha_b / alpha_a * np.sqrt((rb**2 + d**2) / (ra**2 + d**2))
        scale, H = -alpha_b * np.sqrt(rb**2 + d**2) * np.arctan(rb / d), -(lam_F(rb, d, eta) - lam_F(ra, d, eta))
        N = 0.0
    return Coefficients(P, (0.0, *(scale * E(k, H) for k in (1, 2, 3))), N)


def lam_F(rho: float, d: float, eta: float) -> float:
    """The variable of form "edm", which depends on eta: 1 or 0."""
    return -np.log(rho / (d * np.sqrt(rho**2 + d**2))) if eta else -np.log(np.arctan(rho / d))


def inner(form: str, s: float, t: float, c: float, path: Path, eta: float, d: float) -> float:
    """The clock value at relative position c in the form's own variable."""
    if form != "edm":
        return path.clock(np.exp(-(path.lam(s) + c * (path.lam(t) - path.lam(s)))))
    start, end = lam_F(path.rho(s), d, eta), lam_F(path.rho(t), d, eta)
    q = np.exp(-(start + c * (end - start)))
    return path.clock(d * d * q / np.sqrt(1 - d * d * q * q) if eta else d * np.tan(q))


def seeds(
    model: Model,
    x: np.ndarray,
    levels: Sequence[float],
    noise: Sequence[np.ndarray],
    path: Path,
    *,
    stages: int = 3,
    form: str = "data",
    eta: float = 1.0,
    s_noise: float = 1.0,
    nodes: tuple[float, float] = (1 / 3, 2 / 3),
    variant: str = "3a",
    sigma_data: float = 0.5,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
) -> np.ndarray:
    """`stages` draws a step (none if eta = 0), in order, after one where EDM's churn raises the level.

    nodes: (c2,) for two stages. variant: 2a, 2b, 3a or 3b. A step to sigma = 0 is D, without a draw; one from alpha = 0, where no place
    lies between in lambda, has one stage.
    """
    d, draws = sigma_data, iter(noise)
    gamma = min(s_churn / sum(t > 0 for t in levels), np.sqrt(2) - 1)

    def output(x: np.ndarray, t: float) -> np.ndarray:
        D = model(x, t)
        if form == "data":
            return D
        if form == "noise":
            return (x - path.alpha(t) * D) / path.sigma(t)
        y, rho = x / path.alpha(t), path.rho(t)
        c_skip, c_out = d**2 / (rho**2 + d**2), rho * d / np.sqrt(rho**2 + d**2)
        return (D - c_skip * y) / c_out

    for s, t in pairwise(levels):
        if gamma and s_tmin <= path.rho(s) <= s_tmax and path.alpha(s):
            hat = path.clock((1 + gamma) * path.rho(s))
            added = path.alpha(hat) * np.sqrt(path.rho(hat) ** 2 - path.rho(s) ** 2)
            x, s = path.alpha(hat) / path.alpha(s) * x + added * s_noise * next(draws), hat
        if path.sigma(t) == 0.0:
            return model(x, s)
        count = stages if path.alpha(s) else 1
        M1, places = output(x, s), [inner(form, s, t, c, path, eta, d) for c in nodes[: count - 1]] + [t]
        # One running noise, carried from place to place: the covariance of Brownian increments.
        n, here, stage_noise = 0.0, s, []
        for place in places:
            P, _, N = coefficients(form, here, place, path, eta, d)
            n, here = P * n + (N * next(draws) if N else 0.0), place
            stage_noise.append(s_noise * n)
        to = [coefficients(form, s, place, path, eta, d) for place in places]
        if count == 1:
            x = to[0].P * x + to[0].W[1] * M1 + stage_noise[0]
            continue
        c2, M2 = nodes[0], output(to[0].P * x + to[0].W[1] * M1 + stage_noise[0], places[0])
        P, W, _ = to[1]
        if count == 2:
            b = W[1] / (2 * c2) if variant == "2a" else W[2] / c2
            x = P * x + (W[1] - b) * M1 + b * M2 + stage_noise[1]
            continue
        c3, a = nodes[1], nodes[1] / c2 * W[2]
        M3 = output(P * x + (W[1] - a) * M1 + a * M2 + stage_noise[1], places[1])
        P, W, _ = to[2]
        if variant == "3a":
            slope, curve = (M3 - M1) / c3, 0.0
        else:  # the quadratic through M at 0, c2, c3
            curve = 2 * ((M3 - M1) / c3 - (M2 - M1) / c2) / (c3 - c2)
            slope = (M2 - M1) / c2 - curve * c2 / 2
        x = P * x + W[1] * M1 + W[2] * slope + W[3] * curve + stage_noise[2]
    return x


def ddim(
    model: Model, x: np.ndarray, levels: Sequence[float], noise: Sequence[np.ndarray], path: Path, *, eta: float = 0.0
) -> np.ndarray:
    """DDIM (Song, Meng & Ermon 2020, arXiv 2010.02502, equations 12 and 16), on any path; one draw a step."""
    for (s, t), z in zip(pairwise(levels), noise, strict=True):
        D = model(x, s)
        eps = (x - path.alpha(s) * D) / path.sigma(s)
        a_s, a_t, b_s, b_t = path.alpha(s), path.alpha(t), path.sigma(s), path.sigma(t)
        up = eta * (b_t / b_s) * np.sqrt(max(b_s**2 - (b_t * a_s / a_t) ** 2, 0.0))  # eq. 16, with b^2 for 1 - a^2
        x = a_t * D + np.sqrt(b_t**2 - up**2) * eps + up * z
    return x
