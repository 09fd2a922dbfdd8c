"""The orders of a solver, measured: of its path without noise, and of the mean and variance of its law. No Monte Carlo.

test_catalogue holds them against what is declared; benchmarks/orders.py writes them down.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import fastsolve
from catalogue import Case
from fastsolve import Plan, grids, schedules
from moments import marginal, moments
from problems import plane_mixture, plane_network

HIGH, LOW = 3.0, 0.15  # sigma / alpha: where data and noise interact
MIDDLE = grids.UniformLogSNR(sigma_min=LOW, sigma_max=HIGH, final_zero=False)
STEPS = (64, 256)  # the slope through three equally spaced points is that through the outer two
START = torch.tensor([[1.2, -2.0], [-3.0, 0.7], [0.4, 2.6], [2.0, 2.0]], dtype=torch.float64)
# Their eta is DDIM's, so they add eta^2 of the reverse SDE's noise: a step of the ODE to below the next level, and noise up to it.
DOWN_AND_UP = {
    *("ddim", "euler_ancestral", "euler_cfg_pp", "dpmpp_sde", "res_multistep"),
    *("ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"),
}


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: minus the slope of log error over log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def measured(error: Callable[[int], float]) -> tuple[float, list[float]]:
    """The order of convergence of error(steps), and the errors."""
    errors = [error(n) for n in STEPS]
    return slope(STEPS, errors), errors


@functools.cache
def exact(eta: float) -> Tensor:
    """dx / dlam = (1 + eta) (D - x), the reverse SDE of VE without its noise, from HIGH to LOW by Runge and Kutta."""

    def slope_at(lam: float, x: Tensor) -> Tensor:
        return (1.0 + eta) * (plane_mixture().x0(x, math.exp(-lam)) - x)

    x, lam, h = START, -math.log(HIGH), math.log(HIGH / LOW) / 600
    for _ in range(600):
        k1 = slope_at(lam, x)
        k2 = slope_at(lam + h / 2, x + h / 2 * k1)
        k3 = slope_at(lam + h / 2, x + h / 2 * k2)
        k4 = slope_at(lam + h, x + h * k3)
        x, lam = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), lam + h
    return x


def without_noise(case: Case, steps: int, eta: float, schedule: str = "ve") -> Tensor:
    """The solver's end on a nonlinear problem, where every draw is 0; in units of data."""
    first, *_, last = grids.nodes(MIDDLE, schedules.get(schedule), steps)
    end = fastsolve.sample(
        plane_network(schedule),
        solver=case.solver,
        schedule=schedule,
        prediction="x0",
        grid=MIDDLE,
        steps=steps,
        x_init=START * first.alpha,
        noise=lambda _: torch.zeros_like(START),
        options=case.where(eta=eta),
        dtype=torch.float64,
        executor="eager",
    )
    return end / last.alpha


def path_order(case: Case, eta: float, schedule: str = "ve") -> tuple[float, list[float]]:
    """Without noise, on a nonlinear problem."""
    return measured(lambda n: float((without_noise(case, n, eta, schedule) - exact(eta)).norm()))


def tada_order(case: Case) -> tuple[float, list[float]]:
    """Of a state of several variables, whose exact solution nobody knows: against itself in 2560 steps."""

    def end(steps: int) -> Tensor:
        return fastsolve.sample(
            plane_network("ve"),
            START.shape,
            solver=case.solver,
            schedule="ve",
            prediction="x0",
            grid=MIDDLE,
            steps=steps,
            x_init=torch.stack([START.flip(0), START]),
            options=case.options,
            dtype=torch.float64,
            executor="eager",
        )

    fine = end(2560)
    return measured(lambda n: float((end(n) - fine).norm()))


def plan_of(case: Case, steps: int, schedule: str = "ve", **options: object) -> Plan:
    return fastsolve.make_plan(case.solver, schedule=schedule, grid=MIDDLE, steps=steps, options=case.where(**options))


def variance_order(case: Case, schedule: str = "ve") -> tuple[float, list[float]]:
    """Of the variance: with eta = 1 the mean of Gaussian data is exact for every order, and for wrong weights."""
    high, low = ends(schedule)
    right = marginal(*low)[1] ** 2
    return measured(lambda n: abs(moments(plan_of(case, n, schedule, eta=1.0), marginal(*high))[1] / right - 1.0))


def mean_order(case: Case) -> tuple[float, list[float]]:
    """Of the mean, started 1 beside its path on Gaussian data. With eta = 1/2, but form "edm", which has none but 0 and 1, with 1.

    The distance from the path shrinks as the variance to the power (1 + eta) / 2.
    """
    eta = 1.0 if case.options.get("form") == "edm" else 0.5
    rate = eta * eta if case.solver in DOWN_AND_UP else eta
    (mean, std), low = marginal(1.0, HIGH), marginal(1.0, LOW)
    right = low[0] + (low[1] / std) ** (1.0 + rate)
    return measured(lambda n: abs(moments(plan_of(case, n, eta=eta), (mean + 1.0, std))[0] - right))


def ends(schedule: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """(alpha, sigma) of HIGH and LOW."""
    first, *_, last = grids.nodes(MIDDLE, schedules.get(schedule), 1)
    return (first.alpha, first.sigma), (last.alpha, last.sigma)
