"""The catalogue: every file of this folder that registers a solver. One paper, one file; adding a file adds its solvers."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node

Grid = tuple[Node, ...]
Text = Callable[..., Form]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Solver:
    """A registered solver and its declared facts, which the tests check.

    order: of the mean on smooth problems (ODE order where deterministic). weak_order: of the variance, for stochastic ones.
    stages: model calls per step. stochastic: draws noise with its default options. forms: the output that is held or interpolated
    over a step (data, noise, velocity ...). source: where the formula comes from.
    """

    name: str
    text: Text
    order: int
    stages: int
    stochastic: bool
    weak_order: int | None
    source: str
    options: Mapping[str, object]
    forms: str

    def write(self, draft: Draft, grid: Grid, options: Mapping[str, object]) -> Form:
        """The solver's text on a draft; returns the form of the final state."""
        return self.text(draft, grid, **options)


def one_of(option: str, value: T, allowed: Iterable[object]) -> T:
    """The value of an option that takes one of a few. Raises ValueError that names them and, for a name, the nearest."""
    known = list(allowed)
    if isinstance(value, bool | float) or value not in known:
        near = difflib.get_close_matches(str(value), [k for k in known if isinstance(k, str)], 1, 0.0)
        hint = f"; nearest is {near[0]!r}" if near and isinstance(value, str) else ""
        raise ValueError(f"{option} must be one of {', '.join(map(repr, known))}, not {value!r}{hint}")
    return value


_registry: dict[str, Solver] = {}


def solver(
    name: str,
    *,
    order: int,
    stages: int = 1,
    stochastic: bool = False,
    weak_order: int | None = None,
    source: str,
    forms: str = "data",
) -> Callable[[Text], Text]:
    """Register a function (draft, grid, *, options...) -> final form as a solver; defining it again (a notebook's cell) replaces it.

    Raises ValueError if another function has the name, TypeError for options that are not keyword-only or have no default, or where
    the docstring is missing.
    """

    def register(text: Text) -> Text:
        taken = _registry.get(name)
        if taken and (taken.text.__module__, taken.text.__qualname__) != (text.__module__, text.__qualname__):
            raise ValueError(f"two solvers are called {name!r}: {taken.text.__module__} and {text.__module__}")
        _, _, *parameters = inspect.signature(text).parameters.values()
        wrong = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY or p.default is p.empty]
        if wrong:
            raise TypeError(f"options of solver {name!r} must be keyword-only and have a default: {', '.join(wrong)}")
        if not text.__doc__:
            raise TypeError(f"solver {name!r} needs a docstring: method, authors, year, source")
        options = {p.name: p.default for p in parameters}
        _registry[name] = Solver(name, text, order, stages, stochastic, weak_order, source, options, forms)
        return text

    return register


@functools.cache
def _discover() -> None:
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")


def names() -> list[str]:
    """Names of all registered solvers, sorted."""
    _discover()
    return sorted(_registry)


def get(name: str) -> Solver:
    """The solver of a name. Raises ValueError that names the nearest match."""
    _discover()
    if name not in _registry:
        near = difflib.get_close_matches(str(name), _registry, 1, 0.0)
        raise ValueError(f"unknown solver {name!r}; nearest is {near[0]!r}; known are {', '.join(sorted(_registry))}")
    return _registry[name]
