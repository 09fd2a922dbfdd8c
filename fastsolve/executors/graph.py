"""CUDA graphs: a run with its model, captured once and replayed as one launch. It knows CUDA graphs and nothing else."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.executors.conditioning import contents, replaced, signature
from fastsolve.executors.run import Run
from fastsolve.executors.watch import Watch

_REPLACES = "the model replaces parameters, buffers or outer variables of its own while it runs"
_choosing, _streams = threading.Lock(), threading.Semaphore(32)
# A capture begins with a synchronisation of the device, which another one would not survive.
_capturing = threading.RLock()  # what is collected as garbage meanwhile may close samplers


class UncapturableError(RuntimeError):
    """A model that cannot run inside a captured graph, with the reason in one line."""


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """All of it, in the order of the current stream."""

    def reset(self) -> None:
        """Gives its memory back."""


class Recorder(Protocol):
    """Runs work beside the current stream, or records it."""

    def aside(self, work: Callable[[], Tensor]) -> Tensor:
        """Does the work on a stream of its own, ordered before and after by the current stream."""

    def record(self, work: Callable[[], None]) -> Graph:
        """The work as a graph; none of it runs."""


class CudaRecorder:
    """Warms up and captures on a stream that is nobody else's meanwhile; every graph has a memory pool of its own."""

    _busy: ClassVar[set[int]] = set()

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[torch.cuda.Stream]:
        """The stream of the last time, or another of torch's 32: what a second thread sends to one that captures ends up in the graph."""
        with _streams:
            with _choosing:
                while self._side is None or self._side.cuda_stream in self._busy:
                    self._side = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
                side = self._side
                self._busy.add(side.cuda_stream)
            try:
                yield side
            finally:
                self._busy.discard(side.cuda_stream)

    def aside(self, work: Callable[[], Tensor]) -> Tensor:
        """Does the work on a side stream; the result belongs to the current one."""
        current = torch.cuda.current_stream(self._device)
        with self._own_stream() as side:
            side.wait_stream(current)
            try:
                with torch.cuda.stream(side), _nothing_kept():
                    out = work()
            finally:  # after an error too: the buffers that are freed then belong to the current stream
                current.wait_stream(side)
        out.record_stream(current)
        return out

    def record(self, work: Callable[[], None]) -> Graph:
        """A captured graph. Raises what the work raises, or CUDA's own error for what cannot be captured."""
        # After a failure torch leaves its side stream as the current one: the outermost of these puts ours back.
        with torch.cuda.stream(torch.cuda.current_stream(self._device)), _capturing:
            pool = torch.cuda.graph_pool_handle()
            try:
                with self._own_stream() as side:
                    return _capture(work, pool, side)
            except BaseException:
                self._side = None
                self._recover(pool)
                raise

    def _recover(self, pool: Any) -> None:
        """What torch leaves undone when a capture fails: its allocator holds events back, its generator believes to be captured."""
        torch.cuda.set_stream(torch.cuda.default_stream(self._device))
        # Refused where the capture itself ended well: then the pool is the graph's, and released twice it would end the process.
        with contextlib.suppress(RuntimeError, AttributeError):  # or another torch
            torch._C._cuda_endAllocateToPool(self._device.index, pool)
            torch._C._cuda_releasePool(self._device.index, pool)
        with self._own_stream() as side:
            _capture(lambda: torch.zeros(1, device=self._device), torch.cuda.graph_pool_handle(), side)


