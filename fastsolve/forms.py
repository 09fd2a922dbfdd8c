"""Forms: exact linear combinations of named tensors, the arithmetic in which solvers are written.

A form is a sum of coefficient * symbol. Symbols are names: `x3` a stored tensor, `d3` the denoiser's data prediction at call 3,
`z3` draw number 3. Coefficients are Python floats (float64). Forms are values: every operation makes a new one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping

# Two contributions that cancel to less than this, relatively, cancel exactly: the rest is rounding of float64 coefficients,
# and a kept 1e-17 * x would cost a read of x. Products of a handful of coefficients err by a few 2^-53 (1.1e-16).
CANCELLATION = 2.0**-44

_LARGEST = sys.float_info.max


class FormError(ValueError):
    """A factor that is not a finite number, or an operation that is not linear. (Overflow is found when a plan is verified.)"""


class Form:
    """A linear combination. Supports form + form, form - form, number * form, form / number, -form."""

    __slots__ = ("terms",)
    __array_ufunc__ = None  # a NumPy scalar times a form is ours to compute

    terms: Mapping[str, float]

    def __init__(self, terms: Mapping[str, float]) -> None:
        self.terms = terms

    def __add__(self, other: Form) -> Form:
        if not isinstance(other, Form):
            raise FormError(f"a form can be added to a form only, not to {other!r}")
        return Form(merge(self.terms, other.terms.items()))

    def __radd__(self, other: int) -> Form:
        if other != 0:  # sum() starts from it
            raise FormError(f"a form can be added to a form only, not to {other!r}")
        return self

    def __sub__(self, other: Form) -> Form:
        if not isinstance(other, Form):
            raise FormError(f"only a form can be subtracted from a form, not {other!r}")
        return Form(merge(self.terms, [(name, -c) for name, c in other.terms.items()]))

    def __mul__(self, factor: float) -> Form:
        if isinstance(factor, Form):
            raise FormError("the product of two forms is not linear")
        factor = float(factor)
        if factor == 1.0:
            return self
        if not -_LARGEST <= factor <= _LARGEST:
            raise FormError(f"a coefficient is {factor}")
        return Form({name: factor * c for name, c in self.terms.items()} if factor else {})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Form:
        if isinstance(divisor, Form):
            raise FormError("the quotient of two forms is not linear")
        if not divisor or not math.isfinite(divisor):
            raise FormError(f"a form is divided by {divisor}")
        return self * (1.0 / divisor)

    def __neg__(self) -> Form:
        return self * -1.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __repr__(self) -> str:
        return spell(self.terms.items())


def merge(terms: Mapping[str, float], more: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The sum of two lists of terms, in order of first appearance; what cancels (see CANCELLATION) is dropped."""
    total = dict(terms)
    for name, c in more:
        old = total.get(name)
        if old is None:
            total[name] = c
            continue
        new = old + c
        if abs(new) < CANCELLATION * abs(old):  # not 0 and 0: a term that is asked for stays
            del total[name]
        else:
            total[name] = new
    return total


def spell(terms: Iterable[tuple[str, float]], digits: int = 6) -> str:
    """Terms as text, e.g. `0.5 x0 - 1.25 d0`."""
    text = ""
    for name, c in terms:
        size = "" if abs(c) == 1.0 else f"{abs(c):.{digits}g} "
        sign = ("-" if c < 0 else "") if not text else (" - " if c < 0 else " + ")
        text += f"{sign}{size}{name}"
    return text or "0"
