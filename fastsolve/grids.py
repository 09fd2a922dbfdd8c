"""Step grids: the nodes a solver walks, from noise to data.

A grid of `steps` steps has steps + 1 levels, decreasing in the schedule's clock. Unless `final_zero=False`, the last level is clean
data (sigma = 0): the last step then costs one model call and returns its denoised prediction.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.schedules import VE, Flow, Node, Schedule, VPTable


class Grid(ABC):
    """A rule that lays `steps` steps on any schedule."""

    name: ClassVar[str]
    final_zero: bool

    @abstractmethod
    def positive(self, schedule: Schedule, count: int) -> list[float]:
        """`count` decreasing clock values with sigma > 0."""

    def levels(self, schedule: Schedule, steps: int) -> list[float]:
        """The steps + 1 clock values of a grid, the last included."""
        if self.final_zero:
            return [*self.positive(schedule, steps), schedule.t_clean]
        return self.positive(schedule, steps + 1)


def _spaced(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from first to last, evenly; both ends exact. One number is the first."""
    if count == 1:
        return [first]
    return [first + (last - first) * (i / (count - 1)) for i in range(count - 1)] + [last]


def _check_positive(name: str, **values: float | None) -> None:
    for key, value in values.items():
        if value is not None and not 0.0 < value < math.inf:
            raise ValueError(f"{key} of grid {name!r} must be positive and finite, not {value}")


def _rho(schedule: Schedule, sigma: float | None, t: float) -> float:
    """sigma / alpha at an end of the range: the caller's, or the schedule's."""
    if sigma is not None:
        return sigma
    node = schedule.node(t)
    return node.sigma / node.alpha if node.alpha else math.inf


