"""This project's own grid for few model calls, found by a search together with the solver `fastsolve`: benchmarks/search.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.grids.rule import Range, check_positive, spaced
from fastsolve.schedules import Schedule

# `python -m benchmarks.search --train`, 2026-11-26, seed 1, for data of root mean square 0.6 (docs/search.md).
A, P, Q = 1.28 / 0.617, 3.46, 0.95
BEFORE, AFTER = 1.52, 3.29  # steps of u between 0 and the first call, and between the last one and 1


@dataclass(frozen=True)
class Few(Range):
    """sigma / alpha = 2.07 c (1 - u)^3.46 / u^0.95 at even u, made for 4 to 10 calls of the solver `fastsolve` (this project, 2026).

    c: scale of the data, as the solver's. Levels beyond the range's ends, as many steps would have, are spread between them.
    """

    c: float = 0.617
    name: ClassVar[str] = "few"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.name, c=self.c)

    def _lam(self, u: float) -> float:
        return Q * math.log(u) - P * math.log1p(-u) - math.log(A * self.c)

    def _place(self, sigma: float) -> float:
        """The u of a level."""
        if sigma == math.inf:
            return 0.0
        low, high, goal = 0.0, 1.0, -math.log(sigma)
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if middle == 0.0 or self._lam(middle) < goal else (low, middle)
        return low

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        high, low = self.ends(schedule)
        top, bottom = self._place(high), self._place(low)
        wide = count - 1 + BEFORE + AFTER
        first = max(BEFORE / wide, top)
        last = min(1.0 - AFTER / wide, bottom) if self.final_zero and self.sigma_min is None else bottom
        if not first < last:
            first = top
        start = -math.log(high) if high < math.inf else -math.inf
        lams = [self._lam(u) for u in spaced(first, last, count)[1:]]
        return self.clocks(schedule, [start, *lams], to_end=last == bottom)
