"""The fused update: every row of one step of a sampler in one launch.

    out[r] = round(c[r,0] * v[r,0] + c[r,1] * v[r,1] + ...)      v a source tensor or a draw, r = 0 .. rows - 1

Sums run from left to right, each product and each sum rounded to float32, and the result to the type of out[r], to nearest
even. All rows see the tensors before the update: an out may be one of the sources. A draw is computed once for all rows
and costs no memory (philox.py). Tensors are [batch, size], contiguous, of float32, bfloat16 or float16 in any mixture.

Bytes per element: sum of sizeof(source) + sum of sizeof(out). Coefficients, draw numbers and seeds are a few words from L2.

One compiled variant per pattern: rows, types, and which tensors start on 16 bytes. Coefficients, draws and seeds come from
device memory, and no step index, batch or size is part of the code.
"""

from collections.abc import Callable, Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .philox import block_normals, element_normals

# The interpreter truncates what a GPU rounds, and flushes subnormals. Bits are right on both, but for a GPU they would be six
# instructions where a cast is half of one.
_BFLOAT16_BY_BITS: tl.constexpr = tl.constexpr(tiles.INTERPRETING)


@triton.jit
def _widened(x):
    if _BFLOAT16_BY_BITS and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def _rounded(x, DTYPE: tl.constexpr):
    if _BFLOAT16_BY_BITS and DTYPE == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)


@triton.jit
def _write_rows(outs, values, table, offset, at, inside, ROWS: tl.constexpr):
    # Every row before the first store: a row's coefficients then load together with its sources.
    results = ()
    for r in tl.static_range(len(ROWS)):
        acc = tl.load(table + offset) * values[ROWS[r][0]]
        for j in tl.static_range(1, len(ROWS[r])):
            acc = acc + tl.load(table + offset + j) * values[ROWS[r][j]]
        offset += len(ROWS[r])
        results = results + (_rounded(acc, outs[r].dtype.element_ty),)
    for r in tl.static_range(len(ROWS)):
        tl.store(outs[r] + at, results[r], mask=inside)


@triton.jit
def _read(sources, at, inside):
    values = ()
    for i in tl.static_range(len(sources)):
        values = values + (_widened(tl.load(sources[i] + at, mask=inside)),)
    return values