@dataclass(frozen=True)
class Karras(Grid):
    """sigma^(1/rho) uniform (Karras et al. 2022, arXiv 2206.00364, equation 5), sigma in units of the data: sigma / alpha.

    sigma_min, sigma_max: ends, by default the schedule's. A schedule that starts at alpha = 0 needs sigma_max.
    """

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    final_zero: bool = True
    name: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        _check_positive(self.name, rho=self.rho, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = _rho(schedule, self.sigma_max, schedule.t_max), _rho(schedule, self.sigma_min, schedule.t_min)
        if high == math.inf:
            raise ValueError(f"grid 'karras' needs sigma_max on {schedule.name!r}, which starts at alpha = 0")
        sigmas = [r**self.rho for r in _spaced(high ** (1 / self.rho), low ** (1 / self.rho), count)]
        ends = schedule.t_max if self.sigma_max is None else None, schedule.t_min if self.sigma_min is None else None
        return _clocks(schedule, [-math.log(s) for s in sigmas], *ends)


@dataclass(frozen=True)
class UniformLogSNR(Grid):
    """lam uniform, that is log sigma uniform: also called exponential. sigma_min, sigma_max (sigma / alpha) as in Karras."""

    sigma_min: float | None = None
    sigma_max: float | None = None
    final_zero: bool = True
    name: ClassVar[str] = "uniform_logsnr"

    def __post_init__(self) -> None:
        _check_positive(self.name, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = _rho(schedule, self.sigma_max, schedule.t_max), _rho(schedule, self.sigma_min, schedule.t_min)
        if high == math.inf:
            raise ValueError(f"grid 'uniform_logsnr' needs sigma_max on {schedule.name!r}, which starts at alpha = 0")
        ends = schedule.t_max if self.sigma_max is None else None, schedule.t_min if self.sigma_min is None else None
        return _clocks(schedule, _spaced(-math.log(high), -math.log(low), count), *ends)


def _clocks(schedule: Schedule, lams: list[float], first: float | None, last: float | None) -> list[float]:
    """Clock values of lams; an end that is the schedule's own is exactly that."""
    clocks = [schedule.at_lam(lam).t for lam in lams[1:-1]]
    start = schedule.at_lam(lams[0]).t if first is None else first
    if len(lams) == 1:
        return [start]
    return [start, *clocks, schedule.at_lam(lams[-1]).t if last is None else last]


@dataclass(frozen=True)
class Uniform(Grid):
    """t^(1/power) uniform in the clock: power 1 uniform, 2 quadratic (DEIS, arXiv 2204.13902). Flow schedules shift all levels.

    From t_max to t_min, then to 0 with final_zero; flow schedules with final_zero step uniformly down to 0 itself.
    """

    power: float = 1.0
    final_zero: bool = True
    name: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        _check_positive(self.name, power=self.power)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        to_zero = isinstance(schedule, Flow) and self.final_zero
        first, last = schedule.t_max, 0.0 if to_zero else schedule.t_min
        roots = _spaced(first ** (1 / self.power), last ** (1 / self.power), count + to_zero)
        levels = [
            first,
            *(root**self.power for root in roots[1:-1]),
            last,
        ]  # a root and a power would miss the ends by an ulp
        return [schedule.warp(t) for t in levels[:count]]


@dataclass(frozen=True)
class Spacing(Grid):
    """How diffusion pipelines space the integer indices of a table (Lin et al. 2023, arXiv 2305.08891, table 2).

    kind: "linear" round(linspace(0, T - 1, n + 1)) without index 0, "leading" i * (T // n) + offset, "trailing"
    round(arange(T, 0, -T / n)) - 1. On a continuous schedule the same fractions of its clock.
    """

    kind: str = "trailing"
    offset: int = 0
    final_zero: bool = True
    name: ClassVar[str] = "spacing"

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "leading", "trailing"):
            raise ValueError(f"spacing kind must be linear, leading or trailing, not {self.kind!r}")

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        if not isinstance(schedule, VPTable):
            span = schedule.t_max - schedule.t_min
            first = schedule.t_max if self.kind != "leading" else schedule.t_max - span / count
            last = schedule.t_min if self.kind == "leading" else schedule.t_min + span / count
            return [schedule.warp(u) for u in _spaced(first, last, count)]
        size = len(schedule.alphas_cumprod)
        if count > size - (self.kind == "linear"):
            raise ValueError(f"{count} levels do not fit a table of {size}")
        if self.kind == "linear":
            return [float(round((size - 1) * i / count)) for i in range(count, 0, -1)]
        if self.kind == "leading":
            return [float(i * (size // count) + self.offset) for i in range(count - 1, -1, -1)]
        return [float(round(size - i * size / count) - 1) for i in range(count)]


@dataclass(frozen=True)
class Explicit(Grid):
    """The caller's own clock values, decreasing, the last included; its number of steps is its own."""

    values: tuple[float, ...]
    name: ClassVar[str] = "explicit"
    final_zero: ClassVar[bool] = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        values = tuple(float(t) for t in self.values)
        if len(values) < 2:
            raise ValueError(f"a grid needs at least two levels, a start and an end, not {list(values)}")
        object.__setattr__(self, "values", values)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        if count != len(self.values):
            raise ValueError(f"the grid given has {len(self.values) - 1} steps, not {count - 1}: leave steps out")
        return list(self.values)


_NAMED: dict[str, Grid] = {
    "karras": Karras(),
    "uniform": Uniform(),
    "quadratic": Uniform(power=2.0),
    "uniform_logsnr": UniformLogSNR(),
    "exponential": UniformLogSNR(),
    "linear": Spacing("linear"),
    "leading": Spacing("leading"),
    "trailing": Spacing("trailing"),
}


def get(grid: str | Grid | Sequence[float] | None, schedule: Schedule) -> Grid:
    """The grid of a name, an object as it is, an explicit sequence of clock values, or for None what suits the schedule.

    (VE and EDM: karras; tables: trailing; VP and flow: uniform.) Raises ValueError for an unknown name and TypeError for anything else.
    """
    if grid is None:
        grid = "trailing" if isinstance(schedule, VPTable) else "karras" if isinstance(schedule, VE) else "uniform"
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, str):
        if grid not in _NAMED:
            near = difflib.get_close_matches(grid, _NAMED, 1, 0.0)
            raise ValueError(
                f"unknown grid {grid!r}: known are {', '.join(_NAMED)}, or clock values; nearest is {near[0]!r}"
            )
        return _NAMED[grid]
    try:
        values = tuple(float(t) for t in grid)
    except (TypeError, ValueError):
        raise TypeError(f"grid must be a name, a grid or a sequence of clock values, not {grid!r}") from None
    return Explicit(values)


def nodes(grid: Grid, schedule: Schedule, steps: int) -> tuple[Node, ...]:
    """The checked nodes of a grid, [steps + 1].

    Raises ValueError for fewer than one step and for levels that do not decrease, are not finite, or lie outside the schedule.
    """
    if steps < 1:
        raise ValueError(f"a grid needs at least one step, not {steps}")
    levels = grid.levels(schedule, steps)
    if levels[0] == schedule.t_clean:
        raise ValueError(f"the grid starts at {levels[0]:g}, clean data, where there is nothing to sample")
    for i, t in enumerate(levels):
        if not math.isfinite(t):
            raise ValueError(f"level {i} of the grid is {t}: levels must be finite")
        if i and not t < levels[i - 1]:
            raise ValueError(f"levels must decrease, but level {i} is {t:g} after {levels[i - 1]:g}")
    return tuple(schedule.node(t) for t in levels)
