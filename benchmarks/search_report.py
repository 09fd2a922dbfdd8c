"""The table, the picture and the verdict of `benchmarks.search`, from its rows alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.measure import RESULTS
from benchmarks.metrics import Estimate, over_seeds

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

FOLDER = RESULTS / "search"
CANDIDATES = ("few", "table")
ENOUGH, WORST = 5, 0.1
Row = Mapping[str, Any]
Pair = tuple[str, str]


def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def figures(rows: Sequence[Row]) -> dict[tuple[str, str, int], dict[Pair, list[float]]]:
    """(problem, schedule, N) to (solver, grid) to a log figure for each group."""
    found: dict[tuple[str, str, int], dict[Pair, list[float]]] = {}
    for row in rows:
        place = (row["problem"], row["schedule"], row["nfe"])
        found.setdefault(place, {})[row["way"], row["grid"]] = row["logs"]
    return found


def fixed_pair(rows: Sequence[Row]) -> Pair:
    """The published pair that is best on the training problem, in the mean over N."""
    means: dict[Pair, list[float]] = {}
    for (problem, _, _), pairs in figures(rows).items():
        if problem == "training":
            for pair, logs in pairs.items():
                if pair[0] not in CANDIDATES:
                    means.setdefault(pair, []).append(float(np.mean(logs)))
    full = max(map(len, means.values()))
    return min((float(np.mean(v)), pair) for pair, v in means.items() if len(v) == full)[1]


def ratios(rows: Sequence[Row], candidate: str, pair: Pair | None = None) -> dict[tuple[str, str, int], Estimate]:
    """Log ratio of the candidate's figure to the rival's at each place: the best one there, or a pair. The error is over groups."""
    found = {}
    for place, pairs in figures(rows).items():
        rivals = {p: logs for p, logs in pairs.items() if p[0] not in CANDIDATES}
        rival = rivals[pair] if pair else min(rivals.values(), key=np.mean)
        apart = [a - b for a, b in zip(pairs[candidate, candidate], rival, strict=True)]
        found[place] = over_seeds(apart) if len(apart) > 1 else Estimate(apart[0], 0.0)
    return found


def over_problems(found: Mapping[tuple[str, str, int], Estimate]) -> dict[int, Estimate]:
    """By N: schedules of a problem averaged, then problems, with the standard error over problems."""
    sums: dict[int, Estimate] = {}
    for nfe in sorted({n for *_, n in found}):
        mean: dict[str, list[float]] = {}
        for (problem, _, n), (value, _) in found.items():
            if n == nfe:
                mean.setdefault(problem, []).append(value)
        sums[nfe] = over_seeds([float(np.mean(values)) for values in mean.values()])
    return sums


def ships(found: Mapping[tuple[str, str, int], Estimate]) -> bool:
    """The rule that was written down before, see `benchmarks.search`."""
    sums = over_problems(found)
    network = [value for (problem, _, _), (value, _) in found.items() if problem == "digits network"]
    won = sum(value < -2.0 * error for value, error in sums.values())
    return won >= ENOUGH and max(value for value, _ in sums.values()) <= WORST and float(np.mean(network)) <= 0.0


def spell(found: Estimate) -> str:
    return f"{found.value:+.2f}" + (f" ({found.error:.2f})" if found.error else "")


def table(found: Mapping[tuple[str, str, int], Estimate]) -> str:
    """Panels by N, and the mean."""
    calls = sorted({n for *_, n in found})
    lines = ["| | " + " | ".join(map(str, calls)) + " |", "| --- |" + " --- |" * len(calls)]
    for problem, schedule in dict.fromkeys((p, s) for p, s, _ in found):
        cells = " | ".join(spell(found[problem, schedule, n]) for n in calls)
        lines.append(f"| {problem}, {schedule} | {cells} |")
    lines.append(
        "| **mean over problems** | " + " | ".join(f"**{spell(e)}**" for e in over_problems(found).values()) + " |"
    )
    return "\n".join(lines)


def rivals_table(rows: Sequence[Row]) -> str:
    """Who the best published pairs were."""
    every = figures(rows)
    calls = sorted({n for *_, n in every})
    lines = ["| | " + " | ".join(map(str, calls)) + " |", "| --- |" + " --- |" * len(calls)]
    for problem, schedule in dict.fromkeys((p, s) for p, s, _ in every):
        cells = []
        for n in calls:
            pairs = {p: float(np.mean(v)) for p, v in every[problem, schedule, n].items() if p[0] not in CANDIDATES}
            best = min(pairs, key=lambda p: pairs[p])
            cells.append(f"{best[0]}, {best[1]}: {math.exp(pairs[best]):.2g}")
        lines.append(f"| {problem}, {schedule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report() -> None:
    """Writes search.md, search.png and verdict.json."""
    rows = read("held_out")
    pair = fixed_pair(read("validation"))
    parts = [
        "# A sampler searched for, against the best published ones\n",
        "Written by `python -m benchmarks.search`; do not edit.",
    ]
    parts.append(
        "Log ratio of the figure at equal N, in brackets its standard error; below 0 is better than the rival, -0.69 is half of it."
    )
    verdict: dict[str, Any] = {"rule": {"enough": ENOUGH, "worst": WORST}, "fixed_pair": pair}
    for candidate in CANDIDATES:
        found = ratios(rows, candidate)
        verdict[candidate] = {
            "ships": candidate == "few" and ships(found),
            "passes": ships(found),
            "best_of_each": {n: [round(v, 4) for v in e] for n, e in over_problems(found).items()},
            "fixed": {n: [round(v, 4) for v in e] for n, e in over_problems(ratios(rows, candidate, pair)).items()},
        }
        parts.append(f"\n## {candidate} against the best pair of each panel and N\n\n{table(found)}")
        against = table(ratios(rows, candidate, pair))
        parts.append(f"\n## {candidate} against {pair[0]} with {pair[1]}, best on the training problem\n\n{against}")
    parts.append(f"\n## The best published pairs\n\n{rivals_table(rows)}")
    (FOLDER / "search.md").write_text("\n".join(parts) + "\n")
    (FOLDER / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n")
    draw(rows, pair, FOLDER / "search.png")
    print(json.dumps(verdict, indent=1))


def draw(rows: Sequence[Row], pair: Pair, to: Path) -> None:
    """The figure by N, a panel for each problem on its first schedule."""
    every = figures(rows)
    places = list({p: (p, s) for p, s, _ in reversed(list(every))}.values())[::-1]
    figure, axes = plt.subplots(3, 3, figsize=(11, 9), layout="constrained")
    figure.suptitle("Distance from the exact end against model calls; grey: every published solver and grid")
    for axis, (problem, schedule) in zip(axes.flat, places, strict=False):
        lines: dict[Pair, list[tuple[int, float]]] = {}
        for (p, s, n), pairs in every.items():
            if (p, s) == (problem, schedule):
                for name, logs in pairs.items():
                    lines.setdefault(name, []).append((n, math.exp(float(np.mean(logs)))))
        for name, points in lines.items():
            style: dict[str, Any] = {"color": "0.85", "lw": 0.6, "zorder": 1}
            if name == pair:
                style = {"color": "k", "lw": 1.4, "label": ", ".join(pair), "zorder": 2}
            elif name[0] in CANDIDATES:
                style = {"lw": 1.8, "label": name[0], "zorder": 3}
            axis.plot(*zip(*points, strict=True), **style)
        best = [
            min(v for name, points in lines.items() if name[0] not in CANDIDATES for n, v in points if n == m)
            for m in range(4, 11)
        ]
        axis.plot(range(4, 11), best, "k:", lw=1.2, label="the best published at each N", zorder=2)
        axis.set(yscale="log", title=f"{problem}, {schedule}", xlabel="model calls")
        axis.set_ylim(min(min(v for _, v in points) for points in lines.values()) / 1.3, 8 * max(best))
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=7)
    figure.savefig(to, dpi=80)
    plt.close(figure)
