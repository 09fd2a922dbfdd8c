"""What is said, once, of a grid that is known to be far off for a solver."""

from __future__ import annotations

import functools
import math
import warnings
from itertools import pairwise

from fastsolve import grids
from fastsolve.grids import RBE, Grid, RBEAtan
from fastsolve.schedules import Schedule
from fastsolve.walks import Walk

# What makes a grid far off, measured on two mixtures on VP, Stable Diffusion's table, EDM and flow at 6 to 20 calls: above so much
# sigma / alpha, a step longer in lam by so much than the one before for those that extrapolate (half of such cases had more than 5 times
# the error of 'rbe'), or a step so long for those that hold the noise between calls (up to 200 times); and many steps from a start
# where data shows through the noise, an error that no step removes.
_SHOWS, _GROWTH, _LENGTH = 0.4, 2.5, 4.75
_START, _MANY = 8.0, 10
_EXTRAPOLATE = {"deis", "deis_tab", "dpmpp_2m", "dpmpp_3m", "res_multistep", "unipc"}
_HOLD_NOISE = {"deis_rho_rk", "dpm_solver_2", "dpm_solver_3", "heun"}
_warned: set[tuple[str, str, Schedule]] = set()


def warn_of(solver: str, law: Schedule, grid: str, layout: Grid, steps: int, walk: Walk) -> None:
    """Warn once of the grid that a caller named; the schedule's default is nobody's choice."""
    if (asked := (solver, grid, law)) in _warned or (fault := _fault(solver, law, layout, steps, walk)) is None:
        return
    _warned.add(asked)  # first: where warnings are errors, the next plan is still made
    warnings.warn(
        f"grid {grid!r} on schedule {law.name!r} is far off for {solver} in {steps} steps: {fault}; use 'rbe'",
        UserWarning,
        stacklevel=3,
    )


@functools.lru_cache(maxsize=256)
def _fault(solver: str, law: Schedule, layout: Grid, steps: int, walk: Walk) -> str | None:
    """What makes the grid a disaster for the solver, if it is one."""
    if isinstance(layout, RBE | RBEAtan) or walk.inverse:
        return None  # what would be recommended instead, and what was not measured
    whole = grids.nodes(layout, law, steps)
    levels, start = walk.of(whole), whole[0]
    if start is levels[0] and start.t < law.t_max and steps >= _MANY and start.sigma < _START * start.alpha:
        return f"it starts at t = {start.t:g}, where sigma / alpha is {start.sigma / start.alpha:.2g}"
    before = math.inf
    for s, t in pairwise(node for node in levels if node.alpha > 0.0 and node.sigma > 0.0):
        length = t.lam - s.lam
        long = length - before > _GROWTH if solver in _EXTRAPOLATE else solver in _HOLD_NOISE and length > _LENGTH
        if long and s.sigma > _SHOWS * s.alpha:
            return f"its step from t = {s.t:.3g} to {t.t:.3g} is too long"
        before = length
    return None
