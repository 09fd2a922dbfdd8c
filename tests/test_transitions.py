"""Transitions against the joint covariance of all states, and what they read."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import fastsolve
from catalogue import CASES, LEVELS, Case
from fastsolve import Plan
from fastsolve.ops import Eval, Row, Update
from fastsolve.transitions import path
from moments import propagate

CHURN = {"s_churn": 2.0, "s_tmin": 0.3}
NOISY = [
    *(Case(name) for name in ("euler_ancestral", "flow_sde", "lcm", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde")),
    *(Case(name) for name in ("seeds1", "seeds2", "seeds3", "er_sde", "sa_solver", "dpm_2_ancestral", "ancestral")),
    *(Case(name, {"form": "noise"}) for name in ("seeds1", "seeds2", "seeds3", "sa_solver", "dpmpp_2m_sde")),
    *(Case(name, {"eta": 1.0}) for name in ("ddim", "res_multistep", "er_sde")),
    *(Case(name, CHURN) for name in ("euler", "heun", "seeds3")),
    Case("seeds2", {"r": 0.8}),
    Case("seeds2", {"r": 1.0, **CHURN}),
    Case("seeds3", {"compat": "official"}),
    Case("seeds3", {"eta": 0.4, "s_noise": 1.1}),
    Case("dpmpp_sde", {"compat": "k_diffusion", "eta": 0.7}),
    Case("sa_solver", {"pece": True}),
    Case("restart", {"intervals": [(3, 2, 0.5, 3.0)]}),
    Case("restart", {"intervals": [(3, 2, 0.5, 3.0)], "base": "seeds2"}),
]
PLANS = [
    *(
        fastsolve.make_plan(case.solver, schedule=schedule, grid=LEVELS[schedule], options=case.options)
        for schedule in ("ve", "vp", "flow")
        for case in NOISY
    ),
    *(
        fastsolve.make_plan("ddpm", schedule="vp", grid=LEVELS["vp"], options={"variance": v})
        for v in ("small", "large")
    ),
    fastsolve.make_plan("flow_sde", schedule="flow", steps=5, prediction="flow"),  # from alpha = 0
    fastsolve.make_plan("seeds3", schedule="flow", steps=5, options={"s_noise": 0.9}),
]


def by_hand(*rows: tuple[tuple[tuple[str, float], ...], ...]) -> Plan:
    """A plan of one call before each update; the last row of an update is called next, or the result."""
    ops: list[Eval | Update] = []
    x, count = "x0", 0
    for k, update in enumerate(rows):
        made = [Row(f"x{count + i}", terms) for i, terms in enumerate(update, 1)]
        ops += [Eval(f"d{k}", x, 1.0 - 0.2 * k, 1.0, 1.0 - 0.2 * k, 0.3, (0.8,)), Update(tuple(made))]
        x, count = made[-1].out, count + len(made)
    return Plan("by hand", "ve", 1.0, tuple(ops), x)


# Two draws in one row, of which the next rows take one alone, their sum, and what is then known of both.
SHARED = by_hand(
    ((("x0", 0.9), ("d0", 0.2), ("z0", 0.5), ("z1", -0.4)),),
    ((("x1", 0.5), ("d1", 0.3), ("z1", 0.7)),),
    ((("x2", 0.8), ("d0", -0.1), ("z0", 0.3), ("z1", 0.3)),),
    ((("x3", 1.0), ("d3", 0.4), ("z0", 0.2), ("z2", 0.1)),),
)
# The first update keeps a tensor with noise of its own for later, which the model is never called on.
KEPT = by_hand(
    ((("x0", 0.3), ("z0", 0.6), ("z1", 0.2)), (("x0", 0.9), ("d0", 0.2), ("z0", 0.5))),
    ((("x1", 0.5), ("x2", 0.4), ("d1", 0.3), ("z2", 0.1)), (("x1", 0.7), ("d0", 0.3))),
    ((("x3", 0.8), ("x4", 0.6), ("z2", 0.3)),),
)


def named(plan: Plan) -> str:
    return f"{plan.solver}-{plan.schedule}-{plan.nfe}-{plan.draws}"


@pytest.mark.parametrize("plan", [*PLANS, SHARED, KEPT], ids=named)
def test_is_the_conditional_gaussian_of_the_joint_covariance(plan: Plan) -> None:
    """With an affine denoiser all states are jointly Gaussian: mean and covariance condition by themselves."""
    known = propagate(plan)
    whole = path(plan)
    rows = np.array([known[name] for name in whole.states])
    normals = np.concatenate([[1.0], np.random.default_rng(3).standard_normal(rows.shape[1] - 1)])
    values = {name: float(row @ normals) for name, row in known.items()}
    mean, noise, y = rows[:, 0], rows[:, 1:], rows @ normals
    size = np.linalg.norm(noise, axis=1)
    for law in whole.transitions:
        i = law.index + 1
        # Cov(y_i, y_<) Cov(y_<, y_<)^+ by least squares on the factor of the covariance, which is not squared that way
        gain = np.linalg.lstsq((noise[:i] / size[:i, None]).T, noise[i], rcond=1e-12)[0] / size[:i]
        left = float(np.linalg.norm(noise[i] - gain @ noise[:i]))
        assert law.std == pytest.approx(left, rel=1e-10, abs=1e-12 * size[i])
        expected = mean[i] + gain @ (y[:i] - mean[:i])
        found = math.fsum(c * values[name] for name, c in law.mean)
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
        assert (law.reason == "") == (law.std > 0.0)
        assert law.reason or found != pytest.approx(y[i], abs=1e-6 * law.std)
        # All that the mean takes was there before
        assert all(j < i for j in law.reads)
        assert {name for name, _ in law.mean} <= set(whole.states[:i]) | {plan.evals[k].d for k in law.calls}
        assert {whole.states.index(plan.evals[k].x) for k in law.calls} <= set(law.reads)


def test_two_draws_in_one_row_by_hand() -> None:
    """x1 = m + z0 / 2 - 0.4 z1 has one noise of size sqrt(0.41), and says -0.4 / 0.41 of it about z1."""
    first, second, *_ = path(SHARED).transitions
    assert first.std == pytest.approx(math.sqrt(0.41))
    assert second.std == pytest.approx(0.7 * math.sqrt(1.0 - 0.16 / 0.41))
    told = 0.7 * -0.4 / 0.41
    expected = {"x1": 0.5 + told, "x0": -told * 0.9, "d0": -told * 0.2, "d1": 0.3}
    assert dict(second.mean) == pytest.approx(expected)
    assert second.reads == (0, 1)
    assert second.calls == (0, 1)
    assert path(SHARED).transitions[2].reason == "its noise is that of earlier states"
    assert {law.group for law in path(SHARED).transitions} == {0}  # all take noise of the first


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_groups_are_the_steps_of_the_grid(case: Case, schedule: str) -> None:
    grid = LEVELS[schedule]
    plan = fastsolve.make_plan(case.solver, schedule=schedule, grid=grid, options=case.options)
    whole = path(plan)
    groups = [law.group for law in whole.transitions]
    assert groups == sorted(groups)
    if case.solver in ("sa_solver", "unipc"):  # their corrected state is carried on beside those that the model sees
        assert groups[-1] == 1
        return
    assert len(set(groups)) == groups[-1] + 1 == len(grid) - 1
    ends = [whole.states[i + 1] for i, (a, b) in enumerate(pairwise([*groups, len(grid)])) if a != b]
    levels = {call.x: call.t for call in plan.evals}
    if case.solver != "pndm":
        assert [levels[x] for x in ends[:-1]] == pytest.approx(grid[1:-1])
    assert ends[-1] == plan.out


def reads(solver: str, **options: object) -> list[tuple[int, ...]]:
    plan = fastsolve.make_plan(solver, schedule="flow", grid=LEVELS["flow"][-4:], options=options)
    return [law.reads for law in path(plan).transitions]


def test_reads_the_fewest_states() -> None:
    assert reads("flow_sde") == [(0,), (1,), (2,)]
    assert reads("ddim", eta=1.0) == reads("euler_ancestral") == reads("seeds1", form="noise") == reads("flow_sde")
    assert reads("dpmpp_2m_sde") == reads("er_sde") == [(0,), (0, 1), (2,)]
    assert reads("seeds2") == reads("dpmpp_sde") == [(0,), (0, 1), (2,), (2, 3), (4,)]
    assert reads("seeds3") == [(0,), (0, 1), (0, 1, 2), (3,), (3, 4), (3, 4, 5), (6,)]


def test_a_transition_without_density_says_why() -> None:
    ode = path(fastsolve.make_plan("heun", schedule="edm", steps=3))
    assert {law.reason for law in ode.transitions} == {"it has no noise"}
    shared = path(fastsolve.make_plan("seeds2", schedule="ve", grid=(4.0, 2.0, 0.0), options={"r": 1.0}))
    assert [law.reason for law in shared.transitions] == ["", "its noise is that of earlier states", "it has no noise"]


def test_refuses_a_state_of_several_variables() -> None:
    with pytest.raises(ValueError, match="a state of one variable; that of tada has 4"):
        path(fastsolve.make_plan("tada", schedule="edm", steps=3, options={"n_variables": 4}))


def test_the_start_is_a_state_though_the_model_is_not_called_on_it() -> None:
    options = {"s_churn": 5.0}
    plan = fastsolve.make_plan("euler", schedule="ve", grid=(4.0, 2.0, 0.0), options=options)
    assert path(plan).states == ("x0", "x1", "x2", "x3")
    assert path(plan).transitions[0].mean == (("x0", 1.0),)


@pytest.mark.parametrize("solver", ["ddim", "euler_ancestral", "flow_sde"])
def test_a_window_has_noise_in_its_steps_alone(solver: str) -> None:
    grid = LEVELS["flow"]

    def laws(**options: object) -> list[tuple[object, float]]:
        plan = fastsolve.make_plan(solver, schedule="flow", grid=grid, options={"eta": 0.6, **options})
        return [(law.mean, law.std) for law in path(plan).transitions]

    inside, outside, some = laws(), laws(eta=0.0), laws(window=[1, 3])
    assert [std > 0.0 for _, std in some] == [False, True, True, False, False]
    assert some == [outside[0], *inside[1:3], *outside[3:]]
    assert inside[1] != outside[1]
    assert laws(window=(0, 5)) == inside
    for window in ((1, 1), (3, 1), (0, 6), (-1, 2), (0,), 3, "01", (0.0, 1.0), (False, 2)):
        with pytest.raises(ValueError, match=r"window must be \(first, last\) with 0 <= first < last <= 5"):
            laws(window=window)
