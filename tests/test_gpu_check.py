"""benchmarks/gpu_check.sh and what it runs, rehearsed on a CPU: arguments, gates, results, pictures, the verdict. No time is looked at."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from catalogue import needs_native
from fastsolve import executors, models
from fastsolve.executors.run import Backend

ROOT = Path(__file__).parents[1]
pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import gpu_clock, gpu_peers, sample, sample_cases, update  # noqa: E402
from benchmarks.gpu_clock import Place  # noqa: E402
from benchmarks.gpu_peers import Problem, Run  # noqa: E402
from benchmarks.gpu_report import Report  # noqa: E402
from benchmarks.subjects import digits  # noqa: E402
from benchmarks.update_patterns import Tensors, one_row  # noqa: E402

CPU = Place(torch.device("cpu"), True)


def report(tmp_path: Path) -> Report:
    return Report("test", argparse.Namespace(out=tmp_path, budget=60.0, commit="none"), CPU)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    if shutil.which("bash") is None or shutil.which("timeout") is None:
        pytest.skip("needs bash and timeout")
    out = tmp_path_factory.mktemp("check")
    command = [
        "bash",
        "benchmarks/gpu_check.sh",
        "--dry",
        "--python",
        sys.executable,
        "--out",
        str(out),
        "--commit",
        "abc",
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True), out


@needs_native
def test_a_rehearsal_leaves_everything(rehearsed: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, out = rehearsed
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was wrong" in done.stdout
    names = {"check.json", "check.log", "sample.json", "sample.png", "tests.xml", "update.json", "update.png"}
    assert {path.name for path in out.iterdir()} == names
    for name in ("update", "sample"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        result = json.loads((out / f"{name}.json").read_text())
        assert (result["commit"], result["dry"], result["complete"], result["faults"]) == ("abc", True, True, [])
        timed = [row for row in result["rows"] if "metric" in row]
        assert all(row["p20"] <= row["p50"] <= row["p80"] for row in timed)
        assert all(set(row) & {"metric", "reason", "away"} for row in result["rows"])
        assert str(ROOT) not in json.dumps(result)
    check = json.loads((out / "check.json").read_text())
    assert set(check["parts"]) == {"tests", "update", "sample"}
    assert {goal["verdict"] for goal in check["goals"]} == {"not measured"}  # times of a rehearsal mean nothing


@needs_native
def test_a_rehearsal_times_every_provider_that_is_here(
    rehearsed: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, out = rehearsed
    update_rows, sample_rows = (json.loads((out / f"{name}.json").read_text())["rows"] for name in ("update", "sample"))
    assert {"native", "copy", "negation", "torch"} <= {row["provider"] for row in update_rows if "metric" in row}
    timed = {(row["subject"], row["provider"]) for row in sample_rows if "metric" in row}
    mine, loop, alone = "fastsolve, launch by launch", "torch loop", sample_cases.ALONE
    assert {("empty model", mine), ("empty model", loop), ("empty model", "levels on the device")} <= timed
    for subject in ("U-Net", "digits"):
        assert {(subject, mine), (subject, loop), (subject, alone), (subject, "torch loop, graph per call")} <= timed
    assert {("DiT-S/2", mine), ("50 us model", alone)} <= timed
    reasons = {row["provider"]: row["reason"] for row in sample_rows if "reason" in row}
    assert "CUDA graphs need a GPU" in reasons[sample_cases.GRAPH]


def test_there_is_no_run_without_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as end:
        update.main(["--out", str(tmp_path)])
    assert end.value.code == 2


class Broken(Backend):
    """An executor whose results are 5 % too large."""

    def __init__(self, inner: Backend, tensors: list[Tensor | None]) -> None:
        self._inner, self._tensors = inner, tensors
        self.load, self.seed, self.bind = inner.load, inner.seed, inner.bind  # type: ignore[method-assign]

    def load(self, program: object) -> None: ...  # type: ignore[override]
    def seed(self, seeds: object) -> None: ...  # type: ignore[override]
    def bind(self, slot: int, tensor: Tensor) -> None: ...

    def launch(self, index: int) -> None:
        self._inner.launch(index)
        out = self._tensors[-1]
        assert out is not None
        out.mul_(1.05)


@needs_native
def test_wrong_updates_have_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = executors.backend
    monkeypatch.setattr(executors, "backend", lambda *args: Broken(make(*args), args[-1]))
    for more in ([], ["--check-only"]):
        assert update.main(["--out", str(tmp_path), "--dry", "--executors", "native", *more]) == 1
        result = json.loads((tmp_path / ("update_check.json" if more else "update.json")).read_text())
        assert result["faults"]
        assert not [row for row in result["rows"] if row["provider"] == "native" and "reason" not in row]


@needs_native
@pytest.mark.parametrize(("budget", "same"), [("60", 88), ("-1", 0)], ids=["all", "no time"])
def test_a_check_says_how_much_it_looked_at(
    budget: str, same: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A memory checker that found nothing wrong with nothing must not look like one that did its work."""
    arguments = ["--dry", "--executors", "native", "--check-only", "--budget", budget]
    assert update.main(["--out", str(tmp_path), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{same} of 88 updates have the bits of NumPy"


@needs_native
@pytest.mark.parametrize("task", sample_cases.TASKS, ids=str)
def test_wrong_samples_are_found(task: sample_cases.Task, tmp_path: Path) -> None:
    """A provider that computes what fastsolve does passes; one whose model is 2 % off, or whose start and noise are, does not."""

    def off(make: Callable[[Problem], Run], model: float, random: float) -> Callable[[Problem], Run]:
        def made(problem: Problem) -> Run:
            net = problem.subject.net
            subject = dataclasses.replace(problem.subject, net=lambda x, t: net(x, t) * model)

            def noise() -> Callable[[], Tensor]:
                draw = problem.noise()
                return lambda: draw() * random

            start = lambda: problem.start() * random  # noqa: E731
            return make(dataclasses.replace(problem, subject=subject, start=start, noise=noise))

        return made

    loops = sample_cases.LOOP if task.law == "edm" else {}
    mine, theirs = sample_cases.LAUNCHES, "torch loop"
    makes = {mine: sample_cases.MINE[mine], **loops}
    assert set(sample.gate(written := report(tmp_path), CPU, task, makes)) == set(makes)
    assert not written.faults
    if loops:
        broken = {
            f"{name} {pair}": off(make, *pair) for name, make in loops.items() for pair in ((1.02, 1.0), (1.0, 1.02))
        }
        assert sample.gate(written, CPU, task, broken) == {}
        assert len(written.faults) == len(broken)
        assert theirs in written.faults[0]


def test_digits_for_loops_is_the_denoiser_of_its_paper() -> None:
    net, subject = models.digits(), digits(CPU)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 4.0])
    nodes = [net.schedule.node(float(s)) for s in sigma]  # type: ignore[union-attr]
    scaled = torch.stack([x[i] * net.prediction.input_scale(node) for i, node in enumerate(nodes)])  # type: ignore[union-attr]
    raw = net(scaled, sigma)
    for i, node in enumerate(nodes):
        a, b = net.prediction.x0(node)  # type: ignore[union-attr]
        torch.testing.assert_close(subject.in_float()(x, sigma)[i], a * x[i] + b * raw[i], rtol=1e-4, atol=1e-5)


