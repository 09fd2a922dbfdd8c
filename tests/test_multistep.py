"""Multistep samplers: sum rules, polynomials, the equalities between their names, orders with exact and with ramped starts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import grids, schedules
from fastsolve.forms import Form
from fastsolve.integrals import gauss_legendre, level_weights
from fastsolve.schedules import Node, Schedule
from fastsolve.solvers import adams, deis, er_sde
from fastsolve.solvers.exponential_adams import adams_step
from fastsolve.solvers.seeds_forms import in_lambda
from problems import Gaussian, plane_mixture, plane_network

HIGH, LOW = 3.0, 0.15  # sigma / alpha: where data and noise interact
START = torch.tensor([[1.2, -2.0], [-3.0, 0.7], [0.4, 2.6], [2.0, 2.0]], dtype=torch.float64)
Options = dict[str, object]
LEVELS = {  # uneven, from noise to clean data
    "ve": (20.0, 9.0, 5.0, 2.0, 1.1, 0.7, 0.3, 0.1, 0.0),
    "vp": (1.0, 0.8, 0.6, 0.55, 0.3, 0.2, 0.1, 0.05, 0.0),
    "flow": (0.98, 0.8, 0.6, 0.55, 0.3, 0.2, 0.1, 0.05, 0.0),
    "vp_cosine": (0.97, 0.8, 0.6, 0.55, 0.3, 0.2, 0.1, 0.05, 0.0),
    "sub_vp": (1.0, 0.8, 0.6, 0.55, 0.3, 0.2, 0.1, 0.05, 0.0),
    "vp_scaled_linear": (999.0, 700.0, 600.0, 400.0, 250.0, 150.5, 80.0, 20.0, -1.0),
}
MULTISTEP = ["deis", "deis_tab", "deis_rho_ab", "ipndm", "lms", "gradient_estimation", "dpmpp_3m", "dpmpp_3m_sde"]
MULTISTEP += ["res_multistep", "unipc", "sa_solver", "er_sde"]  # one call a step by default
ALL = [*MULTISTEP, "pndm", "deis_rho_rk"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors of a few elements: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def walk(solver: str, schedule: str = "ve", grid: Sequence[float] | None = None, **options: object) -> Tensor:
    """The end of a run on the mixture, float64, with draws that depend on their number alone."""

    def draw(i: int) -> Tensor:
        return torch.randn(START.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)

    return fastsolve.sample(
        plane_network(schedule),
        solver=solver,
        schedule=schedule,
        prediction="x0",
        grid=LEVELS[schedule] if grid is None else grid,
        x_init=START * (8.0 if schedule == "ve" else 1.0),
        noise=draw,
        options=options,
        dtype=torch.float64,
        executor="eager",
    )


# The rules themselves.

POSITIONS: dict[str, Callable[[Schedule], Callable[[float], float]]] = {
    "t": lambda schedule: schedule.clock,
    "rho": lambda schedule: lambda lam: math.exp(-lam),
    "lambda": lambda schedule: lambda lam: lam,
}


@pytest.mark.parametrize("points", [1, 2, 3, 4])
@pytest.mark.parametrize("variable", POSITIONS)
@pytest.mark.parametrize("name", ["ve", "vp", "flow", "vp_cosine", "sub_vp"])
def test_noise_weights_reproduce_polynomials(name: str, variable: str, points: int) -> None:
    law = schedules.get(name)
    position = POSITIONS[variable](law)
    past = [law.node(t) for t in LEVELS[name][4 - points : 4]][::-1]
    for t in LEVELS[name][4:]:
        if t == 0.0 and variable != "rho":
            continue  # integrated in rho, where other variables are not polynomials and may branch at 0
        node = law.node(t)
        weights = level_weights(past[0].lam, node.lam, [position(n.lam) for n in past], position)
        rho, end = math.exp(-past[0].lam), math.exp(-node.lam)
        assert sum(weights) == pytest.approx(end - rho, rel=1e-13)
        for m in range(points):
            found = math.fsum(w * position(n.lam) ** m for w, n in zip(weights, past, strict=True))
            exact = gauss_legendre(lambda u, m=m: position(-math.log(u)) ** m, rho, end, 400)
            assert found == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_exact_rules_reproduce_polynomials(kind: str, points: int, corrector: bool, eta: float) -> None:
    law, p = schedules.get("vp"), in_lambda(kind, eta)
    nodes = [law.node(t) for t in (0.75, 0.6, 0.5, 0.42, 0.35, 0.25)]
    s, t = nodes[-2:]
    used = ([s, t, *nodes[-3::-1]] if corrector else nodes[-2::-1])[:points]
    form = adams_step(p, Form({"x": 1.0}), s, t, [(n, Form({f"d{i}": 1.0})) for i, n in enumerate(used)])
    weights = [form.terms[f"d{i}"] for i in range(points)]
    h, carry, whole = t.lam - s.lam, t.alpha / s.alpha, -(1.0 + eta) * t.sigma * math.expm1(t.lam - s.lam)
    if kind == "data":
        carry, whole = t.sigma / s.sigma * math.exp(-eta * h), -t.alpha * math.expm1(-(1.0 + eta) * h)
    assert form.terms["x"] == pytest.approx(carry, rel=1e-14)
    assert math.fsum(weights) == pytest.approx(whole, rel=1e-13)
    for m in range(points):
        exact = gauss_legendre(lambda u, m=m: kernel(kind, eta, s, t, u) * (u - s.lam) ** m, s.lam, t.lam)
        found = math.fsum(w * (n.lam - s.lam) ** m for w, n in zip(weights, used, strict=True))
        assert found == pytest.approx(exact, rel=1e-11)


def kernel(kind: str, eta: float, s: Node, t: Node, lam: float) -> float:
    """What the output at lam adds to the state at t (forms X, E and S of the linear SDE)."""
    if kind == "data":
        return t.alpha * (1.0 + eta) * math.exp(-(1.0 + eta) * (t.lam - lam))
    return -t.sigma * (1.0 + eta) * math.exp(t.lam - lam)


@pytest.mark.parametrize("rule", ["exact", "bh1", "bh2"])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_two_point_rules_keep_constants(kind: str, corrector: bool, rule: str) -> None:
    law = schedules.get("flow")
    u, s, t = (law.node(v) for v in (0.8, 0.6, 0.5))
    outputs = [(s, Form({"d0": 1.0})), (t if corrector else u, Form({"d1": 1.0}))]
    form = adams_step(in_lambda(kind, 0.0), Form({"x": 1.0}), s, t, outputs, rule)
    whole = t.alpha - s.alpha * t.sigma / s.sigma if kind == "data" else t.sigma - t.alpha / s.alpha * s.sigma
    assert form.terms["d0"] + form.terms["d1"] == pytest.approx(whole, rel=1e-14)


def test_a_noise_of_the_state_itself_leaves_no_large_numbers() -> None:
    """From far above the data, alpha_t / alpha_s is 1e6: the step is written as DDIM's, in which it does not occur."""
    s, t = schedules.get("flow").node(1.0 - 1e-7), schedules.get("flow").node(0.9)
    x, d = Form({"x": 1.0}), Form({"d": 1.0})
    form = adams_step(in_lambda("noise", 0.0), x, s, t, [(s, (x - s.alpha * d) / s.sigma)])
    assert form.terms["x"] == pytest.approx(t.sigma / s.sigma, rel=1e-15)
    assert form.terms["d"] == pytest.approx(t.alpha - s.alpha * t.sigma / s.sigma, rel=1e-9)


