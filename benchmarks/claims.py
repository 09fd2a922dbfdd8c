"""What papers claim of their samplers, tried here: `python -m benchmarks.claims`, eight minutes on two cores.

A claim is a set of duels: the paper's method against each rival on the same problem with the same noise and at most as many calls. A duel
is won or lost by more than two standard errors of the difference, over seeds, or it is drawn. Where solvers and not grids are
compared, rivals take the best of four grids on the very figures that judge them, which leans against the claim. Rows are kept as those
of `benchmarks.quality` are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import RESULTS
from benchmarks.metrics import Estimate
from benchmarks.quality import about, begin, rows_of, run
from benchmarks.quality_cases import FULL, Case, difference, estimate
from benchmarks.quality_report import spell

Row = Mapping[str, Any]
Rows = Mapping[str, Row]
PROBLEMS = {  # question and problem of a case, and the figure that judges
    "mixture, path": ("path", "mixture", "typical"),
    "digits learnt by heart, path": ("path", "images", "typical"),
    "mixture, law": ("law", "perfect", "energy"),
    "mixture, model with a bias": ("law", "bias", "energy"),
    "trained network": ("digits", "trained", "frechet"),
}


OUTCOMES = ("won", "drawn", "lost")
CHANCE = 0.05  # of duels between equals that are lost or won by two standard errors


@dataclass(frozen=True)
class Duel:
    """One comparison. apart: the figure of the claimed method minus the rival's; both are small where they are good."""

    where: str
    problem: str
    nfe: int
    claimed: str
    rival: str
    apart: float
    error: float

    @property
    def difference(self) -> Estimate:
        """With its standard error."""
        return Estimate(self.apart, self.error)

    @property
    def outcome(self) -> str:
        """Of OUTCOMES."""
        return "drawn" if abs(self.apart) <= 2.0 * self.error else "won" if self.apart < 0.0 else "lost"


