"""Whole samples on a GPU: `python -m benchmarks.sample --out DIR`, about three minutes; --dry rehearses on the CPU.

Non-model time per call of the model (NFE) and time per sample, with a model that does nothing, one that takes as long as it is told to,
the digits network, and a DiT-S/2 and a small U-Net with random weights. fastsolve as one CUDA graph and launch by launch against a loop
in torch, diffusers' schedulers, k-diffusion, CUDA graphs of all that those queue, compiled models, and a graph of the model alone.

Time per NFE is the slope between a short and a long run, from a quiet GPU to a quiet GPU by the host's clock, less the slope of the
model alone as a graph: whoever calls a network launch by launch also pays for the network's launches. A provider is timed only if it
computes what fastsolve does, on an exact model with the same start and noise; and fastsolve only if graph, launches and the eager
executor agree in every bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_clock import GpuTime, LostError, Place, call_time, host_time, in_turns, place, why
from benchmarks.gpu_peers import Problem, Run, Task, ours, sampler
from benchmarks.gpu_report import Report, parser
from benchmarks.sample_cases import ALONE, GRAPH, MINE, OURS, TASKS, Case, Make, cases
from benchmarks.subjects import Subject, gaussian
from benchmarks.wrapped import normal
from fastsolve import Denoiser

NEAR = 2e-3  # of the largest value: diffusers works out its coefficients in float32
# The same with a network, which adds its own rounding, and in bfloat16 that of a state which diffusers keeps in it.
NEAR_IN = {torch.float32: 1e-2, torch.bfloat16: 0.15}
DRY = (6, 7)  # steps of a rehearsal


def problem(task: Task, steps: int, subject: Subject, batch: int, where: Place) -> Problem:
    """With start and noise of the provider's own."""
    blank = Problem(task, steps, subject, batch, where, lambda: torch.empty(0), lambda: lambda: torch.empty(0))
    noise = normal(blank.shape, where.device)
    return dataclasses.replace(blank, start=normal(blank.shape, where.device, blank.first), noise=lambda: noise)


def given(blank: Problem) -> tuple[Problem, Problem]:
    """A problem with one start and one list of draws, as peers take them and as fastsolve does."""
    generator = torch.Generator().manual_seed(1)
    draws = sampler(blank).plan.draws
    start, *noise = (torch.randn(blank.shape, generator=generator).to(blank.where.device) for _ in range(draws + 1))
    start = start * blank.first
    theirs = dataclasses.replace(blank, start=start.clone, noise=lambda: iter(noise).__next__)
    return theirs, dataclasses.replace(theirs, given={"x_init": start, "noise": noise} if draws else {"x_init": start})


def far(got: Tensor, judge: Tensor) -> float:
    """The largest difference in the largest value."""
    return float((got.float() - judge).abs().max() / judge.abs().max())


def gate(report: Report, where: Place, task: Task, makes: dict[str, Make]) -> dict[str, Make]:
    """The providers that compute what they should."""
    blank, right = problem(task, 6, gaussian(task.law, (4, 8, 8), where), 2, where), dict[str, Make]()
    theirs, mine = given(blank)
    judge, seeded = ours(mine, executor="eager")(), sampler(blank, executor="eager")
    for name, make in makes.items():
        try:
            if name in OURS:
                by_seed, run = sampler(blank, **OURS[name]), make(mine)
                pairs = [(run(), judge) for _ in range(2)] + [(by_seed(seed=s), seeded(seed=s)) for s in (1, 2, 3)]
                flaw = None if all(torch.equal(a, b) for a, b in pairs) else "not the bits of the eager executor"
            elif "Brownian" in name:  # takes no noise
                flaw = None if bool(make(blank)().isfinite().all()) else "not finite"
            else:
                off = far(make(theirs)(), judge)
                flaw = None if off < NEAR else f"{off:g} away from fastsolve's result"
        except Exception as error:
            report.without(f"{task}, exact model", name, why(error))
            continue
        if flaw is None:
            right[name] = make
        else:
            report.fault(f"{task}, exact model", name, flaw)
    return right


def same_sample(blank: Problem, makes: dict[str, Make]) -> Callable[[str], float]:
    """How far a provider's sample with a network is from that of fastsolve's launches, start and noise being the same."""
    theirs, mine = given(blank)
    judge = ours(mine)()
    return lambda name: far(makes[name](mine if name.startswith("fastsolve") else theirs)(), judge)


