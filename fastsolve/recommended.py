"""What to sample with, from figures that were measured: `recommend`. Its table is written by benchmarks/advice.py."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastsolve import schedules
from fastsolve.schedules import VE, Schedule

_ASKED = {None: "law", True: "noise", False: "path"}


@dataclass(frozen=True)
class Recommendation:
    """A solver with its options and a grid. `arguments` are those of `sample`; printed, it says how sure that is.

    nfe: the budget of model calls that was measured. as_good: others (solver with options, grid) within two standard errors of the best
    at it, best first, eight at most; ties: how many there are in all. next: the best other solver that is worse, by how much (0.05: its
    figures are 5 % above the best's, geometric mean over the problems), and the standard error of that; None where all are as good.
    """

    solver: str
    options: Mapping[str, object]
    grid: str
    nfe: int
    as_good: tuple[tuple[str, str], ...]
    ties: int
    next: tuple[str, str, float, float] | None

    @property
    def arguments(self) -> dict[str, object]:
        """`sample(model, nfe=nfe, **recommend(nfe).arguments)`."""
        return {"solver": self.solver, "grid": self.grid, "options": dict(self.options)}

    def __str__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        said = f"{self.solver}{options} on grid {self.grid!r} (measured with {self.nfe} calls)"
        if self.ties:
            few = ", ".join(f"{name} on {grid!r}" for name, grid in self.as_good[:3])
            said += f"; {self.ties} as good within two standard errors: {few}{', ...' * (self.ties > 3)}"
        if self.next is not None:
            name, grid, more, error = self.next
            said += f"; then {name} on {grid!r}, {100 * more:.0f} % worse than the best (standard error {100 * error:.0f} %)"
        return said


def recommend(
    nfe: int, *, stochastic: bool | None = None, schedule: str | Schedule = "edm", variables: int = 1
) -> Recommendation:
    """The best solver that was measured for so many model calls, with its grid; see docs/which_solver.md for what was measured.

    stochastic: None asks for samples nearest to the law of the data, of any solver; True asks the same of solvers that draw noise;
    False asks for a path nearest to the exact solution of the probability-flow ODE, of solvers without noise. schedule: VE and EDM,
    flow matching and others that start at alpha = 0, and the rest (VP) are told apart. variables: 2 admits solvers with a momentum
    variable (tada), whose start has another shape, where stochastic is None. A budget that was not measured takes the
    advice of the next lower one.

    Raises TypeError and ValueError for an nfe that is no positive int, for other values of stochastic and variables, and for a schedule
    that is not known.
    """
    if isinstance(nfe, bool) or not hasattr(nfe, "__index__"):
        raise TypeError(f"nfe must be an int, not {nfe!r}")
    if (budget := operator.index(nfe)) < 1:
        raise ValueError(f"nfe must be at least 1, not {budget}")
    if stochastic not in (None, True, False):
        raise TypeError(f"stochastic must be True, False or None for both, not {stochastic!r}")
    if variables not in (1, 2):
        raise ValueError(f"variables must be 1, or 2 to admit tada, not {variables!r}")
    law = schedules.get(schedule)
    asked = _ASKED[stochastic]
    fitting = [
        row
        for row in _rows()
        if (row["schedule"], row["asked"], row["variables"])
        == (_family(law), asked, variables if asked == "law" else 1)
    ]
    row = max((row for row in fitting if row["nfe"] <= budget), key=_budget, default=min(fitting, key=_budget))
    following = row["next"]
    return Recommendation(
        row["solver"],
        dict(row["options"]),
        row["grid"],
        row["nfe"],
        tuple((way, grid) for way, grid in row["as_good"]),
        row["ties"],
        None if following is None else (*following,),
    )


def _budget(row: Mapping[str, Any]) -> int:
    return int(row["nfe"])


def _family(law: Schedule) -> str:
    """Of the schedules that were measured, the one that is like this one."""
    if isinstance(law, VE):
        return "edm"
    return "flow" if law.node(law.t_max).alpha == 0.0 else "vp"


@functools.cache
def _rows() -> list[dict[str, Any]]:
    text = (resources.files("fastsolve") / "recommended.json").read_text("utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    for row in rows:  # what a plan is asked with is a key of its cache
        row["options"] = {name: _tuples(value) for name, value in row["options"].items()}
    return rows


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
