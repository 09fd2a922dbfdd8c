"""What the Triton kernels become on GPUs that are not here: vector accesses, registers, no fma, no memory of their own.

Triton compiles for any target on any machine, but not in a process whose kernels are interpreted: this file is also the script
that compiles in a process of its own. Counts only, never times; `pytest -rP` prints them.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
    per_element: float = 0  # bound on the instructions of one element in a full block; 0: none
    mids: tuple[tuple[int, ...], ...] = ()
    per_sample: bool = False

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(self.sources) + self.draws + len(self.mids))),) * len(self.outs)


F, B = "fp32", "bf16"
CLIP, BLEND = (-4, -1, -1, 0, 1), (-3, 2, 3, 0, 1)  # place, mask and known, terms
CASES = [
    Case("float32", (F,) * 4, (F,), 0, tuple(TARGETS), per_element=16),
    Case("bfloat16", (B,) * 4, (B,), 0, tuple(TARGETS), per_element=16),
    Case("mixed", (F, F, B, B), (F,), 0, tuple(TARGETS), per_element=16),
    # Two sums of four terms, each with its own rounding: 14 multiplications and additions. The pair of a guided call is two sources.
    Case("guided", (F, F, B, B), (F, B), 0, ("sm_90",), per_element=23),
    # The model's next input where a guided batch wants it: twice.
    Case("guided-input-twice", (F, B, B), (F, B, B), 0, ("sm_90",), per_element=24),
    Case("float32-normal", (F,) * 4, (F,), 1, tuple(TARGETS), per_element=66),
    Case("bfloat16-normal", (B,) * 4, (B,), 1, tuple(TARGETS), per_element=71),
    Case("mixed-normal", (F, F, B, B), (F,), 1, ("sm_90", "gfx942"), per_element=68),
    Case("mixed-normal-and-input", (F, B), (F, B), 1, ("sm_90",), per_element=68),
    Case("float32-three-normals", (F,) * 3, (F,), 3, ("sm_90",), per_element=157),
    Case("noise", (), (F,), 1, ("sm_90",), per_element=53),
    Case("two-normals-in-two-rows", (F, F, B, B), (F, B), 2, ("sm_100",)),
    Case("normal-in-four-rows", (F, B), (F, B) * 2, 1, ("sm_80",)),
    Case("clip", (F, B), (F, B), 0, tuple(TARGETS), per_element=24, mids=(CLIP,)),
    Case("blend", (F, B, F, F), (F, B), 0, tuple(TARGETS), per_element=38, mids=(BLEND,)),
    Case("clip-of-each", (F, B), (F, B), 0, tuple(TARGETS), per_element=28, mids=(CLIP,), per_sample=True),
    Case("blend-of-each", (B,) * 4, (B,), 0, tuple(TARGETS), per_element=32, mids=(BLEND,), per_sample=True),
    Case("clip-and-normal", (F, B), (F, B), 1, tuple(TARGETS), mids=(CLIP,)),
    Case(
        "clip-and-blend-and-two-normals-of-each",
        (F, B) * 2,
        (F, B),
        2,
        ("sm_80", "sm_90", "sm_100"),
        mids=((-7, -1, -1, 0, 1), (-3, 2, 3, 5, 6)),
        per_sample=True,
    ),
    Case("float32-of-each", (F,) * 4, (F,), 0, tuple(TARGETS), per_element=24, per_sample=True),
    Case("largest", (F, B) * 4, (F, B) * 2, 3, ("sm_80", "sm_100")),
]
RUNS = [(case, target) for case in CASES for target in case.targets]
NVIDIA = [(case, target) for case, target in RUNS if target.startswith("sm_")]
# Guidance by sums over a sample (norms.py): the kernel, type of the raw outputs, size of a sample. Each for AMD, and for one of the
# three NVIDIA GPUs in turn, which meets every kernel, every type and every size.
KERNELS = list(
    itertools.product(enumerate(("rescale", "project", "momentum")), enumerate((F, B)), enumerate((1001, 2**18)))
)
SAMPLES = [
    (kind, raw, size, target)
    for (i, kind), (j, raw), (k, size) in KERNELS
    for target in ("gfx942", ("sm_80", "sm_90", "sm_100")[(i + 2 * j + k) % 3])
]


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
def test_accesses_are_vectors_and_nothing_is_exchanged(case: Case, target: str, figures) -> None:
    """128 bits; beside 32-bit tensors, those of 16 bits go in vectors of 64."""
    got = figures[f"{case.name}-{target}"]
    for kind, types in (("loads", case.sources), ("stores", case.outs)):
        wide = sum(t == F or F not in case.sources + case.outs for t in types)
        assert got[f"128-bit {kind}"] >= wide
        assert got[f"64-bit {kind}"] >= len(types) - wide
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
    if case.per_element:
        assert got["per element"] <= case.per_element


@pytest.mark.parametrize(("kind", "raw", "size", "target"), SAMPLES)
def test_sums_over_a_sample_are_lean(kind: str, raw: str, size: int, target: str, figures) -> None:
    """Vectors where a sample is a multiple of them; memory between threads for what is summed over them alone."""
    got = figures[f"{kind} {raw} {size} {target}"]
    print(got)  # noqa: T201
    assert got["fma"] == 0
    assert got["shared"] <= 8 * 32  # a float64 of each warp
    if size % 8 == 0:
        assert got["128-bit loads"] > 0
        assert got["narrower loads"] == 0
    if "registers" in got:
        assert got["registers"] <= 64
        assert got["stack"] == got["local"] == 0


@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith("sm_")])
def test_the_square_root_is_that_of_ptxas(target: str, figures) -> None:
    """What square_root(x) computes is what sqrt.rn.f32 does, IEEE-754's root, for an x that needs no scaling."""
    ours, theirs = (figures[f"{name}-{target}"] for name in ("our root", "their root"))
    if not ours:
        pytest.skip("this Triton ships no cuobjdump")
    assert "MUFU.RSQ" in ours
    assert ours == theirs


