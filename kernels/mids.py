"""Mids: values made of a sum like that of a row, before any row, and not stored.

Of the sum s a mid is s < low ? low : s > high ? high : s ("clip": NaN stays), or (1 - m) * s + m * (c * k) ("blend") with two of the
sources, m and k; each operation is rounded to float32.
"""

from collections.abc import Sequence
from typing import TypeAlias

import triton
import triton.language as tl

# Op, positions of the terms; the place of their coefficients, with low and high or c behind them, counted from the first coefficient
# of the rows; positions of m and k.
Mid: TypeAlias = tuple[str, tuple[int, ...], int, int, int]


@triton.jit
def with_mids(values, table, MIDS: tl.constexpr):
    """The values of sources and draws, and after them those of the mids, which are as `coded` gives them."""
    for i in tl.static_range(len(MIDS)):
        place = table + MIDS[i][0]
        total = tl.load(place) * values[MIDS[i][3]]
        for j in tl.static_range(1, len(MIDS[i]) - 3):
            total = total + tl.load(place + j) * values[MIDS[i][3 + j]]
        own = place + (len(MIDS[i]) - 3)
        if MIDS[i][1] < 0:
            low, high = tl.load(own), tl.load(own + 1)
            total = tl.where(total < low, low, tl.where(total > high, high, total))
        else:
            mask = values[MIDS[i][1]]
            total = (1.0 - mask) * total + mask * (tl.load(own) * values[MIDS[i][2]])
        values = values + (total,)
    return values


def coded(mids: Sequence[Mid], n_sources: int, n_draws: int) -> tuple[tuple[int, ...], ...]:
    """As the kernel takes them, numbers alone: place, m and k (-1 in a clip), terms. Raises ValueError where one names nothing."""
    for i, (op, terms, _, mask, known) in enumerate(mids):
        if op not in ("clip", "blend"):
            raise ValueError(f"mid {i} has the op {op!r}: there are clip and blend")
        if not terms or not all(0 <= p < n_sources + n_draws + i for p in terms):
            raise ValueError(f"mid {i} sums {terms}, of {n_sources} sources, {n_draws} draws and {i} mids before it")
        if op == "blend" and not (0 <= mask < n_sources and 0 <= known < n_sources):
            raise ValueError(f"mid {i} blends by the sources {mask} and {known}, and there are {n_sources}")
    return tuple(
        (place, *((mask, known) if op == "blend" else (-1, -1)), *terms) for op, terms, place, mask, known in mids
    )
