"""Rules in the schedule's own clock: uniform and its powers, the spacings of pipelines, what flow models are stepped with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastsolve.grids.rule import Grid, check_positive, spaced
from fastsolve.schedules import Flow, Schedule, VPTable


@dataclass(frozen=True)
class Uniform(Grid):
    """t^(1/power) uniform in the clock: power 1 uniform, 2 quadratic (DEIS, arXiv 2204.13902). Flow schedules shift all levels.

    From t_max to t_min, then to 0 with final_zero; flow schedules with final_zero step uniformly down to 0 itself. On a table of T
    entries the power is of the time of DPM-Solver, (index + 1) / T, which is 0 at clean data, too.
    """

    power: float = 1.0
    final_zero: bool = True
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        check_positive(self.name, power=self.power)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        to_zero = isinstance(schedule, Flow) and self.final_zero
        first, last, clean = schedule.t_max, 0.0 if to_zero else schedule.t_min, schedule.t_clean
        roots = spaced((first - clean) ** (1 / self.power), (last - clean) ** (1 / self.power), count + to_zero)
        inner = [clean + root**self.power for root in roots[1:-1]]
        levels = [first, *inner, last]  # a root and a power would miss the ends by an ulp
        return [schedule.warp(t) for t in levels[:count]]


_KINDS = ("linear", "linspace", "leading", "leading_dpm", "trailing", "sgm_uniform", "simple", "quad")


@dataclass(frozen=True)
class Spacing(Grid):
    """How diffusion pipelines space the integer indices of a table of T (Lin et al. 2023, arXiv 2305.08891, table 2), rounded as they do.

    kind: "linear" round(linspace(0, T - 1, n + 1)) without index 0 (DPM-Solver's in diffusers), "linspace" round(linspace(0, T - 1, n))
    (DDIM's there), "leading" i * (T // n) + offset, "leading_dpm" (i + 1) * (T // (n + 1)) + offset (DPM-Solver's there), "trailing"
    round(arange(T, 0, -T / n)) - 1, "simple" T - 1 - floor(i T / n), "sgm_uniform" linear, not rounded, and "quad"
    trunc(linspace(0, sqrt(0.8 T), n)^2), DDIM's for one table (DDPM's linear one): it drops the noisiest fifth, which loses the
    terminal SNR of others. On a continuous schedule the same fractions of its clock. Without final_zero the last step goes to
    t_min (index 0), where the kind does not end there by itself.
    """

    kind: str = "trailing"
    offset: int = 0
    final_zero: bool = True
    name: ClassVar[str] = "spacing"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"spacing kind must be {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, not {self.kind!r}")

    def levels(self, schedule: Schedule, steps: int) -> list[float]:
        found, last = self.positive(schedule, steps), schedule.warp(schedule.t_min)
        if self.final_zero:
            return [*found, schedule.t_clean]
        return [*found, last] if found[-1] > last else self.positive(schedule, steps + 1)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        if not isinstance(schedule, VPTable):
            return self._continuous(schedule, count)
        size = len(schedule.alphas_cumprod)
        if self.kind == "sgm_uniform":
            return spaced(size - 1.0, 0.0, count + 1)[:-1]
        if count > size - (self.kind in ("linear", "leading_dpm")):
            raise ValueError(f"{count} levels do not fit a table of {size}")
        levels: list[float] = self._indices(size, count).astype(float).tolist()
        if len(set(levels)) < count:
            raise ValueError(f"{count} levels of {self.kind!r} repeat indices of a table of {size}")
        return levels

    def _indices(self, size: int, count: int) -> NDArray[Any]:
        """By the expressions of the published codes: where one rounds 499.5, another would give another list."""
        match self.kind:
            case "linear":
                return np.linspace(0, size - 1, count + 1).round()[:0:-1]
            case "linspace":
                return np.linspace(0, size - 1, count).round()[::-1] if count > 1 else np.array([size - 1])
            case "leading":
                return np.arange(count)[::-1] * (size // count) + self.offset
            case "leading_dpm":
                return np.arange(count, 0, -1) * (size // (count + 1)) + self.offset
            case "simple":
                return np.array([size - 1 - int(i * (size / count)) for i in range(count)])
            case "quad":
                squares = np.linspace(0, math.sqrt(0.8 * size), max(count, 2)) ** 2
                return squares.astype(int)[: -count - 1 : -1]
            case _:
                return np.arange(size, 0, -size / count).round()[:count] - 1

    def _continuous(self, schedule: Schedule, count: int) -> list[float]:
        span = schedule.t_max - schedule.t_min
        if self.kind == "quad":
            roots = spaced(math.sqrt(0.8), 0.0, count)
            return [schedule.warp(schedule.t_min + span * root**2) for root in roots]
        part = span / (count + 1 if self.kind == "leading_dpm" else count)
        first = schedule.t_max - part if self.kind in ("leading", "leading_dpm") else schedule.t_max
        last = schedule.t_min if self.kind in ("leading", "linspace") else schedule.t_min + part
        return [schedule.warp(u) for u in spaced(first, last, count)]


def _flow(name: str, schedule: Schedule) -> Flow:
    if not isinstance(schedule, Flow):
        raise ValueError(f"grid {name!r} is made for flow matching, not for {schedule.name!r}")
    return schedule


@dataclass(frozen=True)
class LinearQuadratic(Grid):
    """Flow matching's t in small even steps down to 1 - threshold, then quadratically (as Mochi is sampled). It is not shifted.

    linear_steps: how many even ones, by default half of all, rounded down.
    """

    threshold: float = 0.025
    linear_steps: int | None = None
    final_zero: bool = True
    name: ClassVar[str] = "linear_quadratic"

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold of grid {self.name!r} must be between 0 and 1, not {self.threshold}")
        if self.linear_steps is not None and self.linear_steps < 1:
            raise ValueError(f"linear_steps of grid {self.name!r} must be at least 1, not {self.linear_steps}")

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        flow = _flow(self.name, schedule)
        steps = count if self.final_zero else count - 1
        walked = [1.0 - u for u in self._fractions(steps)]
        low = 0.0 if self.final_zero else flow.t_min
        levels = [flow.t_max, *(low + (flow.t_max - low) * u for u in walked[1:])]
        return levels if self.final_zero else [*levels, low]

    def _fractions(self, steps: int) -> list[float]:
        """How much of the way lies behind each of `steps` levels; the end itself is left out."""
        if steps < 2:
            return [0.0] * steps
        even = steps // 2 if self.linear_steps is None else self.linear_steps
        if even >= steps:
            raise ValueError(f"grid {self.name!r}: {even} even steps leave none of {steps} for the quadratic part")
        rest = steps - even
        off = even - self.threshold * steps
        a = off / (even * rest**2)
        b = self.threshold / even - 2.0 * off / rest**2
        return [i * self.threshold / even for i in range(even)] + [
            a * i * i + b * i + a * even**2 for i in range(even, steps)
        ]


@dataclass(frozen=True)
class Stretched(Grid):
    """Flow levels stretched so that the last positive one is `terminal`: 1 - t scaled by (1 - terminal) / (1 - t_last), as for LTX-Video.

    base: the rule that lays them (and shifts them, where the schedule does).
    """

    terminal: float = 0.1
    base: Grid = Uniform()
    name: ClassVar[str] = "stretched"

    def __post_init__(self) -> None:
        if not 0.0 < self.terminal < 1.0:
            raise ValueError(f"terminal of grid {self.name!r} must be between 0 and 1, not {self.terminal}")

    @property
    def final_zero(self) -> bool:  # type: ignore[override]
        return self.base.final_zero

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        levels = self.base.positive(_flow(self.name, schedule), count)
        if count == 1:
            return levels
        scale = (1.0 - self.terminal) / (1.0 - levels[-1])
        return [1.0 - (1.0 - t) * scale for t in levels[:-1]] + [self.terminal]