@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_constant_weights_are_adams_bashforth_of_equal_steps(points: int) -> None:
    weights = adams.EQUAL_STEPS[points - 1]
    for m in range(points):
        assert math.fsum(w * (-j) ** m for j, w in enumerate(weights)) == pytest.approx(1.0 / (m + 1), rel=1e-14)


@pytest.mark.parametrize("name", deis.TABLEAUS)
def test_tableaus_satisfy_the_conditions_of_their_order(name: str) -> None:
    c, rows, b = (np.array(v, dtype=object) for v in deis.TABLEAUS[name])
    a = np.array([[*row, *[0.0] * (len(c) - len(row))] for row in rows], dtype=float)
    c, b, order = c.astype(float), b.astype(float), 2 if name == "midpoint" else int(name[0])
    assert a.sum(1) == pytest.approx(c)
    conditions = [(b.sum(), 1), (b @ c, 1 / 2), (b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)]
    conditions += [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)]
    for value, expected in conditions[: {1: 1, 2: 2, 3: 4, 4: 8}[order]]:
        assert value == pytest.approx(expected, rel=1e-14)


# What each rule integrates exactly: outputs of a kind ("data" or "noise") that are a polynomial of a degree in a variable, with eta.
STEADY: Options = {"lower_order_final": False}
EXACT: list[tuple[str, Options, str, str, int, float]] = [
    *(("deis", {"order": k}, "noise", "t", k, 0.0) for k in range(4)),
    *(("deis", {"order": k, "variant": "logrho", "warmup": "rk"}, "noise", "lambda", k, 0.0) for k in range(4)),
    *((name, {"warmup": warmup}, "noise", "t", 3, 0.0) for name in ("deis", "deis_tab") for warmup in deis.WARMUPS),
    *(("deis_rho_ab", {"order": k}, "noise", "rho", k, 0.0) for k in range(4)),
    *(("lms", {"order": k}, "noise", "rho", k - 1, 0.0) for k in (1, 2, 3, 4)),
    *(("ipndm", {"order": k}, "noise", "rho", k - 1, 0.0) for k in (1, 2, 3, 4)),
    *(("pndm", {"order": k, "warmup": w}, "noise", "rho", k - 1, 0.0) for k in (2, 3, 4) for w in ("heun", "prk")),
    ("gradient_estimation", {}, "noise", "rho", 0, 0.0),
    ("gradient_estimation", {"gamma": 1.5}, "noise", "rho", 1, 0.0),
    *(
        row
        for kind in ("data", "noise")
        for row in (
            ("dpmpp_2m", {"form": kind}, kind, "lambda", 0, 0.0),
            ("dpmpp_2m", {"form": kind, "variant": "heun"}, kind, "lambda", 1, 0.0),
            ("dpmpp_2m_sde", {"form": kind, "variant": "heun"}, kind, "lambda", 1, 1.0),
            ("dpmpp_2m_sde", {"form": kind, "variant": "heun", "eta": 0.4}, kind, "lambda", 1, 0.4),
            ("dpmpp_3m", {"form": kind}, kind, "lambda", 1, 0.0),
            ("dpmpp_3m", {"form": kind, "variant": "exact"}, kind, "lambda", 2, 0.0),
            ("dpmpp_3m_sde", {"form": kind}, kind, "lambda", 1, 1.0),
            ("dpmpp_3m_sde", {"form": kind, "variant": "exact"}, kind, "lambda", 2, 1.0),
            *(("unipc", {"form": kind, "variant": v, **STEADY}, kind, "lambda", 2, 0.0) for v in ("bh1", "bh2")),
            ("unipc", {"form": kind, "order": 2, **STEADY}, kind, "lambda", 0, 0.0),
            *(
                (
                    "unipc",
                    {"form": kind, "order": k, "variant": "vary_coeff", "corrector": c, **STEADY},
                    kind,
                    "lambda",
                    k - 1,
                    0.0,
                )
                for k in (1, 2, 3)
                for c in (False, True)
            ),
            *(
                (
                    "sa_solver",
                    {"form": kind, "order": k, "corrector_order": c, "eta": eta, **STEADY},
                    kind,
                    "lambda",
                    k - 1,
                    eta,
                )
                for k, c, eta in ((1, 2, 1.0), (2, 0, 0.5), (3, 4, 1.0), (4, 5, 0.0), (4, 4, 1.0))
            ),
        )
    ),
    ("res_multistep", {}, "data", "lambda", 1, 0.0),
    *(
        ("er_sde", {"stages": k, "eta": eta}, "data", "rho", min(k - 1, 1), eta)
        for k in (1, 2, 3)
        for eta in (0.0, 1.0)
    ),
]
EQUAL_STEPS = {"ipndm", "pndm", "gradient_estimation"}  # their weights are those of steps that are equal in rho


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow", "sub_vp", "vp_cosine"])
@pytest.mark.parametrize(("solver", "options", "kind", "variable", "degree", "eta"), EXACT, ids=str)
def test_every_rule_integrates_its_polynomials(
    solver: str, options: Options, kind: str, variable: str, degree: int, eta: float, schedule: str
) -> None:
    """The network answers p(s) whatever the state. What its start has done amiss is then carried along, and nothing is added to it."""
    law = schedules.get(schedule)
    levels = LEVELS[schedule][2:-1] if schedule != "flow" else LEVELS[schedule][1:-1]
    if solver in EQUAL_STEPS:
        levels = [law.at_lam(-math.log(rho)).t for rho in np.linspace(2.0, 0.3, 7)]
    position = POSITIONS[variable](law)

    def deviation(grid: Sequence[float], power: int) -> tuple[float, float]:
        """From the exact integral, and what the linear part leaves at the end of a deviation at the start."""
        nodes = [law.node(t) for t in grid]
        place = {node.t: position(node.lam) for node in nodes}

        def poly(u: float) -> float:
            return 0.3 + u**power

        def model(x: Tensor, t: Tensor) -> Tensor:
            node = law.node(float(t[0]))
            return torch.full_like(x, poly(place.get(node.t, position(node.lam))))

        right, carried = 1.0, 1.0
        for s, t in pairwise(nodes):
            carry = t.sigma / s.sigma * math.exp(-eta * (t.lam - s.lam)) if kind == "data" else t.alpha / s.alpha
            right = carry * right + gauss_legendre(
                lambda lam, s=s, t=t: kernel(kind, eta, s, t, lam) * poly(position(lam)), s.lam, t.lam, 64
            )
            carried *= carry
        end = fastsolve.sample(
            model,
            solver=solver,
            schedule=law,
            prediction={"data": "x0", "noise": "eps"}[kind],
            grid=grid,
            x_init=torch.ones(1, 1, dtype=torch.float64),
            noise=lambda _: torch.zeros(1, 1, dtype=torch.float64),
            options=options,
            dtype=torch.float64,
            executor="eager",
        )
        return float(end) - right, carried

    for power in range(degree + 2):
        (before, at_s), (after, at_t) = deviation(levels[:-1], power), deviation(levels, power)
        if power <= degree:
            assert after == pytest.approx(before * at_t / at_s, rel=1e-11, abs=1e-12)
        else:
            assert abs(after - before * at_t / at_s) > 1e-6  # so a step that is off would show


