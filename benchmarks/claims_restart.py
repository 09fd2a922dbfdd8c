"""Restart (Xu et al. 2023, arXiv 2306.14878): quality at equal calls and calls for equal quality, with a wrong model and with a right one.

The paper's rivals: the ODE by EDM's Heun, EDM's Heun with churn (as many settings as Restart has: four), ancestral steps. What it was not
compared with is judged apart, four settings again: the best of four multistep ODE solvers, the best of four newer SDE solvers.
Settings and grids of both sides are chosen on the other half of the seeds. 20 to 100 calls; of digits 20 and 36.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from benchmarks.claims_duels import Duel, Rows, Verdict, duel, fewer, judged
from benchmarks.claims_pictures import curves
from benchmarks.claims_sides import Sides, budgets, every, settings
from benchmarks.quality_cases import Case

WRONG = (
    "Gaussian, model with a bias",
    "Gaussian, model wrong early",
    "mixture, model with a bias",
    "mixture, model with ripples",
    "mixture, model wrong early",
    "trained network",
    "network stopped early",
)
RIGHT = ("Gaussian", "mixture, law", "digits learnt by heart, law")
RESTART = tuple(f"restart, {part}" for part in ("narrow", "wide", "high", "often"))
THEN: Sides = {
    "Heun, the ODE": ("heun",),
    "EDM's churn": tuple(f"heun, churn {churn}" for churn in (5, 10, 20, 40)),
    "ancestral steps": ("euler_ancestral",),
}
SINCE: Sides = {
    "multistep ODE": ("dpmpp_2m", "deis", "unipc", "dpmpp_3m"),
    "newer SDE": ("seeds3", "dpmpp_2m_sde", "sa_solver", "er_sde"),
}
CALLS = (20, 36, 60, 100)
LIMIT = max(CALLS)


def cases() -> Iterator[Case]:
    for problem in (*WRONG, *RIGHT):
        yield from every(({"": RESTART}, THEN, SINCE), problem, budgets(problem))


def _quality(rows: Rows, problems: Sequence[str], rivals: Sides) -> list[Duel]:
    found = [
        duel(rows, rival, problem, nfe, settings(RESTART, problem, nfe), settings(ways, problem, nfe))
        for (rival, ways), problem in product(rivals.items(), problems)
        for nfe in budgets(problem)
        if nfe in CALLS
    ]
    return [d for d in found if d]


def _speed(rows: Rows, problems: Sequence[str], rivals: Sides) -> list[Duel]:
    found = []
    for (rival, theirs), problem in product(rivals.items(), problems):
        sides = [[c for nfe in budgets(problem) for c in settings(ways, problem, nfe)] for ways in (RESTART, theirs)]
        found.append(fewer(rows, rival, problem, LIMIT, *sides, 1.0))
    return [d for d in found if d]


def verdicts(rows: Rows) -> list[Verdict]:
    source, found = "arXiv 2306.14878", []
    for model, problems in (("wrong", WRONG), ("right", RIGHT)):
        who = "Heun's ODE, EDM's churn and ancestral steps"
        found += [
            judged(
                f"Restart, {model} model: quality",
                f"With a {model} model, Restart is better than {who} at equal calls",
                source,
                _quality(rows, problems, THEN),
            ),
            judged(
                f"Restart, {model} model: speed",
                f"With a {model} model, Restart reaches the best of {who} in fewer calls",
                source,
                _speed(rows, problems, THEN),
            ),
            judged(
                f"Restart, {model} model: newer rivals",
                f"With a {model} model, Restart is better than the best of four multistep ODE solvers and of four newer SDE solvers",
                "ours to ask, not the paper's",
                _quality(rows, problems, SINCE),
            ),
        ]
    return found


def draw(rows: Rows, to: Path) -> None:
    sides = {"Restart": RESTART, **THEN, **SINCE}
    curves(rows, {problem: (sides, budgets(problem)) for problem in (*WRONG, *RIGHT)}, to, least_calls=12)
