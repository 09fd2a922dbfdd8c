"""Host time of an update where a launch costs the driver nothing: `python -m benchmarks.launch`, about two minutes, one thread, no GPU.

A stub driver (tests/stub_driver.c) takes the place of libcuda, so a launch is the host's own work: what the executor does, and Triton
or the CUDA module below it. No kernel computes, so what is checked is that every launch arrives. Beside it `.step` of diffusers'
schedulers on the CPU, which computes (256 elements, so that is little) and launches nothing. An update is `bind` and `launch` of the
executor for every step of a plan in turn; "run" is a whole run by the loop of `Sampler`, a model that hands out a tensor included.

Then how many kernels the driver was given to load for a solver, and how many more for other steps, sizes and batches.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"  # read when a kernel is defined
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the stub is the tests'

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import fastsolve  # noqa: E402
from benchmarks import peers  # noqa: E402
from benchmarks.measure import Provider, Report, quantiles  # noqa: E402
from fastsolve import executors  # noqa: E402
from fastsolve.executors.run import Run, Setting, Work  # noqa: E402
from fastsolve.lower import lower  # noqa: E402
from fastsolve.program import Program  # noqa: E402
from stub import Stub  # noqa: E402

STEPS = 20
SOLVERS = ("dpmpp_2m", "seeds3")
PEERS = ("DPMSolver++ 2M", "FlowMatchEuler", "DEIS order 2", "DEIS order 3", "UniPC order 2")
VARIANTS = ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "heun", "seeds2", "seeds3", "deis", "unipc")


def setting(*shape: int) -> Setting:
    """Tensors are the CPU's: the stub never looks at them."""
    return Setting(shape, torch.device("cpu"), torch.float32, torch.float32, torch.float32, torch.float32, False)


def program_of(solver: str, steps: int = STEPS) -> Program:
    return lower(fastsolve.make_plan(solver, schedule="edm", steps=steps))


def updates(executor: str, program: Program, where: Setting) -> Callable[[], None]:
    """All updates of a program but the opening, as the loop makes them, without the loop."""
    tensors: list[Tensor | None] = [torch.zeros(where.shape) for _ in program.slots]
    backend = executors.backend(executor, program, where, tensors)
    assert type(backend).__name__.lower() == executor, f"executor {executor} is {type(backend).__name__}"
    backend.seed(np.zeros(where.batch, np.uint64))
    for slot, tensor in enumerate(tensors):
        backend.bind(slot, tensor)
    calls = [(index, tuple(s for c in calls for s in c.raws)) for index, (calls, _) in enumerate(program.steps, 1)]

    def run() -> None:
        for index, raws in calls:
            for slot in raws:
                backend.bind(slot, tensors[slot])
            backend.launch(index)

    return run


def whole(executor: str, program: Program, where: Setting) -> Callable[[], object]:
    """A run of the loop, with a model that hands out prepared tensors in turn."""
    outputs = [torch.zeros(where.shape) for _ in range(8)]
    run = Run(program, where, lambda *given: executors.backend(executor, *given))
    seeds = np.zeros(where.batch, np.uint64)
    turn = iter(range(10**9))

    def model(x: Tensor, t: Tensor) -> Tensor:
        return outputs[next(turn) % 8]

    work = Work([model])

    def sampled() -> Tensor:
        out = run.new()
        run.backend.seed(seeds)
        for _ in run.loop(work, out):
            pass
        return out

    return sampled


def step(make: Callable) -> Callable[[], None]:
    """STEPS times the middle step of one of diffusers' schedulers, with its history full."""
    x, raw = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    scheduler = peers.begun(make, x.device)
    middle = peers.STEPS // 2
    for t in scheduler.timesteps[:middle]:
        scheduler.step(raw, t, x)
    t = scheduler.timesteps[middle]

    def run() -> None:
        for _ in range(STEPS):
            scheduler._step_index = middle
            scheduler.step(raw, t, x, return_dict=False)

    return run


