"""What every solver costs besides its model: `python -m benchmarks.plans`. Counted from plans, except the plan time.

Launches; per model call bytes that an element costs (reads + writes of the state in float32) and normals drawn; tensors of the state's
size alive at the peak, those of the model included; and the time to make a plan of 20 steps. Beside it what other libraries launch and
move per model call for the same method, as benchmarks/counts.py counted it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import fastsolve
from benchmarks.measure import RESULTS, quantiles, save
from fastsolve import planner
from fastsolve.lower import lower
from fastsolve.program import Program

STEPS = 20
OPTIONS: Mapping[str, dict[str, object]] = {"restart": {"intervals": [(3, 2, 0.06, 0.3)]}}
SCHEDULES = {"ddpm": "vp", "flow_euler": "flow", "flow_heun": "flow", "flow_sde": "flow"}


def peak(program: Program) -> int:
    """State-sized tensors that exist at once: buffers, raw outputs held, and the result."""
    return sum(slot.kind in ("state", "input", "raw", "out") for slot in program.slots)


def elsewhere() -> dict[str, str]:
    """By solver: launches and bytes per element of a model call in other libraries, as saved by benchmarks/counts.py."""
    found: dict[str, list[str]] = {}
    for row in json.loads((RESULTS / "counts.json").read_text())["rows"]:
        if row["library"] != "fastsolve":
            text = f"{row['library']} {row['method']} {row['launches']:.0f}, {4 * row['passes']:.0f}"
            found.setdefault(row["solver"], []).append(text)
    return {solver: "; ".join(texts) for solver, texts in found.items()}


def main() -> None:
    rows, others = [], elsewhere()
    print(f"{'':20s} {'':>4s} {'':>9s} {'B/element':>10s} {'normals':>8s} {'tensors':>8s} {'plan':>6s}")
    print(
        f"{'solver':20s} {'NFE':>4s} {'launches':>9s} {'per call':>10s} {'per call':>8s} {'at peak':>8s} {'ms':>6s}"
        "  elsewhere: launches, B/element per call"
    )
    for name in fastsolve.list_solvers():
        schedule, options = SCHEDULES.get(name, "edm"), OPTIONS.get(name)

        def make(
            name: str = name, schedule: str = schedule, options: dict[str, object] | None = options
        ) -> fastsolve.Plan:
            planner._plan.cache_clear()
            return fastsolve.make_plan(name, schedule=schedule, steps=STEPS, options=options)

        plan = make()
        program = lower(plan)
        row = {
            "solver": name,
            "nfe": plan.nfe,
            "launches": plan.launches,
            "bytes per element per nfe": plan.bytes / plan.nfe,
            "normals per nfe": sum(len(launch.draws) for _, launch in program.steps) / plan.nfe,
            "tensors at the peak": peak(program),
            "plan, ms": quantiles([(name, make)], 11, 1)[name][1] / 1e3,
            "elsewhere": others.get(name, ""),
        }
        rows.append(row)
        print(
            f"{name:20s} {plan.nfe:4d} {plan.launches:9d} {row['bytes per element per nfe']:10.1f} "
            f"{row['normals per nfe']:8.2f} {row['tensors at the peak']:8d} {row['plan, ms']:6.2f}  {row['elsewhere']}"
        )
    save("plans", rows)


if __name__ == "__main__":
    main()
