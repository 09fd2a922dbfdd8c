"""The command line: pictures and tables come out, and mistakes are told in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import fastsolve
from fastsolve import cli
from fastsolve.models import real_digits


def test_demo_draws_and_tabulates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.png"
    cli.main(["demo", "--out", str(out), "--solvers", "ddim", "seeds3", "--nfe", "6", "10", "--samples", "20"])
    assert out.read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["solver", "NFE", "launches", "ms/batch", "ms/sample", "distance"]
    rows = [line.split() for line in lines[2:6]]
    assert [row[0] for row in rows] == ["ddim", "ddim", "seeds3", "seeds3"]
    assert all(int(row[1]) == int(row[2]) <= budget for row, budget in zip(rows, (6, 10, 6, 10), strict=True))
    assert lines[6].startswith("real digits")


def test_demo_rejects_an_unknown_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--out", str(tmp_path / "demo.png"), "--solvers", "seeds33"])
    assert stop.value.code == 2
    assert "nearest is 'seeds3'" in capsys.readouterr().err


def test_demo_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        cli.main(["demo"])
    assert "pip install fastsolve[demo]" in capsys.readouterr().err


def test_solvers_lists_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["solvers"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == list(fastsolve.list_solvers())


def test_plan_prints_equations(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", "seeds3", "--steps", "4"])
    plan = fastsolve.make_plan("seeds3", schedule="edm", steps=4)
    assert capsys.readouterr().out == f"{plan}\n"


def test_distance_is_a_distance() -> None:
    real, _ = real_digits()
    assert cli.distance(real, real) == pytest.approx(0.0, abs=1e-6)
    assert cli.distance(real + 0.1, real) == pytest.approx(0.1, rel=0.2)
    noisy = real[:400] + 0.5 * torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert cli.distance(noisy, real[400:]) > 1.5 * cli.distance(real[:400], real[400:])
    assert 0.04 < cli.floor(400) < 0.08


def test_demo_rejects_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "--out", str(tmp_path / "nowhere" / "demo.png")])
    assert "there is no folder" in capsys.readouterr().err
