# ruff: noqa: N999  (a C module, named as C modules are)
"""The native kernels of csrc/. Pointers are integers, tensors contiguous [batch, size]; nothing given here is kept alive."""

from collections.abc import Sequence

# source slots; draws as (stream, number); rows as (out slot, terms, offset of their coefficients in the table). A term p is
# source p, or draw p - len(sources).
_Update = tuple[Sequence[int], Sequence[tuple[int, int]], Sequence[tuple[int, Sequence[int], int]]]
# op, terms, offset, mask, known: see `fastsolve.program.Mid`. To later mids and to rows, mid j of an update is term
# len(sources) + len(draws) + j.
_Mid = tuple[str, Sequence[int], int, int, int]

def isa() -> str:
    """The instruction set in use: "avx512", "avx2" or "portable"."""

def set_isa(name: str) -> None:
    """For tests: all give the same bits. Raises ValueError for one that does not run here."""

def normals(out: int, seeds: int, batch: int, size: int, draw: int, stream: int, threads: int) -> None:
    """fastsolve.philox.normals to float32 `out`, bit for bit; `seeds` points to uint64 [batch]."""

class Program:
    """Updates over slots of pointers; one thread at a time may use one. Errors are ValueError.

    A row writes table[offset] * v[terms[0]] + table[offset + 1] * v[terms[1]] + ..., in this order, each product and each sum
    rounded to float32, then rounded to nearest even to the type of its out slot. All rows see the tensors before the update:
    an out slot may hold the pointer of a source whose elements have the same size.
    """

    def __init__(
        self,
        dtypes: Sequence[int],
        table: int,
        updates: Sequence[_Update],
        batch: int,
        size: int,
        threads: int,
        mids: Sequence[Sequence[_Mid]] = (),
        stride: int = 0,
    ) -> None:
        """`dtypes` of the slots: 0 float32, 1 bfloat16, 2 float16. The float32 `table` is read at every run.

        `mids`: those of each update, or nothing where no update has any. `stride`: the coefficients of sample i begin at
        table[i * stride]; offsets count from there.
        """

    def set(self, slot: int, pointer: int, /) -> None: ...
    def seeds(self, pointer: int, /) -> None:
        """uint64 [batch], read at every run that draws."""

    def run(self, update: int, /) -> None: ...
    def step(self, update: int, slot: int, pointer: int, /) -> None:
        """`set`, then `run`, in one call."""
