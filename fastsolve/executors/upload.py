"""Host values into a device's tensor, behind what is queued there and without waiting for it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(to: Tensor, values: npt.NDArray[np.generic]) -> None:
    """Copies `values`, of the same shape, in the order of the current stream; `values` may be changed at once."""
    source = torch.from_numpy(values).to(to.dtype)
    if to.is_cuda:
        # From pageable memory torch waits for the whole stream. A pinned block is not given out again before its copy is done.
        to.copy_(source.pin_memory(), non_blocking=True)
    else:
        to.copy_(source)
