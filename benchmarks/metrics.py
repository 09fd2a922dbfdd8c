"""How good samples are, with what it is uncertain by: exact moments on Gaussian data, distances between laws, classifiers' opinions.

Laws are compared sample by sample in float64; all sizes of sets are [n, *shape]. An `Estimate` has a standard error, never a bare figure:
over seeds (`over_seeds`), or by leaving one seed out at a time (`left_out`, `jackknife`) where a statistic of few samples would be biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from fastsolve import Denoiser, Plan
from fastsolve.ops import Eval
from fastsolve.problems import Gaussian

COVERED = 5  # neighbours, as published
DIRECTIONS = 128


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    error: float


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one figure per seed."""
    if len(values) < 2:
        raise ValueError("a standard error needs two seeds or more")
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))


def left_out(parts: Sequence[Tensor], statistic: Callable[[Tensor], float]) -> list[float]:
    """A statistic of all parts (one seed's samples each) together, and without each of them in turn."""
    rest = [torch.cat([p for j, p in enumerate(parts) if j != i]) for i in range(len(parts))]
    return [statistic(x) for x in (torch.cat(list(parts)), *rest)]


def jackknife(values: Sequence[float]) -> Estimate:
    """Of `left_out`: the statistic, and its error from how it changes without one part. Linear, so it serves differences too."""
    if len(values) < 3:
        raise ValueError("a standard error needs two seeds or more")
    return Estimate(values[0], math.sqrt((len(values) - 2) * float(np.var(values[1:]))))


def moments(plan: Plan, denoiser: Denoiser) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of a plan's result where the denoiser is affine, element by element; no sample is drawn.

    Every tensor of the plan is then a constant plus a combination of the independent normals of the start and of the draws: a unit
    vector for each of them walks through the plan. denoiser: of Gaussian data, flawed by a `Bias` or not, in the plan's prediction.
    Raises ValueError for a denoiser that is not affine.
    """
    assert denoiser.shape is not None
    names = [f"start{j}" for j in range(len(plan.start))] + [f"z{i}" for i in range(plan.draws)]
    zero = torch.zeros(
        1 + len(names), *denoiser.shape, dtype=torch.float64
    )  # the constant, then a share of each normal
    units = {name: zero.clone() for name in names}
    for i, name in enumerate(names):
        units[name][1 + i] = 1.0
    known = {name: units[name] for name in names if name[0] == "z"}
    for i, row in enumerate(plan.start):
        known["x0" if i == 0 else f"s{i}"] = sum((c * units[f"start{j}"] for j, c in enumerate(row)), start=zero)
    for op in plan.ops:
        if isinstance(op, Eval):
            x = op.scale * known[op.x]
            at = torch.stack([zero[0], zero[0] + 1.0, zero[0] - 1.0])
            raw, up, down = denoiser(at, torch.full((3,), op.t, dtype=torch.float64))
            if not torch.allclose(up - raw, raw - down, rtol=1e-6, atol=1e-9):
                raise ValueError("exact moments need an affine denoiser: one of Gaussian data, with a Bias at most")
            value = (up - down) / 2.0 * x
            value[0] += raw
            known[op.d] = op.a * known[op.x] + op.b[0] * value
        else:
            known |= {row.out: sum((c * known[name] for name, c in row.terms), start=zero) for row in op.rows}
    out = known[plan.out]
    return out[0], out[1:].square().sum(0).sqrt()


def gaussian_w2(mean: Tensor, std: Tensor, law: Gaussian) -> float:
    """2-Wasserstein distance to the data, root mean square per element."""
    return float(((mean - law.mean) ** 2 + (std - law.std) ** 2).mean().sqrt())


def root_mean_square(apart: Tensor) -> float:
    """Over samples and elements: of x - exact, how far paths end from their own exact ends."""
    return float(apart.double().square().mean().sqrt())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013), unbiased: around 0, of either sign, where the laws are the same."""
    x, y = x.double().flatten(1), y.double().flatten(1)

    def within(z: Tensor) -> float:
        return float(torch.cdist(z, z).sum()) / (len(z) * (len(z) - 1))

    return 2.0 * float(torch.cdist(x, y).mean()) - within(x) - within(y)


def sliced_wasserstein(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """2-Wasserstein distance of projections on random directions, root mean square over them; as many samples of y as of x.

    Two sets of the same law are not at 0: beside a figure stands that of two sets of data (the floor).
    """
    if len(x) != len(y):
        raise ValueError(f"sets of the same size are compared, not {len(x)} samples with {len(y)}")
    x, y = x.double().flatten(1), y.double().flatten(1)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    apart = (x @ directions).sort(0).values - (y @ directions).sort(0).values
    return float(apart.square().mean().sqrt())


def frechet(x: Tensor, y: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of features [n, k] (Heusel et al. 2017): squared 2-Wasserstein of fitted normals."""
    means, covs = zip(*((z.double().mean(0), torch.cov(z.double().T)) for z in (x, y)), strict=True)
    values, vectors = torch.linalg.eigh(covs[0])
    root = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covs[1] @ root).clamp(min=0.0).sqrt().sum()
    return float((means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace() - 2.0 * cross)


class Coverage:
    """The share of real samples with a drawn one among their neighbours: nearer than their 5th real one (Naeem et al. 2020)."""

    def __init__(self, real: Tensor) -> None:
        self.real = real.double().flatten(1)
        self.radius = torch.cdist(self.real, self.real).kthvalue(COVERED + 1, dim=1).values  # the first is itself

    def __call__(self, drawn: Tensor) -> float:
        nearest = torch.cdist(self.real, drawn.double().flatten(1)).amin(1)
        return float((nearest < self.radius).double().mean())


class Reader:
    """A classifier of digits that knows real ones only: scikit-learn's perceptron with 64 and 32 hidden units, seeded."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.net = MLPClassifier((64, 32), alpha=1e-2, max_iter=400, random_state=0)
        self.net.fit(images.flatten(1).double().numpy(), labels.numpy())

    def features(self, images: Tensor) -> Tensor:
        """What its last hidden layer says, float64 [n, 32]."""
        h = images.flatten(1).double()
        for weight, bias in zip(self.net.coefs_[:-1], self.net.intercepts_[:-1], strict=True):
            h = (h @ torch.from_numpy(weight) + torch.from_numpy(bias)).relu()
        return h

    def accuracy(self, images: Tensor, asked: Tensor) -> float:
        """The share that it reads as the class that was asked for."""
        return float(self.net.score(images.flatten(1).double().numpy(), asked.numpy()))
