"""The CUDA kernels of csrc/cuda/. Pointers and streams are integers, tensors contiguous [batch, size]; nothing given here is kept alive."""

from collections.abc import Sequence

# As in _C.pyi.
_Update = tuple[Sequence[int], Sequence[tuple[int, int]], Sequence[tuple[int, Sequence[int], int]]]
_Mid = tuple[str, Sequence[int], int, int, int]

def hindrance(device: int) -> str:
    """Why kernels do not run on a device, in CUDA's words; empty if they do."""

class Program:
    """`_C.Program` on a GPU: the same updates, the same bits. Errors are ValueError, and RuntimeError where CUDA refuses.

    An update has at most 64 sources, 64 draws, 8 mids and 8 rows. Those of more than 8 sources, 3 draws or 4 rows, those with a
    draw before a source in a row, those with mids and all of a table with a stride go through a slower kernel.
    """

    def __init__(
        self,
        dtypes: Sequence[int],
        table: int,
        draws: int,
        updates: Sequence[_Update],
        batch: int,
        size: int,
        device: int,
        mids: Sequence[Sequence[_Mid]] = (),
        stride: int = 0,
    ) -> None:
        """`dtypes` of the slots: 0 float32, 1 bfloat16, 2 float16.

        On the device, and read at every run: `table`, float32, and `draws`, int32 (stream, number), those of all updates in
        their order; the numbers in `updates` are only counted. `mids` and `stride` are as in `_C.Program`.
        """

    def set(self, slot: int, pointer: int, /) -> None: ...
    def seeds(self, pointer: int, /) -> None:
        """uint64 [batch] on the device, read at every run that draws."""

    def run(self, update: int, stream: int, /) -> None:
        """One launch on a stream of the device. May be captured: it neither allocates nor waits."""
