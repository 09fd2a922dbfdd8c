"""The tests' own tools: the bitwise assertion points, and unwritten memory of the package is NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bits import assert_bits_equal


def test_equal_bits_pass() -> None:
    x = torch.tensor([[1.0, float("nan")], [-0.0, float("inf")]])
    assert_bits_equal(x, x.clone())
    assert_bits_equal(x.numpy(), x)
    assert_bits_equal(x.bfloat16(), x.bfloat16())
    assert_bits_equal(np.uint64([2**63]), np.uint64([2**63]))
    assert_bits_equal(torch.tensor(1.5), torch.tensor(1.5))


def test_first_difference_is_named() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    a[1, 0], b[1, 0] = 1.0, 1.0 + 2**-23
    b[1, 2] = -0.0
    with pytest.raises(AssertionError) as error:
        assert_bits_equal(a, b)
    assert str(error.value) == (
        "2 of 6 elements differ, first at [1, 0]: 1.0 (0x3f800000), expected 1.0000001192092896 (0x3f800001)"
    )


def test_shape_and_dtype_count() -> None:
    with pytest.raises(AssertionError, match=r"shape \(2,\), expected \(3,\)"):
        assert_bits_equal(torch.zeros(2), torch.zeros(3))
    with pytest.raises(AssertionError, match=r"dtype torch.float32, expected torch.float64"):
        assert_bits_equal(torch.zeros(2), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "call", ["torch.empty(3)", "torch.empty_like(x)", "torch.empty_strided((3,), (1,))", "x.new_empty(3)"]
)
def test_memory_of_the_package_is_poisoned(call: str) -> None:
    inside = {"__name__": "fastsolve.executors.any", "torch": torch, "x": torch.zeros(3)}
    assert eval(call, inside).isnan().all()


def test_poison_of_integers_and_bools() -> None:
    inside = {"__name__": "fastsolve.lower", "torch": torch}
    assert eval("torch.empty(2, dtype=torch.int32)", inside).tolist() == [2**31 - 1] * 2
    assert eval("torch.empty(2, dtype=torch.bool)", inside).shape == (2,)


def test_memory_of_others_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = {"__name__": "fastsolver", "torch": torch}
    kept = eval("torch.empty(0, 3)", outside)
    assert kept.shape == (0, 3)
    monkeypatch.setattr(torch.Tensor, "fill_", lambda *_: pytest.fail("poisoned a caller that is not the package"))
    eval("torch.empty(3)", outside)
