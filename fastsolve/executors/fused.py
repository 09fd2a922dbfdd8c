"""Triton: one kernel per update, on a GPU, or on the CPU in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.executors.run import Backend, Setting
from fastsolve.executors.upload import Seeds, upload
from fastsolve.kernels.update import Update
from fastsolve.lower import Program


class Fused(Backend):
    """Coefficients, draw numbers and seeds lie on the device; a launch passes where its part of them begins."""

    def __init__(self, program: Program, setting: Setting, tensors: list[Tensor | None]) -> None:
        device = setting.device
        self._launches, self._setting, self._tensors = program.launches, setting, tensors
        self._table = torch.from_numpy(program.table32).to(device)
        draws = [draw for launch in program.launches for draw in launch.draws]
        self._draws = torch.tensor(draws or [(0, 0)], dtype=torch.int32).to(device)
        self._first = np.cumsum([0] + [len(launch.draws) for launch in program.launches]).tolist()
        self._seeds = Seeds(setting.batch, device)
        self._patterns = [
            Update(tuple(row.terms for row in launch.rows), len(launch.sources), len(launch.draws))
            for launch in program.launches
        ]

    def load(self, program: Program) -> None:
        upload(self._table, program.table32)

    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        self._seeds.set(seeds)

    def bind(self, slot: int, tensor: Tensor) -> None:
        pass  # launches read the list of tensors

    def launch(self, index: int) -> None:
        launch, setting = self._launches[index], self._setting
        self._patterns[index](
            [self._tensor(slot) for slot in launch.sources],
            [self._tensor(row.out) for row in launch.rows],
            self._table,
            launch.rows[0].offset,
            self._draws,
            self._first[index],
            self._seeds.tensor,
            setting.batch,
            setting.size,
        )

    def _tensor(self, slot: int) -> Tensor:
        tensor = self._tensors[slot]
        assert tensor is not None
        return tensor