def measure(report: Report, where: Place, case: Case, right: dict[str, Make]) -> None:
    """Every provider of a case at both lengths, in turns."""
    subject = case.subject()
    pair = [problem(case.task, steps, subject, case.batch, where) for steps in (DRY if where.dry else case.lengths)]
    plain, size = [sampler(p) for p in pair], int(np.prod(pair[0].shape))
    plans = [made.plan for made in plain]
    facts: dict[str, object] = {
        "task": str(case.task),
        "subject": subject.name,
        "batch": case.batch,
        "dtype": str(subject.dtype),
    }
    facts |= {"nfe": [plan.nfe for plan in plans], "traffic_bytes": plans[1].bytes * size // plans[1].nfe}
    facts["executor"] = plain[0].executor.name
    makes, runs, measures = case.providers(right), dict[str, list[Run]](), dict[str, Callable[[], Sequence[float]]]()
    network = isinstance(subject.net, torch.nn.Module | Denoiser)
    distance = same_sample(pair[0], makes) if network else lambda name: 0.0
    for name, make in makes.items():
        try:
            off = 0.0 if name == ALONE else distance(name)
            if not off <= NEAR_IN[subject.dtype]:
                report.fault(str(case), name, f"{off:g} away from fastsolve's result")
                continue
            made = [make(p) for p in pair]
            for run in made * 2:
                run()
            where.quiet()
            if network and name != ALONE:
                report.note(str(case), name, away=off, **facts)
        except Exception as error:
            report.without(str(case), name, why(error), **facts)
            continue
        runs[name] = made
        measures[name] = lambda made=made: [call_time(where, run) for run in made]  # type: ignore[misc]
    where.settle(0.05)
    samples, failed = in_turns(measures, 2 if where.dry else 21, 0.5)
    for name, reason in failed.items():
        report.without(str(case), name, reason, **facts)
    more = plans[1].nfe - plans[0].nfe
    slopes = {name: [(long - short) / more for short, long in rows] for name, rows in samples.items()}
    model = 0.0 if not subject.costs else float(np.median(slopes[ALONE])) if ALONE in slopes else None
    for name, rows in samples.items():
        for which, plan in enumerate(plans):
            times = [row[which] for row in rows]
            report.add(str(case), name, f"sample of {plan.nfe} NFE", times, **facts, length=which)
        if name != ALONE and model is not None:
            report.add(str(case), name, "non-model per NFE", [slope - model for slope in slopes[name]], **facts)
    if GRAPH in runs and not subject.costs:
        inside(report, where, case, runs[GRAPH], facts)


def inside(report: Report, where: Place, case: Case, runs: list[Run], facts: dict[str, object]) -> None:
    """Of a captured sampler: the host's time for a call, and the GPU's."""
    clocks = [GpuTime(where, run) for run in runs]
    measures: dict[str, Callable[[], Sequence[float]]] = {
        "host time of a call": lambda: [host_time(where, run) for run in runs],
        "GPU time of a call": lambda: [clock() for clock in clocks],
    }
    samples, failed = in_turns(measures, 2 if where.dry else 50, 0.5)
    for metric, reason in failed.items():
        report.without(str(case), GRAPH, f"{metric}: {reason}", **facts)
    for metric, rows in samples.items():
        for which in (0, 1):
            report.add(str(case), GRAPH, metric, [row[which] for row in rows], **facts, length=which)


def run(report: Report, where: Place) -> None:
    """All cases that the budget allows; a task's providers are compared before its first."""
    right: dict[Task, dict[str, Make]] = {}
    where.settle(0.5)
    for case in cases(where):
        if report.left < 0:
            report.without(str(case), "all", "not begun: the time was over")
            continue
        try:
            if case.task not in right:
                right[case.task] = gate(report, where, case.task, MINE | TASKS[case.task])
            measure(report, where, case, right[case.task])
        except LostError:
            raise
        except Exception as error:
            report.without(str(case), "all", why(error))
        where.tidy()
        report.write()


def main(argv: Sequence[str] | None = None) -> int:
    """1 if a result was wrong, else 0."""
    args = parser(__doc__).parse_args(argv)
    where = place(args.dry)
    report = Report("sample", args, where)
    with torch.no_grad():
        try:
            run(report, where)
        except LostError as lost:
            report.fault("all", "all", str(lost))
    report.write(last=True)
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
