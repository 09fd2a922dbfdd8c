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
from fastsolve.solvers.sa_solver import adams_step
from problems import Gaussian, plane_mixture

HIGH, LOW = 3.0, 0.15  # sigma / alpha: where data and noise interact
START = torch.tensor([[1.2, -2.0], [-3.0, 0.7], [0.4, 2.6], [2.0, 2.0]], dtype=torch.float64)
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
        plane_mixture().model(schedule),
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
def test_data_rules_reproduce_polynomials(points: int, corrector: bool, eta: float) -> None:
    law = schedules.get("vp")
    nodes = [law.node(t) for t in (0.75, 0.6, 0.5, 0.42, 0.35, 0.25)]
    s, t = nodes[-2:]
    used = ([s, t, *nodes[-3::-1]] if corrector else nodes[-2::-1])[:points]
    form = adams_step(Form({"x": 1.0}), s, t, [(n, Form({f"d{i}": 1.0})) for i, n in enumerate(used)], eta)
    weights = [form.terms[f"d{i}"] for i in range(points)]
    h = t.lam - s.lam
    assert form.terms["x"] == pytest.approx(t.sigma / s.sigma * math.exp(-eta * h), rel=1e-15)
    assert math.fsum(weights) == pytest.approx(-t.alpha * math.expm1(-(1.0 + eta) * h), rel=1e-13)
    for m in range(points):
        exact = gauss_legendre(
            lambda u, m=m: t.alpha * (1.0 + eta) * math.exp(-(1.0 + eta) * (t.lam - u)) * (u - s.lam) ** m, s.lam, t.lam
        )
        found = math.fsum(w * (n.lam - s.lam) ** m for w, n in zip(weights, used, strict=True))
        assert found == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("rule", ["exact", "bh1", "bh2"])
@pytest.mark.parametrize("corrector", [False, True])
def test_two_point_rules_keep_constants(corrector: bool, rule: str) -> None:
    law = schedules.get("flow")
    u, s, t = (law.node(v) for v in (0.8, 0.6, 0.5))
    form = adams_step(
        Form({"x": 1.0}), s, t, [(s, Form({"d0": 1.0})), (t if corrector else u, Form({"d1": 1.0}))], 0.0, rule
    )
    assert form.terms["d0"] + form.terms["d1"] == pytest.approx(t.alpha - s.alpha * t.sigma / s.sigma, rel=1e-14)


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


@pytest.mark.parametrize("solver", ["deis_tab", "deis_rho_ab"])
@pytest.mark.parametrize("schedule", ["ve", "vp", "flow", "vp_cosine", "sub_vp"])
def test_a_step_integrates_a_polynomial_noise_exactly(schedule: str, solver: str) -> None:
    """The network says eps = p(s) whatever the state: what the last step adds to x / alpha is the integral of p over rho."""
    law, levels = schedules.get(schedule), LEVELS[schedule][3:-1]  # rho of order 1: no digits are lost

    def position(node: Node) -> float:
        return node.t if solver == "deis_tab" else node.sigma / node.alpha

    def poly(u: float) -> float:
        return 0.3 - 1.1 * u + 0.7 * u**2 - 0.4 * u**3

    def model(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, poly(position(law.node(float(t[0])))))

    def end(grid: Sequence[float]) -> float:
        x = fastsolve.sample(
            model,
            solver=solver,
            schedule=schedule,
            prediction="eps",
            grid=grid,
            x_init=torch.ones(1, 1, dtype=torch.float64),
            dtype=torch.float64,
            executor="eager",
        )
        return float(x) / law.node(grid[-1]).alpha

    s, t = law.node(levels[-2]), law.node(levels[-1])
    exact = gauss_legendre(
        lambda rho: poly(position(law.at_lam(-math.log(rho)))), s.sigma / s.alpha, t.sigma / t.alpha, 100
    )
    assert end(levels) - end(levels[:-1]) == pytest.approx(exact, rel=1e-9)


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
                    plane_mixture().model("ve"),
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


