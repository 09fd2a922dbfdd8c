"""Programs: a plan with numbered slots for its tensors and one table for its coefficients. What every executor runs."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

START, STEP = 0, 1  # noise streams, as `philox` numbers them


@dataclass(frozen=True)
class Slot:
    """A tensor of the program.

    kind: "state", "input", "pair" and "twin" (buffers of ours; twin is the second half of the pair before it), "raw" (the model's), "made"
    (a function's), "start", "noise", "mask", "known" and "out" (the caller's).
    """

    kind: str


@dataclass(frozen=True)
class Mid:
    """A value that later mids and rows read, computed before any row and not stored. It begins as a sum, as that of a row, with n terms.

    op "clip": below lo it is lo and above hi it is hi, (lo, hi) = table[offset + n :]; NaN stays.
    op "blend": (1 - m) * sum + m * (c * k), each operation rounded; m and k are the sources at positions mask and known,
    c = table[offset + n].
    """

    op: str
    terms: tuple[int, ...]
    offset: int
    mask: int = -1
    known: int = -1


@dataclass(frozen=True)
class Row:
    """slot `out` = sum over terms; terms are positions among sources, then draws, then mids; coefficients from table[offset]."""

    out: int
    terms: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Launch:
    """One kernel: all rows read before any writes. sources: slots; draws: (stream, number); mids: in the order they are computed."""

    sources: tuple[int, ...]
    draws: tuple[tuple[int, int], ...]
    rows: tuple[Row, ...]
    mids: tuple[Mid, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of the model at clock value t, once per raw slot (two with guidance), on the slot x; or, on both slots x and for both
    raw slots at once, on a doubled batch.

    function: not the model, but a function of this name, on the slots x, with the level (t, alpha, sigma) and numbers.
    """

    x: tuple[int, ...]
    raws: tuple[int, ...]
    t: float
    function: str = ""
    level: tuple[float, ...] = ()
    numbers: tuple[float, ...] = ()


class Seen(NamedTuple):
    """After launch `launch`, slots x and d hold the state and the data prediction of the model's call `number`."""

    launch: int
    number: int
    x: int
    d: int


@dataclass(frozen=True, eq=False)
class Program:
    """Launch `opening`, then for each step its calls and its launch. `table`: float64 coefficients, `table32` the same rounded once.

    levels: the clock of each call. table is [n] and levels [calls], or [B, n] and [calls, B] where every sample has numbers of its own.
    states: of a program that is open to another state, its slot at each call, -1 where the call's input alone is read.
    """

    slots: tuple[Slot, ...]
    opening: Launch
    steps: tuple[tuple[tuple[Call, ...], Launch], ...]
    table: npt.NDArray[np.float64]
    levels: npt.NDArray[np.float64]
    draws: int
    seen: tuple[Seen, ...] = ()
    states: tuple[int, ...] = ()

    @property
    def table32(self) -> npt.NDArray[np.float32]:
        """The coefficients in float32, a new array. Raises ValueError for one that float32 cannot hold."""
        largest = float(np.abs(self.table).max())
        if largest > float(np.finfo(np.float32).max):
            raise ValueError(
                f"a coefficient of this plan is {largest:g}, beyond float32: use dtype=torch.float64, or a shorter range of levels"
            )
        return self.table.astype(np.float32, order="C")

    @property
    def launches(self) -> tuple[Launch, ...]:
        """All launches, the opening first."""
        return (self.opening, *(launch for _, launch in self.steps))

    @functools.cached_property
    def structure(self) -> Hashable:
        """All but the numbers: programs with the same one differ in coefficients and levels only, and share buffers, kernels and graphs."""
        calls = tuple(tuple(_told(call) for call in made) for made, _ in self.steps)
        return _token((self.slots, self.launches, calls, self.table.shape[:-1], self.seen, self.states))


def _told(call: Call) -> Hashable:
    """What of a call is fixed when it is captured: all that a function is told, but not the model's level."""
    return replace(call, t=0.0)


def stacked(programs: Sequence[Program]) -> Program:
    """The program of a batch whose sample i goes by the numbers of programs[i]. Raises ValueError where their structures differ."""
    first = programs[0]
    for i, program in enumerate(programs):
        if program.structure is not first.structure:
            raise ValueError(
                f"samples of one batch must have plans that differ in numbers only, and sample {i} differs from sample 0 in more: "
                "grids of another length, with and without alpha = 0 or sigma = 0 at an end, or other levels told to a function "
                "(x0_hook, rescale, apg)"
            )
    if all(program is first for program in programs):
        return first
    return replace(
        first, table=np.stack([program.table for program in programs]), levels=np.stack([p.levels for p in programs], 1)
    )


@functools.lru_cache(maxsize=256)
def _token(structure: Hashable) -> object:
    """The same object for equal structures: it hashes at once, where 50 launches take tens of microseconds."""
    return object()


def last_reads(program: Program) -> list[list[int]]:
    """For each step the slots of outputs that no later launch or function reads: their tensors can go."""
    live: set[int] = set()
    dead = []
    for calls, launch in reversed(program.steps):
        made = {slot for call in calls for slot in call.raws}
        read = {slot for call in calls if call.function for slot in call.x} | {*launch.sources}
        held = made | {slot for slot in read if program.slots[slot].kind in ("raw", "made")}
        dead.append([slot for slot in held if slot not in live])
        live = (live | held) - made
    return dead[::-1]
