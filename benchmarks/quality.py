"""Quality against model calls, on problems whose truth is known: `python -m benchmarks.quality`.

Some 45 minutes on two idle cores, as estimated from the quick run's rows; `seconds` of a row are those of a core.
Rows are appended to results/quality/<question>.jsonl as they come: a run that is killed goes on where it was, and loses nothing but the
case it was in. `--quick` is a few solvers in three minutes, into results/quality/quick. Solvers whose plans coincide are measured once.
The tables and pictures beside the rows are made at the end, or by `--report` alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from datetime import datetime, timezone
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from tqdm import tqdm

import fastsolve
from benchmarks.measure import RESULTS, commit, processor
from benchmarks.quality_cases import DATA, FULL, QUESTIONS, QUICK, Case, Size, cases, measure, plan_of
from benchmarks.quality_report import report

Row = dict[str, Any]
FIELDS = tuple(field.name for field in fields(Case))
ELSEWHERE = {
    "detail": "benchmarks.claims_detail",
    "joined": "benchmarks.claims_rbe",
}  # who measures what only claims ask


def rows_of(path: Path) -> list[Row]:
    """The rows of a file; the end of a line that a killed run did not finish is cut off."""
    if not path.exists():
        return []
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if kept != whole:
        path.write_bytes(kept)
    return [keyed(json.loads(line)) for line in kept.splitlines()]


def keyed(row: Row) -> Row:
    """With the key of its case, which files leave out."""
    return {"key": Case(**{name: row[name] for name in FIELDS}).key, **row}


def spelled(row: Row) -> str:
    """A line of a file: six digits, of which errors are two or three."""
    figures = (
        {name: [float(f"{v:.6g}") for v in values] for name, values in row["figures"].items()}
        if "figures" in row
        else None
    )
    kept = {name: value for name, value in row.items() if name != "key"} | (
        {} if figures is None else {"figures": figures}
    )
    return json.dumps(kept, allow_nan=False, separators=(",", ":")) + "\n"


def row_of(case: Case, size: Size) -> Row:
    """A case, measured. What a solver refuses, and what diverges, is said; a figure that is not finite is left out. seconds: of a core."""
    if case.question in ELSEWHERE:
        found: Row = import_module(ELSEWHERE[case.question]).row_of(case, size)
        return found
    row: Row = {"key": case.key, **asdict(case), "calls": 0, "draws": 0}
    began = time.process_time()
    try:
        if case.way != DATA:
            plan = plan_of(case)
            row |= {"calls": plan.nfe, "draws": plan.draws}
    except ValueError as error:
        return {**row, "refused": str(error)}
    try:
        figures = measure(case, size)
    except torch.linalg.LinAlgError:
        figures = {}
    finite = {name: values for name, values in figures.items() if all(map(math.isfinite, values))}
    missing = {} if figures and len(finite) == len(figures) else {"diverged": True}
    return {**row, **missing, "figures": finite, "seconds": round(time.process_time() - began, 3)}


def alone() -> None:
    """A worker has one thread: the other core is another's."""
    torch.set_num_threads(1)


def run(wanted: Sequence[Case], size: Size, path: Path, jobs: int) -> None:
    """Measures what the file does not have yet."""
    done = {row["key"] for row in rows_of(path)}
    left = [case for case in wanted if case.key not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(left), desc=path.stem, mininterval=1)
    with path.open("a") as file, bar:
        for row in measured(left, size, jobs):
            file.write(spelled(row))
            file.flush()
            bar.update()


def measured(left: Sequence[Case], size: Size, jobs: int) -> Iterator[Row]:
    """Rows as they come."""
    if jobs == 1:
        yield from (row_of(case, size) for case in left)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), alone) as pool:
        waiting = {pool.submit(row_of, case, size) for case in left}
        for future in as_completed(waiting):
            yield future.result()


def about(command: str, size: Size) -> Row:
    """Where figures come from."""
    return {
        "command": command,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit(),
        "device": processor(),
        "cores": os.cpu_count(),
        "versions": {
            "fastsolve": fastsolve.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit_learn": sklearn.__version__,
        },
        "size": asdict(size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few solvers, two or three budgets")
    parser.add_argument(
        "--report", action="store_true", help="tables and pictures of the rows there are; nothing is measured"
    )
    parser.add_argument("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    folder = RESULTS / "quality" / ("quick" if args.quick else "")
    torch.set_num_threads(1)
    if not args.report:
        begin(folder, about("python -m benchmarks.quality" + " --quick" * args.quick, size))
    for question in args.questions:
        if not args.report:
            run(list(cases(question, size)), size, folder / f"{question}.jsonl", args.jobs)
        report(question, rows_of(folder / f"{question}.jsonl"), folder)


def _groups(facts: Row) -> list[Any]:
    """What rows must agree in: solvers and budgets may be added."""
    return [facts["size"].get(name) for name in ("groups", "many", "images", "paths")]


def begin(folder: Path, facts: Row) -> None:
    """Says where the figures of a folder come from. Raises ValueError where rows of another size are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "about.json"
    if path.exists() and any(folder.glob("*.jsonl")) and _groups(json.loads(path.read_text())) != _groups(facts):
        raise ValueError(
            f"{folder} has rows of another size: remove them, or finish them with the code that began them"
        )
    path.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
