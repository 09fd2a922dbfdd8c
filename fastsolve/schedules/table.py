"""Schedules given by a table of alphas_cumprod, as diffusion models in discrete time are trained."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fastsolve.schedules.law import Schedule


@dataclass(frozen=True)
class VPTable(Schedule):
    """Variance preserving by a table of alphas_cumprod [T], decreasing, in (0, 1), the last may be 0 (zero terminal SNR).

    The clock is the table's index and may be fractional: lam is linear between entries (alpha is, next to a zero). Index -1 is
    clean data, as in DDIM's `set_alpha_to_one`.
    """

    alphas_cumprod: Sequence[float]
    t_clean: ClassVar[float] = -1.0
    name: ClassVar[str] = "vp_table"
    t_min: float = 0.0
    lams: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = tuple(float(a) for a in self.alphas_cumprod)
        bad = [i for i, a in enumerate(table) if not (0.0 < a < 1.0 or (a == 0.0 and i == len(table) - 1))]
        bad += [i for i in range(1, len(table)) if not table[i] < table[i - 1]]
        if len(table) < 2 or bad:
            where = f": entry {min(bad)} is {table[min(bad)]}" if bad else ""
            raise ValueError(
                f"alphas_cumprod must be at least two numbers that decrease within (0, 1), the last may be 0{where}"
            )
        lams = tuple(0.5 * (math.log(a) - math.log1p(-a)) if a else -math.inf for a in table)
        object.__setattr__(self, "alphas_cumprod", table)
        object.__setattr__(self, "lams", lams)
        object.__setattr__(self, "_hash", hash(table))

    def __hash__(self) -> int:
        return self._hash  # plans are cached by schedule; hashing a thousand floats each time is not free

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return len(self.alphas_cumprod) - 1.0

    def law(self, t: float) -> tuple[float, float, float]:
        if t < 0.0:
            raise ValueError(f"level {t:g} of a table: below index 0 there is only -1, clean data")
        low = min(int(t), len(self.lams) - 2)
        w = t - low
        if self.lams[low + 1] > -math.inf:
            lam = (1.0 - w) * self.lams[low] + w * self.lams[low + 1]
            return 1.0 / math.sqrt(1.0 + math.exp(-2.0 * lam)), 1.0 / math.sqrt(1.0 + math.exp(2.0 * lam)), lam
        alpha = (1.0 - w) * math.sqrt(self.alphas_cumprod[low])
        sigma = math.sqrt(1.0 - alpha * alpha)
        return alpha, sigma, math.log(alpha / sigma) if alpha else -math.inf

    def clock(self, lam: float) -> float:
        if not self.lams[-1] <= lam <= self.lams[0] * (1 + 1e-14) + 1e-14:
            raise ValueError(
                f"log(alpha / sigma) = {lam:g} is outside the table, which has {self.lams[-1]:g} to {self.lams[0]:g}"
            )
        low = min(max(bisect.bisect_left(self.lams, -lam, key=lambda entry: -entry) - 1, 0), len(self.lams) - 2)
        a, b = self.lams[low], self.lams[low + 1]
        if b > -math.inf:
            return low + min(max((lam - a) / (b - a), 0.0), 1.0)
        alpha = 1.0 / math.hypot(1.0, math.exp(-lam)) if lam > -300 else 0.0
        return low + 1.0 - alpha / math.sqrt(self.alphas_cumprod[low])


def scaled_linear(beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> VPTable:
    """Stable Diffusion's table: sqrt(beta) linear (Rombach et al. 2021, arXiv 2112.10752)."""
    betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps) ** 2
    return VPTable(tuple(np.cumprod(1.0 - betas).tolist()))


def squared_cosine(steps: int = 1000) -> VPTable:
    """The cosine table with betas of at most 0.999 (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17); squaredcos_cap_v2 of
    diffusers, whose float32 rounding moves the last entries by up to 1e-4 of themselves.
    """
    if steps < 2:
        raise ValueError(f"a table needs at least two steps, not {steps}")
    bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return VPTable(tuple(np.cumprod(np.maximum(bar[1:] / bar[:-1], 0.001)).tolist()))


def zero_terminal_snr(alphas_cumprod: Sequence[float]) -> tuple[float, ...]:
    """A table rescaled so that its last entry is exactly 0 and its first unchanged (Lin et al. 2023, arXiv 2305.08891, algorithm 1).

    sqrt(a) -> (sqrt(a) - sqrt(a_T)) sqrt(a_0) / (sqrt(a_0) - sqrt(a_T)). Such a table needs a model with v or x0 prediction that was
    trained on it, and a grid that starts at its last index ("trailing").
    """
    roots = [math.sqrt(a) for a in VPTable(alphas_cumprod).alphas_cumprod]
    scale = roots[0] / (roots[0] - roots[-1])
    return (float(alphas_cumprod[0]), *(((root - roots[-1]) * scale) ** 2 for root in roots[1:-1]), 0.0)
