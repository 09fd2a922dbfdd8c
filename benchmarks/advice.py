"""Which solver for how many calls: `python -m benchmarks.advice` makes of quality's rows what `fastsolve.recommend` reads, and a page.

The rule was written into README.md before the full run was made; here it is in code. Candidates are a solver with its options and a grid.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measure import RESULTS, ROOT
from benchmarks.quality import rows_of
from benchmarks.quality_cases import DATA, KINDS, WAYS, Case, plan_of

Row = Mapping[str, Any]
Candidate = tuple[str, str]  # a way and a grid
FILE = ROOT / "fastsolve/recommended.json"
IRRELEVANT = 0.002  # of the exact distance of Gaussian data: 1 % of their spread
FLOORS = dict.fromkeys(("perfect", "bias", "early"), IRRELEVANT)
SHOWN = 8  # candidates as good as the best that are named

# Panels: question, problem and figure.
LAW = {
    "edm": (
        ("gaussian", "axes", "perfect"),
        ("gaussian", "axes", "bias"),
        *(("law", problem, "sliced") for problem in ("perfect", "bias", "ripple", "early")),
        *(("digits", problem, "frechet") for problem in ("exact", "trained")),
    ),
    "vp": (
        *(("gaussian", "axes", figure) for figure in ("perfect", "bias")),
        *(("law", problem, "sliced") for problem in ("perfect", "bias")),
    ),
    "flow": (("gaussian", "axes", "perfect"), ("law", "perfect", "sliced")),
}
PATH = (("path", "mixture", "typical"), ("path", "images", "typical"))
SCHEDULES = tuple(LAW)
ASKED = (
    "law",
    "noise",
    "path",
)  # the law of all solvers, and of stochastic ones alone; the path of those without noise


def logs(figure: str, values: Sequence[float]) -> np.ndarray:
    """Logarithm of a figure (plus what is of no use), of all seeds and then without each of them in turn."""
    found = np.asarray(values)
    if KINDS[figure] in ("seeds", "logs"):
        found = np.append(found.mean(), (found.sum() - found) / (len(found) - 1))
    return found if KINDS[figure] == "logs" else np.log(found + FLOORS.get(figure, 0.0))


@dataclass(frozen=True)
class Score:
    """Mean over panels of `logs`; parts: one array of each panel, and the question that its seeds belong to."""

    parts: tuple[np.ndarray, ...]
    questions: tuple[str, ...]

    @functools.cached_property
    def value(self) -> float:
        return sum(float(part[0]) for part in self.parts) / len(self.parts)

    def above(self, other: Score) -> tuple[float, float]:
        """This one minus the other, and the standard error: a seed is left out of all panels of a question, which share its noise."""
        apart: dict[str, np.ndarray] = {}
        for name, mine, theirs in zip(self.questions, self.parts, other.parts, strict=True):
            apart[name] = apart.get(name, 0.0) + mine - theirs
        power = sum((len(part) - 2) * float(np.var(part[1:])) for part in apart.values() if len(part) > 1)
        return self.value - other.value, math.sqrt(power) / len(self.parts)


class Results:
    """Rows of the run, and what they say of candidates."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row["way"] != DATA]
        self._figures: dict[tuple[str, str, str, int], dict[Candidate, Mapping[str, Sequence[float]]]] = {}
        for row in self.rows:
            place = (row["question"], row["problem"], row["schedule"], row["nfe"])
            self._figures.setdefault(place, {})[row["way"], row["grid"]] = row.get("figures", {})
        self._scores: dict[tuple[str, str, int], dict[Candidate, Score]] = {}

    def budgets(self, asked: str, schedule: str) -> list[int]:
        """Of calls: the law's are those of the mixture, with as many panels as have them."""
        question = "path" if asked == "path" else "law"
        return sorted({nfe for named, _, law, nfe in self._figures if (named, law) == (question, schedule)})

    def scores(self, asked: str, schedule: str, nfe: int) -> dict[Candidate, Score]:
        """Of all candidates that have every figure of the panels that were measured with so many calls."""
        if (asked, schedule, nfe) not in self._scores:
            self._scores[asked, schedule, nfe] = self._scored(asked, schedule, nfe)
        return self._scores[asked, schedule, nfe]

    def _scored(self, asked: str, schedule: str, nfe: int) -> dict[Candidate, Score]:
        if asked == "noise":
            return {key: score for key, score in self.scores("law", schedule, nfe).items() if noisy(schedule, *key)}
        found: list[dict[Candidate, np.ndarray]] = []
        questions: list[str] = []
        for question, problem, figure in PATH if asked == "path" else LAW[schedule]:
            if (rows := self._figures.get((question, problem, schedule, nfe))) is not None:
                questions.append(question)
                found.append({key: logs(figure, mine[figure]) for key, mine in rows.items() if mine.get(figure)})
        whole = set.intersection(*map(set, found))
        return {key: Score(tuple(panel[key] for panel in found), tuple(questions)) for key in sorted(whole)}