def test_a_peer_that_cannot_be_imported_says_why_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k_diffusion").mkdir()
    (tmp_path / "k_diffusion" / "__init__.py").touch()
    (tmp_path / "k_diffusion" / "sampling.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "k_diffusion", raising=False)
    for _ in range(2):
        with pytest.raises(ImportError, match="no_such_library"):
            gpu_peers.k_diffusion_sampling.__wrapped__()


def test_the_kernel_with_triton_normals_is_the_update() -> None:
    kernels = pytest.importorskip("benchmarks.update_kernels")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are interpreted only where there is no GPU")
    kernels.nothing()
    for inputs, draws in ((1, 1), (3, 2)):
        tensors = Tensors(one_row(inputs, draws, torch.bfloat16), 4999, 1, CPU)
        assert tensors.wrong(update.tl_randn(tensors), ours=False) is None
        tensors.coefficients = [tuple(1.1 * c for c in tensors.coefficients[0])]
        node = update.tl_randn(tensors)
        tensors.coefficients = [tuple(c / 1.1 for c in tensors.coefficients[0])]
        assert tensors.wrong(node, ours=False) is not None


class FakeTime:
    """A GPU's clock: a graph costs 10 us, and each of its nodes 3."""

    now = 0.0

    def __init__(self, place: Place, call: Callable[[], list[int]]) -> None:
        self._call = call

    def __call__(self) -> float:
        return 10.0 + 3.0 * len(self._call())


def test_a_launch_is_timed_whatever_a_graph_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "GpuTime", FakeTime)
    queued: list[int] = []
    launches = gpu_clock.Launches(CPU, lambda i: queued.append(i), 50, 10, 8)
    queued.clear()
    assert launches() == (3.0,)
    assert queued == [*range(50), *range(4, 14)]  # the short graph begins at half of the sets


def test_small_sizes_lie_in_the_cache_and_others_do_not() -> None:
    l2 = 60 << 20
    for size in update.SIZES:
        many, few, sets, resident = update.geometry(size, l2)
        assert many >= sets or resident
        assert few < many
        assert (sets * size < l2 / 2) if resident else (sets * size > 2 * l2)


def test_who_fails_has_a_reason_and_the_others_go_on() -> None:
    turns: list[str] = []

    def fails() -> list[float]:
        turns.append("fails")
        raise ValueError("cannot open /home/somebody/lib/x.so\nand more")

    measures = {"a": lambda: turns.append("a") or [1.0], "b": fails, "slow": lambda: turns.append("slow") or [2.0]}
    samples, failed = gpu_clock.in_turns(measures, 5, -1.0)  # nobody has time for more than three rounds
    assert samples == {"a": [[1.0]] * 3, "slow": [[2.0]] * 3}
    assert failed == {"b": "ValueError: cannot open x.so"}
    assert turns == ["a", "fails", "slow", "a", "slow", "a", "slow"]


def test_rows_have_quantiles_and_survive_what_comes_later(tmp_path: Path) -> None:
    written = report(tmp_path)
    written.add("case", "provider", "time", [1.0, 2.0, 3.0, 4.0, 5.0], bytes=7)
    written.write()
    result = json.loads((tmp_path / "test.json").read_text())
    (row,) = result["rows"]
    assert (row["p50"], row["bytes"], row["rounds"]) == (3.0, 7, 5)
    assert np.isclose([row["p20"], row["p80"]], [1.8, 4.2]).all()
    assert not result["complete"]
