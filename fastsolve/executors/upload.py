"""Host values into a device's tensors, behind what is queued there and without waiting for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import philox


def upload(to: Tensor, values: npt.NDArray[np.generic]) -> None:
    """Copies `values`, of the same shape, in the order of the current stream; `values` may be changed at once."""
    source = torch.from_numpy(values).to(to.dtype)
    if to.is_cuda:
        # From pageable memory torch waits for the whole stream. A pinned block is not given out again before its copy is done.
        to.copy_(source.pin_memory(), non_blocking=True)
    else:
        to.copy_(source)


class Seeds:
    """Seeds of a batch on a device, int64 [batch], in a tensor that stays where it is."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self._spread = philox.sample_seeds(0, batch)
        self._on_device = torch.from_numpy(self._spread.view(np.int64)).to(device)
        self.tensor = torch.zeros_like(self._on_device)

    def set(self, seeds: npt.NDArray[np.uint64]) -> None:
        """Writes uint64 [batch]. Those of one int need no copy from the host: they are an addition on the device."""
        first = seeds[:1]
        if len(seeds) == 1 or (seeds - self._spread == first).all():
            torch.add(self._on_device, int(first.view(np.int64)[0]), out=self.tensor)
        else:
            upload(self.tensor, seeds.view(np.int64))
