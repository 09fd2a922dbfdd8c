"""kernels/ against the definition: fastsolve.philox and updates spelled in NumPy, bit for bit: interpreted, on a GPU, and as the
assembly compiled for one, evaluated in NumPy (ptx.py).

Triton chooses its interpreter once for a process: this file is also the script that runs all cases in a process of their own
and saves what they wrote.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bits import assert_bits_equal
from fastsolve import philox
from fastsolve.program import Mid
from updates import any_pattern, blend, clip, linear, middle, placed

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
    skew: bool = False  # tensors start in the middle of 16 bytes
    mids: tuple[Mid, ...] = ()  # with offsets that `placed_mids` writes
    per_sample: bool = False  # a table of its own for every sample

    def __str__(self) -> str:
        return self.name


def any_case(number: int) -> Case:
    rng = np.random.default_rng(number)
    pattern = any_pattern(rng, int(rng.integers(1, 6)), int(rng.integers(0, 3)))
    # Of a forced block two, the second one full in part: the interpreter takes as long for each.
    size = int(rng.choice([37, 272, 331] if number % 2 else [37, 656, 1003]))
    return Case(f"any-{number}", size, batch=3, block=256 * (number % 2), **pattern)


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
    Case("guided-input-twice", 4099, ((0, 1, 2), (0, 2, 1), (0, 2, 1)), "fbb", "fbb"),
    Case("skewed", 4099, ((0, 1, 2),), "fb", "b", A_DRAW, skew=True),
    Case("skewed-batch", 4096, ((0, 1, 2),), "fb", "h", A_DRAW, batch=2, skew=True),
    Case("in-place", 4099, ((0, 1, 2),), "ff", "f", A_DRAW, alias=(0,)),
    Case("in-place-blocks", 656, ((0, 1, 2),), "ff", "f", A_DRAW, 3, alias=(0,), block=256),
    Case("swapped", 1003, ((0, 1), (1, 0, 2)), "ff", "ff", A_DRAW, alias=(1, 0), block=256),
    Case("large", 1000003, ((0, 1, 2),), "fb", "f", A_DRAW),
    *(Case(f"clip-{n}", n, ((2, 0), (1, 2)), "fb", "fb", mids=(clip(1, 0),)) for n in (1, 63, 4099)),
    *(Case(f"blend-{n}", n, ((3, 0), (3,)), "hfb", "fh", mids=(blend(0, 2, 1, 2),)) for n in (1, 63, 4099)),
    Case("mids-large", 1000003, ((0, 3, 4),), "fb", "f", A_DRAW, mids=(clip(1, 0), blend(1, 0, 2, 3))),
    Case("mids-skewed", 4099, ((0, 2), (3,)), "fb", "bf", skew=True, mids=(clip(1), blend(1, 0, 2, 0))),
    Case("mids-in-place", 656, ((3, 0), (3, 2)), "ff", "ff", A_DRAW, 3, (1, 0), 256, mids=(clip(0, 1, 2),)),
    *(Case(f"of-each-{n}", n, ((0, 1), (1,)), "fb", "fb", batch=3, per_sample=True) for n in (1, 63, 1000, 4099)),
    Case("of-each-blocks", 656, ((0, 1), (1,)), "fb", "fb", batch=3, block=256, per_sample=True),
    Case("of-each-unaligned-blocks", 1003, ((0, 1), (1,)), "fb", "fb", batch=3, block=256, per_sample=True),
    Case("of-each-skewed", 656, ((0, 1),), "fb", "h", batch=3, block=256, skew=True, per_sample=True),
    Case("of-one", 4099, ((0, 1),), "fb", "f", A_DRAW, per_sample=True),
    *(
        Case(
            f"of-each-mids-{n}",
            n,
            ((0, 4, 5), (3, 4)),
            "bff",
            "fb",
            A_DRAW,
            3,
            (),
            block,
            False,
            (clip(3, 1), blend(2, 0, 4, 1)),
            True,
        )
        for n, block in ((1, 0), (63, 0), (656, 256), (1003, 256), (4096, 0))
    ),
    *(any_case(number) for number in range(24)),
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
        if case.size > 300:
            x[0, : len(awkward)] = awkward
        tensors.append(rounded(x, kind))
    return tensors


def placed_mids(case: Case) -> tuple[tuple[Mid, ...], int]:
    """The mids with their offsets, and the first coefficient of the rows."""
    return placed(case.mids, OFFSET)


def table_of(case: Case) -> np.ndarray:
    """[n], or [batch, n]."""
    mids, first = placed_mids(case)
    end = first + sum(map(len, case.rows))
    shape = (case.batch, end + 1) if case.per_sample else (end + 1,)
    table = np.full(shape, np.nan, np.float32)
    table[..., OFFSET:end] = np.random.default_rng(5).uniform(-2, 2, (*shape[:-1], end - OFFSET))
    # Lets the first row of the draws be the normals themselves, and the awkward numbers pass as they are.
    table[..., OFFSET] = table[..., first] = 1
    for mid in mids:
        if mid.op == "clip":
            low = mid.offset + len(mid.terms)
            table[..., low], table[..., low + 1] = -abs(table[..., low]), abs(table[..., low + 1])
    return table


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
    columns = [column[..., None] for column in table_of(case).T]
    mids, first = placed_mids(case)
    outs = []
    with np.errstate(all="ignore"):
        for mid in mids:
            values.append(middle(mid, columns[mid.offset :], values))
        for row, kind in zip(case.rows, case.outs, strict=True):
            outs.append(rounded(linear(columns[first:], row, values), kind))
            first += len(row)
    return outs


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, and any NaN for a NaN."""
    assert_bits_equal(*(torch.where(t.isnan(), torch.nan, t) for t in (tensor(got), tensor(want))))


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) if x.dtype == np.uint16 else torch.from_numpy(x)


