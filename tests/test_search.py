"""benchmarks/search.py: what was trained is what runs, the verdict is that of the rows, and a wrong sampler is noticed."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from fastsolve import Denoiser, Plan, predictions, schedules
from fastsolve.grids import Few
from test_metrics import off_by_five_percent

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import search, search_model, search_plan, search_report

NUMBERS = json.loads((search.FOLDER / "numbers.json").read_text())
VERDICT = json.loads((search.FOLDER / "verdict.json").read_text())
LAW = search_model.training_mixture()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise() -> Tensor:
    return torch.randn(8, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def few_plan(law: str, calls: int, numbers: Any = NUMBERS["few"]) -> Plan:
    return search_plan.few_plan(schedules.get(law), calls, numbers, predictions.X0())


def denoiser() -> Denoiser:
    return LAW.denoiser("edm")


@pytest.mark.parametrize("calls", search.CALLS)
def test_what_was_trained_is_what_is_shipped(calls: int) -> None:
    numbers = {name: torch.tensor(v, dtype=torch.float64) for name, v in NUMBERS["few"].items()}
    levels = search_model.few_levels(numbers, calls)
    weights = search_model.few_weights(numbers, levels)
    trained = search_model.walk(search_model.denoiser_of(LAW), noise(), levels, weights, numbers["c"])
    end = fastsolve.sample(
        denoiser(),
        solver="fastsolve",
        grid="few",
        nfe=calls,
        x_init=search_model.TOP * noise(),
        dtype=torch.float64,
        executor="eager",
    )
    torch.testing.assert_close(end, trained, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("calls", [4, 10])
def test_a_trained_table_is_the_plan_that_was_judged(calls: int) -> None:
    found = NUMBERS["table"][str(calls)]

    levels = torch.tensor(found["levels"], dtype=torch.float64)
    weights = [torch.tensor(w, dtype=torch.float64) for w in found["weights"]]
    assert [float(w.sum()) for w in weights] == pytest.approx([1.0] * calls, abs=1e-12)
    c = torch.tensor(NUMBERS["few"]["c"], dtype=torch.float64)
    trained = search_model.walk(search_model.denoiser_of(LAW), noise(), levels, weights, c)
    plan = search._table_plan(schedules.get("edm"), calls, NUMBERS, predictions.X0())
    end = search.ends(plan, denoiser(), search_model.TOP * noise())
    torch.testing.assert_close(end, trained, rtol=1e-9, atol=1e-9)
    again = search_model.table_of(levels, weights)
    torch.testing.assert_close(search_model.table_levels(again), levels)
    for a, b in zip(search_model.table_weights(again), weights, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("law", ["edm", "vp", "flow"])
@pytest.mark.parametrize("calls", [1, 2, 3, 6, 40])
def test_a_constant_prediction_is_where_paths_end(law: str, calls: int) -> None:
    """Consistency: all weights of a step add up to 1."""
    end = fastsolve.sample(
        lambda x, t: 0.0 * x + 0.7,
        (2, 3),
        solver="fastsolve",
        grid="few",
        schedule=law,
        prediction="x0",
        nfe=calls,
        dtype=torch.float64,
        executor="eager",
    )
    assert end.flatten().tolist() == pytest.approx([0.7] * 6, abs=1e-12)


@pytest.mark.parametrize("law", ["edm", "vp", "vp_cosine", "flow", "vp_scaled_linear"])
def test_its_grid_falls_and_stays_in_the_range(law: str) -> None:
    schedule = schedules.get(law)
    for steps in (1, 2, 4, 7, 10, 20, 100, 1000):
        for grid in (Few(), Few(final_zero=False), Few(c=0.1), Few(c=8.0)):
            levels = grid.levels(schedule, steps)
            assert len(levels) == steps + 1
            assert levels[0] == schedule.t_max
            assert all(a > b for a, b in pairwise(levels))
            assert levels[-2 if grid.final_zero else -1] >= schedule.t_min * (1 - 1e-9)
    with pytest.raises(ValueError, match="c of grid 'few' must be positive"):
        Few(c=0.0)
    with pytest.raises(ValueError, match="c must be positive"):
        fastsolve.make_plan("fastsolve", schedule=law, steps=4, options={"c": -1.0})


def test_a_start_with_data_in_it_is_asked_where_it_is() -> None:
    """The first call is moved only from a start that is noise."""
    for start, moved in ((80.0, True), (3.0, False)):
        plan = fastsolve.make_plan("fastsolve", schedule="edm", grid=(start, 1.0, 0.3, 0.1, 0.0))
        assert (plan.evals[0].t < start) is moved
    fine = fastsolve.make_plan("fastsolve", schedule="edm", grid="uniform_logsnr", steps=40)
    assert fine.evals[0].t == 80.0


def test_numbers_of_the_catalogue_are_those_that_were_judged() -> None:
    assert NUMBERS["few"] == pytest.approx(search_plan.shipped(), rel=1e-12)
    with pytest.raises(ValueError, match="write those there first"):
        few_plan("edm", 4, {**NUMBERS["few"], "c": 0.5})


def test_plans_are_judged_as_the_engine_runs_them() -> None:
    plan = few_plan("vp", 6)
    model, start = LAW.denoiser("vp"), plan.start_std * noise()
    end = fastsolve.sample(
        model, solver="fastsolve", grid="few", nfe=6, x_init=start, dtype=torch.float64, executor="eager"
    )
    torch.testing.assert_close(search.ends(plan, model, start), end, rtol=1e-12, atol=1e-12)


def rows() -> list[Any]:
    return search_report.read("held_out")


def test_the_verdict_follows_from_the_rows() -> None:
    found = rows()
    assert set(search.HELD_OUT) == {(row["problem"], row["schedule"]) for row in found}
    pair = search_report.fixed_pair(search_report.read("validation"))
    assert list(pair) == VERDICT["fixed_pair"]
    for name in search_report.CANDIDATES:
        ratios = search_report.ratios(found, name)
        sums = search_report.over_problems(ratios)
        assert search_report.ships(ratios) is VERDICT[name]["passes"]
        for nfe, (value, error) in sums.items():
            assert VERDICT[name]["best_of_each"][str(nfe)] == pytest.approx([value, error], abs=1e-4)
    assert VERDICT["few"]["ships"] is ("fastsolve" in fastsolve.list_solvers())
    assert search_report.table(search_report.ratios(found, "few")) in (search.FOLDER / "search.md").read_text()


def ratios_of(**values: float) -> dict[tuple[str, str, int], Any]:
    """Log ratios of two problems and the network, all N the same but for those given as n4=..."""
    found = {}
    for nfe in search.CALLS:
        base = values.get(f"n{nfe}", -0.5)
        for problem, value in (("a", base), ("b", base - 0.1), ("digits network", values.get("network", base))):
            found[problem, "edm", nfe] = search_report.Estimate(value, 0.1)
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"n4": -0.01, "n5": 0.0}, True),
        ({"n4": 0.0, "n5": 0.0, "n6": 0.0}, False),
        ({"n4": 0.3}, False),
        ({"network": 0.01}, False),
    ],
    ids=["wins", "five of seven", "four of seven", "much worse once", "worse on the network"],
)
def test_the_rule(values: dict[str, float], expected: bool) -> None:
    assert search_report.ships(ratios_of(**values)) is expected


def committed(problem: str, law: str, calls: int, way: str) -> list[float]:
    return next(
        row["logs"]
        for row in rows()
        if (row["problem"], row["schedule"], row["nfe"], row["way"]) == (problem, law, calls, way)
    )


def test_rows_are_measured_again_and_a_wrong_sampler_is_worse() -> None:
    """One coefficient off by 5 % in every step: above the committed figure by more than two standard errors, and by far."""
    judge = search.panel("mixture 1", "vp")
    for calls in (5, 8, 10):
        plan = few_plan("vp", calls)
        logs = committed("mixture 1", "vp", calls, "few")
        assert judge(plan) == pytest.approx(logs, abs=1e-3)
        apart = np.array(judge(off_by_five_percent(plan, 0))) - logs
        assert apart.mean() > max(0.5, 4.0 * apart.std(ddof=1) / math.sqrt(len(apart)))


def test_a_wrong_candidate_does_not_ship() -> None:
    """Rows of a candidate whose every figure is that of 5 % off coefficients on Gaussian data, where nothing is random."""
    judge = search.panel("gaussian", "flow")
    for calls in search.CALLS:
        right = judge(few_plan("flow", calls))
        assert right == pytest.approx(committed("gaussian", "flow", calls, "few"), abs=1e-4)
        wrong = judge(off_by_five_percent(few_plan("flow", calls), 0))
        assert wrong[0] > right[0] + 0.1
