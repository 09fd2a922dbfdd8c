"""How a claim is judged: what a row says of each seed, sides and how they choose, duels of figures and of calls, verdicts.

A side is a method with settings, options and grids alike. Where both sides choose, the best of each at a budget is chosen for each half of
the seeds by what the other half says, so that nobody is judged by the luck that chose (`crossed`). A duel of figures is won or lost by
more than two standard errors of the difference, over seeds, or it is drawn. A duel of calls compares the calls that two sides need for one
quality, the best that the rival reaches at any budget up to a limit (`fewer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.metrics import Estimate
from benchmarks.quality import Row
from benchmarks.quality_cases import KINDS, Case
from benchmarks.quality_report import spell

Rows = Mapping[str, Row]
Vector = npt.NDArray[np.float64]  # one value of each seed whose mean is the figure; of an exact figure one alone
PROBLEMS = {  # question and problem of a case, and the figure that judges
    "mixture, path": ("path", "mixture", "typical"),
    "digits learnt by heart, path": ("path", "images", "typical"),
    "Gaussian": ("gaussian", "axes", "perfect"),
    "Gaussian, model with a bias": ("gaussian", "axes", "bias"),
    "Gaussian, model wrong early": ("gaussian", "axes", "early"),
    "mixture, law": ("law", "perfect", "energy"),
    "mixture, model with a bias": ("law", "bias", "energy"),
    "mixture, model with ripples": ("law", "ripple", "energy"),
    "mixture, model wrong early": ("law", "early", "energy"),
    "digits learnt by heart, law": ("digits", "exact", "frechet"),
    "trained network": ("digits", "trained", "frechet"),
    "network stopped early": ("digits", "early", "frechet"),
}
OUTCOMES = ("won", "drawn", "lost")
CHANCE = 0.05  # of duels between equals that are lost or won by two standard errors
RESAMPLED = 200  # times that the seeds are drawn anew, for the error of a number of calls
NEVER = 2.0  # a side that never gets there is taken to need so many times its most calls


@dataclass(frozen=True)
class Claim:
    """What the runner needs of one: the cases, in order; verdicts; a picture."""

    cases: Callable[[], Iterator[Case]]
    verdicts: Callable[[Rows], list[Verdict]]
    draw: Callable[[Rows, Path], None]


@dataclass(frozen=True)
class Duel:
    """One comparison. apart: the claimed side's figure minus the rival's (of logarithms where those are kept, and of exact figures), both
    small where they are good; or, where there is a factor, the logarithm of the factor claimed over the ratio of calls that was found."""

    where: str
    problem: str
    nfe: int
    claimed: str
    rival: str
    apart: float
    error: float
    factor: float = 0.0

    @property
    def difference(self) -> Estimate:
        """With its standard error."""
        return Estimate(self.apart, self.error)

    @property
    def ratio(self) -> Estimate:
        """Calls of the rival over calls of the claimed side, where there is a factor."""
        found = self.factor * math.exp(-self.apart)
        return Estimate(found, found * self.error)

    @property
    def outcome(self) -> str:
        """Of OUTCOMES."""
        return "drawn" if abs(self.apart) <= 2.0 * self.error else "won" if self.apart < 0.0 else "lost"


def counts(duels: Sequence[Duel]) -> tuple[int, int, int]:
    """Won, drawn and lost."""
    outcomes = [duel.outcome for duel in duels]
    won, drawn, lost = (outcomes.count(outcome) for outcome in OUTCOMES)
    return won, drawn, lost


@dataclass(frozen=True)
class Verdict:
    """verdict: "holds here", "holds here only for: ...", or "does not hold here". note: Markdown that belongs below it."""

    name: str
    claim: str
    source: str
    verdict: str
    duels: tuple[Duel, ...]
    note: str = ""
    part: str = ""  # of its rivals and problems those for which it holds: "3 of 10"

    def count(self) -> str:
        """Of the outcomes, in words."""
        won, drawn, lost = counts(self.duels)
        return f"{won} won, {drawn} drawn, {lost} lost"


def no_worse(duels: Sequence[Duel]) -> bool:
    """No more lost than by chance, and as many won as drawn."""
    won, drawn, lost = counts(duels)
    return bool(duels) and lost <= CHANCE * len(duels) and won >= drawn


def all_won(duels: Sequence[Duel]) -> bool:
    return bool(duels) and counts(duels)[0] == len(duels)


def judged(
    name: str,
    claim: str,
    source: str,
    duels: Sequence[Duel],
    good: Callable[[Sequence[Duel]], bool] = no_worse,
    note: str = "",
) -> Verdict:
    """Holds where all duels together are good. Only for: so on some problems in some of the places of the duels."""
    if good(duels):
        return Verdict(name, claim, source, "holds here", tuple(duels), note)
    some, every, held = [], 0, 0
    for where in dict.fromkeys(duel.where for duel in duels):
        problems = dict.fromkeys(duel.problem for duel in duels if duel.where == where)
        kept = [p for p in problems if good([duel for duel in duels if (duel.where, duel.problem) == (where, p)])]
        some += [f"{where} ({'; '.join(kept)})"] if kept else []
        every, held = every + len(problems), held + len(kept)
    verdict = f"holds here only for: {', '.join(some)}" if some else "does not hold here"
    return Verdict(name, claim, source, verdict, tuple(duels), note, f"{held} of {every}")


def per_seed(figure: str, values: Sequence[float]) -> Vector:
    """A row's figure as one value of each seed: of a jackknife the pseudo-values, of an exact figure its logarithm alone."""
    match KINDS[figure]:
        case "exact":
            return np.log(np.array(values[:1]))
        case "jackknife":
            rest = np.array(values[1:])
            return values[0] + (len(rest) - 1) * (rest.mean() - rest)
    return np.array(values)


