"""Contact sheets of images, and of a trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.pictures.canvas import blank
from fastsolve.watching import Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Decode = Callable[[Tensor], Tensor]
Pixels = npt.NDArray[np.uint8]


def contact_sheet(
    images: Tensor,
    *,
    columns: int | None = None,
    labels: Sequence[object] | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """Images side by side. images: [B, 1 or 3, H, W] or [B, H, W]; low is black and high is white, and what lies beyond is cut.

    columns: images in a row (default: as square as it gets). labels: one for each image, written above it. Raises ValueError for
    another shape, NaN, a range that most pixels lie outside of (bytes need low=0, high=255), or a wrong number of labels.
    """
    shown = pixels(images, low, high, checked=True)
    count = len(shown)
    wide = math.ceil(math.sqrt(count)) if columns is None else min(_at_least_1("columns", columns), count)
    if labels is not None and len(labels) != count:
        raise ValueError(f"labels must be one for each of {count} images, not {len(labels)}")
    high_rows = -(-count // wide)
    aspect = shown.shape[1] / shown.shape[2]
    cell = min(1.2, 10.0 / wide)
    figure = blank(cell * wide, (cell * aspect + (0.0 if labels is None else 0.24)) * high_rows)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    places = figure.subplots(high_rows, wide, squeeze=False)
    for i, axes in enumerate(places.flat):
        _bare(axes)
        if i < count:
            axes.imshow(shown[i], interpolation="nearest")
            if labels is not None:
                axes.set_title(str(labels[i]), fontsize=8, pad=2)
    return figure


def trajectory(
    steps: Sequence[Step],
    *,
    sample: int = 0,
    columns: int = 8,
    decode: Decode | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> Figure:
    """The way of one sample: above the states x the model was called on, below the data predictions x0, at evenly chosen steps.

    steps: what `sampler.iterate(...).kept()` gives, or clones of what a callback saw. States are divided by hypot(alpha, sigma), so
    that noise and data are of one size. sample: which of the batch. columns: how many steps are shown, the first and the last among
    them. decode: makes images of latents, [1, C, H, W] -> [1, 1 or 3, H, W]. Raises ValueError as `contact_sheet`.
    """
    chosen = chosen_steps(steps, _at_least_1("columns", columns))
    pairs = [previews(step, sample, decode, low, high) for step in chosen]
    height, width, _ = pairs[0][0].shape
    cell = min(1.2, 11.0 / len(chosen))
    figure = blank(cell * len(chosen) + 0.4, 2 * cell * height / width + 0.5)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    places = figure.subplots(2, len(chosen), squeeze=False)
    for j, (step, pair) in enumerate(zip(chosen, pairs, strict=True)):
        for axes, image in zip(places[:, j], pair, strict=True):
            _bare(axes)
            axes.imshow(image, interpolation="nearest")
        places[0, j].set_title(f"t = {step.node.t:.3g}", fontsize=8, pad=2)
    for axes, name in zip(places[:, 0], ("x", "x0"), strict=True):
        axes.set_ylabel(name, fontsize=10, rotation=0, labelpad=10, va="center")
    return figure


def chosen_steps(steps: Sequence[Step], count: int) -> list[Step]:
    """`count` of them, evenly, with both ends. Raises ValueError where there is none, TypeError for what are no steps."""
    if not steps:
        raise ValueError("a trajectory needs steps: sampler.iterate(...).kept() gives them")
    if not all(isinstance(step, Step) for step in steps):
        raise TypeError("a trajectory is a list of Step, as sampler.iterate(...).kept() gives it")
    last = len(steps) - 1
    count = min(count, len(steps))
    return [steps[round(i * last / (count - 1))] for i in range(count)] if count > 1 else [steps[last]]


def previews(step: Step, sample: int, decode: Decode | None, low: float, high: float) -> tuple[Pixels, Pixels]:
    """x and x0 of one sample as bytes [H, W, 3]."""
    if not 0 <= sample < len(step.x):
        raise ValueError(f"sample must be one of 0 to {len(step.x) - 1}, not {sample}")
    scale = 1.0 / math.hypot(step.node.alpha, step.node.sigma)
    pair = (scale * step.x[sample : sample + 1], step.x0[sample : sample + 1])
    with torch.no_grad():
        x, x0 = (pixels(part if decode is None else decode(part), low, high) for part in pair)
    return x[0], x0[0]


def pixels(images: Tensor, low: float, high: float, checked: bool = False) -> Pixels:
    """Images as bytes [B, H, W, 3]. checked: a range that most pixels lie outside of is an error, and not only cut."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images are a tensor [B, C, H, W], not {type(images).__name__}")
    if not low < high:
        raise ValueError(f"low must be less than high, not {low} and {high}")
    if images.dim() == 3:
        images = images[:, None]
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images are [B, 1 or 3, H, W] or [B, H, W], not {list(images.shape)}; decode latents first; a trajectory takes decode="
        )
    values = images.detach().to("cpu", torch.float32)
    if not bool(values.isfinite().all()):
        raise ValueError("the images have NaN or infinite pixels")
    if checked and float(((values < low) | (values > high)).float().mean()) > 0.5:
        found = f"from {float(values.min()):g} to {float(values.max()):g}"
        raise ValueError(f"most pixels lie outside [{low:g}, {high:g}], they go {found}: give low and high")
    shown = ((values - low) / (high - low)).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
    return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _at_least_1(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int, at least 1, not {value!r}")
    return value


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
