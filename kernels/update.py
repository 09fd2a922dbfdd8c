"""The fused update: every row of one step of a sampler in one launch.

    out[r] = round(c[r,0] * v[r,0] + c[r,1] * v[r,1] + ...)      v a source tensor, a draw or a mid, r = 0 .. rows - 1

Sums run from left to right, each product and each sum rounded to float32, and the result to the type of out[r], to nearest
even. All rows see the tensors before the update: an out may be one of the sources. A draw is computed once for all rows
and costs no memory (philox.py); so is a mid (mids.py). Tensors are [batch, size], contiguous, of float32, bfloat16 or float16 in
any mixture.

Bytes per element: sum of sizeof(source) + sum of sizeof(out). Coefficients, draw numbers and seeds are a few words from L2.

Full blocks go in vectors, without a mask. What is left goes singly, as does what lies beyond 2^31 elements, and all where a tensor does
not start on 16 bytes. Where each sample has coefficients of its own, a program stays inside one sample. One compiled variant per
pattern, which is rows, mids, types, and whether samples share coefficients: these, draws and seeds come from device memory, and no
step, batch, size or address is part of the code.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import bound, tiles
from .bound import Direct as Direct, Grid
from .mids import Mid as Mid, coded, with_mids
from .philox import block_normals, element_normals

MOST_SAMPLES = 65535  # on the second axis of a grid

# The interpreter truncates what a GPU rounds. Bits are right on both, but for a GPU they would be six instructions where a cast is
# half of one.
_BFLOAT16_BY_BITS: tl.constexpr = tl.constexpr(tiles.INTERPRETING)


@triton.jit
def widened(x):
    if x.dtype == tl.bfloat16:
        # One instruction for either half of a register, where a cast is two for the upper; and subnormals stay, interpreted too.
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
def _read(sources, at, inside, WIDTH: tl.constexpr):
    """Elements `at`, of which every WIDTH in a row start on as many bytes as they have."""
    values = ()
    for i in tl.static_range(len(sources)):
        # The hint must stand on the sum itself, and in the function that makes it: else Triton reads one element at a time.
        place = tl.multiple_of(sources[i] + at, WIDTH * sources[i].dtype.element_ty.primitive_bitwidth // 8)
        values = values + (widened(tl.load(place, mask=inside)),)
    return values


@triton.jit
def _write(outs, values, table, at, inside, ROWS: tl.constexpr, MIDS: tl.constexpr, WIDTH: tl.constexpr):
    values = with_mids(values, table, MIDS)
    # Every row before the first store: a row's coefficients then load together with its sources.
    results = ()
    k = 0
    for r in tl.static_range(len(ROWS)):
        acc = tl.load(table + k) * values[ROWS[r][0]]
        for j in tl.static_range(1, len(ROWS[r])):
            acc = acc + tl.load(table + k + j) * values[ROWS[r][j]]
        k += len(ROWS[r])
        results = results + (_rounded(acc, outs[r].dtype.element_ty),)
    for r in tl.static_range(len(ROWS)):
        place = tl.multiple_of(outs[r] + at, WIDTH * outs[r].dtype.element_ty.primitive_bitwidth // 8)
        tl.store(place, results[r], mask=inside)


@triton.jit
def _moved(tensors, distance):
    moved = ()
    for i in tl.static_range(len(tensors)):
        moved = moved + (tensors[i] + distance,)
    return moved


@triton.jit
def vectors(outs, sources, table, draws, seeds, sample, start, ROWS: tl.constexpr, MIDS: tl.constexpr,
            DRAWS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, PTX: tl.constexpr):  # fmt: skip
    """Elements start .. start + BLOCK - 1, all of them there, in 32-bit arithmetic and without a mask."""
    at = start + tl.arange(0, BLOCK)
    values = _read(sources, at, None, WIDTH)
    if DRAWS > 0:
        seed = tl.load(seeds + sample)
        for d in tl.static_range(DRAWS):
            stream, number = tl.load(draws + 2 * d).to(tl.uint32), tl.load(draws + 2 * d + 1).to(tl.uint32)
            values = values + (block_normals(seed, start, number, stream, BLOCK, WIDTH, PTX),)
    _write(outs, values, table, at, None, ROWS, MIDS, WIDTH)


@triton.jit
def singles(outs, sources, table, draws, seeds, sample, start, end, size, ROWS: tl.constexpr, MIDS: tl.constexpr,
            DRAWS: tl.constexpr, STRIP: tl.constexpr, PTX: tl.constexpr):  # fmt: skip
    """Elements start .. start + STRIP - 1, below `end`, whatever their alignment, of samples of `size` elements from `sample` on."""
    at = start + tl.arange(0, STRIP)
    inside = at < end
    values = _read(sources, at, inside, 1)
    if DRAWS > 0:
        beyond = at // size
        seed = tl.load(seeds + sample + beyond, mask=inside, other=0)
        for d in tl.static_range(DRAWS):
            stream, number = tl.load(draws + 2 * d).to(tl.uint32), tl.load(draws + 2 * d + 1).to(tl.uint32)
            values = values + (element_normals(seed, at - beyond * size, number, stream, PTX),)
    _write(outs, values, table, at, inside, ROWS, MIDS, 1)


@triton.jit(
    do_not_specialize=["blocks", "end", "size", "stride"],
    do_not_specialize_on_alignment=["table", "draws", "seeds"],
)
def update(outs, sources, table, draws, seeds, blocks: tl.int32, end: tl.int64, size: tl.int64, stride: tl.int64,
           ROWS: tl.constexpr, MIDS: tl.constexpr, DRAWS: tl.constexpr, PER_SAMPLE: tl.constexpr, BLOCK: tl.constexpr,
           WIDTH: tl.constexpr, STRIP: tl.constexpr, PTX: tl.constexpr):  # fmt: skip
    sample = 0
    if DRAWS > 0 or PER_SAMPLE:
        sample = tl.program_id(1)
        if PER_SAMPLE:
            table += sample.to(tl.int64) * stride
        outs, sources = _moved(outs, sample.to(tl.int64) * size), _moved(sources, sample.to(tl.int64) * size)
    block = tl.program_id(0)
    if block < blocks:
        vectors(outs, sources, table, draws, seeds, sample, block * BLOCK, ROWS, MIDS, DRAWS, BLOCK, WIDTH, PTX)
    else:
        start = blocks.to(tl.int64) * BLOCK + (block - blocks).to(tl.int64) * STRIP
        singles(outs, sources, table, draws, seeds, sample, start, end, size, ROWS, MIDS, DRAWS, STRIP, PTX)


class Update:
    """A pattern: rows[r] holds the positions that row r sums, in order: those of sources, then of draws, then of mids."""

    def __init__(self, rows: Sequence[Sequence[int]], n_sources: int, n_draws: int, mids: Sequence[Mid] = ()) -> None:
        self.rows, self.mids = tuple(tuple(row) for row in rows), coded(mids, n_sources, n_draws)
        self.n_sources, self.n_draws = n_sources, n_draws
        if not self.rows or not all(self.rows):
            raise ValueError(f"an update needs rows and a row needs terms, not {self.rows}")
        if not all(0 <= p < n_sources + n_draws + len(self.mids) for row in self.rows for p in row):
            named = f"{n_sources} sources, {n_draws} draws and {len(self.mids)} mids"
            raise ValueError(f"rows {self.rows} name positions outside {named}")

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
    ) -> Direct | None:
        """Runs by Triton's public way, on the current stream of the tensors' device, which must be the current one.

        Coefficients of the rows are table[offset:], row after row, or table[i, offset:] for sample i. draws is int32 [n, 2],
        (stream, number), this update's from draw_offset on; seeds is int64 or uint64 [batch]. Returned is a faster way to run
        the same at other addresses: None where this Triton has none.
        """
        if (len(outs), len(sources)) != (len(self.rows), self.n_sources):
            raise ValueError(f"{len(outs)} outs, {len(sources)} sources: not {len(self.rows)} and {self.n_sources}")
        per_sample = table.ndim == 2
        if per_sample and (len(table) != batch or batch > MOST_SAMPLES):
            raise ValueError(f"coefficients of {len(table)} samples for a batch of {batch}; at most are {MOST_SAMPLES}")
        if batch * size == 0:
            return None
        if self.n_draws == 0:
            draws = seeds = None  # else they were one more variant
            if not per_sample:
                batch, size = 1, batch * size  # where one sample ends does not matter
        target = None if tiles.INTERPRETING else triton.runtime.driver.active.get_current_target()
        itemsizes = {t.element_size() for t in (*sources, *outs)}
        tile = tiles.choose(itemsizes, self.n_sources + len(self.mids), self.n_draws, len(outs), target, batch, size)
        tables = (
            (table.view(-1) if per_sample else table)[offset:],
            None if draws is None else draws[draw_offset:],
            seeds,
        )
        stride = table.shape[1] if per_sample else 0
        constants = (self.rows, self.mids, self.n_draws, per_sample, tile.block, tile.width, tile.strip, tile.ptx)
        options = {"num_warps": tile.warps, "enable_fp_fusion": False}
        even, uneven = (
            (grid, (*extent, stride, *constants))
            for grid, extent in (_split(batch, size, tile, e, per_sample) for e in (True, False))
        )
        direct = None
        if not tiles.INTERPRETING:
            types = (tuple(_Anywhere(t.dtype) for t in tensors) for tensors in (outs, sources))
            compiled = update.warmup(*types, *tables, *even[1], grid=even[0], **options)
            direct = bound.launch(compiled, table.device.index, even, uneven)
        ours, theirs = (tuple(t.data_ptr() for t in tensors) for tensors in (outs, sources))
        if direct is None:
            grid, rest = uneven if bound.uneven(*ours, *theirs) else even
            update[grid](tuple(outs), tuple(sources), *tables, *rest, **options)
        else:
            direct(ours, theirs, tables[0].data_ptr(), *(None if t is None else t.data_ptr() for t in tables[1:]))
        return direct


class _Anywhere:
    """Stands for tensors of a type when the kernel is compiled: at an address that no second variant is worth compiling for."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def data_ptr(self) -> int:
        return 1


def _split(batch: int, size: int, tile: tiles.Tile, even: bool, per_sample: bool) -> tuple[Grid, tuple[int, int, int]]:
    """The grid, and (blocks, end, size) of the kernel."""
    # Samples on the second axis where blocks fit into each and begin on 16 bytes, or each has its table; else all in a row.
    fits = size % 16 == 0 and size >= tile.block
    apart = per_sample or (batch > 1 and fits and batch <= MOST_SAMPLES)
    samples, end = (batch, size) if apart else (1, batch * size)
    blocks = min(end, 2**31 - 1) // tile.block if even and (batch == 1 or (apart and fits)) else 0
    return (blocks + -(-(end - blocks * tile.block) // tile.strip), samples), (blocks, end, size)
