"""The page of verdicts, docs/claims.md, and beside the rows claims.md with every duel and claims.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims_duels import OUTCOMES, Duel, Verdict, counts
from benchmarks.quality_report import spell

RULES = """A claim is a set of duels, each on one problem whose truth is known, with the same noise on both sides.

- *A duel of figures*: a paper's method against a rival with at most as many calls, by the figure of the problem, the least is best. Won or
  lost beyond two standard errors of the difference, over 16 seeds, or drawn; a Gaussian's figure is exact and has no error. Where a side
  has several settings (options, grids), the best is chosen for each half of the seeds by the other half, so that luck in choosing wins
  nothing. DEIS's rivals take the best of four grids on the figure that judges, which leans against it.
- *A duel of calls*: calls of the rival for the best that it reaches up to a limit, over calls of the paper's method for the same. A side
  is there at its first budget within two standard errors of the difference from that best; between two budgets by a straight line in the
  logarithm of the calls. The error is over 200 drawings of the seeds with replacement. A side that never gets there is taken to need
  twice its most calls.
- *A claim holds* where no more than one duel of twenty is lost (as chance would have it) and at least as many are won as drawn; else it
  holds only for the rivals and problems where that is so of their own duels, if there are any. That of TADA's knob holds where every step
  is won.

