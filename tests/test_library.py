"""`fastsolve.combine`, the update as an operator of torch: in eager code, compiled, exported, differentiated, on a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import philox
from fastsolve.executors import library

ROOT = Path(__file__).parents[1]
F, B, H = torch.float32, torch.bfloat16, torch.float16
DRAWS = [(1, 7), (5, 2**31 - 1)]
SEEDS = [3, -1, 2**62]


def given(dtypes: list[torch.dtype], rows: int, draws: int, shape: tuple[int, ...] = (3, 7, 5)) -> list[object]:
    """Table, sources, draws and seeds, the same each time."""
    generator = torch.Generator().manual_seed(len(dtypes) + 10 * rows + 100 * draws)
    table = torch.randn(rows, len(dtypes) + draws, generator=generator)
    sources = [torch.randn(shape, generator=generator).to(dtype) for dtype in dtypes]
    if not draws:
        return [table, sources, None, None]
    return [table, sources, torch.tensor(DRAWS[:draws], dtype=torch.int32), torch.tensor(SEEDS[: shape[0]])]


def spelled(
    table: Tensor, sources: list[Tensor], draws: Tensor | None, seeds: Tensor | None, dtypes: list[torch.dtype]
) -> list[Tensor]:
    """The definition, in NumPy: terms from left to right, each product and each sum rounded."""
    values = [source.to(table.dtype).numpy() for source in sources]
    if draws is not None and seeds is not None:
        shape, keys = sources[0].shape, seeds.numpy().view(np.uint64)
        z = [philox.normals(keys, sources[0][0].numel(), number, stream) for stream, number in draws.tolist()]
        values += [x.reshape(shape).astype(values[0].dtype) for x in z]
    outs = []
    for row, dtype in zip(table.numpy(), dtypes, strict=True):
        total = row[0] * values[0]
        for c, value in zip(row[1:], values[1:], strict=True):
            total = total + c * value
        outs.append(torch.from_numpy(total).to(dtype))
    return outs


CASES = {
    "sum": ([F, F, F], [F], 0),
    "noise": ([F], [F], 1),
    "model input": ([F, B], [F, B], 2),
    "half in, half out": ([H, H], [H], 1),
}


def same(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert_bits_equal(a, b)


@pytest.mark.parametrize(("sources", "outs", "draws"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("executor", ["auto", "eager"])
def test_bits(
    executor: str, sources: list[torch.dtype], outs: list[torch.dtype], draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if executor == "eager":
        monkeypatch.setattr(library, "_executor", lambda device, dtype: "eager")
    table, tensors, numbers, seeds = given(sources, len(outs), draws)
    got = fastsolve.combine(table, tensors, draws=numbers, seeds=seeds, dtypes=outs)
    same(got, spelled(table, tensors, numbers, seeds, outs))


def test_float64_is_exact_to_rounding() -> None:
    table, (x, y), draws, seeds = given([F, B], 2, 1)
    table, x = table.double(), x.double()
    same(
        fastsolve.combine(table, [x, y], draws=draws, seeds=seeds),
        spelled(table, [x, y], draws, seeds, [torch.float64] * 2),
    )


def test_sources_need_not_be_contiguous_and_may_be_empty() -> None:
    table, (x, y), _, _ = given([F, F], 1, 0, (4, 6))
    same(fastsolve.combine(table, [x.t(), y.t()]), spelled(table, [x.t(), y.t()], None, None, [F]))
    assert fastsolve.combine(table, [x[:0], y[:0]])[0].shape == (0, 6)


@pytest.mark.parametrize("seeds", [[], [3, 4]], ids=len)
def test_seeds_of_no_draws_do_not_matter(seeds: list[int]) -> None:
    table, sources, _, _ = given([F, F], 1, 0)
    none = torch.empty(0, 2, dtype=torch.int32)
    same(
        fastsolve.combine(table, sources, draws=none, seeds=torch.tensor(seeds, dtype=torch.int64)),
        spelled(table, sources, None, None, [F]),
    )


def test_torch_finds_nothing_wrong_with_the_operator() -> None:
    table, sources, draws, seeds = given([F, B], 2, 1)
    operator = torch.ops.fastsolve.combine.default
    torch.library.opcheck(operator, (table, sources, draws, seeds, ["float32", "bfloat16"]))
    torch.library.opcheck(operator, (table, [sources[0].requires_grad_(), sources[1]], draws, seeds, None))


def step(table: Tensor, x: Tensor, d: Tensor, draws: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """A user's code around the operator: exact, so that a compiler cannot change its bits."""
    y, model_input = fastsolve.combine(table, [x * 2.0, d], draws=draws, seeds=seeds, dtypes=[F, B])
    return -y, model_input


