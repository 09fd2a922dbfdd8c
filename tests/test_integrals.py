"""Integrals against their definitions: phi by its series in 60 digits, weights by phi."""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext

import pytest

from fastsolve.integrals import decay, exponential_weights, gauss_legendre, growth, lagrange, phi

SIZES = [0.0, 5e-324, 1e-300, 1e-17, 1e-8, 1e-5, 1e-3, 0.1, 0.5, 1.0, 1.5]
SIZES += [1.99999999, 2.0, 2.00000001, 2.5, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 40.0]
STEPS = [1e-6, 0.05, 0.7, 2.0, 6.0]


def exact_phi(k: int, z: float) -> Decimal:
    """sum z^j/(j+k)!, with the digits that its alternating terms cost at z = -40 to spare."""
    with localcontext() as context:
        context.prec = 100
        power, total = Decimal(1), Decimal(0)
        for j in range(280):
            total += power / math.factorial(j + k)
            power *= Decimal(z)
        return total


def relative_error(value: float, exact: Decimal) -> float:
    with localcontext() as context:
        context.prec = 100
        return float(abs(Decimal(value) - exact) / abs(exact))


def test_the_reference_is_the_recursion() -> None:
    with localcontext() as context:
        context.prec = 100
        assert abs(exact_phi(0, -40.0) - Decimal(-40).exp()) < Decimal("1e-75")
        for k in range(4):
            recursion = (exact_phi(k, -40.0) - 1 / Decimal(math.factorial(k))) / -40
            assert abs(exact_phi(k + 1, -40.0) - recursion) < Decimal("1e-75")


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_phi_to_rounding(k: int, sign: float) -> None:
    rng = random.Random(k)
    for z in SIZES + [rng.uniform(0.0, 4.0) for _ in range(40)] + [rng.uniform(0.0, 40.0) for _ in range(40)]:
        assert relative_error(phi(k, sign * z), exact_phi(k, sign * z)) < 1e-14, z


@pytest.mark.parametrize("k", range(1, 5))
@pytest.mark.parametrize("h", [1e-300, 1e-9, 1e-3, 0.3, 1.0, 1.9, 2.1, 7.0, 25.0, 40.0])
def test_decay_and_growth_are_h_phi(k: int, h: float) -> None:
    assert decay(k, h) == pytest.approx(h * float(exact_phi(k, -h)), rel=1e-14, abs=0.0)
    assert growth(k, h) == pytest.approx(h * float(exact_phi(k, h)), rel=1e-14, abs=0.0)


@pytest.mark.parametrize("k", range(1, 5))
def test_decay_of_an_endless_step(k: int) -> None:
    limit = 1.0 / math.factorial(k - 1)
    assert decay(k, math.inf) == limit
    # h phi_k(-h) = (1/(k-1)! - phi_{k-1}(-h)), and phi_{k-1}(-h) -> 1/((k-2)! h)
    rest = 1.0 / (math.factorial(k - 2) * 1e8) if k > 1 else 0.0
    assert decay(k, 1e8) == pytest.approx(limit - rest, rel=1e-14)


@pytest.mark.parametrize("k", range(1, 5))
def test_growth_of_a_long_step(k: int) -> None:
    assert growth(k, 300.0) == pytest.approx(math.exp(300.0) / 300.0 ** (k - 1), rel=1e-13)


@pytest.mark.parametrize("k", range(1, 5))
def test_no_step_no_weight(k: int) -> None:
    assert decay(k, 0.0) == 0.0
    assert growth(k, 0.0) == 0.0


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 8])
def test_gauss_legendre_is_exact_up_to_twice_its_nodes(nodes: int) -> None:
    a, b, degree = -0.5, 2.0, 2 * nodes - 1

    def error(n: int) -> float:
        exact = (b ** (n + 1) - a ** (n + 1)) / (n + 1)
        return abs(gauss_legendre(lambda u: u**n, a, b, nodes) / exact - 1.0)

    assert max(error(n) for n in range(degree + 1)) < 1e-14
    assert error(degree + 1) > 1e-9


def test_gauss_legendre_takes_the_interval_as_it_comes() -> None:
    forward = gauss_legendre(math.exp, 0.3, 1.8)
    assert forward == pytest.approx(math.exp(1.8) - math.exp(0.3), rel=1e-15)
    assert gauss_legendre(math.exp, 1.8, 0.3) == -forward
    assert gauss_legendre(math.exp, 0.3, 0.3) == 0.0