# One method under several names: equal to rounding.

SAME = [
    (("ddim", {}), ("deis", {"order": 0})),
    (("ddim", {}), ("deis_tab", {"order": 0})),
    (("ddim", {}), ("deis_rho_ab", {"order": 0})),
    (("ddim", {}), ("deis_rho_rk", {"tableau": "1euler"})),
    (("ddim", {}), ("ipndm", {"order": 1})),
    (("ddim", {}), ("lms", {"order": 1})),
    (("ddim", {}), ("unipc", {"order": 1, "corrector": False})),
    (("ddim", {}), ("gradient_estimation", {"gamma": 1.0})),
    (("ddim", {}), ("sa_solver", {"order": 1, "corrector_order": 0, "eta": 0.0})),
    (("ddim", {}), ("er_sde", {"stages": 1, "eta": 0.0})),
    (("ddim", {"eta": 1.0}), ("er_sde", {"stages": 1, "eta": 1.0})),
    (("ddim", {"eta": 1.0}), ("sa_solver", {"order": 1, "corrector_order": 0})),
    (("seeds1", {"eta": 0.5}), ("er_sde", {"stages": 1, "eta": 0.5})),
    (("seeds1", {"eta": 0.5}), ("sa_solver", {"order": 1, "corrector_order": 0, "eta": 0.5})),
    (("heun", {}), ("deis_rho_rk", {"tableau": "2heun"})),
    *((("lms", {"order": k}), ("deis_rho_ab", {"order": k - 1})) for k in (1, 2, 3, 4)),
    (("deis_rho_ab", {}), ("deis", {"variant": "rho"})),
    (("deis_tab", {}), ("deis", {})),
    (("ipndm", {"order": 2}), ("gradient_estimation", {"gamma": 1.5})),
    (("ipndm", {"warmup": "heun"}), ("pndm", {})),
    (("dpmpp_2m", {"variant": "heun"}), ("res_multistep", {})),
    (("dpmpp_2m_sde", {"variant": "heun"}), ("res_multistep", {"eta": 1.0})),
    (
        ("dpmpp_2m_sde", {"variant": "heun"}),
        ("sa_solver", {"order": 2, "corrector_order": 0, "lower_order_final": False}),
    ),
    (("dpmpp_2m", {}), ("unipc", {"order": 2, "corrector": False, "lower_order_final": False})),
    (("dpmpp_2m", {}), ("dpmpp_2m_sde", {"eta": 0.0})),
    (("dpmpp_3m", {"variant": "exact"}), ("unipc", {"order": 3, "corrector": False, "lower_order_final": False})),
    (("dpmpp_3m", {"variant": "exact", "lower_order_final": True}), ("unipc", {"order": 3, "corrector": False})),
    (("dpmpp_3m", {"warmup": "heun"}), ("dpmpp_3m_sde", {"eta": 0.0})),
    # In noise form: DPM-Solver-2M is UniP-2, and DEIS in lambda, as in diffusers, is 2M and 3M with exact weights.
    (("dpmpp_2m", {"form": "noise"}), ("unipc", {"order": 2, "form": "noise", "corrector": False, **STEADY})),
    (("deis", {"order": 1, "variant": "logrho"}), ("dpmpp_2m", {"form": "noise", "variant": "heun"})),
    (
        ("deis", {"order": 2, "variant": "logrho"}),
        ("dpmpp_3m", {"form": "noise", "variant": "exact", "warmup": "heun"}),
    ),
    (
        ("dpmpp_3m", {"form": "noise", "variant": "exact"}),
        ("unipc", {"form": "noise", "corrector": False, **STEADY}),
    ),
    (("dpmpp_3m", {"form": "noise", "warmup": "heun"}), ("dpmpp_3m_sde", {"form": "noise", "eta": 0.0})),
    (
        ("dpmpp_2m_sde", {"form": "noise", "variant": "heun", "eta": 0.5}),
        ("sa_solver", {"form": "noise", "order": 2, "corrector_order": 0, "eta": 0.5, **STEADY}),
    ),
    (
        ("seeds1", {"form": "noise", "eta": 0.5}),
        ("sa_solver", {"form": "noise", "order": 1, "corrector_order": 0, "eta": 0.5}),
    ),
    *(
        (
            ("unipc", {"order": k, "variant": "vary_coeff", "form": kind, **STEADY}),
            ("sa_solver", {"order": k, "corrector_order": k + 1, "eta": 0.0, "form": kind, **STEADY}),
        )
        for k in (1, 2, 3)
        for kind in ("data", "noise")
    ),
    *(
        (
            ("unipc", {"order": k, "variant": "bh1", "lower_order_final": False}),
            (
                "sa_solver",
                {"order": k, "corrector_order": k + 1, "eta": 0.0, "variant": "simple", "lower_order_final": False},
            ),
        )
        for k in (1, 2, 3)
    ),
]


