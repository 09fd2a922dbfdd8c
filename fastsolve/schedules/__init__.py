"""Noise schedules: the laws alpha(t), sigma(t) that models are trained on, in float64.

Every state is x = alpha x0 + sigma eps. lam = log(alpha / sigma) is half the log signal-to-noise ratio, in nats; it is +inf where
sigma = 0 and -inf where alpha = 0, and both ends are ordinary nodes. The clock t of each schedule is what its models are told.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from fastsolve.schedules.continuous import (
    EDM as EDM,
    VE as VE,
    VP as VP,
    Flow as Flow,
    SubVP as SubVP,
    VPCosine as VPCosine,
    dynamic_shift as dynamic_shift,
)
from fastsolve.schedules.law import Node as Node, Schedule as Schedule
from fastsolve.schedules.table import (
    VPTable as VPTable,
    scaled_linear as scaled_linear,
    squared_cosine as squared_cosine,
    zero_terminal_snr as zero_terminal_snr,
)

_NAMED: dict[str, Callable[[], Schedule]] = {
    "vp": VP,
    "vp_cosine": VPCosine,
    "vp_scaled_linear": scaled_linear,
    "sub_vp": SubVP,
    "ve": VE,
    "edm": EDM,
    "flow": Flow,
}
_made: dict[str, Schedule] = {}


def get(schedule: str | Schedule) -> Schedule:
    """The schedule of a name, with its published constants, or the object itself. Raises ValueError for an unknown name."""
    if isinstance(schedule, Schedule):
        return schedule
    if not isinstance(schedule, str):
        given = type(schedule).__name__
        raise TypeError(
            f"schedule must be a name or a Schedule, not {given}; a table of alphas_cumprod is VPTable(table)"
        )
    if schedule not in _NAMED:
        near = difflib.get_close_matches(str(schedule), _NAMED, 1, 0.0)
        raise ValueError(f"unknown schedule {schedule!r}: known are {', '.join(_NAMED)}; nearest is {near[0]!r}")
    if schedule not in _made:
        _made[schedule] = _NAMED[schedule]()
    return _made[schedule]
