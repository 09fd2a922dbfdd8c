"""TADA: a state of several variables, its rotation of the noise, and what it must equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastsolve
from bits import assert_bits_equal
from fastsolve import Plan, grids
from fastsolve.lower import lower
from fastsolve.solvers import tada_basis
from moments import MEAN, STD, moments
from problems import Gaussian, plane_mixture

HIGH, LOW = 3.0, 0.15
MIDDLE = grids.UniformLogSNR(sigma_min=LOW, sigma_max=HIGH, final_zero=False)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("last_var", [0.25, 1.0, 16.0])
def test_closed_forms(n: int, last_var: float) -> None:
    for rho in (80.0, 3.0, 0.5, 0.01):
        tau = tada_basis.time_of(n, last_var, rho)
        phi, scales = tada_basis.propagator(n, tau), tada_basis.noise_scales(n, last_var)
        np.testing.assert_allclose(tada_basis.inverse_propagator(n, tau) @ phi, np.eye(n), atol=1e-11)
        u = tada_basis.direction(n, last_var, tau)
        frame = tada_basis.frame(u)
        np.testing.assert_allclose(frame @ frame.T, np.eye(n), atol=1e-14)
        np.testing.assert_allclose(frame[0], u, atol=1e-15)
        # What the model sees has the statistics of x0 + rho eps: its level is 1 / sqrt(mu' Sigma^-1 mu).
        mu = np.linalg.solve(phi * scales, np.array([_mean(n, j, tau) for j in range(n)]))
        assert 1.0 / np.linalg.norm(mu) == pytest.approx(rho, rel=1e-8)


def _mean(n: int, j: int, tau: float) -> float:
    factor = 1.0
    for i in range(j):
        factor *= n - i
    return factor * tau ** (n - j)


def test_the_noise_starts_as_the_last_variable() -> None:
    np.testing.assert_array_equal(tada_basis.direction(3, 2.0, 0.0), [0.0, 0.0, 1.0])
    angle = np.degrees(np.arccos(tada_basis.direction(2, 4.0, tada_basis.time_of(2, 4.0, 1.0))[-1]))
    assert angle == pytest.approx(20.0, abs=0.5)  # tan = tau sqrt(last_var) / 2


def end(n: int, order: int, steps: int, seed: int = 0, **run: object) -> torch.Tensor:
    x = torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return fastsolve.sample(
        plane_mixture().model("ve"),
        (4, 2),
        solver="tada",
        schedule="ve",
        prediction="x0",
        grid=MIDDLE,
        steps=steps,
        x_init=x,
        options={"n_variables": n, "order": order},
        dtype=torch.float64,
        executor="eager",
        **run,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order(n: int, order: int) -> None:
    # The ramp's first steps of lower order leave an error of second order; it is small here.
    ends = [end(n, order, steps) for steps in (40, 80, 160, 1000)]
    errors = [float((x - ends[-1]).norm()) for x in ends[:-1]]
    slope = -float(np.polyfit(np.log([40, 80, 160]), np.log(errors), 1)[0])
    assert slope > min(order, 2) - 0.25, errors


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_moments_and_calls(n: int) -> None:
    plan = fastsolve.make_plan("tada", schedule="edm", steps=200, options={"n_variables": n})
    mean, variance = moments(plan)
    assert mean == pytest.approx(MEAN, rel=0.02)
    assert variance == pytest.approx(STD**2, rel=0.02)
    assert plan.nfe == plan.launches == 200
    assert plan.draws == 0
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("n", "order", "passes"), [(2, 1, 5), (2, 2, 7), (2, 3, 8), (3, 2, 9)])
def test_traffic_is_that_of_the_best_basis(n: int, order: int, passes: int) -> None:
    plan = fastsolve.make_plan("tada", schedule="ve", steps=20, options={"n_variables": n, "order": order})
    program = lower(plan)
    _, middle = program.steps[10]
    assert len(middle.sources) + len(middle.rows) == passes


@pytest.mark.parametrize("schedule", ["edm", "vp", "flow"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_native_has_the_bits_of_eager(n: int, schedule: str) -> None:
    model = Gaussian().model(schedule, "flow")
    runs = [
        fastsolve.sample(
            model,
            (3, 7),
            solver="tada",
            schedule=schedule,
            prediction="flow",
            steps=6,
            seed=5,
            options={"n_variables": n, "order": 3},
            executor=executor,
        )
        for executor in ("eager", "native")
    ]
    assert_bits_equal(*runs)


def test_variables_start_from_noises_of_their_own() -> None:
    plan = fastsolve.make_plan("tada", schedule="edm", steps=3, options={"n_variables": 3})
    assert np.array(plan.variables).shape == (3, 3)
    assert lower(plan).opening.draws == ((0, 0), (0, 1), (0, 2))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_variables": 5}, "n_variables 1 to 4, order 1 to 3 and last_var > 0 are needed, not 5, 2, 1.0"),
        ({"order": 0}, "n_variables 1 to 4, order 1 to 3 and last_var > 0 are needed, not 2, 0, 1.0"),
        ({"last_var": 0.0}, "n_variables 1 to 4, order 1 to 3 and last_var > 0 are needed, not 2, 2, 0.0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        fastsolve.make_plan("tada", schedule="edm", steps=3, options=options)


def test_a_start_of_the_wrong_number_of_variables_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 variable\(s\): x_init must be \[2, 4, 2\], not \[3, 4, 2\]"):
        fastsolve.sample(
            plane_mixture().model("ve"),
            (4, 2),
            solver="tada",
            schedule="ve",
            prediction="x0",
            steps=3,
            x_init=torch.zeros(3, 4, 2),
        )