@dataclass(frozen=True)
class Verdict:
    """verdict: "holds here", "holds here only for: ...", or "does not hold here"."""

    name: str
    claim: str
    source: str
    verdict: str
    duels: tuple[Duel, ...]

    def text(self) -> str:
        """As Markdown: a line for each place and problem, a column for each budget."""
        budgets = sorted({duel.nfe for duel in self.duels})
        short, _, where = self.verdict.partition(": ")
        lines = [
            f"## {self.name}\n",
            f"{self.claim} ({self.source}).\n",
            f"**{short}**{': ' * bool(where)}{where}. Of {len(self.duels)} duels {self.count()}.\n",
            "| | problem | " + " | ".join(f"{nfe} calls" for nfe in budgets) + " | won, drawn, lost |",
            "| --- | --- |" + " --- |" * (len(budgets) + 1),
        ]
        for part, problem in dict.fromkeys((duel.where, duel.problem) for duel in self.duels):
            mine = {duel.nfe: duel for duel in self.duels if (duel.where, duel.problem) == (part, problem)}
            cells = [f"{spell(mine[n].difference)} {mine[n].outcome}" if n in mine else "-" for n in budgets]
            outcomes = [duel.outcome for duel in mine.values()]
            cells.append(", ".join(str(outcomes.count(outcome)) for outcome in OUTCOMES))
            lines.append(f"| {part} | {problem} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def count(self) -> str:
        """Of the outcomes, in words."""
        outcomes = [duel.outcome for duel in self.duels]
        won, drawn, lost = (outcomes.count(outcome) for outcome in OUTCOMES)
        return f"{won} won, {drawn} drawn, {lost} lost"


def judged(name: str, claim: str, source: str, duels: Sequence[Duel]) -> Verdict:
    """Holds: no more lost than by chance, and as many won as drawn. Only for: so on some problems in some of the places of the duels."""

    def good(part: Sequence[Duel]) -> bool:
        outcomes = [duel.outcome for duel in part]
        few_lost = outcomes.count("lost") <= CHANCE * len(part)
        return bool(part) and few_lost and outcomes.count("won") >= outcomes.count("drawn")

    if good(duels):
        return Verdict(name, claim, source, "holds here", tuple(duels))
    some = []
    for where in dict.fromkeys(duel.where for duel in duels):
        problems = dict.fromkeys(duel.problem for duel in duels if duel.where == where)
        kept = [p for p in problems if good([duel for duel in duels if (duel.where, duel.problem) == (where, p)])]
        some += [f"{where} ({'; '.join(kept)})"] if kept else []
    verdict = f"holds here only for: {', '.join(some)}" if some else "does not hold here"
    return Verdict(name, claim, source, verdict, tuple(duels))


def duel(rows: Rows, where: str, problem: str, nfe: int, claimed: Case, rivals: Sequence[Case]) -> Duel | None:
    """The claimed method against the best of its rivals; None where either was refused."""
    figure = PROBLEMS[problem][2]
    found = {case: rows[case.key].get("figures", {}).get(figure) for case in (claimed, *rivals) if case.key in rows}
    against = {case: values for case, values in found.items() if values and case != claimed}
    if not against or not (own := found.get(claimed)):
        return None
    best = min(against, key=lambda case: estimate(figure, against[case]).value)
    apart = difference(figure, own, against[best])
    rival = f"{best.way}, {best.grid} {spell(estimate(figure, against[best]))}"
    return Duel(where, problem, nfe, spell(estimate(figure, own)), rival, *apart)


RBE_GRIDS = ("rbe", "uniform", "quadratic", "uniform_logsnr", "karras", "ays_sd15")
RBE_WAYS = ("ddim", "dpmpp_2m", "deis")
RBE_CALLS = (8, 10, 12, 16, 20)
TABLE = "vp_scaled_linear"  # the schedule that the AYS table was made for


def _rbe_case(way: str, problem: str, nfe: int, grid: str) -> Case:
    question, law, _ = PROBLEMS[problem]
    return Case(question, law, TABLE, way, grid, nfe)


def rbe_cases() -> Iterator[Case]:
    for nfe, problem, way, grid in product(RBE_CALLS, PROBLEMS, RBE_WAYS, RBE_GRIDS):
        yield _rbe_case(way, problem, nfe, grid)


def rbe(rows: Rows) -> Verdict:
    """The grid `rbe` (the analytic reconstruction; the released rule is `calibrate.rbe_released`) against each other grid, same solver."""
    duels = [
        duel(
            rows,
            f"{way} against {grid}",
            problem,
            nfe,
            _rbe_case(way, problem, nfe, RBE_GRIDS[0]),
            [_rbe_case(way, problem, nfe, grid)],
        )
        for way, grid, problem, nfe in product(RBE_WAYS, RBE_GRIDS[1:], PROBLEMS, RBE_CALLS)
    ]
    claim = "With 8 to 20 calls, steps of equal backward error are better than uniform, quadratic, log-SNR, Karras' and AYS steps"
    return judged("RBE", claim, "arXiv 2304.11446; the grid `rbe` of this project", [d for d in duels if d])


DEIS_CALLS = (5, 10, 15)
DEIS_RIVALS = {"DDIM": "ddim", "EDM's Heun": "heun", "PNDM": "pndm"}
DEIS_GRIDS = ("quadratic", "uniform", "karras", "rbe")


def _deis_case(way: str, problem: str, nfe: int, grid: str) -> Case:
    question, law, _ = PROBLEMS[problem]
    return Case(question, law, "vp", way, grid, nfe)


def deis_cases() -> Iterator[Case]:
    for nfe, problem in product(DEIS_CALLS, PROBLEMS):
        yield _deis_case("deis", problem, nfe, "quadratic")
        yield from (_deis_case(way, problem, nfe, grid) for way, grid in product(DEIS_RIVALS.values(), DEIS_GRIDS))


def deis(rows: Rows) -> Verdict:
    """tAB-DEIS of order 3 on its published grid, t quadratic, against each rival on the best of four grids."""
    duels = [
        duel(
            rows,
            rival,
            problem,
            nfe,
            _deis_case("deis", problem, nfe, "quadratic"),
            [_deis_case(way, problem, nfe, grid) for grid in DEIS_GRIDS],
        )
        for (rival, way), problem, nfe in product(DEIS_RIVALS.items(), PROBLEMS, DEIS_CALLS)
    ]
    claim = "With 5, 10 and 15 calls, tAB-DEIS on a quadratic grid is better than DDIM, EDM's Heun and PNDM"
    return judged("DEIS", claim, "arXiv 2204.13902", [d for d in duels if d])


CLAIMS: dict[str, tuple[Callable[[], Iterator[Case]], Callable[[Rows], Verdict]]] = {
    "rbe": (rbe_cases, rbe),
    "deis": (deis_cases, deis),
}
HEAD = """# Claims

Written by `python -m benchmarks.claims`; do not edit. A duel is between a paper's method and a rival on one problem with the same noise: a
cell has the difference of their figures (of paths, of the logarithm of the distance from their own ends: -0.1 is 10 % less), negative
where the paper's is better, 0.0123(4) being 0.0123 with a standard error of 0.0004; it is won or lost beyond two standard errors,
over seeds. Rivals of DEIS take the best of four grids on the figure that judges, which leans against it. A claim holds where no more than
one duel of twenty is lost (as chance would have it) and at least as many are won as drawn. Toys and one small network: a verdict is
of what was run here, and `about.json` says with what.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument(
        "--without-network", action="store_true", help="leave the trained network out: a quarter of the time"
    )
    parser.add_argument("--report", action="store_true", help="judge the rows there are; nothing is measured")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = RESULTS / "quality" / "claims"
    if not args.report:
        begin(folder, about("python -m benchmarks.claims" + " --without-network" * args.without_network, FULL))
    verdicts = []
    for name in args.claims:
        wanted, judge = CLAIMS[name]
        path = folder / f"{name}.jsonl"
        if not args.report:
            every = [case for case in wanted() if not (args.without_network and case.question == "digits")]
            run(every, FULL, path, args.jobs)
        verdicts.append(judge({row["key"]: row for row in rows_of(path)}))
        print(f"{verdicts[-1].name}: {verdicts[-1].verdict}")
    (folder / "claims.md").write_text(HEAD + "\n" + "\n\n".join(verdict.text() for verdict in verdicts) + "\n")
    facts = {
        v.name: {"verdict": v.verdict, "duels": [{**vars(d), "outcome": d.outcome} for d in v.duels]} for v in verdicts
    }
    (folder / "claims.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
