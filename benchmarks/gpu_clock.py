"""How the GPU benchmarks time: providers in turns, microseconds; everything also runs on a CPU, as a rehearsal whose times mean nothing.

A launch is timed as the difference of two CUDA graphs, of many launches and of few: what a graph costs by itself falls out. A call is
timed by the host's clock, from a quiet GPU to a quiet GPU, or by the GPU's, with the host far enough ahead not to be seen.
"""

from __future__ import annotations

import gc
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fastsolve.executors.graph import CudaRecorder

Call = Callable[[], object]
_SPIN_PER_US = 2000  # cycles: no GPU of today runs much above 2 GHz, and a slower one spins longer


class LostError(RuntimeError):
    """The GPU answers no more in this process: whatever comes next would fail for the same reason."""


@dataclass(frozen=True)
class Place:
    """Where a benchmark runs: a GPU, or the CPU for a rehearsal."""

    device: torch.device
    dry: bool

    @property
    def l2(self) -> int:
        """Bytes of the L2 cache."""
        return 1 << 20 if self.dry else int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    @property
    def free(self) -> int:
        """Bytes of memory that nobody holds."""
        return 1 << 28 if self.dry else torch.cuda.mem_get_info(self.device)[0]

    def quiet(self) -> None:
        """Waits for all that is queued."""
        if not self.dry:
            torch.cuda.synchronize(self.device)

    def settle(self, seconds: float) -> None:
        """Keeps the GPU at work, so that its clocks are up when the timing begins."""
        if self.dry:
            return
        a = torch.randn(4096, 4096, device=self.device, dtype=torch.bfloat16)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            a @ a
            self.quiet()

    def recorded(self, work: Call) -> Call:
        """What `work` queues, as one CUDA graph; it must have run before. The function returned replays it and returns what work did."""
        if self.dry:
            return work
        kept: list[object] = []
        graph = CudaRecorder(self.device).record(lambda: kept.append(work()))

        def replay() -> object:
            graph.replay()
            return kept[0]

        return replay

    def tidy(self) -> None:
        """Gives back the memory of what was dropped."""
        gc.collect()
        if not self.dry:
            self.quiet()
            torch.cuda.empty_cache()


def place(dry: bool) -> Place:
    """The current GPU. Ends the process with exit code 2 where there is none and no rehearsal was asked for."""
    if dry:
        torch.set_num_threads(1)  # tensors are tiny
        return Place(torch.device("cpu"), True)
    if not torch.cuda.is_available():
        print("torch.cuda finds no GPU; --dry rehearses on the CPU", file=sys.stderr)
        raise SystemExit(2)
    return Place(torch.device("cuda", torch.cuda.current_device()), False)


def call_time(place: Place, call: Call) -> float:
    """From a quiet GPU to a quiet GPU."""
    place.quiet()
    start = time.perf_counter()
    call()
    place.quiet()
    return (time.perf_counter() - start) * 1e6


def host_time(place: Place, call: Call) -> float:
    """Until the call comes back, whatever the GPU still has to do."""
    place.quiet()
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


class GpuTime:
    """The GPU's time for a call that does not wait for it, the host being ahead: a spinning kernel holds the GPU until all is queued."""

    def __init__(self, place: Place, call: Call) -> None:
        self._place, self._call = place, call
        for _ in range(2):  # the first replay of a graph also uploads it
            call()
        ahead = 50.0 + 2.0 * min(host_time(place, call) for _ in range(3))
        self._cycles = int(ahead * _SPIN_PER_US)
        if not place.dry:
            self._from, self._to = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self) -> float:
        if self._place.dry:
            return call_time(self._place, self._call)
        self._place.quiet()
        torch.cuda._sleep(self._cycles)
        self._from.record()
        self._call()
        self._to.record()
        self._to.synchronize()
        return self._from.elapsed_time(self._to) * 1e3


class Launches:
    """The time of one launch of many: node(i) queues number i."""

    def __init__(self, place: Place, node: Callable[[int], object], many: int, few: int, sets: int) -> None:
        """sets: how many sets of tensors there are. The short graph begins at half of them, which the long one left long ago."""
        for i in (0, 1):
            node(i)
        place.quiet()
        self._many = GpuTime(place, place.recorded(lambda: [node(i) for i in range(many)]))
        self._few = GpuTime(place, place.recorded(lambda: [node(sets // 2 + i) for i in range(few)]))
        self._more = many - few

    def __call__(self) -> tuple[float]:
        return ((self._many() - self._few()) / self._more,)


def in_turns(
    measures: dict[str, Callable[[], Sequence[float]]], rounds: int, seconds: float
) -> tuple[dict[str, list[Sequence[float]]], dict[str, str]]:
    """Samples by provider, and the reasons of those that failed. One that has used its `seconds` leaves after three rounds or more."""
    samples: dict[str, list[Sequence[float]]] = {name: [] for name in measures}
    used = dict.fromkeys(measures, 0.0)
    failed: dict[str, str] = {}
    gc.disable()  # it would come at the expense of whoever has its turn
    try:
        for number in range(rounds):
            for name, measure in measures.items():
                if name in failed or (number >= 3 and used[name] > seconds):
                    continue
                start = time.monotonic()
                try:
                    samples[name].append(measure())
                except Exception as error:
                    failed[name] = why(error)
                used[name] += time.monotonic() - start
    finally:
        gc.enable()
    return {name: rows for name, rows in samples.items() if name not in failed}, failed


def why(error: BaseException) -> str:
    """One line. Raises LostError where the error took the GPU with it."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError as lost:
        raise LostError(f"{_line(error)}; then the GPU was lost: {_line(lost)}") from error
    return _line(error)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    told = re.sub(
        r"(/[\w.+-]+)+/", "", lines[0] if lines else "no message"
    )  # a folder of this machine tells nobody else anything
    return f"{type(error).__name__}: {told}"[:300]
