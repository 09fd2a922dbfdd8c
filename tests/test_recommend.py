"""`recommend`: it says what was measured, and what it says can be run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastsolve
from fastsolve import recommend, schedules, solvers
from fastsolve.problems import Gaussian

ALL = ("edm", "ve", "vp", "vp_cosine", "vp_scaled_linear", "sub_vp", "flow")


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("stochastic", [None, True, False])
def test_what_is_recommended_keeps_to_its_budget_and_kind(schedule: str, stochastic: bool | None) -> None:
    for nfe in (1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 20, 33, 60, 100, 250):
        advised = recommend(nfe, stochastic=stochastic, schedule=schedule)
        plan = fastsolve.make_plan(schedule=schedule, nfe=nfe, **advised.arguments)  # type: ignore[arg-type]
        assert nfe - solvers.get(advised.solver).stages < plan.nfe <= nfe
        assert not plan.variables
        if stochastic is not None and plan.nfe > 1:
            assert (plan.draws > 0) == stochastic


@pytest.mark.parametrize("schedule", ["edm", "vp", "flow"])
def test_two_variables_are_admitted_by_wish(schedule: str) -> None:
    """Where tada is as good as the best, it is named with two variables alone."""
    named = {1: set[str](), 2: set[str]()}
    for variables, names in named.items():
        for nfe in (5, 8, 12, 20, 36, 60, 100):
            advised = recommend(nfe, variables=variables, schedule=schedule)
            assert fastsolve.make_plan(schedule=schedule, nfe=nfe, **advised.arguments).nfe <= nfe  # type: ignore[arg-type]
            following = advised.next[:1] if advised.next else ()
            names |= {advised.solver, *(name for name, _ in advised.as_good), *following}
    assert not any(name.startswith("tada") for name in named[1])
    assert any(name.startswith("tada") for name in named[2])


@pytest.mark.parametrize("schedule", ["edm", "vp", "flow"])
def test_a_solver_that_is_not_named_is_the_one_recommended(schedule: str) -> None:
    denoiser = Gaussian(0.3, 0.5, (6,)).denoiser(schedule)
    for nfe in (5, 12):
        advised = recommend(nfe, schedule=schedule)
        named = fastsolve.make_plan(schedule=schedule, nfe=nfe, **advised.arguments)  # type: ignore[arg-type]
        assert fastsolve.make_plan(schedule=schedule, nfe=nfe) is named
        assert fastsolve.Sampler(denoiser, (3, 6), nfe=nfe).plan.solver == advised.solver
        ours = fastsolve.sample(denoiser, (3, 6), nfe=nfe)
        assert torch.equal(ours, fastsolve.sample(denoiser, (3, 6), nfe=nfe, **advised.arguments))  # type: ignore[arg-type]


def test_a_grid_of_the_callers_has_a_solver_for_any_grid() -> None:
    """What is recommended was measured on its own grid; on these it was off by more than the data's mean."""
    assert fastsolve.make_plan(schedule="vp", nfe=8, grid="karras") is fastsolve.make_plan(
        "dpmpp_2m", schedule="vp", nfe=8, grid="karras"
    )
    denoiser = Gaussian(0.3, 0.5, (6,)).denoiser("edm")
    for grid in ([80.0, 1.0, 0.9, 0.0], [80.0, 3.0, 2.9, 1.0, 0.2, 0.0]):
        for solver in (None, "fastsolve"):
            mean = float(fastsolve.sample(denoiser, (512, 6), grid=grid, solver=solver).mean())
            assert mean == pytest.approx(0.3, abs=0.05)


def test_steps_are_of_one_call_each() -> None:
    for law in ("edm", "vp", "flow"):
        for steps in (1, 4, 9, 36, 60, 100):
            assert fastsolve.make_plan(schedule=law, steps=steps).nfe == steps


def test_what_is_recommended_is_the_callers_own() -> None:
    recommend(5).options["eta"] = 1.0  # type: ignore[index]
    assert "eta" not in recommend(5).options


def test_what_the_caller_says_stays() -> None:
    assert fastsolve.make_plan(schedule="vp", nfe=8, options={"denoise_final": True}).nfe == 8
    inverse = fastsolve.make_plan(schedule="vp", nfe=20, inverse=True)
    assert inverse.solver == recommend(20, stochastic=False, schedule="vp").solver
    with pytest.raises(ValueError, match="name the solver that 'eta' is for"):
        fastsolve.make_plan(schedule="vp", nfe=8, options={"eta": 0.5})
    with pytest.raises(ValueError, match="one of steps and nfe, not neither"):
        fastsolve.make_plan(schedule="vp")
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        fastsolve.make_plan(schedule="vp", steps=0)
    with pytest.raises(TypeError, match="nfe must be an int, not 'ten'"):
        fastsolve.make_plan(schedule="vp", nfe="ten")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"nfe": 0}, ValueError, "nfe must be at least 1, not 0"),
        ({"nfe": 2.0}, TypeError, "nfe must be an int, not 2.0"),
        ({"nfe": True}, TypeError, "nfe must be an int, not True"),
        ({"nfe": 5, "stochastic": "yes"}, TypeError, "stochastic must be True, False or None"),
        ({"nfe": 5, "variables": 3}, ValueError, "variables must be 1, or 2"),
        ({"nfe": 5, "schedule": "vb"}, ValueError, "'vp'"),
    ],
)
def test_refusals(asked: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        recommend(**asked)


def test_a_table_that_starts_at_alpha_0_is_advised_as_flow_matching_is() -> None:
    law = schedules.VPTable([0.9, 0.5, 0.1, 0.0])
    assert recommend(8, schedule=law) == recommend(8, schedule="flow")
    assert fastsolve.make_plan(schedule=law, nfe=3).nfe <= 3


def test_it_says_how_sure_it_is() -> None:
    said = str(recommend(8, schedule="vp"))
    advised = recommend(8, schedule="vp")
    assert said.startswith(f"{advised.solver}")
    assert "(measured with 8 calls)" in said
    assert (f"{advised.ties} as good within two standard errors" in said) == (advised.ties > 0)
    assert str(recommend(9, schedule="vp")) == said
