"""Triton: one kernel per update, on a GPU, or on the CPU in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.executors.run import Backend, Setting
from fastsolve.executors.upload import Seeds, upload
from fastsolve.kernels.update import Direct, Mid, Update
from fastsolve.program import Launch, Program


class Fused(Backend):
    """Coefficients, draw numbers and seeds lie on the device, where `load` and `seed` rewrite them between runs.

    A launch reads them from there; it copies, allocates and waits for nothing, so that it can be captured in a CUDA graph. The first
    launch of each pattern compiles, and is for the time before a capture.
    """

    def __init__(self, program: Program, setting: Setting, tensors: list[Tensor | None]) -> None:
        device, launches = setting.device, program.launches
        self._launches, self._setting, self._tensors = launches, setting, tensors
        self._table = torch.from_numpy(program.table32).to(device)
        numbers = [draw for launch in launches for draw in launch.draws]
        self._draws = torch.tensor(numbers or [(0, 0)], dtype=torch.int32).to(device)
        self._seeds = Seeds(setting.batch, device)
        self._first = np.cumsum([0] + [len(launch.draws) for launch in launches]).tolist()

        # What a bound launch is given: its pattern's, the addresses of its slots, and where its part of the tables begins.
        patterns: dict[object, int] = {}
        dtypes = [setting.dtype_of(slot.kind) for slot in program.slots]
        self._pattern = [patterns.setdefault(_pattern(launch, dtypes), len(patterns)) for launch in launches]
        self._direct: list[Direct | None] = [None] * len(patterns)
        self._outs = [_picker([row.out for row in launch.rows]) for launch in launches]
        self._sources = [_picker(launch.sources) for launch in launches]
        self._tables = [self._places(launch, first) for launch, first in zip(launches, self._first, strict=False)]
        self._addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]

    def load(self, program: Program) -> None:
        upload(self._table, program.table32)

    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        self._seeds.set(seeds)

    def bind(self, slot: int, tensor: Tensor) -> None:
        self._addresses[slot] = tensor.data_ptr()

    def launch(self, index: int) -> None:
        direct = self._direct[self._pattern[index]]
        if direct is None:
            self._direct[self._pattern[index]] = self._launch(self._launches[index], self._first[index])
        else:
            addresses = self._addresses
            direct(self._outs[index](addresses), self._sources[index](addresses), *self._tables[index])

    def _launch(self, launch: Launch, first_draw: int) -> Direct | None:
        rows, setting = launch.rows, self._setting
        update = Update([row.terms for row in rows], len(launch.sources), len(launch.draws), _mids(launch))
        sources, outs = (
            [self._tensor(slot) for slot in slots] for slots in (launch.sources, [row.out for row in rows])
        )
        return update(
            sources,
            outs,
            self._table,
            rows[0].offset,
            self._draws,
            first_draw,
            self._seeds.tensor,
            setting.batch,
            setting.size,
        )

    def _places(self, launch: Launch, first_draw: int) -> tuple[int, int | None, int | None]:
        """Where the coefficients, draw numbers and seeds of a launch are."""
        table = self._table.data_ptr() + self._table.element_size() * launch.rows[0].offset
        return (
            (table, self._draws[first_draw].data_ptr(), self._seeds.tensor.data_ptr())
            if launch.draws
            else (table, None, None)
        )

    def _tensor(self, slot: int) -> Tensor:
        tensor = self._tensors[slot]
        assert tensor is not None
        return tensor


def _pattern(launch: Launch, dtypes: Sequence[torch.dtype]) -> object:
    """Launches of the same compiled kernel have it in common."""
    terms = tuple(row.terms for row in launch.rows)
    return (
        terms,
        _mids(launch),
        len(launch.draws),
        *(dtypes[slot] for slot in launch.sources),
        *(dtypes[row.out] for row in launch.rows),
    )


def _mids(launch: Launch) -> tuple[Mid, ...]:
    """As the kernel takes them: at the same distance from their rows, mids of all steps are the same code."""
    first = launch.rows[0].offset
    return tuple((mid.op, mid.terms, mid.offset - first, mid.mask, mid.known) for mid in launch.mids)


def _picker(slots: Sequence[int]) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """A function that takes the entries of these slots from a list."""
    if len(slots) > 1:
        return itemgetter(*slots)  # of one or none it is no tuple
    return lambda entries: (entries[slots[0]],) if slots else ()
