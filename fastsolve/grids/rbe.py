"""Restricting backward error: equal backward error per step (after Gao et al. 2023, arXiv 2304.11446), in the solver's own variable.

A first-order step of size h in lam errs by h^2 m(lam), a p-th order one by h^(p+1) m_p: the error is least where every step errs
alike, that is with rho = m^(1/(p+1)) steps per unit of lam, for every number of steps. The paper's own rule, which needs gradients
through the model, is `calibrate.rbe_released`; what stands here needs no model calls (or those of a pilot made before).
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastsolve.grids.rule import Range, check_positive, spaced
from fastsolve.schedules import Schedule

Array = NDArray[np.float64]

_BEYOND = 1e4  # a top at alpha = 0 is integrated from this many scales of the data on
_BELOW = 1e-3  # and a bottom at sigma = 0 to this fraction of them


@dataclass(frozen=True)
class RBEAtan(Range):
    """Uniform in arctan(sigma / c): exactly the least error of DDIM for data N(0, c^2), for every number of steps.

    With sigma = c tan(theta), a DDIM step multiplies such data by cos(theta_s - theta_t) too much: equal angles are the minimum of the
    product. c: standard deviation of the data, better 1 to 2 times it (data have directions of large variance). With final_zero
    the angle goes to 0 itself; with to_zero=False it stops at sigma_min before a last step to 0: with c = 1 that is what others
    call kl_optimal. A start at alpha = 0 is the angle pi/2.
    """

    c: float = 1.0
    to_zero: bool = True
    name: ClassVar[str] = "rbe_atan"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, c=self.c)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.ends(schedule)
        if self.final_zero and self.to_zero and self.sigma_min is None:
            lams = self._lams(high, 0.0, count + 1)[:-1]
            if lams[-1] <= -math.log(low):  # else a level would lie below those the model knows
                return self.clocks(schedule, lams, to_end=False)
        return self.clocks(schedule, self._lams(high, low, count))

    def _lams(self, high: float, low: float, count: int) -> list[float]:
        angles = spaced(math.atan(high / self.c), math.atan(low / self.c), count)
        lams = [-math.log(self.c * math.tan(angle)) if angle > 0.0 else math.inf for angle in angles]
        return [-math.inf if high == math.inf else -math.log(high), *lams[1:]]


@dataclass(frozen=True)
class Density(Range):
    """Levels at even quantiles of a density of steps per unit of lam; the first and the last are the ends of the range.

    With final_zero the density is followed to 0, unless levels would then lie below sigma_min, or it is stated.
    """

    points: ClassVar[int] = 4000  # of the trapezoid rule for its integral

    @abstractmethod
    def density(self, s: Array) -> Array:
        """Steps per unit of lam at s = sigma / alpha, up to a factor."""

    @abstractmethod
    def scales(self) -> tuple[float, float]:
        """The least and the largest standard deviation of the data."""

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.ends(schedule)
        small, large = self.scales()
        top = high if high < math.inf else max(_BEYOND * large, 2.0 * low)
        if self.final_zero and self.sigma_min is None and (bottom := min(low, _BELOW * small)) < low:
            lams = self._quantiles(top, bottom, count + 1)[:-1]
            if lams[-1] <= -math.log(low):
                return self.clocks(schedule, [-math.inf if top < high else lams[0], *lams[1:]], to_end=False)
        lams = self._quantiles(top, low, count)
        return self.clocks(schedule, [-math.inf if top < high else lams[0], *lams[1:]])

    def _quantiles(self, high: float, low: float, count: int) -> list[float]:
        lam, passed = _passed(self, high, low)
        found: list[float] = np.interp(np.array(spaced(0.0, float(passed[-1]), count)), passed, lam).tolist()
        return found


@functools.lru_cache(maxsize=64)
def _passed(grid: Density, high: float, low: float) -> tuple[Array, Array]:
    """Levels in lam, and the integral of the density up to each."""
    lam = np.linspace(-math.log(high), -math.log(low), grid.points)
    rho = grid.density(np.exp(-lam))
    return lam, np.concatenate([[0.0], np.cumsum(0.5 * (rho[1:] + rho[:-1]) * np.diff(lam))])


@dataclass(frozen=True)
class RBE(Density):
    """Equal backward error for data with standard deviations c in their principal directions; takes the solver's order.

    order: of the solver, 1 or 2 (2 for all above; None: that of the solver it is used with). c: standard deviations of the data's
    principal components, by default log-uniform in [0.1, 2], for data in [-1, 1]. kappa: how much of the flow's damping of an
    error counts, 0 none to 1 all; 0.25 was better for third-order multistep solvers. Made for DDIM, and chosen on two models; on six
    others it was the best all-round grid or near it on every schedule, for solvers of several stages too (docs/grids.md).
    """

    order: int | None = None
    c: tuple[float, ...] = tuple(0.1 * 20.0 ** (i / 15) for i in range(16))
    kappa: float = 0.5
    name: ClassVar[str] = "rbe"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (None, 1, 2):
            raise ValueError(f"order of grid 'rbe' must be 1 or 2, or None for the solver's, not {self.order}")
        object.__setattr__(self, "c", tuple(float(c) for c in self.c))
        if not self.c:
            raise ValueError("c of grid 'rbe' must be at least one standard deviation")
        check_positive(self.name, **{f"c[{k}]": c for k, c in enumerate(self.c)})
        if not 0.0 <= self.kappa <= 1.0:
            raise ValueError(f"kappa of grid 'rbe' must be between 0 and 1, not {self.kappa}")

    def for_order(self, order: int) -> RBE:
        return self if self.order is not None else replace(self, order=min(max(order, 1), 2))

    def scales(self) -> tuple[float, float]:
        return min(self.c), max(self.c)

    def density(self, s: Array) -> Array:
        order = self.order or 1
        c = np.array(self.c)[:, None]
        power = c * c + s * s
        error = c * c * s * s * power**-1.5  # dD/dlam along the flow, whose amplitude is sqrt(c^2 + s^2)
        if order == 2:
            second = c * c * s * s * (s * s - 2.0 * c * c) * power**-2.5
            error = np.abs(5.0 / 12.0 * second + 1.0 / 12.0 * error)
        m = np.sqrt(np.mean((error * (c / np.sqrt(power)) ** self.kappa) ** 2, axis=0))
        rho: Array = m ** (1.0 / (order + 1))
        return rho


@dataclass(frozen=True)
class RBEReleasedGauss(Density):
    """The rule of the released RBE code in closed form for data N(0, c^2), in lam: s^2 (1 + s^2)^(-5/4) (c^2 + s^2)^(-3/4).

    For comparison: its variable, alpha-bar, is not DDIM's own, so it starves both ends. c = 1 is the limit (the rule itself is 0/0).
    """

    c: float = 0.5
    name: ClassVar[str] = "rbe_released_gauss"
    points: ClassVar[int] = 20000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, c=self.c)

    def scales(self) -> tuple[float, float]:
        return min(self.c, 1.0), max(self.c, 1.0)

    def density(self, s: Array) -> Array:
        rho: Array = s * s * (1.0 + s * s) ** -1.25 * (self.c * self.c + s * s) ** -0.75
        return rho