@pytest.mark.parametrize("to_zero", [True, False])
@pytest.mark.parametrize("schedule", LEVELS)
@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_two_names_of_one_method(one: tuple, other: tuple, schedule: str, to_zero: bool) -> None:
    grid = LEVELS[schedule] if to_zero else LEVELS[schedule][:-1]
    a, b = (walk(solver, schedule, grid, **options) for solver, options in (one, other))
    assert float((a - b).abs().max() / a.abs().max()) <= 1e-13


@pytest.mark.parametrize("warmup", deis.WARMUPS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_where_the_clock_is_sigma_both_deis_are_one(order: int, warmup: str) -> None:
    a, b = (walk(solver, "ve", order=order, warmup=warmup) for solver in ("deis_tab", "deis_rho_ab"))
    assert float((a - b).abs().max() / a.abs().max()) <= 1e-13


DIFFERENT = [
    (("deis_tab", {}), ("deis_rho_ab", {})),
    (("deis", {"variant": "logrho"}), ("deis_rho_ab", {})),
    (("ipndm", {}), ("lms", {})),
    (("dpmpp_3m", {}), ("dpmpp_3m", {"variant": "exact"})),
    (("unipc", {"variant": "bh1"}), ("unipc", {"variant": "bh2"})),
    (("unipc", {"variant": "vary_coeff"}), ("unipc", {"variant": "bh2"})),
    *(((name, {}), (name, {"form": "noise"})) for name in ("dpmpp_2m", "dpmpp_3m", "unipc", "sa_solver")),
    (("pndm", {}), ("pndm", {"warmup": "prk"})),
    (("ddim", {"eta": 0.5}), ("er_sde", {"stages": 1, "eta": 0.5})),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_what_is_not_the_same(one: tuple, other: tuple) -> None:
    a, b = (walk(solver, "vp", **options) for solver, options in (one, other))
    assert float((a - b).abs().max()) > 1e-4


# Orders.


@functools.cache
def exact() -> Tensor:
    """The probability flow of VE from HIGH to LOW by Runge and Kutta in lambda."""
    slope = lambda lam, x: plane_mixture().x0(x, math.exp(-lam)) - x  # noqa: E731
    x, lam, h = START, -math.log(HIGH), math.log(HIGH / LOW) / 600
    for _ in range(600):
        k1 = slope(lam, x)
        k2 = slope(lam + h / 2, x + h / 2 * k1)
        k3 = slope(lam + h / 2, x + h / 2 * k2)
        k4 = slope(lam + h, x + h * k3)
        x, lam = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), lam + h
    return x


def measured(solver: str, grid: Callable[[int], Sequence[float]], steps: Sequence[int], **options: object) -> float:
    errors = [
        float(
            (
                fastsolve.sample(
                    plane_network("ve"),
                    solver=solver,
                    schedule="ve",
                    prediction="x0",
                    grid=grid(n),
                    x_init=START,
                    options=options,
                    dtype=torch.float64,
                    executor="eager",
                )
                - exact()
            ).norm()
        )
        for n in steps
    ]
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def even_lambda(n: int) -> list[float]:
    return [HIGH * (LOW / HIGH) ** (i / n) for i in range(n + 1)]


def even_rho(n: int) -> list[float]:
    return [HIGH + (LOW - HIGH) * i / n for i in range(n + 1)]


def fine_start(n: int) -> list[float]:
    """Even in lambda after two steps so small that what a start of low order leaves is of fourth order."""
    whole = math.log(HIGH / LOW)
    h = whole / n
    return [HIGH * math.exp(-lam) for lam in (0.0, h**2, h**1.5, *(h * i for i in range(1, n + 1)))]


GRIDS = {"even in lambda": even_lambda, "even in rho": even_rho, "fine at the start": fine_start}
ORDERS = [
    # With an exact start one more than the degree; with the published ramp its first step leaves h^2, whatever the degree.
    *(("deis", {"order": k, "warmup": "rk"}, "even in lambda", k + 1) for k in (0, 1, 2, 3)),
    *(("deis", {"order": k, "warmup": "rk", "variant": "logrho"}, "even in lambda", k + 1) for k in (1, 2, 3)),
    ("deis", {"order": 1}, "even in lambda", 2),
    ("deis", {"order": 3}, "even in lambda", 2),
    ("deis", {"order": 3, "variant": "logrho"}, "even in lambda", 2),
    ("deis", {"order": 3, "warmup": "rk", "lower_order_final": True}, "even in lambda", 2),
    ("lms", {"warmup": "rk"}, "even in lambda", 4),
    ("lms", {}, "even in lambda", 2),
    # Constant weights are those of steps that are even in rho.
    *(("ipndm", {"order": k, "warmup": "rk"}, "even in rho", k) for k in (2, 3)),
    *(("ipndm", {"order": k, "warmup": "rk"}, "even in lambda", 2) for k in (2, 3, 4)),
    ("pndm", {}, "even in lambda", 2),
    ("gradient_estimation", {}, "even in lambda", 1),
    ("gradient_estimation", {"gamma": 1.5}, "even in lambda", 2),
    ("pndm", {"warmup": "prk"}, "even in lambda", 2),
    ("res_multistep", {}, "even in lambda", 2),
    *(
        row
        for form in ("data", "noise")
        for row in (
            ("dpmpp_2m", {"form": form}, "even in lambda", 2),
            ("dpmpp_2m", {"form": form, "variant": "heun"}, "even in lambda", 2),
            # The second difference with its exact weight is of third order, but for the start; with half of it nothing helps.
            ("dpmpp_3m", {"form": form}, "even in lambda", 2),
            ("dpmpp_3m", {"form": form, "variant": "exact"}, "even in lambda", 2),
            ("dpmpp_3m", {"form": form}, "fine at the start", 2),
            ("dpmpp_3m", {"form": form, "variant": "exact"}, "fine at the start", 3),
            ("unipc", {"form": form}, "even in lambda", 2),
            *(
                ("unipc", {"form": form, "order": k, "variant": variant, **STEADY}, "even in lambda", k + 1)
                for k in (1, 2)
                for variant in ("bh1", "bh2", "vary_coeff")
            ),
            ("unipc", {"form": form, **STEADY}, "fine at the start", 4),
            ("sa_solver", {"form": form, "eta": 0.0}, "even in lambda", 2),
        )
    ),
    ("er_sde", {"eta": 0.0, "stages": 1}, "even in lambda", 1),
    ("er_sde", {"eta": 0.0, "stages": 2}, "even in lambda", 2),
    ("er_sde", {"eta": 0.0, "stages": 3}, "even in lambda", 2),
    *(("deis_rho_rk", {"tableau": k}, "even in lambda", 2 if k == "midpoint" else int(k[0])) for k in deis.TABLEAUS),
]


@pytest.mark.parametrize(("solver", "options", "grid", "order"), ORDERS, ids=str)
def test_order(solver: str, options: dict, grid: str, order: int) -> None:
    assert measured(solver, GRIDS[grid], (64, 256), **options) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("form", ["data", "noise"])
@pytest.mark.parametrize("variant", ["bh1", "bh2", "vary_coeff"])
def test_the_start_of_unipc_is_of_third_order(variant: str, form: str) -> None:
    order = measured("unipc", even_lambda, (256, 1024), variant=variant, form=form, lower_order_final=False)
    assert order == pytest.approx(3, abs=0.25)


def test_constant_weights_reach_order_four_on_even_steps_in_rho() -> None:
    assert measured("ipndm", even_rho, (256, 1024), order=4, warmup="rk") == pytest.approx(4, abs=0.25)


# Coefficients of er_sde.


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.04), (0.1, 2.0), (1.0, 80.0)])
def test_er_sde_integrals_are_exact(low: float, high: float) -> None:
    zeroth, first = er_sde._moments(low, high, 0.0, False)  # phi = L
    assert zeroth == pytest.approx(low * math.log(high / low), rel=1e-13)
    assert first == pytest.approx(low * (high - low - high * math.log(high / low)), rel=1e-11)
    zeroth, first = er_sde._moments(low, high, 1.0, False)  # phi = L^2
    assert zeroth == pytest.approx(low - low * low / high, rel=1e-12)
    assert first == pytest.approx(low * low * (math.log(high / low) - high / low + 1.0), rel=1e-11)


