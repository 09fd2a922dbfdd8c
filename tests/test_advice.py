"""The planner warns, once, of a grid that is known to be a disaster for the solver at so few calls."""

from __future__ import annotations

import itertools

import pytest
import torch

import fastsolve
from fastsolve import Denoiser, advice, make_plan
from fastsolve.grids import Uniform
from fastsolve.schedules import VE, VP, Schedule
from problems import golden_mixture


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_warned", set())


@pytest.mark.parametrize("solver", ["dpmpp_2m", "deis", "unipc"])
def test_a_named_uniform_grid_is_warned_of_once(solver: str) -> None:
    text = (
        rf"^grid 'uniform' on schedule 'vp' is far off for {solver} in 6 steps: "
        r"its step from t = 0\.201 to 0\.001 is too long; use 'rbe'$"
    )
    with pytest.warns(UserWarning, match=text) as seen:
        first = make_plan(solver, schedule="vp", grid="uniform", steps=6)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert make_plan(solver, schedule="vp", grid="uniform", steps=6) == first  # silent: a warning is an error here
    make_plan(solver, schedule="vp", grid="uniform", nfe=7)


def test_it_is_once_for_each_solver_grid_and_schedule() -> None:
    for solver, grid, law in itertools.product(("deis", "unipc"), ("uniform", "normal"), ("vp", VP(beta_max=15.0))):
        with pytest.warns(UserWarning, match=f"^grid '{grid}' .* is far off for {solver} in 8 steps: "):
            make_plan(solver, schedule=law, grid=grid, nfe=8)


def test_a_warning_made_an_error_does_not_keep_the_plan_away() -> None:
    with pytest.raises(UserWarning, match="is far off for"):
        make_plan("deis", schedule="vp", grid="uniform", steps=6)
    assert make_plan("deis", schedule="vp", grid="uniform", steps=6).nfe == 6


@pytest.mark.parametrize(
    ("solver", "schedule", "grid", "budget", "fault"),
    [
        ("heun", "vp", "quadratic", {"nfe": 6}, "in 3 steps: its step from t = 1 to 0.266 is too long"),
        ("heun", "vp", "karras", {"nfe": 8}, "in 4 steps: its step from t = 0.* to 0.001 is too long"),
        ("dpm_solver_3", "vp_scaled_linear", "trailing", {"steps": 1}, None),
        (
            "dpm_solver_3",
            "vp_scaled_linear",
            "karras",
            {"nfe": 6},
            "in 2 steps: its step from t = 999 to 0 is too long",
        ),
        ("dpmpp_3m", "edm", "quadratic", {"steps": 12}, "in 12 steps: its step from t = .* to 0.002 is too long"),
        (
            "ddim",
            "vp_scaled_linear",
            "ddim_quad",
            {"steps": 10},
            "in 10 steps: it starts at t = 800, where sigma / alpha is 5.1",
        ),
        ("ddim", "vp_scaled_linear", "ddim_quad", {"steps": 9}, None),
        ("dpmpp_2m", "flow", "quadratic", {"steps": 10}, None),  # its second level is not its start
        ("heun", "flow", "uniform", {"steps": 1}, None),
        ("ddim", VE(0.01, 1.0), "karras", {"steps": 12}, None),  # starts at the schedule's own top
        ("dpmpp_2s", "vp", "quadratic", {"nfe": 6}, None),  # holds the data: 1.5 times the error of 'rbe'
    ],
)
def test_what_makes_a_grid_far_off(
    solver: str, schedule: str | Schedule, grid: str, budget: dict[str, int], fault: str | None
) -> None:
    if fault is None:
        make_plan(solver, schedule=schedule, grid=grid, **budget)
        return
    with pytest.warns(UserWarning, match=f"is far off for {solver} {fault}; use 'rbe'$"):
        make_plan(solver, schedule=schedule, grid=grid, **budget)


@pytest.mark.parametrize(
    ("solver", "schedule", "grid", "steps"),
    [
        ("dpmpp_2m", "vp", None, 6),  # the default
        ("heun", "edm", None, 3),  # nobody's choice
        ("dpmpp_2m", "vp", Uniform(), 6),  # built by hand: meant
        ("dpmpp_2m", "vp", "uniform", 20),
        ("dpmpp_2m", "vp", "quadratic", 6),
        ("dpmpp_2m", "vp", "rbe", 6),
        ("heun", "vp", "rbe", 2),
        ("dpmpp_2m", "flow", "uniform", 6),
        ("dpmpp_2m", "vp_scaled_linear", "uniform", 6),
        ("ddim", "vp", "uniform", 6),
        ("dpmpp_2s", "vp", "uniform", 6),
    ],
)
def test_nothing_else_is_warned_of(solver: str, schedule: str, grid: str | Uniform | None, steps: int) -> None:
    make_plan(solver, schedule=schedule, grid=grid, steps=steps)


@pytest.mark.parametrize(
    ("solver", "grid", "steps"), [("dpmpp_2m", "uniform", 6), ("unipc", "uniform", 8), ("heun", "quadratic", 3)]
)
def test_what_is_warned_of_is_far_off(solver: str, grid: str, steps: int) -> None:
    """At least twice the error of what the warning recommends, on the mixture."""
    denoiser = Denoiser(golden_mixture().model("vp", "x0"), "vp", "x0", shape=(3, 4, 4), dtype=torch.float64)
    z = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(2024), dtype=torch.float64)

    def run(solver: str, grid: str, steps: int) -> torch.Tensor:
        return fastsolve.sample(
            denoiser, z.shape, solver=solver, grid=grid, steps=steps, x_init=z, dtype=torch.float64, executor="eager"
        )

    exact = run("dpmpp_2m", "uniform_logsnr", 200)
    with pytest.warns(UserWarning, match="is far off"):
        warned = run(solver, grid, steps)
    error = [float((x - exact).square().mean().sqrt()) for x in (warned, run(solver, "rbe", steps))]
    assert error[0] > 2.0 * error[1]