Figures: of Gaussians the exact 2-Wasserstein distance; of paths the typical distance from their own exact ends; of the mixture the energy
distance; of digits the Frechet distance in a classifier's features. Toys and one small network: a verdict is of what was run here.
"""
ORDER = """The rules and cases of SEEDS, Restart, TADA, its knob, and of RBE's pilot and released rule were written down and
committed before a row of the full run was looked at. Those of DEIS and of RBE's analytic grid were settled after rows of an earlier run
had been seen (duels with each grid and not with the best, paths by their geometric mean): these two are exploratory.
"""
WRITTEN = "Written by `python -m benchmarks.claims`; do not edit."


def cell(duel: Duel) -> str:
    """What a duel found, and who won."""
    if duel.factor:
        return f"{spell(duel.ratio)} {duel.outcome}"
    return f"{spell(duel.difference)} {duel.outcome}"


def groups(duels: Sequence[Duel]) -> dict[tuple[str, str], list[Duel]]:
    found: dict[tuple[str, str], list[Duel]] = {}
    for duel in duels:
        found.setdefault((duel.where, duel.problem), []).append(duel)
    return found


def full(verdict: Verdict) -> str:
    """As Markdown: a line for each place and problem, a column for each budget."""
    budgets = sorted({duel.nfe for duel in verdict.duels})
    short, _, where = verdict.verdict.partition(": ")
    lines = [
        f"## {verdict.name}\n",
        f"{verdict.claim} ({verdict.source}).\n",
        f"**{short}**{': ' * bool(where)}{where}. Of {len(verdict.duels)} duels {verdict.count()}.\n",
        "| | problem | " + " | ".join(f"{nfe} calls" for nfe in budgets) + " | won, drawn, lost |",
        "| --- | --- |" + " --- |" * (len(budgets) + 1),
    ]
    for (part, problem), mine in groups(verdict.duels).items():
        cells = ["; ".join(cell(d) for d in mine if d.nfe == n) or "-" for n in budgets]
        lines.append(f"| {part} | {problem} | " + " | ".join([*cells, ", ".join(map(str, counts(mine)))]) + " |")
    return "\n".join([*lines, "", verdict.note] if verdict.note else lines)


def brief(verdict: Verdict) -> str:
    """A line for each place, a column for each problem: ratios, or how many duels were won, drawn and lost."""
    by = groups(verdict.duels)
    problems = list(dict.fromkeys(problem for _, problem in by))
    lines = [
        f"### {verdict.name}\n",
        f"{verdict.claim} ({verdict.source}). **{in_short(verdict)}**: {verdict.count()}.\n",
        "| | " + " | ".join(problems) + " |",
        "| --- |" + " --- |" * len(problems),
    ]
    for where in dict.fromkeys(where for where, _ in by):
        cells = []
        for problem in problems:
            mine = by.get((where, problem), [])
            ratios = "; ".join(f"{spell(d.ratio)} ({d.outcome})" for d in mine if d.factor)
            cells.append(ratios or (", ".join(map(str, counts(mine))) if mine else "-"))
        lines.append(f"| {where} | " + " | ".join(cells) + " |")
    many = len(verdict.duels) > 1 and not verdict.duels[0].factor
    said = (
        "\nDuels won, drawn, lost."
        if many
        else "\nCalls of the rival over calls of the claimed method, for equal quality."
    )
    return "\n".join([*lines, said, *(["", verdict.note] if verdict.note else [])])


def in_short(verdict: Verdict) -> str:
    """The verdict; where it is of a part, of how large a part."""
    short, _, where = verdict.verdict.partition(": ")
    return f"{short} {verdict.part} comparisons" if where else short


def summary(verdicts: Sequence[Verdict]) -> str:
    """The table of verdicts."""
    lines = ["| claim | verdict | won, drawn, lost | ratios of calls |", "| --- | --- | --- | --- |"]
    for verdict in verdicts:
        ratios = sorted((d.ratio for d in verdict.duels if d.factor), key=lambda ratio: ratio.value)
        middle = ratios[len(ratios) // 2] if ratios else None
        spread = f"{spell(ratios[0])} to {spell(ratios[-1])}, middle {spell(middle)}" if ratios else ""
        won = ", ".join(map(str, counts(verdict.duels)))
        lines.append(f"| **{verdict.name}**: {verdict.claim} | {in_short(verdict)} | {won} | {spread} |")
    return "\n".join(lines)


def page(by_claim: Mapping[str, Sequence[Verdict]], notes: Mapping[str, str], facts: Mapping[str, Any]) -> str:
    """docs/claims.md. by_claim: verdicts by the name of the claim, which is that of its picture, too."""
    every = [verdict for found in by_claim.values() for verdict in found]
    where = "`benchmarks/results/quality/claims/`"
    parts = [
        "# What papers claim, tried here\n",
        f"{WRITTEN} Every duel with its figures and standard errors is in {where} (`claims.md`, `claims.json`), measured on"
        f" {facts['date']} with torch {facts['versions']['torch']} ({facts['device']}); rows of `benchmarks.quality` serve, too.\n",
        summary(every),
        "\nA comparison is with one rival on one problem; for which a claim holds is listed below it.\n",
        "## How claims are judged\n",
        RULES,
        ORDER,
        "## What was found",
    ]
    for name, found in by_claim.items():
        for verdict in found:
            only = verdict.verdict.partition(": ")[2]
            parts += ["", brief(verdict), *([f"\nHolds for: {only}."] if only else [])]
        parts += ["", f"![{name}](pictures/claims_{name}.png)"]
        parts += ["", notes[name]] if name in notes else []
    return "\n".join(parts) + "\n"


def listing(verdicts: Sequence[Verdict]) -> str:
    """claims.md beside the rows."""
    head = f"""# Claims

{WRITTEN} A cell of a duel of figures has their difference (of paths and of Gaussians, of logarithms: -0.1 is 10 % less), negative
where the claimed method is better; 0.0123(4) is 0.0123 with a standard error of 0.0004. A cell of a duel of calls has the rival's calls
over the claimed method's.

{RULES}
{ORDER}"""
    return head + "\n" + "\n\n".join(map(full, verdicts)) + "\n"


def facts_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """claims.json."""
    return {
        v.name: {
            "verdict": v.verdict,
            **dict(zip(OUTCOMES, counts(v.duels), strict=True)),
            "duels": [
                {**vars(d), "outcome": d.outcome, **({"ratio": d.ratio.value} if d.factor else {})} for d in v.duels
            ],
        }
        for v in verdicts
    }
