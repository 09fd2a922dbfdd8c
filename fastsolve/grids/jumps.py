"""Step grids as the shortest path over the levels of a teacher's trajectory: GITS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from fastsolve.grids.kept import Kept
from fastsolve.grids.rule import Grid, check_positive
from fastsolve.schedules import Schedule

_CLOSE = 1e-9  # in lam: an end of the measured range that is the schedule's own, but for rounding


def cheapest(costs: Sequence[Sequence[float]], jumps: int, coeff: float) -> list[int]:
    """The indices, first and last included, of the path with the least cost; costs[i] are those of jumps from i to i + 1, i + 2, ...

    What follows a jump counts coeff times, as published: above 1 it puts more weight on the later, small jumps. Ties take the shorter.
    """
    size = len(costs) + 1
    cost = np.full((size, size), np.inf)
    for i, row in enumerate(costs):
        cost[i, i + 1 :] = row
    rest, chosen = cost[:, -1].copy(), []
    for _ in range(jumps - 1):
        via = cost + coeff * rest
        chosen.append(np.argmin(via, axis=1))
        rest = np.min(via, axis=1)
    path = [0]
    for best in reversed(chosen):
        path.append(int(best[path[-1]]))
    return [*path, size - 1]


@dataclass(frozen=True)
class GITSPilot(Kept, Grid):
    """GITS as measured on a model (`calibrate.gits`; Chen et al. 2024, arXiv 2405.11326); serves every number of steps it has levels for.

    lams: the teacher's levels, increasing. costs: of a jump of DDIM from level i to each later one, by how much further from the chord of
    the whole trajectory it lands than the teacher. coeff: weight of what follows a jump. With final_zero the last level becomes 0.
    Good for DDIM at 6 to 8 calls; poor for multistep solvers, whose error is not DDIM's.
    """

    lams: tuple[float, ...]
    costs: tuple[tuple[float, ...], ...]
    coeff: float = 1.15
    final_zero: bool = True
    name: ClassVar[str] = "gits_pilot"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lams", tuple(float(v) for v in self.lams))
        object.__setattr__(self, "costs", tuple(tuple(float(v) for v in row) for row in self.costs))
        size = len(self.lams)
        if size < 2 or [len(row) for row in self.costs] != list(range(size - 1, 0, -1)):
            raise ValueError("GITS has a cost for every jump between its levels, at least 2")
        values = (*self.lams, *(v for row in self.costs for v in row))
        if not all(map(math.isfinite, values)) or any(a >= b for a, b in pairwise(self.lams)):
            raise ValueError("the levels of GITS increase in lam, and all its numbers are finite")
        check_positive(self.name, coeff=self.coeff)

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        jumps = count if self.final_zero else count - 1
        if jumps >= len(self.lams):
            raise ValueError(f"{jumps} steps do not fit: this GITS was measured at {len(self.lams)} levels")
        path = cheapest(self.costs, jumps, self.coeff)
        end = schedule.node(schedule.t_min)
        clocks = [
            schedule.t_max
        ]  # sampling starts where the noise is, as much as that is above the first level measured
        for i in path[1:]:
            lam = self.lams[i]
            clocks.append(end.t if abs(lam - end.lam) <= _CLOSE else schedule.at_lam(lam).t)
        return clocks[:count]
