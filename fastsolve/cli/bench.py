"""`fastsolve bench`: how fast updates are on this machine, beside the loop that one would write in torch."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import expm1, log
from typing import Any

import torch
from torch import Tensor

import fastsolve
from fastsolve.cli.text import as_json, positive, table

STEPS = 20
SHAPES = ((1, 4, 32, 32), (1, 4, 128, 128))
_ABOUT = """\
Microseconds of a step: one update and one call of a model that is a single multiplication, so that the update is seen; "model alone"
is that multiplication. Whole samples of 20 steps, the clock's time, divided by 20; all take turns, and p20 to p80 is the spread between
turns. A network costs what it costs: none of this is saved from it."""
_EXAMPLES = """\
examples:
  fastsolve bench
  fastsolve bench --device cuda --rounds 51 --json > bench.json
"""
Loop = Callable[[Tensor, Callable[[int], Tensor]], Tensor]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "bench",
        help="measure updates on this machine, beside a plain loop in torch",
        description="Measures every executor that can run here, and a loop in plain torch, in turns, after their results were compared.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    command.add_argument("--threads", type=positive, metavar="N", help="of the CPU (default: as torch has it)")
    command.add_argument("--rounds", type=positive, default=31, metavar="N", help="turns (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    if args.device.partition(":")[0] not in ("cpu", "cuda"):  # others are not waited for, and the times would be wrong
        raise ValueError(f"--device is cpu, cuda or cuda:1, say, not {args.device!r}")
    threads = torch.get_num_threads()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        rows = [row for case in LOOPS for shape in SHAPES for row in measured(case, shape, args.device, args.rounds)]
        where = f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"
        if args.device.startswith("cuda"):
            where = torch.cuda.get_device_name(args.device)
    finally:
        torch.set_num_threads(threads)
    if args.json:
        versions = {"fastsolve": fastsolve.__version__, "torch": torch.__version__, "python": platform.python_version()}
        return as_json({"device": where, "steps": STEPS, "rounds": args.rounds, "versions": versions, "rows": rows})
    cells = [
        (
            row["solver"],
            "x".join(map(str, row["shape"])),
            row["provider"],
            *(f"{row[q]:.1f}" for q in ("p20", "p50", "p80")),
            f"{row['updates_per_s']:.0f}",
        )
        for row in rows
    ]
    head = ("solver", "shape", "provider", "p20 us", "p50 us", "p80 us", "updates/s")
    wide = sum(row["p80"] > 2 * row["p20"] for row in rows)
    busy = f"\n\nIn {wide} of {len(rows)} rows p80 is more than twice p20: something else was running, and they tell little."
    return f"{where}, torch {torch.__version__}, {args.rounds} turns\n\n{table(head, cells)}\n\n{_ABOUT}{busy * (wide > 0)}"


def _model(x: Tensor, t: object) -> Tensor:
    return 0.25 * x


def measured(solver: str, shape: tuple[int, ...], device: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of one case. Raises RuntimeError where an executor and the plain loop do not agree: a wrong answer has no speed."""
    samplers = dict(_samplers(solver, shape, device))
    plan = next(iter(samplers.values())).plan
    where = next(iter(samplers.values())).setting.device
    loop = LOOPS[solver]([sigma for _, _, sigma in plan.levels])
    x, *noise = torch.randn(1 + plan.draws, *shape, generator=torch.Generator().manual_seed(0)).to(where)
    x *= plan.start_std
    expected = loop(x, noise.__getitem__)
    for name, sampler in samplers.items():
        out = sampler(x_init=x, noise=noise) if noise else sampler(x_init=x)
        error = float((out - expected).abs().max() / expected.abs().max())
        if not error < 1e-4:
            raise RuntimeError(f"{name} and the plain loop of {solver} differ by {error:g}, relatively")

    def plain() -> Tensor:
        return loop(plan.start_std * torch.randn(shape, device=where), lambda _: torch.randn(shape, device=where))

    def alone() -> None:
        for _ in range(plan.nfe):
            _model(x, None)

    runs: dict[str, Callable[[], object]] = {**samplers, "torch, a plain loop": plain, "model alone": alone}
    times = _in_turns(runs, rounds, where)
    return [
        {"solver": solver, "shape": list(shape), "provider": name, **_quantiles(times[name], plan.nfe)} for name in runs
    ]


def _samplers(solver: str, shape: tuple[int, ...], device: str) -> Iterator[tuple[str, fastsolve.Sampler]]:
    """One for every executor that runs on the device; the interpreter of Triton is none to be timed."""
    found = False
    for name in ("native", "cuda", "fused", "eager"):
        try:
            sampler = fastsolve.Sampler(
                _model, shape, solver=solver, steps=STEPS, schedule="edm", prediction="x0", device=device, executor=name
            )
        except ValueError:
            if name == "eager" and not found:
                raise  # which says why the device cannot be used
            continue
        found = True
        if name != "fused" or sampler.setting.device.type != "cpu":
            yield name, sampler


def _in_turns(runs: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every run in every round, after two that warm up: the second captures a graph where there are graphs."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-2, rounds):
        for name, call in runs.items():
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quantiles(seconds: Sequence[float], steps: int) -> dict[str, float]:
    micros = sorted(1e6 * s / steps for s in seconds)
    p20, p80 = (micros[round(q * (len(micros) - 1))] for q in (0.2, 0.8))
    middle = statistics.median(micros)
    return {"p20": p20, "p50": middle, "p80": p80, "updates_per_s": 1e6 / middle}


def _dpmpp_2m(sigmas: Sequence[float]) -> Loop:
    """DPM-Solver++(2M) in sigma, where alpha = 1 (arXiv 2211.01095, algorithm 2)."""

    def loop(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        before, h_before = None, 0.0
        for s, t in pairwise(sigmas):
            d = _model(x, s)
            if t == 0.0:
                return d
            h = log(s / t)
            slope = d if before is None else (1 + h / (2 * h_before)) * d - h / (2 * h_before) * before
            x = (t / s) * x - expm1(-h) * slope
            before, h_before = d, h
        return x

    return loop


def _euler_ancestral(sigmas: Sequence[float]) -> Loop:
    """Euler with ancestral noise, as k-diffusion defines it."""

    def loop(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        for i, (s, t) in enumerate(pairwise(sigmas)):
            d = _model(x, s)
            if t == 0.0:
                return d
            up = (t * t * (s * s - t * t) / (s * s)) ** 0.5
            down = (t * t - up * up) ** 0.5
            x = x + (down - s) * ((x - d) / s) + up * noise(i)
        return x

    return loop


LOOPS: dict[str, Callable[[Sequence[float]], Loop]] = {"dpmpp_2m": _dpmpp_2m, "euler_ancestral": _euler_ancestral}
