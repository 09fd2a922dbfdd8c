"""From one model call to the next the host tells a device one thing: a launch. No copy, no wait, no other operator, for every solver.

The whole of `Sampler.__call__` runs on an emulated device (emulated.py) with the fused executor: for every solver in Triton's
interpreter, and for two with compiled kernels, whose launches a stub driver counts (stub.py). Both are for good in a process: this
file is also the script that runs everything in processes of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastsolve

ROOT = Path(__file__).parents[1]
SCHEDULES = {"ddpm": "vp"}  # takes no other
OPTIONS: dict[str, dict[str, object]] = {"restart": {"intervals": [(3, 2, 0.06, 0.3)]}}
# "guided": the model in bfloat16, called twice, with a cast input and odd sizes. "given": start and draws are the caller's. "again":
# the second run of a sampler; the first one makes its buffers and tables before it calls the model. "doubled": guided, by one call on a
# doubled batch. "edited": cut and inpainted data predictions, seen by a callback. "overwritten": what the model sees. "rescaled",
# "projected": guidance that is not linear, one launch more. "stepped": by a `Stepper`, in somebody else's loop.
RUNS = [(name, kind) for name in fastsolve.list_solvers() for kind in ("plain", "guided")]
RUNS += [(name, kind) for name in ("seeds3", "tada") for kind in ("given", "again")]
RUNS += [(name, kind) for name in ("seeds3", "dpmpp_2m") for kind in ("doubled", "edited", "overwritten")]
RUNS += [(name, kind) for name in ("seeds3", "dpmpp_2m") for kind in ("rescaled", "projected")]
RUNS += [(name, "stepped") for name in ("seeds3", "dpmpp_2m")]
NORMS = {"rescaled": "rescale_samples", "projected": "project_samples"}
DRIVEN = ("dpmpp_2m", "seeds3")  # compiled for an sm_90, a second or two for each pattern
KINDS = ("launches", "uploads", "waits", "free", "host")
INTERPRETED = ("launches", "uploads", "waits", "host")  # Triton's public way may take views of the tables

# What an executor may do too much after each launch, and what must be found then.
WASTE = {
    "a kernel launched again": "launches update: 2",
    "an operator in place": "launches add_: 1",
    "a cast": "launches _to_copy: 1",
    "a fill": "launches fill_: 1",
    "numbers made on the host": "uploads _to_copy: 1",
    "a table written again": "uploads copy_: 1",
    "a value read": "waits _local_scalar_dense: 1",
    "a mask": "waits index: 1",
    "a copy to the host": "waits _to_copy: 1",
    "a list of device scalars": "waits _local_scalar_dense: 2",
    "a view": "free view: 1",
    "an allocation": "free empty_like: 1",
    "an operator on the host": "host mul: 1",
}


def faults(gap: dict[str, dict[str, int]], launches: int, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """All that happened but for so many launches of the update."""
    if gap["launches"].get("update", 0) == launches:
        gap = {**gap, "launches": {name: n for name, n in gap["launches"].items() if name != "update"}}
    return [f"{kind} {name}: {n}" for kind in kinds for name, n in gap[kind].items() if n]


def script(path: Path, *arguments: str, interpret: bool) -> dict:
    """What this file saves when it is run."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret)), "PYTHONPATH": search}
    command = [sys.executable, __file__, str(path), *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads((path / "results.json").read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return script(tmp_path_factory.mktemp("counts"), interpret=True)


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> dict:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("there is no C compiler for the stub driver")
    return script(tmp_path_factory.mktemp("driven"), "driven", interpret=False)


def ids(run: tuple[str, str]) -> str:
    return "-".join(run)


@pytest.mark.parametrize("run", RUNS, ids=ids)
def test_between_calls_there_is_one_launch_and_nothing_else(run: tuple[str, str], results: dict) -> None:
    got = results[ids(run)]
    gaps, branches = got["gaps"][1:], 2 if run[1] in ("guided", *NORMS) else 1
    assert len(gaps) == branches * got["nfe"]
    for number, gap in enumerate(gaps, start=1):
        last = number % branches == 0
        if run[1] in NORMS:
            assert gap["launches"].pop(NORMS[run[1]], 0) == last, f"after call {number} of the model"
        if run == ("seeds3", "stepped"):  # the loop's own start, which launches of all stages read, is copied
            assert gap["launches"].pop("_to_copy", 0) == (number == 1)
        assert not faults(gap, last, INTERPRETED), f"after call {number} of the model"


@pytest.mark.parametrize("name", DRIVEN)
def test_between_calls_the_driver_sees_one_launch_and_torch_nothing(name: str, driven: dict) -> None:
    got = driven[name]
    assert got["launches"] == [1] * (got["nfe"] + 1)
    assert [faults(gap, launches=0) for gap in got["gaps"][1:]] == [[]] * got["nfe"]
    assert faults(got["gaps"][0], launches=0) == ["launches add: 1", "free empty: 1"]


@pytest.mark.parametrize("run", [run for run in RUNS if run[1] == "again"], ids=ids)
def test_before_the_first_call_the_seeds_are_added_up_and_the_start_is_made(
    run: tuple[str, str], results: dict
) -> None:
    assert faults(results[ids(run)]["gaps"][0], 1, INTERPRETED) == ["launches add: 1"]


@pytest.mark.parametrize("run", [run for run in RUNS if run[1] == "again"], ids=ids)
def test_a_launch_touches_its_tensors_once(run: tuple[str, str], results: dict) -> None:
    got = results[ids(run)]
    seeds = 24  # moved by the addition that sets them
    assert [gap["moved"] for gap in got["gaps"]] == [got["bytes"][0] + seeds, *got["bytes"][1:]]


@pytest.mark.parametrize("run", [run for run in RUNS if run[1] not in NORMS], ids=ids)
def test_the_emulated_device_computes_what_the_cpu_does(run: tuple[str, str], results: dict) -> None:
    assert results[ids(run)]["same bits"]


@pytest.mark.parametrize("waste", WASTE)
def test_waste_is_found(waste: str, results: dict) -> None:
    for gap in results[waste]["gaps"][1:]:
        assert WASTE[waste] in faults(gap, launches=1)


def test_tensors_of_two_devices_do_not_mix(results: dict) -> None:
    assert "expected all tensors to be on one device" in results["mixed"]


if __name__ == "__main__":
    from collections.abc import Callable
    from itertools import pairwise

    import torch
    from torch import Tensor

    import emulated
    from fastsolve import APG, Denoiser, Guidance, Sampler, executors
    from fastsolve.executors.run import Backend
    from fastsolve.lower import lower
    from stub import Stub

    def model(x: Tensor, t: Tensor, bias: float = 0.25) -> Tensor:
        """Products and sums only, each rounded alike on every device."""
        return x * 0.625 - bias

    def sampler(name: str, kind: str, device: torch.device, executor: str, watch: Callable = lambda f: f) -> Sampler:
        guided = kind in ("guided", "doubled", *NORMS)
        dtype, null = (torch.bfloat16, {"bias": 0.125}) if guided else (None, None)
        guidance = {"rescaled": Guidance(3.0, rescale=0.7), "projected": Guidance(3.0, apg=APG(0.0, -0.5, 2.5))}
        schedule = SCHEDULES.get(name, "edm")
        denoiser = Denoiser(
            watch(model), schedule, "v", device=device, dtype=dtype, null=null, doubles=kind == "doubled"
        )
        shape = (3, 37) if null else (1, 4, 16, 16)
        return Sampler(
            denoiser,
            shape,
            solver=name,
            steps=3,
            options=OPTIONS.get(name),
            guidance=guidance.get(kind, 3.0) if null else None,
            clip=0.5 if kind == "edited" else None,
            executor=executor,
        )

    def given(made: Sampler, kind: str) -> dict[str, object]:
        if kind == "doubled":
            return {"seed": 7, "model_kwargs": {"bias": 0.125}}  # a number is the same in both halves
        if kind in ("edited", "overwritten"):
            mask = torch.linspace(0.0, 1.0, 16).round().expand(made.setting.shape).contiguous()
            pair = (mask, torch.sin(torch.arange(mask.numel(), dtype=torch.float32)).view(mask.shape))
            if made.setting.device == emulated.DEVICE:
                pair = tuple(emulated.Emulated(t) for t in pair)
            if kind == "overwritten":
                return {"seed": 7, "overwrite": pair}
            return {"seed": 7, "inpaint": pair, "callback": lambda step: None}
        if kind != "given":
            return {"seed": 7}
        generator = torch.Generator().manual_seed(1)
        tensors = [
            torch.randn(made.setting.shape, generator=generator) for _ in range(len(made.plan.start) + made.plan.draws)
        ]
        if made.setting.device == emulated.DEVICE:
            tensors = [emulated.Emulated(t) for t in tensors]
        start, draws = tensors[: len(made.plan.start)], tensors[len(made.plan.start) :]
        return {"x_init": torch.stack(start) if len(start) > 1 else start[0], "noise": draws}

    def traffic(made: Sampler, kind: str) -> list[int]:
        """Bytes that each launch of the program has to read and write."""
        setting, on_device = made.setting, kind == "given"
        program = lower(made.plan, given="state" if on_device else "", noise=on_device)
        kinds = [slot.kind for slot in program.slots]
        slots = [[*launch.sources, *(row.out for row in launch.rows)] for launch in program.launches]
        return [setting.size * sum(setting.dtype_of(kinds[slot]).itemsize for slot in read) for read in slots]

    def stepped(name: str, device: torch.device, executor: str, ledger: emulated.Ledger | None = None) -> tuple:
        """A loop around a `Stepper`, as that of a pipeline."""
        plan = fastsolve.make_plan(name, schedule="vp", prediction="v", steps=3)
        x = torch.sin(torch.arange(1024, dtype=torch.float32)).view(1, 4, 16, 16)
        x = x if device == torch.device("cpu") else emulated.Emulated(x)
        run = fastsolve.Stepper(plan, x.shape, device=device, executor=executor).begin(7)
        watched = ledger.watched(model) if ledger else model
        if ledger:
            ledger.gaps[:] = [emulated.Gap()]
        for _ in range(plan.nfe):
            x = run.step(watched(x, x), x)
        return x, plan.nfe

    def counted_steps(name: str) -> dict[str, object]:
        with emulated.counting() as ledger:
            out, nfe = stepped(name, emulated.DEVICE, "fused", ledger)
        plain, _ = stepped(name, torch.device("cpu"), "native")
        gaps = [vars(gap) for gap in ledger.gaps]
        return {"gaps": gaps, "nfe": nfe, "bytes": [], "same bits": torch.equal(out.host, plain)}

    def counted(name: str, kind: str) -> dict[str, object]:
        if kind == "stepped":
            return counted_steps(name)
        with emulated.counting() as ledger:
            made = sampler(name, kind, emulated.DEVICE, "fused", ledger.watched)
            arguments = given(made, kind)
            if kind == "again":
                made(**arguments)
            ledger.gaps[:] = [emulated.Gap()]
            out = made(**arguments)
        plain = sampler(name, kind, torch.device("cpu"), "auto")
        return {
            "gaps": [vars(gap) for gap in ledger.gaps],
            "nfe": made.plan.nfe,
            "bytes": traffic(made, kind),
            "same bits": torch.equal(out.host, plain(**given(plain, kind))),
        }

    class Wasteful(Backend):
        """A real executor, and after each of its launches something that nobody needs."""

        def __init__(self, waste: str, *given) -> None:
            self._waste, self._backend, self._own = waste, make("fused", *given), torch.ones(4, device=emulated.DEVICE)
            self._host = torch.ones(4)

        def load(self, program) -> None:
            self._backend.load(program)

        def seed(self, seeds) -> None:
            self._backend.seed(seeds)

        def bind(self, slot: int, tensor: Tensor) -> None:
            self._backend.bind(slot, tensor)

        def launch(self, index: int) -> None:
            self._backend.launch(index)
            own = self._own
            {
                "a kernel launched again": lambda: self._backend.launch(index),
                "an operator in place": lambda: own.add_(1),
                "a cast": lambda: own.to(torch.bfloat16),
                "a fill": lambda: own.fill_(1),
                "numbers made on the host": lambda: torch.tensor([1.0, 2.0], device=emulated.DEVICE),
                "a table written again": lambda: own.copy_(self._host),
                "a value read": lambda: own[0].item(),
                "a mask": lambda: own[own > 0],
                "a copy to the host": lambda: own.cpu(),
                "a list of device scalars": lambda: torch.tensor([own[0], own[1]], device=emulated.DEVICE),
                "a view": lambda: own.view(2, 2),
                "an allocation": lambda: torch.empty_like(own),
                "an operator on the host": lambda: self._host * 2,
            }[self._waste]()

    def driven_run(name: str, stub: Stub) -> dict[str, object]:
        """The second run of a sampler with compiled kernels, and the launches that arrived before each call and after the last."""
        seen: list[int] = []

        def marking(x: Tensor, t: Tensor) -> Tensor:
            seen.append(stub.launches)
            return model(x, t)

        with emulated.counting() as ledger:
            made = sampler(name, "plain", emulated.DEVICE, "fused", lambda model: ledger.watched(marking))
            made()
            ledger.gaps[:] = [emulated.Gap()]
            seen[:] = [stub.launches]
            made()
            seen.append(stub.launches)
        launches = [after - before for before, after in pairwise(seen)]
        return {"gaps": [vars(gap) for gap in ledger.gaps], "launches": launches, "nfe": made.plan.nfe}

    def everything() -> dict[str, object]:
        saved: dict[str, object] = {ids(run): counted(*run) for run in RUNS}
        for waste in WASTE:
            executors.backend = lambda name, *given, waste=waste: Wasteful(waste, *given)
            with emulated.counting() as ledger:
                made = sampler("dpmpp_2m", "plain", emulated.DEVICE, "fused", ledger.watched)
                ledger.gaps[:] = [emulated.Gap()]
                made()
            saved[waste] = {"gaps": [vars(gap) for gap in ledger.gaps]}
        try:
            with emulated.counting():
                saved["mixed"] = str(torch.ones(2, device=emulated.DEVICE) + torch.ones(2))
        except RuntimeError as error:
            saved["mixed"] = str(error)
        return saved

    make, folder = executors.backend, Path(sys.argv[1])
    if "driven" in sys.argv:
        stub = Stub(folder)
        results_here: dict[str, object] = {name: driven_run(name, stub) for name in DRIVEN}
    else:
        results_here = everything()
    (folder / "results.json").write_text(json.dumps(results_here))