def test_the_published_sum_of_er_sde_is_near_its_integral() -> None:
    for eta in (None, 0.0, 1.0):
        exact_0, exact_1 = er_sde._moments(0.5, 1.0, eta, False)
        sum_0, sum_1 = er_sde._moments(0.5, 1.0, eta, True)
        assert 1e-4 < abs(sum_0 / exact_0 - 1.0) < 5e-3
        assert 1e-4 < abs(sum_1 / exact_1 - 1.0) < 2e-2


# Plans.


@pytest.mark.parametrize("schedule", LEVELS)
@pytest.mark.parametrize("solver", ALL)
def test_one_launch_a_call_and_the_denoised_prediction_last(solver: str, schedule: str) -> None:
    plan = fastsolve.make_plan(solver, schedule=schedule, grid=LEVELS[schedule])
    assert plan.launches == plan.nfe
    assert plan.nfe == {"pndm": 9, "deis_rho_rk": 22}.get(solver, 8)
    (last,) = plan.ops[-1].rows
    assert last.terms == ((plan.evals[-1].d, 1.0),)


@pytest.mark.parametrize("warmup", ["heun", "rk"])
@pytest.mark.parametrize("solver", ["deis", "deis_rho_ab", "ipndm", "lms"])
def test_warm_ups_cost_the_calls_they_say(solver: str, warmup: str) -> None:
    plan = fastsolve.make_plan(solver, schedule="vp", grid=LEVELS["vp"], options={"warmup": warmup})
    assert plan.nfe == plan.launches == 8 + {"heun": 1, "rk": 9}[warmup]


