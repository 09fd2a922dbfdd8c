"""The end of gpu_check.sh: goals met and missed, read from what the parts wrote; pictures; check.json. Fails where a result was wrong."""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_rows import EXECUTORS, LAUNCH, PER_NFE, WHOLE, Row, by_case, of_copy
from benchmarks.sample_cases import ALONE, GRAPH

STOPPED = (
    124,
    130,
    137,
)  # what `timeout` leaves: a benchmark that was stopped has lost figures, and shown nothing wrong


class Goal(NamedTuple):
    """measured: the worst case; None where nothing was measured."""

    what: str
    at_most: float | None
    at_least: float | None
    measured: float | None
    where: str

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        low = self.at_least is None or self.measured >= self.at_least
        return "met" if low and (self.at_most is None or self.measured <= self.at_most) else "MISSED"


def worst(
    what: str, found: Sequence[tuple[float, str]], at_most: float | None = None, at_least: float | None = None
) -> Goal:
    """The goal with the worst of what was found."""
    if not found:
        return Goal(what, at_most, at_least, None, "")
    return Goal(what, at_most, at_least, *(max(found) if at_least is None else min(found)))


def update_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    """Goals of single launches."""
    empty = next((row["p50"] for row in rows if row["case"] == "empty kernel" and "p50" in row), None)
    cases = by_case(rows, LAUNCH)
    for name in EXECUTORS:
        mine = [(row, providers) for providers in cases.values() if (row := providers.get(name))]
        for draws, least in ((0, 0.9), (1, 0.8)):
            shares = [
                (share, row["case"])
                for row, share in of_copy(rows, 2e8)
                if (row["provider"], row["draws"]) == (name, draws)
            ]
            yield worst(f"{name}: share of copy bandwidth, >= 200 MB, {draws} normals", shares, at_least=least)
        for other, least in (("torch.randn, add(alpha=)", 2.5), ("tl.randn", 1.5)):
            large = [
                (row, p[other])
                for row, p in mine
                if other in p and row["draws"] == 1 and 2**20 <= row["elements"] <= 2**26
            ]
            ratios = [(their["p50"] / row["p50"], row["case"]) for row, their in large]
            yield worst(f"{name}: times faster than {other}, 1 M to 64 M elements", ratios, at_least=least)
        small = [(row["p50"], row["case"]) for row, _ in mine if row["bytes"] <= 2**22]
        yield worst(f"{name}: us per launch in a graph, <= 4 MB", small, at_most=2.0)
        if empty:
            yield worst(f"{name}: the same in empty kernels", [(us / empty, case) for us, case in small], at_most=1.5)
    both = [(p["cuda"]["p50"] / p["fused"]["p50"], case) for case, p in cases.items() if {"cuda", "fused"} <= p.keys()]
    yield worst("cuda: time in that of fused, every size (2 % are noise)", both, at_most=1.02)


def sample_goals(rows: Sequence[Row]) -> Iterator[Goal]:
    """Goals of whole samples."""
    nothing = {
        case: p for case, p in by_case(rows, PER_NFE).items() if GRAPH in p and p[GRAPH]["subject"] == "empty model"
    }
    small = [(p[GRAPH]["p50"], case) for case, p in nothing.items() if p[GRAPH]["traffic_bytes"] <= 2**22]
    yield worst("us beside the model per NFE, one graph, <= 4 MB", small, at_most=2.5)
    host = [(row["p50"], row["case"]) for row in rows if row.get("metric") == "host time of a call"]
    yield worst("us of host time per call, short and long runs", host, at_most=40.0)
    for theirs, least in (
        ("diffusers", 20.0),
        ("levels on the device", 40.0),
        ("k-diffusion, Brownian tree", 40.0),
        ("diffusers, one graph", 4.0),
        ("k-diffusion, one graph", 4.0),
        ("k-diffusion, one graph, torch.randn", 4.0),
        ("torch loop, one graph", 4.0),
    ):
        ratios = [(p[theirs]["p50"] / p[GRAPH]["p50"], case) for case, p in nothing.items() if theirs in p]
        yield worst(f"times less than {theirs}", ratios, at_least=least)
    whole = {case: p for case, p in by_case(rows, WHOLE).items() if GRAPH in p}
    for us, most in ((50, 1.1), (200, 1.03)):
        ratios = [
            (p[GRAPH]["p50"] / p[ALONE]["p50"], case)
            for case, p in whole.items()
            if ALONE in p and p[GRAPH]["subject"] == f"{us} us model"
        ]
        yield worst(f"sample in calls of the model alone, {us} us each", ratios, at_most=most)
    networks = {case: p for case, p in whole.items() if p[GRAPH]["subject"] in ("DiT-S/2", "U-Net")}
    for theirs, least in (
        ("diffusers, reduce-overhead", 1.25),
        ("diffusers, graph per call", 1.1),
        ("torch loop, graph per call", 1.1),
    ):
        mine = "fastsolve, graph, compiled model" if "reduce" in theirs else GRAPH
        ratios = [
            (p[theirs]["p50"] / p[mine]["p50"], case) for case, p in networks.items() if theirs in p and mine in p
        ]
        yield worst(f"networks: times faster than {theirs}", ratios, at_least=least)
    slow = [
        (100.0 * (1.0 - p[GRAPH]["p50"] / p["diffusers"]["p50"]), case)
        for case, p in whole.items()
        if "diffusers" in p and p[GRAPH]["subject"] == "20000 us model"
    ]
    yield worst("% gained on diffusers where a call takes 20 ms: nothing that matters", slow, at_most=2.0)