@triton.jit
def vectors(outs, sources, table, offset, draws, draw_offset, seeds, start, wide,
            ROWS: tl.constexpr, DRAWS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Elements start .. start + BLOCK - 1 of sample program_id(1), of which `wide`, a multiple of 16, are here."""
    sample = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    inside = start + lane < wide
    at = sample * wide + start + lane
    values = _read(sources, at, inside)
    if DRAWS > 0:
        seed = tl.load(seeds + sample)
        for d in tl.static_range(DRAWS):
            stream = tl.load(draws + 2 * (draw_offset + d))
            number = tl.load(draws + 2 * (draw_offset + d) + 1)
            values = values + (block_normals(seed, start, number, stream, BLOCK, WIDTH),)
    _write_rows(outs, values, table, offset, at, inside, ROWS)


@triton.jit
def singles(outs, sources, table, offset, draws, draw_offset, seeds, start, end, size,
            ROWS: tl.constexpr, DRAWS: tl.constexpr, STRIP: tl.constexpr):  # fmt: skip
    """Elements start .. start + STRIP - 1, below `end`, of the whole tensor, whatever their alignment."""
    at = start + tl.arange(0, STRIP)
    inside = at < end
    values = _read(sources, at, inside)
    if DRAWS > 0:
        sample = at // size
        seed = tl.load(seeds + sample, mask=inside, other=0)
        for d in tl.static_range(DRAWS):
            stream = tl.load(draws + 2 * (draw_offset + d))
            number = tl.load(draws + 2 * (draw_offset + d) + 1)
            values = values + (element_normals(seed, at - sample * size, number, stream),)
    _write_rows(outs, values, table, offset, at, inside, ROWS)


@triton.jit(
    do_not_specialize=["offset", "draw_offset", "chunks", "rest", "size"],
    do_not_specialize_on_alignment=["table", "draws", "seeds"],
)
def update(outs, sources, table, offset, draws, draw_offset, seeds, chunks, rest, size,
           ROWS: tl.constexpr, DRAWS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, STRIP: tl.constexpr):  # fmt: skip
    # 128-bit accesses need a base and a mask that are provably multiples of 16. A run-time n * 16 proves it for any n, so one
    # variant serves all sizes: 16 * chunks elements of each sample as vectors, then `rest` elements of the tensor singly.
    wide = chunks.to(tl.int64) * 16
    blocks = tl.cdiv(wide, BLOCK)
    block = tl.program_id(0).to(tl.int64)
    if block < blocks:
        vectors(outs, sources, table, offset, draws, draw_offset, seeds, block * BLOCK, wide, ROWS, DRAWS, BLOCK, WIDTH)
    else:
        singles(outs, sources, table, offset, draws, draw_offset, seeds, wide + (block - blocks) * STRIP, wide + rest, size,
                ROWS, DRAWS, STRIP)  # fmt: skip


class Update:
    """A pattern: rows[r] holds the positions that row r sums, in order; p < n_sources is source p, else draw p - n_sources."""

    def __init__(self, rows: Sequence[Sequence[int]], n_sources: int, n_draws: int) -> None:
        self.rows = tuple(tuple(row) for row in rows)
        self.n_sources, self.n_draws = n_sources, n_draws
        if not self.rows or not all(self.rows):
            raise ValueError(f"an update needs rows and a row needs terms, not {self.rows}")
        if not all(0 <= p < n_sources + n_draws for row in self.rows for p in row):
            raise ValueError(f"rows {self.rows} name positions outside {n_sources} sources and {n_draws} draws")
        self._launchers: dict[tuple[Any, ...], Callable[..., None]] = {}

    def __call__(
        self,
        sources: Sequence[Tensor],
        outs: Sequence[Tensor],
        table: Tensor,
        offset: int,
        draws: Tensor | None,
        draw_offset: int,
        seeds: Tensor | None,
        batch: int,
        size: int,
    ) -> None:
        """Runs on the current stream of the tensors' device, which must be the current one.

        Coefficients are table[offset:], row after row. draws is int32 [n, 2], (stream, number), this update's from draw_offset
        on; seeds is int64 or uint64 [batch].
        """
        ins, to = tuple(s.data_ptr() for s in sources), tuple(o.data_ptr() for o in outs)
        # All that the compiled kernel and its grid depend on, and nothing that differs from step to step.
        key = (batch, size, table.device, *(t.dtype for t in (*sources, *outs)), *(p % 16 == 0 for p in ins + to))
        launcher = self._launchers.get(key)
        if launcher is not None:
            launcher(to, ins, table.data_ptr(), offset, _address(draws), draw_offset, _address(seeds))
        elif batch * size > 0:
            launcher = self._launch(
                (tuple(outs), tuple(sources), table, offset, draws, draw_offset, seeds), batch, size
            )
            if launcher is not None:
                self._launchers[key] = launcher

    def _launch(self, arguments: tuple[Any, ...], batch: int, size: int) -> Callable[..., None] | None:
        """Launches by Triton's public way, and returns a faster one for the same pattern, types and sizes if there is one."""
        outs, sources, table = arguments[:3]
        if (len(outs), len(sources)) != (len(self.rows), self.n_sources):
            raise ValueError(f"{len(outs)} outs, {len(sources)} sources: not {len(self.rows)} and {self.n_sources}")
        tile = tiles.choose(
            {t.element_size() for t in sources + outs},
            self.n_sources + self.n_draws + len(outs),
            self.n_draws,
            1 if tiles.INTERPRETING else triton.runtime.driver.active.get_current_target().warp_size,
            batch * size,
        )
        grid, extent = _split(batch, size, self.n_draws, tile)
        rest = (*extent, self.rows, self.n_draws, tile.block, tile.width, tile.strip)
        compiled = update[grid](*arguments, *rest, num_warps=tile.warps, enable_fp_fusion=False)
        return None if tiles.INTERPRETING else _direct(compiled, grid, table.device.index, rest)


def _direct(
    compiled: Any, grid: tuple[int, int, int], device: int, rest: tuple[Any, ...]
) -> Callable[..., None] | None:
    """A launch without Triton's binding of arguments: an update costs the host 4 us instead of 14 (Triton 3.6, 3.7.1; no driver counted).

    It is the last line of Triton's own JITFunction.run, with addresses for tensors. A Triton without these names, which are
    not public, keeps the slow way.
    """
    try:
        run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
        current_stream = triton.runtime.driver.active.get_current_stream
    except AttributeError:
        return None
    x, y, z = grid

    def launch(*arguments: Any) -> None:
        run(x, y, z, current_stream(device), function, metadata, None, None, None, *arguments, *rest)

    return launch


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _split(batch: int, size: int, n_draws: int, tile: tiles.Tile) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The grid, and (chunks, rest, size) of the kernel."""
    if n_draws == 0:
        batch, size = 1, batch * size  # where one sample ends matters to draws alone
    samples, chunks, rest = 1, 0, batch * size
    if batch == 1:
        chunks, rest = divmod(size, 16)
    elif size % 16 == 0 and size >= tile.least and batch < 65536:  # 65535 is the limit of a grid's second axis
        samples, chunks, rest = batch, size // 16, 0
    blocks = -(-16 * chunks // tile.block)
    return (blocks + -(-rest // tile.strip), samples, 1), (chunks, rest, size)
