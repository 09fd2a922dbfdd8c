"""Plain torch: the living definition of an update, for every device and dtype. Slow, obvious, the judge of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import philox
from fastsolve.executors.run import Backend, Setting
from fastsolve.program import Mid, Program, Row

Coefficients = Sequence[Any]  # of numbers, or of tensors [B, 1, ...] where every sample has its own


class Eager(Backend):
    """Rows are summed in order, each product and each sum rounded to the state's dtype; float64 coefficients only for float64."""

    def __init__(self, program: Program, setting: Setting, tensors: list[Tensor | None]) -> None:
        self._launches, self._setting, self._tensors = program.launches, setting, tensors
        self.load(program)
        self._seeds = np.zeros(setting.batch, np.uint64)

    def load(self, program: Program) -> None:
        table = program.table if self._setting.dtype == torch.float64 else program.table32
        self._table: Coefficients = table.tolist()
        if table.ndim == 2:
            shape = (self._setting.batch, *[1] * (len(self._setting.shape) - 1))
            columns = torch.from_numpy(table).to(self._setting.device).unbind(1)
            self._table = [column.reshape(shape) for column in columns]

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
        for mid in launch.mids:
            values.append(_mid(mid, self._table, values))
        results = [_sum(row, self._table, values) for row in launch.rows]
        for row, total in zip(launch.rows, results, strict=True):
            self._tensor(row.out).copy_(total)

    def _read(self, slot: int) -> Tensor:
        return self._tensor(slot).to(self._setting.dtype)

    def _tensor(self, slot: int) -> Tensor:
        tensor = self._tensors[slot]
        assert tensor is not None
        return tensor


def _sum(part: Mid | Row, table: Coefficients, values: Sequence[Tensor]) -> Tensor:
    first, *rest = zip(table[part.offset : part.offset + len(part.terms)], part.terms, strict=True)
    total: Tensor = first[0] * values[first[1]]
    for c, term in rest:
        total = total + c * values[term]
    return total


def _mid(mid: Mid, table: Coefficients, values: Sequence[Tensor]) -> Tensor:
    total, after = _sum(mid, table, values), mid.offset + len(mid.terms)
    if mid.op == "clip":
        low, high = table[after], table[after + 1]
        return torch.where(total < low, low, torch.where(total > high, high, total))
    mask, known = values[mid.mask], values[mid.known]
    blended: Tensor = (1 - mask) * total + mask * (table[after] * known)
    return blended
