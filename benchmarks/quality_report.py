"""Tables and pictures of quality: one of each for a question, from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.metrics import Estimate
from benchmarks.quality_cases import DATA, QUESTIONS, USUAL, WAYS, difference, estimate, twins

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

Row = Mapping[str, Any]
SHOWN = {
    "gaussian": ("perfect", "bias", "early"),
    "path": ("typical", "distance"),
    "law": ("energy",),
    "digits": ("frechet", "coverage", "accuracy"),
}
DRAWN = {*SHOWN["gaussian"], "typical", "energy", "frechet"}
MORE_IS_BETTER = {"coverage", "accuracy"}
AROUND_ZERO = {"energy"}  # of either sign where nothing is wrong
BEST = 8  # lines of a picture that have a name


def spell(found: Estimate | None) -> str:
    """0.0123(4): the error in units of the last digit shown; an exact figure has three digits."""
    if found is None:
        return "-"
    value, error = found
    if error == 0.0:
        return f"{value:.3g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f}({round(error * 10**digits)})"


def panels(question: str, rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """(problem, schedule, figure) to the rows of the schedule's usual grid that have it."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        for figure in SHOWN[question]:
            if row["grid"] == USUAL[row["schedule"]] and figure in row.get("figures", {}):
                found.setdefault((row["problem"], row["schedule"], figure), []).append(row)
    return found


def best_of(rows: Sequence[Row], figure: str) -> list[Row]:
    """The best row, and those whose difference from it is within two standard errors; best first.

    Where the truth itself is around zero, all that is within two standard errors of zero.
    """
    sign = -1.0 if figure in MORE_IS_BETTER else 1.0
    found = {id(row): estimate(figure, row["figures"][figure]) for row in rows}
    every = sorted(rows, key=lambda row: sign * found[id(row)].value)

    def as_good(row: Row) -> bool:
        value, error = found[id(row)]
        if figure in AROUND_ZERO and value <= 2.0 * error:
            return True
        apart = difference(figure, row["figures"][figure], every[0]["figures"][figure])
        return sign * apart.value <= 2.0 * apart.error

    return [row for row in every if as_good(row)]


def in_order(rows: Sequence[Row]) -> list[str]:
    """The ways of rows, in the catalogue's order and not in that of their coming."""
    return sorted({row["way"] for row in rows}, key=lambda way: (list(WAYS).index(way) if way in WAYS else -1, way))


def table(rows: Sequence[Row], figure: str) -> str:
    """Ways by budgets; in bold what is within two standard errors of the best of its column."""
    budgets = sorted({row["nfe"] for row in rows})
    cells: dict[tuple[str, int], str] = {}
    for nfe in budgets:
        column = [row for row in rows if row["nfe"] == nfe]
        good = {row["way"] for row in best_of(column, figure)}
        for row in column:
            text, mark = spell(estimate(figure, row["figures"][figure])), "**" * (row["way"] in good)
            fewer = "" if row["calls"] == nfe else f" [{row['calls']}]"
            cells[row["way"], nfe] = f"{mark}{text}{mark}{fewer}"
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "| --- |" + " --- |" * len(budgets)]
    for way in in_order(rows):
        lines.append(f"| {way} | " + " | ".join(cells.get((way, nfe), "-") for nfe in budgets) + " |")
    return "\n".join(lines)


