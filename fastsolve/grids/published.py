"""Grids that were published as lists of numbers: AYS and GITS."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from fastsolve.grids.rule import Grid, rho, spaced
from fastsolve.schedules import Schedule

_CLOSE = 1e-3  # published ends are rounded: within this they mean the schedule's own

_AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
# As published for these numbers of steps (coefficient 1.15; for Stable Diffusion 1.20).
_GITS = {
    "sd15": (
        (14.61464119, 5.85520077, 2.05039096, 0.95350921, 0.45573691, 0.17026083, 0.02916753),
        (
            14.61464119,
            5.85520077,
            2.84484982,
            1.67050016,
            1.08895338,
            0.74807048,
            0.50118381,
            0.32104823,
            0.19894916,
            0.09824532,
            0.02916753,
        ),
    ),
    "cifar10": (
        (80.0, 5.1092, 1.584, 0.47, 0.002),
        (80.0, 5.8389, 2.1632, 0.8119, 0.2107, 0.002),
        (80.0, 9.7232, 3.3686, 1.3482, 0.5666, 0.1698, 0.002),
        (80.0, 10.9836, 3.8811, 1.8543, 0.9654, 0.47, 0.2107, 0.0665, 0.002),
        (80.0, 13.9293, 5.1092, 2.5152, 1.3482, 0.6799, 0.3183, 0.1698, 0.0665, 0.0225, 0.002),
    ),
    "ffhq": ((80.0, 13.9293, 5.8389, 2.9152, 1.584, 0.8119, 0.3878, 0.2107, 0.0851, 0.03, 0.002),),
    "afhqv2": (
        (80.0, 12.3816, 5.1092, 2.5152, 1.1431, 0.47, 0.2107, 0.0665, 0.002),
        (80.0, 13.9293, 5.8389, 2.9152, 1.584, 0.8119, 0.3878, 0.2107, 0.1079, 0.0395, 0.002),
    ),
}


@dataclass(frozen=True)
class Published(Grid):
    """Levels sigma / alpha published for certain numbers of steps; the last becomes 0 with final_zero.

    Other numbers of steps interpolate log sigma linearly in the step, as the authors of AYS advise, from the longest list. An end within
    0.1 % of the schedule's is exactly that.
    """

    lists: tuple[tuple[float, ...], ...]
    final_zero: bool = True
    name: ClassVar[str] = "published"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lists", tuple(tuple(float(s) for s in values) for values in self.lists))
        if not self.lists or any(len(values) < 2 for values in self.lists):
            raise ValueError("grid 'published' needs at least one list of two or more levels")
        for values in self.lists:
            if not all(0.0 < b < a < math.inf for a, b in pairwise(values)):
                raise ValueError(f"levels of grid 'published' must be positive, finite and decrease, not {values}")

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        steps = count if self.final_zero else count - 1
        table = next((values for values in self.lists if len(values) == steps + 1), None)
        if table is None:
            longest = max(self.lists, key=len)
            where = spaced(0.0, len(longest) - 1.0, steps + 1)
            table = tuple(np.exp(np.interp(where, range(len(longest)), np.log(longest))).tolist())
        return [self._clock(schedule, s) for s in table[:count]]

    def _clock(self, schedule: Schedule, s: float) -> float:
        for t in (schedule.t_max, schedule.t_min):
            if abs(rho(schedule, None, t) / s - 1.0) < _CLOSE:
                return t
        return schedule.at_lam(-math.log(s)).t


def ays(model: str) -> Published:
    """Align Your Steps (Sabour et al. 2024, arXiv 2404.14507, table 3): sd15, sdxl, deepfloyd or svd.

    The paper's three decimals, in ten steps; libraries have other digits from the fourth on.
    """
    return Published(lists=(_AYS[_known("AYS", model, _AYS)],))


def gits(model: str) -> Published:
    """GITS (Chen et al. 2024, arXiv 2405.11326), lists of the authors and of ComfyUI: cifar10, ffhq, afhqv2 (EDM) or sd15."""
    return Published(lists=_GITS[_known("GITS", model, _GITS)])


def _known(family: str, model: str, lists: Iterable[str]) -> str:
    if model not in lists:
        raise ValueError(f"{family} published no list for {model!r}, only for {', '.join(lists)}")
    return model
