"""Plain torch: the living definition of an update, for every device and dtype. Slow, obvious, the judge of the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import philox
from fastsolve.executors.run import Backend, Setting
from fastsolve.program import Program


class Eager(Backend):
    """Rows are summed in order, each product and each sum rounded to the state's dtype; float64 coefficients only for float64."""

    def __init__(self, program: Program, setting: Setting, tensors: list[Tensor | None]) -> None:
        self._launches, self._setting, self._tensors = program.launches, setting, tensors
        self.load(program)
        self._seeds = np.zeros(setting.batch, np.uint64)

    def load(self, program: Program) -> None:
        exact = self._setting.dtype == torch.float64
        self._table = (program.table if exact else program.table32).tolist()

    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        self._seeds = seeds

    def bind(self, slot: int, tensor: Tensor) -> None:
        pass  # the list of tensors is all there is

    def launch(self, index: int) -> None:
        launch, setting = self._launches[index], self._setting
        values = [self._read(slot) for slot in launch.sources]
        for stream, number in launch.draws:
            z = torch.from_numpy(philox.normals(self._seeds, setting.size, number, stream))
            values.append(z.reshape(setting.shape).to(setting.device, setting.dtype))
        results = []
        for row in launch.rows:
            coefficients = self._table[row.offset : row.offset + len(row.terms)]
            total = coefficients[0] * values[row.terms[0]]
            for c, term in zip(coefficients[1:], row.terms[1:], strict=True):
                total = total + c * values[term]
            results.append(total)
        for row, total in zip(launch.rows, results, strict=True):
            self._tensor(row.out).copy_(total)

    def _read(self, slot: int) -> Tensor:
        return self._tensor(slot).to(self._setting.dtype)

    def _tensor(self, slot: int) -> Tensor:
        tensor = self._tensors[slot]
        assert tensor is not None
        return tensor
