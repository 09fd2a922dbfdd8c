"""Guidance that needs sums over a sample: one launch, and a program for each sample.

    rescale    out = a x + b g (phi s_c / s_g + 1 - phi)       g = u + w (c - u), s the standard deviations over a sample
    project    out = D + (w - 1) (s d - (1 - eta) s <d, D> / <D, D> D)       D = a x + b c, d = b (c - u) + momentum average,
                                                                             s = min(1, threshold / |d|), or 1 without one

c and u are the raw outputs, conditional and not. A program goes over its sample in blocks: twice for sums, or once, and once more to
write, with the same sum of terms at every turn. A deviation is from the mean, which is known by then, so that a large mean costs
no digits. Sums are float32, an accumulator for each place in a block, then float64 over the block, in an order that depends on the
size of a sample and on whether all tensors start on 16 bytes: not on the batch. Given these all else is plain torch's formula.

Bytes per element, of which all but the first reading come from L2: rescale 3 (c + u) + x + 4, project 2 (c + u + x + average) + 4.
Tensors are [batch, size], contiguous, x, average and out of float32, c and u of float32, bfloat16 or float16.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import bound, tiles
from .update import widened


@triton.jit
def _read(tensor, at, inside, WIDTH: tl.constexpr):
    """Elements `at`, of which every WIDTH in a row start on as many bytes as they have; 0 outside."""
    # As in the update: the hint counts here only. It also keeps 16-bit tensors in the layout of float32 ones.
    place = tl.multiple_of(tensor + at, WIDTH * tensor.dtype.element_ty.primitive_bitwidth // 8)
    return widened(tl.load(place, mask=inside, other=0))


@triton.jit
def _sum(x):
    # Of float32 numbers that are alike, the roundings of their sums are too. There are few sums left, so this costs little.
    return tl.sum(x.to(tl.float64))


@triton.jit
def _guided(conditional, unconditional, at, inside, w, WIDTH: tl.constexpr):
    """The conditional and the guided raw output."""
    one, other = _read(conditional, at, inside, WIDTH), _read(unconditional, at, inside, WIDTH)
    return one, other + w * (one - other)


@triton.jit(
    do_not_specialize=["a", "b", "w", "phi", "size"],
    do_not_specialize_on_alignment=["out", "x", "conditional", "unconditional"],
)
def rescale_samples(out, x, conditional, unconditional, a, b, w, phi, size: tl.int32, BLOCK: tl.constexpr,
                    WIDTH: tl.constexpr):  # fmt: skip
    first, end = tl.program_id(0).to(tl.int64) * size, size // WIDTH * WIDTH  # a multiple, for the compiler to see
    out, x, conditional, unconditional = out + first, x + first, conditional + first, unconditional + first
    place = tl.arange(0, BLOCK)
    ones, guides = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, end, BLOCK):
        at = start + place
        one, guided = _guided(conditional, unconditional, at, at < end, w, WIDTH)
        ones += one
        guides += guided
    count = size.to(tl.float64)
    mean, guided_mean = (_sum(ones) / count).to(tl.float32), (_sum(guides) / count).to(tl.float32)
    ones, guides = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, end, BLOCK):
        at = start + place
        one, guided = _guided(conditional, unconditional, at, at < end, w, WIDTH)
        one, guided = tl.where(at < end, one - mean, 0.0), tl.where(at < end, guided - guided_mean, 0.0)
        ones += one * one
        guides += guided * guided
    # Of both the sum is of as many squares: what a variance divides by is in neither.
    factor = (phi * tl.sqrt(_sum(ones) / _sum(guides)) + (1.0 - phi)).to(tl.float32)
    for start in range(0, end, BLOCK):
        at = start + place
        _, guided = _guided(conditional, unconditional, at, at < end, w, WIDTH)
        result = a * _read(x, at, at < end, WIDTH) + b * guided * factor
        tl.store(tl.multiple_of(out + at, 4 * WIDTH), result, mask=at < end)


@triton.jit
def _parts(x, conditional, unconditional, average, at, inside, a, b, momentum, WIDTH: tl.constexpr):
    """The conditional data prediction and the difference."""
    one, other = _read(conditional, at, inside, WIDTH), _read(unconditional, at, inside, WIDTH)
    difference = b * (one - other)
    if average is not None:
        difference = difference + momentum * _read(average, at, inside, WIDTH)
    return a * _read(x, at, inside, WIDTH) + b * one, difference


@triton.jit(
    do_not_specialize=["a", "b", "w", "eta", "threshold", "momentum", "size"],
    do_not_specialize_on_alignment=["out", "x", "conditional", "unconditional", "average"],
)
def project_samples(out, x, conditional, unconditional, average, a, b, w, eta, threshold, momentum, size: tl.int32,
                    BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    first, end = tl.program_id(0).to(tl.int64) * size, size // WIDTH * WIDTH
    out, x, conditional, unconditional = out + first, x + first, conditional + first, unconditional + first
    if average is not None:
        average = average + first
    place = tl.arange(0, BLOCK)
    squares, theirs = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    products = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, end, BLOCK):
        at = start + place
        d0, d = _parts(x, conditional, unconditional, average, at, at < end, a, b, momentum, WIDTH)
        squares += d0 * d0
        theirs += d * d
        products += d0 * d
    short = tl.where(threshold > 0.0, tl.minimum(threshold / tl.sqrt(_sum(theirs)), 1.0), 1.0)
    along = ((1.0 - eta) * short * (_sum(products) / tl.maximum(_sum(squares), 1e-24))).to(tl.float32)
    short = short.to(tl.float32)
    for start in range(0, end, BLOCK):
        at = start + place
        d0, d = _parts(x, conditional, unconditional, average, at, at < end, a, b, momentum, WIDTH)
        result = d0 + (w - 1.0) * (short * d - along * d0)
        tl.store(tl.multiple_of(out + at, 4 * WIDTH), result, mask=at < end)


def fits(x: Tensor) -> bool:
    """Whether one program for each sample is not too slow for samples of this size."""
    return x[:1].numel() <= tiles.LARGEST_SAMPLE


def rescale(x: Tensor, conditional: Tensor, unconditional: Tensor, a: float, b: float, w: float, phi: float) -> Tensor:
    """Guidance with the standard deviation of the conditional output, by phi, on the current stream of the current device."""
    return _launched(rescale_samples, 2, (x, conditional, unconditional), (a, b, w, phi))


def project(
    x: Tensor,
    conditional: Tensor,
    unconditional: Tensor,
    average: Tensor | None,
    a: float,
    b: float,
    w: float,
    eta: float,
    threshold: float,
    momentum: float,
) -> Tensor:
    """Guidance orthogonal to the conditional prediction, with eta of the rest, on the current stream of the current device."""
    numbers = (a, b, w, eta, threshold, momentum)
    return _launched(project_samples, 3 if average is None else 4, (x, conditional, unconditional, average), numbers)


def _launched(kernel: Any, read: int, tensors: tuple[Tensor | None, ...], numbers: tuple[float, ...]) -> Tensor:
    """read: so many tensors for sums."""
    x = tensors[0]
    assert x is not None
    out = torch.empty_like(x)
    batch = len(x)
    if out.numel():
        size = out.numel() // batch
        target = None if tiles.INTERPRETING else triton.runtime.driver.active.get_current_target()
        # By 8: the second half of a doubled batch of 16 bits starts on 16 bytes as well, whatever the batch.
        even = size % 8 == 0 and not bound.uneven(*(t.data_ptr() for t in (out, *tensors) if t is not None))
        block, width, warps = tiles.whole_samples(size, read, even, target)
        kernel[(batch,)](out, *tensors, *numbers, size, block, width, num_warps=warps, enable_fp_fusion=False)
    return out
