"""SEEDS (Gonzalez et al. 2023, arXiv 2305.14267): calls for an SDE method's best quality; and SEEDS-3 as released against it as corrected.

"3 to 5 times fewer": for each problem and rival, the calls of the rival for the best that it reaches at any budget up to 100 (digits: 60),
over the calls of SEEDS for the same, both by `claims_duels.fewer`. Won where three times fewer beyond two standard errors; an exact
Gaussian has no error. The rivals of that verdict are those that there were: ancestral steps (DDPM's posterior; SEEDS-1 is that), and
EDM's Heun with four churns. Plain Euler-Maruyama is not in the catalogue; ancestral steps are it with the linear part solved. Rivals
that came after, or at once, are judged apart, by whether SEEDS needs fewer calls at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from benchmarks.claims_duels import Duel, Rows, Verdict, duel, fewer, judged
from benchmarks.claims_pictures import curves
from benchmarks.claims_sides import Sides, budgets, every, settings
from benchmarks.quality_cases import Case

PLACES = (
    "Gaussian",
    "Gaussian, model with a bias",
    "mixture, law",
    "mixture, model with a bias",
    "digits learnt by heart, law",
    "trained network",
)
SEEDS: Sides = {"SEEDS-2": ("seeds2", "seeds2, phi_2"), "SEEDS-3": ("seeds3",)}
THEN: Sides = {
    "ancestral steps": ("euler_ancestral",),
    "EDM's churn": tuple(f"heun, churn {churn}" for churn in (5, 10, 20, 40)),
}
SINCE: Sides = {
    "DPM++ 2M SDE": ("dpmpp_2m_sde", "dpmpp_2m_sde, heun"),
    "SA-Solver": ("sa_solver",),
    "ER-SDE": ("er_sde",),
    "ancestral steps of order 2": ("ancestral",),
}
LIMIT = 100
FEWER = 3.0
OFFICIAL = {  # schedule and grid: where SEEDS-3 is compared with itself as released
    ("edm", "karras"): ("Gaussian", "mixture, law", "digits learnt by heart, law", "trained network"),
    ("vp", "rbe"): ("Gaussian", "mixture, law"),
}
PAIR = ("seeds3", "seeds3, official")


def _official_at(problem: str) -> list[int]:
    return [nfe for nfe in budgets(problem) if nfe in (8, 12, 20, 36, 60, 100)]


def cases() -> Iterator[Case]:
    for problem in PLACES:
        yield from every((SEEDS, THEN), problem, budgets(problem, more=True))
        yield from every((SINCE,), problem, budgets(problem))
    for (schedule, grid), problems in OFFICIAL.items():
        for problem in problems:
            yield from every([{"": PAIR}], problem, _official_at(problem), (grid,), schedule)


def _calls(rows: Rows, rivals: Sides, factor: float) -> list[Duel]:
    more = rivals is THEN
    found = []
    for (name, mine), (rival, theirs), problem in product(SEEDS.items(), rivals.items(), PLACES):
        sides = [
            [case for nfe in budgets(problem, more) for case in settings(ways, problem, nfe)] for ways in (mine, theirs)
        ]
        found.append(fewer(rows, f"{name}, {rival}", problem, LIMIT, *sides, factor))
    return [d for d in found if d]


def verdicts(rows: Rows) -> list[Verdict]:
    corrected = [
        duel(
            rows,
            f"schedule {schedule}",
            problem,
            nfe,
            *(settings([way], problem, nfe, (grid,), schedule) for way in PAIR),
        )
        for (schedule, grid), problems in OFFICIAL.items()
        for problem in problems
        for nfe in _official_at(problem)
    ]
    source = "arXiv 2305.14267"
    then = "ancestral steps and EDM's Heun with churn"
    return [
        judged(
            "SEEDS, three times fewer calls",
            f"SEEDS reaches the best quality of {then} in at least 3 times fewer calls",
            source,
            _calls(rows, THEN, FEWER),
        ),
        judged(
            "SEEDS, fewer calls", f"SEEDS reaches it in fewer calls at all ({then})", source, _calls(rows, THEN, 1.0)
        ),
        judged(
            "SEEDS, newer rivals",
            "SEEDS reaches the best quality of DPM++ 2M SDE, SA-Solver, ER-SDE and second-order ancestral steps in fewer calls",
            "ours to ask, not the paper's",
            _calls(rows, SINCE, 1.0),
        ),
        judged(
            "SEEDS-3, corrected",
            "SEEDS-3 as corrected here is better than with the third stage's weight of the released code, at equal calls",
            "this project's; `docs/errata.md`",
            [d for d in corrected if d],
        ),
    ]


def draw(rows: Rows, to: Path) -> None:
    curves(rows, {problem: ({**SEEDS, **THEN}, budgets(problem, more=True)) for problem in PLACES}, to)
