"""RBE (Gao et al. 2023, arXiv 2304.11446): steps of equal backward error at 8 to 20 calls, on Stable Diffusion's table.

Three methods go by the name: the analytic reconstruction `rbe`, which knows no model; the pilot `calibrate.rbe_pilot`, a few paths of the
model (320 calls for one sample each and their gradients, once for all samples and not counted below); and the rule that the authors
released, for DDIM alone, `calibrate.rbe_released`. Both are calibrated with a seed that judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from benchmarks.claims_deis import PLACES
from benchmarks.claims_duels import PROBLEMS, Rows, Verdict, duel, judged
from benchmarks.claims_pictures import heat
from benchmarks.quality_cases import Case

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


def cases() -> Iterator[Case]:
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
    return found


def draw(rows: Rows, to: Path) -> None:
    heat(verdicts(rows), to)