def _capture(work: Callable[[], object], pool: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads may allocate and launch meanwhile.
    with torch.cuda.graph(graph, pool, stream, "thread_local"), _nothing_kept():
        work()
    return graph


def give_back() -> None:
    """What torch's allocator holds and nobody uses, to the device: but not while another thread captures, which is an error in torch."""
    if not torch.cuda.is_current_stream_capturing():
        with _capturing:
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Torch keeps weights that autocast has cast until the caller leaves autocast, and the memory that cuBLAS works in until somebody,
    such as its own compiler, clears it: a graph must have its own of both.
    """
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        _clear()
        yield
    finally:
        _clear()
        torch.set_autocast_cache_enabled(cached)


def _clear() -> None:
    torch.clear_autocast_cache()
    torch._C._cuda_clearCublasWorkspaces()


class Captured:
    """A run with its model as a graph: the first call warms up, launch by launch; the second records and replays.

    What comes from the caller is copied into buffers of its own before each replay: the start, given noise, and the tensors
    among the model's arguments. Coefficients, levels and seeds are read where the run keeps them. Calls come one at a time.
    """

    def __init__(
        self,
        run: Run,
        model: Callable[..., Tensor],
        arguments: Sequence[dict[str, object]],
        start: Sequence[Tensor],
        noise: Sequence[Tensor],
        recorder: Recorder,
    ) -> None:
        self.run, self._model, self._recorder = run, model, recorder
        _, tensors = signature(arguments, run.device)
        with torch.inference_mode(False):  # outside of it, nobody may write into an inference tensor
            self._start, self._noise = [torch.empty_like(t) for t in start], [torch.empty_like(t) for t in noise]
            self._conditioning = [torch.empty_like(t).copy_(t) for t in tensors]
            self._out = run.new()
        left = iter(self._conditioning)
        self._own = [replaced(kwargs, left) for kwargs in arguments]
        self._models = [functools.partial(model, **kwargs) if kwargs else model for kwargs in self._own]
        self._watch: Watch | None = None
        self._graph: Graph | None = None
        self._restless = 0  # runs in a row in which the model replaced parts of its own

    @property
    def recorded(self) -> bool:
        """It has a graph."""
        return self._graph is not None

    def __call__(
        self,
        seeds: npt.NDArray[np.uint64],
        start: Sequence[Tensor],
        noise: Sequence[Tensor],
        conditioning: Sequence[Tensor],
        at_once: bool,
    ) -> Tensor:
        """One sample batch, in a tensor of its own. at_once: record in the first call.

        Raises UncapturableError with the reason, and what the model raises.
        """
        self.run.backend.seed(seeds)
        for own, given in zip(
            [*self._start, *self._noise, *self._conditioning], [*start, *noise, *conditioning], strict=True
        ):
            own.copy_(given)
        if self._watch is None or not self._watch.holds():  # another model than the one that was warmed up or captured
            self.close()
            handed, before = contents(self._own, self.run.device), Watch(self._model)
            out = self._recorder.aside(self._by_launches)
            # Once is nothing: some models are completed by their first call.
            self._restless = 0 if before.holds() else self._restless + 1
            if self._restless > 1:
                raise UncapturableError(_REPLACES)
            if contents(self._own, self.run.device) != handed:
                raise UncapturableError("the model writes into its model_kwargs")
            self._watch = Watch(self._model)
            if at_once:
                self._record()
            return out
        if self._graph is None:
            self._record()
        assert self._graph is not None
        self._graph.replay()
        return self._out.clone()

    def close(self) -> None:
        """Gives the graph's memory back."""
        if self._graph is not None:
            self._graph.reset()
        self._graph = self._watch = None

    def _work(self) -> None:
        self.run.loop(self._models, self._start, self._noise, self._out)

    def _by_launches(self) -> Tensor:
        self._work()
        return self._out.clone()

    def _record(self) -> None:
        if self.run.writes_t:
            raise UncapturableError("the model writes into its t")
        handled = sys.exc_info()[1]
        try:
            self._graph = self._recorder.record(self._work)
        except Exception as error:
            raise UncapturableError(_reason(error, handled)) from error
        if self._watch is not None and not self._watch.holds():
            self.close()
            raise UncapturableError(_REPLACES)


def _reason(error: BaseException, handled: BaseException | None) -> str:
    """The first line of the error that came first: torch's own at the end of a spoilt capture says less. handled: by the caller."""
    while error.__context__ is not None and error.__context__ is not handled:
        error = error.__context__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
