"""TADA's knob: the variance of its last variable's noise, said to set the level of detail. What it changes, in numbers.

Two variables, order 2, EDM's grid, 8 and 20 calls; `last_var` 0.25, 1, 4, 16 and 64. On a Gaussian, exactly: the standard deviation of the
four narrowest of 16 axes over the true one (detail). With the trained network: the mean square of differences of neighbouring pixels
(detail); and the variance among samples of one class that start from the same noise that the model sees, the other variable's noise new
each time (diversity). The claim holds where a figure rises, or falls, from each setting to the next by more than two standard errors; the
direction is that of the whole range. Beside them, not judged: Frechet distance and coverage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

import fastsolve
from benchmarks import metrics
from benchmarks.claims_duels import Duel, Rows, Verdict, all_won, judged, mean, per_seed
from benchmarks.quality import Row
from benchmarks.quality_cases import AXES, Case, Size, _truth
from benchmarks.quality_report import spell
from fastsolve import grids, models, schedules
from fastsolve.solvers import tada_basis

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

SETTINGS = (0.25, 1.0, 4.0, 16.0, 64.0)
CALLS = (8, 20)
NARROW = 4
MEASURES = {  # figure to problem and what it is
    "narrow axes": ("Gaussian", "detail, log of standard deviation over the true one"),
    "differences of pixels": ("trained network", "detail, mean square"),
    "variance given the start": ("trained network", "diversity"),
}
BESIDE = ("frechet", "coverage")


WAYS = {f"tada, last_var {value:g}": value for value in SETTINGS}


def _case(problem: str, last_var: float, nfe: int) -> Case:
    return Case("detail", problem, "edm", f"tada, last_var {last_var:g}", "karras", nfe)


def cases() -> Iterator[Case]:
    yield from (_case(*asked) for asked in product(("Gaussian", "trained network"), SETTINGS, CALLS))


def _drawn(case: Case, model: fastsolve.Denoiser, labels: Tensor, noises: Tensor) -> Tensor:
    """Samples from [2, B, *shape] noises: what the model sees first, and what is orthogonal to it."""
    law = schedules.get("edm")
    first = grids.nodes(grids.get("karras", law), law, 3)[0]
    tau = tada_basis.time_of(2, WAYS[case.way], first.sigma / first.alpha)
    whitened = tada_basis.frame(tada_basis.direction(2, WAYS[case.way], tau)).T  # rows of the frame: seen, unseen
    start = torch.from_numpy(tada_basis.propagator(2, tau) * tada_basis.noise_scales(2, WAYS[case.way]) @ whitened)
    return fastsolve.sample(
        model,
        tuple(noises.shape[1:]),
        solver="tada",
        grid="karras",
        nfe=case.nfe,
        options={"last_var": WAYS[case.way]},
        x_init=torch.einsum("ij,jb...->ib...", start, noises).float(),
        model_kwargs={"class_labels": labels},
    )


def _network(case: Case, size: Size) -> dict[str, list[float]]:
    model, real = models.digits(), _truth()
    batch, generator = size.groups * size.images, torch.Generator().manual_seed(5)
    assert model.shape is not None
    noises = torch.randn(2, batch, *model.shape, generator=generator, dtype=torch.float64)
    parts = _drawn(case, model, torch.arange(batch) % 10, noises).split(size.images)
    features = real.reader.features(torch.cat(parts)).split(size.images)
    noises[0] = noises[0, :: size.images].repeat_interleave(size.images, 0)  # a start for each group, and a class
    again = _drawn(case, model, torch.arange(size.groups).repeat_interleave(size.images) % 10, noises)
    return {
        "differences of pixels": [
            float(x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()) for x in parts
        ],
        "variance given the start": [float(x.var(0).mean()) for x in again.split(size.images)],
        "frechet": metrics.left_out(features, lambda x: metrics.frechet(x, real.features)),
        "coverage": metrics.left_out(features, real.coverage),
    }


def _gaussian(case: Case) -> dict[str, list[float]]:
    options = {"last_var": WAYS[case.way]}
    plan = fastsolve.make_plan("tada", schedule="edm", grid="karras", nfe=case.nfe, options=options)
    std = metrics.moments(plan, AXES.denoiser("edm"))[1]
    return {"narrow axes": [float((std / AXES.std)[:NARROW].log().mean())]}


def row_of(case: Case, size: Size) -> Row:
    began = time.process_time()
    figures = _gaussian(case) if case.problem == "Gaussian" else _network(case, size)
    return {
        "key": case.key,
        **asdict(case),
        "calls": case.nfe,
        "figures": figures,
        "seconds": round(time.process_time() - began, 3),
    }


def _values(rows: Rows, figure: str, problem: str, last_var: float, nfe: int) -> np.ndarray:
    values: Sequence[float] = rows[_case(problem, last_var, nfe).key]["figures"][figure]
    return per_seed(figure, values) if figure in BESIDE else np.array(values)


def steps(found: Mapping[float, np.ndarray], figure: str, problem: str, nfe: int) -> list[Duel]:
    """From each setting to the next, in the direction of the whole range: won where it goes on in that direction."""
    sign = float(np.sign(mean(found[SETTINGS[-1]] - found[SETTINGS[0]]).value))
    duels = []
    for low, high in pairwise(SETTINGS):
        value, error = mean(found[high] - found[low])
        words = [f"last_var {at:g}: {spell(mean(found[at]))}" for at in (high, low)]
        duels.append(Duel(figure, problem, nfe, *words, -sign * value, error))
    return duels


def _table(rows: Rows) -> str:
    lines = ["| figure | calls | " + " | ".join(f"{at:g}" for at in SETTINGS) + " |", "| --- |" + " --- |" * 6]
    for figure in (*MEASURES, *BESIDE):
        problem, what = MEASURES.get(figure, ("trained network", "not judged"))
        for nfe in CALLS:
            cells = [spell(mean(_values(rows, figure, problem, at, nfe))) for at in SETTINGS]
            lines.append(f"| {figure} ({problem}; {what}) | {nfe} | " + " | ".join(cells) + " |")
    return "By `last_var`:\n\n" + "\n".join(lines)


def verdicts(rows: Rows) -> list[Verdict]:
    duels = []
    for (figure, (problem, _)), nfe in product(MEASURES.items(), CALLS):
        duels += steps({at: _values(rows, figure, problem, at, nfe) for at in SETTINGS}, figure, problem, nfe)
    claim = "The variance of the last variable's noise sets the level of detail: figures of detail and of diversity are monotone in it"
    source = "arXiv 2506.21757; its code was not available to compare with"
    return [judged("TADA, detail", claim, source, duels, all_won, _table(rows))]


def draw(rows: Rows, to: Path) -> None:
    every = (*MEASURES, *BESIDE)
    figure, axes = plt.subplots(1, len(every), figsize=(3.2 * len(every), 3.2), layout="constrained")
    for axis, name in zip(axes, every, strict=True):
        problem = MEASURES.get(name, ("trained network",))[0]
        for nfe in CALLS:
            found = [mean(_values(rows, name, problem, at, nfe)) for at in SETTINGS]
            axis.errorbar(SETTINGS, [v for v, _ in found], [e for _, e in found], marker=".", label=f"{nfe} calls")
        axis.set(xscale="log", title=f"{name}\n{problem}", xlabel="last_var")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(to, dpi=80)
    plt.close(figure)
