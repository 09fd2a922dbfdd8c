"""Sampling loops as a careful person writes them in eager torch: coefficients are Python floats, levels lie on the device before the loop.

`model(x, sigma)` gives the denoised x; sigma is [B]; x starts at sigmas[0]; the last sigma is 0. noise() gives standard normals. And one
loop as it is usually published, `seeds3_on_device`: its levels are device tensors, so each scalar expression is a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]


def told(sigmas: Sequence[float], x: Tensor) -> Iterator[Tensor]:
    """The levels as [B] tensors of the device, in one upload."""
    return iter(torch.tensor(sigmas, dtype=torch.float32).to(x.device).repeat(len(x), 1).unbind(1))


def euler(model: Model, x: Tensor, levels: Sequence[Tensor], sigmas: Sequence[float], noise: Noise) -> Tensor:
    for at, (s, t) in zip(levels, pairwise(sigmas), strict=False):
        d = model(x, at)
        x = d + (t / s) * (x - d)
    return x


def dpmpp_2m(model: Model, x: Tensor, levels: Sequence[Tensor], sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2)."""
    before, h_before = None, 0.0
    for at, (s, t) in zip(levels, pairwise(sigmas), strict=False):
        d = model(x, at)
        if t == 0.0:
            return d
        h = math.log(s / t)
        w = -math.expm1(-h)
        if before is None:
            x = (t / s) * x + w * d
        else:
            c = h / (2.0 * h_before)
            x = (t / s) * x + (w * (1.0 + c)) * d - (w * c) * before
        before, h_before = d, h
    return x


def dpmpp_3m_sde(model: Model, x: Tensor, levels: Sequence[Tensor], sigmas: Sequence[float], noise: Noise) -> Tensor:
    """DPM-Solver++(3M) SDE as k-diffusion has it, eta = 1."""
    past: list[Tensor] = []
    hs: list[float] = []
    for at, (s, t) in zip(levels, pairwise(sigmas), strict=False):
        past = [model(x, at), *past][:3]
        if t == 0.0:
            return past[0]
        h = math.log(s / t)
        phi_1 = -math.expm1(-2.0 * h)
        phi_2 = 1.0 - phi_1 / (2.0 * h)
        weights = [phi_1]
        if len(past) == 2:
            r = hs[0] / h
            weights = [phi_1 + phi_2 / r, -phi_2 / r]
        elif len(past) == 3:
            r_0, r_1 = hs[0] / h, hs[1] / h
            phi_3 = phi_2 / (2.0 * h) - 0.5
            first = (phi_2 * (1.0 + r_0 / (r_0 + r_1)) - phi_3 / (r_0 + r_1)) / r_0
            second = (phi_3 - phi_2 * r_0) / ((r_0 + r_1) * r_1)
            weights = [phi_1 + first, second - first, -second]
        x = (t / s * math.exp(-h)) * x
        for w, d in zip(weights, past, strict=True):
            x = x + w * d
        x = x + (t * math.sqrt(phi_1)) * noise()
        hs = [h, *hs][:2]
    return x


def heun(model: Model, x: Tensor, levels: Iterator[Tensor], sigmas: Sequence[float]) -> Tensor:
    """EDM's algorithm 2 without churn, from the first sigma to the last; `levels` holds one for each call."""
    for s, t in pairwise(sigmas):
        slope = (x - model(x, next(levels))) / s
        euler = x + (t - s) * slope
        if t == 0.0:
            return euler
        x = x + (0.5 * (t - s)) * (slope + (euler - model(euler, next(levels))) / t)
    return x


def heun_levels(sigmas: Sequence[float]) -> list[float]:
    """The levels of the calls of `heun`."""
    return [level for s, t in pairwise(sigmas) for level in ((s, t) if t else (s,))]


def restart(
    model: Model, x: Tensor, levels: Sequence[Tensor], parts: Sequence[Sequence[float]], noise: Noise
) -> Tensor:
    """Heun over each part; a part that begins above the end of the last is reached by fresh noise (Restart, arXiv 2306.14878)."""
    left, low = iter(levels), parts[0][0]
    for part in parts:
        if part[0] > low:
            x = x + math.sqrt(part[0] ** 2 - low**2) * noise()
        x, low = heun(model, x, left, part), part[-1]
    return x


def seeds3(model: Model, x: Tensor, levels: Sequence[Tensor], sigmas: Sequence[float], noise: Noise) -> Tensor:
    """SEEDS-3 in data form, eta = 1, inner nodes at a third and two thirds (arXiv 2305.14267); one path of noise for the three stages."""
    left = iter(levels)
    for s, t in pairwise(sigmas):
        d = model(x, next(left))
        if t == 0.0:
            return d
        h = math.log(s / t)
        u, v = s * math.exp(-h / 3.0), s * math.exp(-2.0 * h / 3.0)
        fade = math.exp(-2.0 * h / 3.0)  # of a third of the step, the state: (u / s) e^(-h/3)
        w_u, w_v, w_t = (-math.expm1(-2.0 * h * c) for c in (1.0 / 3.0, 2.0 / 3.0, 1.0))
        gathered = (u * math.sqrt(w_u)) * noise()
        d_u = model(fade * x + w_u * d + gathered, next(left))
        gathered = fade * gathered + (v * math.sqrt(w_u)) * noise()
        b = 2.0 * (1.0 - w_v / (4.0 * h / 3.0))
        d_v = model(fade**2 * x + (w_v - b) * d + b * d_u + gathered, next(left))
        gathered = fade * gathered + (t * math.sqrt(w_u)) * noise()
        b = 1.5 * (1.0 - w_t / (2.0 * h))
        x = fade**3 * x + (w_t - b) * d + b * d_v + gathered
    return x


def seeds3_levels(sigmas: Sequence[float]) -> list[float]:
    """The levels of the calls of `seeds3`."""
    found = []
    for s, t in pairwise(sigmas):
        found += [s, s ** (2 / 3) * t ** (1 / 3), s ** (1 / 3) * t ** (2 / 3)] if t else [s]
    return found


def seeds3_on_device(model: Model, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
    """The same as it is usually written, with sigmas on the device and no number worked out before it is needed."""
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        s, t = sigmas[i], sigmas[i + 1]
        d = model(x, s * ones)
        if t == 0:
            return d
        lam_s, lam_t = -s.log(), -t.log()
        h = lam_t - lam_s
        u, v = (-torch.lerp(lam_s, lam_t, 1 / 3)).exp(), (-torch.lerp(lam_s, lam_t, 2 / 3)).exp()
        x_u = (u / s) * (-h / 3).exp() * x - (-h * 2 / 3).expm1() * d
        path = (-h * 2 / 3).expm1().neg().sqrt() * noise()
        d_u = model(x_u + path * u, u * ones)
        z = -h * 4 / 3
        a_2 = 2 * (1 - z.expm1() / z)
        a_1 = -z.expm1() - a_2
        x_v = (v / s) * (-h * 2 / 3).exp() * x + (a_1 * d + a_2 * d_u)
        path = path * (-h / 3).exp() + (-h * 2 / 3).expm1().neg().sqrt() * noise()
        d_v = model(x_v + path * v, v * ones)
        z = -h * 2
        b_3 = (1 - z.expm1() / z) / (2 / 3)
        b_1 = -z.expm1() - b_3
        x = (t / s) * (-h).exp() * x + (b_1 * d + b_3 * d_v)
        path = path * (-h / 3).exp() + (-h * 2 / 3).expm1().neg().sqrt() * noise()
        x = x + path * t
    return x