def inductor_has_a_compiler() -> bool:
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_keeps_its_bits_and_is_compiled_once(backend: str) -> None:
    if backend == "inductor" and not inductor_has_a_compiler():
        pytest.skip("torch's compiler finds no C++ compiler")
    torch._dynamo.reset()
    table, (x, d), draws, seeds = given([F, B], 2, 1)
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    same(list(compiled(table, x, d, draws, seeds)), list(step(table, x, d, draws, seeds)))
    with torch.compiler.set_stance(
        "fail_on_recompile"
    ):  # other coefficients, draws and seeds are other tensors, not other code
        other = (table + 1, x, d, draws + 1, seeds + 1)
        same(list(compiled(*other)), list(step(*other)))


def test_exported_code_has_the_operator() -> None:
    class Step(torch.nn.Module):
        def forward(self, table: Tensor, x: Tensor, d: Tensor, draws: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
            return step(table, x, d, draws, seeds)

    table, (x, d), draws, seeds = given([F, B], 2, 1)
    program = torch.export.export(Step(), (table, x, d, draws, seeds))
    assert torch.ops.fastsolve.combine.default in [node.target for node in program.graph.nodes]
    same(list(program.module()(table, x, d, draws, seeds)), list(step(table, x, d, draws, seeds)))


def test_gradients_are_the_transposed_table() -> None:
    table, (x, d), draws, seeds = given([F, B], 2, 1)
    x.requires_grad_()
    d.requires_grad_()
    y, z = fastsolve.combine(table, [x, d], draws=draws, seeds=seeds)
    weights = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1))
    (weights[0] * y + weights[1] * z).sum().backward()
    want = spelled(table[:, :2].t().contiguous(), list(weights), None, None, [F, B])
    same([x.grad, d.grad], want)
    with pytest.raises(NotImplementedError, match="not in its table"):
        fastsolve.combine(table.requires_grad_(), [x, d], draws=draws, seeds=seeds)[0].sum().backward()


def call(**changes: object) -> Callable[[], object]:
    table, sources, draws, seeds = given([F, F], 2, 1)
    arguments = {"table": table, "sources": sources, "draws": draws, "seeds": seeds} | changes
    return lambda: fastsolve.combine(arguments.pop("table"), arguments.pop("sources"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "at least one source"),
        ({"sources": [torch.zeros(3, 2), torch.zeros(3, 3)]}, "one shape"),
        ({"sources": [torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int32)]}, "floating tensors"),
        ({"table": torch.zeros(2, 3, dtype=torch.bfloat16)}, "float32 or float64"),
        ({"table": torch.zeros(2, 4)}, r"2 sources \+ 1 draws"),
        ({"draws": None}, r"2 sources \+ 0 draws"),
        ({"draws": torch.zeros(1, 2)}, "int32"),
        ({"seeds": None}, "draws need seeds"),
        ({"seeds": torch.zeros(2, dtype=torch.int64)}, r"int64 \[3\]"),
        ({"dtypes": [torch.float32]}, "1 dtypes for 2 rows"),
        ({"dtypes": [torch.float32, torch.int32]}, "not torch.int32"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(**changes)()


def test_the_executors_do_not_call_it() -> None:
    """A dispatched operator costs the host more than a launch."""
    for file in (ROOT / "fastsolve/executors").glob("*.py"):
        if file.name != "library.py":
            assert "library" not in file.read_text("utf-8").replace("importlib", "")


@pytest.mark.gpu
@pytest.mark.parametrize(("sources", "outs", "draws"), CASES.values(), ids=CASES)
def test_bits_on_a_gpu(sources: list[torch.dtype], outs: list[torch.dtype], draws: int) -> None:
    table, tensors, numbers, seeds = given(sources, len(outs), draws, (3, 5000))
    want = spelled(table, tensors, numbers, seeds, outs)
    there = [None if t is None else t.cuda() for t in (table, numbers, seeds)]
    for _ in range(2):  # by Triton's way, then by the bound launch
        got = fastsolve.combine(there[0], [t.cuda() for t in tensors], draws=there[1], seeds=there[2], dtypes=outs)
        same(got, want)


@pytest.mark.gpu
def test_a_captured_graph_reads_its_table_anew() -> None:
    table, (x, d), draws, seeds = (t if isinstance(t, list) else t.cuda() for t in given([F, B], 2, 1, (3, 5000)))
    x, d = x.cuda(), d.cuda()
    step(table, x, d, draws, seeds)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = step(table, x, d, draws, seeds)
    for change in range(3):
        table += change
        draws += change
        graph.replay()
        same(list(outs), list(step(table, x, d, draws, seeds)))


def test_importing_it_does_not_import_triton() -> None:
    """Half a second that only a GPU needs. It imports fastsolve, too."""
    code = "import sys, fastsolve.executors.library; sys.exit('triton.language' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
