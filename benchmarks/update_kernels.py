"""Kernels that `update` compares with: the fused update with Triton's own normals, and a kernel that does nothing."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _WARPS = 1024, 4  # as many elements per thread as the update has with draws


@triton.jit
def _with_randn(out, sources, table, seed, n, DRAWS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    acc = tl.load(table) * tl.load(sources[0] + at, mask=inside).to(tl.float32)
    for i in tl.static_range(1, len(sources)):
        acc += tl.load(table + i) * tl.load(sources[i] + at, mask=inside).to(tl.float32)
    key = tl.load(seed)
    for d in tl.static_range(DRAWS):
        acc += tl.load(table + len(sources) + d) * tl.randn(key + d, at)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _nothing(n):
    pass


def with_randn(out: Tensor, sources: tuple[Tensor, ...], table: Tensor, seed: Tensor, draws: int) -> None:
    """out = sum of table * (sources, then tl.randn draws): one row, float32 inside; fewer than 2^31 elements."""
    n = out.numel()
    _with_randn[(triton.cdiv(n, _BLOCK),)](out, sources, table, seed, n, draws, _BLOCK, num_warps=_WARPS)


def nothing() -> None:
    """One program that does nothing."""
    _nothing[(1,)](0, num_warps=1)
