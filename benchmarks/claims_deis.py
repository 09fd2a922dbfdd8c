"""DEIS (Zhang & Chen 2022, arXiv 2204.13902): tAB-DEIS at 5, 10 and 15 calls."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from benchmarks.claims_duels import PROBLEMS, Rows, Verdict, duel, judged, least
from benchmarks.claims_pictures import heat
from benchmarks.quality_cases import Case

PLACES = (
    "mixture, path",
    "digits learnt by heart, path",
    "mixture, law",
    "mixture, model with a bias",
    "trained network",
)
CALLS = (5, 10, 15)
RIVALS = {"DDIM": "ddim", "EDM's Heun": "heun", "PNDM": "pndm"}
GRIDS = ("quadratic", "uniform", "karras", "rbe")


def _case(way: str, problem: str, nfe: int, grid: str) -> Case:
    question, law, _ = PROBLEMS[problem]
    return Case(question, law, "vp", way, grid, nfe)


def cases() -> Iterator[Case]:
    for nfe, problem in product(CALLS, PLACES):
        yield _case("deis", problem, nfe, "quadratic")
        yield from (_case(way, problem, nfe, grid) for way, grid in product(RIVALS.values(), GRIDS))


def verdicts(rows: Rows) -> list[Verdict]:
    """tAB-DEIS of order 3 on its published grid, t quadratic, against each rival on the best of four grids, by the figure that judges."""
    duels = [
        duel(
            rows,
            rival,
            problem,
            nfe,
            [_case("deis", problem, nfe, "quadratic")],
            [_case(way, problem, nfe, grid) for grid in GRIDS],
            least,
        )
        for (rival, way), problem, nfe in product(RIVALS.items(), PLACES, CALLS)
    ]
    claim = "With 5, 10 and 15 calls, tAB-DEIS on a quadratic grid is better than DDIM, EDM's Heun and PNDM on the best of four grids"
    return [judged("DEIS", claim, "arXiv 2204.13902", [d for d in duels if d])]


def draw(rows: Rows, to: Path) -> None:
    heat(verdicts(rows), to)
