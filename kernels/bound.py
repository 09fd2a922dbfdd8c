"""Launches bound in advance: a compiled kernel with all of its arguments but the addresses."""

from collections.abc import Callable
from math import gcd
from typing import Any, TypeAlias

import triton

Grid: TypeAlias = tuple[int, int]
Way: TypeAlias = tuple[Grid, tuple[Any, ...]]  # with what the kernel takes after its outs and sources
# An update like the one before, of the same types, sizes and device, at other addresses: of outs, sources, the first coefficient, the
# first draw and the seeds; of the last two None where nothing is drawn.
Direct: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...], int, int | None, int | None], None]


def launch(compiled: Any, device: int, even: Way, uneven: Way) -> Direct | None:
    """The last line of Triton's own JITFunction.run, with addresses for tensors and all else bound.

    A Triton without these names, which are not public, keeps the slow way. (Triton 3.6 and 3.7.1, no driver counted.)
    """
    try:
        run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
        current_stream = triton.runtime.driver.active.get_current_stream
    except AttributeError:
        return None
    start = bare(run)

    def direct(
        outs: tuple[int, ...], sources: tuple[int, ...], table: int, draws: int | None, seeds: int | None
    ) -> None:
        (x, y), rest = (
            even if gcd(16, *outs, *sources) == 16 else uneven
        )  # in place of `uneven`, whose call costs as much again
        start(x, y, 1, current_stream(device), function, metadata, (outs, sources, table, draws, seeds, *rest))

    return direct


def bare(run: Any) -> Callable[..., None]:
    """A launcher without what CudaLauncher of Triton 3.7 does in Python: of no use to a kernel without scratch memory, and 1.5 us."""
    if (
        not triton.__version__.startswith("3.7.")  # in others the order of C's arguments is another
        or type(run).__name__ != "CudaLauncher"
        or run.global_scratch_size
        or run.profile_scratch_size
    ):
        return lambda *given: run(*given[:-1], None, None, None, *given[-1])
    start, how = run.launch, (run.launch_cooperative_grid, run.launch_pdl)
    what = (None, None, None, None, None, run.arg_annotations, run.kernel_signature)
    return lambda x, y, z, stream, function, metadata, arguments: start(
        x, y, z, stream, function, *how, metadata, *what, arguments
    )


def uneven(*addresses: int) -> bool:
    """Whether one of them is no multiple of 16."""
    return gcd(16, *addresses) != 16
