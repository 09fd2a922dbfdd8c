"""A whole step of DPM-Solver++(2M), ours against diffusers' scheduler: `python -m benchmarks.schedulers`, about a minute, one thread.

Ours is what happens between two model calls (native executor), theirs `DPMSolverMultistepScheduler.step`; both with eps-prediction, the
same table and the same levels. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

import fastsolve
from benchmarks.measure import Report, keep_freed_memory, quantiles
from fastsolve import executors, schedules
from fastsolve.executors.run import Setting
from fastsolve.lower import lower

STEPS = 20
SIZES = {"16 k": (1, 4, 64, 64), "1 M": (4, 16, 128, 128)}


def ours(
    solver: str, schedule: schedules.Schedule, prediction: str, levels: list[float], raw: list[Tensor]
) -> Callable[[], Tensor]:
    """Launch of a middle step as the loop makes it: the raw output's address is set, then the launch runs."""
    shape = tuple(raw[0].shape)
    plan = fastsolve.make_plan(solver, schedule=schedule, grid=levels, prediction=prediction)
    setting = Setting(shape, torch.device("cpu"), torch.float32, torch.float32, torch.float32, torch.float32, False)
    program = lower(plan)
    tensors = [torch.randn(shape) for _ in program.slots]
    backend = executors.backend("native", program, setting, list(tensors))
    middle = len(program.steps) // 2
    (call,), launch = program.steps[middle]

    def step() -> Tensor:
        backend.bind(call.raws[0], raw[0])
        backend.launch(middle + 1)
        return tensors[launch.rows[0].out]

    return step


def dpmpp_2m(shape: tuple[int, ...]) -> list[tuple[str, Callable[[], object]]]:
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_schedule="linear", algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(0)
    x, raw = torch.randn(shape), [torch.randn(shape)]
    table = schedules.VPTable(tuple(scheduler.alphas_cumprod.double().tolist()))
    levels = [float(t) for t in scheduler.timesteps] + [-1.0]

    # The whole trajectory first, ours against theirs: no figure for a sampler that computes something else.
    state, outputs = x.clone(), iter([torch.randn(shape) for _ in range(STEPS)])
    given = [torch.randn(shape) for _ in range(STEPS)]
    for t, out in zip(scheduler.timesteps, given, strict=True):
        state = scheduler.step(out, t, state).prev_sample
    outputs = iter(given)
    mine = fastsolve.sample(
        lambda x, t: next(outputs),
        solver="dpmpp_2m",
        schedule=table,
        prediction="eps",
        grid=levels,
        x_init=x,
        executor="native",
    )
    torch.testing.assert_close(mine, state, rtol=2e-3, atol=2e-3)  # theirs works out log-SNR in float32

    middle = STEPS // 2

    def theirs() -> object:
        scheduler._step_index, scheduler.lower_order_nums = middle, 2
        return scheduler.step(raw[0], scheduler.timesteps[middle], x)

    return [("fastsolve native", ours("dpmpp_2m", table, "eps", levels, raw)), ("diffusers DPM++2M step", theirs)]


def flow_euler(shape: tuple[int, ...]) -> list[tuple[str, Callable[[], object]]]:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(0)
    x, raw = torch.randn(shape), [torch.randn(shape)]

    def theirs() -> object:
        scheduler._step_index = STEPS // 2
        return scheduler.step(raw[0], scheduler.timesteps[STEPS // 2], x)

    levels = [float(s) for s in scheduler.sigmas]
    given = [torch.randn(shape) for _ in range(STEPS)]
    state, outputs = x.clone(), iter(given)
    for t, out in zip(scheduler.timesteps, given, strict=True):
        state = scheduler.step(out, t, state).prev_sample
    mine = fastsolve.sample(
        lambda x, t: next(outputs),
        solver="ddim",
        schedule="flow",
        prediction="flow",
        grid=levels,
        x_init=x,
        executor="native",
    )
    torch.testing.assert_close(mine, state, rtol=1e-4, atol=1e-4)
    return [
        ("fastsolve native", ours("ddim", schedules.Flow(), "flow", levels, raw)),
        ("diffusers flow Euler step", theirs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep-freed-memory", action="store_true", help="torch's best case, see `measure`")
    args = parser.parse_args()
    if args.keep_freed_memory:
        keep_freed_memory()
    torch.set_num_threads(1)
    report = Report("schedulers_memory_kept" if args.keep_freed_memory else "schedulers")
    with torch.no_grad():
        for label, shape in SIZES.items():
            repeats = 200 if label == "16 k" else 4
            report.add(f"DPM++2M step, {label}", quantiles(dpmpp_2m(shape), 41, repeats))
            report.add(f"flow Euler step, {label}", quantiles(flow_euler(shape), 41, repeats))
    report.write()


if __name__ == "__main__":
    main()