def test_lagrange_polynomials_are_one_at_their_node_and_zero_at_the_others() -> None:
    nodes = (0.4, -0.1, 1.7)
    assert [[lagrange(nodes, j, u) for u in nodes] for j in range(3)] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert lagrange(nodes, 0, 0.9) == pytest.approx((0.9 + 0.1) * (0.9 - 1.7) / ((0.4 + 0.1) * (0.4 - 1.7)), rel=1e-15)
    assert lagrange((3.0,), 0, -5.0) == 1.0


def moment(m: int, h: float, rate: float) -> float:
    """Integral of e^{-rate (h - u)} u^m over [0, h]: m! h^{m+1} phi_{m+1}(-rate h)."""
    return math.factorial(m) * h ** (m + 1) * float(exact_phi(m + 1, -rate * h))


# Data form, SDE forms eta = 1 and 0.5, noise form, no exponential at all.
RATES = [1.0, 2.0, 1.25, -1.0, 0.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("h", STEPS)
def test_one_node_is_the_exponential_euler_step(h: float, rate: float) -> None:
    end = 1.0 + h
    step = end - 1.0  # h, rounded
    (weight,) = exponential_weights(1.0, end, [1.0], rate)
    assert weight == pytest.approx(step * float(exact_phi(1, -rate * step)), rel=1e-13)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("h", STEPS)
def test_two_nodes_are_phi_1_and_phi_2(h: float, rate: float) -> None:
    """L_1 = -u/(r h) through u = 0 and u = -r h."""
    r = 0.75
    later = -h * float(exact_phi(2, -rate * h)) / r
    expected = [h * float(exact_phi(1, -rate * h)) - later, later]
    assert exponential_weights(0.0, h, [0.0, -r * h], rate) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("h", STEPS)
def test_three_nodes_are_phi_1_to_phi_3(h: float, rate: float) -> None:
    """Through u = 0, h/3 and 2h/3 as in a third-order Runge-Kutta step."""
    p1, p2, p3 = (h * float(exact_phi(k, -rate * h)) for k in (1, 2, 3))
    expected = [p1 - 4.5 * p2 + 9.0 * p3, 6.0 * p2 - 18.0 * p3, -1.5 * p2 + 9.0 * p3]
    weights = exponential_weights(0.0, h, [0.0, h / 3.0, 2.0 * h / 3.0], rate)
    assert weights == pytest.approx(expected, rel=1e-13, abs=1e-13 * p1)


def test_named_rates_are_decay_and_growth() -> None:
    h, eta = 0.9, 0.5
    assert exponential_weights(0.0, h, [0.0], 1.0)[0] == pytest.approx(decay(1, h), rel=1e-14)
    assert exponential_weights(0.0, h, [0.0], 1.0 + eta)[0] == pytest.approx(decay(1, 1.5 * h) / 1.5, rel=1e-14)
    assert exponential_weights(0.0, h, [0.0], -1.0)[0] == pytest.approx(growth(1, h), rel=1e-14)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("h", STEPS[1:])
def test_weights_reproduce_polynomials(count: int, rate: float, h: float) -> None:
    """sum_j w_j p(node_j) is the integral of p for every p of a lower degree than the number of nodes."""
    start = -2.3
    nodes = [start - h * offset for offset in (0.0, 0.8, 1.9, 3.1)[:count]]
    weights = exponential_weights(start, start + h, nodes, rate)
    for m in range(count):
        got = math.fsum(w * (node - start) ** m for w, node in zip(weights, nodes, strict=True))
        size = math.fsum(abs(w * (node - start) ** m) for w, node in zip(weights, nodes, strict=True))
        assert abs(got - moment(m, h, rate)) < 1e-13 * size


@pytest.mark.parametrize("rate", RATES)
def test_weights_sum_to_the_integral_of_the_exponential(rate: float) -> None:
    for h in STEPS:
        total = math.fsum(exponential_weights(0.0, h, [0.0, -0.4 * h, -1.1 * h, -2.0 * h], rate))
        assert total == pytest.approx(moment(0, h, rate), rel=1e-13)


def test_weights_are_those_of_the_end_point() -> None:
    """The exponential is 1 at the end of the step: what lies there counts most for rate > 0, least for rate < 0."""
    decaying = exponential_weights(0.0, 3.0, [0.0, 3.0], 1.0)
    growing = exponential_weights(0.0, 3.0, [0.0, 3.0], -1.0)
    assert decaying[1] > decaying[0]
    assert growing[0] > growing[1]