def test_sa_solver_calls_twice_with_pece() -> None:
    plan = fastsolve.make_plan("sa_solver", schedule="vp", grid=LEVELS["vp"], options={"pece": True})
    assert plan.nfe == plan.launches == 2 * 8 - 1


def test_sa_solver_draws_once_a_step_inside_its_interval() -> None:
    def draws(**options: object) -> int:
        return fastsolve.make_plan("sa_solver", schedule="ve", grid=LEVELS["ve"], options=options).draws

    assert draws() == 7
    assert draws(eta=0.0) == 0
    assert draws(s_tmin=0.5, s_tmax=5.0) == 4


@pytest.mark.parametrize("options", [{"lower_order_final": True}, {"lower_order_final": False}], ids=str)
@pytest.mark.parametrize("solver", ["deis", "deis_rho_ab", "ipndm", "lms", "pndm", "unipc", "dpmpp_3m", "sa_solver"])
def test_lower_order_final_makes_the_last_step_of_first_order(solver: str, options: dict) -> None:
    grid = LEVELS["vp"][:-1]
    if solver in ("unipc", "sa_solver"):
        options = options | ({"corrector": False} if solver == "unipc" else {"corrector_order": 0, "eta": 0.0})
    plan = fastsolve.make_plan(solver, schedule="vp", grid=grid, options=options)
    read = {name for name, _ in list(plan.rows())[-1].terms}
    assert (read == {plan.evals[-1].x, plan.evals[-1].d}) == options["lower_order_final"]


