"""The page of results/which.json: `python -m benchmarks.which_page` writes docs/which_solver.md; a test checks that they agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fastsolve import solvers

ROOT = Path(__file__).parents[1]
FILE, PAGE = ROOT / "benchmarks/results/which.json", ROOT / "docs/which_solver.md"
BANDS = {
    "flow": {"5 and 8": (5, 8), "10 and 15": (10, 15), "20 to 50": (20, 30, 50)},
    "law": {"5 and 8": (5, 8), "10 to 20": (10, 15, 20)},
}
NAMES = {
    "edm": "an EDM schedule",
    "vp": "a VP schedule",
    "flow": "flow matching",
    "digits": "the digits network (EDM)",
}
Row = dict[str, Any]


def mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


class Results:
    """Rows by what was asked; solvers whose figures are all the same share a row."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found, self.calls = found, found["calls"]  # the budgets of each question
        self.rows: list[Row] = [row for row in found["rows"] if "error" in row]

    def of(self, question: str, problem: str) -> list[Row]:
        """Rows of a question and a problem; best first, by their ratio to the best."""
        rows = [row for row in self.rows if (row["question"], row["problem"]) == (question, problem)]
        merged: dict[tuple[float, ...], Row] = {}
        for row in rows:
            first = merged.setdefault(tuple(row["error"]), {**row, "names": []})
            first["names"].append(row["solver"])
        best = [min(row["error"][i] for row in rows) for i in range(len(self.calls[question]))]
        for row in merged.values():
            row["ratio"] = [e / b for e, b in zip(row["error"], best, strict=True)]
        return sorted(merged.values(), key=lambda row: mean(row["ratio"]))

    def other(self, question: str, problem: str) -> Row:
        """What was found besides: the reference's doubt, or the spread of exact draws."""
        return next(
            row
            for row in self.found["rows"]
            if (row["question"], row["problem"]) == (question, problem) and "error" not in row
        )


def quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def picks(results: Results, question: str) -> str:
    """The three best of each band of budgets."""
    rows = []
    for problem, what in NAMES.items():
        if problem == "digits" and question == "law":
            continue
        cells = [f"{what}, grid `{results.of(question, problem)[0]['grid']}`"]
        for band in BANDS[question].values():
            score = scored(results.calls[question], band)
            best = sorted(results.of(question, problem), key=score)[:3]
            cells.append(", ".join(f"`{row['names'][0]}` {score(row):.2f}" for row in best))
        rows.append(cells)
    return table(["calls", *BANDS[question]], rows)


def scored(budgets: Sequence[int], band: Sequence[int]) -> Callable[[Row], float]:
    places = [budgets.index(calls) for calls in band]
    return lambda row: mean(row["ratio"][i] for i in places)


def safest(results: Results) -> str:
    """Over all problems and budgets: how far from the best in the mean, and at worst."""
    ratios: dict[str, list[float]] = {}
    for problem in NAMES:
        for row in results.of("flow", problem):
            for name in row["names"]:
                ratios.setdefault(name, []).extend(row["ratio"])
    order = sorted(ratios, key=lambda name: mean(ratios[name]))
    rows = [
        [
            f"`{name}`",
            str(solvers.get(name).order),
            str(solvers.get(name).stages),
            f"{mean(ratios[name]):.2f}",
            f"{max(ratios[name]):.1f}",
        ]
        for name in order
    ]
    return table(["solver", "order", "calls per step", "of the best, mean", "of the best, worst"], rows)


def errors(results: Results, question: str, problem: str) -> str:
    rows = [
        [quoted(row["names"]), *map(number, row["error"]), f"{mean(row['ratio']):.2f}"]
        for row in results.of(question, problem)
    ]
    return table(["solver", *map(str, results.calls[question]), "of the best"], rows)


