"""Schedules with a continuous clock: VP, sub-VP, cosine, VE, EDM, flow matching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.schedules.law import Schedule


def _lam_of_b(b: float) -> float:
    return -0.5 * (b + math.log(-math.expm1(-b)))  # -log(expm1(b)) / 2 without overflow


def _b_of_lam(lam: float) -> float:
    return math.log1p(math.exp(-2.0 * lam)) if lam > -300 else -2.0 * lam


@dataclass(frozen=True)
class _LinearBeta(Schedule):
    """B(t) = beta_min t + (beta_max - beta_min) t^2 / 2, for t in (0, 1]."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def _b(self, t: float) -> float:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t * t

    def _t(self, b: float) -> float:
        return 2.0 * b / (self.beta_min + math.sqrt(self.beta_min**2 + 2.0 * (self.beta_max - self.beta_min) * b))


@dataclass(frozen=True)
class VP(_LinearBeta):
    """Variance preserving, linear beta (Song et al. 2020, arXiv 2011.13456, equation 32): alpha^2 = e^-B, sigma^2 = 1 - e^-B."""

    name: ClassVar[str] = "vp"

    def law(self, t: float) -> tuple[float, float, float]:
        b = self._b(t)
        return math.exp(-0.5 * b), math.sqrt(-math.expm1(-b)), _lam_of_b(b)

    def clock(self, lam: float) -> float:
        return self._t(_b_of_lam(lam))


@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """Sub-VP (Song et al. 2020, equation 29): alpha = e^(-B/2), sigma = 1 - e^-B."""

    name: ClassVar[str] = "sub_vp"

    def law(self, t: float) -> tuple[float, float, float]:
        b = self._b(t)
        return math.exp(-0.5 * b), -math.expm1(-b), -math.log(2.0 * math.sinh(0.5 * b))

    def clock(self, lam: float) -> float:
        return self._t(2.0 * math.asinh(0.5 * math.exp(-lam)))


@dataclass(frozen=True)
class VPCosine(Schedule):
    """Cosine (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17): alpha(t) = cos(theta) / cos(theta_0), t in (0, 1].

    theta = pi/2 (t + s)/(1 + s). alpha(1) = 0: terminal SNR is exactly zero, so eps-models must start below t = 1.
    """

    s: float = 0.008
    t_min: float = 1e-3
    t_max: float = 1.0
    name: ClassVar[str] = "vp_cosine"

    def law(self, t: float) -> tuple[float, float, float]:
        turn = 0.5 * math.pi / (1.0 + self.s)
        zero = turn * self.s
        cos = math.sin(turn * (1.0 - t))  # cos(theta), exact at t = 1
        rest = math.sin(turn * t) * math.sin(turn * t + 2.0 * zero)  # cos^2(theta_0) - cos^2(theta)
        lam = math.log(cos) - 0.5 * math.log(rest) if cos > 0.0 else -math.inf
        return cos / math.cos(zero), math.sqrt(rest) / math.cos(zero), lam

    def clock(self, lam: float) -> float:
        turn = 0.5 * math.pi / (1.0 + self.s)
        zero, rho = turn * self.s, math.exp(-lam)
        cos = math.cos(zero) / math.hypot(1.0, rho)
        sin = math.sqrt((rho * rho + math.sin(zero) ** 2) / (1.0 + rho * rho)) if rho < 1e150 else 1.0
        up = (rho / math.hypot(1.0, rho) * math.cos(zero)) ** 2 / (sin * math.cos(zero) + cos * math.sin(zero))
        return math.atan2(up, cos * math.cos(zero) + sin * math.sin(zero)) / turn


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: alpha = 1, sigma = t (Karras et al. 2022, arXiv 2206.00364). Any positive sigma is a level."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0
    name: ClassVar[str] = "ve"
    unit_start: ClassVar[bool] = False
    t_limit: ClassVar[float] = math.inf  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"0 < sigma_min < sigma_max is needed, not {self.sigma_min}, {self.sigma_max}")

    @property
    def t_min(self) -> float:  # type: ignore[override]
        return self.sigma_min

    @property
    def t_max(self) -> float:  # type: ignore[override]
        return self.sigma_max

    def law(self, t: float) -> tuple[float, float, float]:
        return 1.0, t, -math.log(t)

    def clock(self, lam: float) -> float:
        return math.exp(-lam)


@dataclass(frozen=True)
class EDM(VE):
    """VE with EDM's range and the standard deviation of its data (Karras et al. 2022, table 1)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    name: ClassVar[str] = "edm"


@dataclass(frozen=True)
class Flow(Schedule):
    """Flow matching: alpha = 1 - t, sigma = t, t in (0, 1]. shift k moves named grids by t -> k t / (1 + (k - 1) t).

    (Lipman et al. 2022, arXiv 2210.02747; shift: Esser et al. 2024, arXiv 2403.03206, equation 23.) The law itself does not shift, nor
    do t_min and t_max, between which such grids lie before they are moved. Any t in (0, 1] is a level.
    """

    shift: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0
    name: ClassVar[str] = "flow"
    unit_start: ClassVar[bool] = False
    t_limit: ClassVar[float] = 1.0  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not 0.0 < self.shift < math.inf:
            raise ValueError(f"shift must be positive and finite, not {self.shift}")

    def law(self, t: float) -> tuple[float, float, float]:
        return 1.0 - t, t, math.log1p(-t) - math.log(t) if t < 1.0 else -math.inf

    def clock(self, lam: float) -> float:
        return 1.0 / (1.0 + math.exp(lam)) if lam < 0 else math.exp(-lam) / (1.0 + math.exp(-lam))

    def warp(self, u: float) -> float:
        return self.shift * u / (1.0 - u + self.shift * u)  # exactly 1 at 1


def dynamic_shift(tokens: int, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (4096, 1.15)) -> float:
    """Resolution-dependent shift e^mu, mu linear in the number of image tokens (as in Flux: 256 -> 0.5, 4096 -> 1.15)."""
    mu = low[1] + (tokens - low[0]) * (high[1] - low[1]) / (high[0] - low[0])
    return math.exp(mu)
