"""Single-step and ancestral samplers: which are the same, the orders they reach, and what they refuse."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Plan, grids, schedules
from fastsolve.ops import Eval
from problems import Gaussian, plane_mixture, plane_network

HIGH, LOW = 3.0, 0.15  # sigma / alpha: where data and noise interact
MIDDLE = grids.UniformLogSNR(sigma_min=LOW, sigma_max=HIGH, final_zero=False)
MEAN, STD = 0.7, 0.35
START = torch.tensor([[1.2, -2.0], [-3.0, 0.7], [0.4, 2.6], [2.0, 2.0]], dtype=torch.float64)
Options = dict[str, object]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normals(count: int) -> list[Tensor]:
    return list(torch.randn(count, *START.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def run(solver: str, options: Options, schedule: str = "ve", steps: int = 8, noise: bool = True) -> Tensor:
    """The end, in units of the data (x / alpha), of a run from HIGH to LOW."""
    law = schedules.get(schedule)
    ends = [law.at_lam(-math.log(level)) for level in (HIGH, LOW)]
    draws = iter(normals(4 * steps))
    x = fastsolve.sample(
        plane_network(schedule),
        solver=solver,
        schedule=schedule,
        prediction="x0",
        grid=MIDDLE,
        steps=steps,
        x_init=ends[0].alpha * START,
        noise=lambda _: next(draws) if noise else torch.zeros_like(START),
        options=options,
        dtype=torch.float64,
        executor="eager",
    )
    return x / ends[1].alpha


ODE = [
    ("euler", {}),
    ("dpm_solver_2", {}),
    ("dpm_solver_2", {"r": 0.8, "variant": "taylor"}),
    ("dpm_solver_3", {}),
    ("dpm_solver_3", {"r1": 0.25, "variant": "taylor"}),
    ("dpm_solver_3", {"variant": "midpoint"}),
    ("dpmpp_2s", {}),
    ("dpmpp_2s", {"r": 1.0}),
    ("dpmpp_2s", {"variant": "taylor"}),
    ("dpmpp_3s", {}),
    ("dpmpp_3s", {"r1": 0.2}),
    ("dpmpp_3s", {"r1": 0.2, "variant": "midpoint"}),
    ("dpmpp_3s", {"r1": 0.5, "variant": "taylor"}),
    ("exp_heun_2_x0", {}),
    ("flow_euler", {}),
    ("flow_heun", {}),
    ("flow_sde", {"eta": 0.0}),
    ("ancestral", {"base": "dpmpp_3s", "eta": 0.0}),
]
SAME = [
    (("euler", {}), ("ddim", {})),
    (("euler", {}), ("flow_euler", {})),
    (("euler", {}), ("flow_sde", {"eta": 0.0})),
    (("euler", {}), ("dpm_solver_3", {"orders": [1] * 8})),
    (("euler", {}), ("dpmpp_2s", {"orders": [1] * 8})),
    (("dpm_solver_3", {"orders": [2] * 8}), ("dpm_solver_2", {})),
    (("dpm_solver_2", {"variant": "midpoint"}), ("dpm_solver_2", {})),
    (("dpm_solver_2", {}), ("seeds2", {"form": "noise", "eta": 0.0})),
    (
        ("dpm_solver_2", {"r": 0.7, "variant": "taylor"}),
        ("seeds2", {"form": "noise", "eta": 0.0, "r": 0.7, "variant": "phi_2"}),
    ),
    (("dpm_solver_3", {}), ("seeds3", {"form": "noise", "eta": 0.0})),
    (("dpmpp_2s", {}), ("seeds2", {"eta": 0.0})),
    (("dpmpp_3s", {}), ("seeds3", {"eta": 0.0})),
    (
        ("dpmpp_3s", {"r1": 0.25, "r2": 0.7, "variant": "taylor"}),
        ("seeds3", {"eta": 0.0, "variant": "3b", "r1": 0.25, "r2": 0.7}),
    ),
    (("dpmpp_2s", {"r": 1.0, "variant": "taylor"}), ("exp_heun_2_x0", {})),
    (("dpmpp_sde", {}), ("seeds2", {})),
    (("dpmpp_sde", {"r": 0.8}), ("seeds2", {"r": 0.8})),
    (("dpmpp_sde", {"eta": 0.0}), ("dpmpp_2s", {})),
    (("exp_heun_2_x0_sde", {"eta": 0.0}), ("exp_heun_2_x0", {})),
    (("euler_ancestral", {}), ("seeds1", {})),
    (("ancestral", {"base": "euler"}), ("euler_ancestral", {})),
    (("ancestral", {"base": "euler", "eta": 0.4}), ("ddim", {"eta": 0.4})),
    (("ancestral", {"base": "dpm_solver_2", "eta": 0.4}), ("dpm_2_ancestral", {"eta": 0.4})),
    (("ancestral", {"eta": 0.0}), ("dpmpp_2s", {})),
    (("ancestral", {"base": "seeds2", "base_options": {"eta": 0.0}}), ("dpmpp_2s_ancestral", {})),
]


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_the_same_sampler_by_two_names(one: tuple[str, Options], other: tuple[str, Options], schedule: str) -> None:
    assert float((run(*one, schedule) - run(*other, schedule)).abs().max()) <= 1e-13


@pytest.mark.parametrize("solver", [("ddim", {"eta": 1.0}), ("euler_ancestral", {}), ("seeds1", {})], ids=str)
def test_ddpm_with_the_small_variance_is(solver: tuple[str, Options]) -> None:
    assert float((run("ddpm", {}, "vp") - run(*solver, "vp")).abs().max()) <= 1e-13


@pytest.mark.parametrize("schedule", ["vp", "flow", "sub_vp", "vp_scaled_linear"])
@pytest.mark.parametrize(
    "solver", [*ODE, ("dpmpp_sde", {"eta": 0.6}), ("dpm_2_ancestral", {}), ("flow_sde", {}), ("lcm", {})], ids=str
)
def test_a_change_of_path_changes_nothing(solver: tuple[str, Options], schedule: str) -> None:
    """All are written in alpha, sigma and lam: on the same levels x / alpha is that of VE."""
    assert float((run(*solver, schedule) - run(*solver)).abs().max()) <= 1e-13


def test_flow_heun_is_not_the_heun_of_edm() -> None:
    assert float((run("flow_heun", {}) - run("heun", {})).abs().max()) > 1e-4


def test_dpmpp_2s_in_the_middle_needs_the_inner_prediction_alone() -> None:
    plan = fastsolve.make_plan("dpmpp_2s", schedule="vp", grid=MIDDLE, steps=4)
    assert not any({f"d{2 * i}" for i in range(4)} & dict(row.terms).keys() for row in list(plan.rows())[1::2])


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@functools.cache
def exact() -> Tensor:
    """dx / dlam = D - x from HIGH to LOW, by Runge and Kutta."""

    def slope_at(lam: float, x: Tensor) -> Tensor:
        return plane_mixture().x0(x, math.exp(-lam)) - x

    x, lam, h = START, -math.log(HIGH), math.log(HIGH / LOW) / 600
    for _ in range(600):
        k1 = slope_at(lam, x)
        k2 = slope_at(lam + h / 2, x + h / 2 * k1)
        k3 = slope_at(lam + h / 2, x + h / 2 * k2)
        k4 = slope_at(lam + h, x + h * k3)
        x, lam = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), lam + h
    return x


@pytest.mark.parametrize(("name", "options"), ODE, ids=str)
def test_order_on_a_nonlinear_problem(name: str, options: Options) -> None:
    base = options.get("base", name)
    steps, declared = (32, 128), fastsolve.solvers.get(str(base)).order
    errors = [float((run(name, options, steps=n) - exact()).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(declared, abs=0.25), errors


@pytest.mark.parametrize("variant", ["dpm_solver", "taylor"])
@pytest.mark.parametrize("name", ["dpm_solver_3", "dpmpp_3s"])
def test_third_order_needs_its_second_node_at_two_thirds(name: str, variant: str) -> None:
    options = {"r1": 0.4, "r2": 0.9, "variant": variant}
    errors = [float((run(name, options, steps=n) - exact()).norm()) for n in (32, 128)]
    assert slope((32, 128), errors) == pytest.approx(2, abs=0.25)


def variance(plan: Plan) -> float:
    """Of the result on Gaussian data, exactly: every tensor is an affine function of independent normals."""
    first = plan.evals[0]
    basis = np.eye(1 + plan.draws)
    known = {"x0": math.hypot(first.alpha * STD, first.sigma) * basis[0]}
    known |= {f"z{i}": basis[1 + i] for i in range(plan.draws)}
    for op in plan.ops:
        if isinstance(op, Eval):
            known[op.d] = op.alpha * STD**2 / ((op.alpha * STD) ** 2 + op.sigma**2) * known[op.x]
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}
    return float(known[plan.out] @ known[plan.out])


WEAK = [
    ("ddpm", {}, 1),
    ("ddpm", {"variance": "large"}, 1),
    ("dpm_2_ancestral", {}, 2),
    ("dpm_2_ancestral", {"eta": 0.5}, 2),
    ("dpmpp_2s_ancestral", {}, 2),
    ("dpmpp_2s_ancestral", {"eta": 0.5}, 2),
    ("ancestral", {}, 2),
    ("ancestral", {"base": "euler"}, 1),
    ("ancestral", {"base": "heun"}, 2),
    ("ancestral", {"base": "dpmpp_3s"}, 3),
    ("ancestral", {"base": "dpm_solver_3", "eta": 0.7}, 3),
    ("dpmpp_sde", {}, 2),
    ("dpmpp_sde", {"r": 0.8}, 2),
    ("dpmpp_sde", {"eta": 0.5}, 2),
    ("dpmpp_sde", {"compat": "k_diffusion"}, 1),
    ("exp_heun_2_x0_sde", {}, 2),
    ("flow_sde", {}, 1),
    ("flow_sde", {"eta": 1.0}, 1),
]


@pytest.mark.parametrize(("name", "options", "order"), WEAK, ids=str)
def test_weak_order_of_the_variance(name: str, options: Options, order: int) -> None:
    schedule, steps = "vp" if name == "ddpm" else "flow" if name == "flow_sde" else "ve", (64, 256)
    last = schedules.get(schedule).at_lam(-math.log(LOW))
    right = (last.alpha * STD) ** 2 + last.sigma**2
    plans = [fastsolve.make_plan(name, schedule=schedule, grid=MIDDLE, steps=n, options=options) for n in steps]
    errors = [abs(variance(plan) / right - 1.0) for plan in plans]
    assert slope(steps, errors) == pytest.approx(order, abs=0.25), errors


@pytest.mark.parametrize("base", ["euler", "dpm_solver_2", "dpm_solver_3", "dpmpp_3s", "heun"])
@pytest.mark.parametrize("schedule", ["edm", "vp", "flow", "vp_scaled_linear"])
def test_fresh_noise_of_ancestral_steps_adds_no_launch(base: str, schedule: str) -> None:
    plan = fastsolve.make_plan("ancestral", schedule=schedule, steps=7, options={"base": base})
    assert plan.launches == plan.nfe
    assert plan.draws == 6


def test_ancestral_steps_do_not_leave_a_table() -> None:
    plan = fastsolve.make_plan(
        "ancestral", schedule="vp_scaled_linear", grid=(400.0, 2.0, 0.0), options={"base": "heun"}
    )
    assert [call.t for call in plan.evals] == [400.0, 0.0, 2.0, 0.0]
    assert plan.draws == 1


def around(base: str, silent: Options) -> Plan | str:
    """The plan of `ancestral` around a base, both without noise, or why there is none."""
    options = {"base": base, "base_options": silent, "eta": 0.0}
    try:
        return fastsolve.make_plan("ancestral", schedule="vp", grid="quadratic", steps=5, options=options)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("base", fastsolve.list_solvers())
def test_ancestral_without_noise_is_its_base_or_refuses_it(base: str) -> None:
    silent: Options = {"eta": 0.0} if "eta" in fastsolve.solvers.get(base).options else {}
    plan = around(base, silent)
    if isinstance(plan, str):
        assert re.match(f"ancestral needs a (single-step|deterministic) base, but '{base}'", plan)
        assert base not in {"ddim", "deis_rho_rk", "dpm_solver_3", "dpmpp_3s", "heun", "flow_heun", "seeds3"}
    else:
        assert plan.ops == fastsolve.make_plan(base, schedule="vp", grid="quadratic", steps=5, options=silent).ops


def test_flow_sde_has_the_noise_of_flow_grpo() -> None:
    """std = a sqrt(t / (1 - t)) sqrt(dt) with a = 0.7; at t = 1 the ratio is that of the next level; no noise in the last step."""
    plan = fastsolve.make_plan("flow_sde", schedule="flow", grid=(1.0, 0.8, 0.5, 0.0))
    stds = [dict(row.terms).get(f"z{i}", 0.0) for i, row in enumerate(plan.rows())]
    expected = [0.7 * math.sqrt(t / (1.0 - u)) * math.sqrt(dt) for t, u, dt in ((1.0, 0.8, 0.2), (0.8, 0.8, 0.3))]
    assert stds == pytest.approx([*expected, 0.0])
    assert plan.draws == 2
    for row, t, std, dt in zip(plan.rows(), (1.0, 0.8), expected, (-0.2, -0.3), strict=False):
        g2 = std**2 / -dt
        v = (1.0 + g2 * (1.0 - t) / (2.0 * t)) * dt  # x + g^2/(2t) dt x + (1 + g^2 (1 - t)/(2t)) dt v, v = (x - x0)/t
        x, d, _ = (c for _, c in row.terms)
        assert (x, d) == pytest.approx((1.0 + g2 / (2.0 * t) * dt + v / t, -v / t))


def test_inner_levels_of_the_grid_are_model_calls() -> None:
    levels = (0.9, 0.8, 0.7, 0.5, 0.4, 0.2, 0.1, 0.0)
    for name in ("dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_3s"):
        plan = fastsolve.make_plan(name, schedule="vp", grid=levels, options={"inner": "grid"})
        assert [call.t for call in plan.evals] == list(levels[:-1])


REFUSED = [
    (
        "ddpm",
        "flow",
        {},
        r"ddpm needs a variance-preserving schedule: its beta says nothing of 'flow'; ddim with eta = 1",
    ),
    ("ddpm", "vp", {"variance": "learned"}, r"variance must be one of 'small', 'large', not 'learned'"),
    ("dpm_solver_2", "vp", {"r": 0.0}, r"inner nodes r must increase within \(0, 1\], not 0.0"),
    ("dpm_solver_3", "vp", {"r1": 0.7}, r"inner nodes r1, r2 must increase within \(0, 1\], not 0.7, 0.666"),
    (
        "dpmpp_3s",
        "vp",
        {"variant": "heun"},
        r"variant must be one of 'dpm_solver', 'taylor', 'midpoint', not 'heun'; nearest is",
    ),
    ("dpmpp_3s", "vp", {"orders": [3, 3]}, r"orders \(3, 3\) are for a grid of 2 steps, and this one has 5"),
    ("dpmpp_2s", "vp", {"orders": [3] * 5}, r"orders must be numbers from 1 to 2, not \(3, 3, 3, 3, 3\)"),
    ("dpmpp_2s", "vp", {"inner": "half"}, r"inner must be one of 'lambda', 'grid', not 'half'"),
    ("dpmpp_3s", "vp", {"inner": "grid", "orders": [2, 3]}, r"a step to sigma = 0 or from alpha = 0 is first order"),
    ("dpmpp_sde", "vp", {"r": 1.5}, r"r must lie in \(0, 1\], not 1.5"),
    (
        "dpmpp_sde",
        "vp",
        {"compat": "official"},
        r"compat must be one of None, 'k_diffusion', not 'official'; nearest is 'k_diffusion'",
    ),
    ("ancestral", "vp", {"base": "dpmpp_2m"}, r"needs a single-step base, but 'dpmpp_2m' remembers earlier steps"),
    ("ancestral", "vp", {"base": "gradient_estimation"}, r"needs a single-step base, but 'gradient_estimation' rem"),
    ("ddim", "vp", {"eta": math.inf}, r"eta must be at least 0 and finite, not inf"),
    ("dpmpp_sde", "vp", {"eta": math.inf}, r"eta must be at least 0 and finite, not inf"),
    ("ancestral", "vp", {"base": "seeds2"}, r"needs a deterministic base, but 'seeds2' adds noise of its own"),
    (
        "ancestral",
        "vp",
        {"base": "ddim", "base_options": {"eta": 1.0}},
        r"'ddim' adds noise of its own: eta and s_churn",
    ),
    ("ancestral", "vp", {"base": "lcm"}, r"needs a deterministic base, but 'lcm' adds noise of its own"),
    ("ancestral", "vp", {"base": "restart"}, r"needs a deterministic base, but 'restart' adds noise of its own"),
    ("ancestral", "vp", {"base": "dpm2"}, r"unknown solver 'dpm2'; nearest is "),
    (
        "ancestral",
        "vp",
        {"base_options": {"eta": 1.0}},
        r"dpmpp_2s has no option 'eta'; it has inner, orders, r, s_churn, s_noise, s_tmax, s_tmin, variant",
    ),
]


@pytest.mark.parametrize(("name", "schedule", "options", "text"), REFUSED, ids=str)
def test_refuses_bad_options_by_name(name: str, schedule: str, options: Options, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fastsolve.make_plan(name, schedule=schedule, steps=5, options=options)


@pytest.mark.parametrize("schedule", ["vp", "flow", "edm"])
@pytest.mark.parametrize(
    ("name", "options"), [*ODE, *((name, options) for name, options, _ in WEAK), ("lcm", {})], ids=str
)
def test_native_has_the_bits_of_eager(name: str, options: Options, schedule: str) -> None:
    if name == "ddpm" and schedule != "vp":
        pytest.skip("VP only")
    law = schedules.get(schedule)
    levels = [law.at_lam(-math.log(level)).t for level in (20.0, 3.0, 0.4)] + [0.0]
    eager, native = (
        fastsolve.sample(
            Gaussian().model(schedule, "v"),
            (2, 1003),
            solver=name,
            schedule=schedule,
            prediction="v",
            grid=levels,
            seed=3,
            options=options,
            executor=executor,
        )
        for executor in ("eager", "native")
    )
    assert eager.isfinite().all()
    assert_bits_equal(native, eager)
