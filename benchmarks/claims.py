"""What papers claim of their samplers, tried here: `python -m benchmarks.claims`.

Rows that `benchmarks.quality` has serve as they are; what is missing, 13 minutes of a core, is measured as there, into
results/quality/claims/<claim>.jsonl: a run that is killed goes on where it was. `--report` judges the rows there are. How is written in
`benchmarks.claims_duels`, what in `benchmarks.claims_<claim>`; docs/claims.md, claims.md and claims.json beside the rows and a picture
for each claim are made at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks import claims_deis, claims_detail, claims_page, claims_rbe, claims_restart, claims_seeds, claims_tada
from benchmarks.claims_duels import Claim, Rows, Verdict
from benchmarks.measure import RESULTS
from benchmarks.quality import about, begin, rows_of, run
from benchmarks.quality_cases import FULL, QUESTIONS, Case

CLAIMS = {
    "seeds": Claim(claims_seeds.cases, claims_seeds.verdicts, claims_seeds.draw),
    "restart": Claim(claims_restart.cases, claims_restart.verdicts, claims_restart.draw),
    "tada": Claim(claims_tada.cases, claims_tada.verdicts, claims_tada.draw),
    "tada_detail": Claim(claims_detail.cases, claims_detail.verdicts, claims_detail.draw),
    "rbe": Claim(claims_rbe.cases, claims_rbe.verdicts, claims_rbe.draw),
    "deis": Claim(claims_deis.cases, claims_deis.verdicts, claims_deis.draw),
}
FOLDER = RESULTS / "quality" / "claims"
DOCS = Path(__file__).parents[1] / "docs"
AFTER = "Seen afterwards, and no part of a verdict: "
NOTES: Mapping[str, str] = {
    "seeds": AFTER
    + "with a budget of 8 calls SEEDS-3 makes two steps and a last call, too few for its order; the released weight,"
    " which damps, wins there. With a bias on the Gaussian, EDM's churn ends nearer than any SEEDS does. On the mixture and on digits"
    " the ratios are uncertain by a third to a half, which cannot tell 1 from 3.",
    "restart": AFTER
    + "at 20 calls only the narrow interval fits, behind six main steps; the published settings make 39 calls or"
    " more. With a bias on the Gaussian, Heun's least figure is at 19 calls, where its own error happens to cancel the model's: that"
    " duel of calls is lost to an accident. An exact figure has no error, so a difference of 1 % is a loss, too.",
    "rbe": AFTER
    + "the pilot, made for DDIM, loses to the analytic grid with multistep solvers for the reason that the AYS table does:"
    " for 10 calls its last level above clean data is 0.08 or 0.09, that of `rbe` for second order 0.03.",
    "tada_detail": AFTER
    + "both figures of detail fall a little as `last_var` grows, mostly between 0.25 and 4, and not all the way;"
    " what the knob moves is how much of a sample is decided by the second noise.",
}


def quality_rows() -> Rows:
    """The rows of `benchmarks.quality`, by key."""
    return {row["key"]: row for question in QUESTIONS for row in rows_of(RESULTS / "quality" / f"{question}.jsonl")}


def rows_for(name: str, before: Rows) -> Rows:
    """What a claim is judged by: its own rows, and those that `benchmarks.quality` has."""
    return {**before, **{row["key"]: row for row in rows_of(FOLDER / f"{name}.jsonl")}}


def missing(name: str, before: Rows) -> list[Case]:
    """The cases of a claim that `benchmarks.quality` has no row of, each once."""
    return list({case.key: case for case in CLAIMS[name].cases() if case.key not in before}.values())


def judge(before: Rows) -> dict[str, list[Verdict]]:
    return {name: claim.verdicts(rows_for(name, before)) for name, claim in CLAIMS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS), help="what is measured")
    parser.add_argument("--report", action="store_true", help="judge the rows there are; nothing is measured")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = quality_rows()
    if not args.report:
        begin(FOLDER, about("python -m benchmarks.claims", FULL))
        for name in args.claims:
            if wanted := missing(name, before):
                run(wanted, FULL, FOLDER / f"{name}.jsonl", args.jobs)
    found = judge(before)
    every = [verdict for verdicts in found.values() for verdict in verdicts]
    for verdict in every:
        print(f"{verdict.name}: {verdict.verdict} ({verdict.count()})")
    for name, claim in CLAIMS.items():
        claim.draw(rows_for(name, before), DOCS / "pictures" / f"claims_{name}.png")
    (FOLDER / "claims.md").write_text(claims_page.listing(every))
    (FOLDER / "claims.json").write_text(json.dumps(claims_page.facts_of(every), indent=1) + "\n")
    facts = json.loads((FOLDER / "about.json").read_text())
    (DOCS / "claims.md").write_text(claims_page.page(found, NOTES, facts))


if __name__ == "__main__":
    main()
