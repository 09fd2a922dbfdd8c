"""What `CudaRecorder` tells torch, in order, where torch.cuda is played: the capture's own errors need a GPU (`test_gpu`)."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastsolve.executors import graph
from fastsolve.executors.graph import CudaRecorder


class Stream:
    cuda_stream = 1


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls that a CPU can only note."""
    log: list[str] = []

    @contextlib.contextmanager
    def capture(*args: object) -> Iterator[None]:
        log.append("begin")
        yield
        log.append("end")

    plays: dict[str, object] = {
        "graph": capture,
        "CUDAGraph": object,
        "Stream": lambda *args, **kwargs: Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device: Stream(),
        "default_stream": lambda device: Stream(),
        "set_stream": lambda stream: None,
        "graph_pool_handle": lambda: (0, 1),
        "is_current_stream_capturing": lambda: False,
        "empty_cache": lambda: log.append("empty"),
    }
    for name, play in plays.items():
        monkeypatch.setattr(torch.cuda, name, play)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: log.append("clear"), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: log.append("release"))
    return log


def test_a_graph_works_in_memory_of_its_own(told: list[str]) -> None:
    CudaRecorder(torch.device("cpu")).record([lambda: told.append("work")])
    assert told == ["begin", "clear", "work", "clear", "end"]


def test_a_graph_casts_its_own_weights(told: list[str]) -> None:
    """Also where a model enters autocast by itself, inside its caller's: what is cast is then kept for the caller."""
    weight, x = torch.ones(4, 4, requires_grad=True), torch.ones(2, 4)
    inner = torch.autocast("cpu", torch.bfloat16)
    places: list[int] = []

    class Places(TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: object = None) -> object:
            if func is torch.ops.aten._to_copy.default and args[0] is weight:
                places.append(1)
            return func(*args, **(kwargs or {}))  # type: ignore[operator]

    @inner
    def model() -> None:
        x @ weight

    with torch.autocast("cpu", torch.bfloat16), Places():
        for count in (1, 2, 3):
            CudaRecorder(torch.device("cpu")).record([model])
            assert len(places) == count
        model()
        assert len(places) == 4


@pytest.mark.parametrize("spoilt", [True, False], ids=["the capture too", "the capture itself ended well"])
def test_after_an_error_a_pool_is_released_once(told: list[str], monkeypatch: pytest.MonkeyPatch, spoilt: bool) -> None:
    """By torch, with the graph, where the capture ended: by us where it could not."""

    def end(device: int, pool: object) -> None:
        if not spoilt:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    def work() -> None:
        raise ValueError("of the model")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end)
    with pytest.raises(ValueError, match="of the model"):
        CudaRecorder(torch.device("cpu")).record([work])
    assert told.count("release") == spoilt
    assert told.count("clear") == 4  # around what failed, and around the empty graph that mends torch


def in_a_thread(work: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_a_thread_waits_where_torch_has_no_more_streams(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    handles = itertools.cycle(range(32))

    class OneOfMany(Stream):
        def __init__(self) -> None:
            self.cuda_stream = next(handles)

    monkeypatch.setattr(torch.cuda, "Stream", lambda *args, **kwargs: OneOfMany())
    recorder, used = CudaRecorder(torch.device("cpu")), list[int]()

    def work() -> None:
        with CudaRecorder(torch.device("cpu"))._own_stream() as stream:
            used.append(stream.cuda_stream)

    thread = threading.Thread(target=work)
    with contextlib.ExitStack() as streams:
        held = [streams.enter_context(recorder._own_stream()).cuda_stream for _ in range(32)]
        assert len(set(held)) == 32
        thread.start()
        thread.join(0.1)
    thread.join()
    assert len(used) == 1


def test_memory_is_given_back_while_nobody_captures(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[object] = []

    def empty() -> None:
        locked.append(not in_a_thread(lambda: graph._capturing.acquire(blocking=False)))

    monkeypatch.setattr(torch.cuda, "empty_cache", empty)
    graph.give_back()
    assert locked == [True]
    CudaRecorder(torch.device("cpu")).record([graph.give_back])  # what a model's garbage may do: it waits for no lock
    assert locked == [True, True]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    graph.give_back()
    assert locked == [True, True]
