"""Levels at the quantiles of a Beta distribution, and that distribution's quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.grids.rule import Range, check_positive, spaced
from fastsolve.schedules import Flow, Schedule, VPTable


@dataclass(frozen=True)
class Beta(Range):
    """Beta(a, b) quantiles (Lee et al. 2024, arXiv 2407.12173): dense at both ends where a, b < 1.

    Two rules bear the name. domain "t", ComfyUI's: the quantiles at 1 - i/n in the clock, rounded to the indices of a table (not where
    rounding would repeat one, so n levels always). domain "sigma", diffusers': the quantiles at 1 - i/(n - 1) in sigma / alpha, which
    is much worse in few steps. sigma_min and sigma_max belong to "sigma".
    """

    a: float = 0.6
    b: float = 0.6
    domain: str = "t"
    name: ClassVar[str] = "beta"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, a=self.a, b=self.b)
        if self.domain not in ("t", "sigma"):
            raise ValueError(f"domain of grid 'beta' must be t or sigma, not {self.domain!r}")
        if self.domain == "t" and (self.sigma_min, self.sigma_max) != (None, None):
            raise ValueError("sigma_min and sigma_max of grid 'beta' belong to domain 'sigma'")

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        if self.domain == "sigma":
            high, low = self.finite_ends(schedule)
            parts = [quantile(q, self.a, self.b) for q in spaced(1.0, 0.0, count)]
            return self.clocks(schedule, [-math.log(low + part * (high - low)) for part in parts])
        probabilities = spaced(1.0, 0.0, count + 1)[:-1] if self.final_zero else spaced(1.0, 0.0, count)
        parts = [quantile(q, self.a, self.b) for q in probabilities]
        low = 0.0 if isinstance(schedule, Flow) and self.final_zero else schedule.t_min
        levels = [low + part * (schedule.t_max - low) if part < 1.0 else schedule.t_max for part in parts]
        if isinstance(schedule, VPTable) and len({round(t) for t in levels}) == count:
            levels = [float(round(t)) for t in levels]
        return [schedule.warp(t) for t in levels]


def quantile(q: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = q, the regularised incomplete beta function's inverse, by Newton's method inside a bracket."""
    if q <= 0.0 or q >= 1.0:
        return min(max(q, 0.0), 1.0)
    low, high, x = 0.0, 1.0, 0.5
    for _ in range(200):
        off = _cumulative(x, a, b) - q
        low, high = (low, x) if off > 0.0 else (x, high)
        slope = math.exp((a - 1.0) * math.log(x) + (b - 1.0) * math.log1p(-x) - _log_beta(a, b))
        step = x - off / slope
        new = step if low < step < high else 0.5 * (low + high)
        if abs(new - x) <= 1e-16 * x:
            return new
        x = new
    return x


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _cumulative(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), evaluated by Lentz's method on the side where it converges fast."""
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _cumulative(1.0 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)) / a
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    total = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        before = total
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            total *= c * d
        if abs(total - before) <= 1e-16 * total:
            break
    return front * total
