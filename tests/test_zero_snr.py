"""Zero terminal SNR: sampling from alpha = 0 itself, on tables, cosine and flow, by models that say something there."""

from __future__ import annotations

import math

import pytest
import torch

import fastsolve
from catalogue import OWN_ENDS, SOLVERS
from fastsolve import grids, make_plan, schedules
from fastsolve.schedules import VPTable, scaled_linear, zero_terminal_snr
from moments import MEAN, STD, moments
from problems import Gaussian

TABLE = VPTable(zero_terminal_snr(scaled_linear().alphas_cumprod))
LAWS = {"table": TABLE, "vp_cosine": schedules.get("vp_cosine"), "flow": schedules.get("flow")}
KNOWS = ("v", "flow", "x0", "edm")
CONVERGES = [name for name in SOLVERS if name != "lcm"]


def test_the_rescaled_table_is_that_of_the_paper() -> None:
    """Lin et al. 2023, algorithm 1, in 50 digits would be the same: sqrt(a) is moved and scaled, once."""
    roots = [math.sqrt(a) for a in scaled_linear().alphas_cumprod]
    expected = [(r - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for r in roots]
    assert [math.sqrt(a) for a in TABLE.alphas_cumprod] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert (TABLE.alphas_cumprod[0], TABLE.alphas_cumprod[-1]) == (scaled_linear().alphas_cumprod[0], 0.0)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in OWN_ENDS])
def test_the_first_step_is_no_step_from_sigma_4096(name: str, law: schedules.Schedule) -> None:
    """Where 0 is patched to 2^-24 the start is sigma = 4096; here it is unit noise, and no coefficient is larger than a few."""
    plan = make_plan(name, schedule=law, steps=20, grid="trailing", prediction="v")
    first = plan.evals[0]
    assert (first.alpha, first.sigma, first.x, first.a, first.b) == (0.0, 1.0, "x0", 0.0, (-1.0,))  # v = -x0 there
    assert plan.start_std == 1.0
    update = next(op for op in plan.ops[1:] if hasattr(op, "rows"))
    assert max(abs(c) for row in update.rows for _, c in row.terms) <= 1.5


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("name", SOLVERS)
def test_known_data_are_reached_exactly_from_alpha_0(name: str, law: schedules.Schedule) -> None:
    """Of a point of data every prediction is exact, so the mean at the last level is alpha times it, and the noise is sigma's."""
    levels = grids.get("uniform", law).levels(law, 6)[:-1]
    plan, last = make_plan(name, schedule=law, grid=levels), law.node(levels[-1])
    point = Gaussian(0.7, 0.0)
    zero = torch.zeros(4, 3, dtype=torch.float64)

    def end(start: float, prediction: str) -> torch.Tensor:
        model = point.model(law, prediction)
        return fastsolve.sample(
            model,
            solver=name,
            schedule=law,
            prediction=prediction,
            grid=levels,
            x_init=zero + start,
            noise=[zero] * plan.draws,
            dtype=torch.float64,
            executor="eager",
        )

    for prediction in KNOWS:
        torch.testing.assert_close(end(0.0, prediction), zero + last.alpha * 0.7, rtol=1e-12, atol=1e-14)
    if not plan.draws:
        torch.testing.assert_close(end(1.3, "v"), zero + last.alpha * 0.7 + last.sigma * 1.3, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CONVERGES)
def test_from_zero_snr_samples_come_to_have_the_law_of_the_data(name: str) -> None:
    low = TABLE.node(0.0)  # from where the last step takes the denoised prediction, whose variance is known
    variance = (low.alpha * STD**2) ** 2 / ((low.alpha * STD) ** 2 + low.sigma**2)
    ends = [moments(make_plan(name, schedule=TABLE, steps=steps, grid="uniform")) for steps in (40, 160)]
    few, many = (max(abs(mean / MEAN - 1.0), abs(var / variance - 1.0)) for mean, var in ends)
    assert many < max(few / 1.7, 0.03), (few, many)


@pytest.mark.parametrize("prediction", KNOWS)
def test_float32_loses_nothing_at_zero_snr(prediction: str) -> None:
    model = fastsolve.Denoiser(Gaussian().model(TABLE, prediction), TABLE, prediction)
    given = {"solver": "dpmpp_2m", "steps": 20, "seed": 2}
    single = fastsolve.sample(model, (16, 5), **given)
    exact = fastsolve.sample(model, (16, 5), dtype=torch.float64, executor="eager", **given)
    assert float((single - exact).abs().max()) < 5e-6


@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_eps_is_refused_with_the_reason_and_may_start_below(prediction: str) -> None:
    message = (
        rf"^{prediction}-prediction says nothing about x0 at alpha = 0 \(t = 999, zero terminal SNR\): "
        r"use a model with x0, v or flow prediction, or start the grid below that level$"
    )
    with pytest.raises(ValueError, match=message):
        make_plan("ddim", schedule=TABLE, steps=20, prediction=prediction)
    below = make_plan("ddim", schedule=TABLE, steps=20, prediction=prediction, start=1)
    assert below.evals[0].alpha > 0.0
