"""Plans walked backwards: their order, the round trip, what has no inverse; and the arc between two noises."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import CASES, EXECUTORS, NO_LIMIT, OWN_TESTS, Case
from fastsolve import Denoiser, grids, invert, make_plan, sample, schedules, slerp, solvers
from orders import MIDDLE, START, exact, slope
from problems import Gaussian, golden_mixture, plane_network

STEPS = (24, 96)
INVERTIBLE = [name for name in fastsolve.list_solvers() if name not in NO_LIMIT | OWN_TESTS]
ALPHA_0 = ("flow", schedules.VPTable((*[math.cos(0.5 * math.pi * i / 408) ** 2 for i in range(8, 408)], 0.0)))


def seen_backwards(case: Case, steps: int, x: Tensor) -> Tensor:
    """From the low end of the middle levels to the high one; on VE, where both are in units of data."""
    return invert(
        plane_network("ve"),
        x,
        solver=case.solver,
        schedule="ve",
        prediction="x0",
        grid=MIDDLE,
        steps=steps,
        options=case.where(eta=0.0),
        executor="eager",
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.solver not in NO_LIMIT], ids=str)
def test_backwards_every_solver_has_its_order(case: Case) -> None:
    errors = [float((seen_backwards(case, n, exact(0.0)) - START).norm()) for n in STEPS]
    assert slope(STEPS, errors) == pytest.approx(case.fact.order, abs=0.35), errors


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("deis", 2), ("unipc", 2), ("heun", 3)])
def test_the_round_trip_has_the_order_of_the_solver(solver: str, order: int) -> None:
    """One more where the steps are single and the order is even: the leading errors of the two ways cancel."""
    x, errors = exact(0.0), []
    for steps in STEPS:
        back = sample(
            plane_network("ve"),
            solver=solver,
            schedule="ve",
            prediction="x0",
            grid=MIDDLE,
            steps=steps,
            x_init=seen_backwards(Case(solver), steps, x),
            dtype=torch.float64,
            executor="eager",
        )
        errors.append(float((back - x).norm()))
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.3), errors


# Root mean square, measured, times 1.1: of 32 samples of the golden mixture in 20 steps on the schedule's grid, down to clean data.
BOUNDS = {
    ("edm", "heun"): 0.0028,
    ("edm", "dpmpp_2m"): 0.0050,
    ("vp", "heun"): 0.00048,
    ("vp", "dpmpp_2m"): 0.0035,
    ("flow", "heun"): 0.011,
    ("flow", "dpmpp_2m"): 0.015,
    ("vp_scaled_linear", "dpmpp_2m"): 0.065,
}


@pytest.mark.parametrize(("schedule", "solver"), BOUNDS)
def test_data_come_back(schedule: str, solver: str) -> None:
    x, model = golden_mixture().draw(32, seed=1), Denoiser(golden_mixture().model(schedule, "v"), schedule, "v")
    noise = invert(model, x, solver=solver, steps=20, executor="eager")
    back = sample(model, solver=solver, steps=20, x_init=noise, dtype=torch.float64, executor="eager")
    assert float((back - x).square().mean().sqrt()) <= BOUNDS[schedule, solver]


FROM_ALPHA_0 = {"flow_heun", "pndm"}  # which count other calls in a first step from there


@pytest.mark.parametrize("name", INVERTIBLE)
def test_an_inverse_calls_at_the_levels_of_its_plan(name: str) -> None:
    options = {"eta": 0.0} if "eta" in solvers.get(name).options else {}
    for schedule in ("vp", "flow"):
        there, back = (
            make_plan(name, schedule=schedule, steps=6, options=options, inverse=inverse) for inverse in (False, True)
        )
        assert back.nfe == back.launches
        if schedule == "vp" or name not in FROM_ALPHA_0:
            assert back.nfe == there.nfe
        ends = [there.evals[-1].t, there.evals[0].t if schedule == "vp" else None]
        assert back.evals[0].t == ends[0]
        assert schedule == "flow" or max(call.t for call in back.evals) <= ends[1]
        assert all(call.alpha > 0.0 for call in back.evals)
        assert make_plan(name, schedule=schedule, nfe=there.nfe, options=options, inverse=True) == back


@pytest.mark.parametrize("schedule", ALPHA_0, ids=["flow", "table"])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpm_solver_3", "deis"])
def test_up_to_alpha_0_gaussian_data_become_their_noise(solver: str, schedule: str | schedules.VPTable) -> None:
    law, data = schedules.get(schedule), Gaussian()
    x = data.draw(5, seed=3)
    z = invert(
        data.model(law, "v"),
        x,
        solver=solver,
        schedule=law,
        prediction="v",
        grid="uniform",
        steps=200,
        executor="eager",
    )
    torch.testing.assert_close(z, (x - data.mean) / data.std, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "law", [schedules.get("flow"), schedules.get("vp_cosine"), schedules.get("edm")], ids=lambda s: s.name
)
@pytest.mark.parametrize("name", INVERTIBLE)
def test_around_a_point_of_data_the_noise_is_found_exactly(name: str, law: schedules.Schedule) -> None:
    levels = grids.get(None, law).levels(law, 6)[:-1]
    last, x = law.node(levels[-1]), torch.full((2, 3), 0.7, dtype=torch.float64)
    z = invert(
        Gaussian(0.7, 0.0).model(law, "v"),
        last.alpha * x + last.sigma * 1.3,
        solver=name,
        schedule=law,
        prediction="v",
        grid=levels,
        options=Case(name).where(eta=0.0),
        executor="eager",
    )
    first = law.node(levels[0])
    torch.testing.assert_close(z, first.alpha * x + first.sigma * 1.3, rtol=1e-9, atol=1e-9)


def test_a_part_is_walked_back_to_its_first_level() -> None:
    law = schedules.get("edm")
    nodes = grids.nodes(grids.get(None, law), law, 40)[20:]
    x, data = Gaussian().draw(5), Gaussian()
    model = Denoiser(data.model(law), law, "x0")
    z = invert(model, x, solver="dpm_solver_3", steps=40, start=20, executor="eager")
    exact_z = data.flow(x, law.node(0.0), nodes[0])
    torch.testing.assert_close(z, exact_z, rtol=1e-4, atol=1e-4)
    assert_bits_equal(invert(model, x, solver="dpm_solver_3", steps=40, strength=0.5, executor="eager"), z)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_inverses_run_on_every_executor_and_change_nothing_of_the_caller(executor: str) -> None:
    x = Gaussian(shape=(3, 5)).draw(2).float()
    before = x.clone()
    z = invert(Denoiser(Gaussian().model("vp", "eps"), "vp", "eps"), x, nfe=7, executor=executor)
    assert (z.dtype, z.shape) == (x.dtype, x.shape)
    assert_bits_equal(x, before)
    eager = invert(Denoiser(Gaussian().model("vp", "eps"), "vp", "eps"), x, nfe=7, executor="eager")
    assert_bits_equal(z, eager)


def test_a_guided_inverse_is_that_of_the_combined_model() -> None:
    def model(x: Tensor, t: Tensor, shift: float) -> Tensor:
        return Gaussian().model("vp", "v")(x, t) + shift

    x, asked = Gaussian().draw(3), {"solver": "heun", "steps": 6, "executor": "eager"}
    given = {"model_kwargs": {"shift": 0.2}, "negative_kwargs": {"shift": -0.1}}
    z = invert(Denoiser(model, "vp", "v", null={}), x, guidance=2.0, **given, **asked)
    plain = invert(Denoiser(model, "vp", "v"), x, model_kwargs={"shift": 0.5}, **asked)
    torch.testing.assert_close(z, plain, rtol=1e-12, atol=1e-12)


NOISY = "draws noise, which has no inverse: "


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("seeds3", {}, rf"seeds3 {NOISY}take options {{'eta': 0\.0}}, or another solver: ddim, heun or dpmpp_2m"),
        ("seeds3", {"s_noise": 0.0}, f"seeds3 {NOISY}"),  # silent, and still not the ODE
        ("ddim", {"eta": 0.5}, rf"ddim {NOISY}take options {{'eta': 0\.0}}"),
        ("heun", {"s_churn": 5.0}, f"heun {NOISY}leave out s_churn"),
        ("restart", {"intervals": [(3, 1, 0.1, 0.5)]}, f"restart {NOISY}leave out intervals"),
        ("restart", {"base": "seeds2", "base_options": {"s_noise": 0.0}}, f"restart {NOISY}"),
        ("lcm", {}, f"lcm {NOISY}take another solver"),
        ("lcm", {"s_noise": 0.0}, f"lcm {NOISY}take another solver"),
        ("tada", {}, "tada has 2 variables, and data is one: invert by ddim, heun or dpmpp_2m"),
        ("ddim", {"denoise_final": True}, "denoise_final is a call at the end of the way to data"),
    ],
    ids=str,
)
def test_what_has_no_inverse_is_refused(solver: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(solver, schedule="edm", steps=8, options=options, inverse=True)


def test_one_step_to_clean_data_has_no_inverse() -> None:
    for schedule in ("edm", "flow"):
        with pytest.raises(ValueError, match="one step to clean data has no inverse, it forgets the noise"):
            make_plan("ddim", schedule=schedule, steps=1, inverse=True)


def test_what_is_no_tensor_or_flag_is_refused() -> None:
    with pytest.raises(TypeError, match="x must be a tensor"):
        invert(Gaussian().model("vp"), [1.0], schedule="vp", prediction="x0", steps=3)
    with pytest.raises(TypeError, match="inverse must be True or False, not 1"):
        make_plan("ddim", schedule="vp", steps=3, inverse=1)


@pytest.mark.parametrize("shape", [(4, 3, 7), (4, 1), (4,)], ids=str)
def test_slerp_keeps_the_norm_and_meets_its_ends(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(rng.standard_normal(shape)) for _ in range(2))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    if len(shape) > 2:  # numbers alone have no direction but forwards and back
        flat = [z.flatten(1) / z.flatten(1).norm(dim=1, keepdim=True) for z in (a, b)]
        between = slerp(*flat, 0.3)
        torch.testing.assert_close(between.norm(dim=1), torch.ones(4, dtype=torch.float64))
        angles = [torch.acos((between * end).sum(1)) for end in flat]
        torch.testing.assert_close(angles[0] / (angles[0] + angles[1]), torch.full((4,), 0.3, dtype=torch.float64))
        torch.testing.assert_close(slerp(a, b, 1.0), b)
        each = slerp(a, b, torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64))
        torch.testing.assert_close(each[1], slerp(a[1:2], b[1:2], 0.25)[0])
        torch.testing.assert_close(slerp(a, 2.0 * a, 0.5), 1.5 * a)  # no angle: a straight line


def test_slerp_refuses_other_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"a and b must have the same shape, \[B, \*shape\], not \[2, 3\] and \[1, 3\]"
    ):
        slerp(torch.zeros(2, 3), torch.zeros(1, 3), 0.5)


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parent.parent / "docs/inversion.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made: dict[str, Tensor] = {}
    exec(example, made)
    assert made["half"].isfinite().all()
    first, last = (z.norm() for z in made["noise"])
    assert min(first, last) * 0.95 < made["between"].norm() < max(first, last) * 1.05
