"""Denoisers made wrong, in a way and by an amount that are known: what samplers are compared on besides exact models.

Errors are those of the noise prediction, in units of noise: at s = sigma / alpha a data prediction is off by s times as much, in data
units. They live in y = x / alpha, so the same flaw is the same in every schedule.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastsolve.denoiser import Denoiser
from fastsolve.predictions import Prediction
from fastsolve.problems.law import levels
from fastsolve.schedules import Schedule


@dataclass(frozen=True)
class Flaw(ABC):
    """An error of root mean square `size`. above: only at s well above so much (early in sampling), by s^4 / (s^4 + above^4)."""

    size: float
    above: float = 0.0

    @abstractmethod
    def pattern(self, y: Tensor, s: Tensor) -> Tensor:
        """The error at y [B, *shape], s [B, 1, ...], with a root mean square of about 1; broadcasts against y."""

    def __call__(self, y: Tensor, s: Tensor) -> Tensor:
        """What is added to the data prediction."""
        early = 1.0 / (1.0 + (self.above / s) ** 4)
        return self.size * early * s * self.pattern(y, s)


@dataclass(frozen=True)
class Bias(Flaw):
    """The same in every element, everywhere."""

    def pattern(self, y: Tensor, s: Tensor) -> Tensor:
        return torch.ones_like(s)


@dataclass(frozen=True)
class Ripple(Flaw):
    """A smooth field without a mean, as that of a network: sqrt(2) sin(2 W y / sqrt(s^2 + 1/4) + phase), W orthogonal, from `seed`."""

    seed: int = 0

    def pattern(self, y: Tensor, s: Tensor) -> Tensor:
        flat = y.flatten(1)
        waves, phase = (v.to(y.device) for v in _waves(self.seed, flat.shape[1]))
        field = torch.sin(2.0 * (flat @ waves) / (s.flatten(1) ** 2 + 0.25).sqrt() + phase)
        return math.sqrt(2.0) * field.view_as(y)


@functools.lru_cache(maxsize=8)
def _waves(seed: int, size: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    waves, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return torch.from_numpy(waves), torch.from_numpy(rng.uniform(0.0, 2.0 * math.pi, size))


def flawed(denoiser: Denoiser, flaw: Flaw) -> Denoiser:
    """The denoiser with an error added to what it predicts; its arguments, clock and prediction stay.

    Raises ValueError, when it is called, at alpha = 0, where an error of the noise prediction is an infinite one of the data.
    """
    if not isinstance(flaw, Flaw):
        raise TypeError(f"flaw must be a Bias, a Ripple or another Flaw, not {flaw!r}")
    return replace(denoiser, model=_Flawed(denoiser, flaw))


class _Flawed:
    """model(x, t, **kwargs) of a denoiser, with an error."""

    def __init__(self, denoiser: Denoiser, flaw: Flaw) -> None:
        self.denoiser, self.flaw = denoiser, flaw

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        law, meaning = self.denoiser.schedule, self.denoiser.prediction
        assert isinstance(law, Schedule)
        assert isinstance(meaning, Prediction)
        raw = self.denoiser(x, t, **kwargs)
        values = t.double().tolist()
        known = {value: law.node(value) for value in set(values)}
        if any(node.alpha == 0.0 for node in known.values()):
            raise ValueError("a flawed denoiser has no data prediction at alpha = 0: start the grid below that level")
        nodes = [known[value] for value in values]
        scale, share = levels(x, [meaning.input_scale(n) for n in nodes], [meaning.x0(n)[1] for n in nodes])
        alpha, sigma = levels(x, [n.alpha for n in nodes], [n.sigma for n in nodes])
        off = self.flaw(x.double() / (scale * alpha), sigma / alpha)
        return raw + (off / share).to(raw.dtype)
