"""C++ on the CPU: csrc/ does the updates, vectorised and threaded; here its pointers are set."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import _C
from fastsolve.executors.run import Backend, Setting
from fastsolve.program import Program

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Native(Backend):
    """One `_C.Program`; it keeps addresses, and the loop keeps what they point to alive."""

    def __init__(self, program: Program, setting: Setting, tensors: list[Tensor | None]) -> None:
        self._table = program.table32
        assert self._table.ndim == 1 or len(self._table) == setting.batch
        self._seeds = np.zeros(setting.batch, np.uint64)
        updates = [
            (list(launch.sources), list(launch.draws), [(row.out, list(row.terms), row.offset) for row in launch.rows])
            for launch in program.launches
        ]
        codes = [CODES[setting.dtype_of(slot.kind)] for slot in program.slots]
        self._program = _C.Program(
            codes,
            self._table.ctypes.data,
            updates,
            setting.batch,
            setting.size,
            torch.get_num_threads(),
            [[astuple(mid) for mid in launch.mids] for launch in program.launches],
            self._table.shape[1] if self._table.ndim == 2 else 0,
        )
        self._program.seeds(self._seeds.ctypes.data)
        self.launch = self._program.run  # type: ignore[method-assign, assignment]  # one call less where every microsecond counts
        for slot, tensor in enumerate(tensors):
            if tensor is not None:
                self.bind(slot, tensor)

    def load(self, program: Program) -> None:
        self._table[:] = program.table32

    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        self._seeds[:] = seeds

    def bind(self, slot: int, tensor: Tensor) -> None:
        self._program.set(slot, tensor.data_ptr())

    def launch(self, index: int) -> None:
        self._program.run(index)
