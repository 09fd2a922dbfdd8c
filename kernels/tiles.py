"""How much one program of the update does: the only place with tuned numbers.

Chosen on 2026-11-25 from code compiled for sm_90 by Triton 3.7.1, not yet from a clock. Instructions are those that a thread of a
full block executes, per element (tests/test_triton_compile.py counts them); 4 sources and 1 row.

    elements per thread             4                                    8
    float32                         15.0, all loads in one go            11.6, in four
    float32 and 16 bits             17.0, in one go                      13.6, in two
    float32 and a draw              75.5 in 32 registers                 64.9 in 32 registers

Without draws an H200 has time for 130 instructions while it moves 20 bytes; a small update waits for its loads, each go anew.

Draws of earlier stages are computed again, not kept. In the last two of three stages that share their normals (3 float32 sources
and 2, then 3 draws) that is 32 bytes and 265 instructions per element; keeping the sum of the first two is 40 and 179, and one
more buffer. At 4.3 TB/s and 31e12 instructions/s of an H200 the slower of both takes 3.7 + 5.0 ps computed again, 4.7 + 4.7 kept.
"""

from typing import Any, NamedTuple

import triton

# Triton decides when a function is decorated, so this is the answer for every kernel imported beside it.
INTERPRETING: bool = triton.knobs.runtime.interpret

_THREADS = 128

# Elements of the largest sample that one program goes over (norms.py); not measured. At 4096 to 8192 elements and a microsecond a
# turn, a sample of 2^18 takes near 0.1 ms three times over, while most of a GPU may wait; the ten operators that do the same
# use all of it, and take as long for their launches alone. It must not depend on the batch: nor may a sample's bits.
LARGEST_SAMPLE = 2**18


class Tile(NamedTuple):
    """A program does `block` elements in vectors, or `strip` elements singly (see update.py)."""

    block: int
    width: int  # elements a thread has in a row
    strip: int
    ptx: bool  # the target understands NVIDIA's assembly
    warps: int


def choose(itemsizes: set[int], n_sources: int, n_draws: int, n_rows: int, target: Any, batch: int, size: int) -> Tile:
    """The tile for tensors of these item sizes. n_sources: mids count too. batch, size: for the interpreter alone."""
    if INTERPRETING:
        # A program costs 10 to 18 ms in the interpreter whatever its size, and one more size compiles nothing.
        block, strip = (min(max(triton.next_power_of_2(n), 16), 65536) for n in (size, batch * size))
        return Tile(block, 4, strip, False, 1)
    several = n_draws > 0 or itemsizes != {4}
    if n_sources + n_draws + n_rows > 8 or n_draws * n_rows > 3:
        several = False  # else over 64 registers
    width = 8 if several and itemsizes == {2} else 4
    block = _THREADS * (8 if several else 4)
    return Tile(block, width, _THREADS, target.backend == "cuda", _THREADS // target.warp_size)


def whole_samples(size: int, n_tensors: int, even: bool, target: Any) -> tuple[int, int, int]:
    """Block, width and warps of a program that goes over a whole sample (norms.py); not measured.

    n_tensors: read for its sums. even: in vectors. At most 1024 threads, which then have 64 registers each: enough for 8 elements
    in two vectors of two tensors, or 4 of any; as many bytes are on their way.
    """
    width, turn = (4 if even else 1), (8 if even and n_tensors == 2 else 4)
    threads = min(max(triton.next_power_of_2(size) // turn, _THREADS), 1024)
    return turn * threads, width, 1 if target is None else threads // target.warp_size
