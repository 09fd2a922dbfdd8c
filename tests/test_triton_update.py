"""kernels/ against the definition: fastsolve.philox and updates spelled in NumPy, bit for bit, interpreted and on a GPU.

Triton chooses its interpreter once for a process: this file is also the script that runs all cases in a process of their own
and saves what they wrote.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bits import assert_bits_equal
from fastsolve import philox

ROOT = Path(__file__).parents[1]
OFFSET, DRAW_OFFSET = 3, 2  # what stands before them in the tables is poison
SEEDS = (-1, 2**63 + 12345, 7)
FAR = 2**36 + 4096  # an element whose group has a high word


@dataclass(frozen=True)
class Case:
    name: str
    size: int
    rows: tuple[tuple[int, ...], ...] = ((0,),)
    sources: str = ""  # one letter per tensor: f float32, b bfloat16, h float16
    outs: str = "f"
    draws: tuple[tuple[int, int], ...] = ()  # (stream, number)
    batch: int = 1
    alias: tuple[int, ...] = ()  # out i is the tensor of source alias[i]
    block: int = 0  # forces blocks of this many elements, also for batches; 0 leaves the choice to tiles.py

    def __str__(self) -> str:
        return self.name


A_DRAW = ((1, 5),)
CASES = [
    *(Case(f"normals-{n}", n, draws=A_DRAW) for n in (1, 63, 1000, 4099)),
    *(Case(f"normals-batch-{n}", n, draws=A_DRAW, batch=3) for n in (1, 63, 1000, 4099)),
    Case("normals-batch-blocks", 656, draws=A_DRAW, batch=3, block=256),
    Case("normals-blocks-tail", 1003, draws=A_DRAW, block=256),
    Case("normals-16-bit-blocks", 656, ((1, 0),), "b", "h", A_DRAW, batch=3, block=256),
    Case("normals-streams", 63, ((0,), (1,), (2,)), "", "fff", ((0, 5), (1, 2**31 - 1), (1, 0)), batch=3),
    Case("sum", 4099, ((2, 0, 3, 1),), "ffff", "f"),
    Case("sum-batch", 63, ((0, 1, 2, 3),), "ffff", "f", batch=3),
    Case("sum-to-bfloat16", 4099, ((0, 1),), "ff", "b"),
    Case("sum-to-float16", 4099, ((0, 1),), "ff", "h"),
    Case("sum-of-16-bit", 1000, ((0, 1, 2), (2, 1)), "bhb", "bh"),
    Case("nine-sources", 63, ((8, 7, 6, 5, 4, 3, 2, 1, 0),), "fbhfbhfbh", "f"),
    Case("one-draw-in-three-rows", 1000, ((0, 2), (1, 0, 2), (2, 1)), "fb", "fbh", A_DRAW, batch=3),
    Case(
        "three-draws-four-rows",
        656,
        ((0, 3, 4, 5), (1, 5), (4, 2), (0, 1, 2)),
        "ffb",
        "fffb",
        ((1, 0), (1, 1), (0, 9)),
        3,
    ),
    Case("in-place", 4099, ((0, 1, 2),), "ff", "f", A_DRAW, alias=(0,)),
    Case("in-place-blocks", 656, ((0, 1, 2),), "ff", "f", A_DRAW, 3, alias=(0,), block=256),
    Case("swapped", 1003, ((0, 1), (1, 0, 2)), "ff", "ff", A_DRAW, alias=(1, 0), block=256),
    Case("large", 1000003, ((0, 1, 2),), "fb", "f", A_DRAW),
]
BY_NAME = {case.name: case for case in CASES}


def sources_of(case: Case) -> list[np.ndarray]:
    """Bits, as float32, float16 or uint16 (bfloat16): ordinary numbers, and in front the awkward ones."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    awkward = np.float32(
        [np.nan, np.inf, -np.inf, -0.0, 1e-40, 3e38, -3e38, 65519, 65520, 1.00390625, 1.01171875, 6e-8]
    )
    tensors = []
    for kind in case.sources:
        x = rng.standard_normal((case.batch, case.size), np.float32)
        if case.size > 900:
            x[0, : len(awkward)] = awkward
        tensors.append(rounded(x, kind))
    return tensors


def table_of(case: Case) -> np.ndarray:
    coefficients = np.random.default_rng(5).uniform(-2, 2, sum(map(len, case.rows))).astype(np.float32)
    coefficients[0] = (
        1  # lets the first row of the draws be the normals themselves, and the awkward numbers pass as they are
    )
    return np.concatenate([np.full(OFFSET, np.nan, np.float32), coefficients, np.float32([np.nan])])


def rounded(x: np.ndarray, kind: str) -> np.ndarray:
    """float32 to the bits of a type, to nearest even."""
    if kind == "f":
        return x.astype(np.float32)
    if kind == "h":
        with np.errstate(over="ignore"):
            return x.astype(np.float16)
    bits = x.view(np.uint32)
    even = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), even).astype(np.uint16)


def widened(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32) if x.dtype == np.uint16 else x.astype(np.float32)


