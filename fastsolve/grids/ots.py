"""Optimised time steps: the levels at which a third-order multistep solver lets the least of its model's errors through."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastsolve.grids.rule import Range, spaced
from fastsolve.schedules import Schedule

_TOP = 100.0  # sigma / alpha from which a schedule that starts at alpha = 0 is optimised; its first step starts at alpha = 0 itself
_FEW = 7  # steps up to which the published script adds the first three of them apart, ours all of more
_APART = 3
_MOST = 32  # steps; the levels of more are interpolated
_SOFT = (1.0, 0.1, 1e-2, 1e-3)  # widths at which |c| is rounded off, in turn: the minimum may lie where some c are 0
_POWERS = {"pixel": 1, "latent": 2}


@dataclass(frozen=True)
class OTS(Range):
    """Optimised time steps (Xue et al. 2024, arXiv 2402.17376): computed for the schedule's range and the number of steps, without a model.

    weighting: what is assumed of the model, an error of x0 of sigma / alpha ("pixel") or of sigma^2 / alpha ("latent", in the
    variance-preserving form); what measures a model is GITS. Made for multistep solvers of order 3 in x0 whose first and last steps are
    of lower order, `dpmpp_3m` and `unipc`. With final_zero the last level becomes 0. More than 32 steps interpolate log sigma of 32.

    Up to 7 steps it is the minimum of the authors' objective: their lists within 1e-6 in lam, but for 7 steps, where the minimum lies on
    a kink, of which their search stops short. From 8 steps on their objective adds the errors of different steps with their signs, and
    goes below their own lists where one step takes half of the range and the others cancel its errors: those lists are where a search
    stopped near its start. There ours are added step by step, as their script itself does for the first three of few steps. That
    objective is smooth and had one minimum wherever we looked; on eight mixtures its errors with `ddim`, `dpmpp_2m`, `dpmpp_3m` and
    `unipc` were 0.62 to 0.89 of those of their list for 8 steps (geometric means), and at 15 and 20 now less, now more. Beside other grids
    (docs/grids.md) it is good on VP, cosine, EDM and flow, and poor on Stable Diffusion's table.
    """

    weighting: str = "pixel"
    name: ClassVar[str] = "ots"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in _POWERS:
            raise ValueError(f"weighting of grid 'ots' must be pixel or latent, not {self.weighting!r}")

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.ends(schedule)
        top = high if high < math.inf else max(_TOP, 2.0 * low)
        steps = count if self.final_zero else count - 1
        if steps == 0:
            return self.clocks(schedule, [-math.log(high)])
        lams = optimised(-math.log(top), -math.log(low), steps, _POWERS[self.weighting])
        first = -math.inf if top < high else lams[0]
        return self.clocks(schedule, [first, *lams[1:count]], to_end=not self.final_zero)


def bound(lams: NDArray[Any], apart: int, power: int, soft: float = 0.0) -> NDArray[Any]:
    """How much of its model's errors a multistep solver lets through to the end, [...], on levels lams [..., steps + 1].

    A step of order k weighs each of the last k outputs by the integral of e^lam times the output's Lagrange polynomial, times the error
    sigma^power / alpha at its level. Of the first `apart` steps, the first and the last, the norms of the weights are added; of the
    others the sums per output, as |c|, or sqrt(c^2 + soft^2).
    """
    steps = lams.shape[-1] - 1
    lam, h = np.moveaxis(lams, -1, 0), np.moveaxis(np.diff(lams), -1, 0)
    growth, error = np.exp(lam), np.exp(-lam) * (1.0 + np.exp(2.0 * lam)) ** (0.5 * (1 - power))
    total: NDArray[Any] = np.zeros_like(lam[0])
    sums = np.zeros_like(h)
    for s in range(steps):
        zeroth = np.expm1(h[s])  # the integrals of e^u, u e^u and u^2 e^u from 0 to h
        first = h[s] * np.exp(h[s]) - zeroth
        second = h[s] ** 2 * np.exp(h[s]) - 2.0 * first
        order = min(s + 1, steps - s, 3)
        if order == 1:
            weights = [zeroth]
        elif order == 2:
            b = h[s - 1]
            weights = [zeroth + first / b, -first / b]
        else:
            a, b = h[s - 2], h[s - 1]
            weights = [
                zeroth + (second + (a + 2.0 * b) * first) / (b * (a + b)),
                -(second + (a + b) * first) / (a * b),
                (second + b * first) / (a * (a + b)),
            ]
        let_through = [growth[s] * weight * error[s - j] for j, weight in enumerate(weights)]
        if s < apart or order == 1:
            total = total + np.sqrt(sum(value**2 for value in let_through))
        else:
            for j, value in enumerate(let_through):
                sums[s - j] += value
    if apart < steps - 1:
        total = total + np.sqrt(sums**2 + soft**2).sum(0)
    return total


def slope(inner: NDArray[Any], first: float, last: float, apart: int, power: int, soft: float) -> NDArray[Any]:
    """Gradient of `bound` by the levels between first and last, [..., steps - 1], by complex steps: exact to rounding."""
    tiny = 1e-30
    moved = inner[..., None, :] + 1j * tiny * np.eye(inner.shape[-1])
    value: NDArray[Any] = bound(_with_ends(moved, first, last), apart, power, soft).imag / tiny
    return value


def _with_ends(inner: NDArray[Any], first: float, last: float) -> NDArray[Any]:
    one = np.ones_like(inner[..., :1])
    levels: NDArray[Any] = np.concatenate([first * one, inner, last * one], -1)
    return levels


@functools.lru_cache(maxsize=256)
def optimised(first: float, last: float, steps: int, power: int) -> tuple[float, ...]:
    """The levels in lam, [steps + 1], that minimise `bound` between first and last."""
    if steps > _MOST:
        most = optimised(first, last, _MOST, power)
        return tuple(np.interp(spaced(0.0, float(_MOST), steps + 1), range(_MOST + 1), most).tolist())
    even = np.array(spaced(first, last, steps + 1)[1:-1])
    inner = _descended(even, first, last, steps, power, 0.0) if steps > 1 else even
    if 4 < steps <= _FEW:
        ends = []
        for start in (even, inner):
            for soft in _SOFT:
                start = _descended(start, first, last, _APART, power, soft)
            ends.append(start)
        inner = min(ends, key=lambda end: float(bound(_with_ends(end, first, last), _APART, power)))
    return (first, *inner.tolist(), last)


def _descended(inner: NDArray[Any], first: float, last: float, apart: int, power: int, soft: float) -> NDArray[Any]:
    """Newton's method with |curvature|, on paths that keep the levels apart; 6 to 9 rounds from even levels."""
    near, eye = 1e-6, np.eye(len(inner))
    value = float(bound(_with_ends(inner, first, last), apart, power, soft))
    for _ in range(50):
        gradient = slope(inner, first, last, apart, power, soft)
        beside = slope(np.stack([inner + near * eye, inner - near * eye]), first, last, apart, power, soft)
        curvature, axes = np.linalg.eigh((beside[0] - beside[1] + (beside[0] - beside[1]).T) / (4.0 * near))
        curvature = np.maximum(np.abs(curvature), 1e-9 * np.abs(curvature).max())
        move = -axes @ ((axes.T @ gradient) / curvature)
        length = 1.0
        while length > 1e-10:
            there = inner + length * move
            levels = _with_ends(there, first, last)
            if np.diff(levels).min() > 0.0:
                lower = float(bound(levels, apart, power, soft))
                if lower <= value + 1e-4 * length * float(gradient @ move):
                    break
            length /= 2.0
        else:
            break
        gained, inner, value = value - lower, there, lower
        if gained <= 1e-14 * value:
            break
    return inner
