"""What of a model a captured graph takes for granted, and whether it still holds."""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
# The number of elements in place of the shape takes 60 ns less a tensor, and with the strides says the same in all but odd cases.
_FACTS: tuple[Callable[[Tensor], object], ...] = (
    Tensor.data_ptr,
    Tensor.numel,
    Tensor.stride,
    operator.attrgetter("dtype"),
)


class Watch:
    """Parameters, buffers, submodules and other tensors of every module that models reach, where and how their memory lies, and who
    is in training mode.

    Reached are: the models, what a method is bound to, the parts of a partial, modules and tensors among an object's attributes,
    the outer variables of a function (globals included), which are watched themselves, and modules and tensors in a list, tuple or
    dict that is one of these. Weights that change in place are no change: a
    graph reads them anew. What a model decides in Python by anything else, such as a counter of its own, cannot be seen.

    It holds the parts of a model and not the model, so that what is kept beside a model can go with it: unless one of those holds it.
    """

    def __init__(self, *models: object) -> None:
        self._reads: list[Callable[[], object]] = []
        seen: set[int] = set()
        roots = [root for model in models for root in self._reached(model, seen)]
        modules = {id(m): m for root in roots if isinstance(root, Module) for m in root.modules()}.values()
        tops, self._states = set(map(id, roots)), list[dict[str, Any]]()
        for module in modules:
            self._note(module, [name for name, v in vars(module).items() if isinstance(v, Tensor)])
            if id(module) in tops or "training" not in vars(module):  # a compiled one tells the mode of that inside it
                self._note(module, ["training"])
            else:
                self._states.append(vars(module))
        self._read = [read() for read in self._reads]
        self._training = [state["training"] for state in self._states]
        self._dicts: list[Any] = [d for m in modules for d in (m._parameters, m._buffers, m._modules)]
        self._sizes = list(map(len, self._dicts))
        # The values of a dict stay its own. TorchScript has something else in place of dicts, whose values are asked for each time.
        self._live = [d.values() for d in self._dicts if d and isinstance(d, dict)]
        self._scripted = [d for d in self._dicts if d and not isinstance(d, dict)]
        self._values = list(self._now())
        tensors = {id(v): v for v in [*self._values, *self._read, *roots] if isinstance(v, Tensor)}.values()
        self._tensors = [t for t in tensors if type(t) in _PLAIN and t.layout is torch.strided]
        self._facts = [list(map(fact, self._tensors)) for fact in _FACTS]
        self._others = [t for t in tensors if type(t) not in _PLAIN or t.layout is not torch.strided]
        self._inside = list(map(_inside, self._others))

    def holds(self) -> bool:
        """All is as it was: a graph captured then computes what the model would now."""
        return (
            list(map(len, self._dicts)) == self._sizes
            and all(map(operator.is_, self._now(), self._values))
            and all(map(operator.is_, [read() for read in self._reads], self._read))
            and [state["training"] for state in self._states] == self._training
            and all(list(map(fact, self._tensors)) == known for fact, known in zip(_FACTS, self._facts, strict=True))
            and list(map(_inside, self._others)) == self._inside
        )

    def _now(self) -> Iterator[object]:
        return chain(chain.from_iterable(self._live), chain.from_iterable(d.values() for d in self._scripted))

    def _note(self, thing: object, names: list[str]) -> None:
        """Attributes to look at, of something that may hold itself."""
        try:
            reference: Callable[[], object] = weakref.ref(thing)
        except TypeError:
            reference = functools.partial(_same, thing)
        self._reads += [functools.partial(_attribute, reference, name) for name in names]

    def _reached(self, thing: object, seen: set[int]) -> Iterator[object]:
        """Modules and tensors that a callable reaches; on the way its variables are noted."""
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, Module | Tensor):
            yield thing
            return
        if isinstance(thing, MethodType):
            parts = [thing.__self__, thing.__func__]
        elif isinstance(thing, functools.partial):
            parts = [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, FunctionType):
            cells = [cell for cell in thing.__closure__ or () if _content(cell) is not thing]
            names = [name for name in dict.fromkeys(_names(thing.__code__)) if name in thing.__globals__]
            self._reads += [functools.partial(_content, cell) for cell in cells]
            self._reads += [functools.partial(thing.__globals__.get, name) for name in names]
            # Functions of other files are libraries: they keep to themselves.
            near = [
                v
                for name in names
                if getattr(v := thing.__globals__[name], "__globals__", thing.__globals__) is thing.__globals__
            ]
            parts = [*map(_content, cells), *near]
        elif isinstance(thing, dict | list | tuple):
            keys = [key for key, v in _items(thing) if isinstance(v, Module | Tensor)]
            self._reads += [functools.partial(_item, thing, key) for key in keys]
            parts = [thing[key] for key in keys]
        elif isinstance(thing, type | ModuleType) or not hasattr(thing, "__dict__"):
            return
        else:
            attributes = vars(thing)
            names = [name for name, v in attributes.items() if isinstance(v, Module | Tensor | dict | list | tuple)]
            self._note(thing, names)
            parts = [attributes[name] for name in names]
        parts.append(getattr(thing, "__wrapped__", None))
        for part in parts:
            yield from self._reached(part, seen)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _items(thing: dict[Any, object] | list[object] | tuple[object, ...]) -> Iterable[tuple[Any, object]]:
    return thing.items() if isinstance(thing, dict) else enumerate(thing)


def _item(thing: Any, key: Any) -> object:
    try:
        return thing[key]
    except (KeyError, IndexError):
        return None


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function's code looks up, and that of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _same(thing: object) -> object:
    return thing


def _attribute(reference: Callable[[], object], name: str) -> object:
    return getattr(reference(), name, None)


def _inside(tensor: Tensor) -> tuple[object, ...]:
    """The facts of the tensors that hold a tensor's memory: those inside one of a class of its own (quantised, sharded) or sparse."""
    if hasattr(tensor, "__tensor_flatten__"):
        return tuple(_inside(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    if tensor.layout is torch.sparse_coo:
        return _inside(tensor._indices()), _inside(tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return _inside(tensor.crow_indices()), _inside(tensor.col_indices()), _inside(tensor.values())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return _inside(tensor.ccol_indices()), _inside(tensor.row_indices()), _inside(tensor.values())
    try:
        return tuple(fact(tensor) for fact in _FACTS)
    except (RuntimeError, ValueError):  # not there yet, or of a kind that shows nothing
        return ()
