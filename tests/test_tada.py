"""TADA: a state of several variables, its rotation of the noise, and what it must equal."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import fastsolve
from bits import assert_bits_equal
from fastsolve import Plan, grids
from fastsolve.lower import lower
from fastsolve.solvers import tada_basis
from moments import MEAN, STD, moments
from problems import Gaussian, plane_mixture, plane_network

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


@pytest.mark.parametrize(
    ("last_var", "degrees"),
    [(1.0, (0.7, 2.4, 7.6, 15, 25)), (4.0, (2.6, 8, 20, 32, 43)), (16.0, (9, 24, 42, 53, 62))],
)
def test_how_far_the_noise_has_turned(last_var: float, degrees: tuple[float, ...]) -> None:
    """Two variables: the angle between the last variable and the noise that the model sees, at sigma 20, 5, 1, 0.2 and 0.002."""
    for rho, expected in zip((20.0, 5.0, 1.0, 0.2, 0.002), degrees, strict=True):
        u = tada_basis.direction(2, last_var, tada_basis.time_of(2, last_var, rho))
        assert np.degrees(np.arccos(u[-1])) == pytest.approx(expected, abs=0.5 if expected >= 8 else 0.06)


@pytest.mark.parametrize(("schedule", "prediction"), [("edm", "x0"), ("flow", "flow")])
def test_one_variable_of_order_one_is_euler(schedule: str, prediction: str) -> None:
    """The ablation: Adams-Bashforth on the flow velocity, whose first order is DDIM."""
    runs = [
        fastsolve.sample(
            plane_mixture().model(schedule, prediction),
            (4, 2),
            solver=solver,
            schedule=schedule,
            prediction=prediction,
            steps=7,
            seed=1,
            options=options,
            dtype=torch.float64,
            executor="eager",
        )
        for solver, options in (("tada", {"n_variables": 1, "order": 1}), ("euler", {}))
    ]
    torch.testing.assert_close(*runs, rtol=1e-12, atol=1e-12)


def test_every_variable_has_its_share_of_the_detail() -> None:
    """A last variable without variance leaves nothing to rotate to: two variables are then the ODE of one, whatever the others start as."""

    def run(last_var: float, others: float) -> torch.Tensor:
        options = {"n_variables": 2, "order": 1, "last_var": last_var}
        plan = fastsolve.make_plan("tada", schedule="edm", steps=60, options=options)
        start = torch.tensor(plan.variables, dtype=torch.float64)  # [state, unit noise]
        noise = torch.stack([torch.full((4, 2), others), torch.linspace(-1.5, 1.5, 8).view(4, 2)]).double()
        return fastsolve.sample(
            plane_mixture().model("edm"),
            (4, 2),
            solver="tada",
            schedule="edm",
            prediction="x0",
            steps=60,
            x_init=torch.tensordot(start, noise, 1),
            options=options,
            dtype=torch.float64,
            executor="eager",
        )

    still, turning = ((run(v, 1.0) - run(v, -1.0)).abs().max() for v in (1e-6, 16.0))
    assert still < 2e-3
    assert turning > 0.3


def test_its_citation_says_that_it_was_not_compared() -> None:
    assert "authors' code was not available" in fastsolve.cite("tada")


def end(n: int, order: int, steps: int, seed: int = 0, **run: object) -> torch.Tensor:
    x = torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return fastsolve.sample(
        plane_network("ve"),
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


@functools.cache
def fine_end(n: int) -> torch.Tensor:
    """What all orders tend to."""
    return end(n, 3, 1000)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order(n: int, order: int) -> None:
    # The ramp's first steps of lower order leave an error of second order; it is small here.
    errors = [float((end(n, order, steps) - fine_end(n)).norm()) for steps in (40, 160)]
    slope = -float(np.polyfit(np.log([40, 160]), np.log(errors), 1)[0])
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
    first = plan.evals[0]
    row = dict(next(row.terms for row in plan.rows() if row.out == first.x))
    noise = (
        np.array([row[name] for name in ("x0", "s1", "s2")]) @ plan.variables
    )  # what the model is given, in unit normals
    np.testing.assert_allclose(
        noise, 80.0 * tada_basis.direction(3, 1.0, tada_basis.time_of(3, 1.0, 80.0)), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_variables": 5}, "n_variables must be one of 1, 2, 3, 4, not 5"),
        ({"n_variables": 2.0}, "n_variables must be one of 1, 2, 3, 4, not 2.0"),
        ({"order": 0}, "order must be one of 1, 2, 3, not 0"),
        ({"order": True}, "order must be one of 1, 2, 3, not True"),
        ({"last_var": 0.0}, "last_var is a variance, positive and finite, not 0.0"),
        ({"last_var": np.inf}, "last_var is a variance, positive and finite, not inf"),
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