def cuda_module(stub: Stub, folder: Path) -> str | None:
    """Builds the CUDA module for sm_90 on the stub's runtime and puts it in its place; returns why not, or None.

    The module of an installation has NVIDIA's runtime inside, which refuses a driver that is not NVIDIA's. Its time is left out here
    together with the driver's.
    """
    names = {"CUDA_SOURCES": ".cpp", "CUDA_KERNELS": ".cu"}
    sources: list[Path] = []
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names:
            sources += [ROOT / "csrc" / (s + names[node.targets[0].id]) for s in ast.literal_eval(node.value)]
    if not sources:
        return "this version has no CUDA sources"
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "nvcc was not found"
    import pybind11

    target = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-std=c++17", "-O3", "-shared", "-arch=sm_90", "-cudart=none", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    paths = [pybind11.get_include(), sysconfig.get_path("include")]
    command = [
        nvcc,
        *flags,
        *(f"-I{path}" for path in paths),
        *map(str, sources),
        "-Xlinker",
        str(stub.library),
        "-o",
        str(target),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return f"nvcc failed: {built.stderr.strip()[-200:]}"
    spec = importlib.util.spec_from_file_location("fastsolve._cuda", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["fastsolve._cuda"] = module
    return None


def timed(report: Report, stub: Stub, ours: list[str]) -> None:
    """Microseconds per update, all providers in turns."""
    where, providers, counts = setting(1, 4, 8, 8), list[Provider](), dict[str, int]()
    for executor in ours:
        for solver in SOLVERS:
            program = program_of(solver)
            for what, make in (("update", updates), ("run", whole)):
                name = f"{executor} {solver} {what}"
                providers.append((name, make(executor, program, where)))
                counts[name] = len(program.steps)
    try:
        found = {name: make for name, _, _, make in peers.schedulers()}
        providers += [(f"diffusers {name}", step(found[name])) for name in PEERS]
    except peers.AbsentError as absent:
        print(f"diffusers is not measured: {absent}")
    for name, run in providers:
        before = stub.launches
        run()
        arrived, due = stub.launches - before, counts.get(name, 0) + name.endswith("run")
        assert arrived == due, f"{name}: {arrived} launches arrived instead of {due}"
    measured = quantiles(providers, 31, 10)
    per_update = {name: [t / counts.get(name, STEPS) for t in times] for name, times in measured.items()}
    report.add(f"update, {STEPS} steps, 256 elements", per_update)


def variants(report: Report, stub: Stub) -> None:
    """Kernels compiled for a solver, and how many more other steps, sizes and batches take."""
    print(f"\n{'solver':20s} {'patterns':>9s} {'compiled':>9s} {'more':>5s}")
    for solver in VARIANTS:
        program = program_of(solver)
        patterns = {(len(u.sources), len(u.draws), *(row.terms for row in u.rows)) for _, u in program.steps}
        before = stub.modules
        updates("fused", program, setting(1, 4, 16, 16))()
        first = stub.modules
        for steps in (STEPS, 8, 50):
            for shape in ((1, 4, 16, 16), (3, 48), (1, 1000003), (4, 63)):
                updates("fused", program_of(solver, steps), setting(*shape))()
        row = {"case": "compiled variants", "provider": solver, "patterns": len(patterns)}
        report.rows.append({**row, "compiled": first - before, "more": stub.modules - first})
        print(f"{solver:20s} {len(patterns):9d} {first - before:9d} {stub.modules - first:5d}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        stub = Stub(Path(name))
        hindrance = cuda_module(stub, Path(name))
        if hindrance:
            print(f"executor cuda is not measured: {hindrance}")
        report = Report("launch")
        variants(report, stub)
        timed(report, stub, ["fused", *([] if hindrance else ["cuda"])])
        report.write()


if __name__ == "__main__":
    main()
