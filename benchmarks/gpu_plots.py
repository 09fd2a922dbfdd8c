"""Pictures of the GPU benchmarks' results: update.png and sample.png beside their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.gpu_rows import LAUNCH, PER_NFE, WHOLE, Row, of_copy
from benchmarks.sample_cases import ALONE, GRAPH

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of what draws

Result = Mapping[str, Any]
LINES = (
    "4 in, 1 out, 0 normals, float32",
    "4 in, 1 out, 0 normals, bfloat16",
    "3 in, 1 out, 1 normal, float32",
    "1 in, 1 out, 1 normal, float32",
)
OURS = ("fused", "cuda", "native")


def timed(result: Result, metric: str) -> list[Row]:
    """The rows with a figure of a metric."""
    return [row for row in result["rows"] if row.get("metric") == metric]


def headline(result: Result, what: str) -> str:
    """What, where and when."""
    rehearsal = ", a rehearsal on a CPU: these times mean nothing" if result["dry"] else ""
    versions = result["versions"]
    return f"{what} · {result['device']} · torch {versions['torch']}, Triton {versions['triton']} · {result['date'][:10]}{rehearsal}"


def draw_update(result: Result, to: Path) -> None:
    """Bandwidth against size for four patterns, and by inputs and normals at the largest size that all have."""
    rows = timed(result, LAUNCH)
    figure, axes = plt.subplots(2, 3, figsize=(16, 9), layout="constrained")
    figure.suptitle(headline(result, "Updates"))
    for axis, pattern in zip(axes.flat[:4], LINES, strict=True):
        mine = [row for row in rows if row.get("pattern") == pattern and row["p50"] > 0]
        for provider in dict.fromkeys(row["provider"] for row in mine):
            points = sorted(
                (row["bytes"], row["bytes"] / row["p50"] / 1e3) for row in mine if row["provider"] == provider
            )
            wide = 2.2 if provider in OURS else 1.0
            axis.plot(*zip(*points, strict=True), "o-", ms=3, lw=wide, label=provider)
        axis.set(xscale="log", yscale="log", title=pattern, xlabel="bytes read and written", ylabel="GB/s")
        axis.grid(alpha=0.3)
        if mine:
            axis.legend(fontsize=8)
    shares(axes.flat[4], [row for row in rows if row.get("draws") == 0], "inputs and outputs, no normals")
    shares(axes.flat[5], [row for row in rows if row.get("draws", 0) > 0], "with normals")
    figure.savefig(to, dpi=110)
    plt.close(figure)


def shares(axis: Any, rows: Sequence[Row], title: str) -> None:
    """Bars: what part of the copy bandwidth the executors reach at 200 MB and more."""
    found = [
        (f"{row['pattern'].replace(', 1 out', '')} · {row['provider']}", share) for row, share in of_copy(rows, 2e8)
    ]
    found = sorted(dict(found).items(), reverse=True)
    axis.barh([name for name, _ in found], [100 * share for _, share in found], color="tab:blue")
    axis.axvline(100, color="black", lw=0.8)
    axis.tick_params(axis="y", labelsize=6)
    axis.set(title=f"{title}, 200 MB and more", xlabel="% of copy bandwidth")


def colour(provider: str) -> str:
    """Ours as one graph, the model alone, and all others."""
    if provider.startswith(GRAPH):
        return "tab:blue"
    return "tab:grey" if provider == ALONE else "tab:orange"


def draw_sample(result: Result, to: Path) -> None:
    """Non-model time per NFE by provider with the empty model; whole samples with networks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(17, 9), layout="constrained")
    figure.suptitle(headline(result, "Samples"))
    rows = [
        row
        for row in timed(result, PER_NFE)
        if row["subject"] == "empty model" and row["batch"] == 1 and row["p50"] > 0
    ]
    tasks, providers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "provider"))
    markers = "osD^v<>PX*hdp"
    for number, provider in enumerate(providers):
        points = [(row["p50"], tasks.index(row["task"])) for row in rows if row["provider"] == provider]
        ours = provider.startswith("fastsolve")
        left.scatter(
            *zip(*points, strict=True), s=90 if ours else 45, marker=markers[number % len(markers)], label=provider
        )
    left.set_yticks(range(len(tasks)), tasks)
    left.invert_yaxis()
    left.set(xscale="log", xlabel="us beside the model, per call of the model; batch 1, 4x64x64")
    left.grid(alpha=0.3, which="both")
    if rows:
        left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)
    whole = [row for row in result["rows"] if str(row.get("metric", "")).startswith(WHOLE) and row.get("length") == 1]
    whole = [row for row in whole if row["subject"] in ("digits", "DiT-S/2", "U-Net") and row["batch"] == 1]
    names = [f"{row['case']}, {row['metric'].removeprefix(WHOLE + ' ')} · {row['provider']}" for row in whole]
    colours = [colour(row["provider"]) for row in whole]
    right.barh(range(len(whole)), [row["p50"] / 1e3 for row in whole], color=colours)
    right.set_yticks(range(len(whole)), names, fontsize=max(3, min(8, 400 // max(1, len(whole)))))
    right.invert_yaxis()
    right.set(xlabel="ms per sample (blue: one graph; grey: the model alone)")
    figure.savefig(to, dpi=110)
    plt.close(figure)
