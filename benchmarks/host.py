"""Host time: making a plan, and from one model call to the next. `python -m benchmarks.host`, half a minute, one thread."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

import fastsolve
from benchmarks.measure import Report, quantiles
from fastsolve import planner
from fastsolve.lower import lower

STEPS = 50
SOLVERS = ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "heun", "seeds1", "seeds2", "seeds3", "deis", "unipc", "tada")


def plans(report: Report) -> None:
    """A plan of 50 steps from scratch, its lowering, and the cached plan."""
    for solver in SOLVERS:

        def make(solver: str = solver) -> fastsolve.Plan:
            return fastsolve.make_plan(solver, schedule="edm", steps=STEPS)

        def fresh() -> None:
            planner._plan.cache_clear()
            make()

        plan = make()
        report.add(f"plan, {STEPS} steps, {solver} ({plan.nfe} calls)", quantiles([("make_plan", fresh)], 31, 3))
        report.add(f"lowering, {solver}", quantiles([("lower", lambda plan=plan: lower.__wrapped__(plan))], 31, 3))
        report.add(f"plan, cached, {solver}", quantiles([("make_plan", make)], 31, 100))


def gaps(solver: str, elements: int, runs: int = 60) -> list[float]:
    """Microseconds from one return of the model to its next call, with a model that only hands out prepared tensors."""
    outputs = [torch.randn(1, elements) for _ in range(4)]
    found: list[int] = []
    last: list[int] = []
    turn = iter(range(10**9))

    def model(x: Tensor, t: Tensor) -> Tensor:
        now = time.perf_counter_ns()
        found.extend(now - then for then in last)
        raw = outputs[next(turn) % 4]
        last[:] = [time.perf_counter_ns()]
        return raw

    sampler = fastsolve.Sampler(model, (1, elements), solver=solver, steps=STEPS, schedule="edm", prediction="x0")
    for seed in range(runs):
        last.clear()
        sampler(seed=seed)
    return [float(np.quantile(found, q)) / 1e3 for q in (0.2, 0.5, 0.8)]


def main() -> None:
    torch.set_num_threads(1)
    report = Report("host")
    plans(report)
    for solver in SOLVERS:
        report.add(f"between calls, {solver}, 256 elements", {"native": gaps(solver, 256)}, "wall time")
    report.write()


if __name__ == "__main__":
    main()
