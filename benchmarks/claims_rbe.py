"""RBE (Gao et al. 2023, arXiv 2304.11446): steps of equal backward error at 8 to 20 calls, on Stable Diffusion's table.

Three methods go by the name: the analytic reconstruction `rbe`, which knows no model; the pilot `calibrate.rbe_pilot`, a few paths of the
model (320 calls for one sample each and their gradients, once for all samples and not counted below); and the rule that the authors
released, for DDIM alone, `calibrate.rbe_released`. Both are calibrated with a seed that judges nothing.

Explored besides, and not judged: where the AYS table loses on exact paths, by walking its levels above sigma / alpha = 1 and those of `rbe`
below, and the other way round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import torch

import fastsolve
from benchmarks.claims_deis import PLACES
from benchmarks.claims_duels import PROBLEMS, Rows, Verdict, duel, judged
from benchmarks.claims_pictures import heat
from benchmarks.quality import Row
from benchmarks.quality_cases import Case, Size, denoiser_of, estimate, path_figures, plan_of
from benchmarks.quality_report import spell
from fastsolve import schedules

CLAIMED = {
    "rbe": ("RBE, analytic", ("ddim", "dpmpp_2m", "deis"), "the grid `rbe` of this project"),
    "rbe_pilot": ("RBE, pilot", ("ddim", "dpmpp_2m", "deis"), "`calibrate.rbe_pilot` of this project"),
    "rbe_released": ("RBE, released rule", ("ddim",), "its released code, as `calibrate.rbe_released`"),
}
RIVALS = ("uniform", "quadratic", "uniform_logsnr", "karras", "ays_sd15")
CALLS = (8, 10, 12, 16, 20)
TABLE = "vp_scaled_linear"  # the schedule that the AYS table was made for


def _case(way: str, problem: str, nfe: int, grid: str) -> Case:
    question, law, _ = PROBLEMS[problem]
    return Case(question, law, TABLE, way, grid, nfe)


PAIRS = {f"{above} above {below}": (above, below) for above, below in product(("ays_sd15", "rbe"), repeat=2)}
JOINED = [Case("joined", *asked, 10) for asked in product(("mixture", "images"), (TABLE,), CLAIMED["rbe"][1], PAIRS)]


def row_of(case: Case, size: Size) -> Row:
    """Paths whose levels above sigma / alpha = 1 are of one grid and those below of another."""
    law, began, levels = schedules.get(TABLE), time.process_time(), []
    for grid, high in zip(PAIRS[case.grid], (True, False), strict=True):
        plan = plan_of(Case("path", case.problem, TABLE, case.way, grid, case.nfe))
        levels += [t for t, *_ in plan.levels if (law.node(t).sigma > law.node(t).alpha) == high]
    model = denoiser_of("path", case.problem, TABLE)
    assert model.shape is not None
    sampler = fastsolve.Sampler(
        model,
        (size.groups * size.paths, *model.shape),
        solver=case.way,
        grid=levels,
        dtype=torch.float64,
        executor="eager",
    )
    figures = path_figures(sampler, case.problem, TABLE, size)
    seconds = round(time.process_time() - began, 3)
    return {"key": case.key, **asdict(case), "calls": sampler.plan.nfe, "figures": figures, "seconds": seconds}


def _note(rows: Rows) -> str:
    """Where the AYS table loses."""
    last = {g: plan_of(Case("", "", TABLE, "dpmpp_2m", g, 10)).levels[-2][0] for g in ("ays_sd15", "rbe")}
    nodes = {grid: schedules.get(TABLE).node(t) for grid, t in last.items()}
    ends = {grid: f"{node.sigma / node.alpha:.2g}" for grid, node in nodes.items()}
    lines = [
        "Explored, not judged: typical distance from the exact ends with 10 calls, when levels above sigma / alpha = 1 are of one grid"
        " and those below of another [calls that makes]. What the AYS table loses on paths it loses below 1, where its last level above"
        f" clean data is {ends['ays_sd15']}, that of `rbe` for `dpmpp_2m` {ends['rbe']}.",
        "",
        "| | " + " | ".join(f"{p}, {w}" for p, w in dict.fromkeys((j.problem, j.way) for j in JOINED)) + " |",
        "| --- |" + " --- |" * 6,
    ]
    for pair in PAIRS:
        mine = [rows[case.key] for case in JOINED if case.grid == pair]
        cells = [f"{spell(estimate('typical', row['figures']['typical']))} [{row['calls']}]" for row in mine]
        lines.append(f"| {pair} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cases() -> Iterator[Case]:
    yield from JOINED
    for nfe, problem, way in product(CALLS, PLACES, CLAIMED["rbe"][1]):
        grids = [grid for grid, (_, ways, _) in CLAIMED.items() if way in ways]
        yield from (_case(way, problem, nfe, grid) for grid in (*grids, *RIVALS))


def verdicts(rows: Rows) -> list[Verdict]:
    """Each grid against each rival grid, same solver."""
    found = []
    for grid, (name, ways, source) in CLAIMED.items():
        duels = [
            duel(
                rows,
                f"{way} against {rival}",
                problem,
                nfe,
                [_case(way, problem, nfe, grid)],
                [_case(way, problem, nfe, rival)],
            )
            for way, rival, problem, nfe in product(ways, RIVALS, PLACES, CALLS)
        ]
        claim = "With 8 to 20 calls, steps of equal backward error are better than uniform, quadratic, log-SNR, Karras' and AYS steps"
        found.append(judged(name, claim, f"arXiv 2304.11446; {source}", [d for d in duels if d]))
    found[0] = replace(found[0], note=_note(rows))
    return found


def draw(rows: Rows, to: Path) -> None:
    heat(verdicts(rows), to)
