"""Sides of the claims on EDM, whose rows are mostly those of `benchmarks.quality`: their settings at a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from benchmarks.claims_duels import PROBLEMS
from benchmarks.quality_cases import FULL, USUAL, Case, twins

Sides = dict[str, tuple[str, ...]]  # a name, and the ways that are its settings
GRIDS = ("karras", "rbe")  # of all on EDM
MORE = 60  # calls of digits, which `benchmarks.quality` does not spend


def budgets(problem: str, more: bool = False) -> tuple[int, ...]:
    """What was measured of a problem; more: with MORE calls of digits."""
    asked = {"gaussian": FULL.exact, "law": FULL.budgets, "digits": FULL.images_at}[PROBLEMS[problem][0]]
    return (*asked, MORE) if more and asked == FULL.images_at else asked


def settings(
    ways: Iterable[str],
    problem: str,
    nfe: int,
    grids: Sequence[str] = GRIDS,
    schedule: str = "edm",
) -> list[Case]:
    """The cases of a side at a budget; a way under the name that its plans were measured by. A network stopped early, and digits in more
    calls than elsewhere, have the usual grid alone."""
    question, law, _ = PROBLEMS[problem]
    usual = (question, law) == ("digits", "early") or (question == "digits" and nfe > max(FULL.images_at))
    same = twins(schedule)
    known = dict.fromkeys(same.get(way, way) for way in ways)
    return [
        Case(question, law, schedule, way, grid, nfe)
        for way, grid in product(known, (USUAL[schedule],) if usual else grids)
    ]


def every(
    sides: Iterable[Sides], problem: str, at: Iterable[int], grids: Sequence[str] = GRIDS, schedule: str = "edm"
) -> Iterator[Case]:
    """All cases of several sides."""
    ways = dict.fromkeys(way for some in sides for mine in some.values() for way in mine)
    for nfe in at:
        yield from settings(ways, problem, nfe, grids, schedule)
