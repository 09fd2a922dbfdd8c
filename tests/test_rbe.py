"""Grids of equal backward error: DDIM on Gaussian data against its exact product, pilots, and the released rule's index lists."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastsolve
from fastsolve import Denoiser, calibrate, grids, make_plan, schedules
from fastsolve.calibrate.field import field_of
from fastsolve.calibrate.pilot import _follow
from fastsolve.calibrate.released import released_base, released_lists
from fastsolve.grids import RBE, Explicit, Grid, RBEAtan, RBEPilot, Spacing, Uniform
from fastsolve.schedules import VE, VP, Schedule, VPTable
from problems import Gaussian, golden_mixture

PUBLISHED = json.loads(Path(__file__).with_name("grids.json").read_text())
DDPM = VPTable(np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000)))
LAWS = {name: schedules.get(name) for name in ("vp", "edm", "flow", "vp_cosine", "vp_scaled_linear", "sub_vp")}


def shrinkage(law: Schedule, grid: Grid, steps: int, c: float) -> tuple[float, float]:
    """What DDIM makes of data N(0, c^2) relative to the exact flow, measured and as the product of cosines."""
    problem = Gaussian(0.0, c)
    levels = grids.nodes(grid, law, steps)
    x = torch.tensor([[1.3]], dtype=torch.float64)
    got = fastsolve.sample(
        problem.model(law, "x0"),
        (1, 1),
        solver="ddim",
        grid=grid,
        steps=None if isinstance(grid, Explicit) else steps,
        schedule=law,
        prediction="x0",
        x_init=x,
        dtype=torch.float64,
        executor="eager",
    )
    exact = problem.flow(x, levels[0], levels[-1])
    angles = [math.atan2(n.sigma, c * n.alpha) for n in levels]
    return float(got / exact), math.prod(math.cos(a - b) for a, b in pairwise(angles))


@pytest.mark.parametrize("c", [0.3, 0.5, 2.0])
@pytest.mark.parametrize(
    "grid",
    [RBEAtan(0.5), RBEAtan(), Uniform(), Uniform(final_zero=False), RBE(), Spacing("trailing"), Spacing("linspace")],
    ids=str,
)
@pytest.mark.parametrize("name", LAWS)
def test_ddim_on_gaussian_data_is_a_product_of_cosines(name: str, grid: Grid, c: float) -> None:
    """So each step goes to the next level listed; diffusers' DDIM goes to t - T // n, beside it on `trailing` and `linspace`."""
    got, product = shrinkage(LAWS[name], grid, 7, c)
    assert got == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("entry", PUBLISHED["theorem"], ids=lambda entry: entry["id"])
