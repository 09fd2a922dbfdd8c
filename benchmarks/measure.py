"""How things are timed here: providers take turns in one process, CPU time of the thread, p20 / p50 / p80; rows go to results/*.json.

A case measures only after its result was compared with what it claims to compute: a wrong answer has no speed.
"""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

import fastsolve

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
Provider = tuple[str, Callable[[], object]]


def keep_freed_memory() -> None:
    """Torch at its best: else glibc hands each large temporary back, and the next one costs a page fault per 4 KiB."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, the largest allowed
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def quantiles(providers: Sequence[Provider], rounds: int, repeats: int) -> dict[str, list[float]]:
    """p20, p50, p80 in microseconds of one call, for each provider; they take turns, a round being `repeats` calls of each."""
    times: dict[str, list[float]] = {name: [] for name, _ in providers}
    for _, call in providers:
        call()
    for _ in range(rounds):
        for name, call in providers:
            start = time.thread_time()
            for _ in range(repeats):
                call()
            times[name].append((time.thread_time() - start) / repeats * 1e6)
    return {name: [float(np.quantile(t, q)) for q in (0.2, 0.5, 0.8)] for name, t in times.items()}


class Report:
    """Prints rows as they come, the ratio being to the first provider of a case, and writes them at the end."""

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, list[dict[str, object]]()
        print(f"{'case':38s} {'provider':28s} {'p20 us':>10s} {'p50 us':>10s} {'p80 us':>10s} {'ratio':>8s}")

    def add(self, case: str, measured: dict[str, list[float]], metric: str = "thread time") -> None:
        """One case: quantiles by provider, ours first."""
        ours = next(iter(measured.values()))[1]
        for provider, (p20, p50, p80) in measured.items():
            self.rows.append(
                {
                    "case": case,
                    "provider": provider,
                    "metric": metric,
                    "unit": "us",
                    "p20": p20,
                    "p50": p50,
                    "p80": p80,
                }
            )
            print(f"{case:38s} {provider:28s} {p20:10.2f} {p50:10.2f} {p80:10.2f} {p50 / ours:8.2f}", flush=True)

    def write(self) -> None:
        """Saves the rows, see `save`."""
        save(self.name, self.rows)


def save(name: str, rows: Sequence[Mapping[str, object]], **more: object) -> None:
    """Writes rows to results/ with device, versions, commit and date."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit(),
        "device": processor(),
        "versions": {
            "fastsolve": fastsolve.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **more,
        "rows": list(rows),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    return found.stdout.strip()


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
