"""How much one program of the update does: the only place with tuned numbers.

Chosen from code compiled for sm_90 (Triton 3.7.1; registers, static instructions per element, order of the loads) and not
yet from a clock. 4 sources, float32, 4 or 8 elements per thread: without draws 21.5 or 16.5 instructions, where 4 start all
their loads at once and 8 wait in three waves, and an H200 has time for over 130 while it moves the 20 bytes; with one draw
93 or 80 instructions in 32 or 56 registers, and there, with fewer sources or two draws, instructions are what takes time.
"""

from typing import NamedTuple

import triton

# Triton decides when a function is decorated, so this is the answer for every kernel imported beside it.
INTERPRETING: bool = triton.knobs.runtime.interpret

_THREADS = 128


class Tile(NamedTuple):
    """A program does `block` elements in vectors, or `strip` elements singly (see update.py)."""

    block: int
    width: int  # elements a thread has in a row
    strip: int
    warps: int
    least: int  # the smallest sample worth blocks of its own


def choose(itemsizes: set[int], n_values: int, n_draws: int, warp_size: int, count: int) -> Tile:
    """The tile for tensors of these item sizes, n_values sources, draws and rows together, and `count` elements in all."""
    width = 8 if itemsizes == {2} else 4  # 128 bits, and no more than the widest type has in 128 bits
    if INTERPRETING:
        # A program costs 10 to 18 ms in the interpreter whatever its size, and one more size compiles nothing.
        block = min(max(triton.next_power_of_2(count), 16), 65536)
        return Tile(block, width, block, 1, 65536)
    # Mixed types stay at 4: with 8, Triton reorders elements through shared memory. More than 8 values: over 64 registers.
    several = width == 8 or (itemsizes == {4} and n_draws > 0 and n_values <= 8)
    block = _THREADS * (8 if several else 4)
    # Singly a normal costs 3 times as much: blocks win where half of their lanes are busy. One element per thread, for more
    # would raise the registers of the whole kernel.
    return Tile(block, width, _THREADS, _THREADS // warp_size, block // 2)
