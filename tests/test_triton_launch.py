"""How the fused update is launched: variants compiled, and launches with everything bound, against Triton's own way.

A driver in Python plays the GPU: it loads nothing, and notes what would be launched. Not in a process whose kernels are interpreted:
this file is also the script of a process of its own, which saves the notes.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Sources, outs (f float32, b bfloat16), draws, mids, and whether every sample has a table of its own.
CLIP = ("clip", (0, 1), -4, -1, -1)
PATTERNS = [
    ("ff", "f", 0, (), False),
    ("fb", "fb", 1, (), False),
    ("bb", "b", 2, (), False),
    ("ff", "f", 0, (), True),
    ("fb", "fb", 1, (CLIP,), True),
    ("fb", "fb", 0, (CLIP,), False),
]
# What must not make a variant: (batch, size), whether tensors start on 16 bytes, the place in the tables.
SIZES = [(1, 1), (1, 63), (16, 64), (3, 1000), (1, 4096), (4, 65536), (1, 2**31 + 17), (70000, 4096), (3, 2**33 + 16)]
STARTS = [(True, True), (False, True), (True, False), (False, False)]


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = tmp_path_factory.mktemp("triton")
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A cache of its own: another's kernels would hide what is compiled.
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": search, "TRITON_CACHE_DIR": str(path / "cache")}
    run = subprocess.run(
        [sys.executable, __file__, path / "notes.json"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads((path / "notes.json").read_text())


def test_a_pattern_is_compiled_once_whatever_sizes_starts_and_steps(notes: dict[str, Any]) -> None:
    assert notes["launches"] == 2 * len(PATTERNS) * len(SIZES) * len(STARTS)
    assert notes["compiled"] == len(PATTERNS)


def test_a_bound_launch_is_what_triton_launches(notes: dict[str, Any]) -> None:
    """Grid, stream and arguments of its public way; for other tensors too, on other bytes. The function is compiled apart."""
    assert len(notes["pairs"]) == 2 * len(PATTERNS) * len(SIZES) * len(STARTS)
    for case, bound, public in notes["pairs"]:
        assert bound[:4] == public[:4], case
        assert bound[5:] == public[5:], case


def test_every_element_is_in_one_program(notes: dict[str, Any]) -> None:
    """Blocks of vectors first, the rest singly; none where a tensor starts in the middle of 16 bytes."""
    for batch, size, even, (x, y), blocks, end, block, strip in notes["grids"]:
        assert y in (1, batch)
        assert y * end == batch * size
        assert x == blocks - (blocks * block - end) // strip
        assert blocks * block <= min(end, 2**31 - 1)
        assert blocks == 0 if not even else blocks > 0 or size < 2 * block or size % 16 or batch == 70000


def test_a_program_launches_on_the_tensors_of_its_slots(notes: dict[str, Any]) -> None:
    """Run after run, as raw outputs come and go; the second run and those after it by bound launches."""
    assert notes["programs"]
    for name, run, index, want, got in notes["programs"]:
        assert got == want, f"{name}, run {run}, launch {index}"


def test_guidance_by_sums_is_compiled_once_whatever_its_numbers_batch_and_size(notes: dict[str, Any]) -> None:
    """Of each kind two: in vectors and not. Sizes of one block are the same code, 1 and multiples of 16 too."""
    assert notes["norms"] == {"launched": 3 * 3 * 2 * 5, "compiled": 3 * 2}


def test_without_those_names_of_triton_there_is_no_bound_launch() -> None:
    bound = pytest.importorskip("fastsolve.kernels.bound")
    assert bound.launch(object(), 0, ((1, 1), ()), ((1, 1), ())) is None


def test_a_bound_launch_gives_c_what_tritons_own_launcher_gives_it() -> None:
    """Under Triton 3.7 the Python of CudaLauncher is left out, and must not be missed."""
    bound = pytest.importorskip("fastsolve.kernels.bound")
    driver = pytest.importorskip("triton.backends.nvidia.driver")
    run, arrived = object.__new__(driver.CudaLauncher), []
    for name in ("global_scratch_align", "profile_scratch_align", "launch_cooperative_grid", "launch_pdl"):
        setattr(run, name, f"<{name}>")
    run.arg_annotations, run.kernel_signature, run.num_ctas = "<annotations>", "<signature>", 1
    run.global_scratch_size = run.profile_scratch_size = 0
    run.launch = lambda *arguments: arrived.append(arguments)
    arguments = ((16, 32), (48,), 64, None, None, 5, 6)
    run(3, 2, 1, 77, "<function>", "<metadata>", None, None, None, *arguments)
    bound.bare(run)(3, 2, 1, 77, "<function>", "<metadata>", arguments)
    assert arrived[0] == arrived[1]


if __name__ == "__main__":
    import torch
    import triton
    from triton.backends.compiler import GPUTarget

    from fastsolve import make_plan
    from fastsolve.executors.fused import Fused
    from fastsolve.executors.run import Setting
    from fastsolve.kernels import bound, norms
    from fastsolve.kernels.update import MOST_SAMPLES, Update
    from fastsolve.lower import lower

    class Driver:
        """An H100 that is not there: what Triton asks of a driver, no more."""

        def __init__(self) -> None:
            self.utils, self.stream = self, 0
            self.loaded: list[str] = []
            self.launched: list[list[Any]] = []

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None) -> int:
            return self.stream

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_device_properties(self, device: int) -> dict[str, int]:
            return {"max_shared_mem": 232448}

        def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
            self.loaded.append(name)
            return len(self.loaded), len(self.loaded), 32, 0, 1024

        def launcher_cls(self, source: object, metadata: object) -> Any:
            def launch(x, y, z, stream, function, metadata, launch_metadata, enter, leave, *arguments):
                self.launched.append([x, y, z, stream, function, *map(plain, arguments)])

            return launch

    def plain(value: object) -> object:
        """An argument as JSON holds it; a tensor is its address."""
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return value.data_ptr() if isinstance(value, torch.Tensor) else value

    def tensor(kind: str, even: bool) -> torch.Tensor:
        return torch.empty(64, dtype={"f": torch.float32, "b": torch.bfloat16}[kind])[0 if even else 1 :]

    def addresses(tensors: list[torch.Tensor]) -> tuple[int, ...]:
        return tuple(t.data_ptr() for t in tensors)

    def patterns(driver: Driver, bound: bool) -> tuple[list[Any], list[Any]]:
        """A launch on tensors that start anywhere, and one on others that start elsewhere, by the way that the first gave."""
        cases, grids = [], []
        for (sources, outs, n_draws, mids, of_each), (batch, size), starts in itertools.product(
            PATTERNS, SIZES, STARTS
        ):
            batch = min(batch, MOST_SAMPLES) if of_each else batch
            update = Update([range(len(sources) + n_draws + len(mids))] * len(outs), len(sources), n_draws, mids)
            tables = torch.empty(batch, 64) if of_each else table
            if of_each:
                tables = kept.setdefault(f"tables {batch}", tables)
            place = (tables, 4 + len(cases) % 7, draws, len(cases) % 5, seeds, batch, size)
            direct = None
            for even in starts:
                key = f"{sources} {outs} {mids} {of_each} {batch} {size} {even}"
                driver.stream += 1
                tensors = kept.setdefault(key, ([tensor(k, even) for k in sources], [tensor(k, even) for k in outs]))
                if direct is None:
                    direct = update(*tensors, *place)
                else:
                    numbers = draws[place[3] :].data_ptr(), seeds.data_ptr()
                    given = (tables.view(-1)[place[1] :].data_ptr(), *(numbers if n_draws else (None, None)))
                    direct(addresses(tensors[1]), addresses(tensors[0]), *given)
                assert (direct is not None) == bound
                x, y, *_, blocks, end, _, _, _, _, _, _, block, _, strip, _ = driver.launched[-1]
                whole = (batch, size) if n_draws or of_each else (1, batch * size)
                grids.append([*whole, even, (x, y), blocks, end, block, strip])
                cases.append((key, driver.launched[-1]))
        return cases, grids

    def programs(driver: Driver) -> list[Any]:
        rows = []
        for name, dtype in (("seeds3", torch.float32), ("unipc", torch.bfloat16)):
            program = lower(make_plan(name, schedule="edm", steps=3), raw_bytes=dtype.itemsize, cast=dtype.itemsize < 4)
            setting = Setting((2, 3, 64, 64), torch.device("cpu"), torch.float32, dtype, dtype, torch.float32, False)
            kinds = [slot.kind for slot in program.slots]
            tensors = [
                torch.empty(setting.shape, dtype=setting.dtype_of(k)) if k in ("state", "input") else None
                for k in kinds
            ]
            backend = Fused(program, setting, tensors)
            for run in range(3):
                for index, launch in enumerate(program.launches):
                    for slot in {*launch.sources, *(row.out for row in launch.rows)}:
                        if kinds[slot] not in ("state", "input"):
                            tensors[slot] = torch.empty(setting.shape, dtype=setting.dtype_of(kinds[slot]))
                            backend.bind(slot, tensors[slot])
                    backend.launch(index)
                    slots = [[row.out for row in launch.rows], launch.sources]
                    want = [[tensors[slot].data_ptr() for slot in part] for part in slots]
                    want.append(backend._table.data_ptr() + 4 * launch.rows[0].offset)
                    rows.append([f"{name} {dtype}", run, index, want, driver.launched[-1][5:8]])
        return rows

    def guidance(driver: Driver) -> dict[str, int]:
        """What is launched and compiled for some numbers, of which 0 and 1 are Triton's favourites, batches and sizes."""
        before = len(driver.launched), len(driver.loaded)
        for w, batch, size in itertools.product((0.0, 1.0, 7.5), (1, 3), (1, 63, 501, 8, 496)):
            x, one, other = torch.empty(batch, size), *torch.empty(2, batch, size, dtype=torch.bfloat16).unbind()
            one, other = one.clone(), other.clone()  # on 16 bytes
            norms.rescale(x, one, other, 0.0, 1.0, w, 1.0)
            norms.project(x, one, other, None, 0.0, 1.0, w, 0.0, 1.0, 0.0)
            norms.project(x, one, other, x, 0.0, 1.0, w, 0.0, 1.0, 0.0)
        return {"launched": len(driver.launched) - before[0], "compiled": len(driver.loaded) - before[1]}

    table, draws, seeds = torch.zeros(64), torch.zeros(8, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int64)
    kept: dict[str, Any] = {}
    driver = Driver()
    triton.runtime.driver.set_active(driver)
    cases, grids = patterns(driver, True)
    notes = {
        "compiled": len(driver.loaded),
        "launches": len(driver.launched),
        "grids": grids,
        "programs": programs(driver),
        "norms": guidance(driver),
    }
    driver.stream, bound.launch = 0, lambda *arguments: None
    notes["pairs"] = [
        (key, direct, public) for (key, direct), (_, public) in zip(cases, patterns(driver, False)[0], strict=True)
    ]
    Path(sys.argv[1]).write_text(json.dumps(notes))