def mean(values: Vector) -> Estimate:
    """The figure (of logarithms where it is kept so) and its standard error."""
    n = len(values)
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0)


def shown(figure: str, values: Vector) -> Estimate:
    """The figure as people know it."""
    value, error = mean(values)
    if KINDS[figure] in ("exact", "logs"):
        return Estimate(math.exp(value), math.exp(value) * error)
    return Estimate(value, error)


def least(candidates: Sequence[Vector]) -> Vector:
    """The best by all seeds."""
    return min(candidates, key=lambda values: values.mean())


def crossed(candidates: Sequence[Vector]) -> Vector:
    """The best by the other half of the seeds, each half."""
    every = np.stack(candidates)
    odd = np.arange(every.shape[1]) % 2 == 1
    if len(odd) == 1:
        return least(candidates)
    found = np.empty(len(odd))
    for own in (odd, ~odd):
        found[own] = every[every[:, ~own].mean(1).argmin(), own]
    return found


def found_of(rows: Rows, problem: str, cases: Sequence[Case]) -> dict[Case, Vector]:
    """What was measured and has the figure. Raises KeyError for what was not measured."""
    figure = PROBLEMS[problem][2]
    every = {case: rows[case.key].get("figures", {}).get(figure) for case in cases}
    return {case: per_seed(figure, values) for case, values in every.items() if values}


def duel(
    rows: Rows,
    where: str,
    problem: str,
    nfe: int,
    claimed: Sequence[Case],
    rivals: Sequence[Case],
    choose: Callable[[Sequence[Vector]], Vector] = crossed,
) -> Duel | None:
    """A duel of figures; None where a side was refused or diverged altogether."""
    sides = [
        found_of(rows, problem, claimed),
        found_of(rows, problem, [case for case in rivals if case not in claimed]),
    ]
    if not all(sides):
        return None
    mine, theirs = (choose(list(side.values())) for side in sides)
    figure = PROBLEMS[problem][2]
    names = []
    for side, values in zip(sides, (mine, theirs), strict=True):
        best = min(side, key=lambda case: side[case].mean())
        names.append(f"{spell(shown(figure, values))}, {best.way} on {best.grid}")
    return Duel(where, problem, nfe, *names, *mean(mine - theirs))


@dataclass(frozen=True)
class Line:
    """A side's best at each budget that it can have: calls [n] and values [n, seeds]."""

    calls: Vector
    values: Vector


def line(rows: Rows, problem: str, cases: Sequence[Case]) -> Line | None:
    """Of settings that make different numbers of calls the most is counted. None where no case has a figure."""
    calls, values = [], []
    for nfe in sorted({case.nfe for case in cases}):
        if mine := found_of(rows, problem, [case for case in cases if case.nfe == nfe]):
            calls.append(float(max(rows[case.key]["calls"] for case in mine)))
            values.append(crossed(list(mine.values())))
    return Line(np.array(calls), np.stack(values)) if calls else None


def calls_for(calls: Vector, values: Vector, target: Vector) -> Vector:
    """The first calls [n] whose values [n, ..., seeds] are as good as the target [..., seeds] within two standard errors of the difference;
    between two budgets by a straight line in the logarithm of the calls; NEVER times the most where none are."""
    gap, n = values - target, values.shape[-1]
    left = gap.mean(-1) - (2.0 * gap.std(-1, ddof=1) / math.sqrt(n) if n > 1 else 0.0)
    there = left <= 0.0
    first = there.argmax(0)
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(left, at[None], 0)[0] for at in (before, first))
    share = np.where(first > 0, high / np.where(first > 0, high - low, 1.0), 0.0)
    reached = calls[before] * (calls[first] / calls[before]) ** share
    return np.where(there.any(0), reached, NEVER * calls[-1])


def _needed(mine: Line, theirs: Line, seeds: npt.NDArray[np.int64]) -> tuple[Vector, Vector]:
    """Calls of the rival for its best, and of the claimed side for the same, for each choice of seeds [..., seeds]."""
    rival, own = theirs.values[:, seeds], mine.values[:, seeds]
    best = rival.mean(-1).argmin(0)
    target = np.take_along_axis(rival, best[None, ..., None], 0)[0]
    return calls_for(theirs.calls, rival, target), calls_for(mine.calls, own, target)


def fewer(
    rows: Rows, where: str, problem: str, limit: int, claimed: Sequence[Case], rivals: Sequence[Case], factor: float
) -> Duel | None:
    """A duel of calls: is the rival's best at up to `limit` calls reached in `factor` times fewer? The error is that of the logarithm of
    the ratio, over drawings of the seeds with replacement; None where a side has no figures."""
    mine = line(rows, problem, claimed)
    theirs = line(rows, problem, [case for case in rivals if case.nfe <= limit])
    if mine is None or theirs is None:
        return None
    seeds = theirs.values.shape[1]
    rival, own = (float(calls[0]) for calls in _needed(mine, theirs, np.arange(seeds)[None]))
    error = 0.0
    if seeds > 1:
        drawn = _needed(mine, theirs, np.random.default_rng(0).integers(seeds, size=(RESAMPLED, seeds)))
        error = float(np.std(np.log(drawn[0] / drawn[1])))
    text = f"never up to {mine.calls[-1]:g}" if own > mine.calls[-1] else f"{own:.3g}"
    if own == mine.calls[0]:
        text += " or less"
    target = spell(shown(PROBLEMS[problem][2], least(list(theirs.values))))
    return Duel(where, problem, limit, text, f"{rival:.3g} for {target}", math.log(factor * own / rival), error, factor)
