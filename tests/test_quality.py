"""benchmarks/quality.py: nothing is lost when it is killed, what it committed is what the code computes, and a wrong solver is noticed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastsolve
from test_metrics import off_by_five_percent

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import quality, quality_cases, quality_report
from benchmarks.measure import RESULTS
from benchmarks.quality_cases import FULL, QUESTIONS, QUICK, WAYS, Case, Size, cases

SMALL = Size((4, 6), (4,), (4,), 3, 20, 10, 4, ("ddim", "heun", "seeds3", "ddpm"), only_usual=True)


def committed(question: str) -> list[dict[str, Any]]:
    return quality.rows_of(RESULTS / "quality" / "quick" / f"{question}.jsonl")


def test_every_solver_of_the_catalogue_is_measured() -> None:
    assert {way.solver for way in WAYS.values()} == set(fastsolve.list_solvers())
    for question in QUESTIONS:
        every = list(cases(question, FULL))
        assert len({case.key for case in every}) == len(every)
        measured = {case.way for case in every}
        if question != "path":
            for law in {case.schedule for case in every}:
                assert measured >= set(WAYS) - set(quality_cases.twins(law))
    assert {WAYS[case.way].solver for case in cases("path", FULL)}.isdisjoint({"seeds3", "restart", "tada", "lcm"})


def test_twins_are_one_solver_under_two_names() -> None:
    """Seen from the plans: on EDM the plain Euler step has four names, and churn at its cap is no twin of churn that is not."""
    same = quality_cases.twins("edm")
    assert {same["euler"], same["flow_euler"], same["euler_cfg_pp"]} == {"ddim"}
    assert same["seeds2"] == "dpmpp_sde"
    assert not {"seeds3", "unipc", "heun, churn 10", "heun, churn 20"} & {*same}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wanted = tmp_path / "gaussian.jsonl", list(cases("gaussian", SMALL))
    computed: list[str] = []
    row_of = quality.row_of

    def killed_after_five(case: Case, size: Size) -> quality.Row:
        if len(computed) == 5:
            raise KeyboardInterrupt
        computed.append(case.key)
        return row_of(case, size)

    monkeypatch.setattr(quality, "row_of", killed_after_five)
    with pytest.raises(KeyboardInterrupt):
        quality.run(wanted, SMALL, path, 1)
    with path.open("a") as file:
        file.write('{"key": "half a ro')
    before = path.read_text().splitlines()[:5]
    monkeypatch.setattr(quality, "row_of", lambda case, size: computed.append(case.key) or row_of(case, size))
    quality.run(wanted, SMALL, path, 1)
    assert path.read_text().splitlines()[:5] == before
    assert [row["key"] for row in quality.rows_of(path)] == [case.key for case in wanted] == computed
    quality.run(wanted, SMALL, path, 1)
    assert len(computed) == len(wanted)


def test_rows_of_another_size_are_not_mixed(tmp_path: Path) -> None:
    size = {"size": {"groups": 3}}
    quality.begin(tmp_path, size)
    (tmp_path / "law.jsonl").write_text("")
    quality.begin(tmp_path, size)
    with pytest.raises(ValueError, match="has rows of another size"):
        quality.begin(tmp_path, {"size": {"groups": 4}})


def test_what_is_refused_and_what_diverges_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "needs a variance-preserving schedule"
        in quality.row_of(Case("law", "perfect", "edm", "ddpm", "karras", 5), SMALL)["refused"]
    )
    monkeypatch.setitem(quality_cases.MEASURES, "law", lambda case, size: {"energy": [float("nan")], "sliced": [1.0]})
    row = quality.row_of(Case("law", "perfect", "edm", "ddim", "karras", 5), SMALL)
    assert (row["diverged"], row["figures"]) == (True, {"sliced": [1.0]})


@pytest.mark.parametrize("question", QUESTIONS)
def test_all_that_was_committed_is_the_quick_run(question: str) -> None:
    assert {row["key"] for row in committed(question)} == {case.key for case in cases(question, QUICK)}
    assert json.loads((RESULTS / "quality" / "quick" / "about.json").read_text())["size"]["groups"] == QUICK.groups


def again(row: dict[str, Any]) -> dict[str, list[float]]:
    case = Case(*(row[name] for name in ("question", "problem", "schedule", "way", "grid", "nfe")))
    return quality_cases.measure(case, QUICK)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every solver has one coefficient off by 5 %."""
    make = quality_cases.plan_of
    monkeypatch.setattr(quality_cases, "plan_of", lambda case: off_by_five_percent(make(case), 0))