def array(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


@pytest.fixture(scope="module", params=["interpreter", "ptx", pytest.param("cuda", marks=pytest.mark.gpu)])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = tmp_path_factory.mktemp("triton") / "results.npz"
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TRITON_INTERPRET": str(int(request.param == "interpreter")), "PYTHONPATH": search}
    command = [sys.executable, __file__, request.param, path]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits(case: Case, results: dict[str, np.ndarray]) -> None:
    for i, want in enumerate(expected(case)):
        assert_same(results[f"{case.name}.{i}"], want)


def test_the_high_word_of_the_group_is_counted(results: dict[str, np.ndarray]) -> None:
    if "far" not in results:
        pytest.skip("a kernel of this test alone, not an update")
    group = np.arange(FAR // 4, FAR // 4 + 4, dtype=np.uint64)
    low, high = (group & np.uint64(0xFFFFFFFF)).astype(np.uint32), (group >> np.uint64(32)).astype(np.uint32)
    words = philox.philox4x32((low, high, 5, 1), (7, 0))
    z = np.stack(philox.box_muller(words[0], words[1]) + philox.box_muller(words[2], words[3]), axis=-1)
    assert_same(results["far"], z.reshape(-1))


def test_every_radius_has_the_bits_of_the_definition(results: dict[str, np.ndarray]) -> None:
    """All 2^23 uniforms there are, each with some angle: what the kernels compute with fewer operations is the same."""
    if "radii" not in results:
        pytest.skip("a kernel of this test alone, not an update")
    first = np.arange(2**23, dtype=np.uint32) << np.uint32(9)
    with np.errstate(over="ignore"):
        want = np.stack(philox.box_muller(first, first * np.uint32(0x9E3779B9) + (first >> np.uint32(9))))
    assert_same(results["radii"], want)


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


@pytest.mark.parametrize(
    ("mid", "message"),
    [
        (("round", (0,), 0, -1, -1), "has the op 'round'"),
        (("clip", (), 0, -1, -1), r"sums \(\)"),
        (("clip", (2,), 0, -1, -1), r"mid 0 sums \(2,\), of 1 sources, 1 draws and 0 mids"),
        (("blend", (0,), 0, 0, 1), "blends by the sources 0 and 1, and there are 1"),
    ],
)
def test_a_mid_that_names_nothing_is_refused(mid: tuple[object, ...], message: str) -> None:
    update = pytest.importorskip("fastsolve.kernels.update")
    with pytest.raises(ValueError, match=message):
        update.Update([(0,)], 1, 1, [mid])


@pytest.mark.parametrize(("samples", "batch"), [(2, 3), (65536, 65536)])
def test_tables_that_do_not_fit_the_batch_are_refused(samples: int, batch: int) -> None:
    update = pytest.importorskip("fastsolve.kernels.update")
    x, table = torch.zeros(batch, 1), torch.zeros(samples, 1)
    with pytest.raises(
        ValueError, match=f"coefficients of {samples} samples for a batch of {batch}; at most are 65535"
    ):
        update.Update([(0,)], 1, 0)([x], [x], table, 0, None, 0, None, batch, 1)


if __name__ == "__main__":
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    import ptx
    from fastsolve.kernels import bound, tiles
    from fastsolve.kernels.philox import box_muller, element_normals
    from fastsolve.kernels.update import Update

    @triton.jit
    def far_normals(out, start):
        lane = tl.arange(0, 16)
        number = tl.full((), 5, tl.uint32)
        tl.store(out + lane, element_normals(start - start + 7, start + lane, number, number // 5, False))

    @triton.jit
    def all_radii(out, PTX: tl.constexpr, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        first = at.to(tl.uint32) << 9
        x, y = box_muller(first, first * 0x9E3779B9 + (first >> 9), PTX)
        tl.store(out + at, x)
        tl.store(out + 8388608 + at, y)

    @contextmanager
    def evaluated() -> Iterator[list[torch.Tensor]]:
        """Compiles for a GPU that is not there and evaluates the assembly, on the tensors of the list that this gives."""
        memory: list[torch.Tensor] = []

        def direct(compiled, device, even, uneven):
            text = ptx.Kernel(compiled.asm["ptx"])

            def launch(outs, sources, *tables):
                grid, rest = uneven if bound.uneven(*outs, *sources) else even
                blocks_end_size_stride = rest[:4]
                given = [
                    *outs,
                    *sources,
                    *(address for address in tables if address is not None),
                    *blocks_end_size_stride,
                ]
                text(given, grid, ptx.Memory([t.view(torch.uint8).numpy() for t in memory]))

            return launch

        target = GPUTarget("cuda", 90, 32)
        absent = SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target
        )
        triton.runtime.driver.set_active(absent)
        bound.launch = direct
        yield memory

    def run_case(case: Case, device: str, memory: list[torch.Tensor]) -> list[torch.Tensor]:
        types = {"f": torch.float32, "b": torch.bfloat16, "h": torch.float16}
        shape, skew = (case.batch, case.size), int(case.skew)
        whole = [torch.empty(case.batch * case.size + skew, dtype=types[kind], device=device) for kind in case.sources]
        sources = [x[skew:].view(shape) for x in whole]
        for to, x in zip(sources, sources_of(case), strict=True):
            to.copy_(tensor(x))
        if case.alias:
            outs = [sources[i] for i in case.alias]
        else:
            whole += [
                torch.full((case.batch * case.size + skew,), torch.nan, dtype=types[k], device=device)
                for k in case.outs
            ]
            outs = [x[skew:].view(shape) for x in whole[len(sources) :]]
        table = tensor(table_of(case)).to(device)
        draws = torch.tensor([(-1, -1)] * DRAW_OFFSET + list(case.draws), dtype=torch.int32, device=device)
        seeds = seeds_of(case.batch, device)
        memory[:] = [*sources, *outs, table, draws, seeds]
        mids, first = placed_mids(case)
        placed = [(mid.op, mid.terms, mid.offset - first, mid.mask, mid.known) for mid in mids]
        update = Update(case.rows, len(sources), len(case.draws), placed)
        update(sources, outs, table, first, draws, DRAW_OFFSET, seeds, case.batch, case.size)
        return outs

    def seeds_of(batch: int, device: str) -> torch.Tensor:
        return torch.from_numpy(philox.sample_seeds(SEEDS[:batch], batch).view(np.int64)).to(device)

    def run_all(device: str, memory: list[torch.Tensor]) -> dict[str, np.ndarray]:
        choose, saved = tiles.choose, {}

        def small(*args):
            tile = choose(*args)
            return tile._replace(block=case.block, strip=64, warps=max(case.block // (32 * tile.width), 1))

        for case in CASES:
            tiles.choose = small if case.block else choose
            saved |= {f"{case.name}.{i}": array(out.cpu()) for i, out in enumerate(run_case(case, device, memory))}
        tiles.choose = choose

        out, table = torch.empty(1, 63, device=device), torch.arange(3.0, device=device)
        draws = torch.tensor([(1, 10), (1, 11), (1, 12)], dtype=torch.int32, device=device)
        memory[:] = [out, table, draws, seeds := seeds_of(1, device)]
        update = Update(((0,),), 0, 1)
        for step in range(3):
            update([], [out], table, step, draws, step, seeds, 1, 63)
            saved[f"step.{step}"] = array(out.cpu()).copy()
        return saved

    def alone(device: str) -> dict[str, np.ndarray]:
        """What no update shows."""
        far, radii = torch.empty(16, device=device), torch.empty(2, 2**23, device=device)
        far_normals[(1,)](far, FAR, enable_fp_fusion=False)
        block, on_nvidia = (2**18, False) if device == "cpu" else (256, torch.version.cuda is not None)
        all_radii[(2**23 // block,)](radii, on_nvidia, block, enable_fp_fusion=False)
        return {"far": array(far.cpu()), "radii": array(radii.cpu())}

    way, path = sys.argv[1:]
    if way == "ptx":
        with evaluated() as memory:
            np.savez(path, **run_all("cpu", memory))
    else:
        device = "cpu" if way == "interpreter" else way
        np.savez(path, **run_all(device, []), **alone(device))
