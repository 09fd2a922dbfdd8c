"""The planner warns, once, of a grid that is known to be a disaster for the solver at so few calls."""

from __future__ import annotations

import itertools

import pytest

from fastsolve import make_plan, planner
from fastsolve.grids import Uniform
from fastsolve.schedules import VP


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_warned", set())


@pytest.mark.parametrize("solver", ["dpmpp_2m", "deis", "unipc"])
def test_a_named_uniform_grid_is_warned_of_once(solver: str) -> None:
    text = rf"^grid 'uniform' on schedule 'vp' is far off for {solver} at 6 calls: use 'quadratic' or 'uniform_logsnr'$"
    with pytest.warns(UserWarning, match=text) as seen:
        first = make_plan(solver, schedule="vp", grid="uniform", steps=6)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert make_plan(solver, schedule="vp", grid="uniform", steps=6) == first  # silent: a warning is an error here
    make_plan(solver, schedule="vp", grid="uniform", nfe=7)


def test_it_is_once_for_each_solver_grid_and_schedule() -> None:
    for solver, grid, law in itertools.product(("deis", "unipc"), ("uniform", "normal"), ("vp", VP(beta_max=15.0))):
        with pytest.warns(UserWarning, match=f"^grid '{grid}' .* is far off for {solver} "):
            make_plan(solver, schedule=law, grid=grid, nfe=8)


def test_a_warning_made_an_error_does_not_keep_the_plan_away() -> None:
    with pytest.raises(UserWarning, match="is far off for"):
        make_plan("deis", schedule="vp", grid="uniform", steps=6)
    assert make_plan("deis", schedule="vp", grid="uniform", steps=6).nfe == 6


@pytest.mark.parametrize(
    ("solver", "schedule", "grid", "steps"),
    [
        ("dpmpp_2m", "vp", None, 6),  # nobody's choice
        ("dpmpp_2m", "vp", Uniform(), 6),  # built by hand: meant
        ("dpmpp_2m", "vp", "uniform", 9),
        ("dpmpp_2m", "vp", "quadratic", 6),
        ("dpmpp_2m", "flow", "uniform", 6),
        ("dpmpp_2m", "vp_scaled_linear", "uniform", 6),
        ("ddim", "vp", "uniform", 6),
        ("dpmpp_2s", "vp", "uniform", 6),
    ],
)
def test_nothing_else_is_warned_of(solver: str, schedule: str, grid: str | Uniform | None, steps: int) -> None:
    make_plan(solver, schedule=schedule, grid=grid, steps=steps)