def page(found: dict[str, Any]) -> str:
    results = Results(found)
    spread = [results.other("law", problem) for problem in NAMES if problem != "digits"]
    least, most = min(row["least"] for row in spread), max(row["most"] for row in spread)
    doubt = max(results.other("flow", problem)["moves"] for problem in NAMES)
    parts = [
        HEAD.format(**found["samples"], doubt=f"{doubt:.0e}"),
        "## In short: the three best\n",
        SHORT,
        picks(results, "flow"),
        "\n" + LAW_SHORT.format(least=f"{least:.2f}", most=f"{most:.2f}"),
        picks(results, "law"),
        "\n## One name for everything\n",
        SAFE,
        safest(results),
        "\n" + LIMITS,
        "## Distance from the exact path, all solvers\n",
        *(f"### {NAMES[problem]}\n\n{errors(results, 'flow', problem)}\n" for problem in NAMES),
        "## Distance from the law of the data, all solvers\n",
        *(f"### {NAMES[p]}\n\n{errors(results, 'law', p)}\n" for p in NAMES if p != "digits"),
    ]
    return "\n".join(parts)


HEAD = """# Which solver should I use

Written by `python -m benchmarks.which_page` from what `python -m benchmarks.which` measured (`benchmarks/results/which.json`); do
not edit. All solvers with their default options, by the number of model calls, which is what a run costs. Two questions:

- How far does a path end from the **exact path** of the same noise? Root mean square over {flow} paths, relative to that of the
  exact ends; solvers without noise only. On six mixtures of Gaussians, whose exact denoisers are known (3 to 200 components in 16
  to 96 dimensions), and on the packaged digits network against its own ODE ({digits} paths). The exact path is that of `dpmpp_3s`
  in 400 steps: halving them moves it by {doubt} at most, relatively.
- How far are the samples from the **law of the data**? Sliced 2-Wasserstein distance of {law} samples, in units of
  that of as many exact draws: 1 is as good as the data. All solvers, on four of the mixtures, one seed.

A figure is the geometric mean of the cases. The grid is one of the best of [Which grid](grids.md) for its schedule, and matters as
much: `edm` takes `karras` unless you say `grid="rbe"`, whose errors are a third of it there.
"""

SHORT = """Exact path. The figure is the error over the least one of that row, so 1.00 was the best at all budgets of the column:
"""

LAW_SHORT = """Law of the data, same figure. Exact draws of that number lie between {least} and {most} times their mean, so what is
that close is level:
"""

SAFE = """Error of the exact path over the best solver's, over the four rows of the first table and all budgets. Solvers of several calls
per step take fewer steps for the same calls.
"""

LIMITS = """## What this does not say

- These are exact denoisers of mixtures of Gaussians and one small network. A trained network errs, too, and the solver that
  follows its ODE most closely need not give the best pictures. Whether noise corrects a network's errors, as is reported of
  SEEDS and Restart, is not tested here: no FID, no picture.
- Guidance was not measured, nor options other than the defaults, `restart` with its intervals (without them it is `heun`),
  starts from data, and budgets beyond those of the tables. Without guidance `euler_cfg_pp` and `dpmpp_2m_cfg_pp` are `euler`
  and `dpmpp_2m`.
- `lcm` is for distilled networks: with an ordinary one it converges to nothing. `tada` and solvers with noise have no exact
  path to compare with.
- A mean over cases hides them: [Orders](orders.md) has how fast errors fall, `which.json` the worst case of each figure.

Try two on your own model: the exact path costs one long run.

```python
import fastsolve, torch

model = fastsolve.models.digits()              # or yours

def ends(solver, nfe):
    return fastsolve.sample(model, (16, 1, 8, 8), solver=solver, nfe=nfe, grid="rbe", seed=1)

exact = ends("dpmpp_3s", 120)
errors = {name: float((ends(name, 15) - exact).square().mean().sqrt()) for name in ("euler", "dpmpp_2m", "ipndm")}
print(min(errors, key=errors.get))             # ipndm
```
"""


def main() -> None:
    PAGE.write_text(page(json.loads(FILE.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
