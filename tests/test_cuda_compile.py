"""What nvcc makes of csrc/cuda/ for GPUs that are not here: vector accesses, registers, no fma, no memory of their own.

The machine code is that of the installed module, as it will run. Counts only, never times; `pytest -rP` prints them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
# Of the mangled name: update<sources, draws, mixed, full>.
PATTERN = re.compile(r"(?:update|whole)ILi(\d)ELi(\d)ELb([01])ELb([01])E")


@dataclass(frozen=True)
class Kernel:
    """One kernel's machine code for one GPU."""

    gpu: str
    name: str
    resources: dict[str, int]
    opcodes: Counter[str]

    @property
    def pattern(self) -> tuple[int, int, bool, bool] | None:
        """Sources, draws, mixed, full; None for the general kernel."""
        found = PATTERN.search(self.name)
        return (int(found[1]), int(found[2]), found[3] == "1", found[4] == "1") if found else None

    def count(self, *beginnings: str) -> int:
        """Instructions that begin so."""
        return sum(n for opcode, n in self.opcodes.items() if opcode.startswith(beginnings))

    def __str__(self) -> str:
        return f"{self.name} for {self.gpu}: {self.resources}, {self.opcodes.total()} instructions"


def cuobjdump() -> str:
    """That of the CUDA toolkit, or the one in Triton's wheel."""
    nvcc = nvcc_path()
    places = [str(Path(os.path.realpath(nvcc)).parent)] if nvcc else []
    if (triton := importlib.util.find_spec("triton")) and triton.origin:
        places.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    return shutil.which("cuobjdump", path=os.pathsep.join([*places, os.environ.get("PATH", "")])) or pytest.skip(
        "there is no cuobjdump"
    )


def nvcc_path() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home, "bin")) if home else None)


def dumped(option: str, file: Path) -> str:
    return subprocess.run([cuobjdump(), option, file], capture_output=True, text=True, check=True).stdout


def kernels_of(file: Path) -> list[Kernel]:
    used: dict[tuple[str, str], dict[str, int]] = {}
    gpu = ""  # a file for one GPU alone does not tell which
    for line in dumped("-res-usage", file).splitlines():
        if found := re.match(r"\s*arch = (\w+)", line):
            gpu = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            name = found[1]
        elif "REG:" in line:
            used[gpu, name] = {k.lower(): int(n) for k, n in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", line)}
    kernels = []
    for part in re.split(r"\bcode for ", dumped("-sass", file))[1:]:
        gpu = part.split(maxsplit=1)[0]
        for text in part.split("Function : ")[1:]:
            name = text.split(maxsplit=1)[0]
            opcodes = Counter(opcode for opcode in INSTRUCTION.findall(text) if opcode != "NOP")
            kernels.append(Kernel(gpu, name, used.get((gpu, name)) or used["", name], opcodes))
    return kernels


def module_path() -> Path:
    spec = importlib.util.find_spec("fastsolve._cuda")
    if spec is None or spec.origin is None:
        pytest.skip("installed without the CUDA kernels")
    return Path(spec.origin)


@cache
def kernels() -> list[Kernel]:
    """Those of the module, for every GPU that it was built for."""
    return kernels_of(module_path())


def test_every_gpu_has_every_kernel() -> None:
    names = {gpu: {k.name for k in kernels() if k.gpu == gpu} for gpu in {k.gpu for k in kernels()}}
    assert {"sm_80", "sm_90"} <= set(names)
    assert len(set(map(frozenset, names.values()))) == 1, names
    patterns = {k.pattern for k in kernels()}
    assert None in patterns
    assert {(k, d, mixed, True) for k in range(1, 5) for d in (0, 1) for mixed in (False, True)} <= patterns
    assert (8, 3, True, False) in patterns


def test_machine_code_is_lean() -> None:
    for kernel in kernels():
        print(kernel)  # noqa: T201
        assert kernel.resources["reg"] <= 64, kernel
        assert not any(kernel.resources[memory] for memory in ("stack", "shared", "local")), kernel
        assert kernel.count("LDL", "STL", "LDS", "STS") == 0, kernel


def test_accesses_are_128_bits_wide() -> None:
    """And 64 for the same four elements of 16 bits."""
    for kernel in kernels():
        if kernel.pattern is None:
            continue
        sources, draws, mixed, _ = kernel.pattern
        groups = 2 if sources <= 4 and draws == 0 else 1
        assert kernel.opcodes["LDG.E.128"] == sources * groups, kernel
        assert kernel.opcodes["STG.E.128"] == groups, kernel
        if mixed:
            assert kernel.opcodes["LDG.E.64"] == sources * groups, kernel
            assert kernel.opcodes["STG.E.64"] == groups, kernel
        assert kernel.count("LD.", "ST.") == 0, f"{kernel}: an address that is not known to be global"


def test_no_product_is_fused_into_a_sum() -> None:
    """A correctly rounded square root is made of fma, four in its usual path for two of them and three in its rare one."""
    for kernel in kernels():
        draws = kernel.pattern is None or kernel.pattern[1] > 0
        assert kernel.count("FFMA") <= (7 if draws else 0), kernel
    ptx = dumped("-ptx", module_path())
    assert len(re.findall(r"\bsqrt\.rn\.f32", ptx)) >= 10
    assert not re.findall(r"\b(?:fma|mad)\.\S*f32|\.ftz|\.approx|\b(?:mul|add|sub|div|sqrt)\.f32", ptx)


WHOLE = """
#include "{root}/csrc/cuda/update.cuh"
namespace fastsolve::cuda {{
// The path that all elements take where sizes are multiples of 4, and the one to count.
template <int kSources, int kDraws, bool kMixed, bool kFull>
__global__ void __launch_bounds__(kThreads, kBlocks) whole(const __grid_constant__ Update u) {{
  const std::uint32_t first = blockIdx.x * (kThreads * kGroups<kSources, kDraws>) + threadIdx.x;
  if (first < u.groups) Thread<kSources, kDraws, kMixed, kFull>(u, first, true).run();
}}
template __global__ void whole<4, 0, false, true>(const __grid_constant__ Update);
template __global__ void whole<4, 0, true, true>(const __grid_constant__ Update);
template __global__ void whole<4, 1, false, true>(const __grid_constant__ Update);
template __global__ void whole<4, 1, true, true>(const __grid_constant__ Update);
}}
"""
# Of mixed types, each source counts with all three ways to read it, of which it takes one.
BOUNDS = {(4, 0, False): 16, (4, 0, True): 34, (4, 1, False): 85, (4, 1, True): 110}


def test_instructions_per_element(tmp_path: Path) -> None:
    nvcc = nvcc_path() or pytest.skip("there is no nvcc")
    source, made = tmp_path / "whole.cu", tmp_path / "whole.cubin"
    source.write_text(WHOLE.format(root=ROOT))
    flags = ["-std=c++17", "-O3", "--fmad=false", "-arch=sm_90", "-cubin"]
    done = subprocess.run([nvcc, *flags, source, "-o", made], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {}
    for kernel in kernels_of(made):
        assert kernel.pattern is not None
        sources, draws, mixed, _ = kernel.pattern
        found[sources, draws, mixed] = kernel.opcodes.total() / (8 if draws == 0 else 4)
    print(found)  # noqa: T201
    assert found.keys() == BOUNDS.keys()
    for key, bound in BOUNDS.items():
        assert found[key] <= bound, f"{key}: {found[key]} instructions"
