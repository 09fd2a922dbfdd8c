"""How benchmarks/claims.py judges: duels of the same seeds, lost and won beyond two standard errors, and what follows from them."""

from __future__ import annotations

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import claims
from benchmarks.quality_cases import Case


def duels(**outcomes: str) -> list[claims.Duel]:
    apart = {"w": -1.0, "d": 0.1, "l": 1.0}
    return [
        claims.Duel(where, "mixture", 8, "", "", apart[letter], 0.2)
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
def test_verdicts(found: list[claims.Duel], verdict: str) -> None:
    judged = claims.judged("name", "claim", "source", found)
    assert judged.verdict == verdict
    assert f"{sum(d.outcome == 'won' for d in found)} won" in judged.text()


def test_a_duel_is_fought_with_the_rivals_best_grid_and_the_same_seeds() -> None:
    ours, *theirs = (Case("law", "perfect", "vp", way, grid, 8) for way, grid in (("a", "x"), ("b", "x"), ("b", "y")))
    figures = {ours: [0.5, 0.6, 0.7], theirs[0]: [0.9, 0.9, 0.9], theirs[1]: [0.61, 0.7, 0.8]}
    kept = {case.key: {"figures": {"energy": values}} for case, values in figures.items()}
    found = claims.duel(kept, "here", "mixture, law", 8, ours, theirs)
    assert found is not None
    assert (found.apart, found.error) == (pytest.approx(-0.31 / 3), pytest.approx(0.01 / 3))
    assert found.outcome == "won"
    assert found.rival.startswith("b, y 0.70")
    kept[ours.key] = {"refused": "too few calls"}
    assert claims.duel(kept, "here", "mixture, law", 8, ours, theirs) is None
