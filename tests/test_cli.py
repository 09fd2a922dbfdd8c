"""The command line: pictures, tables and JSON come out, mistakes are told in a sentence, and exit codes say which."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastsolve
from fastsolve import Plan, cli, make_plan
from fastsolve.cli import bench, citation, demo, doctor, plan as plan_command
from fastsolve.models import real_digits

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "command_line.md"
Capture = pytest.CaptureFixture[str]


def refused(line: str, capsys: Capture, code: int = 2) -> str:
    """What a command that must fail with this code says on stderr; on stdout it says nothing."""
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(line))
    assert stop.value.code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def said(line: str, capsys: Capture) -> str:
    cli.main(shlex.split(line))
    return capsys.readouterr().out


# The page


SHOWN = re.compile(r"^```sh\nfastsolve ([^\n]*)\n```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("line", [line for line, _ in SHOWN.findall(PAGE.read_text("utf-8"))])
def test_the_page_shows_what_a_command_prints(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(line, capsys) == dict(SHOWN.findall(PAGE.read_text("utf-8")))[line]


def test_the_page_has_every_command() -> None:
    text, shown = PAGE.read_text("utf-8"), SHOWN.findall(PAGE.read_text("utf-8"))
    assert len(shown) > 8
    for command in commands():
        assert f"## `fastsolve {command}`" in text, command


def commands() -> list[str]:
    (action,) = (a for a in cli.parser()._actions if isinstance(a.choices, dict))
    return list(action.choices)


# The whole


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_has_examples_that_parse(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    examples = re.findall(r"^  fastsolve (.*?)(?:   .*| [|>].*)?$", out, re.MULTILINE)
    assert examples
    for line in examples:
        cli.parser().parse_args(shlex.split(line))


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fastsolve {fastsolve.__version__}\n"


@pytest.mark.parametrize("line", ["", "dance", "plan", "plan euler --steps 0", "plan euler --steps 3 --nfe 3", "cite"])
def test_bad_usage_is_2(line: str, capsys: Capture) -> None:
    assert "usage: fastsolve" in refused(line, capsys)


@pytest.mark.parametrize("given", ["0", "-2", "2.5", "many"])
def test_counts_are_whole_numbers(given: str, capsys: Capture) -> None:
    err = refused(f"solvers --calls {given}", capsys)
    assert f"argument --calls: must be a whole number, at least 1, not '{given}'" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("solvers dpmp_2m", "fastsolve solvers: error: unknown solver 'dpmp_2m'; nearest is 'dpmpp_2m'; known are "),
        (
            "solvers euler --calls 1",
            "fastsolve solvers: error: --stochastic, --deterministic and --calls choose from the",
        ),
        ("plan dpmp_2m", "fastsolve plan: error: unknown solver 'dpmp_2m'; nearest is 'dpmpp_2m'"),
        ("plan euler --schedule vpp", "unknown schedule 'vpp'"),
        ("plan euler --grid karas", "unknown grid 'karas'"),
        ("plan euler --grid 80;1", "--grid takes a name or clock values such as 80,10,1,0, not '80"),
        ("plan euler --grid 80,,0", "--grid takes a name or clock values such as 80,10,1,0, not '80,,0'"),
        ("plan euler --grid 1,80", "levels must decrease"),
        ("plan seeds3 --options eta=1 eta=0", "--options gives eta twice"),
        ("plan euler --grid 80,1,0 --steps 7", "the grid given has 2 steps, not 7"),
        ("plan euler --prediction epsilon", "'epsilon'"),
        ("plan seeds3 --options etta=1", "seeds3 has no option 'etta'; nearest is 'eta'"),
        ("plan seeds3 --options eta=big", "option eta of seeds3 must be a number, not 'big'"),
        ("plan seeds3 --options eta", "--options takes NAME=VALUE, such as eta=0.5, not 'eta'"),
        ("plan seeds3 --nfe 1 --options eta=-1", "must be at least 0, not -1"),
        ("plan euler --plot plan", "plan has no ending of a picture, such as .png"),
        ("plan euler --plot nowhere/plan.png", "there is no folder nowhere"),
        ("cite seed3 --bibtex", "nearest is 'seeds3'"),
        ("bench --device mars", "--device is cpu, cuda or cuda:1, say, not 'mars'"),
        ("bench --device cpu:x", "cpu:x"),
        ("demo --solvers seeds33", "nearest is 'seeds3'"),
        ("demo --out nowhere/demo.png", "there is no folder nowhere"),
        ("demo --out demo.exe", "demo.exe has no ending of a picture, such as .png"),
        ("demo --out .", "has no ending of a picture, such as .png"),
    ],
)
def test_mistakes_are_told_in_a_line(line: str, message: str, capsys: Capture) -> None:
    err = refused(line.replace(";", r"\;"), capsys)
    assert message in err
    assert err.startswith(f"fastsolve {line.split()[0]}: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["demo", "plan euler --plot plan.png"])
def test_a_missing_extra_is_1_and_named(line: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install fastsolve[demo]" in refused(line, capsys, 1)


def test_warnings_are_a_line(capsys: Capture) -> None:
    # In a process of its own: here, warnings are errors.
    run = subprocess.run(
        [sys.executable, "-m", "fastsolve", "plan", "heun", "--schedule", "vp", "--grid", "uniform_logsnr", "--nfe", "6"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert run.stdout.startswith("heun on vp: ")
    assert run.stderr.startswith("fastsolve plan: warning: ")
    assert run.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_error() -> None:
    # More than a pipe holds, so that writing fails while the reader is gone.
    command = f"{shlex.quote(sys.executable)} -m fastsolve plan euler --steps 2000 --json"
    script = f'set -o pipefail; {command} | head -c 100; echo " ${{PIPESTATUS[0]}}"'
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.startswith('{\n "solver": "euler"')
    assert run.stdout.endswith(" 0\n")
    assert run.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_1_and_told_in_a_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fastsolve", "cite", "seeds3"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert run.returncode == 1
    assert re.fullmatch(r"fastsolve cite: error: .* No space left on device\n", run.stderr)


def test_text_that_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    cli._write("Kynkäänniemi")
    assert raw.getvalue() == b"Kynk\\xe4\\xe4nniemi\n"


# solvers


def test_solvers_lists_the_catalogue(capsys: Capture) -> None:
    rows = said("solvers", capsys).splitlines()[2:]
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == fastsolve.list_solvers()


def test_solvers_are_chosen(capsys: Capture) -> None:
    found = {solver["name"]: solver for solver in json.loads(said("solvers --json", capsys))}
    assert list(found) == fastsolve.list_solvers()
    chosen = json.loads(said("solvers --json --stochastic --calls 2", capsys))
    assert chosen == [s for s in found.values() if s["stochastic"] and s["calls_per_step"] == 2]
    assert {s["name"] for s in chosen} > {"seeds2", "dpmpp_sde"}
    still = json.loads(said("solvers --json --deterministic", capsys))
    assert still == [s for s in found.values() if not s["stochastic"]]
    assert said("solvers --calls 9", capsys) == "no solver is like that\n"


@pytest.mark.parametrize("name", fastsolve.list_solvers())
def test_defaults_can_be_given_as_options(name: str, capsys: Capture) -> None:
    facts = json.loads(said(f"solvers {name} --json", capsys))
    assert facts["source"] == fastsolve.solvers.get(name).source
    given = [
        f"{option}={value if isinstance(value, str) else json.dumps(value)}"
        for option, value in facts["options"].items()
        if value is not None
    ]
    line = ["plan", name, "--schedule", "vp", "--nfe", "9"]
    plain = said(shlex.join(line), capsys)
    assert said(shlex.join([*line, "--options", *given] if given else line), capsys) == plain
    told = said(f"solvers {name}", capsys)
    assert all(f"\n    {option} = " in told for option in facts["options"])


# plan


def test_plan_prints_equations_and_levels(capsys: Capture) -> None:
    out = said("plan seeds3 --steps 4", capsys)
    plan = make_plan("seeds3", schedule="edm", steps=4)
    equations, levels = out.split("\n\n")
    assert equations == str(plan)
    rows = [[float(cell) for cell in row.split()] for row in levels.splitlines()[2:]]
    assert [row[1:4] for row in rows] == [pytest.approx(level, rel=1e-5) for level in plan.levels]
    assert rows[1][4] == pytest.approx(2 * fastsolve.schedules.get("edm").node(plan.levels[1][0]).lam, rel=1e-5)


def test_plan_as_json_can_be_read_back(capsys: Capture) -> None:
    line = "plan seeds2 --schedule flow --prediction flow --nfe 8 --guidance 3 --options eta=0.5 variant=phi_2"
    found = json.loads(said(line + " --json", capsys))
    options = {"eta": 0.5, "variant": "phi_2"}
    plan = make_plan("seeds2", schedule="flow", prediction="flow", nfe=8, guidance=3.0, options=options)
    assert Plan.from_json(json.dumps(found["plan"])) == plan
    assert found["nfe"] == plan.nfe
    assert found["forwards"] == 2 * plan.nfe
    assert found["levels"][0]["logsnr"] is None  # alpha = 0
    assert "\n".join(f"    {line}" for line in found["equations"]) == str(plan).partition("\n")[2]


def test_four_steps_by_default(capsys: Capture) -> None:
    assert said("plan euler", capsys) == said("plan euler --steps 4", capsys)
    assert "2 model calls" in said("plan euler --grid '[80, 1, 0]'", capsys)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5), ("3", 3), ("1e-3", 1e-3), (".5", 0.5), ("inf", float("inf")), ("true", True), ("False", False),
        ("none", None), ("null", None), ("3a", "3a"), ("phi_2", "phi_2"), ("[[3, 2, 0.06, 0.3]]", [[3, 2, 0.06, 0.3]]),
        ("((3, 1), (2, 1))", ((3, 1), (2, 1))), ("['a', None]", ["a", None]), ('{"eta": 0.5}', {"eta": 0.5}),
        ("{'eta': (1,)}", {"eta": (1,)}), ("'a b'", "a b"),
    ],
)  # fmt: skip
def test_values_are_read_as_data(text: str, value: object) -> None:
    found = plan_command.value_of(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "", "__import__('os').system('true')", "[].append(1)", "2**9", "lambda: 0", "[x for x in (1,)]", "f'{1}'", "b'a'",
        "{1, 2}", "1+1j", "{1: 2}", "[" * 4000, "[" * 5000 + "]" * 5000, "-inf", "...",
    ],
)  # fmt: skip
def test_what_is_no_data_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an option's value is a number, true, false, none, a name or a list"):
        plan_command.value_of(text)


def test_plan_is_drawn(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "plan.png"
    assert said(f"plan dpmpp_2m --nfe 5 --plot {out}", capsys) == f"picture: {out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


# cite


@pytest.mark.parametrize("name", fastsolve.list_solvers())
def test_citations_invent_nothing(name: str) -> None:
    found = fastsolve.solvers.get(name)
    stated = f"{found.source} {found.text.__doc__}"
    entries = dict(citation.entries(name))
    assert entries
    for paper in re.findall(r"arXiv (\d{4}\.\d{4,5})", found.source):
        assert f"eprint = {{{paper}}}" in entries[paper]
    for text in entries.values():
        assert re.fullmatch(r"@misc\{[\w:.]+,\n(  \w+ = \{[^\n]+\},\n)+\}", text)
        fields = dict(re.findall(r"  (\w+) = \{(.*)\},", text))
        if "eprint" in fields:
            assert fields["url"] == f"https://arxiv.org/abs/{fields['eprint']}"
        assert set(fields) <= {"author", "year", "eprint", "archivePrefix", "url", "howpublished"}
        for word in re.split(r" and others| and ", fields.get("author", "")):
            assert word in stated
        assert fields.get("year", "") in stated
        assert fields.get("howpublished", "").replace("\\", "") in stated
        if "author" in fields:  # its year is that of the paper's number, or of its print
            assert 0 <= int(fields["year"]) - 2000 - int(fields["eprint"][:2]) <= 1


def test_a_paper_of_several_solvers_comes_once(capsys: Capture) -> None:
    out = said("cite seeds1 seeds2 ddpm euler_ancestral --bibtex", capsys)
    assert re.findall(r"@misc\{(.*),", out) == ["arXiv:2305.14267", "arXiv:2006.11239", "euler_ancestral"]
    assert "  author = {Ho and Jain and Abbeel},\n  year = {2020},\n" in out
    assert said("cite seeds1", capsys) == f"seeds1: {fastsolve.cite('seeds1')}\n"


# doctor


def test_doctor_says_what_runs_here(capsys: Capture) -> None:
    report = json.loads(said("doctor --json", capsys))
    assert report["torch"] == torch.__version__
    assert set(report["executors"]["cpu"]["hindrances"]) == {"eager", "native", "fused", "cuda"}
    runs = report["self_test"]["runs"]
    assert report["self_test"]["passed"]
    assert runs["eager on cpu"] == "same bits"
    for name, hindrance in report["executors"]["cpu"]["hindrances"].items():
        assert (f"{name} on cpu" in runs) == (hindrance is None)
    assert "the device is cpu" in report["executors"]["cpu"]["hindrances"]["cuda"]
    if not torch.cuda.is_available():
        assert "cannot be used here" in report["executors"]["cuda"]["reason"]
        assert "CUDA graphs need a GPU" in report["executors"]["cpu"]["graph_hindrance"]
    told = said("doctor", capsys)
    assert "self-test: passed" in told
    for part in ("executors on cpu", "executors on cuda", "Triton's cache", "native modules", "libraries"):
        assert part in told


def test_doctor_knows_every_executor_and_extra() -> None:
    with pytest.raises(ValueError, match="unknown executor") as error:
        fastsolve.Sampler(doctor._model, (1, 2), schedule="ve", prediction="x0", steps=2, executor="?")
    assert set(re.findall(r"auto, (.*);", str(error.value))[0].split(", ")) == set(doctor.EXECUTORS)
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    for name, extra in doctor.EXTRAS.items():
        place = re.search(rf"^{extra or 'dependencies'} = \[(.*?)\]$", declared, re.DOTALL | re.MULTILINE)
        assert place is not None
        assert re.search(rf'"{name}>=', place[1]), name


def test_a_failed_self_test_is_1(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    sampler = doctor._sampler

    def wrong(device: str, executor: str, graph: str = "off") -> fastsolve.Sampler:
        made = sampler(device, executor, graph)
        if executor == "native":
            run = made.__call__
            monkeypatch.setattr(type(made), "__call__", lambda self, **kw: run(**kw) * (1 + 2**-20 * (self is made)))
        return made

    monkeypatch.setattr(doctor, "_sampler", wrong)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "self-test: FAILED" in out
    assert re.search(r"native on cpu +\d+ of 210 elements differ", out)
    assert err == ""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_cache_that_others_can_write_is_not_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    import triton

    cache = tmp_path / "a" / "cache"
    monkeypatch.setattr(triton.knobs.cache, "dir", str(cache))
    assert doctor._triton_cache()["private"]  # not made yet
    cache.mkdir(parents=True)
    assert doctor._triton_cache()["private"]
    cache.chmod(0o777)
    assert not doctor._triton_cache()["private"]
    out = said("doctor", capsys)
    assert f"NOT SAFE: others can write to {cache} (mode 0777): chmod 700" in out
    cache.chmod(0o700)
    cache.parent.chmod(0o777)
    assert "others can write to" in doctor._triton_cache()["reason"]
    cache.parent.chmod(0o777 | stat.S_ISVTX)  # as /tmp: what is another's stays
    assert doctor._triton_cache()["private"]


# bench


def test_bench_measures_what_agrees(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(bench, "SHAPES", ((1, 3, 5),))
    threads = torch.get_num_threads()
    report = json.loads(said("bench --rounds 3 --threads 1 --json", capsys))
    assert torch.get_num_threads() == threads
    assert "threads: 1" in report["device"]
    rows = report["rows"]
    assert {row["solver"] for row in rows} == set(bench.LOOPS)
    assert {"eager", "torch, a plain loop", "model alone"} <= {row["provider"] for row in rows}
    for row in rows:
        assert 0.0 < row["p20"] <= row["p50"] <= row["p80"]
        assert row["updates_per_s"] == pytest.approx(1e6 / row["p50"])
    table = said("bench --rounds 2", capsys)
    assert "torch, a plain loop" in table


def test_a_wrong_answer_has_no_speed(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    right = bench.LOOPS["dpmpp_2m"]
    monkeypatch.setitem(bench.LOOPS, "dpmpp_2m", lambda sigmas: right([*sigmas[:9], 1.05 * sigmas[9], *sigmas[10:]]))
    with pytest.raises(RuntimeError, match="the plain loop of dpmpp_2m differ by"):
        bench.measured("dpmpp_2m", (1, 3, 5), "cpu", 1)
    assert "the plain loop of dpmpp_2m differ by" in refused("bench --rounds 1", capsys, 1)


# demo


def test_demo_draws_and_tabulates(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "demo.png"
    given = "ddim seeds3 ddim"  # one of them twice, and no panel is drawn twice
    cli.main(["demo", "--out", str(out), "--solvers", *given.split(), "--nfe", "6", "10", "--samples", "20"])
    assert out.read_bytes().startswith(b"\x89PNG")
    said, err = capsys.readouterr()
    assert err == ""  # a bar moves on a terminal
    lines = said.splitlines()
    assert lines[0].split() == ["solver", "NFE", "launches", "ms/batch", "ms/sample", "distance"]
    rows = [line.split() for line in lines[2:6]]
    assert [row[0] for row in rows] == ["ddim", "ddim", "seeds3", "seeds3"]
    assert all(int(row[1]) == int(row[2]) <= budget for row, budget in zip(rows, (6, 10, 6, 10), strict=True))
    assert lines[6].startswith("real digits")
    assert lines[-1] == f"picture: {out}"


def test_distance_is_a_distance() -> None:
    real, _ = real_digits()
    assert demo.distance(real, real) == pytest.approx(0.0, abs=1e-6)
    assert demo.distance(real + 0.1, real) == pytest.approx(0.1, rel=0.2)
    noisy = real[:400] + 0.5 * torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert demo.distance(noisy, real[400:]) > 1.5 * demo.distance(real[:400], real[400:])
    assert 0.04 < demo.floor(400) < 0.08
