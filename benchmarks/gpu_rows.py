"""Reading the rows that the GPU benchmarks wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
EXECUTORS = ("fused", "cuda")
PER_NFE, LAUNCH, WHOLE = "non-model per NFE", "time per launch", "sample of"


def by_case(rows: Sequence[Row], metric: str) -> dict[str, dict[str, Row]]:
    """The rows of a metric, of long runs where there are two lengths, by case and provider."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        if str(row.get("metric", "")).startswith(metric) and row.get("length", 1) == 1 and row["p50"] > 0:
            cases.setdefault(row["case"], {})[row["provider"]] = row
    return cases


def of_copy(rows: Sequence[Row], least: float) -> Iterator[tuple[Row, float]]:
    """Executors' rows of `least` bytes and more, with the share of the copy bandwidth of the same case, the better of its two copies."""
    for providers in by_case(rows, LAUNCH).values():
        copies = [providers[name]["p50"] for name in ("copy", "negation") if name in providers]
        for name in EXECUTORS:
            if name in providers and copies and providers[name]["bytes"] >= least:
                yield providers[name], min(copies) / providers[name]["p50"]
