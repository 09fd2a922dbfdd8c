"""The verdict of benchmarks/gpu_check.sh: which goals are met, and what makes the check fail."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import gpu_goals, sample_cases


def launch(case: str, provider: str, us: float, **facts: object) -> dict[str, object]:
    usual = {"bytes": 2**28, "draws": 0, "elements": 2**24, "pattern": "p"}
    return {"case": case, "provider": provider, "metric": "time per launch", "p50": us, **usual, **facts}


def verdicts(goals: list[gpu_goals.Goal]) -> dict[str, tuple[str, float | None]]:
    return {goal.what: (goal.verdict, goal.measured) for goal in goals if goal.measured is not None}


def test_goals_of_launches() -> None:
    rows = [
        launch("large", "fused", 100.0),
        launch("large", "cuda", 120.0),
        launch("large", "copy", 96.0),
        launch("large", "negation", 92.0),  # the better of two copies counts
        launch("noise", "fused", 100.0, draws=1),
        launch("noise", "copy", 70.0, draws=1),
        launch("noise", "torch.randn, add(alpha=)", 260.0, draws=1),
        launch("small", "fused", 1.5, bytes=2**20),
        launch("smaller", "fused", 2.5, bytes=2**12),
        {"case": "empty kernel", "provider": "tl", "p50": 1.0},
    ]
    found = verdicts(list(gpu_goals.update_goals(rows)))
    assert found == {
        "fused: share of copy bandwidth, >= 200 MB, 0 normals": ("met", 0.92),
        "fused: share of copy bandwidth, >= 200 MB, 1 normals": ("MISSED", 0.7),
        "fused: times faster than torch.randn, add(alpha=), 1 M to 64 M elements": ("met", 2.6),
        "fused: us per launch in a graph, <= 4 MB": ("MISSED", 2.5),
        "fused: the same in empty kernels": ("MISSED", 2.5),
        "cuda: share of copy bandwidth, >= 200 MB, 0 normals": ("MISSED", 92 / 120),
        "cuda: time in that of fused, every size (2 % are noise)": ("MISSED", 1.2),
    }


def test_goals_of_samples() -> None:
    def row(
        case: str, provider: str, us: float, metric: str = "non-model per NFE", **facts: object
    ) -> dict[str, object]:
        usual = {"subject": "empty model", "traffic_bytes": 2**18, "length": 1}
        return {"case": case, "provider": provider, "metric": metric, "p50": us, **usual, **facts}

    mine = sample_cases.GRAPH
    rows = [
        row("a", mine, 2.0),
        row("a", "diffusers", 30.0),
        row("b", mine, 2.2),
        row("b", "diffusers", 90.0),
        row("b", "diffusers, one graph", 11.0),
        row("c", mine, 9.0, traffic_bytes=2**25),
        row("a", mine, 39.0, "host time of a call"),
        row("a", mine, 41.0, "host time of a call", length=0),
        row("d", mine, 2100.0, "sample of 10 NFE", subject="200 us model"),
        row("d", sample_cases.ALONE, 2000.0, "sample of 10 NFE", subject="200 us model"),
        row("d", mine, 1.0, "sample of 5 NFE", subject="200 us model", length=0),
    ]
    assert verdicts(list(gpu_goals.sample_goals(rows))) == {
        "us beside the model per NFE, one graph, <= 4 MB": ("met", 2.2),
        "us of host time per call, short and long runs": ("MISSED", 41.0),
        "times less than diffusers": ("MISSED", 15.0),
        "times less than diffusers, one graph": ("met", 5.0),
        "sample in calls of the model alone, 200 us each": ("MISSED", 1.05),
    }


@pytest.mark.parametrize(
    ("parts", "faults", "wrong"),
    [
        ({"build": (0, 1), "tests": (0, 1), "update": (0, 1)}, [], []),
        ({"tests": (1, 1)}, [], ["tests ended with exit code 1"]),
        ({"tests": (124, 1)}, [], ["tests ended with exit code 124"]),  # tests that were stopped have shown nothing
        ({"update": (124, 1)}, [], []),
        ({"update": (1, 1)}, ["x, fused: wrong"], ["x, fused: wrong"]),
        ({"update": (-11, 1)}, [], ["update ended with exit code -11"]),
        ({"sample": (1, 1)}, [], ["sample left no results (exit code 1)"]),
        ({"sanitizer": (77, 1)}, [], ["sanitizer ended with exit code 77"]),
    ],
)
def test_what_makes_a_check_fail(parts: dict[str, tuple[int, int]], faults: list[str], wrong: list[str]) -> None:
    assert gpu_goals.wrongs(parts, {"update": {"faults": faults}, "sample": None}) == wrong


def test_a_report_cut_short_does_not_lose_the_verdict(tmp_path: Path) -> None:
    whole = '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="2"/></testsuites>'
    for text, told in (
        (whole, "3 tests, 1 failures, 0 errors, 2 skipped"),
        (whole[:30], "no whole report"),
        ("", "no whole"),
    ):
        (tmp_path / "tests.xml").write_text(text)
        assert gpu_goals.counted(tmp_path / "tests.xml").startswith(told)
    assert gpu_goals.main(["--out", str(tmp_path), "--part", "tests", "0", "1"]) == 0
    assert (tmp_path / "check.json").is_file()