@pytest.mark.parametrize(("to_zero", "outputs"), [(True, 2), (False, 3)])
def test_sa_solver_lowers_its_corrector_by_what_the_grid_ends_in(to_zero: bool, outputs: int) -> None:
    """As ComfyUI does on its grids, which end in 0, and the authors' code and diffusers on theirs, which do not."""
    grid = LEVELS["ve"] if to_zero else LEVELS["ve"][:-1]
    plan = fastsolve.make_plan("sa_solver", schedule="ve", grid=grid, options={"eta": 0.0})
    last_level = list(plan.rows())[-2 if to_zero else -1]  # by a predictor of one output, after the corrector
    assert len(last_level.terms) == 1 + outputs  # and the state


def test_lms_may_extrapolate_into_zero_as_published() -> None:
    plan = fastsolve.make_plan("lms", schedule="ve", grid=LEVELS["ve"], options={"compat": "official"})
    assert len(list(plan.rows())[-1].terms) > 2
    assert plan.launches == plan.nfe == 8


@pytest.mark.parametrize("schedule", ["flow", "vp_cosine"])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        *((name, {}) for name in ALL),
        ("pndm", {"warmup": "prk"}),
        *((name, {"form": "noise"}) for name in ("dpmpp_2m", "dpmpp_3m", "dpmpp_3m_sde", "unipc", "sa_solver")),
    ],
    ids=str,
)
def test_from_alpha_0_the_first_step_is_ddims(solver: str, options: Options, schedule: str) -> None:
    grid = (1.0, *LEVELS[schedule][1:])
    options = options | ({"eta": 0.0} if solver in ("er_sde", "sa_solver", "dpmpp_3m_sde") else {})
    plan = fastsolve.make_plan(solver, schedule=schedule, grid=grid, options=options)
    first, t = plan.evals[1], schedules.get(schedule).node(grid[1])
    row = next(row for row in plan.rows() if row.out == first.x)
    assert dict(row.terms) == pytest.approx({"x0": t.sigma, "d0": t.alpha})
    x = fastsolve.sample(
        Gaussian().model(schedule),
        (64, 4),
        solver=solver,
        schedule=schedule,
        prediction="x0",
        grid=grid,
        options=options,
    )
    assert x.isfinite().all()
    assert float(x.std()) < 2.0