def test_committed_exact_figures_are_what_the_solvers_give() -> None:
    for row in committed("gaussian"):
        for name, values in again(row).items():
            assert values == pytest.approx(row["figures"][name], rel=1e-5), row["key"]


def test_a_wrong_solver_is_noticed(wrong: None) -> None:
    """By far: the test above allows a hundredth of this."""
    for row in committed("gaussian"):
        assert again(row)["perfect"] != pytest.approx(row["figures"]["perfect"], rel=1e-3), row["key"]


@pytest.mark.parametrize("question", ["path", "law"])
def test_committed_figures_of_samples_are_what_the_solvers_give(question: str) -> None:
    """One solver of each kind; float32 samples of another CPU agree to some digits."""
    for row in committed(question):
        if row["way"] in ("dpmpp_2m", "seeds3") and row["nfe"] == 20 and row["problem"] in ("mixture", "perfect"):
            for name, values in again(row).items():
                assert values == pytest.approx(row["figures"][name], rel=1e-3, abs=1e-4), row["key"]


def rows(figure: str, **values: list[float]) -> list[dict[str, Any]]:
    return [{"way": way, "nfe": 8, "calls": 8, "figures": {figure: found}} for way, found in values.items()]


def named(found: list[Any]) -> list[str]:
    return [row["way"] for row in found]


def test_what_is_as_good_as_the_best() -> None:
    """By the differences of the same seeds: those of b are small and certain, those of c large and uncertain."""
    three = rows("sliced", a=[1.0, 2.0, 3.0], b=[1.1, 2.11, 3.09], c=[3.0, 1.0, 2.9])
    assert named(quality_report.best_of(three, "sliced")) == ["a", "c"]
    assert named(quality_report.best_of(rows("accuracy", a=[0.8, 0.9], b=[0.5, 0.6]), "accuracy")) == ["a"]
    assert named(
        quality_report.best_of(rows("typical", a=[-3.0, -1.0], b=[-2.9, -0.9], c=[-2.5, -0.6]), "typical")
    ) == ["a"]
    assert named(quality_report.best_of(rows("energy", a=[-3.0, -3.1], b=[-1.0, 1.5], c=[2.0, 2.1]), "energy")) == [
        "a",
        "b",
    ]


def test_a_table_has_errors_and_marks() -> None:
    found = rows("sliced", a=[1.0, 1.2], b=[4.0, 4.4])
    found.append({**found[0], "nfe": 9})
    assert quality_report.table(found, "sliced").splitlines()[2:] == [
        "| a | **1.10(10)** | **1.10(10)** [8] |",
        "| b | 4.20(20) | - |",
    ]
    assert quality_cases.estimate("typical", [-1.0, -3.0]) == pytest.approx((math.exp(-2.0), math.exp(-2.0)))
    assert quality_report.spell(quality_report.Estimate(0.01234, 0.0)) == "0.0123"


def test_a_report_of_a_run(tmp_path: Path) -> None:
    tiny = replace(SMALL, ways=("ddim", "dpmpp_2m"), exact=(4, 8))
    quality.run(list(cases("gaussian", tiny)), tiny, tmp_path / "gaussian.jsonl", 1)
    quality_report.report("gaussian", quality.rows_of(tmp_path / "gaussian.jsonl"), tmp_path)
    text = (tmp_path / "gaussian.md").read_text()
    assert "## axes, edm, perfect: grid karras" in text
    assert "| dpmpp_2m |" in text
    assert (tmp_path / "gaussian.png").stat().st_size > 10_000