def test_theorem_vectors(entry: dict[str, Any]) -> None:
    c, law = entry["settings"]["c"], VE(0.001, 200.0)
    grid = Explicit(tuple(entry["s"]))
    got, product = shrinkage(law, grid, len(entry["s"]) - 1, c)
    assert got == pytest.approx(entry["ddim_result"] / entry["exact_flow"], rel=1e-11)
    assert product == pytest.approx(got, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("name", LAWS)
def test_arctan_steps_err_alike_and_least(name: str, steps: int) -> None:
    law, c = LAWS[name], 0.5
    angles = [math.atan2(n.sigma, c * n.alpha) for n in grids.nodes(RBEAtan(c), law, steps)]
    assert -np.diff(angles) == pytest.approx(angles[0] / steps, rel=1e-11)
    best = shrinkage(law, RBEAtan(c), steps, c)[0]
    assert best == pytest.approx(math.cos(angles[0] / steps) ** steps, rel=1e-11, abs=1e-14)
    assert all(shrinkage(law, other, steps, c)[0] <= best + 1e-12 for other in (Uniform(), RBEAtan(1.0), RBE()))


def test_rbe_takes_the_order_of_the_solver() -> None:
    """By name, and as an object that states none."""
    law = VP()
    for solver, order in (("ddim", 1), ("dpmpp_2m", 2)):
        assert fastsolve.solvers.get(solver).order == order
        plan = make_plan(solver, schedule=law, grid="rbe", steps=8)
        assert plan == make_plan(solver, schedule=law, grid=RBE(order=order), steps=8)
        assert plan != make_plan(solver, schedule=law, grid=RBE(order=3 - order), steps=8)
    assert RBE(order=1).for_order(3) == RBE(order=1)
    assert RBE().for_order(4) == RBE(order=2)


def test_one_scale_without_damping_twice_is_the_arctan_grid() -> None:
    """kappa = 1: m = (c s / (c^2 + s^2))^2 c, whose root is the arctan density."""
    got = [n.t for n in grids.nodes(RBE(1, (0.7,), kappa=1.0, final_zero=False), VP(), 9)]
    assert got == pytest.approx([n.t for n in grids.nodes(RBEAtan(0.7, final_zero=False), VP(), 9)], rel=1e-4)


def mixture_denoiser(law: Schedule, prediction: str = "x0") -> Denoiser:
    return Denoiser(golden_mixture().model(law, prediction), law, prediction, shape=(3, 4, 4))


@pytest.mark.parametrize("entry", PUBLISHED["released"], ids=lambda entry: entry["id"])
def test_released_index_lists_are_reproduced(entry: dict[str, Any]) -> None:
    z = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    field = field_of(mixture_denoiser(DDPM, "eps"), None, None)
    base = released_base(DDPM, 100)
    lists, ends = released_lists(field, base, entry["thres"], z)
    assert lists == entry["lists"]
    # 1.3e-6 apart: their coefficients pass through float32.
    assert ends.flatten(1)[:3, :6].numpy() == pytest.approx(np.array(entry["final"]), abs=3e-6)
    assert [node.alpha**2 for node in base[::9]] == pytest.approx(entry["base"], rel=1e-12)


def test_released_schedule_is_the_rounded_mean_of_its_lists() -> None:
    denoiser = mixture_denoiser(DDPM, "eps")
    grid = calibrate.rbe_released(denoiser, 6, samples=16, dtype=torch.float64)
    assert len(grid.values) == 7
    assert (grid.values[0], grid.values[-1]) == (999.0, -1.0)
    assert make_plan("ddim", schedule=DDPM, grid=grid).nfe == 6
    with pytest.raises(ValueError, match=r"^no sample took 6 calls at thres 1e\+03 \(1 calls: 16\): "):
        calibrate.rbe_released(denoiser, 6, samples=16, thres=1000.0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^steps must be between 1 and the 100 base levels, not 0$"):
        calibrate.rbe_released(denoiser, 0)
    with pytest.raises(ValueError, match=r"divides by alpha, which is 0 where 'flow' starts$"):
        calibrate.rbe_released(mixture_denoiser(schedules.get("flow")), 6)


@pytest.mark.parametrize("name", LAWS)
def test_a_pilot_measures_gaussian_data(name: str) -> None:
    """|D'| = c^2 s^2 / (c^2 + s^2) |y_0| / sqrt(c^2 + s_0^2) ..., and the gain is the flow's: sqrt((c^2 + s_1^2) / (c^2 + s^2))."""
    law, c = LAWS[name], 0.6
    denoiser = Denoiser(Gaussian(0.0, c, (5,)).model(law, "x0"), law, "x0", shape=(5,))
    pilot = calibrate.rbe_pilot(denoiser, levels=120, dtype=torch.float64)
    s = np.exp(-np.array(pilot.lams))
    power = c * c + s * s
    gain = np.sqrt(power[-1] / power)
    assert np.array(pilot.gain)[10:-10] == pytest.approx(gain[10:-10], rel=0.03)
    first = s**2 * power**-1.5
    ratio = np.array(pilot.first)[10:-10] / first[10:-10]
    assert ratio == pytest.approx(ratio.mean(), rel=0.05)
    second = np.abs(5.0 / 12.0 * (s * s - 2.0 * c * c) / power + 1.0 / 12.0) * first
    far = second[10:-10] > 0.05 * second.max()  # not where it changes its sign
    assert (np.array(pilot.second)[10:-10] / second[10:-10])[far] == pytest.approx(ratio.mean(), rel=0.05)
    levels = grids.nodes(pilot, law, 12)
    assert levels[0].t == law.t_max
    assert levels[-1].sigma == 0.0


def test_a_pilot_follows_the_flow() -> None:
    """To second order: 40 steps from sigma 3 to 0.3 end within 2e-4."""
    law, problem = VE(), Gaussian(0.3, 0.6, (5,))
    field = field_of(Denoiser(problem.model(law, "x0"), law, "x0", shape=(5,)), None, None)
    nodes = [law.at_lam(lam) for lam in np.linspace(-math.log(3.0), -math.log(0.3), 41).tolist()]
    start = 3.0 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states, _, _ = _follow(field, nodes, start)
    assert states[-1].numpy() == pytest.approx(problem.flow(start, nodes[0], nodes[-1]).numpy(), abs=2e-4)


@pytest.mark.parametrize(
    ("order", "statistic", "power", "width"), [(1, "first", 2, 0.15), (2, "second", 3, 0.8), (3, "first", 3, 0.4)]
)
def test_a_pilots_density_is_its_smoothed_statistic_times_the_gain(
    order: int, statistic: str, power: int, width: float
) -> None:
    """m^(1/(p+1)) with the settings of the held-out comparison; for order 3, the first statistic with the exponent of order 2."""
    rng, lams = np.random.default_rng(2), np.linspace(-4.0, 4.0, 30)
    pilot = RBEPilot(tuple(lams), *(tuple(rng.uniform(0.5, 2.0, 30)) for _ in range(3)))
    m = [
        np.average(getattr(pilot, statistic), weights=np.exp(-((lam - lams) ** 2) / (2.0 * width**2))) * gain**0.25
        for lam, gain in zip(lams, pilot.gain, strict=True)
    ]
    assert pilot.for_order(order).density(np.exp(-lams)) == pytest.approx(np.array(m) ** (1.0 / power), rel=1e-12)


def test_a_pilot_is_kept_as_json(tmp_path: Path) -> None:
    path, denoiser = tmp_path / "pilot.json", mixture_denoiser(VP())
    pilot = calibrate.rbe_pilot(denoiser, trajectories=2, levels=12, probes=1, path=path)
    assert RBEPilot.load(path) == pilot
    calls = denoiser.model.calls  # type: ignore[attr-defined]
    assert calls == 12 + 11  # forwards, and once more with gradients except at the end
    assert calibrate.rbe_pilot(denoiser, path=path) == pilot
    assert denoiser.model.calls == calls  # type: ignore[attr-defined]
    guided = Denoiser(denoiser.model, VP(), "x0", shape=(3, 4, 4), null={})
    with pytest.raises(ValueError, match=r"pilot.json was measured with guidance None, not 2.0: give another path$"):
        calibrate.rbe_pilot(guided, guidance=2.0, path=path)
    pilot.save(path, 2.0)
    assert calibrate.rbe_pilot(guided, guidance=2.0, path=path) == RBEPilot.load(path) == pilot
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no pilot of 'rbe_pilot'"):
        RBEPilot.load(path)


def test_a_pilot_without_probes_needs_no_gradients() -> None:
    model = golden_mixture().model(VP(), "x0")
    denoiser = Denoiser(lambda x, t: torch.no_grad()(model)(x, t), VP(), "x0", shape=(3, 4, 4))
    pilot = calibrate.rbe_pilot(denoiser, trajectories=2, levels=12, probes=0)
    assert pilot.gain == ()
    assert len(grids.nodes(pilot, VP(), 6)) == 7


def test_bad_pilots_are_refused() -> None:
    denoiser = mixture_denoiser(VP())
    with pytest.raises(ValueError, match=r"^sigma_max of a pilot must be positive and finite, not -1.0$"):
        calibrate.rbe_pilot(denoiser, sigma_max=-1.0)
    with pytest.raises(ValueError, match=r"^a pilot needs at least 4 levels and 0 probes, not 3 and 4$"):
        calibrate.rbe_pilot(denoiser, levels=3)
    with pytest.raises(TypeError, match=r"^calibration needs a Denoiser, which states schedule and prediction"):
        calibrate.rbe_pilot(denoiser.model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^a pilot's levels increase in lam"):
        RBEPilot((0.0, 1.0, 1.0, 2.0), (1.0,) * 4, (1.0,) * 4)


def test_a_pilot_follows_the_guided_model() -> None:
    law, problem = VP(), golden_mixture()
    model = problem.model(law, "eps")

    def guided(x: torch.Tensor, t: torch.Tensor, on: bool) -> torch.Tensor:
        return model(x, t) if on else 0.5 * model(x, t)

    denoiser = Denoiser(guided, law, "eps", shape=(3, 4, 4), null={"on": False})
    plain, one, two = (
        calibrate.rbe_pilot(denoiser, trajectories=2, levels=12, probes=0, guidance=w, model_kwargs={"on": True})
        for w in (None, 1.0, 2.0)
    )
    assert one.first == pytest.approx(plain.first, rel=1e-5)
    assert two.first != pytest.approx(plain.first, rel=1e-2)
    with pytest.raises(ValueError, match=r"^guidance needs the unconditional call"):
        calibrate.rbe_pilot(mixture_denoiser(law), guidance=2.0)


@pytest.mark.parametrize("steps", [6, 8, 10])
def test_the_pilot_beats_uniform_and_quadratic_for_ddim(steps: int) -> None:
    """On the mixture the settings were tuned on: a regression gate, not a claim."""
    law = VP()
    denoiser = mixture_denoiser(law)
    z = torch.randn(256, 3, 4, 4, generator=torch.Generator().manual_seed(2024), dtype=torch.float64)

    def run(solver: str, grid: Grid | str, count: int) -> torch.Tensor:
        return fastsolve.sample(
            denoiser,
            (256, 3, 4, 4),
            solver=solver,
            grid=grid,
            steps=count,
            x_init=z,
            dtype=torch.float64,
            executor="eager",
        )

    exact = run("dpmpp_2m", "uniform_logsnr", 300)
    pilot = calibrate.rbe_pilot(denoiser, trajectories=16, dtype=torch.float64)
    error = {
        name: float((run("ddim", grid, steps) - exact).square().mean().sqrt())
        for name, grid in (("rbe", pilot), ("uniform", "uniform"), ("quadratic", "quadratic"))
    }
    assert error["rbe"] <= 0.95 * min(error["uniform"], error["quadratic"])