def read(path: Path) -> dict[str, Any] | None:
    """A part's JSON; None where the part wrote none."""
    return json.loads(path.read_text()) if path.is_file() else None


def counted(path: Path) -> str:
    """How the tests ended, from JUnit's XML."""
    if not path.is_file():
        return "no report"
    try:
        found = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:  # of tests that were stopped while they wrote it
        return f"no whole report: {error}"
    suite = found if found.tag == "testsuite" else found[0]
    return ", ".join(f"{suite.get(key)} {key}" for key in ("tests", "failures", "errors", "skipped"))


def wrongs(parts: Mapping[str, Sequence[int]], results: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """What makes the check fail: parts that did not end well, and results that were wrong. Speed never does."""
    found = [f"{fault}" for result in results.values() if result for fault in result["faults"]]
    for name, (code, _) in parts.items():
        if name in results:
            if results[name] is None:
                found.append(f"{name} left no results (exit code {code})")
            elif code not in (0, 1, *STOPPED):
                found.append(f"{name} ended with exit code {code}")
        elif code:
            found.append(f"{name} ended with exit code {code}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """1 if anything was wrong, else 0."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--part", nargs=3, action="append", default=[], metavar=("NAME", "CODE", "SECONDS"))
    made.add_argument("--said", nargs=2, action="append", default=[], metavar=("NAME", "WORDS"), help="notes of parts")
    args = made.parse_args(argv)
    parts = {name: (int(code), int(seconds)) for name, code, seconds in args.part}
    results = {name: read(args.out / f"{name}.json") for name in ("update", "sample")}
    said = dict(args.said) | {"tests": counted(args.out / "tests.xml")}
    asked = ((update_goals, results["update"]), (sample_goals, results["sample"]))
    goals = [goal for ask, result in asked for goal in ask(result["rows"] if result else [])]
    for name, result in results.items():
        try:
            from benchmarks import gpu_plots

            if result:
                getattr(gpu_plots, f"draw_{name}")(result, args.out / f"{name}.png")
        except Exception as error:  # a picture less is no reason to lose the verdict
            said[f"{name}.png"] = f"not drawn: {type(error).__name__}: {error}"
    found = wrongs(parts, results)
    head = next((result for result in results.values() if result), {})
    facts = {key: head.get(key) for key in ("date", "commit", "dry", "device", "versions", "smi_before")}
    if head.get("dry"):  # its times mean nothing
        goals = [goal._replace(measured=None, where="rehearsed" if goal.where else "") for goal in goals]
    verdicts = [goal._asdict() | {"verdict": goal.verdict} for goal in goals]
    summary = facts | {"parts": parts, "said": said, "wrong": found, "goals": verdicts}
    (args.out / "check.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"\n{'goal':74s} {'target':>9s} {'measured':>9s}  verdict")
    for goal in goals:
        target = f">= {goal.at_least:g}" if goal.at_least is not None else f"<= {goal.at_most:g}"
        value = "" if goal.measured is None else f"{goal.measured:.3g}"
        print(f"{goal.what:74s} {target:>9s} {value:>9s}  {goal.verdict:12s} {goal.where}")
    for name, (code, seconds) in parts.items():
        print(f"{name:10s} exit code {code}, {seconds} s  {said.get(name, '')}")
    print("\n".join(["WRONG:", *found]) if found else "\nnothing was wrong")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
