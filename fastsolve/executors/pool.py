"""Runs that wait for their next use, launch by launch or as graphs; any number of threads may draw from one pool."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fastsolve.executors.conditioning import signature
from fastsolve.executors.given import Given as Given
from fastsolve.executors.graph import Captured, Recorder, give_back
from fastsolve.executors.hindrance import UncapturableError, UnfollowedError
from fastsolve.executors.run import Backend, Look, Run, Setting, Work, bound
from fastsolve.program import Program

_KINDS_KEPT = 16  # each another structure, stream, or signature of the model's arguments

_T = TypeVar("_T")


class Pool:
    """Runs of one setting and the same models, and their graphs.

    recorder: makes what makes a graph; None runs launch by launch, for the reason `without`. required: what cannot be a graph is an error.
    """

    def __init__(
        self,
        setting: Setting,
        make: Callable[[Program, Setting, list[Tensor | None]], Backend],
        recorder: Callable[[], Recorder] | None = None,
        without: str = "",
        required: bool = False,
    ) -> None:
        self._setting, self._make, self._recorder, self._required = setting, make, recorder, required
        self._without = without  # the reason why the last call ran launch by launch
        self._runs: OrderedDict[Hashable, list[Run]] = OrderedDict()
        self._graphs: OrderedDict[Hashable, list[Captured]] = OrderedDict()
        self._hindrances: dict[Hashable, str] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        program: Program,
        models: Sequence[Callable[..., Tensor]],
        given: Given,
        check_finite: bool = False,
        on_call: Callable[[], object] | None = None,
    ) -> Generator[Look, None, Tensor]:
        """One sample batch, in a tensor that is the caller's; comes up where the program is looked at."""
        on_gpu = self._setting.device.type == "cuda"
        if on_gpu and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a sampler captures a graph of its own and cannot be called while another one is captured"
            )
        # A run's kernels may still be queued when it is given back: only its own stream may take it again.
        stream = torch.cuda.current_stream(self._setting.device).cuda_stream if on_gpu else 0
        key = (program.structure, bool(given.start), bool(given.noise), stream)
        if self._recorder is not None:
            try:
                if check_finite or on_call is not None:
                    raise UnfollowedError("a graph makes all calls at once: no bar moves, no output is looked at")
                out = yield from self._graphed(self._recorder, key, program, models, given)
                self._without = ""
                return out
            except (UnfollowedError, UncapturableError) as hindrance:
                if self._required:
                    raise RuntimeError(f"graph='require', and this cannot be one: {hindrance}") from hindrance
                self._without = str(hindrance)
                if isinstance(hindrance, UncapturableError) and hindrance.out is not None:
                    return hindrance.out  # no call is made, and nothing seen, twice
        return (yield from self._by_launches(key, program, models, given, check_finite, on_call))

    def _graphed(
        self,
        recorder: Callable[[], Recorder],
        key: Hashable,
        program: Program,
        models: Sequence[Callable[..., Tensor]],
        given: Given,
    ) -> Generator[Look, None, Tensor]:
        asked, conditioning = signature(given.arguments, self._setting.device)
        key = (key, asked, *given.functions.items(), *_modes(self._setting.device.type))
        if key in self._hindrances:
            raise UncapturableError(self._hindrances[key])
        idle = self._shelf(self._graphs, key)
        captured = _popped(idle)
        if captured is None:
            run = Run(program, self._setting, self._make)
            captured = Captured(run, models, given.arguments, given.tensors, given.functions, recorder())
        captured.run.load(program)
        try:
            out = yield from captured(given, conditioning, self._required)
        except UncapturableError as hindrance:
            if len(self._hindrances) >= _KINDS_KEPT:
                self._hindrances.clear()
            self._hindrances[key] = str(hindrance)
            raise
        except GeneratorExit:  # the caller has seen enough
            if captured.parts:
                idle.append(captured)
            raise
        idle.append(captured)  # not after an error: what stopped half way is dropped
        return out

    def _by_launches(
        self,
        key: Hashable,
        program: Program,
        models: Sequence[Callable[..., Tensor]],
        given: Given,
        check_finite: bool,
        on_call: Callable[[], object] | None,
    ) -> Generator[Look, None, Tensor]:
        idle = self._shelf(self._runs, key)
        run = _popped(idle) or Run(program, self._setting, self._make)
        run.load(program)
        out = run.new()
        run.backend.seed(given.seeds)
        work = Work(bound(models, given.arguments), given.start, given.noise, given.blend, given.functions)
        try:
            yield from run.loop(work, out, check_finite, on_call)
        finally:
            idle.append(run)
        return out

    def _shelf(self, shelves: OrderedDict[Hashable, list[_T]], key: Hashable) -> list[_T]:
        with self._lock:
            shelf = shelves.setdefault(key, [])
            shelves.move_to_end(key)
            if len(shelves) > _KINDS_KEPT:
                shelves.popitem(last=False)
        return shelf

    def __str__(self) -> str:
        if self._recorder is None:
            return f"launch by launch ({self._without})"
        kept = [captured.parts for shelf in list(self._graphs.values()) for captured in list(shelf)]
        if recorded := sum(parts > 0 for parts in kept):
            split = max(kept)
            seen = f", split into up to {split} where it is looked at" if split > 1 else ""
            last = f", the last launch by launch ({self._without})" if self._without else ""
            return f"one launch per sample ({recorded} captured{seen}){last}"
        if self._without:
            return f"launch by launch ({self._without})"
        return f"one launch per sample, captured in the {'first' if self._required else 'second'} call"

    def close(self) -> None:
        """Gives back the memory of all runs that are idle; those at work give theirs back when they end."""
        with self._lock:
            graphs, self._graphs, self._runs, self._hindrances = self._graphs, OrderedDict(), OrderedDict(), {}
        for shelf in graphs.values():
            while (captured := _popped(shelf)) is not None:  # which then is in no other thread's hands
                captured.close()
        if graphs and self._setting.device.type == "cuda":
            give_back()  # the memory of a graph's pool serves nobody else until then


def _popped(shelf: list[_T]) -> _T | None:
    """The last of a shelf, which another thread may empty at any time."""
    try:
        return shelf.pop()
    except IndexError:
        return None


def _modes(device: str) -> tuple[object, ...]:
    """What decides which kernels a model calls, beside the model."""
    return (torch.get_autocast_dtype(device),) if torch.is_autocast_enabled(device) else ()
