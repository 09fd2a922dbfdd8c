"""The metrics of benchmarks/: answers that are known, and samplers with one coefficient off by 5 %, which all of them notice."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import fastsolve
from fastsolve import Denoiser, Plan, Stepper
from fastsolve.models import split_digits
from fastsolve.plan import Update
from fastsolve.problems import Bias, Gaussian, digits_kernel, flawed
from problems import golden_mixture, plane_mixture

pytest.importorskip("benchmarks", reason="benchmarks/ is not shipped, and found from the root of a checkout only")

from benchmarks import metrics
from benchmarks.metrics import Estimate

AXES = Gaussian(torch.zeros(16), torch.logspace(math.log10(0.02), math.log10(0.5), 16, dtype=torch.float64), (16,))


def normals(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def off_by_five_percent(plan: Plan, which: int, place: str = "d") -> Plan:
    """A wrong solver: in every update, of the terms of one kind, one coefficient is too large by 5 %."""

    def wrong(update: Update) -> Update:
        rows = []
        for row in update.rows:
            places = [i for i, (name, _) in enumerate(row.terms) if name[0] == place]
            bad = places[which] if -len(places) <= which < len(places) else None
            rows.append(
                row._replace(terms=tuple((n, 1.05 * c if i == bad else c) for i, (n, c) in enumerate(row.terms)))
            )
        return Update(tuple(rows))

    return dataclasses.replace(plan, ops=tuple(wrong(op) if isinstance(op, Update) else op for op in plan.ops))


def w2(plan: Plan, law: Gaussian, denoiser: Denoiser | None = None) -> float:
    return metrics.gaussian_w2(*metrics.moments(plan, denoiser or law.denoiser()), law)


# Restart's table (arXiv 2306.14878's method on these very axes), found by a recursion of its own: calls, steps, W2 without and with a bias.
HEUN = [(43, 22, 0.0086353938, 0.0394539060), (75, 38, 0.0026397765, 0.0391610240)]
RESTART = [
    (43, 10, (7, 2, 0.02293, 1.08817), 0.0098224791, 0.0209666250),
    (43, 18, (3, 2, 0.06, 0.30), 0.0102354370, 0.0314079776),
    (75, 8, (7, 5, 0.02293, 0.58535), 0.0047690494, 0.0175334081),
]
KARRAS = fastsolve.grids.Karras(sigma_min=0.002, sigma_max=80.0)


@pytest.mark.parametrize(
    ("calls", "solver", "steps", "options", "perfect", "biased"),
    [(n, "heun", k, {}, a, b) for n, k, a, b in HEUN]
    + [(n, "restart", k, {"intervals": [part]}, a, b) for n, k, part, a, b in RESTART],
)
def test_exact_moments_are_those_of_a_recursion(
    calls: int, solver: str, steps: int, options: dict[str, object], perfect: float, biased: float
) -> None:
    plan = fastsolve.make_plan(solver, schedule="edm", grid=KARRAS, steps=steps, options=options)
    assert plan.nfe == calls
    assert w2(plan, AXES) == pytest.approx(perfect, rel=1e-8)
    assert w2(plan, AXES, flawed(AXES.denoiser(), Bias(-0.03))) == pytest.approx(biased, rel=1e-8)


@pytest.mark.parametrize("solver", ["seeds3", "tada", "sa_solver", "unipc", "restart"])
@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_exact_moments_are_those_of_samples(solver: str, prediction: str) -> None:
    law = Gaussian(torch.tensor([0.7, -0.3]), torch.tensor([0.35, 0.1]), (2,))
    spoilt = flawed(law.denoiser("edm", prediction), Bias(0.1))
    options = {"intervals": [(4, 1, 0.05, 1.0)]} if solver == "restart" else {}
    sampler = fastsolve.Sampler(spoilt, (20_000, 2), solver=solver, steps=8, options=options)
    mean, std = metrics.moments(sampler.plan, spoilt)
    drawn = sampler(seed=4).double()
    assert ((drawn.mean(0) - mean).abs() < 4 * std / math.sqrt(20_000) + 1e-5).all()
    assert ((drawn.std(0) - std).abs() < 4 * std / math.sqrt(40_000) + 1e-5).all()


def test_exact_moments_refuse_what_is_not_affine() -> None:
    with pytest.raises(ValueError, match="need an affine denoiser"):
        metrics.moments(fastsolve.make_plan("ddim", schedule="edm", steps=3), plane_mixture().denoiser())


SOUND = (
    "ddim",
    "dpmpp_2m",
    "dpmpp_3m",
    "deis",
    "unipc",
    "heun",
    "dpm_solver_3",
    "seeds1",
    "seeds2",
    "seeds3",
    "er_sde",
)


@pytest.mark.parametrize("solver", SOUND)
@pytest.mark.parametrize(("which", "place"), [(0, "d"), (-1, "d"), (0, "x")])
def test_exact_moments_notice_a_coefficient_off_by_five_percent(solver: str, which: int, place: str) -> None:
    plan = fastsolve.make_plan(solver, schedule="edm", nfe=90)
    assert w2(off_by_five_percent(plan, which, place), AXES) > max(0.01, 3.0 * w2(plan, AXES))


@pytest.mark.parametrize("solver", ["seeds2", "seeds3", "sa_solver", "dpmpp_2m_sde"])
def test_exact_moments_notice_noise_off_by_five_percent(solver: str) -> None:
    """In so many steps that no discretisation error hides it."""
    plan = fastsolve.make_plan(solver, schedule="edm", nfe=360)
    assert w2(off_by_five_percent(plan, 0, "z"), AXES) > 2.0 * w2(plan, AXES)


def test_estimates() -> None:
    assert metrics.over_seeds([1.0, 2.0, 3.0]) == Estimate(2.0, pytest.approx(1.0 / math.sqrt(3)))
    parts = list(normals(10, 400))
    mean = metrics.jackknife(metrics.left_out(parts, lambda x: float(x.mean())))
    assert mean == pytest.approx(metrics.over_seeds([float(p.mean()) for p in parts]))  # of a mean they are the same
    for estimate in (lambda: metrics.over_seeds([1.0]), lambda: metrics.jackknife([1.0, 1.0])):
        with pytest.raises(ValueError, match="two seeds or more"):
            estimate()


def test_the_distance_from_an_exact_end() -> None:
    off = 0.1 * normals(400, 3, 2)
    value, error = metrics.jackknife(metrics.left_out(off.split(20), metrics.root_mean_square))
    assert abs(value - 0.1) < 4 * error
    assert error == pytest.approx(0.1 / math.sqrt(2 * 400 * 6), rel=0.4)


def test_energy_distance_of_shifted_normals() -> None:
    """On the line E|X - Y| is known: sqrt(4 / pi) within, and for a shift m that of a folded normal."""
    m = 0.8
    folded = 2.0 / math.sqrt(math.pi) * math.exp(-m * m / 4.0) + m * math.erf(m / 2.0)
    found = [
        metrics.energy_distance(normals(2000, 1, seed=2 * k) + m, normals(2000, 1, seed=2 * k + 1)) for k in range(8)
    ]
    value, error = metrics.over_seeds(found)
    assert abs(value - 2.0 * (folded - 2.0 / math.sqrt(math.pi))) < 4 * error < 0.04
    same = metrics.over_seeds(
        [metrics.energy_distance(normals(500, 5, seed=k), normals(500, 5, seed=99 + k)) for k in range(8)]
    )
    assert abs(same.value) < 4 * same.error


def test_sliced_wasserstein_of_a_shift_and_a_stretch() -> None:
    x = normals(4000, 6)
    shift = torch.zeros(6, dtype=torch.float64)
    shift[2] = 0.5
    assert metrics.sliced_wasserstein(x, x + shift) == pytest.approx(
        0.5 / math.sqrt(6), rel=0.15
    )  # a random projection of it
    assert metrics.sliced_wasserstein(x, 1.2 * x) == pytest.approx(0.2, rel=0.02)
    assert metrics.sliced_wasserstein(x, x.flip(0)) == 0.0
    with pytest.raises(ValueError, match="not 4000 samples with 10"):
        metrics.sliced_wasserstein(x, x[:10])


def test_frechet_of_stretched_and_shifted_sets() -> None:
    """Of a set with mean 0 and covariance 1: exactly what the stretch and the shift are, in any basis."""
    x = normals(500, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    turn, _ = torch.linalg.qr(normals(3, 3, seed=1))
    stretch = torch.tensor([1.5, 0.5, 1.0], dtype=torch.float64)
    assert metrics.frechet(x @ turn, (x * stretch + 0.3) @ turn) == pytest.approx(3 * 0.3**2 + 0.5, rel=1e-9)
    assert metrics.frechet(x, x) == pytest.approx(0.0, abs=1e-12)


def test_coverage_counts_what_is_left_out() -> None:
    centres = 20.0 * torch.eye(4, dtype=torch.float64)
    real = (centres[:, None] + normals(4, 100, 4)).flatten(0, 1)
    drawn = (centres[:, None] + normals(4, 100, 4, seed=1)).flatten(0, 1)
    covers = metrics.Coverage(real)
    full = covers(drawn)
    assert full > 0.9
    assert covers(drawn[:200]) == pytest.approx(full / 2, abs=0.03)
    assert covers(drawn[:1].expand(400, 4)) < 0.05


@pytest.fixture(scope="module")
def reader() -> metrics.Reader:
    return metrics.Reader(*split_digits()[:2])


def test_a_reader_reads_digits_it_never_saw(reader: metrics.Reader) -> None:
    _, _, held, labels = split_digits()
    assert reader.accuracy(held, labels) > 0.95
    assert reader.accuracy(held, (labels + 1) % 10) < 0.05
    features = reader.features(held)
    assert features.shape == (297, 32)
    best = (features @ torch.from_numpy(reader.net.coefs_[-1]) + torch.from_numpy(reader.net.intercepts_[-1])).argmax(1)
    assert best.tolist() == reader.net.predict(held.flatten(1).double().numpy()).tolist()


def run(plan: Plan, denoiser: Denoiser, batch: int, seed: int) -> Tensor:
    """A plan as it is, right or wrong."""
    assert denoiser.shape is not None
    walk = Stepper(plan, (batch, *denoiser.shape), dtype=torch.float64).begin(seed)
    x = plan.start_std * normals(batch, *denoiser.shape, seed=1000 + seed)
    for call in plan.evals:
        x = walk.step(denoiser(walk.input(x), torch.full((batch,), call.t, dtype=torch.float64)), x)
    return x


@pytest.mark.parametrize(("solver", "which"), [("dpmpp_2m", 0), ("seeds3", 0), ("seeds3", -1)])
def test_distances_notice_a_coefficient_off_by_five_percent(solver: str, which: int, reader: metrics.Reader) -> None:
    """The right plan's samples are those of the law, within three standard errors; the wrong one's are worse, by more than three."""
    law, images = golden_mixture(), digits_kernel()
    plan = fastsolve.make_plan(solver, schedule="edm", nfe=45)
    real = reader.features(images.draw(600, seed=77).float())
    energies, sliced, distances = [], [], []
    for candidate in (plan, off_by_five_percent(plan, which)):
        sets = [run(candidate, law.denoiser(), 250, seed) for seed in range(5)]
        energies.append([metrics.energy_distance(x, law.draw(250, seed=k)) for k, x in enumerate(sets)])
        sliced.append([metrics.sliced_wasserstein(x, law.draw(250, seed=k)) for k, x in enumerate(sets)])
        features = [reader.features(run(candidate, images.denoiser(), 120, seed).float()) for seed in range(4)]
        distances.append(metrics.jackknife(metrics.left_out(features, lambda x: metrics.frechet(x, real))))
    value, error = metrics.over_seeds(energies[0])
    assert abs(value) < 3 * error
    for right, wrong in (energies, sliced):
        value, error = metrics.over_seeds([b - a for a, b in zip(right, wrong, strict=True)])  # of the same noise
        assert value > 3 * error
    assert distances[1].value - distances[0].value > 3 * math.hypot(distances[0].error, distances[1].error)