@pytest.mark.parametrize("solver", ["deis_rho_ab", "lms", "dpmpp_3m"])
def test_a_prediction_at_alpha_0_is_not_interpolated_in_rho_or_lambda(solver: str) -> None:
    plan = fastsolve.make_plan(solver, schedule="flow", grid=(1.0, 0.8, 0.6, 0.4))
    third = next(row for row in plan.rows() if row.out == plan.evals[2].x)
    assert {name for name, _ in third.terms} == {plan.evals[1].x, "d1"}  # DDIM's, since the only other is at alpha = 0


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("solver", ALL)
def test_native_has_the_bits_of_eager(solver: str, prediction: str) -> None:
    def run(executor: str) -> Tensor:
        return fastsolve.sample(
            Gaussian().model("vp", prediction),
            (3, 67),
            solver=solver,
            schedule="vp",
            prediction=prediction,
            grid=LEVELS["vp"],
            seed=5,
            executor=executor,
        )

    assert_bits_equal(run("native"), run("eager"))


REFUSED = [
    ("deis", {"order": 4}, r"order must be one of 0, 1, 2, 3, not 4"),
    ("deis", {"order": 2.0}, r"order must be one of .*, not 2\.0"),
    ("deis", {"order": True}, r"order must be one of .*, not True"),
    ("deis", {"variant": "lambda"}, r"variant must be one of 't', 'rho', 'logrho', not 'lambda'; nearest is"),
    (
        "deis_tab",
        {"warmup": "euler"},
        r"warmup must be one of 'ramp', 'heun', 'rk', 'prk', not 'euler'; nearest is 'heun'",
    ),
    ("deis_tab", {"variant": "rho"}, r"deis_tab has no option 'variant'"),
    (
        "deis_rho_rk",
        {"tableau": "3rk"},
        r"tableau must be one of '1euler', 'midpoint', .*, not '3rk'; nearest is '4rk'",
    ),
    ("ipndm", {"order": 0}, r"order must be one of 1, 2, 3, 4, not 0"),
    ("pndm", {"order": 5}, r"order must be one of 1, 2, 3, 4, not 5"),
    ("lms", {"order": 5}, r"order must be one of 1, 2, 3, 4, not 5"),
    ("lms", {"compat": "k"}, r"compat must be one of None, 'official', not 'k'; nearest is 'official'"),
    ("gradient_estimation", {"gamma": math.inf}, r"gamma must be finite, not inf"),
    ("dpmpp_3m", {"variant": "taylor"}, r"variant must be one of 'coded', 'exact', not 'taylor'; nearest is"),
    ("dpmpp_3m_sde", {"warmup": "rk"}, r"warmup must be one of 'midpoint', 'heun', not 'rk'"),
    ("unipc", {"order": 4}, r"order must be one of 1, 2, 3, not 4"),
    ("unipc", {"variant": "bh3"}, r"variant must be one of 'bh1', 'bh2', 'vary_coeff', not 'bh3'; nearest is 'bh"),
    ("unipc", {"form": "eps"}, r"form must be one of 'data', 'noise', not 'eps'; nearest is 'noise'"),
    ("pndm", {"warmup": "rk"}, r"warmup must be one of 'heun', 'prk', not 'rk'; nearest is 'prk'"),
    ("sa_solver", {"order": 0}, r"order must be one of 1, 2, 3, 4, not 0"),
    ("sa_solver", {"corrector_order": 6}, r"corrector_order must be one of 0, 1, 2, 3, 4, 5, not 6"),
    ("sa_solver", {"variant": "bh1"}, r"variant must be one of 'exact', 'simple', not 'bh1'; nearest is"),
    ("sa_solver", {"eta": -1.0}, r"option eta of sa_solver must be at least 0"),
    ("dpmpp_2m_sde", {"eta": math.inf}, r"eta must be at least 0 and finite, not inf"),
    ("res_multistep", {"eta": math.inf}, r"eta must be at least 0 and finite, not inf"),
    ("er_sde", {"eta": math.inf}, r"eta must be finite, not inf"),
    ("er_sde", {"stages": 4}, r"stages must be one of 1, 2, 3, not 4"),
    ("er_sde", {"compat": "comfy"}, r"compat must be one of None, 'official', not 'comfy'; nearest is 'official'"),
]


@pytest.mark.parametrize(("solver", "options", "text"), REFUSED, ids=str)
def test_bad_options_are_refused_with_what_is_allowed(solver: str, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fastsolve.make_plan(solver, schedule="vp", steps=6, options=options)


def test_steps_shrink_in_every_grid_used_here() -> None:
    for name, levels in LEVELS.items():
        nodes = grids.nodes(grids.Explicit(levels), schedules.get(name), len(levels) - 1)
        assert all(s.lam < t.lam for s, t in pairwise(nodes))
