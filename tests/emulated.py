"""An accelerator that is not there, and a ledger of what a real one would have been told to do between two calls of a model.

An `Emulated` tensor says it is on device "emulated" and holds its numbers in a CPU tensor; every ATen operator on it is computed there
and written down: as a launch, an upload (host to device), a synchronisation, or as what costs the device nothing (views,
allocations). Operators on ordinary CPU tensors, which play the host, are written down as such. A Triton kernel on emulated tensors
runs in Triton's interpreter and is one launch, whoever launched it.

What is written down is a lower bound: an operator counts as one launch though some are several (stack, solve, a sort), and an upload
from ordinary memory, which also waits for the device, as an upload only. The rules of a real device hold: tensors of two devices do
not mix, but for a host scalar. The label is not "meta", whose tensors torch makes without the copy that brings numbers to them
(torch.tensor(0.5, device="meta") copies nothing). Importing this file names a backend of torch for the whole process, which cannot be
undone: use it in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("emulated")
DEVICE = torch.device("emulated", 0)

_COPIES = {"_to_copy", "copy_"}
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_ANSWERS = {"_local_scalar_dense", "_linalg_check_errors"}  # a value read by the host, and no kernel
_WAITS = {*_ANSWERS, "nonzero", "masked_select", "equal", "_unique2"}
_INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_"}  # take host indices to the device by themselves
_WRITES_ONLY = {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_"}


@dataclass
class Gap:
    """What happened between two calls of a model, by operator. moved: bytes that launches read and wrote on the device."""

    launches: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    free: Counter[str] = field(default_factory=Counter)  # views and allocations of device tensors
    host: Counter[str] = field(default_factory=Counter)
    moved: int = 0


class Ledger:
    """gaps[0] is what came before the first call of the model, gaps[-1] what came after the last."""

    def __init__(self) -> None:
        self.gaps = [Gap()]
        self._aside = 0

    @property
    def now(self) -> Gap | None:
        """The gap being written; None inside a model and inside a kernel."""
        return None if self._aside else self.gaps[-1]

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside is nobody's cost."""
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1

    def watched(self, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The model, whose calls end one gap and begin the next."""

        @functools.wraps(model)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            with self.aside():
                out = model(*args, **kwargs)
            self.gaps.append(Gap())
            return out

        return call


_current: Ledger | None = None


class Emulated(Tensor):
    """A tensor on the emulated device; `host` is the CPU tensor with its numbers, and its address is that tensor's."""

    host: Tensor

    def __new__(cls, host: Tensor) -> Emulated:
        made: Emulated = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
        )
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Emulated({self.host})"


class _Everything(TorchDispatchMode):
    """Sees operators without an emulated tensor too: those that make one, and those of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator's result: on the device if an operand or the device asked for is there."""
    name, gap = func.overloadpacket.__name__, _current.now if _current else None
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [t for t in tensors if isinstance(t, Emulated)]
    theirs = [t for t in tensors if not isinstance(t, Emulated)]
    target = kwargs.get("device")
    if name == "copy_":
        to_device = isinstance(args[0], Emulated)
    else:
        to_device = bool(ours) if target is None else torch.device(target).type == DEVICE.type
    if ours and name not in _COPIES | _INDEXING and any(t.dim() for t in theirs):
        raise RuntimeError(f"{func}: expected all tensors to be on one device, but found emulated:0 and cpu")
    plain_args, plain_kwargs = tree_map(_plain, args), tree_map(_plain, kwargs)
    out = func(*plain_args, **plain_kwargs)
    if gap is not None:
        _written(gap, func, name, ours, theirs, to_device, out)
    if not to_device:
        return out
    known = {id(t.host): t for t in ours}  # an operator in place returns its operand
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else Emulated(t), out)


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, Emulated):
        return leaf.host
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == DEVICE.type else leaf


def _written(gap: Gap, func: Any, name: str, ours: list[Any], theirs: list[Tensor], to_device: bool, out: Any) -> None:
    """Notes an operator in the ledger."""
    if not ours and not to_device:
        gap.host[name] += 1
    elif name in _COPIES and to_device != bool(ours if name == "_to_copy" else len(ours) == 2):
        (gap.uploads if to_device else gap.waits)[name] += 1
    elif func.is_view or name in _ALLOCATIONS or name == "_unsafe_view":
        gap.free[name] += 1
    else:
        if name in _INDEXING:
            gap.uploads[name] += sum(t.dim() > 0 for t in theirs)
            gap.waits[name] += any(t.dtype in (torch.bool, torch.uint8) for t in ours[1:])
        if name in _WAITS:
            gap.waits[name] += 1
        if name in _ANSWERS:
            return
        gap.launches[name] += 1
        read = ours[1:] if name in _WRITES_ONLY else ours
        gap.moved += sum(map(_bytes, [*read, *(t for t in tree_leaves(out) if isinstance(t, Tensor))]))


def _bytes(tensor: Tensor) -> int:
    """Of the elements that are there: a broadcast dimension has one."""
    return math.prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step) * tensor.element_size()


def _scalar(tensor: Emulated) -> Any:
    """What torch.tensor([x, y]) asks of the elements of a list, past all modes."""
    if _current and _current.now:
        _current.now.waits["_local_scalar_dense"] += 1
    return tensor.host.item()


_library = torch.library.Library("aten", "IMPL")
_library.impl("_local_scalar_dense", _scalar, "PrivateUse1")


@contextlib.contextmanager
def counting() -> Iterator[Ledger]:
    """The emulated device at work; operators and Triton's launches inside are written to the ledger."""
    global _current
    ledger, only_lift = Ledger(), torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) shows its copy, as for fake tensors
    _current = ledger
    try:
        with _Everything(), _triton_launches(ledger):
            yield ledger
    finally:
        _current = None
        torch._C._set_only_lift_cpu_tensors(only_lift)


@contextlib.contextmanager
def _triton_launches(ledger: Ledger) -> Iterator[None]:
    """Every launch of every Triton kernel goes through the interpreter's GridExecutor; its bytes are those that its blocks touch.

    Loads of single words (coefficients, a seed) are not counted.
    """
    from triton.runtime import interpreter

    launch, builder = interpreter.GridExecutor.__call__, interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def counted_launch(self: Any, *args: Any, **kwargs: Any) -> None:
        if ledger.now:
            ledger.now.launches[self.fn.__name__] += 1
        with ledger.aside():
            launch(self, *tree_map(_plain, args), **tree_map(_plain, kwargs))

    def touched(ptrs: Any, mask: Any) -> None:
        if ptrs.data.size > 1:
            ledger.gaps[-1].moved += int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        touched(ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        touched(ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    interpreter.GridExecutor.__call__ = counted_launch
    builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
    try:
        yield
    finally:
        interpreter.GridExecutor.__call__ = launch
        builder.create_masked_load, builder.create_masked_store = load, store
