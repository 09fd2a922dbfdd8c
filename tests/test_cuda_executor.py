"""The `cuda` executor: whole runs through csrc/cuda/ on a CPU (tests/cuda_shim/) and on a GPU, and what it says where it cannot run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch

import fastsolve
import fused_runs
from bits import assert_bits_equal
from fastsolve import executors
from fastsolve.executors.run import Setting
from shim import Shimmed

NAME = "fastsolve.executors.cuda"
REFUSED = 1  # the stream on which a launch of the shim fails


@pytest.fixture
def executor(shimmed: Shimmed, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """fastsolve.executors.cuda on the shim, and taken for CPU tensors."""
    monkeypatch.setitem(sys.modules, "fastsolve._cuda", shimmed.module)
    monkeypatch.setattr(fastsolve, "_cuda", shimmed.module, raising=False)
    monkeypatch.setattr(executors, "_hindrance", lambda name, setting: None)
    real = sys.modules.pop(NAME, None)
    yield importlib.import_module(NAME)
    del sys.modules[NAME]
    if real is not None:
        sys.modules[NAME] = real


@pytest.mark.parametrize("name", fused_runs.RUNS)
def test_runs_have_the_bits_of_eager(executor: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(executor, "current_stream", lambda device: lambda: 0)
    assert_bits_equal(fused_runs.run(name, "cuda"), fused_runs.run(name, "eager"))


@pytest.mark.parametrize("short", [True, False], ids=["torch's own", "public"])
def test_launches_go_to_the_current_stream(executor: ModuleType, monkeypatch: pytest.MonkeyPatch, short: bool) -> None:
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream", raising=False)
    if short:
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: REFUSED, raising=False)
    else:
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=REFUSED))
    with pytest.raises(RuntimeError, match=r"^update 0: cudaErrorInvalidResourceHandle"):
        fused_runs.run("seeds3 image", "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", fused_runs.RUNS)
def test_runs_on_a_gpu_have_the_bits_of_eager(name: str) -> None:
    pytest.importorskip("fastsolve._cuda")
    assert_bits_equal(fused_runs.run(name, "cuda", "cuda"), fused_runs.run(name, "eager"))


def setting(device: str) -> Setting:
    return Setting((1, 4), torch.device(device), torch.float32, torch.float32, torch.float32, torch.float32, False)


def test_the_module_loads_without_a_gpu() -> None:
    pytest.importorskip("fastsolve._cuda", reason="installed without the CUDA kernels")
    code = "import fastsolve._cuda as m; print(m.hindrance(0))"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cudaError")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asked_for_without_a_gpu_it_says_what_is_missing() -> None:
    pytest.importorskip("fastsolve._cuda", reason="installed without the CUDA kernels")
    with pytest.raises(ValueError, match=r"^executor 'cuda' cannot run this: cudaError\w+ \("):
        executors.choose("cuda", setting("cuda:0"))


def test_asked_for_and_not_built_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastsolve._cuda", None)
    with pytest.raises(
        ValueError, match=r"cannot run this: the module fastsolve\._cuda was not built, or does not load"
    ):
        executors.choose("cuda", setting("cuda:0"))


def test_asked_for_on_a_cpu_it_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda runs on an NVIDIA GPU, and the device is cpu"):
        fastsolve.Sampler(fused_runs.model, (1, 4), schedule="edm", prediction="x0", steps=3, executor="cuda")
