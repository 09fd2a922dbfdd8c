"""TADA (Chen et al. 2025, arXiv 2506.21757): against UniPC and DPM-Solver++ at equal calls, and the calls for equal quality.

TADA with two variables and order 2 or 3, UniPC of order 3 or 2, DPM-Solver++ 2M or 3M, each on the best of three grids: EDM's, `rbe` and
`tpoly`, even in a power of TADA's own time. Six settings a side, chosen on the other half of the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from benchmarks.claims_duels import Rows, Verdict, duel, fewer, judged
from benchmarks.claims_pictures import curves
from benchmarks.claims_seeds import PLACES
from benchmarks.claims_sides import Sides, budgets, every, settings
from benchmarks.quality_cases import Case

TADA = ("tada", "tada, order 3")
RIVALS: Sides = {"UniPC": ("unipc", "unipc, order 2"), "DPM-Solver++": ("dpmpp_2m", "dpmpp_3m")}
GRIDS = ("karras", "rbe", "tpoly")
MOST = 20
CALLS = (5, 8, 12, 20)


def _at(problem: str) -> list[int]:
    return [nfe for nfe in budgets(problem) if 5 <= nfe <= MOST]


def cases() -> Iterator[Case]:
    for problem in PLACES:
        yield from every(({"": TADA}, RIVALS), problem, _at(problem), GRIDS)


def verdicts(rows: Rows) -> list[Verdict]:
    quality = [
        duel(rows, rival, problem, nfe, settings(TADA, problem, nfe, GRIDS), settings(ways, problem, nfe, GRIDS))
        for (rival, ways), problem, nfe in product(RIVALS.items(), PLACES, CALLS)
    ]
    speed = []
    for (rival, theirs), problem, limit in product(RIVALS.items(), PLACES, CALLS[1:]):
        sides = [[c for nfe in _at(problem) for c in settings(ways, problem, nfe, GRIDS)] for ways in (TADA, theirs)]
        speed.append(fewer(rows, rival, problem, limit, *sides, 1.0))
    source = "arXiv 2506.21757; its code was not available to compare with"
    return [
        judged(
            "TADA, quality",
            "With 5 to 20 calls, TADA is better than UniPC and DPM-Solver++ at equal calls",
            source,
            [d for d in quality if d],
        ),
        judged(
            "TADA, speed",
            "TADA reaches the best of UniPC and of DPM-Solver++ up to 8, 12 or 20 calls in fewer calls (published: up to 2.86 times fewer)",
            source,
            [d for d in speed if d],
        ),
    ]


def draw(rows: Rows, to: Path) -> None:
    sides = {"TADA": TADA, **RIVALS}
    curves(rows, {problem: (sides, _at(problem)) for problem in PLACES}, to, grids=GRIDS)
