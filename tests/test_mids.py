"""Values in the middle of an update, and numbers of each sample's own, as every executor runs them: against NumPy, bit for bit."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import executors, philox
from fastsolve.executors import Setting
from fastsolve.program import Launch, Mid, Program, Row, Slot, stacked
from shim import Shimmed
from updates import linear, middle

SEEDS = np.array([2**64 - 1, 2**63 + 12345, 7], np.uint64)
SHAPE = (3, 5, 9)
KINDS = ("state", "raw", "start", "state", "input")
# Guided and clipped data, blended with known data where a mask says so; a state that both take part in, and the model's next input.
FIRST = Launch(
    (0, 1, 2),
    ((1, 5),),
    (Row(3, (0, 5, 3, 4), 9), Row(4, (5, 0), 13)),
    (Mid("clip", (0, 1), 2), Mid("blend", (4, 1), 6, 2, 0)),
)
SECOND = Launch((3, 4, 1), (), (Row(0, (3, 0, 1), 19),), (Mid("clip", (2,), 15),))
SIZE = 22
HALF = {"raw": torch.bfloat16, "input": torch.float16}


@pytest.fixture(params=["eager", "native", "fused", "cuda"])
def executor(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its name; on a machine without a GPU, fused is interpreted and cuda is the shim."""
    if request.param == "native":
        pytest.importorskip("fastsolve._C")
    if request.param == "fused":
        pytest.importorskip("triton")
    if request.param != "cuda" or torch.cuda.is_available():
        if request.param == "cuda":
            pytest.importorskip("fastsolve._cuda")
        yield request.param
        return
    shimmed: Shimmed = request.getfixturevalue("shimmed")
    name = "fastsolve.executors.cuda"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fastsolve._cuda", shimmed.module)
        patch.setattr(fastsolve, "_cuda", shimmed.module, raising=False)
        patch.delitem(sys.modules, name, raising=False)
        patch.setattr(importlib.import_module(name), "current_stream", lambda device: lambda: 0)
        yield "cuda"
    sys.modules.pop(name, None)


def program(seed: int) -> Program:
    table = np.random.default_rng(seed).standard_normal(SIZE)
    for low in (4, 16):
        table[low : low + 2] = -abs(table[low]), abs(table[low + 1])
    table[:2] = np.nan  # nobody's
    return Program(tuple(map(Slot, KINDS)), FIRST, (((), SECOND),), table, np.zeros(0), 1)


def setting(executor: str, dtype: torch.dtype = torch.float32) -> Setting:
    device = "cuda" if executor in ("fused", "cuda") and torch.cuda.is_available() else "cpu"
    types = (HALF["input"], HALF["raw"]) if dtype == torch.float32 else (dtype, dtype)
    return Setting(SHAPE, torch.device(device), dtype, *types, torch.float32, False)


def sources(where: Setting) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in KINDS]
    made[2] = (made[2] > 0).to(torch.float64)  # a mask
    made[2][0, 0, :3] = torch.tensor([0.25, 0.5, 0.75])
    for x in made[:2]:
        x.view(-1)[40:44] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    return [x.to(where.dtype_of(kind)) for x, kind in zip(made, KINDS, strict=True)]


def expected(ours: Program, where: Setting) -> list[Tensor]:
    """All slots after both launches."""
    exact = where.dtype == torch.float64
    columns = [np.reshape(column, (-1, 1, 1)) for column in (ours.table if exact else ours.table32).T]
    tensors = sources(where)
    for launch in ours.launches:
        values = [tensors[slot].to(where.dtype).numpy() for slot in launch.sources]
        for stream, number in launch.draws:
            values.append(philox.normals(SEEDS, where.size, number, stream).reshape(SHAPE).astype(values[0].dtype))
        with np.errstate(all="ignore"):
            for mid in launch.mids:
                values.append(middle(mid, columns[mid.offset :], values))
            sums = [linear(columns[row.offset :], row.terms, values) for row in launch.rows]
        for row, total in zip(launch.rows, sums, strict=True):
            tensors[row.out] = torch.from_numpy(total).to(where.dtype_of(KINDS[row.out]))
    return tensors


def assert_runs(backend: executors.run.Backend, tensors: list[Tensor | None], ours: Program, where: Setting) -> None:
    for slot, source in enumerate(sources(where)):
        held = tensors[slot]
        assert held is not None
        held.copy_(source)
    for index in range(len(ours.launches)):
        backend.launch(index)
    for got, want in zip(tensors, expected(ours, where), strict=True):
        assert got is not None
        assert_bits_equal(*(torch.where(t.isnan(), torch.nan, t) for t in (got.cpu(), want)))


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # Triton's interpreter computes in NumPy
@pytest.mark.parametrize("batched", [False, True], ids=["one table", "a table each"])
def test_every_executor_has_the_bits_of_the_definition(executor: str, batched: bool) -> None:
    """And of another program of the same structure, loaded where the first one was."""
    check(executor, setting(executor), batched)


@pytest.mark.parametrize("batched", [False, True], ids=["one table", "a table each"])
def test_eager_in_float64(batched: bool) -> None:
    check("eager", setting("eager", torch.float64), batched)


def check(executor: str, where: Setting, batched: bool) -> None:
    first, second = (stacked([program(seed + i) for i in range(3)]) if batched else program(seed) for seed in (10, 20))
    assert first.structure is second.structure
    tensors: list[Tensor | None] = [
        torch.empty(SHAPE, dtype=where.dtype_of(kind), device=where.device) for kind in KINDS
    ]
    backend = executors.backend(executor, first, where, tensors)
    backend.seed(SEEDS)
    for _ in range(2):  # every launch bound, the second time
        assert_runs(backend, tensors, first, where)
    backend.load(second)
    assert_runs(backend, tensors, second, where)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 3, 4)])
def test_a_table_each_for_samples_of_any_rank(shape: tuple[int, ...]) -> None:
    where = replace(setting("eager"), shape=shape, input_dtype=torch.float32, raw_dtype=torch.float32)
    ours = stacked(
        [
            replace(program(0), opening=Launch((0,), (), (Row(1, (0,), 0),)), steps=(), table=np.ones(1) * i)
            for i in range(3)
        ]
    )
    x, out = torch.ones(shape), torch.empty(shape)
    executors.backend("eager", ours, where, [x, out]).launch(0)
    assert_bits_equal(
        out.flatten(1) if out.ndim > 1 else out[:, None], torch.arange(3.0)[:, None].expand(3, out[0].numel())
    )
