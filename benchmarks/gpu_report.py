"""What a GPU benchmark writes: rows with quantiles or with the reason why there are none, and on what machine they came about.

Written after every case, so that what was measured is not lost with what comes later.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

import fastsolve
from benchmarks.gpu_clock import Place

_SMI = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,power.limit"


class Report:
    """Rows of one benchmark. `faults` are results that were wrong: they have no speed, and the benchmark has failed."""

    def __init__(self, name: str, args: argparse.Namespace, place: Place) -> None:
        self.name, self.out, self._place = name, Path(args.out), place
        self.rows: list[dict[str, object]] = []
        self.faults: list[str] = []
        self._end = time.monotonic() + args.budget
        self._head = machine(place, args.commit) | {"benchmark": name, "budget": args.budget, "smi_before": smi()}
        self.write()

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - time.monotonic()

    def add(
        self, case: str, provider: str, metric: str, samples: Sequence[float], unit: str = "us", **facts: object
    ) -> None:
        """p20, p50 and p80 of the samples."""
        p20, p50, p80 = (float(np.quantile(samples, q)) for q in (0.2, 0.5, 0.8))
        row = {"case": case, "provider": provider, "metric": metric, "unit": unit, "p20": p20, "p50": p50, "p80": p80}
        self.rows.append(row | {"rounds": len(samples)} | facts)
        print(f"{case:44s} {provider:34s} {metric:22s} {p20:11.2f} {p50:11.2f} {p80:11.2f} {unit}", flush=True)

    def note(self, case: str, provider: str, **facts: object) -> None:
        """What is no time."""
        self.rows.append({"case": case, "provider": provider} | facts)

    def without(self, case: str, provider: str, reason: str, **facts: object) -> None:
        """A provider that gave no figure, and why."""
        self.rows.append({"case": case, "provider": provider, "reason": reason} | facts)
        print(f"{case:44s} {provider:34s} none: {reason}", flush=True)

    def fault(self, case: str, provider: str, wrong: str) -> None:
        """A result that is not what it should be."""
        self.faults.append(f"{case}, {provider}: {wrong}")
        self.without(case, provider, f"WRONG: {wrong}")

    def write(self, last: bool = False) -> None:
        """All rows so far; the file is whole at any time."""
        if last:
            self._head |= {"smi_after": smi(), "seconds_left": round(self.left, 1)}
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self._head | {"complete": last, "faults": self.faults, "rows": self.rows}, indent=1)
        fresh = self.out / f".{self.name}.json"
        fresh.write_text(text + "\n")
        os.replace(fresh, self.out / f"{self.name}.json")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that the GPU benchmarks share."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of the results")
    made.add_argument("--dry", action="store_true", help="rehearse on the CPU with tiny sizes; the times mean nothing")
    made.add_argument("--budget", type=float, default=150.0, help="seconds after which no further case begins")
    made.add_argument("--commit", default="", help="what was measured, where git cannot say it")
    return made


def machine(place: Place, commit: str) -> dict[str, object]:
    """Device, driver, versions, commit and date."""
    facts: dict[str, object] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or _git(),
        "dry": place.dry,
        "device": platform.processor() or platform.machine(),
        "host": f"{os.cpu_count()} x {platform.machine()}",
        "versions": {name: _version(name) for name in ("torch", "triton", "numpy", "diffusers", "k-diffusion")}
        | {"fastsolve": fastsolve.__version__, "python": platform.python_version(), "cuda": torch.version.cuda},
    }
    if not place.dry:
        found = torch.cuda.get_device_properties(place.device)
        facts["device"] = found.name
        facts["multiprocessors"], facts["memory_bytes"] = found.multi_processor_count, found.total_memory
        facts["l2_bytes"], facts["capability"] = place.l2, f"{found.major}.{found.minor}"
    return facts


def smi() -> list[str]:
    """Driver, clocks, temperature and power as nvidia-smi reads them, a line per GPU; nothing is set."""
    found = _output("nvidia-smi", f"--query-gpu={_SMI}", "--format=csv")
    return found.splitlines()


def _git() -> str:
    return _output("git", "describe", "--always", "--dirty", "--abbrev=10")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {type(error).__name__}"
    return done.stdout.strip() or f"unknown: {done.stderr.strip()}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
