"""Forms: the arithmetic of solvers is exact, cancels exactly, and refuses what is not linear or not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fastsolve.forms import CANCELLATION, Form, FormError, merge, spell

X, D, Z = (Form({name: 1.0}) for name in ("x0", "d0", "z0"))


def test_arithmetic_is_that_of_coefficients() -> None:
    form = 2.0 * X - D / 4.0 + (X + Z) * 0.5 - (-Z)
    assert form.terms == {"x0": 2.5, "d0": -0.25, "z0": 1.5}


def test_operations_leave_their_operands_alone() -> None:
    form = X - D
    for result in (form + form, form - X, 3.0 * form, -form, form / 2.0):
        assert result != form
    assert form.terms == {"x0": 1.0, "d0": -1.0}


def test_terms_keep_the_order_of_first_appearance() -> None:
    assert list((D + X + D + Z).terms) == ["d0", "x0", "z0"]


def test_subtraction_negates_what_is_new() -> None:
    assert (X - 3.0 * D).terms == {"x0": 1.0, "d0": -3.0}


def test_equal_forms_are_equal_in_any_order_and_hash_alike() -> None:
    a, b = X + 2.0 * D, 2.0 * D + X
    assert a == b
    assert hash(a) == hash(b)
    assert a != X + 2.0000001 * D
    assert a != {"x0": 1.0, "d0": 2.0}


def test_factor_zero_leaves_nothing() -> None:
    assert (0.0 * (X + D)).terms == {}
    assert (X + 0.0 * D).terms == {"x0": 1.0}


@pytest.mark.parametrize("factor", [0.1, 1.0 / 3.0, math.pi, 1e-8, -7.3e5])
def test_rounding_cancels_exactly(factor: float) -> None:
    there_and_back = (X * factor) / factor + D
    assert (there_and_back - X).terms == {"d0": 1.0}
    assert (factor * X + 2.0 * factor * X - 3.0 * factor * X).terms == {}


@pytest.mark.parametrize(("rest", "kept"), [(0.5, False), (1.0, False), (1.5, True), (1e4, True)])
def test_what_is_larger_than_rounding_does_not_cancel(rest: float, kept: bool) -> None:
    difference = (1.0 + rest * CANCELLATION) * X - X
    assert ("x0" in difference.terms) is kept


def test_cancellation_is_relative_and_small_terms_stay() -> None:
    assert (1e-30 * X + 1e-30 * X).terms == {"x0": 2e-30}
    assert (X + 1e-30 * D).terms == {"x0": 1.0, "d0": 1e-30}
    assert (1e20 * X - D - 1e20 * X).terms == {"d0": -1.0}


def test_cancellation_is_just_above_rounding() -> None:
    assert 2.0**-50 < CANCELLATION < 1e-13


def test_merge_sums_in_order_and_leaves_its_argument_alone() -> None:
    old = {"a": 1.0, "b": 2.0}
    assert merge(old, [("b", -2.0), ("c", 3.0), ("a", 0.5), ("b", 4.0)]) == {"a": 1.5, "c": 3.0, "b": 4.0}
    assert old == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, int, np.array])
def test_numpy_scalars_are_numbers_on_either_side(kind: Callable[[int], float]) -> None:
    four = kind(4)
    for form, coefficient in ((four * X, 4.0), (X * four, 4.0), (X / four, 0.25)):
        assert form.terms == {"x0": coefficient}
        assert type(form.terms["x0"]) is float


def test_arrays_are_no_factors() -> None:
    with pytest.raises(TypeError):
        np.ones(2) * X
    with pytest.raises(TypeError):
        X * np.ones(2)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (lambda: X * math.nan, r"a coefficient is nan"),
        (lambda: X * math.inf, r"a coefficient is inf"),
        (lambda: -math.inf * X, r"a coefficient is -inf"),
        (lambda: np.float64("nan") * X, r"a coefficient is nan"),
        (lambda: X / 1e-310, r"a coefficient is inf"),
        (lambda: X / math.nan, r"a form is divided by nan"),
        (lambda: X / math.inf, r"a form is divided by inf"),
        (lambda: X / 0, r"a form is divided by 0"),
        (lambda: X / np.float64(0.0), r"a form is divided by 0\.0"),
        (lambda: X * D, r"the product of two forms is not linear"),
        (lambda: X / D, r"the quotient of two forms is not linear"),
        (lambda: X + 1.0, r"a form can be added to a form only, not to 1\.0"),
        (lambda: X - 0, r"only a form can be subtracted from a form, not 0"),
        (lambda: X + {"x0": 1.0}, r"a form can be added to a form only, not to \{'x0': 1\.0\}"),
    ],
)
def test_refused_with_its_text(operation: Callable[[], Form], text: str) -> None:
    with pytest.raises(FormError, match=f"^{text}$"):
        operation()


def test_sum_starts_from_nothing() -> None:
    assert sum([X, X]) == 2.0 * X
    with pytest.raises(FormError, match=r"^a form can be added to a form only, not to 1\.0$"):
        1.0 + X


@pytest.mark.parametrize(
    "operation",
    [lambda: 1.0 - X, lambda: 2.0 / X, lambda: X**2, lambda: abs(X), lambda: X * 1j],
)
def test_what_is_not_linear_has_no_operation(operation: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        operation()


def test_form_error_is_a_value_error() -> None:
    assert issubclass(FormError, ValueError)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (X, "x0"),
        (-X, "-x0"),
        (0.5 * X - 1.25 * D, "0.5 x0 - 1.25 d0"),
        (X - D + Z, "x0 - d0 + z0"),
        (-2.0 * X + 1e-9 * D, "-2 x0 + 1e-09 d0"),
        (X / 3.0, "0.333333 x0"),
        (0.0 * X, "0"),
    ],
)
def test_spelling(form: Form, text: str) -> None:
    assert repr(form) == text


def test_spelling_takes_digits() -> None:
    assert spell([("x0", 1.0 / 3.0), ("d0", -2.0 / 3.0)], 3) == "0.333 x0 - 0.667 d0"