def grid_table(rows: Sequence[Row], figure: str) -> str:
    """The best grid of each way, by budget, where more than the usual one was measured: chosen on these very figures."""
    grids = sorted({row["grid"] for row in rows})
    budgets = sorted({row["nfe"] for row in rows})
    if len(grids) < 2:
        return ""
    lines = ["", "The least over all grids, and which it was (the figures chose it, so it flatters):", ""]
    lines += ["| | " + " | ".join(map(str, budgets)) + " |", "| --- |" + " --- |" * len(budgets)]
    for way in in_order(rows):
        cells = []
        for nfe in budgets:
            own = [row for row in rows if (row["way"], row["nfe"]) == (way, nfe)]
            found = best_of(own, figure)[0] if own else None
            cells.append(
                "-" if found is None else f"{spell(estimate(figure, found['figures'][figure]))} {found['grid']}"
            )
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(question: str, rows: Sequence[Row], folder: Path) -> None:
    """Writes <question>.md and <question>.png beside the rows."""
    shown = panels(question, rows)
    if not shown:
        return
    parts = [
        f"# {QUESTIONS[question]}\n",
        "Written by `python -m benchmarks.quality`; do not edit. `about.json` says with what and on what, `*.jsonl` has every row.",
        "Columns are budgets of model calls, [n] the calls made where fewer; 0.0123(4) is 0.0123 with a standard error of 0.0004,",
        "a figure without one is exact. In bold: within two standard errors (of the difference, by seeds) of the best of its column.",
    ]
    for (problem, schedule, figure), mine in shown.items():
        every = [row for row in rows if (row["problem"], row["schedule"]) == (problem, schedule)]
        measured = [row for row in every if figure in row.get("figures", {}) and row["way"] != DATA]
        parts += [
            f"\n## {problem}, {schedule}, {figure}: grid {USUAL[schedule]}\n",
            table(mine, figure),
            grid_table(measured, figure),
        ]
        for row in every:
            if row["way"] == DATA and figure in row["figures"]:
                found = spell(estimate(figure, row["figures"][figure]))
                parts.append(f"\nAs many samples of the data themselves: {found}.")
    for schedule in dict.fromkeys(row["schedule"] for row in rows):
        same = [f"{name} = {first}" for name, first in twins(schedule).items()]
        parts.append(f"\nThe same plans on {schedule}, measured once: {'; '.join(same) or 'none'}.")
    refused = sorted({f"{row['way']} at {row['nfe']} calls on {row['schedule']}" for row in rows if "refused" in row})
    lost = sorted(
        {f"{row['way']} at {row['nfe']} calls, {row['grid']} on {row['schedule']}" for row in rows if "diverged" in row}
    )
    parts += [f"\nRefused: {'; '.join(refused) or 'none'}.", f"\nDiverged: {'; '.join(lost) or 'none'}."]
    (folder / f"{question}.md").write_text("\n".join(part for part in parts if part) + "\n")
    draw(question, {panel: mine for panel, mine in shown.items() if panel[2] in DRAWN}, folder / f"{question}.png")


def draw(question: str, shown: Mapping[tuple[str, str, str], Sequence[Row]], to: Path) -> None:
    """A panel for each problem; the ways that are best at some budget in colour."""
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(6 * columns, 4.5 * lines), layout="constrained", squeeze=False)
    figure.suptitle(QUESTIONS[question])
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, ((problem, schedule, name), rows) in zip(axes.flat, shown.items(), strict=False):
        wins: dict[str, int] = {}
        for nfe in sorted({row["nfe"] for row in rows}):
            for rank, row in enumerate(best_of([r for r in rows if r["nfe"] == nfe], name)[:3]):
                wins[row["way"]] = wins.get(row["way"], 0) + 3 - rank
        named = sorted(wins, key=lambda way: -wins[way])[:BEST]
        for way in sorted(in_order(rows), key=lambda way: way in named):
            own = sorted((row for row in rows if row["way"] == way), key=lambda row: row["calls"])
            found = [estimate(name, row["figures"][name]) for row in own]
            style = {"lw": 1.6, "label": way, "zorder": 3} if way in named else {"lw": 0.6, "color": "0.8", "zorder": 1}
            axis.errorbar(
                [row["calls"] for row in own], [v for v, _ in found], [e for _, e in found], marker=".", **style
            )
        values, errors = zip(*(estimate(name, row["figures"][name]) for row in rows), strict=True)
        least, middle = min(values), sorted(values)[len(values) // 2]
        axis.set(xscale="log", title=f"{problem}, {schedule}", xlabel="model calls", ylabel=name)
        if name in AROUND_ZERO:
            axis.set_yscale("symlog", linthresh=2.0 * sorted(errors)[len(errors) // 2])
        else:
            axis.set_yscale("log")
            axis.set_ylim(least / 1.5, min(max(values) * 1.5, 300.0 * middle))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(to, dpi=90)
    plt.close(figure)
