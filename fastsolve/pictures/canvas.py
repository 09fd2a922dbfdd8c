"""Figures that belong to the caller, their colours, and what they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which most colour-blind readers tell apart, without the yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
LOGSNR = r"log SNR = log($\alpha^2/\sigma^2$), nats"


def blank(width: float, height: float) -> Figure:
    """An empty figure of a size in inches. Raises ImportError that names the extra where there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"pictures are drawn by matplotlib ({error}): pip install fastsolve[demo]") from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write a figure, by the ending of the path: .png, .svg, .pdf. Raises ValueError for a folder that is not there, or another ending."""
    figure.savefig(savable(path), dpi=dpi)


def savable(path: str | Path) -> Path:
    """The path, looked at before what is to be drawn is computed. Raises ValueError as `save`, and ImportError as `blank`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    kinds = blank(1.0, 1.0).canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{path} has no ending of a picture, such as .png; known are {', '.join(sorted(kinds))}")
    return path


def style(i: int) -> dict[str, Any]:
    """Colour and marker of line i."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.4,
    }


def tidy(axes: Axes, x: str, y: str) -> None:
    """Labels, a faint grid, no frame at the top and the right."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logsnr(alpha: float, sigma: float) -> float:
    """log(alpha^2 / sigma^2), which is 2 lam; infinite at the ends."""
    return math.inf if sigma == 0.0 else 2.0 * math.log(alpha / sigma) if alpha > 0.0 else -math.inf


def plot_logsnr(axes: Axes, lines: Mapping[str, Sequence[float]]) -> None:
    """Lines of log SNR over their index; infinite ones lie on two dotted lines, clean data and pure noise, with dashes on the way."""
    finite = [v for line in lines.values() for v in line if math.isfinite(v)] or [0.0]
    gap = 0.12 * (max(finite) - min(finite)) or 1.0
    ends = {math.inf: max(finite) + gap, -math.inf: min(finite) - gap}
    for i, (name, line) in enumerate(lines.items()):
        inside = [v if math.isfinite(v) else math.nan for v in line]
        axes.plot([ends.get(v, v) for v in line], linestyle="--", **style(i))
        axes.plot(inside, label=name, **style(i))
    for end, x, side, name in ((math.inf, 0.01, "left", "clean data"), (-math.inf, 0.99, "right", "pure noise")):
        if any(end in line for line in lines.values()):
            axes.axhline(ends[end], color="0.6", linewidth=0.8, linestyle=":")
            place = axes.get_yaxis_transform()
            axes.text(x, ends[end], name, transform=place, ha=side, va="bottom", fontsize=8, color="0.35")
    axes.locator_params(axis="x", integer=True)
