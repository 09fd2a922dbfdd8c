"""What every solver costs besides its model: `python -m benchmarks.plans`. Counted from plans, except the plan time.

Per model call: launches, tensor passes (reads + writes of the state, in latents) and normals drawn; tensors alive at the peak; and the
time to make a plan of 20 steps. Beside it what other libraries launch and move per step for the same method.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import fastsolve
from benchmarks.measure import RESULTS, quantiles
from fastsolve import planner
from fastsolve.lower import Program, lower

STEPS = 20

# Launches and passes per step, counted with an emulated device in 2026: diffusers 0.42.1, k-diffusion 4601bf0, ComfyUI a125cd8,
# EDM2 4bf8162.
# At the default order of the solver here: 3 for deis and unipc.
PEERS = {
    "ddim": "diffusers 10 launches, 16 passes",
    "euler": "diffusers 7, 17; k-diffusion 11, 14; ComfyUI 6, 10",
    "euler_ancestral": "diffusers 10, 23; k-diffusion 25, 19",
    "heun": "diffusers 9, 22 per call; k-diffusion 19, 29, EDM2 13, 27 per step",
    "dpmpp_2m": "diffusers 10, 24; k-diffusion and ComfyUI 31, 14",
    "dpmpp_3m": "diffusers 19, 47",
    "dpmpp_2m_sde": "diffusers 13, 30; k-diffusion 392, 768",
    "dpmpp_3m_sde": "k-diffusion 402, 795; ComfyUI 63, 55",
    "dpmpp_sde": "k-diffusion 789, 1510",
    "deis": "diffusers 14, 33; ComfyUI 10, 20",
    "unipc": "diffusers 170, 81",
    "sa_solver": "diffusers 26, 52",
    "seeds2": "ComfyUI 63, 42",
    "seeds3": "ComfyUI 109, 75",
    "er_sde": "ComfyUI 76, 39",
    "res_multistep": "ComfyUI 39, 22",
    "flow_euler": "diffusers 3, 5",
    "flow_heun": "diffusers 11, 20 per call",
    "lcm": "diffusers 20, 22",
}
OPTIONS: Mapping[str, dict[str, object]] = {"restart": {"intervals": [(3, 2, 0.06, 0.3)]}}
SCHEDULES = {"ddpm": "vp", "flow_euler": "flow", "flow_heun": "flow", "flow_sde": "flow"}


def peak(program: Program) -> int:
    """State-sized tensors that exist at once: buffers, raw outputs held, and the result."""
    return sum(slot.kind in ("state", "input", "raw", "out") for slot in program.slots)


def main() -> None:
    rows = []
    columns = f"{'solver':20s} {'NFE':>4s} {'launches/NFE':>13s} {'passes/NFE':>11s} {'normals/NFE':>12s} {'peak':>5s} {'plan ms':>8s}"
    print(f"{columns}  elsewhere, per step")
    for name in fastsolve.list_solvers():
        schedule, options = SCHEDULES.get(name, "edm"), OPTIONS.get(name)

        def make(
            name: str = name, schedule: str = schedule, options: dict[str, object] | None = options
        ) -> fastsolve.Plan:
            planner._plan.cache_clear()
            return fastsolve.make_plan(name, schedule=schedule, steps=STEPS, options=options)

        plan = make()
        program = lower(plan)
        milliseconds = quantiles([(name, make)], 11, 1)[name][1] / 1e3
        row = {
            "solver": name,
            "nfe": plan.nfe,
            "launches_per_nfe": plan.launches / plan.nfe,
            "passes_per_nfe": plan.bytes / 4 / plan.nfe,
            "normals_per_nfe": sum(len(launch.draws) for _, launch in program.steps) / plan.nfe,
            "peak_latents": peak(program),
            "plan_ms": milliseconds,
            "elsewhere": PEERS.get(name, ""),
        }
        rows.append(row)
        print(
            f"{name:20s} {plan.nfe:4d} {row['launches_per_nfe']:13.2f} {row['passes_per_nfe']:11.2f} "
            f"{row['normals_per_nfe']:12.2f} {row['peak_latents']:5d} {milliseconds:8.2f}  {row['elsewhere']}"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "plans.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
