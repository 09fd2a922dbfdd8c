"""How benchmarks/claims.py judges: duels of figures and of calls; and that what was committed is what the code judges of its rows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import claims, claims_detail, claims_duels, claims_page, metrics, quality
from benchmarks.claims_duels import Duel, Rows
from benchmarks.quality_cases import FULL, Case


def duels(**outcomes: str) -> list[Duel]:
    apart = {"w": -1.0, "d": 0.1, "l": 1.0}
    return [
        Duel(where, "mixture", 8, "", "", apart[letter], 0.2)
        for where, letters in outcomes.items()
        for letter in letters
    ]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (duels(a="www", b="wwd"), "holds here"),
        (duels(a="wwd", b="wwl"), "holds here only for: a (mixture)"),
        (duels(a="wlw", b="dddw"), "does not hold here"),
        (duels(a=19 * "w" + "l", b=19 * "w" + "ll"), "holds here only for: a (mixture)"),
        ([], "does not hold here"),
    ],
)
def test_verdicts(found: list[Duel], verdict: str) -> None:
    judged = claims_duels.judged("name", "claim", "source", found)
    assert judged.verdict == verdict
    assert f"{sum(d.outcome == 'won' for d in found)} won" in claims_page.full(judged)
    assert judged.part in ("", f"{verdict.count('(mixture)')} of {min(len(found), 2)}")


def kept(figures: dict[Case, list[float]], name: str = "energy") -> Rows:
    return {case.key: {"calls": case.nfe, "figures": {name: values}} for case, values in figures.items()}


def test_a_duel_is_fought_with_the_same_seeds_and_what_is_refused_fights_none() -> None:
    ours, *theirs = (Case("law", "perfect", "vp", way, grid, 8) for way, grid in (("a", "x"), ("b", "x"), ("b", "y")))
    rows = dict(kept({ours: [0.5, 0.6, 0.7], theirs[0]: [0.9, 0.9, 0.9], theirs[1]: [0.61, 0.7, 0.8]}))
    found = claims_duels.duel(rows, "here", "mixture, law", 8, [ours], theirs, claims_duels.least)
    assert found is not None
    assert (found.apart, found.error) == (pytest.approx(-0.31 / 3), pytest.approx(0.01 / 3))
    assert found.outcome == "won"
    assert found.rival.startswith("0.70")
    assert found.rival.endswith("b on y")
    rows[ours.key] = {"refused": "too few calls"}
    assert claims_duels.duel(rows, "here", "mixture, law", 8, [ours], theirs) is None
    with pytest.raises(KeyError):  # what was not measured is not passed over
        claims_duels.duel({}, "here", "mixture, law", 8, [ours], theirs)


def test_luck_that_chooses_does_not_judge() -> None:
    """Of many settings that differ by noise alone, the best by its own figures seems better; chosen by the other half, it is not."""
    drawn = np.random.default_rng(0).normal(size=(400, 8, 16))
    by_itself = np.mean([claims_duels.least(list(settings)).mean() for settings in drawn])
    by_halves = np.mean([claims_duels.crossed(list(settings)).mean() for settings in drawn])
    assert by_itself < -0.3
    assert abs(by_halves) < 0.05
    better = [np.full(16, 1.0), np.full(16, 0.5)]
    assert (claims_duels.crossed(better) == 0.5).all()


def test_seeds_have_the_error_of_the_figure() -> None:
    values = [1.0, 1.1, 0.9, 1.3]
    assert claims_duels.mean(claims_duels.per_seed("frechet", values)) == pytest.approx(metrics.jackknife(values))
    assert claims_duels.mean(claims_duels.per_seed("energy", values)) == pytest.approx(metrics.over_seeds(values))
    assert claims_duels.shown("perfect", claims_duels.per_seed("perfect", [0.02])) == pytest.approx((0.02, 0.0))


BUDGETS = (5, 10, 20, 40, 80)


def calls(own: float, noise: float, claimed: float = 3.0) -> Duel:
    """A rival whose figure is 1 / calls, down to 1 / 80, and a side that needs `own` times as many for the same, 16 seeds."""
    figures = {}
    for way, times in (("mine", own), ("theirs", 1.0)):
        for nfe in BUDGETS:
            common = np.random.default_rng(nfe).normal(size=16)
            figures[Case("law", "perfect", "edm", way, "x", nfe)] = list(times / nfe + noise * (common - common.mean()))
    rows = kept(figures)
    sides = ([case for case in figures if case.way == way] for way in ("mine", "theirs"))
    found = claims_duels.fewer(rows, "here", "mixture, law", 100, *sides, claimed)
    assert found is not None
    return found


def test_calls_for_equal_quality() -> None:
    assert calls(0.25, 0.0).ratio.value == pytest.approx(4.0)
    assert (calls(0.25, 0.0).outcome, calls(0.25, 0.0, claimed=5.0).outcome) == ("won", "lost")
    assert calls(1.0, 0.0, claimed=1.0).outcome == "drawn"
    slow = calls(4.0, 0.0, claimed=1.0)
    assert (slow.outcome, slow.claimed) == ("lost", "never up to 80")
    assert slow.ratio.value == pytest.approx(0.5)  # twice its most calls
    early = calls(0.01, 0.0)
    assert early.claimed == "5 or less"


def test_uncertain_figures_make_uncertain_calls() -> None:
    figures = {}
    for k, (way, times) in enumerate((("mine", 0.25), ("theirs", 1.0))):
        for nfe in BUDGETS:
            noise = np.random.default_rng((k, nfe)).normal(size=16)
            figures[Case("law", "perfect", "edm", way, "x", nfe)] = list(times / nfe + 0.05 * noise)
    sides = ([case for case in figures if case.way == way] for way in ("mine", "theirs"))
    found = claims_duels.fewer(kept(figures), "here", "mixture, law", 100, *sides, 3.0)
    assert found is not None
    assert found.error > 0.2
    assert found.outcome == "drawn"


def test_an_exact_figure_is_compared_by_its_logarithm() -> None:
    """1 / n^2 on both sides, half as large: sqrt(2) times fewer calls, found between two budgets by a straight line in logarithms."""
    figures = {
        Case("gaussian", "axes", "edm", way, "x", nfe): [times / nfe**2]
        for way, times in (("mine", 0.5), ("theirs", 1.0))
        for nfe in BUDGETS
    }
    sides = ([case for case in figures if case.way == way] for way in ("mine", "theirs"))
    found = claims_duels.fewer(kept(figures, "perfect"), "here", "Gaussian", 100, *sides, 1.0)
    assert found is not None
    assert found.ratio == pytest.approx((math.sqrt(2.0), 0.0))


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], "holds here"),
        ([5.0, 4.0, 3.0, 2.0, 1.0], "holds here"),
        ([1.0, 2.0, 2.01, 4.0, 5.0], "does not hold here"),
        ([1.0, 2.0, 4.0, 3.0, 5.0], "does not hold here"),
    ],
)
def test_a_knob_is_monotone_beyond_doubt_or_the_claim_fails(levels: list[float], verdict: str) -> None:
    noise = np.random.default_rng(0).normal(size=(5, 16))
    found = {at: level + 0.1 * z for at, level, z in zip(claims_detail.SETTINGS, levels, noise, strict=True)}
    steps = claims_detail.steps(found, "detail", "mixture", 8)
    assert claims_duels.judged("", "", "", steps, claims_duels.all_won).verdict == verdict


@pytest.fixture(scope="module")
def before() -> Rows:
    return claims.quality_rows()


def test_committed_verdicts_are_what_the_code_judges_of_the_committed_rows(before: Rows) -> None:
    found = claims.judge(before)
    every = [verdict for verdicts in found.values() for verdict in verdicts]
    committed: dict[str, Any] = json.loads((claims.FOLDER / "claims.json").read_text())
    again = json.loads(json.dumps(claims_page.facts_of(every)))
    assert committed.keys() == again.keys()
    for name, verdict in again.items():
        for one, other in zip(committed[name].pop("duels"), verdict.pop("duels"), strict=True):
            numbers = {key for key, value in one.items() if isinstance(value, float)}
            assert {**other, **dict.fromkeys(numbers)} == {**one, **dict.fromkeys(numbers)}
            assert [other[key] for key in numbers] == pytest.approx([one[key] for key in numbers], rel=1e-6, abs=1e-12)
        assert committed[name] == verdict
    facts = json.loads((claims.FOLDER / "about.json").read_text())
    assert (claims.DOCS / "claims.md").read_text() == claims_page.page(found, claims.NOTES, facts)
    assert (claims.FOLDER / "claims.md").read_text() == claims_page.listing(every)


@pytest.mark.parametrize(
    ("claim", "case"),
    [
        ("seeds", Case("gaussian", "axes", "edm", "seeds3, official", "karras", 12)),
        ("restart", Case("gaussian", "axes", "edm", "restart, narrow", "rbe", 20)),
        ("tada", Case("gaussian", "axes", "edm", "tada, order 3", "tpoly", 8)),
        ("tada_detail", Case("detail", "Gaussian", "edm", "tada, last_var 16", "karras", 8)),
        ("rbe", Case("path", "mixture", "vp_scaled_linear", "deis", "rbe_pilot", 8)),
        ("rbe", Case("path", "mixture", "vp_scaled_linear", "ddim", "rbe_released", 8)),
        ("deis", Case("path", "mixture", "vp", "deis", "quadratic", 15)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.key,
)
def test_committed_rows_are_what_the_solvers_give(claim: str, case: Case, before: Rows) -> None:
    row = claims.rows_for(claim, before)[case.key]
    measured = quality.row_of(case, FULL)["figures"]
    close = 1e-3 if claim == "rbe" else 1e-5  # calibration is in float32; files have six digits
    for name, values in row["figures"].items():
        assert measured[name] == pytest.approx(values, rel=close), name
