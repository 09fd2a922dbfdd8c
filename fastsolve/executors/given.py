"""What comes from the caller with each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Given(NamedTuple):
    """What a call of a sampler brings: seeds [B]; start tensors, draws, (mask, known), or none; the model's arguments, for each of the
    models; functions that are applied to data predictions, by name.
    """

    seeds: npt.NDArray[np.uint64]
    start: Sequence[Tensor]
    noise: Sequence[Tensor]
    arguments: Sequence[dict[str, object]]
    blend: Sequence[Tensor] = ()
    functions: Mapping[str, Callable[..., Tensor]] = MappingProxyType({})

    @property
    def tensors(self) -> list[Tensor]:
        """All that a graph has buffers of its own for, but the arguments."""
        return [*self.start, *self.noise, *self.blend]
