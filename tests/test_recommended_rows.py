"""benchmarks/advice.py: what the package recommends is what was measured, by the rule that was written down."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fastsolve import recommend

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import advice, advice_page
from benchmarks.advice import Results, Score, chosen


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(advice.read())


def test_the_package_says_what_was_measured(results: Results) -> None:
    kept = json.loads(advice.FILE.read_text("utf-8"))["rows"]
    assert kept == json.loads(json.dumps(advice.advice(results)))
    assert advice_page.PAGE.read_text("utf-8") == advice_page.page(results, kept)


def test_the_best_of_the_rows_is_among_those_recommended(results: Results) -> None:
    """By hand for one panel: what is advised for the path on VP is not beaten there by any other on both problems."""
    advised = recommend(8, stochastic=False, schedule="vp")
    rows = [row for row in results.rows if row["question"] == "path" and (row["schedule"], row["nfe"]) == ("vp", 8)]
    mean = {
        (row["way"], row["grid"], row["problem"]): float(np.mean(row["figures"]["typical"]))
        for row in rows
        if "figures" in row
    }
    ways = {(way, grid) for way, grid, _ in mean}
    total = {key: mean[(*key, "mixture")] + mean[(*key, "images")] for key in ways}
    first = min(total, key=lambda key: total[key])
    named = {(advised.solver, advised.grid), *advised.as_good}
    assert first in named


def test_the_rule() -> None:
    """b is best at 8 calls by less than two standard errors, a over both budgets; c is far off, and d was not measured at 8."""
    near = Score((np.array([0.00, 0.02, -0.02]),), ("law",))
    best = Score((np.array([-0.01, -0.05, 0.03]),), ("law",))
    far = Score((np.array([1.0, 1.02, 0.98]),), ("law",))
    every = {
        5: {
            ("a", "g"): near,
            ("b", "g"): far,
            ("c", "g"): far,
            ("d", "g"): Score((np.array([-3.0, -3.02, -2.98]),), ("law",)),
        },
        8: {("a", "g"): near, ("b", "g"): best, ("c", "g"): far},
    }
    found = chosen(every)
    assert found[8] == (("a", "g"), [("b", "g"), ("a", "g")])
    assert found[5] == (("d", "g"), [("d", "g")])


def test_scores_and_their_errors() -> None:
    seeds = advice.logs("sliced", [1.0, 2.0, 3.0])
    assert seeds == pytest.approx(np.log([2.0, 2.5, 2.0, 1.5]))
    assert advice.logs("perfect", [0.008]) == pytest.approx([math.log(0.01)])
    assert advice.logs("frechet", [2.0, 1.0, 4.0]) == pytest.approx(np.log([2.0, 1.0, 4.0]))
    assert advice.logs("typical", [-1.0, -3.0]) == pytest.approx([-2.0, -3.0, -1.0])
    names = ("law", "gaussian")
    one, other = Score((seeds, np.array([1.0])), names), Score((np.zeros(4), np.array([0.0])), names)
    apart, error = one.above(other)
    assert apart == pytest.approx((math.log(2.0) + 1.0) / 2.0)
    assert error == pytest.approx(math.sqrt(2.0 * float(np.var(seeds[1:]))) / 2.0)
    twice, nothing = Score((seeds, seeds), ("law", "law")), Score((np.zeros(4), np.zeros(4)), ("law", "law"))
    assert twice.above(nothing)[1] == pytest.approx(2.0 * error)  # the same seeds: the second panel tells nothing new
