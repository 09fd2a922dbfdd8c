"""Step grids: the nodes a solver walks, from noise to data.

A grid of `steps` steps has steps + 1 levels, decreasing in the schedule's clock. Unless `final_zero=False`, the last level is clean
data (sigma = 0): the last step then costs one model call and returns its denoised prediction.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from itertools import pairwise

from fastsolve.grids.beta import Beta as Beta
from fastsolve.grids.clock import (
    LinearQuadratic as LinearQuadratic,
    Spacing as Spacing,
    Stretched as Stretched,
    Uniform as Uniform,
)
from fastsolve.grids.few import Few as Few
from fastsolve.grids.jumps import GITSPilot as GITSPilot
from fastsolve.grids.ots import OTS as OTS
from fastsolve.grids.pilot import RBEPilot as RBEPilot
from fastsolve.grids.published import Published as Published, ays as ays, gits as gits
from fastsolve.grids.rbe import RBE as RBE, RBEAtan as RBEAtan, RBEReleasedGauss as RBEReleasedGauss
from fastsolve.grids.rule import Explicit as Explicit, Grid as Grid
from fastsolve.grids.sigma import (
    IDDPM as IDDPM,
    Karras as Karras,
    Laplace as Laplace,
    TPoly as TPoly,
    UniformLogSNR as UniformLogSNR,
)
from fastsolve.schedules import VE, Flow, Node, Schedule, VPTable

_NAMED: dict[str, Grid] = {
    "karras": Karras(),
    "uniform": Uniform(),
    "quadratic": Uniform(power=2.0),
    "uniform_logsnr": UniformLogSNR(),
    "exponential": UniformLogSNR(),
    "polyexponential": UniformLogSNR(),
    "linear": Spacing("linear"),
    "linspace": Spacing("linspace"),
    "leading": Spacing("leading"),
    "trailing": Spacing("trailing"),
    "sgm_uniform": Spacing("sgm_uniform"),
    "simple": Spacing("simple"),
    "ddim_uniform": Spacing("leading", offset=1),
    "ddim_quad": Spacing("quad"),
    "normal": Uniform(),
    "beta": Beta(),
    "laplace": Laplace(),
    "linear_quadratic": LinearQuadratic(),
    "kl_optimal": RBEAtan(to_zero=False),
    "rbe": RBE(),
    "rbe_atan": RBEAtan(),
    "tpoly": TPoly(),
    "few": Few(),
    "iddpm": IDDPM(),
    "ots": OTS(),
    **{f"ays_{model}": ays(model) for model in ("sd15", "sdxl", "deepfloyd", "svd")},
    **{f"gits_{model}": gits(model) for model in ("cifar10", "ffhq", "afhqv2", "sd15")},
}

_USUAL: dict[type[Schedule], str] = {VE: "karras", VPTable: "trailing", Flow: "uniform"}
# On VP, its error was 1.45 times the least of eleven grids (geometric mean over eight solvers, 6 to 20 calls and six mixtures that no
# setting was chosen on), of uniform 5.66, of quadratic 2.43: docs/grids.md, which has the other schedules, too.
_ELSE = "rbe"


def get(grid: str | Grid | Sequence[float] | None, schedule: Schedule) -> Grid:
    """The grid of a name, an object as it is, an explicit sequence of clock values, or for None what suits the schedule.

    (VE and EDM: karras; tables: trailing; flow: uniform; VP, sub-VP and cosine: rbe.) Raises ValueError for an unknown name and
    TypeError for anything else.
    """
    if grid is None:
        grid = next((name for kind, name in _USUAL.items() if isinstance(schedule, kind)), _ELSE)
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
    levels = grid.levels(schedule.whole, steps)
    if levels[0] == schedule.t_clean:
        raise ValueError(f"the grid starts at {levels[0]:g}, clean data, where there is nothing to sample")
    for i, t in enumerate(levels):
        if not math.isfinite(t):
            raise ValueError(f"level {i} of the grid is {t}: levels must be finite")
        if i and not t < levels[i - 1]:
            raise ValueError(f"levels must decrease, but level {i} is {t:g} after {levels[i - 1]:g}")
    walked = tuple(schedule.node(t) for t in levels)
    for i, (above, below) in enumerate(pairwise(walked)):
        if not below.t < above.t:  # the schedule has rounded them
            raise ValueError(
                f"levels {levels[i]:g} and {levels[i + 1]:g} are both {below.t:g} of the levels that the model knows: take fewer "
                "steps, or a grid that picks them (iddpm, for its levels)"
            )
    return walked
