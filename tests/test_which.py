"""docs/which_solver.md says what was measured, and what was measured can be measured again."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

import fastsolve
from fastsolve import solvers

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import which, which_page

FOUND = json.loads(which_page.FILE.read_text("utf-8"))
ROWS = [row for row in FOUND["rows"] if "error" in row]


def test_the_page_is_made_of_the_results() -> None:
    assert which_page.PAGE.read_text("utf-8") == which_page.page(FOUND)


def test_every_case_was_measured() -> None:
    assert FOUND["calls"] == {question: list(calls) for question, calls in which.CALLS.items()}
    cases = {(row["question"], row["problem"], row["grid"]) for row in ROWS}
    mixtures = {(question, name, grid) for question in which.CALLS for name, grid in which.GRIDS.items()}
    assert cases == {("flow", "digits", which.GRIDS["edm"])} | mixtures
    for row in ROWS:
        assert solvers.get(row["solver"])
        assert len(row["error"]) == len(row["worst"]) == len(row["nfe"]) == len(which.CALLS[row["question"]])
        assert all(0.0 < e <= w < math.inf for e, w in zip(row["error"], row["worst"], strict=True))


@pytest.mark.parametrize("row", ROWS[::19], ids=lambda row: f"{row['problem']}-{row['solver']}")
def test_a_budget_is_the_calls_of_the_plan(row: dict[str, object]) -> None:
    schedule = "edm" if row["problem"] == "digits" else row["problem"]
    budgets = which.CALLS[str(row["question"])]
    plans = [fastsolve.make_plan(row["solver"], schedule=schedule, grid=row["grid"], nfe=n) for n in budgets]
    assert [plan.nfe for plan in plans] == row["nfe"]
    assert all(plan.nfe <= calls for plan, calls in zip(plans, budgets, strict=True))


def test_errors_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shorter reference, which is exact to a hundredth of the error."""
    monkeypatch.setattr(which, "FINE", 80)
    found = {row["solver"]: row["error"] for row in ROWS if (row["question"], row["problem"]) == ("flow", "vp")}
    errors: dict[str, list[float]] = {"ipndm": [], "dpmpp_2m": []}
    for number in range(len(which.MIXTURES)):
        denoiser, noise, _ = which.mixture_case(number, "vp")
        exact, _ = which.exact_ends(denoiser, noise)
        for solver, measured in errors.items():
            end = which.ends(denoiser, noise, solver, which.GRIDS["vp"], nfe=8)
            measured.append(which.rms(end - exact) / which.rms(exact))
    for solver, measured in errors.items():
        expected = found[solver][which.CALLS["flow"].index(8)]
        assert which.mean(measured) == pytest.approx(expected, rel=0.02), solver


def test_exact_draws_are_as_far_from_the_law_as_exact_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(which, "REFERENCE", 2**14)
    law = which.Law(0)
    far = law.distance(law.problem.draw(which.DRAWN, seed=99) + 0.2) / law.floor
    assert 0.5 < law.distance(law.problem.draw(which.DRAWN, seed=99)) / law.floor < 2.0
    assert far > 3.0


def test_equal_figures_share_a_row_and_the_best_stands_first() -> None:
    rows = which_page.Results(FOUND).of("flow", "vp")
    names = [name for row in rows for name in row["names"]]
    assert len(names) == len(set(names)) > 15
    assert {"ddim", "euler"} <= set(next(row["names"] for row in rows if "ddim" in row["names"]))
    ratios = [which_page.mean(row["ratio"]) for row in rows]
    assert ratios == sorted(ratios)
    assert min(row["ratio"][0] for row in rows) == 1.0
    assert torch.isfinite(torch.tensor(ratios)).all()


def test_what_the_page_advises_to_try_is_in_the_catalogue() -> None:
    named = re.findall(r"`(\w+)` \d+\.\d\d", which_page.PAGE.read_text("utf-8"))
    assert len(named) == 4 * 3 * 3 + 3 * 2 * 3
    assert set(named) <= set(fastsolve.list_solvers())
