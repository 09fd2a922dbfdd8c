"""docs/which_solver.md and its picture, from the rows of `benchmarks.quality` and the advice drawn from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from benchmarks.advice import ASKED, SCHEDULES, Candidate, Results, Score
from benchmarks.measure import ROOT

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

PAGE, PICTURE = ROOT / "docs/which_solver.md", ROOT / "docs/pictures/which_solver.png"
NAMES = {"edm": "EDM and other VE schedules", "vp": "VP schedules", "flow": "flow matching"}
WANTED = {
    "law": "samples near the law of the data",
    "noise": "the same, with a solver that draws noise",
    "path": "the exact path of the ODE",
}
LISTED, DRAWN = 16, 7
Entries = Sequence[Mapping[str, Any]]


def write(results: Results, rows: Entries) -> None:
    """Both files."""
    PAGE.write_text(page(results, rows), "utf-8")
    draw(results)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def spelled(row: Mapping[str, Any]) -> str:
    options = "".join(f", {name} {short(value)}" for name, value in row["options"].items())
    return f"`{row['solver']}`{options}, `{row['grid']}`{f' ({ties})' if (ties := row['ties']) else ''}"


def short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def picks(rows: Entries, schedule: str) -> str:
    """The advice of a schedule, budgets down."""
    mine = {(row["asked"], row["nfe"]): row for row in rows if row["schedule"] == schedule and row["variables"] == 1}
    budgets = sorted({nfe for _, nfe in mine})
    cells = [
        [str(nfe), *(spelled(mine[asked, nfe]) if (asked, nfe) in mine else "" for asked in ASKED)] for nfe in budgets
    ]
    return table(["calls", *(WANTED[asked] for asked in ASKED)], cells)


def ranked(every: Mapping[int, Mapping[Candidate, Score]]) -> list[tuple[Candidate, float]]:
    """Candidates that have every budget, and how far they are above the best in the mean; least first, the best grid of each way."""
    least = {nfe: min(score.value for score in scores.values()) for nfe, scores in every.items()}
    whole = set.intersection(*(set(scores) for scores in every.values()))
    above = {key: sum(every[n][key].value - least[n] for n in every) / len(every) for key in whole}
    seen: set[str] = set()
    order = []
    for key in sorted(above, key=lambda key: above[key]):
        if key[0] not in seen:
            seen.add(key[0])
            order.append((key, above[key]))
    return order


def ratios(results: Results, asked: str, schedule: str) -> str:
    """How much larger than the best figures are, in percent, with the standard error of that."""
    every = scores(results, asked, schedule)
    lines = []
    for key, above in ranked(every)[:LISTED]:
        cells = []
        for found in every.values():
            best = min(found, key=lambda key: found[key].value)
            apart, error = found[key].above(found[best])
            cells.append(
                "best" if key == best else f"{percent(math.expm1(apart))} ({percent(math.exp(apart) * error)})"
            )
        lines.append([f"{key[0]}, `{key[1]}`", *cells, percent(math.expm1(above))])
    return table(["solver and grid", *map(str, every), "mean"], lines)


def percent(value: float) -> str:
    return f"{100 * value:.0f}" if value < 10 else f"{100 * value:.2g}"


def scores(results: Results, asked: str, schedule: str) -> dict[int, dict[Candidate, Score]]:
    """Of every budget."""
    return {nfe: results.scores(asked, schedule, nfe) for nfe in results.budgets(asked, schedule)}


def page(results: Results, rows: Entries) -> str:
    parts = [HEAD]
    parts += [f"### {NAMES[schedule]}\n\n{picks(rows, schedule)}\n" for schedule in SCHEDULES]
    parts += [HOW, "## All candidates\n", ALL]
    for schedule in SCHEDULES:
        for asked in ASKED:
            parts.append(f"### {NAMES[schedule]}: {WANTED[asked]}\n\n{ratios(results, asked, schedule)}\n")
    return "\n".join([*parts, LIMITS])


def draw(results: Results) -> None:
    """A panel for each schedule and wish: the best candidates' distance above the best of all, by budget."""
    figure, axes = plt.subplots(len(SCHEDULES), len(ASKED), figsize=(16, 13), layout="constrained", squeeze=False)
    for line, schedule in zip(axes, SCHEDULES, strict=True):
        for axis, asked in zip(line, ASKED, strict=True):
            every = scores(results, asked, schedule)
            for key, _ in ranked(every)[:DRAWN]:
                points = []
                for found in every.values():
                    best = min(found, key=lambda key: found[key].value)
                    points.append(found[key].above(found[best]))
                values, errors = zip(
                    *((math.exp(apart), math.exp(apart) * error) for apart, error in points), strict=True
                )
                axis.errorbar(list(every), values, errors, marker=".", label=f"{key[0]}, {key[1]}")
            axis.set(xscale="log", yscale="log", xlabel="model calls", title=f"{NAMES[schedule]}:\n{WANTED[asked]}")
            axis.set_ylabel("figures over the best's (geometric mean)")
            axis.set_xticks(list(every), list(map(str, every)))
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7)
    figure.savefig(PICTURE, dpi=70)
    plt.close(figure)


