"""Pictures of claims: who wins where, and quality against calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.claims_duels import PROBLEMS, Rows, Verdict, crossed, found_of, shown
from benchmarks.claims_sides import GRIDS, Sides, settings
from benchmarks.quality_report import AROUND_ZERO

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

SURE = 4.0  # standard errors that have the full colour
DPI = 80


def heat(verdicts: Sequence[Verdict], to: Path) -> None:
    """A row for each place, a column for each problem and budget: the difference in standard errors, green where the claim wins."""
    tall = [len({d.where for d in v.duels}) for v in verdicts]
    figure, axes = plt.subplots(
        len(verdicts),
        1,
        figsize=(11, 2.2 * len(verdicts) + 0.22 * sum(tall)),
        layout="constrained",
        squeeze=False,
        height_ratios=[count + 2 for count in tall],
    )
    for axis, verdict in zip(axes.flat, verdicts, strict=True):
        places = list(dict.fromkeys(d.where for d in verdict.duels))
        columns = list(
            dict.fromkeys((d.problem, d.nfe) for d in sorted(verdict.duels, key=lambda d: (d.problem, d.nfe)))
        )
        cells = np.full((len(places), len(columns)), np.nan)
        for d in verdict.duels:
            sure = d.apart / d.error if d.error else np.sign(d.apart) * SURE
            cells[places.index(d.where), columns.index((d.problem, d.nfe))] = sure
        image = axis.imshow(cells, cmap="RdYlGn_r", vmin=-SURE, vmax=SURE, aspect="auto")
        axis.set_yticks(range(len(places)), places, fontsize=8)
        axis.set_xticks(range(len(columns)), [str(nfe) for _, nfe in columns], fontsize=7)
        problems = list(dict.fromkeys(problem for problem, _ in columns))
        for problem in problems:
            mine = [i for i, (name, _) in enumerate(columns) if name == problem]
            axis.text(np.mean(mine), -0.6, problem, ha="center", va="bottom", fontsize=8)
            axis.axvline(mine[-1] + 0.5, color="black", lw=0.8)
        axis.set_title(f"{verdict.name}: {verdict.count()}\n", fontsize=10)
        axis.set_xlabel("model calls", fontsize=8)
        figure.colorbar(image, ax=axis, label="difference, standard errors", shrink=0.8)
    figure.savefig(to, dpi=DPI)
    plt.close(figure)


def curves(
    rows: Rows,
    panels: Mapping[str, tuple[Sides, Iterable[int]]],
    to: Path,
    least_calls: int = 0,
    grids: Sequence[str] = GRIDS,
) -> None:
    """A panel for each problem: each side's best setting at each budget, chosen as in duels."""
    columns = min(4, len(panels)) if len(panels) % 3 else 3
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.4 * lines), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (problem, (sides, budgets)) in zip(axes.flat, panels.items(), strict=False):
        name = PROBLEMS[problem][2]
        errors: list[float] = []
        for side, ways in sides.items():
            points = []
            for nfe in budgets:
                found = found_of(rows, problem, settings(ways, problem, nfe, grids)) if nfe >= least_calls else {}
                if found:
                    calls = max(rows[case.key]["calls"] for case in found)
                    points.append((calls, *shown(name, crossed(list(found.values())))))
            if points:
                calls_, values, error = zip(*points, strict=True)
                errors += error
                axis.errorbar(calls_, values, error, marker=".", lw=1.2, label=side)
        axis.set(xscale="log", title=problem, xlabel="model calls", ylabel=name)
        if name in AROUND_ZERO:
            axis.set_yscale("symlog", linthresh=2.0 * sorted(errors)[len(errors) // 2])
        else:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=7)
    figure.savefig(to, dpi=DPI)
    plt.close(figure)
