"""Bandwidth of the fused update on a GPU, 4 KB to 1 GB: `python -m benchmarks.update --out DIR`, a minute and a half; --dry rehearses.

2 to 6 inputs, up to three normals, models in float32 and bfloat16, and the launches with two rows that real solvers have; executors
`fused` and `cuda` against a copy of as many bytes, the expression in torch, torch.compile of it, and for noise torch.randn with an
axpy and the same kernel with tl.randn. What a provider computes is compared with NumPy before it is timed.

A size is what one launch reads and writes. Launches are nodes of a CUDA graph on rotating tensors, so that neither the host nor the L2
cache is measured: all sets together are more than twice the L2, except for the smallest sizes ("resident"), which lie in L2 as they
do in a sampler.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.gpu_clock import Launches, LostError, Place, in_turns, place, why
from benchmarks.gpu_report import Report, parser
from benchmarks.update_patterns import SEED, Node, Pattern, Tensors, of_solver, one_row

EXECUTORS = ("fused", "cuda", "native")
SIZES = [2**p for p in (12, 16, 18, 20, 22, 24, 26, 28, 30)]
FEWER = [2**p for p in (16, 22, 28, 30)]
COMPILED = [2**p for p in (22, 28)]
F32, BF16 = torch.float32, torch.bfloat16
Build = Callable[[Tensors], Node]


def patterns() -> Iterator[tuple[Pattern, Sequence[int]]]:
    """All patterns with their sizes, the most wanted first."""
    yield one_row(4, 0, F32), SIZES
    yield one_row(3, 1, F32), SIZES
    yield one_row(1, 1, F32), SIZES
    yield one_row(4, 0, BF16), SIZES
    yield of_solver("dpmpp_2m", "eps", 4, BF16), SIZES
    yield from ((one_row(inputs, 0, F32), FEWER) for inputs in (2, 3, 5, 6))
    yield from ((one_row(inputs, 1, BF16), FEWER) for inputs in (2, 3))
    yield from ((one_row(inputs, 0, BF16), FEWER) for inputs in (2, 3, 5, 6))
    yield of_solver("seeds3", "x0", 11, BF16), FEWER
    yield of_solver("dpmpp_3m_sde", "x0", 4, BF16), FEWER
    yield one_row(2, 1, F32), FEWER
    yield from ((one_row(3, draws, model), FEWER) for draws in (2, 3) for model in (F32, BF16))


def by_executor(name: str) -> Build:
    return lambda tensors: tensors.by_executor(name)


def copied(tensors: Tensors, copy: Callable[[Tensor, Tensor], Tensor]) -> Node:
    """Half of the bytes read, half of them written."""
    return lambda i: [copy(*tensors.pairs[i % tensors.count])]


# A copy in a graph is a node of its own kind, which the driver may give to a copy engine; a negation is a kernel like any other.
COPIES: dict[str, Build] = {
    "copy": lambda tensors: copied(tensors, lambda to, source: to.copy_(source)),
    "negation": lambda tensors: copied(tensors, lambda to, source: torch.neg(source, out=to)),
}


def in_torch(tensors: Tensors) -> Node:
    return tensors.by_torch(tensors.expression)


def randn_and_axpy(tensors: Tensors) -> Node:
    """x + c z in two launches; the first coefficient is 1."""
    c = tensors.coefficients[0][1]

    def expression(sources: list[Tensor]) -> list[Tensor]:
        return [torch.add(sources[0], torch.randn_like(sources[0]), alpha=c)]

    return tensors.by_torch(expression)


def tl_randn(tensors: Tensors) -> Node:
    from benchmarks.update_kernels import with_randn

    device = tensors.place.device
    table = torch.tensor(tensors.coefficients[0], device=device)
    seed = torch.tensor(SEED - 2**64, dtype=torch.int64, device=device)

    def node(i: int) -> list[Tensor]:
        outs = tensors.outs[i % tensors.count]
        with_randn(outs[0], tuple(tensors.sources[i % tensors.count]), table, seed, tensors.pattern.draws)
        return outs

    return node


def compiled(tensors: Tensors) -> Node:
    torch.compiler.reset()  # else each size would count as one more recompilation of the last
    return tensors.by_torch(torch.compile(tensors.expression, dynamic=False, fullgraph=True))


def providers(pattern: Pattern, size: int, only: Sequence[str], place: Place) -> dict[str, Build]:
    """Who computes a pattern at a size; the executors first."""
    found: dict[str, Build] = {name: by_executor(name) for name in only} | COPIES | {"torch": in_torch}
    if pattern.draws and len(pattern.rows) == 1:
        if importlib.util.find_spec("triton") is not None and (
            not place.dry or os.environ.get("TRITON_INTERPRET") == "1"
        ):
            found["tl.randn"] = tl_randn
        if pattern.sources == "s":
            found["torch.randn, add(alpha=)"] = randn_and_axpy
    if size in COMPILED and (pattern.sources, pattern.draws) in (("srss", 0), ("srs", 1)) and not place.dry:
        found["torch.compile"] = compiled
    return found


def in_words(size: int) -> str:
    """Bytes in the largest unit that fits."""
    power = min(3, (size.bit_length() - 1) // 10)
    return f"{size >> 10 * power} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def geometry(size: int, l2: int) -> tuple[int, int, int, bool]:
    """Nodes of the long and of the short graph, sets of tensors, and whether all of them lie in L2."""
    if 50 * size <= l2 // 4:
        return 50, 10, 50, True
    sets = max(2, -(-5 * l2 // (2 * size)))
    if size >= 2**26:
        return max(6, sets), 2, sets, False
    return max(50, sets), 10, sets, False


def measure(report: Report, where: Place, pattern: Pattern, size: int, only: Sequence[str]) -> None:
    """One pattern at one size."""
    n = max(64, size // pattern.bytes // 64 * 64)
    many, few, sets, resident = (4, 2, 2, True) if where.dry else geometry(size, where.l2)
    case = f"{pattern}, {in_words(size)}"
    facts = {
        "pattern": str(pattern),
        "elements": n,
        "bytes": n * pattern.bytes,
        "draws": pattern.draws,
        "resident": resident,
    }
    if 3 * sets * size > where.free:  # tensors, those of the copies, and what torch makes on its way
        report.without(case, "all", f"{where.free >> 20} MiB are free, and {sets} sets are too many", **facts)
        return
    tensors, measures = Tensors(pattern, n, sets, where), dict[str, Callable[[], Sequence[float]]]()
    for name, build in providers(pattern, size, only, where).items():
        try:
            node = build(tensors)
            flaw = None if name in COPIES else tensors.wrong(node, ours=name in EXECUTORS)
            if flaw is not None:
                report.fault(case, name, flaw)
                continue
            measures[name] = Launches(where, node, many, few, sets)
        except Exception as error:
            report.without(case, name, why(error), **facts)
    samples, failed = in_turns(measures, 2 if where.dry else 15, 0.3)
    for name, reason in failed.items():
        report.without(case, name, reason, **facts)
    for name, rows in samples.items():
        times = [row[0] for row in rows]
        speed = facts["bytes"] / sorted(times)[len(times) // 2] / 1e3 if min(times) > 0 else None
        report.add(case, name, "time per launch", times, **facts, gigabytes_per_second=speed)


def empty_node(report: Report, where: Place) -> None:
    """What a kernel that does nothing costs in a graph."""
    from benchmarks.update_kernels import nothing

    samples, failed = in_turns({"empty kernel": Launches(where, lambda i: nothing(), 50, 10, 1)}, 25, 1.0)
    for name, reason in failed.items():
        report.without(name, "tl", reason)
    for name, rows in samples.items():
        report.add(name, "tl", "time per launch", [row[0] for row in rows])


def check(report: Report, where: Place, only: Sequence[str]) -> None:
    """Bits of every pattern at odd sizes, without timing; says how many were looked at."""
    wanted = same = 0
    for pattern, _ in patterns():
        for n in (1, 63, 1003, 4 * 2**14 + 5):
            case = f"{pattern}, {n} elements"
            wanted += len(only)
            if report.left < 0:
                report.without(case, "all", "not begun: the time was over")
                continue
            tensors = Tensors(pattern, n, 1, where)
            for name in only:
                try:
                    flaw = tensors.wrong(tensors.by_executor(name), ours=True)
                except Exception as error:
                    report.without(case, name, why(error))
                    continue
                if flaw is None:
                    report.note(case, name, same_bits_as_numpy=True)
                    same += 1
                else:
                    report.fault(case, name, flaw)
    print(f"{same} of {wanted} updates have the bits of NumPy")


def run(report: Report, where: Place, only: Sequence[str]) -> None:
    """All cases that the budget allows."""
    jobs: list[tuple[str, Callable[[], None]]] = []
    if not where.dry:
        jobs.append(("empty kernel", functools.partial(empty_node, report, where)))
    for pattern, sizes in list(patterns())[: 5 if where.dry else None]:
        for size in [2**12] if where.dry else sizes:
            jobs.append(
                (f"{pattern}, {in_words(size)}", functools.partial(measure, report, where, pattern, size, only))
            )
    where.settle(0.5)
    for name, job in jobs:
        if report.left < 0:
            report.without(name, "all", "not begun: the time was over")
            continue
        where.settle(0.005)
        try:
            job()
        except LostError:
            raise
        except Exception as error:
            report.without(name, "all", why(error))
        where.tidy()
        report.write()


def main(argv: Sequence[str] | None = None) -> int:
    """1 if a result was wrong, else 0."""
    made = parser(__doc__)
    made.add_argument(
        "--executors", nargs="+", choices=EXECUTORS, help="default: fused and cuda; in a rehearsal native too"
    )
    made.add_argument("--check-only", action="store_true", help="compare bits at odd sizes and time nothing")
    args = made.parse_args(argv)
    where = place(args.dry)
    report = Report("update_check" if args.check_only else "update", args, where)
    only = args.executors or (EXECUTORS if where.dry else EXECUTORS[:2])
    with torch.no_grad():
        try:
            (check if args.check_only else run)(report, where, only)
        except LostError as lost:
            report.fault("all", "all", str(lost))
    report.write(last=True)
    return 1 if report.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
