"""Bit equality that points: the first element that differs, where it is, and both values."""

from __future__ import annotations

import numpy as np
import torch

_UNSIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_bits_equal(actual: torch.Tensor | np.ndarray, expected: torch.Tensor | np.ndarray) -> None:
    """Same shape, same dtype, same bits: 0.0 is not -0.0, and a NaN equals the same NaN."""
    a, b = torch.as_tensor(actual).detach().cpu(), torch.as_tensor(expected).detach().cpu()
    assert a.shape == b.shape, f"shape {tuple(a.shape)}, expected {tuple(b.shape)}"
    assert a.dtype == b.dtype, f"dtype {a.dtype}, expected {b.dtype}"
    differs = (_bits(a) != _bits(b)).nonzero()
    if len(differs):
        at = tuple(differs[0].tolist())
        raise AssertionError(
            f"{len(differs)} of {a.numel()} elements differ, first at {list(at)}: "
            f"{a[at].item()!r} ({_hex(a[at])}), expected {b[at].item()!r} ({_hex(b[at])})"
        )


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(_UNSIGNED[x.element_size()])


def _hex(x: torch.Tensor) -> str:
    width = 8 * x.element_size()
    return f"0x{_bits(x).item() % 2**width:0{width // 4}x}"
