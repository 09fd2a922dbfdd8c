"""Executors run programs. Which one fits a device and a dtype, and why another one does not."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch

from fastsolve.executors.graph import CudaRecorder, Recorder
from fastsolve.executors.pool import Given as Given, Pool as Pool
from fastsolve.executors.run import Backend, Setting as Setting
from fastsolve.program import Program

_NAMES = ("eager", "native", "fused", "cuda")
_GRAPHS = ("auto", "require", "off")
HALF_OR_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


class Choice(NamedTuple):
    """An executor and the reason it was taken."""

    name: str
    reason: str


def choose(name: str, setting: Setting) -> Choice:
    """The executor of a name, or for "auto" the fastest that fits. Raises ValueError with the reason where one asked for does not fit."""
    if name == "auto":
        for candidate in ("fused", "cuda", "native"):
            if (
                setting.device.type == ("cpu" if candidate == "native" else "cuda")
                and _hindrance(candidate, setting) is None
            ):
                return Choice(candidate, f"fits {setting.device.type} and {setting.dtype}")
        hindrance = _hindrance("native" if setting.device.type == "cpu" else "fused", setting)
        return Choice("eager", hindrance or f"no faster executor is chosen by itself on {setting.device.type}")
    if name not in _NAMES:
        near = difflib.get_close_matches(str(name), _NAMES, 1, 0.0)
        raise ValueError(f"unknown executor {name!r}: there are auto, {', '.join(_NAMES)}; nearest is {near[0]!r}")
    hindrance = _hindrance(name, setting)
    if hindrance is not None:
        raise ValueError(f"executor {name!r} cannot run this: {hindrance}")
    return Choice(name, "asked for")


def _hindrance(name: str, setting: Setting) -> str | None:
    """Why an executor cannot run a setting; None if it can."""
    if name == "eager":
        return None
    if setting.dtype != torch.float32:
        return f"{name} computes in float32 and the state is {setting.dtype}"
    for dtype in (setting.input_dtype, setting.raw_dtype):
        if dtype not in HALF_OR_SINGLE:
            return f"{name} reads and writes float32, bfloat16 and float16, and the model has {dtype}"
    if name == "native":
        if setting.device.type != "cpu":
            return f"native runs on the CPU, and the device is {setting.device}"
        try:
            importlib.import_module("fastsolve._C")
        except ImportError as error:
            return f"the native module fastsolve._C was not built, or does not load here ({error})"
        return None
    if name == "cuda":
        if setting.device.type != "cuda":
            return f"cuda runs on an NVIDIA GPU, and the device is {setting.device}"
        try:
            module = importlib.import_module("fastsolve._cuda")
        except ImportError as error:
            return f"the module fastsolve._cuda was not built, or does not load here ({error})"
        return module.hindrance(setting.device.index or 0) or None
    if importlib.util.find_spec("triton") is None:
        return "fused needs Triton, which is not installed"
    if setting.device.type == "cpu":
        from fastsolve.kernels import tiles

        if not tiles.INTERPRETING:
            return (
                "fused runs on a GPU; on a CPU only in Triton's interpreter (TRITON_INTERPRET=1 before Python starts)"
            )
    return None


def runs(name: str, graph: str, setting: Setting) -> Pool:
    """The runs of an executor. graph: "auto", "require" or "off". Raises ValueError with the reason where a required graph cannot be."""
    if graph not in _GRAPHS:
        raise ValueError(f"graph must be one of {', '.join(map(repr, _GRAPHS))}, not {graph!r}")
    recorder: Callable[[], Recorder] | None = None
    without = "asked for" if graph == "off" else _no_graph(name, setting)
    if without is None:
        recorder = functools.partial(CudaRecorder, setting.device)
    elif graph == "require":
        raise ValueError(f"graph='require' cannot be had: {without}")
    return Pool(setting, functools.partial(backend, name), recorder, without or "", graph == "require")


def _no_graph(name: str, setting: Setting) -> str | None:
    """Why runs of an executor cannot be captured; None if they can."""
    if setting.device.type != "cuda":
        return f"CUDA graphs need a GPU, and the device is {setting.device}"
    if setting.reuses_output:
        return "a model with reuses_output may replay graphs of its own, and these cannot be captured"
    if name == "eager":
        return "coefficients and draws of the eager executor come from the host"
    return None


def backend(name: str, program: Program, setting: Setting, tensors: list[torch.Tensor | None]) -> Backend:
    """The executor's side of a program: its launches on the tensors of the program's slots."""
    with torch.inference_mode(False):  # nobody may write into an inference tensor outside of that mode
        if name == "native":
            from fastsolve.executors.native import Native

            return Native(program, setting, tensors)
        if name == "cuda":
            from fastsolve.executors.cuda import Cuda

            return Cuda(program, setting, tensors)
        if name == "fused":
            from fastsolve.executors.fused import Fused

            return Fused(program, setting, tensors)
        from fastsolve.executors.eager import Eager

        return Eager(program, setting, tensors)
