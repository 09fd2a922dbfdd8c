"""The sources of fastsolve._cuda compiled for a CPU against tests/cuda_shim/: the same kernels, launches and plans, without a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from filelock import FileLock  # comes with torch

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-Wno-unknown-pragmas"]


class Shimmed(NamedTuple):
    """The module, whose device memory is the host's, and the library that it is, for the functions of probe.cpp."""

    module: ModuleType
    library: ctypes.CDLL


def build(folder: Path) -> Shimmed:
    """Compiles them, a quarter of a minute of work, unless another process has done so in that folder."""
    pybind11 = pytest.importorskip("pybind11")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder.mkdir(exist_ok=True)
    path = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    with FileLock(folder / "lock"):
        if not path.exists():
            compile_to(path, compiler, pybind11.get_include())
    spec = importlib.util.spec_from_file_location("_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Shimmed(module, ctypes.CDLL(str(path)))


def compile_to(path: Path, compiler: str, pybind11: str) -> None:
    """All sources at once, and the library of their objects."""
    sources = [ROOT / "csrc/text.cpp", *(ROOT / "csrc/cuda").glob("*.c*"), ROOT / "tests/cuda_shim/probe.cpp"]
    sources = [source for source in sources if source.suffix in (".cpp", ".cu")]
    include = [f"-I{ROOT / 'tests/cuda_shim'}"]
    include += [f"-isystem{place}" for place in (pybind11, sysconfig.get_path("include"))]
    objects = [path.with_name(f"{source.name}.o") for source in sources]
    commands = [
        [compiler, *FLAGS, *include, "-x", "c++", "-c", source, "-o", made]
        for source, made in zip(sources, objects, strict=True)
    ]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    subprocess.run([compiler, "-shared", *undefined, *objects, "-o", path], check=True)
