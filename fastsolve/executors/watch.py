"""What of a model a captured graph takes for granted, and whether it still holds."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from itertools import chain
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
_place, _dtype = operator.methodcaller("data_ptr"), operator.attrgetter("dtype")


class Watch:
    """Parameters, buffers and submodules of every module that models reach, where their memory lies, and who is in training mode.

    Reached are: the models, what a method is bound to, the parts of a partial, modules and tensors among an object's attributes, and
    the outer variables of a function (globals included), which are watched themselves. Weights that change in place are no change: a
    graph reads them anew. What a model decides in Python by anything else, such as a counter of its own, cannot be seen.
    """

    def __init__(self, *models: object) -> None:
        self._reads: list[Callable[[], object]] = []
        seen: set[int] = set()
        roots = [root for model in models for root in self._reached(model, seen)]
        self._read = [read() for read in self._reads]
        modules = {id(m): m for root in roots if isinstance(root, Module) for m in root.modules()}.values()
        # A compiled module has no mode of its own: it tells that of the module inside, which is among these.
        self._states = [m.__dict__ for m in modules if "training" in m.__dict__]
        self._training = [state["training"] for state in self._states]
        self._dicts: list[dict[str, Any]] = [d for m in modules for d in (m._parameters, m._buffers, m._modules)]
        self._sizes = list(map(len, self._dicts))
        self._filled = [d for d in self._dicts if d]
        self._values = list(chain.from_iterable(d.values() for d in self._filled))
        tensors = [v for v in [*self._values, *roots] if isinstance(v, Tensor)]
        self._tensors = list(chain.from_iterable(map(_parts, tensors)))
        self._places, self._dtypes = list(map(_place, self._tensors)), list(map(_dtype, self._tensors))

    def holds(self) -> bool:
        """All is as it was: a graph captured then computes what the model would now."""
        return (
            list(map(len, self._dicts)) == self._sizes
            and all(map(operator.is_, chain.from_iterable(map(dict.values, self._filled)), self._values))
            and all(map(operator.is_, [read() for read in self._reads], self._read))
            and [state["training"] for state in self._states] == self._training
            and list(map(_place, self._tensors)) == self._places
            and list(map(_dtype, self._tensors)) == self._dtypes
        )

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
            cells = thing.__closure__ or ()
            names = [name for name in thing.__code__.co_names if name in thing.__globals__]
            self._reads += [functools.partial(_content, cell) for cell in cells]
            self._reads += [functools.partial(thing.__globals__.get, name) for name in names]
            # Functions of other files are libraries: they keep to themselves.
            near = [
                v
                for name in names
                if getattr(v := thing.__globals__[name], "__globals__", thing.__globals__) is thing.__globals__
            ]
            parts = [*map(_content, cells), *near]
        elif isinstance(thing, type | ModuleType) or not hasattr(thing, "__dict__"):
            return
        else:
            attributes = vars(thing)
            names = [name for name, v in attributes.items() if isinstance(v, Module | Tensor)]
            self._reads += [functools.partial(attributes.get, name) for name in names]
            parts = [attributes[name] for name in names]
        parts.append(getattr(thing, "__wrapped__", None))
        for part in parts:
            yield from self._reached(part, seen)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that hold a tensor's memory: itself, or those inside one of a class of its own (quantised, sharded)."""
    if type(tensor) in _PLAIN:
        yield tensor
    elif hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _parts(getattr(tensor, name))
