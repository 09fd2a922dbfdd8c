"""Updates and normals of the native executor against the torch expressions they replace: `python -m benchmarks.updates`, about a minute.

One thread. `--keep-freed-memory` gives torch its best case (see `measure`); as a process comes, its large temporaries page-fault.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Provider, Report, keep_freed_memory, quantiles
from fastsolve import _C, philox

TABLE = np.array([0.7, -0.3, 1.1, 0.25], np.float32)
a, b, c, d = (float(k) for k in TABLE)
SEEDS = np.array([2**63 + 5], np.uint64)
SIZES = (2**8, 2**14, 2**18, 2**20, 2**22)


def native_update(sources: Sequence[Tensor], draws: Sequence[tuple[int, int]]) -> Callable[[], Tensor]:
    """One row over all sources and draws, with the address of a new raw output, as between two calls of a model."""
    out = torch.zeros_like(sources[0])
    terms = range(len(sources) + len(draws))
    update = (range(len(sources)), draws, [(len(sources), terms, 0)])
    program = _C.Program([0] * (len(sources) + 1), TABLE.ctypes.data, [update], 1, out.numel(), 1)
    program.seeds(SEEDS.ctypes.data)
    for slot, tensor in enumerate([*sources, out]):
        program.set(slot, tensor.data_ptr())

    def run() -> Tensor:
        program.step(0, 0, sources[0].data_ptr())
        return out

    return run


def normals(size: int) -> list[Provider]:
    ours, theirs = np.empty((1, size), np.float32), torch.empty(size)

    def native() -> None:
        _C.normals(ours.ctypes.data, SEEDS.ctypes.data, 1, size, 3, 1, 1)

    native()
    assert np.array_equal(ours, philox.normals(SEEDS, size, 3, 1)), "these normals are not the definition's"
    return [("native", native), ("torch normal_", theirs.normal_)]


def four_sources(size: int) -> list[Provider]:
    x, y, z, w, out = torch.randn(5, size)
    native = native_update((x, y, z, w), ())

    def eager() -> Tensor:
        return a * x + b * y + c * z + d * w

    def accumulated() -> Tensor:
        torch.mul(x, a, out=out)
        return out.add_(y, alpha=b).add_(z, alpha=c).add_(w, alpha=d)

    assert torch.equal(native(), eager()), "this update is not torch's"
    return [("native", native), ("torch", eager), ("torch add_(alpha=)", accumulated)]


def two_sources_and_a_normal(size: int) -> list[Provider]:
    x, y = torch.randn(2, size)
    native = native_update((x, y), [(1, 3)])
    noise = torch.from_numpy(philox.normals(SEEDS, size, 3, 1)[0])
    assert torch.equal(native(), a * x + b * y + c * noise), "this update is not torch's"
    return [("native", native), ("torch", lambda: a * x + b * y + c * torch.randn_like(x))]


CASES: list[tuple[Callable[[int], list[Provider]], int]] = [
    (normals, 2**20),
    *((four_sources, size) for size in SIZES),
    *((two_sources_and_a_normal, size) for size in SIZES),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--isa", nargs="*", default=[_C.isa()], help="instruction sets of the native kernels")
    parser.add_argument("--keep-freed-memory", action="store_true")
    args = parser.parse_args()
    if args.keep_freed_memory:
        keep_freed_memory()
    torch.set_num_threads(1)
    report = Report("updates_memory_kept" if args.keep_freed_memory else "updates")
    for isa in args.isa:
        _C.set_isa(isa)
        for case, size in CASES:
            report.add(f"{case.__name__}, {size}, {isa}", quantiles(case(size), args.rounds, max(1, 2**16 // size)))
    report.write()


if __name__ == "__main__":
    main()
