"""Rules in sigma / alpha: Karras, uniform and polynomial log-SNR, Laplace, IDDPM's recursion, TADA's polynomial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.grids.rule import Range, check_positive, spaced
from fastsolve.schedules import Schedule


@dataclass(frozen=True)
class Karras(Range):
    """sigma^(1/rho) uniform (Karras et al. 2022, arXiv 2206.00364, equation 5), sigma in units of the data: sigma / alpha.

    sigma_min, sigma_max: ends, by default the schedule's. A schedule that starts at alpha = 0 needs sigma_max.
    """

    rho: float = 7.0
    name: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, rho=self.rho)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.finite_ends(schedule)
        sigmas = [r**self.rho for r in spaced(high ** (1 / self.rho), low ** (1 / self.rho), count)]
        return self.clocks(schedule, [-math.log(s) for s in sigmas])


@dataclass(frozen=True)
class UniformLogSNR(Range):
    """lam uniform, that is log sigma uniform: also called exponential. sigma_min, sigma_max (sigma / alpha) as in Karras.

    rho other than 1: lam polynomial in the step, log sigma = log sigma_min + (1 - i/(n - 1))^rho log(sigma_max / sigma_min), the
    polyexponential grid of k-diffusion.
    """

    rho: float = 1.0
    name: ClassVar[str] = "uniform_logsnr"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, rho=self.rho)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.finite_ends(schedule)
        if self.rho == 1.0:
            return self.clocks(schedule, spaced(-math.log(high), -math.log(low), count))
        span = math.log(high / low)
        return self.clocks(schedule, [-math.log(low) - u**self.rho * span for u in spaced(1.0, 0.0, count)])


@dataclass(frozen=True)
class Laplace(Range):
    """log sigma at even quantiles of a Laplace law (Hang & Gu 2024, arXiv 2407.03297), as published, clamped to the range.

    mu: mean of log sigma; scale: its spread. Where clamping would repeat levels (many steps), the quantiles of the range are taken.
    The published function has no level 0 at its end; here final_zero says.
    """

    mu: float = 0.0
    scale: float = 0.5
    name: ClassVar[str] = "laplace"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, scale=self.scale)
        if not math.isfinite(self.mu):
            raise ValueError(f"mu of grid {self.name!r} must be finite, not {self.mu}")

    def _lam(self, x: float) -> float:
        off = self.scale * math.log(1.0 - 2.0 * abs(0.5 - x) + 1e-5)  # the published guard of log 0
        return -self.mu + (off if x < 0.5 else -off if x > 0.5 else 0.0)

    def _quantile(self, lam: float) -> float:
        tail = 0.5 * (math.exp(-abs(lam + self.mu) / self.scale) - 1e-5)
        return max(tail, 0.0) if lam < -self.mu else 1.0 - max(tail, 0.0)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = (-math.log(s) if s < math.inf else -math.inf for s in self.ends(schedule))
        if count == 1:
            return self.clocks(schedule, [high])
        inner = [self._lam(x) for x in spaced(0.0, 1.0, count)[1:-1]]
        if inner and not high < inner[0] <= inner[-1] < low:
            inner = [self._lam(x) for x in spaced(self._quantile(high), self._quantile(low), count)[1:-1]]
        return self.clocks(schedule, [high, *inner, low])


@dataclass(frozen=True)
class IDDPM(Range):
    """The levels of improved DDPM's cosine table in sigma, evenly picked (Karras et al. 2022, table 1, column iDDPM).

    u_M = 0, u_(j-1)^2 = (u_j^2 + 1) / max(a_(j-1) / a_j, clip) - 1, a_j = sin^2(pi/2 j / (M (s + 1))); the u within the range are picked
    by index. So neither end of the range is a level unless a u is.
    """

    size: int = 1000
    clip: float = 0.001
    s: float = 0.008
    name: ClassVar[str] = "iddpm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, size=self.size, clip=self.clip, s=self.s)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.ends(schedule)
        bars = [math.sin(0.5 * math.pi * j / self.size / (self.s + 1.0)) ** 2 for j in range(self.size + 1)]
        levels, u = [0.0], 0.0
        for j in range(self.size, 0, -1):
            u = math.sqrt((u * u + 1.0) / max(bars[j - 1] / bars[j], self.clip) - 1.0)
            levels.append(u)
        within = [u for u in reversed(levels) if low <= u <= high]
        if count > len(within):
            raise ValueError(f"{count} levels do not fit: grid 'iddpm' has {len(within)} from {low:g} to {high:g}")
        picked = [within[round((len(within) - 1) * i / max(count - 1, 1))] for i in range(count)]
        return [schedule.at_lam(-math.log(u)).t for u in picked]


@dataclass(frozen=True)
class TPoly(Range):
    """t^(1/power) uniform in the time of TADA with two variables (arXiv 2506.21757): sigma = (1 - t)^2 / (t sqrt(t^2 + 4)).

    The paper states neither exponent nor variable, and its official code was not available: power 2 is the choice that did best
    in our comparison with other solvers, too.
    """

    power: float = 2.0
    name: ClassVar[str] = "tpoly"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, power=self.power)

    @staticmethod
    def _log_sigma(t: float) -> float:
        return 2.0 * math.log1p(-t) - math.log(t) - 0.5 * math.log(t * t + 4.0)

    def _time(self, sigma: float) -> float:
        if sigma == math.inf:
            return 0.0
        low, high, goal = -800.0, 800.0, math.log(sigma)  # bisected in log(t / (1 - t)), where sigma falls
        for _ in range(100):
            middle = 0.5 * (low + high)
            rest = math.log1p(math.exp(-abs(middle)))
            log_t, log_1t = min(middle, 0.0) - rest, min(-middle, 0.0) - rest
            falls = 2.0 * log_1t - log_t - 0.5 * math.log(math.exp(2.0 * log_t) + 4.0)
            low, high = (middle, high) if falls > goal else (low, middle)
        return 1.0 / (1.0 + math.exp(-low)) if low > 0 else math.exp(low) / (1.0 + math.exp(low))

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        first, last = (self._time(s) ** (1.0 / self.power) for s in self.ends(schedule))
        times = [root**self.power for root in spaced(first, last, count)]
        return self.clocks(schedule, [-self._log_sigma(t) if t else -math.inf for t in times])
