"""What an executor is bound to, and what it must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.program import Program

INPUTS = ("input", "pair", "twin")


@dataclass(frozen=True)
class Setting:
    """What a run is bound to. shape: [B, *sample]; dtype of the state, of the model's input, its raw output and its t."""

    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    input_dtype: torch.dtype
    raw_dtype: torch.dtype
    clock_dtype: torch.dtype
    reuses_output: bool

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.shape[0]

    @property
    def size(self) -> int:
        """Elements of a sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64))

    def dtype_of(self, kind: str) -> torch.dtype:
        """The dtype of a slot of a kind (see `program.Slot`)."""
        return self.raw_dtype if kind == "raw" else self.input_dtype if kind in INPUTS else self.dtype


class Backend(ABC):
    """An executor's part: `tensors` is the list of slot tensors, which the loop fills as it goes.

    On a GPU, a launch only queues work on the current stream, and reads coefficients and seeds where `load` and `seed` write them.
    """

    @abstractmethod
    def load(self, program: Program) -> None:
        """Another program of the same structure: its coefficients."""

    @abstractmethod
    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        """Set the seeds of the samples, [B]."""

    @abstractmethod
    def bind(self, slot: int, tensor: Tensor) -> None:
        """A slot got another tensor: contiguous, of the slot's dtype, on the device, and alive until the run ends."""

    @abstractmethod
    def launch(self, index: int) -> None:
        """Run launch `index` of the program."""