HEAD = """# Which solver should I use

Written by `python -m benchmarks.advice` from what `python -m benchmarks.quality` measured; do not edit. What you read here is what
`fastsolve.recommend` answers, and what `sample` takes when you name no solver:

```python
import fastsolve

near_the_law = fastsolve.recommend(8, schedule="vp")                  # of any solver; print it: it says how sure that is
with_noise = fastsolve.recommend(8, schedule="vp", stochastic=True)   # the same, of solvers that draw noise
exact_path = fastsolve.recommend(8, schedule="vp", stochastic=False)  # of the ODE: to invert, to edit, to distil
```

## In short

By the number of model calls, which is what a run costs: the solver, its options where they are not the defaults, and the grid. In brackets
how many other candidates (solver with options, grid) are **as good as the best**, which is within two standard errors: where it says
(20), the choice among those is taste, and the one is named that is best over all budgets.
"""

HOW = """## How sure is that

![The best candidates by budget, with standard errors](pictures/which_solver.png)

- Figures have a standard error, over 16 groups of samples, but for those of Gaussian data, which are exact. Solvers start from the same
  noise, and the error is that of the difference; a group is left out of all panels at once that share its noise.
- As many samples of the data themselves have a sliced distance of 0.107(6): from 20 calls on many solvers are at that floor, and what
  ranks them is Gaussian data, digits and luck. Digits were measured up to 36 calls.
- A candidate's score is the geometric mean of its figures over the problems. **Law of the data**: exact distance for Gaussian data
  (perfect model and biased one), sliced Wasserstein distance of 16 times 128 samples of a mixture (perfect, biased, rippled, wrong early
  only), Frechet distance of 384 digits (learnt by heart, trained network); VP has the first two, flow matching those with a perfect
  model. **Path**: the geometric mean of the distances from the exact ends, of 64 paths to the mixture and 64 to the digits learnt by
  heart.
- The errors say what another seed would change. What another *problem* would change they do not say, and it is more: that is why the
  table below has all candidates, and `benchmarks/results/quality/` a table and a picture for every problem.
- The rule was written down before the figures were seen; what was changed in it afterwards stands in benchmarks/README.md.
- `fastsolve` is this project's own, and was trained on another mixture; but the mixture here was looked at while its form was chosen. The
  digits and the Gaussian data were not, nor what [its own page](search.md) judges it on. Its numbers suit data of root mean square 0.6.
"""

ALL = f"""Percent above the best figure of a column, with its standard error in brackets: the {LISTED} best solvers, each with its best
grid, that have every budget. `fastsolve.recommend(nfe, variables=2)` admits `tada`, whose state is two tensors.
"""

LIMITS = """## What this does not say

- Toys and one small network. Guidance was not measured, nor starts from data, nor budgets beyond those of the tables; no FID of
  a large model.
- A mean over problems hides them. With a network that errs, noise can repair what an exact path keeps: compare `law` in
  `benchmarks/results/quality/law.md` between its panels.
- `lcm` is for distilled networks: with an ordinary one it converges to nothing.

Try two on your own model: the exact path costs one long run.

```python
model = fastsolve.models.digits()              # or yours

def ends(solver, nfe):
    return fastsolve.sample(model, (16, 1, 8, 8), solver=solver, nfe=nfe, grid="rbe", seed=1)

exact = ends("dpmpp_3s", 120)
errors = {name: float((ends(name, 15) - exact).square().mean().sqrt()) for name in ("euler", "dpmpp_2m", "ipndm")}
print(min(errors, key=errors.get))             # ipndm
```
"""
