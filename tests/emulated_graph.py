"""CUDA graphs as far as a CPU can play them: what is recorded is a tape of operators on fixed memory, and a replay reads nothing else.

A replay calls no model and binds no tensor anew: it repeats each operator on the tensors that it had, into the memory that its
results had, and each launch with the pointers that it had. After recording, all of those results are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastsolve.executors.run import Backend
from fastsolve.program import Program

_SYNCHRONISES = {"aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.is_nonzero"}
_recording: list[Tape] = []
T = TypeVar("T")


class Tape(TorchDispatchMode):
    """Operators and launches in order."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], object]] = []
        self.results: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if str(func.overloadpacket) in _SYNCHRONISES:
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")
        out = func(*args, **kwargs)
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        fresh = [t.untyped_storage().data_ptr() not in known for t in results]

        def again() -> None:
            if func.is_view:
                return
            for old, new, own in zip(results, tree_leaves(func(*args, **kwargs)), fresh, strict=True):
                if own:
                    old.copy_(new)

        self.steps.append(again)
        self.results += [t for t, own in zip(results, fresh, strict=True) if own]
        return out


@dataclass
class EmulatedGraph:
    """A recorded tape."""

    tape: Tape | None

    def replay(self) -> None:
        """Repeats it."""
        assert self.tape is not None, "a graph is replayed that was given back"
        for step in self.tape.steps:
            step()

    def reset(self) -> None:
        """Gives it back."""
        self.tape = None


@dataclass
class EmulatedRecorder:
    """In place of `CudaRecorder`."""

    device: torch.device
    asides: int = 0
    graphs: list[EmulatedGraph] = field(default_factory=list)

    def aside(self, work: Callable[[], T]) -> T:
        """There is one stream only."""
        self.asides += 1
        return work()

    def record(self, parts: Sequence[Callable[[], object]]) -> list[EmulatedGraph]:
        """The parts as tapes. They run, unlike a capture, but nothing of it is left."""
        return [self._part(part) for part in parts]

    def _part(self, work: Callable[[], object]) -> EmulatedGraph:
        tape = Tape()
        _recording.append(tape)
        try:
            with tape:
                work()
        finally:
            _recording.pop()
        for result in tape.results:
            if result.is_floating_point():
                result.fill_(float("nan"))
        self.graphs.append(EmulatedGraph(tape))
        return self.graphs[-1]


class Recorded(Backend):
    """A CPU executor whose launches go onto the tape that records, with the tensors they are bound to."""

    def __init__(self, inner: Backend, tensors: list[Tensor | None]) -> None:
        self._inner, self._tensors = inner, tensors

    def load(self, program: Program) -> None:
        self._inner.load(program)

    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        assert not _recording, "seeds are set before a capture"
        self._inner.seed(seeds)

    def bind(self, slot: int, tensor: Tensor) -> None:
        self._inner.bind(slot, tensor)

    def launch(self, index: int) -> None:
        self._inner.launch(index)
        if _recording:
            bound = list(self._tensors)

            def again() -> None:
                self._tensors[:] = bound
                for slot, tensor in enumerate(bound):
                    if tensor is not None:
                        self._inner.bind(slot, tensor)
                self._inner.launch(index)

            _recording[-1].steps.append(again)
