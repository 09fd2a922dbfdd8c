"""CUDA graphs: a run with its model, captured once and replayed as one launch. It knows CUDA graphs and nothing else."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from fastsolve.executors.conditioning import changed, contents, replaced, signature
from fastsolve.executors.given import Given
from fastsolve.executors.hindrance import UncapturableError, reason
from fastsolve.executors.run import Look, Run, Work, bound
from fastsolve.executors.watch import Watch

T = TypeVar("T")
_REPLACES = "the model replaces parameters, buffers or outer variables of its own while it runs"
_choosing, _streams = threading.Lock(), threading.Semaphore(32)
# A capture begins with a synchronisation of the device, which another one would not survive.
_capturing = threading.RLock()  # what is collected as garbage meanwhile may close samplers


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """All of it, in the order of the current stream."""

    def reset(self) -> None:
        """Gives its memory back."""


class Recorder(Protocol):
    """Runs work beside the current stream, or records it."""

    def aside(self, work: Callable[[], T]) -> T:
        """Does the work on a stream of its own, ordered before and after by the current stream."""

    def record(self, parts: Sequence[Callable[[], object]]) -> list[Graph]:
        """The parts as graphs that are replayed one after the other; none of it runs."""


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

    def aside(self, work: Callable[[], T]) -> T:
        """Does the work on a side stream; a tensor that comes of it belongs to the current one."""
        current = torch.cuda.current_stream(self._device)
        with self._own_stream() as side:
            side.wait_stream(current)
            try:
                with torch.cuda.stream(side), _nothing_kept():
                    out = work()
            finally:  # after an error too: the buffers that are freed then belong to the current stream
                current.wait_stream(side)
        if isinstance(out, Tensor):
            out.record_stream(current)
        return out

    def record(self, parts: Sequence[Callable[[], object]]) -> list[Graph]:
        """Captured graphs, of one memory: a part reads what those before it have left there.

        Raises what the work raises, or CUDA's own error for what cannot be captured.
        """
        # After a failure torch leaves its side stream as the current one: the outermost of these puts ours back.
        with torch.cuda.stream(torch.cuda.current_stream(self._device)), _capturing:
            pool = torch.cuda.graph_pool_handle()
            try:
                with self._own_stream() as side:
                    return [_capture(part, pool, side) for part in parts]
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

    What comes from the caller is copied into buffers of its own before each replay: the start, given noise, what is blended in, and the
    tensors among the model's arguments. Coefficients, levels and seeds are read where the run keeps them. Where a program is looked at,
    the graph is split. Calls come one at a time.
    """

    def __init__(
        self,
        run: Run,
        models: Sequence[Callable[..., Tensor]],
        arguments: Sequence[dict[str, object]],
        tensors: Sequence[Tensor],
        functions: Mapping[str, Callable[..., Tensor]],
        recorder: Recorder,
    ) -> None:
        self.run, self._recorder, self._functions = run, recorder, functions
        self._watched = (*models, *functions.values())
        _, conditioning = signature(arguments, run.device)
        with torch.inference_mode(False):  # outside of it, nobody may write into an inference tensor
            self._tensors = [torch.empty_like(t) for t in tensors]
            self._conditioning = [torch.empty_like(t).copy_(t) for t in conditioning]
            self._out = run.new()
        left = iter(self._conditioning)
        self._own = [replaced(kwargs, left) for kwargs in arguments]
        self._models = bound(models, self._own)
        self._watch: Watch | None = None
        self._graphs: list[Graph] = []
        self._looks: list[Look | None] = []
        self._restless = 0  # runs in a row in which the model replaced parts of its own

    @property
    def parts(self) -> int:
        """Of how many graphs it is made; none before it is recorded."""
        return len(self._graphs)

    def __call__(self, given: Given, conditioning: Sequence[Tensor], at_once: bool) -> Generator[Look, None, Tensor]:
        """One sample batch, in a tensor of its own. at_once: record in the first call.

        Raises UncapturableError with the reason, and what the model raises.
        """
        self.run.backend.seed(given.seeds)
        for own, theirs in zip([*self._tensors, *self._conditioning], [*given.tensors, *conditioning], strict=True):
            own.copy_(theirs)
        if self._watch is None or not self._watch.holds():  # another model than the one that was warmed up or captured
            self.close()
            handed, before = contents(self._own, self.run.device), Watch(*self._watched)
            looks = self._loop(given)

            def part() -> Look | Tensor:
                look = next(looks, None)
                return self._out.clone() if look is None else look

            looked = False
            while isinstance(out := self._recorder.aside(part), Look):
                looked = True
                yield out
            # Once is nothing: some models are completed by their first call.
            self._restless = 0 if before.holds() else self._restless + 1
            if self._restless > 1:
                raise UncapturableError(_REPLACES, out)
            if changed(handed, self._own, self.run.device):
                # Once more, then, and into those of the caller; unless the caller has seen this run.
                raise UncapturableError("the model writes into its model_kwargs", out if looked else None)
            self._watch = Watch(*self._watched)
            if at_once:
                self._record(given)
            return out
        if not self._graphs:
            self._record(given)
        for graph, look in zip(self._graphs, self._looks, strict=True):
            graph.replay()
            if look is not None:
                yield look
        return self._out.clone()

    def close(self) -> None:
        """Gives the graph's memory back."""
        for graph in self._graphs:
            graph.reset()
        self._graphs, self._looks, self._watch = [], [], None

    def _loop(self, given: Given) -> Generator[Look, None, None]:
        left = iter(self._tensors)
        start, noise, blend = ([next(left) for _ in part] for part in (given.start, given.noise, given.blend))
        return self.run.loop(Work(self._models, start, noise, blend, self._functions), self._out)

    def _record(self, given: Given) -> None:
        if self.run.writes_t:
            raise UncapturableError("the model writes into its t")
        steps, looks = self._loop(given), list[Look | None]()
        handled = sys.exc_info()[1]
        try:
            self._graphs = self._recorder.record([lambda: looks.append(next(steps, None))] * self.run.segments)
        except Exception as error:
            raise UncapturableError(reason(error, handled)) from error
        finally:
            steps.close()
        self._looks = looks
        if self._watch is not None and not self._watch.holds():
            self.close()
            raise UncapturableError(_REPLACES)