@functools.cache
def plan_facts(schedule: str, way: str, grid: str) -> tuple[bool, int]:
    """Whether a plan of 100 calls draws noise, and its variables."""
    plan = plan_of(Case("", "", schedule, way, grid, 100))
    return plan.draws > 0, max(1, len(plan.start))


@functools.cache
def frugal(schedule: str, way: str, grid: str) -> bool:
    """Whether a single call is enough to sample."""
    try:
        return plan_of(Case("", "", schedule, way, grid, 1)).nfe == 1
    except ValueError:
        return False


def noisy(schedule: str, way: str, grid: str) -> bool:
    return plan_facts(schedule, way, grid)[0]


def single(schedule: str, way: str, grid: str) -> bool:
    """Whether its state is one tensor, as all that edits, inverts or inpaints asks."""
    return plan_facts(schedule, way, grid)[1] == 1


def chosen(every: Mapping[int, Mapping[Candidate, Score]]) -> dict[int, tuple[Candidate, list[Candidate]]]:
    """For each budget the candidate that is advised, and all that are as good as the best; see README.md."""
    regret: dict[Candidate, float] = {}
    for scores in every.values():
        least = min(score.value for score in scores.values())
        for key, score in scores.items():
            regret[key] = regret.get(key, 0.0) + (score.value - least) / len(every)
    whole = {key for key in regret if all(key in scores for scores in every.values())}
    found = {}
    for nfe, scores in every.items():
        best = min(scores, key=lambda key: scores[key].value)
        good = [key for key in scores if within(scores[key], scores[best])]
        pick = min(good, key=lambda key: (key not in whole, regret[key]))
        found[nfe] = (pick, sorted(good, key=lambda key: scores[key].value))
    return found


def within(score: Score, best: Score) -> bool:
    """Whether the difference is at most two standard errors."""
    apart, error = score.above(best)
    return apart <= 2.0 * error


def advice(results: Results) -> list[dict[str, Any]]:
    """The rows of recommended.json."""
    out = []
    for schedule in SCHEDULES:
        for asked in ASKED:
            for variables in (1, 2) if asked == "law" else (1,):
                every = {nfe: results.scores(asked, schedule, nfe) for nfe in results.budgets(asked, schedule)}
                if variables == 1:
                    every = {
                        n: {k: s for k, s in scores.items() if single(schedule, *k)} for n, scores in every.items()
                    }
                every = {nfe: scores for nfe, scores in every.items() if scores}
                least = min(every)  # its advice is also that of fewer calls, down to one
                every[least] = {key: score for key, score in every[least].items() if frugal(schedule, *key)}
                for nfe, (pick, good) in chosen(every).items():
                    out.append(entry(schedule, asked, variables, nfe, pick, good, every[nfe]))
    return out


def entry(
    schedule: str,
    asked: str,
    variables: int,
    nfe: int,
    pick: Candidate,
    good: Sequence[Candidate],
    scores: Mapping[Candidate, Score],
) -> dict[str, Any]:
    """One advice: what is taken, what is as good, and how far off the best other solver is."""
    rest = sorted((key for key in scores if key not in good and key[0] != pick[0]), key=lambda key: scores[key].value)
    following = None
    if rest:
        apart, error = scores[rest[0]].above(min(scores.values(), key=lambda score: score.value))
        following = [*rest[0], round(math.expm1(apart), 4), round(math.exp(apart) * error, 4)]
    way = WAYS[pick[0]]
    return {
        "schedule": schedule,
        "asked": asked,
        "variables": variables,
        "nfe": nfe,
        "solver": way.solver,
        "options": dict(way.options),
        "grid": pick[1],
        "as_good": [list(key) for key in good if key != pick][:SHOWN],
        "ties": len(good) - 1,
        "candidates": len(scores),
        "next": following,
    }


def read() -> list[Row]:
    """All rows of the full run."""
    return [
        row
        for question in ("gaussian", "path", "law", "digits")
        for row in rows_of(RESULTS / "quality" / f"{question}.jsonl")
    ]


def main() -> None:
    from benchmarks import advice_page

    results = Results(read())
    rows = advice(results)
    about = json.loads((RESULTS / "quality" / "about.json").read_text("utf-8"))
    facts = {
        "made_by": "python -m benchmarks.advice",
        "measured_by": about["command"],
        "date": about["date"],
        "rows": rows,
    }
    FILE.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    advice_page.write(results, rows)


if __name__ == "__main__":
    main()
