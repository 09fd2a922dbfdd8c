"""What the Triton kernels become on GPUs that are not here: vector accesses, registers, no fma, no memory of their own.

Triton compiles for any target on any machine, but not in a process whose kernels are interpreted: this file is also the script
that compiles in a process of its own. Counts only, never times; `pytest -rP` prints them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}


@dataclass(frozen=True)
class Case:
    name: str
    sources: tuple[str, ...]
    outs: tuple[str, ...]
    draws: int
    targets: tuple[str, ...]
    registers: int = 64
    per_element: float = 0  # bound on the instructions of one element, 0: none

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(self.sources) + self.draws)),) * len(self.outs)


CASES = [
    # 8 elements per thread would be 16.5, but wait for memory three times instead of once (kernels/tiles.py).
    Case("float32", ("fp32",) * 4, ("fp32",), 0, tuple(TARGETS), per_element=22),
    Case("bfloat16", ("bf16",) * 4, ("bf16",), 0, tuple(TARGETS), per_element=21),
    Case("float32-normal", ("fp32",) * 4, ("fp32",), 1, tuple(TARGETS), per_element=85),
    # Triton 3.7.1: 84.75 in 55 registers, 3.6.0: 87.25 in 40.
    Case("bfloat16-normal", ("bf16",) * 4, ("bf16",), 1, ("sm_90", "gfx942"), per_element=88),
    Case("mixed-normal", ("fp32", "bf16"), ("fp32", "bf16"), 1, ("sm_90", "gfx942")),
    Case("float32-three-normals", ("fp32",) * 3, ("fp32",), 3, ("sm_90",), per_element=196),
    Case("noise", (), ("fp32",), 1, ("sm_90",)),
]
RUNS = [(case, target) for case in CASES for target in case.targets]
NVIDIA = [(case, target) for case, target in RUNS if target.startswith("sm_")]


def ids(runs: list[tuple[Case, str]]) -> list[str]:
    return [f"{case.name}-{target}" for case, target in runs]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = tmp_path_factory.mktemp("triton")
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A cache of its own: what is counted was compiled from this tree, by this Triton.
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": search, "TRITON_CACHE_DIR": str(path / "cache")}
    run = subprocess.run([sys.executable, __file__, path], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads((path / "figures.json").read_text())


@pytest.mark.parametrize(("case", "target"), RUNS, ids=ids(RUNS))
def test_accesses_are_128_bits_wide_and_nothing_is_exchanged(case: Case, target: str, figures) -> None:
    got = figures[f"{case.name}-{target}"]
    # A type half as wide as the widest of its update is read in halves of that.
    assert got["wide loads"] >= sum(t == "fp32" or "fp32" not in case.outs for t in case.sources)
    assert got["wide stores"] >= sum(t == "fp32" or "fp32" not in case.outs for t in case.outs)
    assert got["shared"] == 0


@pytest.mark.parametrize(("case", "target"), RUNS, ids=ids(RUNS))
def test_no_product_is_fused_into_a_sum(case: Case, target: str, figures) -> None:
    if target == "gfx942" and case.draws:
        pytest.skip("there a correctly rounded square root is made of fma")
    assert figures[f"{case.name}-{target}"]["fma"] == 0


@pytest.mark.parametrize(("case", "target"), NVIDIA, ids=ids(NVIDIA))
def test_machine_code_is_lean(case: Case, target: str, figures) -> None:
    got = figures[f"{case.name}-{target}"]
    if "registers" not in got:
        pytest.skip("this Triton ships no cuobjdump")
    print(got)  # noqa: T201
    assert got["local"] == 0
    assert got["stack"] == 0
    assert got["registers"] <= case.registers
    if case.per_element and target == "sm_90":  # other generations spell the same arithmetic in other instructions
        assert got["per element"] <= case.per_element


if __name__ == "__main__":
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fastsolve.kernels import tiles
    from fastsolve.kernels.update import update, vectors

    CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

    @triton.jit
    def blocks_only(outs, sources, table, offset, draws, draw_offset, seeds, chunks, rest, size,
                    ROWS: tl.constexpr, DRAWS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
                    STRIP: tl.constexpr):  # fmt: skip
        """The path that all elements take where sizes are multiples of 16, and the one to count."""
        start = tl.program_id(0).to(tl.int64) * BLOCK
        vectors(outs, sources, table, offset, draws, draw_offset, seeds, start, chunks.to(tl.int64) * 16,
                ROWS, DRAWS, BLOCK, WIDTH)  # fmt: skip

    def compiled(kernel, case: Case, target: str, tile: tiles.Tile):
        scalars = dict.fromkeys(("offset", "draw_offset", "chunks", "rest", "size"), "i32")
        constants = {
            "ROWS": case.rows,
            "DRAWS": case.draws,
            "BLOCK": tile.block,
            "WIDTH": tile.width,
            "STRIP": tile.strip,
        }
        tensors = {"outs": tuple("*" + t for t in case.outs), "sources": tuple("*" + t for t in case.sources)}
        types = (
            tensors
            | scalars
            | {"table": "*fp32", "draws": "*i32", "seeds": "*i64"}
            | dict.fromkeys(constants, "constexpr")
        )
        source = ASTSource(
            kernel,
            {name: types[name] for name in kernel.arg_names},
            constants,
            {
                (kernel.arg_names.index(n), i): [["tt.divisibility", 16]]
                for n, t in tensors.items()
                for i in range(len(t))
            },
        )
        options = {"num_warps": tile.warps, "enable_fp_fusion": False}
        return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)

    def machine_code(cubin: bytes, path: Path) -> tuple[dict[str, int], list[str]]:
        """Resources, and the instructions: less the padding behind the last branch."""
        (path / "cubin").write_bytes(cubin)
        used, text = (
            subprocess.run([CUOBJDUMP, option, path / "cubin"], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
        resources = {k.lower(): int(n) for k, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", used)}
        opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text)
        return resources, [o for o in opcodes if o != "NOP"]

    def measure(case: Case, target: str, path: Path) -> dict[str, float]:
        itemsizes = {int(t[-2:]) // 8 for t in case.sources + case.outs}
        n_values = len(case.sources) + case.draws + len(case.outs)
        tile = tiles.choose(itemsizes, n_values, case.draws, TARGETS[target][2], 2**20)
        kernel = compiled(update, case, target, tile)
        if target == "gfx942":
            text = kernel.asm["amdgcn"]
            loads, stores = (text.count(f"global_{kind}_dwordx4") for kind in ("load", "store"))
            fused = len(re.findall(r"\bv_(?:pk_)?(?:fma|fmac|mad|mac)_f32", text))
            return {"wide loads": loads, "wide stores": stores, "shared": kernel.metadata.shared, "fma": fused}
        ptx = kernel.asm["ptx"]
        loads, stores = (len(re.findall(rf"{kind}\.global\S*\.v4\.b32", ptx)) for kind in ("ld", "st"))
        got = {"wide loads": loads, "wide stores": stores, "shared": kernel.metadata.shared, "fma": ptx.count("fma")}
        if CUOBJDUMP.exists():
            resources, opcodes = machine_code(kernel.asm["cubin"], path)
            spills = sum(o.startswith(("LDL", "STL")) for o in opcodes)
            got |= {"registers": resources["reg"], "stack": resources["stack"], "local": resources["local"] + spills}
            alone = compiled(blocks_only, case, target, tile)
            per_thread = tile.block / (32 * tile.warps)
            got["per element"] = len(machine_code(alone.asm["cubin"], path)[1]) / per_thread
        return got

    folder = Path(sys.argv[1])
    results = {f"{case.name}-{target}": measure(case, target, folder) for case, target in RUNS}
    (folder / "figures.json").write_text(json.dumps(results))
