"""The update as an operator of torch, `fastsolve::combine`, for code of one's own that torch compiles, exports or differentiates.

The executors' loop does not call it: torch's dispatcher costs the host more than the launch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastsolve import philox
from fastsolve.executors import HALF_OR_SINGLE, choose
from fastsolve.executors.run import Setting

if TYPE_CHECKING:
    from fastsolve.kernels.update import Direct

_NAME = "fastsolve::combine"
# In a schema a list of dtypes would arrive as numbers. No argument has a default there: torch would leave it out, which is one gradient
# less than `_backward` returns.
_TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
torch.library.define(
    _NAME,
    "(Tensor table, Tensor[] sources, Tensor? draws, Tensor? seeds, str[]? dtypes) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def combine(
    table: Tensor,
    sources: Sequence[Tensor],
    *,
    draws: Tensor | None = None,
    seeds: Tensor | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
) -> list[Tensor]:
    """Every row of `table` times [sources, draws], in one launch: out[r] = sum of table[r, i] * sources[i], then of the draws.

    table: float32 or float64 [rows, sources + draws], on the sources' device; what is not known before a graph is captured can be
    written into it later. sources: at least one, floating tensors of one shape [B, *shape], of any types. draws: int32 [n, 2], (stream,
    number) of each tensor of normals; a stream is any number, of which samplers use 0 for the noise they start from and 1 for that of
    their steps. seeds: int64 [B], the samples' own. dtypes: of the rows, all of the table's type by default.

    Sums run from left to right in the table's type, each product and each sum rounded; with a float32 table and sources of float32,
    bfloat16 and float16 the bits are the same on every device. Differentiable in the sources.

        y, model_input = fastsolve.combine(table, [x, d, before], draws=draws, seeds=seeds, dtypes=[torch.float32, torch.bfloat16])

    Raises ValueError or TypeError for what does not fit together.
    """
    for dtype in dtypes or ():
        if dtype not in _NAMES:
            raise TypeError(f"a row can be {', '.join(_TYPES)}, not {dtype}")
    names = None if dtypes is None else [_NAMES[dtype] for dtype in dtypes]
    return torch.ops.fastsolve.combine(table, list(sources), draws, seeds, names)  # type: ignore[no-any-return]


def _outs(
    table: Tensor, sources: list[Tensor], draws: Tensor | None, seeds: Tensor | None, dtypes: list[str] | None
) -> list[Tensor]:
    """Checks, and empty tensors for the rows."""
    if not sources:
        raise ValueError("combine needs at least one source: it gives the shape")
    first, n_draws = sources[0], 0 if draws is None else draws.shape[0]
    for source in sources:
        if source.shape != first.shape or source.device != first.device or not source.is_floating_point():
            raise ValueError(
                f"sources must be floating tensors of one shape on one device: {source.dtype} {tuple(source.shape)} on "
                f"{source.device} beside {tuple(first.shape)} on {first.device}"
            )
    if table.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"table must be float32 or float64, not {table.dtype}")
    if table.dim() != 2 or table.shape[1] != len(sources) + n_draws or table.shape[0] == 0:
        raise ValueError(f"table {tuple(table.shape)} must be [rows, {len(sources)} sources + {n_draws} draws]")
    if n_draws:
        if draws is None or draws.dtype != torch.int32 or draws.dim() != 2 or draws.shape[1] != 2:
            raise ValueError("draws must be int32 [n, 2]: stream and number of each")
        if seeds is None or seeds.dtype != torch.int64 or seeds.shape != first.shape[:1]:
            raise ValueError(f"draws need seeds, int64 [{first.shape[0] if first.dim() else ''}]: one for each sample")
    for tensor in (table, draws, seeds):
        if tensor is not None and tensor.device != first.device:
            raise ValueError(
                f"table, draws and seeds must be on the sources' device {first.device}, not {tensor.device}"
            )
    kinds = [table.dtype] * table.shape[0] if dtypes is None else [_TYPES[name] for name in dtypes]
    if len(kinds) != table.shape[0]:
        raise ValueError(f"{len(kinds)} dtypes for {table.shape[0]} rows")
    return [torch.empty(first.shape, dtype=kind, device=first.device) for kind in kinds]


torch.library.register_fake(_NAME, _outs)


@functools.cache
def _executor(device: torch.device, dtype: torch.dtype) -> str:
    return choose("auto", Setting((1,), device, dtype, torch.float32, torch.float32, torch.float32, False)).name


@torch.library.impl(_NAME, "default")
def _combine(
    table: Tensor, sources: list[Tensor], draws: Tensor | None, seeds: Tensor | None, dtypes: list[str] | None
) -> list[Tensor]:
    outs = _outs(table, sources, draws, seeds, dtypes)
    if outs[0].numel() == 0:
        return outs
    table, sources = table.contiguous(), [source.contiguous() for source in sources]
    batch = seeds.shape[0] if draws is not None and seeds is not None and len(draws) else 1
    name = "eager"
    if all(tensor.dtype in HALF_OR_SINGLE for tensor in (*sources, *outs)):
        name = _executor(table.device, table.dtype)
    {"native": _native, "fused": _fused}.get(name, _eager)(table, sources, draws, seeds, outs, batch)
    return outs


_launchers: dict[tuple[object, ...], Direct | None] = {}


def _fused(
    table: Tensor, sources: list[Tensor], draws: Tensor | None, seeds: Tensor | None, outs: list[Tensor], batch: int
) -> None:
    from fastsolve.kernels.update import Update

    n_draws, size = table.shape[1] - len(sources), outs[0].numel() // batch
    given = [t.contiguous() if t is not None and n_draws else None for t in (draws, seeds)]
    key = (table.shape, n_draws, batch, size, table.device, *(t.dtype for t in (*sources, *outs)))
    with torch.cuda.device(table.device):
        if (direct := _launchers.get(key)) is not None:
            ours, theirs = (tuple(t.data_ptr() for t in tensors) for tensors in (outs, sources))
            direct(ours, theirs, table.data_ptr(), *(None if t is None else t.data_ptr() for t in given))
        else:
            update = Update([range(table.shape[1])] * len(outs), len(sources), n_draws)
            _launchers[key] = update(sources, outs, table.view(-1), 0, given[0], 0, given[1], batch, size)


def _native(
    table: Tensor, sources: list[Tensor], draws: Tensor | None, seeds: Tensor | None, outs: list[Tensor], batch: int
) -> None:
    from fastsolve import _C
    from fastsolve.executors.native import CODES

    tensors, columns = [*sources, *outs], range(table.shape[1])
    rows = [(len(sources) + r, columns, r * len(columns)) for r in range(len(outs))]
    numbered = [] if draws is None else draws.tolist()
    program = _C.Program(
        [CODES[tensor.dtype] for tensor in tensors],
        table.data_ptr(),
        [(range(len(sources)), numbered, rows)],
        batch,
        outs[0].numel() // batch,
        torch.get_num_threads(),
    )
    if seeds is not None:
        seeds = seeds.contiguous()
        program.seeds(seeds.data_ptr())
    for slot, tensor in enumerate(tensors):
        program.set(slot, tensor.data_ptr())
    program.run(0)


def _eager(
    table: Tensor, sources: list[Tensor], draws: Tensor | None, seeds: Tensor | None, outs: list[Tensor], batch: int
) -> None:
    values = [source.to(table.dtype) for source in sources]
    if draws is not None and seeds is not None:
        keys = seeds.cpu().numpy().view("u8")
        for stream, number in draws.tolist():
            z = torch.from_numpy(philox.normals(keys, outs[0].numel() // batch, number, stream))
            values.append(z.reshape(outs[0].shape).to(table))
    for out, row in zip(outs, table.tolist(), strict=True):
        total = row[0] * values[0]
        for c, value in zip(row[1:], values[1:], strict=True):
            total = total + c * value
        out.copy_(total)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    table, sources = inputs[:2]
    ctx.save_for_backward(table)
    ctx.dtypes = [source.dtype for source in sources]


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    """A linear map's transpose is one more update."""
    (table,) = ctx.saved_tensors
    if ctx.needs_input_grad[0]:
        raise NotImplementedError("combine is differentiable in its sources, not in its table")
    back = table[:, : len(ctx.dtypes)].t()
    return None, combine(back, grads, dtypes=ctx.dtypes), None, None, None


torch.library.register_autograd(_NAME, _backward, setup_context=_keep)
