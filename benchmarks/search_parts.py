"""What each part of `fastsolve` is worth: looked at after the verdict, on five of the held-out problems; it decided nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from unittest import mock

import numpy as np

import fastsolve
from benchmarks import search
from benchmarks.search_report import FOLDER
from fastsolve import Plan, grids
from fastsolve.draft import Draft
from fastsolve.grids import Few
from fastsolve.problems import Mixture, golden_mixture
from fastsolve.schedules import Schedule
from fastsolve.solvers import few as solver_of

PROBLEMS = ("mixture 0", "mixture 2", "mixture 4", "mixture 5", "digits kernel")
PUBLISHED = {"unipc": {"order": 2}, "ipndm": {}, "dpmpp_2m": {}, "dpmpp_3m": {}}


def variants(law: Schedule, calls: int) -> Iterator[tuple[str, Plan]]:
    def made(solver: str, grid: str, options: dict[str, int]) -> Plan:
        return fastsolve.make_plan(solver, schedule=law, grid=grid, nfe=calls, options=options)

    yield "fastsolve on few", made("fastsolve", "few", {})
    for name, options in PUBLISHED.items():
        yield f"{name} on few", made(name, "few", options)
    for grid in ("rbe", "ots"):
        yield f"fastsolve on {grid}", made("fastsolve", grid, {})
    nodes, draft = grids.nodes(Few(), law, calls), Draft(law, fastsolve.predictions.X0())
    with mock.patch.object(solver_of, "NOISY", math.inf):
        form = solver_of.few(draft, nodes)
    yield "the first call at the start", draft.finish(form, "few", law.start_std(nodes[0]), nodes)


def scales() -> Iterator[tuple[str, list[list[float]]]]:
    """Log errors relative to the data's scale on the golden mixture, and on it twice as wide, by N and group."""
    law = golden_mixture()
    for wide, c in ((1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (0.5, 1.0), (0.5, 0.5)):
        made = Mixture(wide * law.means.numpy(), law.weights.numpy(), wide * law.stds.numpy())
        judge = search.paths_of(made, "edm")
        number = c * Few().c
        how = {"schedule": "edm", "grid": Few(c=number), "options": {"c": number}}
        plans = [fastsolve.make_plan("fastsolve", nfe=calls, **how) for calls in search.CALLS]  # type: ignore[arg-type]
        yield f"data {wide:g}, numbers for {c:g}", [[v - math.log(wide) for v in judge(plan)] for plan in plans]


def parts() -> None:
    """Writes parts.json: mean log error of each variant less that of fastsolve on few, by N."""
    found: dict[str, list[list[float]]] = {}
    for problem in PROBLEMS:
        judge = search.panel(problem, "edm")
        law = judge.denoiser.schedule
        assert isinstance(law, Schedule)
        for place, calls in enumerate(search.CALLS):
            means = {name: float(np.mean(judge(plan))) for name, plan in variants(law, calls)}
            for name, value in means.items():
                found.setdefault(name, [[] for _ in search.CALLS])[place].append(value - means["fastsolve on few"])
    result = {
        "calls": search.CALLS,
        "less_fastsolve": {name: [round(float(np.mean(v)), 2) for v in values] for name, values in found.items()},
        "log_error_by_scale": {name: [round(float(np.mean(v)), 2) for v in values] for name, values in scales()},
    }
    (FOLDER / "parts.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    parts()