GRIDS = {"even in lambda": even_lambda, "even in rho": even_rho}
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
    ("dpmpp_3m", {}, "even in lambda", 2),
    ("res_multistep", {}, "even in lambda", 2),
    ("unipc", {}, "even in lambda", 2),
    *(("unipc", {"order": k, "lower_order_final": False}, "even in lambda", k + 1) for k in (1, 2, 3)),
    ("sa_solver", {"eta": 0.0}, "even in lambda", 2),
    ("er_sde", {"eta": 0.0, "stages": 1}, "even in lambda", 1),
    ("er_sde", {"eta": 0.0, "stages": 2}, "even in lambda", 2),
    ("er_sde", {"eta": 0.0, "stages": 3}, "even in lambda", 2),
    *(("deis_rho_rk", {"tableau": k}, "even in lambda", 2 if k == "midpoint" else int(k[0])) for k in deis.TABLEAUS),
]


@pytest.mark.parametrize(("solver", "options", "grid", "order"), ORDERS, ids=str)
def test_order(solver: str, options: dict, grid: str, order: int) -> None:
    assert measured(solver, GRIDS[grid], (64, 128, 256), **options) == pytest.approx(order, abs=0.25)


def test_constant_weights_reach_order_four_on_even_steps_in_rho() -> None:
    assert measured("ipndm", even_rho, (256, 512, 1024), order=4, warmup="rk") == pytest.approx(4, abs=0.25)


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


def test_lms_may_extrapolate_into_zero_as_published() -> None:
    plan = fastsolve.make_plan("lms", schedule="ve", grid=LEVELS["ve"], options={"compat": "official"})
    assert len(list(plan.rows())[-1].terms) > 2
    assert plan.launches == plan.nfe == 8


@pytest.mark.parametrize("schedule", ["flow", "vp_cosine"])
@pytest.mark.parametrize("solver", ALL)
def test_from_alpha_0_the_first_step_is_ddims(solver: str, schedule: str) -> None:
    grid = (1.0, *LEVELS[schedule][1:])
    options = {"eta": 0.0} if solver in ("er_sde", "sa_solver", "dpmpp_3m_sde") else {}
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
    ("deis_tab", {"warmup": "euler"}, r"warmup must be one of 'ramp', 'heun', 'rk', not 'euler'; nearest is 'heun'"),
    ("deis_tab", {"variant": "rho"}, r"deis_tab has no option 'variant'"),
    ("deis_rho_rk", {"tableau": "3rk"}, r"tableau must be one of '1euler', 'midpoint', .*, not '3rk'; nearest is '4rk'"),
    ("ipndm", {"order": 0}, r"order must be one of 1, 2, 3, 4, not 0"),
    ("pndm", {"order": 5}, r"order must be one of 1, 2, 3, 4, not 5"),
    ("lms", {"order": 5}, r"order must be one of 1, 2, 3, 4, not 5"),
    ("lms", {"compat": "k"}, r"compat must be one of None, 'official', not 'k'; nearest is 'official'"),
    ("gradient_estimation", {"gamma": math.inf}, r"gamma must be finite, not inf"),
    ("dpmpp_3m", {"variant": "taylor"}, r"variant must be one of 'coded', 'exact', not 'taylor'; nearest is"),
    ("dpmpp_3m_sde", {"warmup": "rk"}, r"warmup must be one of 'midpoint', 'heun', not 'rk'"),
    ("unipc", {"order": 4}, r"order must be one of 1, 2, 3, not 4"),
    ("unipc", {"variant": "vary_coeff"}, r"variant must be one of 'bh1', 'bh2', not 'vary_coeff'"),
    ("sa_solver", {"order": 0}, r"order must be one of 1, 2, 3, 4, not 0"),
    ("sa_solver", {"corrector_order": 6}, r"corrector_order must be one of 0, 1, 2, 3, 4, 5, not 6"),
    ("sa_solver", {"variant": "bh1"}, r"variant must be one of 'exact', 'simple', not 'bh1'; nearest is"),
    ("sa_solver", {"eta": -1.0}, r"option eta of sa_solver must be at least 0"),
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
