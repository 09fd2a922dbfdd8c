"""What a grid is, and what all rules share: even spacing, the ends of a range in sigma / alpha, and levels from lam."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.schedules import Schedule


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

    def for_order(self, order: int) -> Grid:
        """This grid for a solver of that order; itself where the order does not matter, or is stated."""
        return self


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


def spaced(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from first to last, evenly; both ends exact. One number is the first."""
    if count == 1:
        return [first]
    return [first + (last - first) * (i / (count - 1)) for i in range(count - 1)] + [last]


def check_positive(name: str, **values: float | None) -> None:
    for key, value in values.items():
        if value is not None and not 0.0 < value < math.inf:
            raise ValueError(f"{key} of grid {name!r} must be positive and finite, not {value}")


def rho(schedule: Schedule, sigma: float | None, t: float) -> float:
    """sigma / alpha at an end of the range: the caller's, or the schedule's. Infinite at alpha = 0."""
    if sigma is not None:
        return sigma
    node = schedule.node(t)
    return node.sigma / node.alpha if node.alpha else math.inf


@dataclass(frozen=True, kw_only=True)
class Range(Grid):
    """A rule in sigma / alpha (data units). sigma_min, sigma_max: ends, by default exactly the schedule's.

    A schedule that starts at alpha = 0 needs sigma_max where the rule needs a finite top.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None
    final_zero: bool = True

    def __post_init__(self) -> None:
        check_positive(self.name, sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def ends(self, schedule: Schedule) -> tuple[float, float]:
        """(sigma_max, sigma_min); the first may be infinite."""
        high, low = rho(schedule, self.sigma_max, schedule.t_max), rho(schedule, self.sigma_min, schedule.t_min)
        if not low < high:
            raise ValueError(f"grid {self.name!r} needs sigma_min < sigma_max, not {low:g} and {high:g}")
        return high, low

    def finite_ends(self, schedule: Schedule) -> tuple[float, float]:
        high, low = self.ends(schedule)
        if high == math.inf:
            raise ValueError(f"grid {self.name!r} needs sigma_max on {schedule.name!r}, which starts at alpha = 0")
        return high, low

    def clocks(self, schedule: Schedule, lams: Sequence[float], to_end: bool = True) -> list[float]:
        """Clock values of lams, from the top of the range to its end (unless not to_end); an end that is the schedule's is exact."""
        first = self.sigma_max is None
        last = len(lams) - 1 if self.sigma_min is None and to_end and len(lams) > 1 else None
        return [
            schedule.t_max if first and i == 0 else schedule.t_min if i == last else schedule.at_lam(lam).t
            for i, lam in enumerate(lams)
        ]
