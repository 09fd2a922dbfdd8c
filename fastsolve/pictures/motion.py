"""A trajectory as an animation, by Pillow, which matplotlib brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastsolve.pictures.images import Decode, Pixels, previews
from fastsolve.watching import Step

if TYPE_CHECKING:
    from PIL.Image import Image

_CAPTION, _GAP = 16, 6  # pixels, above the pictures and between them
_SMALLEST = 160  # pixels: a smaller picture is enlarged by a whole number


def animate(
    steps: Sequence[Step],
    path: str | Path,
    *,
    sample: int = 0,
    ms: int = 150,
    decode: Decode | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> None:
    """Write the way of one sample as a GIF, one frame a step: the state x on the left, the data prediction x0 on the right.

    ms: milliseconds of a frame, at least 20; the last one stays ten times as long. Other arguments are those of `trajectory`. Raises
    ValueError for another ending than .gif, a folder that is not there, and as `trajectory`.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif" or not path.parent.is_dir():
        raise ValueError(f"{path} must be a .gif in a folder that is there")
    if isinstance(ms, bool) or not isinstance(ms, int) or ms < 20:
        raise ValueError(f"ms must be an int, at least 20, not {ms!r}")
    if not steps or not all(isinstance(step, Step) for step in steps):
        raise ValueError("an animation is of a list of Step, as sampler.iterate(...).kept() gives it")
    frames = [_frame(*previews(step, sample, decode, low, high), f"{step.node.t:.3g}") for step in steps]
    times = [ms] * (len(frames) - 1) + [10 * ms]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=2)


def _frame(x: Pixels, x0: Pixels, t: str) -> Image:
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError(f"animations are written by Pillow ({error}): pip install fastsolve[demo]") from error
    zoom = max(1, -(-_SMALLEST // max(x.shape)))
    height, width = zoom * x.shape[0], zoom * x.shape[1]
    frame = Image.new("RGB", (2 * width + _GAP, height + _CAPTION), "white")
    pen = ImageDraw.Draw(frame)
    for left, image, caption in ((0, x, f"x, t = {t}"), (width + _GAP, x0, "x0")):
        big = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        frame.paste(big, (left, _CAPTION))
        pen.text((left + 2, 2), caption, fill="black")
    return frame
