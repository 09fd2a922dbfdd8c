"""CUDA C++ on a GPU: csrc/cuda/ does the updates, a launch is one call; here its pointers are set."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import _cuda
from fastsolve.executors.run import Backend, Setting
from fastsolve.executors.upload import Seeds, upload
from fastsolve.program import Program

_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Cuda(Backend):
    """One `_cuda.Program`, with coefficients, draw numbers and seeds on the device. It keeps addresses, the loop what they point to."""

    def __init__(self, program: Program, setting: Setting, tensors: list[Tensor | None]) -> None:
        device, index = setting.device, setting.device.index or 0
        updates = [
            (list(launch.sources), list(launch.draws), [(row.out, list(row.terms), row.offset) for row in launch.rows])
            for launch in program.launches
        ]
        draws = [draw for launch in program.launches for draw in launch.draws]
        self._table = torch.from_numpy(program.table32).to(device)
        assert self._table.ndim == 1 or len(self._table) == setting.batch
        self._draws = torch.tensor(draws or [(0, 0)], dtype=torch.int32).to(device)
        self._seeds = Seeds(setting.batch, device)
        self._program = _cuda.Program(
            [_CODES[setting.dtype_of(slot.kind)] for slot in program.slots],
            self._table.data_ptr(),
            self._draws.data_ptr(),
            updates,
            setting.batch,
            setting.size,
            index,
            [[astuple(mid) for mid in launch.mids] for launch in program.launches],
            self._table.shape[1] if self._table.ndim == 2 else 0,
        )
        self._program.seeds(self._seeds.tensor.data_ptr())
        self._stream = current_stream(index)
        for slot, tensor in enumerate(tensors):
            if tensor is not None:
                self.bind(slot, tensor)

    def load(self, program: Program) -> None:
        upload(self._table, program.table32)

    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        self._seeds.set(seeds)

    def bind(self, slot: int, tensor: Tensor) -> None:
        self._program.set(slot, tensor.data_ptr())

    def launch(self, index: int) -> None:
        self._program.run(index, self._stream())


def current_stream(device: int) -> Callable[[], int]:
    """Answers with the address of a device's current stream: that of a graph while one is captured.

    By the short way that torch's own compilers take; it is not public, so a torch without it goes the long way.
    """
    try:
        return functools.partial(torch._C._cuda_getCurrentRawStream, device)
    except AttributeError:
        return lambda: torch.cuda.current_stream(device).cuda_stream
