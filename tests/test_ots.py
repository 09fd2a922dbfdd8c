"""Optimised time steps: the authors' objective and lists, their minimum, and what it is without a minimum for."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import fastsolve
from fastsolve import Denoiser, grids, make_plan, schedules
from fastsolve.grids import OTS
from fastsolve.grids.ots import _SOFT, _descended, bound, optimised, slope
from problems import golden_mixture
from reference.ots import let_through

VP = (-5.024978406659204, 4.557714932729866)  # lam of the schedule "vp"
RANGES = [VP, (-2.682, 3.535), (-math.log(80.0), -math.log(0.002)), (-math.log(700.0), -math.log(0.002)), (-4.6, 4.6)]
PUBLISHED = json.loads(Path(__file__).with_name("grids.json").read_text())["ots"]
# The authors' own script (scxue/DM-NonUniform 95d4ac6, step_optim.py) on VP, without the ends: what is published here, and more runs.
THEIRS: dict[tuple[str, int], tuple[float, ...]] = {
    **{(entry["id"].split("/")[2], len(entry["values"]) - 1): tuple(entry["values"][1:-1]) for entry in PUBLISHED},
    ("pixel", 4): (-1.888528336072979, -0.6589076042644381, 1.1018933912445985),
    ("pixel", 5): (-2.0651257743760567, -1.0894781792445036, -0.08102439330274087, 1.3248107505109918),
    ("pixel", 7): (
        -2.70208447343725,
        -1.6717450721697296,
        -1.117275527867371,
        -0.052441677813569766,
        0.8966257657073129,
        1.9671400365906988,
    ),
    ("latent", 4): (-1.9911597959338854, -0.7909855542354949, 0.8899472386062799),
    ("latent", 5): (-2.1818264293808114, -1.215822575099176, -0.25779322341005606, 1.0646307434318132),
    ("latent", 7): (
        -2.942316727784057,
        -1.9257854754232977,
        -1.3482419136003445,
        -0.40764743514589463,
        0.47404091322331166,
        1.5028124136785712,
    ),
}
POWER = {"pixel": 1, "latent": 2}


def levels(weighting: str, steps: int) -> list[float]:
    """In lam, of the grid on VP down to its last level."""
    return [node.lam for node in grids.nodes(OTS(weighting, final_zero=False), schedules.get("vp"), steps)]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 9, 14])
@pytest.mark.parametrize("power", [1, 2])
def test_the_objective_is_the_authors(steps: int, power: int) -> None:
    rng = np.random.default_rng(steps)
    for apart in (0, 3, steps):
        lams = np.sort(rng.uniform(*VP, steps + 1))
        assert float(bound(lams, apart, power)) == pytest.approx(
            let_through(lams.tolist(), apart=apart, power=power), rel=1e-9
        )


@pytest.mark.parametrize(("weighting", "steps"), [key for key in THEIRS if key[1] <= 7])
def test_few_steps_are_the_authors(weighting: str, steps: int) -> None:
    """To 1e-6 where their search ends at the minimum; where it does not (a kink at 7 steps), ours is lower."""
    ours, theirs = levels(weighting, steps), THEIRS[weighting, steps]
    if steps < 7:
        assert ours == pytest.approx([VP[0], *theirs, VP[1]], abs=1e-6)
    objective = [let_through(lams, apart=3, power=POWER[weighting]) for lams in (ours, [VP[0], *theirs, VP[1]])]
    assert objective[0] <= objective[1] * (1.0 + 1e-9)


@pytest.mark.parametrize(("weighting", "steps"), [key for key in THEIRS if key[1] > 7])
def test_more_steps_let_less_through_than_the_authors(weighting: str, steps: int) -> None:
    """Counted step by step."""
    ours, theirs = (
        let_through(lams, apart=steps, power=POWER[weighting])
        for lams in (levels(weighting, steps), [VP[0], *THEIRS[weighting, steps], VP[1]])
    )
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc"])
def test_8_steps_err_less_than_the_authors(solver: str) -> None:
    """On the mixture, with the last level at clean data for both; with more steps, now one and now the other is better."""
    law = schedules.get("vp")
    denoiser = Denoiser(golden_mixture().model(law, "x0"), law, "x0", shape=(3, 4, 4), dtype=torch.float64)
    z = torch.randn(256, 3, 4, 4, generator=torch.Generator().manual_seed(2024), dtype=torch.float64)

    def run(solver: str, grid: str | list[float], count: int | None) -> torch.Tensor:
        return fastsolve.sample(
            denoiser, z.shape, solver=solver, grid=grid, steps=count, x_init=z, dtype=torch.float64, executor="eager"
        )

    exact = run("dpmpp_2m", "uniform_logsnr", 200)
    theirs = [1.0, *(law.at_lam(lam).t for lam in THEIRS["pixel", 8]), 0.0]
    error = [float((run(solver, *of) - exact).square().mean().sqrt()) for of in (("ots", 8), (theirs, None))]
    assert error[0] < 0.95 * error[1]


@pytest.mark.parametrize("steps", [2, 3, 5, 6, 7, 8, 20])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("ends", RANGES)
def test_no_levels_nearby_are_better(ends: tuple[float, float], power: int, steps: int) -> None:
    """The slope is nothing, and no step of 1e-3 along an axis, nor 20 at random, lowers the objective."""
    lams, apart, soft = np.array(optimised(*ends, steps, power)), *((3, 1e-3) if steps <= 7 else (steps, 0.0))
    assert (lams[0], lams[-1]) == ends
    assert np.diff(lams).min() > 0.0
    least = float(bound(lams, apart, power, soft))
    assert np.abs(slope(lams[1:-1], *ends, apart, power, soft)).max() <= 1e-4 * least
    ways = [*np.eye(steps - 1), *np.random.default_rng(0).normal(size=(20, steps - 1))]
    for way in ways:
        for size in (-1e-3, 1e-3):
            moved = lams + size * np.array([0.0, *(way / np.linalg.norm(way)), 0.0])
            assert float(bound(moved, apart, power, soft)) > least


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("steps", [5, 6, 8, 12])
def test_other_starts_end_there(steps: int, power: int) -> None:
    rng, apart = np.random.default_rng(1), 3 if steps <= 7 else steps
    for _ in range(4):
        even = rng.dirichlet(np.full(steps, 5.0)).cumsum()[:-1]
        found = VP[0] + (VP[1] - VP[0]) * even
        for soft in _SOFT if apart == 3 else (0.0,):
            found = _descended(found, *VP, apart, power, soft)
        assert found == pytest.approx(optimised(*VP, steps, power)[1:-1], abs=1e-6)


def test_from_8_steps_on_their_objective_has_no_use_for_its_minimum() -> None:
    """Descending it leads to a fourth of their list's value, by a step over almost half the range whose errors the others cancel.

    Counted step by step, as ours is, that is far worse than their list, and ours is better than it.
    """
    inner = np.linspace(*VP, 9)[1:-1]
    for soft in _SOFT:
        inner = _descended(inner, *VP, 0, 1, soft)
    absurd, theirs, ours = [VP[0], *inner.tolist(), VP[1]], [VP[0], *THEIRS["pixel", 8], VP[1]], levels("pixel", 8)
    signed = [let_through(lams, apart=0, power=1) for lams in (absurd, theirs)]
    assert signed[0] < signed[1] / 3.0
    assert max(b - a for a, b in pairwise(absurd)) > 4.6  # sigma / alpha falls to a hundredth
    counted = [let_through(lams, apart=8, power=1) for lams in (ours, theirs, absurd)]
    assert counted[0] < 0.7 * counted[1]
    assert counted[1] < 0.1 * counted[2]


def test_more_steps_than_are_optimised_are_interpolated() -> None:
    most, more = optimised(*VP, 32, 1), optimised(*VP, 64, 1)
    assert more[::2] == pytest.approx(most, rel=1e-12)
    assert [b - a for a, b in pairwise(more)][1::2] == pytest.approx([b - a for a, b in pairwise(more)][::2], rel=1e-9)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "vp_cosine", "vp_scaled_linear", "ve", "edm", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 7, 8, 40])
def test_it_takes_any_schedule(name: str, steps: int) -> None:
    law = schedules.get(name)
    walked = grids.nodes(grids.get("ots", law), law, steps)
    assert (len(walked), walked[0].t, walked[-1].sigma) == (steps + 1, law.t_max, 0.0)
    bare = grids.nodes(OTS(final_zero=False), law, steps)
    assert bare[:-1] == walked[:-1]
    assert bare[-1].t == law.t_min
    if steps > 1 and law.node(law.t_max).alpha:
        ends = walked[0].lam, law.node(law.t_min).lam
        assert [node.lam for node in walked[1:-1]] == pytest.approx(optimised(*ends, steps, 1)[1:-1], abs=1e-9)


def test_weighting_ends_and_plans() -> None:
    law = schedules.get("vp")
    assert levels("pixel", 6) != pytest.approx(levels("latent", 6), abs=1e-2)
    own = grids.nodes(OTS(sigma_min=0.05, sigma_max=20.0, final_zero=False), law, 6)
    assert (own[0].lam, own[-1].lam) == pytest.approx((-math.log(20.0), -math.log(0.05)), rel=1e-12)
    assert make_plan("unipc", schedule=law, grid="ots", steps=6) == make_plan(
        "unipc", schedule=law, grid=OTS(), steps=6
    )
    with pytest.raises(ValueError, match=r"^weighting of grid 'ots' must be pixel or latent, not 'edm'$"):
        OTS("edm")
    with pytest.raises(ValueError, match=r"^grid 'ots' needs sigma_min < sigma_max, not 200 and 152.167$"):
        grids.nodes(OTS(sigma_min=200.0), law, 4)
