"""What is kept beside a model for its next use, and goes when the model goes."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from types import MethodType
from typing import Generic, TypeVar

from torch import Tensor

from fastsolve.denoiser import Denoiser

_MOST = 8  # things kept for one model; the one unused for longest goes first

T = TypeVar("T")
Model = Callable[..., Tensor]
_Name = tuple[int, object]


class Memo(Generic[T]):
    """Things by model, which is held weakly and known by identity, and key. What is kept must not hold the model: see `weakly`."""

    def __init__(self) -> None:
        self._kept: dict[_Name, tuple[weakref.ref[object], OrderedDict[Hashable, T]]] = {}
        self._lock = threading.RLock()  # a model may go, and its entry with it, while one is made

    def get(self, model: object, key: Hashable) -> T | None:
        """What was kept, or None."""
        with self._lock:
            kept = self._of(model)
            if key in kept:
                kept.move_to_end(key)
            return kept.get(key)

    def keep(self, model: object, key: Hashable, thing: T) -> None:
        """Keeps a thing; there must be weak references to the model."""
        with self._lock:
            kept = self._of(model)
            kept[key] = thing
            if len(kept) > _MOST:
                kept.popitem(last=False)
            owner, name = _named(model)
            self._kept[name] = (weakref.ref(owner, self._forget(name)), kept)

    def all_of(self, model: object) -> list[T]:
        """All that is kept for a model."""
        with self._lock:
            return list(self._of(model).values())

    def _of(self, model: object) -> OrderedDict[Hashable, T]:
        owner, name = _named(model)
        reference, kept = self._kept.get(name, (None, None))
        return OrderedDict() if reference is None or kept is None or reference() is not owner else kept

    def _forget(self, name: _Name) -> Callable[[object], None]:
        def forget(gone: object) -> None:
            with self._lock:
                if name in self._kept and self._kept[name][0] is gone:
                    del self._kept[name]

        return forget


def _named(model: object) -> tuple[object, _Name]:
    """What must live, and a name. A bound method is made anew at every look; what it is bound to stays."""
    if isinstance(model, MethodType):
        return model.__self__, (id(model.__self__), model.__func__)
    return model, (id(model), None)


class _Weak:
    """Calls a model that it does not keep alive."""

    def __init__(self, model: Model) -> None:
        self._model = weakref.WeakMethod(model) if isinstance(model, MethodType) else weakref.ref(model)

    @property
    def __wrapped__(self) -> Model | None:
        return self._model()

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        model = self._model()
        assert model is not None  # whoever samples holds it
        return model(x, t, **kwargs)


def weakly(denoiser: Denoiser, model: Denoiser | Model) -> Denoiser:
    """A denoiser that does not keep alive what it was made of: a copy of a Denoiser, a weak reference to a callable.

    Raises TypeError for a callable that has none.
    """
    return replace(denoiser) if isinstance(model, Denoiser) else replace(denoiser, model=_Weak(model))
