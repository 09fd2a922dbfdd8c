"""CUDA graphs: a run with its model, captured once and replayed as one launch. It knows CUDA graphs and nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from fastsolve.executors.conditioning import replaced, signature
from fastsolve.executors.given import Given
from fastsolve.executors.run import Look, Run, Work, bound
from fastsolve.executors.watch import Watch

T = TypeVar("T")
_REPLACES = "the model replaces parameters, buffers or outer variables of its own while it runs"
_choosing = threading.Lock()
# A capture begins with a synchronisation of the device, which another one would not survive.
_capturing = threading.Lock()


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
        with _choosing:
            for _ in range(32):
                if self._side is not None and self._side.cuda_stream not in self._busy:
                    break
                self._side = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
            else:
                raise RuntimeError("more than 32 threads make graphs at once")
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
                with torch.cuda.stream(side), _no_cast_cache():
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
        with torch.cuda.stream(torch.cuda.current_stream(self._device)), _capturing, _no_cast_cache():
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
        for undo in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            with contextlib.suppress(RuntimeError, AttributeError):  # done already, or another torch
                getattr(torch._C, undo)(self._device.index, pool)
        with self._own_stream() as side:
            _capture(lambda: torch.zeros(1, device=self._device), torch.cuda.graph_pool_handle(), side)


def _capture(work: Callable[[], object], pool: Any, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads may allocate and launch meanwhile.
    with torch.cuda.graph(graph, pool, stream, "thread_local"):
        work()
    return graph


@contextlib.contextmanager
def _no_cast_cache() -> Iterator[None]:
    """Weights that autocast has cast lie in its cache only until the caller leaves autocast: a graph must cast its own."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)


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
        self._models = bound(models, [replaced(kwargs, left) for kwargs in arguments])
        self._watch: Watch | None = None
        self._graphs: list[Graph] = []
        self._looks: list[Look | None] = []
        self._restless = 0  # runs in a row in which the model replaced parts of its own

    @property
    def recorded(self) -> bool:
        """It has a graph."""
        return bool(self._graphs)

    def __call__(self, given: Given, conditioning: Sequence[Tensor], at_once: bool) -> Generator[Look, None, Tensor]:
        """One sample batch, in a tensor of its own. at_once: record in the first call.

        Raises UncapturableError with the reason, and what the model raises.
        """
        self.run.backend.seed(given.seeds)
        for own, theirs in zip([*self._tensors, *self._conditioning], [*given.tensors, *conditioning], strict=True):
            own.copy_(theirs)
        if self._watch is None or not self._watch.holds():  # another model than the one that was warmed up or captured
            self.close()
            versions, before = [t._version for t in self._conditioning], Watch(*self._watched)
            looks = self._loop(given)

            def part() -> Look | Tensor:
                look = next(looks, None)
                return self._out.clone() if look is None else look

            while isinstance(out := self._recorder.aside(part), Look):
                yield out
            # Once is nothing: some models are completed by their first call.
            self._restless = 0 if before.holds() else self._restless + 1
            if self._restless > 1:
                raise UncapturableError(_REPLACES)
            if [t._version for t in self._conditioning] != versions:
                raise UncapturableError("the model writes into its model_kwargs")
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
        try:
            self._graphs = self._recorder.record([lambda: looks.append(next(steps, None))] * self.run.segments)
        except Exception as error:
            raise UncapturableError(_reason(error)) from error
        finally:
            steps.close()
        self._looks = looks
        if self._watch is not None and not self._watch.holds():
            self.close()
            raise UncapturableError(_REPLACES)


def _reason(error: BaseException) -> str:
    """The first line of the error that came first: torch's own at the end of a spoilt capture says less."""
    while error.__context__ is not None:
        error = error.__context__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
