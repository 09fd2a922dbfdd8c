"""`fastsolve doctor`: what is installed and built, which executor would run, why another would not, and whether they agree."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import stat
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastsolve
from fastsolve.cli.text import FailedError, as_json

EXECUTORS = ("native", "fused", "cuda", "eager")
# Libraries that an extra brings, by the extra's name; none is imported here.
EXTRAS = {
    "numpy": "",
    "triton": "",
    "safetensors": "models",
    "tqdm": "progress",
    "matplotlib": "demo",
    "scikit-learn": "demo",
    "diffusers": "diffusers",
    "transformers": "diffusers",
    "accelerate": "diffusers",
}
Report = dict[str, Any]

_EXAMPLES = """\
examples:
  fastsolve doctor
  fastsolve doctor --json > report.json         for a bug report

exit code 1: the self-test failed
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "doctor",
        help="say what is installed, which executor would run, and why another would not",
        description="What is installed and built here, which executor would run on each device, why another would not, and a small "
        "sample that every executor must give with the same bits. Asks no network.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    report = examined()
    answer = as_json(report) if args.json else _told(report)
    if not report["self_test"]["passed"]:
        raise FailedError(answer)
    return answer


def examined() -> Report:
    """All that is known of this machine and this installation."""
    return {
        "fastsolve": fastsolve.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "libraries": {name: {"version": _version(name), "extra": extra} for name, extra in EXTRAS.items()},
        "native_modules": {"_C": _native(), "_cuda": _cuda()},
        "executors": {device: _executors(device) for device in ("cpu", "cuda")},
        "triton_cache": _triton_cache(),
        "self_test": _self_test(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _native() -> Report:
    try:
        from fastsolve import _C
    except ImportError as error:
        return {"loads": False, "reason": str(error)}
    return {"loads": True, "instructions": _C.isa()}


def _cuda() -> Report:
    try:
        importlib.import_module("fastsolve._cuda")
    except ImportError as error:
        return {"loads": False, "reason": str(error)}
    return {"loads": True}


def _model(x: Tensor, t: Tensor) -> Tensor:
    """One product: the same bits on every device."""
    return 0.25 * x


def _sampler(device: str, executor: str, graph: str = "off") -> fastsolve.Sampler:
    where: dict[str, Any] = {"device": device, "executor": executor, "graph": graph}
    return fastsolve.Sampler(_model, (2, 3, 5, 7), solver="seeds2", steps=3, schedule="edm", prediction="x0", **where)


def _executors(device: str) -> Report:
    """Which executor runs by itself on a device, which others can, and why the rest cannot."""
    try:
        chosen = _sampler(device, "auto").executor
    except ValueError as error:
        return {"usable": False, "reason": str(error)}
    hindrances: dict[str, str | None] = {}
    for name in EXECUTORS:
        try:
            _sampler(device, name)
            hindrances[name] = None
        except ValueError as error:
            hindrances[name] = str(error).removeprefix(f"executor {name!r} cannot run this: ")
    try:
        _sampler(device, "auto", "require")
        graphs = None
    except ValueError as error:
        graphs = str(error).removeprefix("graph='require' cannot be had: ")
    return {
        "usable": True,
        "auto": chosen.name,
        "reason": chosen.reason,
        "hindrances": hindrances,
        "graph_hindrance": graphs,
    }


def _triton_cache() -> Report:
    """Triton runs what it finds in its cache: nobody else may write there, nor put another folder in its place."""
    try:
        import triton
    except ImportError as error:
        return {"path": None, "private": True, "reason": f"no Triton: {error}"}
    path = Path(triton.knobs.cache.dir)
    shown = path if Path.home() not in path.parents else "~" / path.relative_to(Path.home())
    report: Report = {"path": str(shown), "private": True, "reason": "nobody else can write there"}
    if os.name != "posix":
        return {**report, "reason": "permissions are not looked at on this system"}
    for folder in (path, *path.parents):
        if not folder.exists():
            continue
        found = folder.stat()
        if found.st_uid not in (os.getuid(), 0):
            return {**report, "private": False, "reason": f"{folder} belongs to another user (id {found.st_uid})"}
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if shared and (folder == path or not found.st_mode & stat.S_ISVTX):
            mode = stat.S_IMODE(found.st_mode)
            return {**report, "private": False, "reason": f"others can write to {folder} (mode {mode:04o}): chmod 700"}
    return report


def _self_test() -> Report:
    """One small sample with noise by all that runs here; the first, eager on the CPU, is the definition."""
    expected = _sampler("cpu", "eager")(seed=7).cpu()
    runs: dict[str, str] = {}
    for device in ("cpu", "cuda"):
        found = _executors(device)
        ways = [(name, "off") for name in EXECUTORS if found["usable"] and found["hindrances"][name] is None]
        if found["usable"] and found["graph_hindrance"] is None:
            ways.append((found["auto"], "require"))
        for name, graph in ways:
            label = f"{name} on {device}" + " as a graph" * (graph == "require")
            try:
                out = _sampler(device, name, graph)(seed=7).cpu()
            except Exception as error:  # whatever it is, it is what this command is for
                runs[label] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
                continue
            differing = int((out != expected).sum())
            runs[label] = "same bits" if not differing else f"{differing} of {out.numel()} elements differ"
    return {"passed": set(runs.values()) == {"same bits"}, "runs": runs}


def _told(report: Report) -> str:
    gpus = ", ".join(report["gpus"]) or "none that torch can use"
    lines = [
        f"fastsolve {report['fastsolve']}, Python {report['python']}, torch {report['torch']} "
        f"(CUDA {report['torch_cuda'] or 'not built in'})",
        f"{report['system']}, threads: {report['threads']}, GPUs: {gpus}",
        "",
        "libraries",
    ]
    for name, found in report["libraries"].items():
        missing = f"not installed: pip install fastsolve[{found['extra']}]" if found["extra"] else "not installed"
        lines.append(f"    {name:14s}{found['version'] or missing}")
    lines += ["", "native modules"]
    for name, found in report["native_modules"].items():
        how = f"loads, {found['instructions']}" if "instructions" in found else "loads"
        lines.append(f"    {name:14s}{how if found['loads'] else 'not here: ' + found['reason']}")
    for device, found in report["executors"].items():
        lines += ["", f"executors on {device}"]
        if not found["usable"]:
            lines.append(f"    none: {found['reason']}")
            continue
        for name, hindrance in found["hindrances"].items():
            how = f"taken by itself: {found['reason']}" if name == found["auto"] else "runs where it is asked for"
            lines.append(f"    {name:14s}{how if hindrance is None else hindrance}")
        lines.append(f"    {'graphs':14s}{found['graph_hindrance'] or 'one launch per sample'}")
    cache, test = report["triton_cache"], report["self_test"]
    lines += ["", "Triton's cache", f"    {cache['path'] or 'none'}"]
    lines.append(f"    {'ok' if cache['private'] else 'NOT SAFE'}: {cache['reason']}")
    lines += ["", f"self-test: {'passed' if test['passed'] else 'FAILED'}"]
    lines += [f"    {label:26s}{how}" for label, how in test["runs"].items()]
    return "\n".join(lines)
