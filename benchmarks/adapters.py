"""Host time of `scheduler.step`, ours against the built-in it replaces: `python -m benchmarks.adapters`, about a minute, one thread.

A tiny CPU tensor, so that what is timed is what the host does; the schedulers take turns in one process, a turn being all steps of a run
but the first, which begins it. Needs the extra `bench`. No figure is printed for a pair that should be the same and is not.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Report
from fastsolve.adapters.diffusers import FastSolveFlowScheduler, FastSolveScheduler

STEPS, ROUNDS, SHAPE = 20, 60, (1, 4, 8, 8)
VP = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

# A built-in with its config, and the solver with options that computes the same; None where noise is drawn in another way.
PAIRS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], bool]] = {
    "DEIS": ("DEISMultistepScheduler", {}, "deis", {"order": 1, "variant": "logrho"}, True),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, "dpmpp_2m", {}, True),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", {}, False),
    "UniPC": ("UniPCMultistepScheduler", {}, "unipc", {"order": 2}, True),
    "Euler": ("EulerDiscreteScheduler", {}, "euler", {}, True),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}, "euler_ancestral", {}, False),
    "Heun": ("HeunDiscreteScheduler", {}, "heun", {}, True),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, "ddim", {}, True),
    "SA-Solver": ("SASolverScheduler", {}, "sa_solver", {}, False),
}
FLOW = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "flow_euler", {}, True)
ALONE = ("seeds2", "seeds3", "er_sde", "dpmpp_3m_sde")


def laid(scheduler: Any) -> Any:
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def result(scheduler: Any, x: Tensor, raw: list[Tensor]) -> Tensor:
    laid(scheduler)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    for t, output in zip(scheduler.timesteps, raw, strict=False):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


def turn(scheduler: Any, x: Tensor, raw: Tensor) -> float:
    """Microseconds of a step, in CPU time of the thread."""
    times = list(laid(scheduler).timesteps)
    skipped = 1 + getattr(getattr(scheduler, "_layout", None), "idle", 0)
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, times[0])  # the built-ins say else, once a step, that it was not called
    for t in times[:skipped]:
        x = scheduler.step(raw, t, x, return_dict=False)[0]
    start = time.thread_time()
    for t in times[skipped:]:
        x = scheduler.step(raw, t, x, return_dict=False)[0]
    return (time.thread_time() - start) / (len(times) - skipped) * 1e6


def pairs() -> dict[str, tuple[Any, Any]]:
    """(ours, theirs), checked to give the same where they should."""
    raw = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(2 * STEPS)]
    found: dict[str, tuple[Any, Any]] = {}
    for label, (name, config, solver, options, same) in {**PAIRS, "flow matching Euler": FLOW}.items():
        flow = label == "flow matching Euler"
        theirs = getattr(diffusers, name)(**({} if flow else VP), **config)
        kind, more = (FastSolveFlowScheduler, {"compat": True}) if flow else (FastSolveScheduler, {})
        ours = kind.from_config(theirs.config, solver=solver, options=options, **more)
        if same:
            a, b = result(ours, raw[-1], raw), result(theirs, raw[-1], raw)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * float(b.abs().max()))
        found[label] = ours, theirs
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    report = Report("adapters")
    x, raw = torch.randn(SHAPE), torch.randn(SHAPE)
    with torch.no_grad():
        compared = pairs()
        flow = compared.pop("flow matching Euler")
        subjects = {
            (label, who): s for label, pair in compared.items() for who, s in zip(("ours", "theirs"), pair, strict=True)
        }
        subjects |= {(name, "ours"): FastSolveScheduler(solver=name, **VP) for name in ALONE}
        subjects |= {("flow matching Euler", who): s for who, s in zip(("ours", "theirs"), flow, strict=True)}
        times: dict[tuple[str, str], list[float]] = {key: [] for key in subjects}
        for _ in range(ROUNDS):
            for key, scheduler in subjects.items():
                times[key].append(turn(scheduler, x, raw))
    measured = {key: [float(np.quantile(values, q)) for q in (0.2, 0.5, 0.8)] for key, values in times.items()}
    base = measured["flow matching Euler", "theirs"]
    for label in [*compared, *ALONE, "flow matching Euler"]:
        rows = {"fastsolve": measured[label, "ours"]}
        if (label, "theirs") in measured:
            rows["diffusers"] = measured[label, "theirs"]
        report.add(
            f"scheduler.step, {label}",
            {**rows, "diffusers FlowMatchEuler": base} if label != "flow matching Euler" else rows,
        )
    report.write()


if __name__ == "__main__":
    main()