if __name__ == "__main__":
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fastsolve.kernels import norms, tiles
    from fastsolve.kernels.philox import square_root
    from fastsolve.kernels.update import update

    CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

    @triton.jit
    def root(out, x, PTX: tl.constexpr):
        at = tl.arange(0, 128)
        tl.store(out + at, square_root(tl.load(x + at), PTX))

    def compiled(kernel, types: dict[str, object], constants: dict[str, object], target: GPUTarget, warps: int):
        types = types | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, {name: types[name] for name in kernel.arg_names}, constants)
        return triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": False})

    def machine_code(cubin: bytes) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """Resources, and the instructions with their addresses."""
        (folder / "cubin").write_bytes(cubin)
        command = [CUOBJDUMP, "-res-usage", "-sass", folder / "cubin"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        resources = {k.lower(): int(n) for k, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
        return resources, [(int(at, 16), line) for at, line in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(\S.*?)\s*;", text)]

    def paths(code: list[tuple[int, str]], start: int = 0) -> Iterator[list[str]]:
        """Every way from an instruction to the end of the program, as what is executed on it. None of ours has a loop."""
        place, walked = {at: i for i, (at, _) in enumerate(code)}, []
        for i in itertools.count(start):
            line = code[i][1]
            walked.append(line)
            if line.startswith("EXIT"):
                yield walked
                return
            if jump := re.fullmatch(r"(@\S+ )?BRA(?:\.\S+)? (\S+, )?0x([0-9a-f]+)", line):
                yield from (walked + rest for rest in paths(code, place[int(jump[3], 16)]))
                if not (jump[1] or jump[2]):
                    return

    def measure(case: Case, target: str) -> dict[str, float]:
        gpu = GPUTarget(*TARGETS[target])
        itemsizes = {int(t[-2:]) // 8 for t in case.sources + case.outs}
        values = len(case.sources) + len(case.mids)
        tile = tiles.choose(itemsizes, values, case.draws, len(case.outs), gpu, 1, 2**20)
        constants = {"ROWS": case.rows, "MIDS": case.mids, "DRAWS": case.draws, "PER_SAMPLE": case.per_sample}
        constants |= {"BLOCK": tile.block, "WIDTH": tile.width, "STRIP": tile.strip, "PTX": tile.ptx}
        types = {"outs": tuple("*" + t for t in case.outs), "sources": tuple("*" + t for t in case.sources)}
        types |= {"table": "*fp32", "draws": "*i32", "seeds": "*i64", "blocks": "i32", "end": "i64", "size": "i64"}
        types |= {"stride": "i64"}
        kernel = compiled(update, types, constants, gpu, tile.warps)
        got = {"shared": kernel.metadata.shared}
        if target == "gfx942":
            text = kernel.asm["amdgcn"]
            for kind, bits in itertools.product(("load", "store"), (128, 64)):
                got[f"{bits}-bit {kind}s"] = text.count(f"global_{kind}_dwordx{bits // 32}")
            return got | {"fma": len(re.findall(r"\bv_(?:pk_)?(?:fma|fmac|mad|mac)_f32", text))}
        text = kernel.asm["ptx"]
        for kind, (bits, form) in itertools.product(("load", "store"), {128: "v4.b32", 64: "v2.b32"}.items()):
            got[f"{bits}-bit {kind}s"] = len(re.findall(rf"{kind[:2].replace('lo', 'ld')}\.global\S*\.{form}", text))
        # Our square root is one block of assembly, and the only one with an fma.
        got["fma"] = re.sub(r"rsqrt\.approx.*?}", "", text, flags=re.DOTALL).count("fma")
        if CUOBJDUMP.exists():
            resources, code = machine_code(kernel.asm["cubin"])
            spills = sum(bool(re.search(r"\b(LDL|STL)\b", line)) for _, line in code)
            got |= {"registers": resources["reg"], "stack": resources["stack"], "local": resources["local"] + spills}
            # All that a thread executes where a block is full: the longest way to a store of vectors.
            full = max((way for way in paths(code) if any("STG.E.128" in x or "STG.E.64" in x for x in way)), key=len)
            assert not any("CALL" in line for line in full)
            got["per element"] = len(full) / (tile.block / (32 * tile.warps))
        return got

    def summed(kind: str, raw: str, size: int, target: str) -> dict[str, float]:
        gpu = GPUTarget(*TARGETS[target])
        n_tensors = {"rescale": 2, "project": 3, "momentum": 4}[kind]
        block, width, warps = tiles.whole_samples(size, n_tensors, size % 8 == 0, gpu)
        kernel = norms.rescale_samples if kind == "rescale" else norms.project_samples
        tensors = {"conditional": "*" + raw, "unconditional": "*" + raw} | dict.fromkeys(
            ("out", "x", "average"), "*" + F
        )
        types = dict.fromkeys(kernel.arg_names, F) | tensors | {"size": "i32"}
        constants = {"BLOCK": block, "WIDTH": width} | ({"average": None} if kind == "project" else {})
        made = compiled(kernel, types, constants, gpu, warps)
        got = {"shared": made.metadata.shared}
        if target == "gfx942":
            text = made.asm["amdgcn"]
            got["fma"] = len(re.findall(r"\bv_(?:pk_)?(?:fma|fmac|mad|mac)_f32", text))
            loads = re.findall(r"\bglobal_load_(\w+)", text)
            wide, vectors = "dwordx4", ("dwordx4", "dwordx2")
        else:
            got["fma"] = made.asm["ptx"].count("fma.rn.f32")
            loads = re.findall(r"\bld\.global\S*?(v\d\.b32|b\d+)", made.asm["ptx"])
            wide, vectors = "v4.b32", ("v4.b32", "v2.b32")
            if CUOBJDUMP.exists():
                resources, code = machine_code(made.asm["cubin"])
                spills = sum(bool(re.search(r"\b(LDL|STL)\b", line)) for _, line in code)
                got |= {
                    "registers": resources["reg"],
                    "stack": resources["stack"],
                    "local": resources["local"] + spills,
                }
        return got | {"128-bit loads": loads.count(wide), "narrower loads": sum(load not in vectors for load in loads)}

    def stored(ptx: bool, target: str) -> str:
        """The formula of what `root` stores, from its machine code, on the way without a call."""
        if not CUOBJDUMP.exists():
            return ""
        kernel = compiled(root, {"out": "*fp32", "x": "*fp32"}, {"PTX": ptx}, GPUTarget(*TARGETS[target]), 4)
        way = next(
            way for way in paths(machine_code(kernel.asm["cubin"])[1]) if not any("CALL" in line for line in way)
        )
        formulas: dict[str, str] = {}
        for line in way:
            opcode, _, operands = line.partition(" ")
            first, *rest = operands.replace(".reuse", "").split(", ")
            values = [re.sub(r"R\d+", lambda r: formulas.get(r[0], r[0]), value) for value in rest]
            if opcode.startswith("LDG"):
                formulas[first] = "x"
            elif opcode.startswith("STG"):
                return formulas[rest[-1]]
            elif opcode.startswith(("MUFU", "FMUL", "FFMA")):
                factors = sorted(values[:2]) + values[2:]
                formulas[first] = f"{opcode.replace('.FTZ', '')}({', '.join(factors)})"
            elif re.fullmatch(r"R\d+", first):
                formulas.pop(first, None)
        raise AssertionError("nothing is stored")

    folder = Path(sys.argv[1])
    results = {f"{case.name}-{target}": measure(case, target) for case, target in RUNS}
    results |= {" ".join(map(str, case)): summed(*case) for case in SAMPLES}
    for name, ptx in (("our root", True), ("their root", False)):
        results |= {f"{name}-{target}": stored(ptx, target) for target in TARGETS if target.startswith("sm_")}
    (folder / "figures.json").write_text(json.dumps(results))
