"""The fused executor's launches one by one: tables rewritten, outputs anywhere, streams, devices, CUDA graphs; in the interpreter where
there is no GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bits import assert_bits_equal
from fastsolve import make_plan, philox
from fastsolve.executors.eager import Eager
from fastsolve.executors.run import Backend, Setting
from fastsolve.lower import lower
from fastsolve.program import Program

pytest.importorskip("triton")
from fastsolve.executors.fused import Fused

SHAPE = (2, 1, 32, 32)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Played:
    """A program with its tensors: launched in order, its model's outputs are numbers made before."""

    def __init__(self, program: Program, device: str, executor: type[Backend], skew: int = 0) -> None:
        dtype = torch.bfloat16
        self.program, self.setting = (
            program,
            Setting(SHAPE, torch.device(device), torch.float32, dtype, dtype, torch.float32, False),
        )
        self.kinds = [slot.kind for slot in program.slots]
        self.tensors: list[Tensor | None] = [
            self.empty(kind, 0) if kind in ("state", "input") else None for kind in self.kinds
        ]
        self.backend = executor(program, self.setting, self.tensors)
        for slot, kind in enumerate(self.kinds):
            if kind == "out":
                self.out = self.put(slot, self.empty(kind, 0))
        generator = torch.Generator().manual_seed(2)
        self.raws = []
        for calls, _ in program.steps:
            for slot in (slot for call in calls for slot in call.raws):
                raw = self.empty("raw", skew)
                self.raws.append((slot, raw.copy_(torch.randn(SHAPE, generator=generator))))

    def empty(self, kind: str, skew: int) -> Tensor:
        """A tensor that starts `skew` elements into its memory."""
        whole = torch.empty(int(np.prod(SHAPE)) + skew, dtype=self.setting.dtype_of(kind), device=self.setting.device)
        return whole[skew:].view(SHAPE)

    def put(self, slot: int, tensor: Tensor) -> Tensor:
        self.tensors[slot] = tensor
        self.backend.bind(slot, tensor)
        return tensor

    def launch(self) -> Tensor:
        raws = iter(self.raws)
        self.backend.launch(0)
        for index, (calls, _) in enumerate(self.program.steps, start=1):
            for _ in (slot for call in calls for slot in call.raws):
                self.put(*next(raws))
            self.backend.launch(index)
        return self.out


def program() -> Program:
    """Three stages with their own and shared normals, on a model in bfloat16."""
    return lower(make_plan("seeds3", schedule="edm", steps=2), raw_bytes=2, cast=True)


def seeds(first: int) -> np.ndarray:
    return philox.sample_seeds(first, SHAPE[0])


def expected(seed: int, table: np.ndarray | None = None) -> Tensor:
    ours = program() if table is None else replace(program(), table=table)
    played = Played(ours, "cpu", Eager)
    played.backend.seed(seeds(seed))
    return played.launch()


@pytest.mark.parametrize("skew", [0, 1])
@pytest.mark.parametrize("device", DEVICES)
def test_outputs_may_start_anywhere(device: str, skew: int) -> None:
    played = Played(program(), device, Fused, skew)
    played.backend.seed(seeds(7))
    for _ in range(2):  # every launch bound, the second time
        assert_bits_equal(played.launch(), expected(7))


@pytest.mark.parametrize("device", DEVICES)
def test_tables_are_read_at_every_launch(device: str) -> None:
    played = Played(program(), device, Fused)
    played.backend.seed(seeds(7))
    played.launch()
    table = program().table * 1.25
    played.backend._table.copy_(torch.from_numpy(table.astype(np.float32)))
    played.backend.seed(seeds(9))
    assert_bits_equal(played.launch(), expected(9, table))


@pytest.mark.gpu
def test_launches_are_captured_and_replayed_with_other_tables() -> None:
    played = Played(program(), "cuda", Fused)
    played.backend.seed(seeds(7))
    played.launch()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        played.launch()
    for seed, factor in ((7, 1.0), (8, 1.0), (8, 1.25)):
        table = program().table * factor
        played.backend._table.copy_(torch.from_numpy(table.astype(np.float32)))
        played.backend.seed(seeds(seed))
        played.out.fill_(torch.nan)
        graph.replay()
        assert_bits_equal(played.out, expected(seed, table))


@pytest.mark.gpu
def test_launches_go_to_the_current_stream() -> None:
    played = Played(program(), "cuda", Fused)
    played.backend.seed(seeds(7))
    played.launch()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # launches elsewhere would overtake it
        played.out.fill_(torch.nan)
        out = played.launch()
        copy = out.clone()
    stream.synchronize()
    assert_bits_equal(copy, expected(7))


@pytest.mark.gpu
def test_every_device_has_its_own_launches() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        with torch.cuda.device(device):
            played = Played(program(), device, Fused)
            played.backend.seed(seeds(7))
            assert_bits_equal(played.launch(), expected(7))