def expected(case: Case) -> list[np.ndarray]:
    seeds = philox.sample_seeds(SEEDS[: case.batch], case.batch)
    values = [widened(x) for x in sources_of(case)]
    values += [philox.normals(seeds, case.size, number, stream) for stream, number in case.draws]
    coefficients = iter(table_of(case)[OFFSET:])
    outs = []
    with np.errstate(all="ignore"):
        for row, kind in zip(case.rows, case.outs, strict=True):
            acc = next(coefficients) * values[row[0]]
            for p in row[1:]:
                acc = acc + next(coefficients) * values[p]
            outs.append(rounded(acc, kind))
    return outs


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, and any NaN for a NaN."""
    assert_bits_equal(*(torch.where(t.isnan(), torch.nan, t) for t in (tensor(got), tensor(want))))


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == np.uint16 else torch.from_numpy(x)


def array(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = tmp_path_factory.mktemp("triton") / "results.npz"
    interpreting = request.param == "interpreter"
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpreting)), "PYTHONPATH": search}
    command = [sys.executable, __file__, "cpu" if interpreting else "cuda", path]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits(case: Case, results: dict[str, np.ndarray]) -> None:
    for i, want in enumerate(expected(case)):
        assert_same(results[f"{case.name}.{i}"], want)


@pytest.mark.parametrize("name", ["far.block", "far.elements"])
def test_the_high_word_of_the_group_is_counted(name: str, results: dict[str, np.ndarray]) -> None:
    group = np.arange(FAR // 4, FAR // 4 + 4, dtype=np.uint64)
    low, high = (group & np.uint64(0xFFFFFFFF)).astype(np.uint32), (group >> np.uint64(32)).astype(np.uint32)
    words = philox.philox4x32((low, high, 5, 1), (7, 0))
    z = np.stack(philox.box_muller(words[0], words[1]) + philox.box_muller(words[2], words[3]), axis=-1)
    assert_same(results[name], z.reshape(-1))


def test_one_update_takes_other_coefficients_and_draws(results: dict[str, np.ndarray]) -> None:
    for step in range(3):
        seeds = philox.sample_seeds(SEEDS[:1], 1)
        assert_same(results[f"step.{step}"], np.float32(step) * philox.normals(seeds, 63, 10 + step))


@pytest.mark.parametrize(
    ("rows", "message"), [((), "needs rows"), (((),), "needs terms"), (((2,),), "outside 1 sources")]
)
def test_a_pattern_that_names_nothing_is_refused(rows: tuple[tuple[int, ...], ...], message: str) -> None:
    update = pytest.importorskip("fastsolve.kernels.update")
    with pytest.raises(ValueError, match=message):
        update.Update(rows, 1, 1)


if __name__ == "__main__":
    import triton
    import triton.language as tl

    from fastsolve.kernels import tiles
    from fastsolve.kernels.philox import block_normals, element_normals
    from fastsolve.kernels.update import Update

    @triton.jit
    def far_normals(block, elements, start):
        lane = tl.arange(0, 16)
        seed = start - start + 7
        tl.store(block + lane, block_normals(seed, start, 5, 1, 16, 4))
        tl.store(elements + lane, element_normals(seed, start + lane, 5, 1))

    def run_case(case: Case, device: str) -> list[torch.Tensor]:
        types = {"f": torch.float32, "b": torch.bfloat16, "h": torch.float16}
        sources = [tensor(x).to(device) for x in sources_of(case)]
        if case.alias:
            outs = [sources[i] for i in case.alias]
        else:
            outs = [torch.full((case.batch, case.size), torch.nan, dtype=types[k], device=device) for k in case.outs]
        table = tensor(table_of(case)).to(device)
        draws = torch.tensor([(-1, -1)] * DRAW_OFFSET + list(case.draws), dtype=torch.int32, device=device)
        update = Update(case.rows, len(sources), len(case.draws))
        update(sources, outs, table, OFFSET, draws, DRAW_OFFSET, seeds_of(case.batch, device), case.batch, case.size)
        return outs

    def seeds_of(batch: int, device: str) -> torch.Tensor:
        return torch.from_numpy(philox.sample_seeds(SEEDS[:batch], batch).view(np.int64)).to(device)

    def run_all(device: str, path: str) -> None:
        choose, saved = tiles.choose, {}
        for case in CASES:
            if case.block:
                small = {"block": case.block, "strip": 64, "least": 16}
                tiles.choose = lambda *args, small=small: choose(*args)._replace(**small)
            saved |= {f"{case.name}.{i}": array(out.cpu()) for i, out in enumerate(run_case(case, device))}
            tiles.choose = choose

        far = [torch.empty(16, device=device) for _ in range(2)]
        far_normals[(1,)](*far, FAR, enable_fp_fusion=False)
        saved |= {"far.block": array(far[0].cpu()), "far.elements": array(far[1].cpu())}

        out, table = torch.empty(1, 63, device=device), torch.arange(3.0, device=device)
        draws = torch.tensor([(1, 10), (1, 11), (1, 12)], dtype=torch.int32, device=device)
        update = Update(((0,),), 0, 1)
        for step in range(3):
            update([], [out], table, step, draws, step, seeds_of(1, device), 1, 63)
            saved[f"step.{step}"] = array(out.cpu()).copy()
        np.savez(path, **saved)

    run_all(*sys.argv[1:])
