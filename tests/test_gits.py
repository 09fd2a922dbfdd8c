"""GITS: its shortest path against the authors' own, its costs against their definition, and what it is worth to DDIM."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fastsolve
from fastsolve import Denoiser, calibrate, grids, schedules
from fastsolve.calibrate.field import field_of
from fastsolve.calibrate.teacher import _costs, _teacher
from fastsolve.grids import GITSPilot
from fastsolve.grids.jumps import cheapest
from fastsolve.schedules import VP
from problems import Gaussian, golden_mixture

SIZE = 21
FROM, TO = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
SIGMAS = np.linspace(80.0 ** (1 / 7), 0.002 ** (1 / 7), SIZE) ** 7
COSTS = {
    "waves": (TO - FROM) ** 2 * (1.0 + np.sin(FROM + 1.0) ** 2),
    "sigmas": np.sqrt(np.abs(SIGMAS[:, None] - SIGMAS)) * (TO - FROM),
}
# Paths of the authors' dp() (zju-pi/diff-sampler, gits-main/gits_utils.py), run on these costs.
PATHS = [
    ("waves", 4, 1.15, [0, 5, 11, 15, 20]),
    ("waves", 6, 1.15, [0, 2, 8, 12, 15, 18, 20]),
    ("waves", 8, 1.0, [0, 2, 5, 8, 11, 12, 15, 18, 20]),
    ("waves", 10, 1.2, [0, 2, 5, 9, 12, 14, 15, 17, 18, 19, 20]),
    ("sigmas", 4, 1.15, [0, 4, 8, 13, 20]),
    ("sigmas", 6, 1.15, [0, 3, 6, 9, 12, 15, 20]),
    ("sigmas", 8, 1.0, [0, 1, 2, 3, 5, 7, 10, 14, 20]),
    ("sigmas", 10, 1.2, [0, 3, 6, 8, 10, 12, 14, 16, 18, 19, 20]),
]


def rows(cost: np.ndarray) -> list[list[float]]:
    return [cost[i, i + 1 :].tolist() for i in range(len(cost) - 1)]


@pytest.mark.parametrize(("kind", "jumps", "coeff", "path"), PATHS)
def test_the_path_is_the_authors(kind: str, jumps: int, coeff: float, path: list[int]) -> None:
    assert cheapest(rows(COSTS[kind]), jumps, coeff) == path


@pytest.mark.parametrize("jumps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("coeff", [0.9, 1.15])
def test_no_path_is_cheaper(jumps: int, coeff: float) -> None:
    cost = np.random.default_rng(3).normal(size=(8, 8))  # costs may be negative

    def total(path: tuple[int, ...]) -> float:
        return sum(coeff**k * float(cost[i, j]) for k, (i, j) in enumerate(itertools.pairwise(path)))

    best = min(((0, *inner, 7) for inner in itertools.combinations(range(1, 7), jumps - 1)), key=total)
    assert cheapest(rows(cost), jumps, coeff) == list(best)


def mixture() -> Denoiser:
    return Denoiser(golden_mixture().model(VP(), "x0"), VP(), "x0", shape=(3, 4, 4))


def test_the_teacher_follows_the_flow_and_a_cost_is_how_much_further_a_jump_strays() -> None:
    law, problem = VP(), Gaussian(0.3, 0.6, (5,))
    denoiser = Denoiser(problem.model(law, "x0"), law, "x0", shape=(5,))
    nodes = [law.at_lam(lam) for lam in np.linspace(-3.0, 4.0, 200).tolist()]
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states, slopes = _teacher(field_of(denoiser, None, None), nodes, start)
    exact = problem.flow(nodes[0].alpha * start, nodes[0], nodes[-1])
    assert nodes[-1].alpha * states[-1] == pytest.approx(exact, abs=2e-3)
    costs = _costs(nodes, states, slopes)
    rho = [node.sigma / node.alpha for node in nodes]
    for i, j in ((0, 1), (0, 199), (20, 90), (150, 199), (198, 199)):
        want = 0.0
        for b in range(4):
            chord = states[-1, b] - states[0, b]
            jump, own = states[i, b] + (rho[j] - rho[i]) * slopes[i, b], states[j, b]
            strays = [
                float((v - states[-1, b] - (v - states[-1, b]) @ chord / (chord @ chord) * chord).norm())
                for v in (jump, own)
            ]
            want += strays[0] - strays[1]
        assert float(costs[i, j]) == pytest.approx(want, abs=1e-12)
    assert torch.equal(costs, costs.triu(1))


def test_the_teacher_is_adams_bashforths() -> None:
    """On even steps of sigma: 40 from 3 to 0.5 end within 1e-4, where a first-order rule is off by 1e-2."""
    law, problem = schedules.get("ve"), Gaussian(0.3, 0.6, (5,))
    field = field_of(Denoiser(problem.model(law, "x0"), law, "x0", shape=(5,)), None, None)
    nodes = [law.node(sigma) for sigma in np.linspace(3.0, 0.5, 41).tolist()]
    start = 3.0 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states, slopes = _teacher(field, nodes, start)
    assert states[-1].numpy() == pytest.approx(problem.flow(start, nodes[0], nodes[-1]).numpy(), abs=1e-4)
    h = -2.5 / 40
    second = h * (1.5 * slopes[1] - 0.5 * slopes[0])
    third = h / 12.0 * (23.0 * slopes[2] - 16.0 * slopes[1] + 5.0 * slopes[0])
    fourth = h / 24.0 * (55.0 * slopes[6] - 59.0 * slopes[5] + 37.0 * slopes[4] - 9.0 * slopes[3])
    for k, step in ((0, h * slopes[0]), (1, second), (2, third), (6, fourth)):
        assert (states[k + 1] - states[k]).numpy() == pytest.approx(step.numpy(), abs=1e-12)


def test_batches_do_not_change_the_result() -> None:
    one, two = (calibrate.gits(mixture(), trajectories=6, levels=9, batch=b, dtype=torch.float64) for b in (6, 4))
    assert one.lams == two.lams
    assert [v for row in one.costs for v in row] == pytest.approx([v for row in two.costs for v in row], abs=1e-11)


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "vp_cosine", "vp_scaled_linear"])
def test_levels_are_the_teachers_and_the_ends_the_schedules(name: str) -> None:
    law = schedules.get(name)
    denoiser = Denoiser(golden_mixture().model(law, "x0"), law, "x0", shape=(3, 4, 4))
    pilot = calibrate.gits(denoiser, trajectories=4, levels=21)
    for steps in (1, 2, 6, 20):
        nodes = grids.nodes(pilot, law, steps)
        assert (len(nodes), nodes[0].t, nodes[-1].sigma) == (steps + 1, law.t_max, 0.0)
        assert all(min(abs(node.lam - lam) for lam in pilot.lams) < 1e-6 for node in nodes[1:-1])
    bare = GITSPilot(pilot.lams, pilot.costs, final_zero=False)
    assert grids.nodes(bare, law, 6)[-1].t == law.t_min
    with pytest.raises(ValueError, match=r"^21 steps do not fit: this GITS was measured at 21 levels$"):
        grids.nodes(pilot, law, 21)


def test_it_is_kept_as_json(tmp_path: Path) -> None:
    path, denoiser = tmp_path / "gits.json", mixture()
    pilot = calibrate.gits(denoiser, trajectories=2, levels=9, path=path)
    assert GITSPilot.load(path) == pilot
    calls = denoiser.model.calls  # type: ignore[attr-defined]
    assert calls == 8
    assert calibrate.gits(denoiser, path=path) == pilot
    assert denoiser.model.calls == calls  # type: ignore[attr-defined]
    assert (
        calibrate.gits(denoiser, coeff=1.2, path=path).coeff == 1.2
    )  # the costs are the model's, the weight the caller's
    with pytest.raises(ValueError, match="holds no pilot of 'rbe_pilot'"):
        grids.RBEPilot.load(path)


def test_bad_pilots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^GITS needs at least 3 levels and a batch of 1, not 2 and 64$"):
        calibrate.gits(mixture(), levels=2)
    with pytest.raises(ValueError, match=r"^sigma_max of a pilot must be positive and finite, not -1.0$"):
        calibrate.gits(mixture(), sigma_max=-1.0)
    with pytest.raises(ValueError, match=r"^GITS has a cost for every jump"):
        GITSPilot((0.0, 1.0, 2.0), ((1.0, 2.0),))
    with pytest.raises(ValueError, match=r"^the levels of GITS increase in lam"):
        GITSPilot((0.0, 0.0, 2.0), ((1.0, 2.0), (1.0,)))
    with pytest.raises(ValueError, match=r"^coeff of grid 'gits_pilot' must be positive"):
        GITSPilot((0.0, 1.0, 2.0), ((1.0, 2.0), (1.0,)), coeff=math.inf)


def test_it_helps_ddim_at_few_calls() -> None:
    """On the mixture: a regression gate, not a claim."""
    denoiser = mixture()
    z = torch.randn(256, 3, 4, 4, generator=torch.Generator().manual_seed(2024), dtype=torch.float64)

    def run(solver: str, grid: grids.Grid | str, steps: int) -> torch.Tensor:
        return fastsolve.sample(
            denoiser, z.shape, solver=solver, grid=grid, steps=steps, x_init=z, dtype=torch.float64, executor="eager"
        )

    exact = run("dpmpp_2m", "uniform_logsnr", 300)
    pilot = calibrate.gits(denoiser, trajectories=64, dtype=torch.float64)
    for steps in (6, 8):
        error = [float((run("ddim", g, steps) - exact).square().mean().sqrt()) for g in (pilot, "uniform", "quadratic")]
        assert error[0] < min(error[1:])
