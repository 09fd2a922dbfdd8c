"""What is done to every data prediction of a plan: guidance, bounds, a function of the caller's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastsolve.schedules import Node

Scale = float | Callable[[Node], float]
Numbers = Callable[[float, float], tuple[float, ...]]  # from a and b of the prediction


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416, algorithm 1) of the data prediction.

    eta: weight of the part of the difference that is parallel to the conditional prediction. momentum: of the differences of earlier
    calls; negative in the paper. norm_threshold: the difference is made no longer than this, per sample; 0 leaves it.
    """

    eta: float = 0.0
    momentum: float = 0.0
    norm_threshold: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.eta, self.momentum, self.norm_threshold))) or self.norm_threshold < 0:
            raise ValueError(f"APG takes finite numbers and a threshold of at least 0, not {self}")


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, D = D_uncond + w (D_cond - D_uncond) (Ho & Salimans 2022, arXiv 2207.12598, equation 6).

    scale: w, or a function of the node that gives it. interval: (low, high), clock values between which, both included, there is
    guidance; outside the model is called once (Kynkaanniemi et al. 2024, arXiv 2404.07724). rescale: phi in [0, 1], how far the guided
    raw output is brought back to the standard deviation of the conditional one, per sample (Lin et al. 2023, arXiv 2305.08891,
    equations 15 and 16). apg: projected guidance instead. Without rescale and apg guidance is linear and costs nothing but the calls.
    """

    scale: Scale
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    apg: APG | None = None

    def __post_init__(self) -> None:
        if not callable(self.scale):
            _finite(self.scale)
        if self.interval is not None:
            try:
                low, high = map(float, self.interval)
            except (TypeError, ValueError):
                low, high = math.nan, math.nan
            if not low <= high:
                raise ValueError(f"a guidance interval is (low, high) in the schedule's clock, not {self.interval!r}")
            object.__setattr__(self, "interval", (low, high))  # a list is no key
        if not isinstance(self.rescale, int | float) or not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"guidance rescale must be in [0, 1], not {self.rescale!r}")
        if self.apg is not None and not isinstance(self.apg, APG):
            raise TypeError(f"apg must be an APG, not {self.apg!r}")
        if self.rescale and self.apg is not None:
            raise ValueError("guidance takes rescale or apg, not both")

    def at(self, node: Node) -> float | None:
        """The scale at a node, None outside the interval."""
        if self.interval is not None and not self.interval[0] <= node.t <= self.interval[1]:
            return None
        return _finite(self.scale(node) if callable(self.scale) else self.scale)


def _finite(scale: object) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"guidance must be a finite scale, not {scale!r}")
    return float(scale)


@dataclass(frozen=True)
class Controls:
    """guidance or None. clip: bounds of data predictions. hooked: function "x0" is applied to them. both: always call both branches."""

    guidance: Guidance | None = None
    clip: tuple[float, float] | None = None
    hooked: bool = False
    both: bool = False

    @property
    def momentum(self) -> float:
        """Of the differences of guided calls."""
        return self.guidance.apg.momentum if self.guidance is not None and self.guidance.apg is not None else 0.0

    def weights(self, node: Node, both: bool) -> tuple[tuple[float, ...], str | None, Numbers]:
        """Weights of the raw outputs at a node, and where the combination is not linear, its function and what that takes."""
        guidance = self.guidance
        if guidance is None:
            return (1.0,), None, _none
        w = guidance.at(node)
        if w is None or (w == 1.0 and not guidance.apg):
            return (1.0, 0.0) if self.both or (both and w is not None) else (1.0,), None, _none
        if guidance.rescale:
            phi = guidance.rescale
            return (w, 1.0 - w), "rescale", lambda a, b: (a, b, w, phi)
        if guidance.apg:
            eta, threshold, momentum = guidance.apg.eta, guidance.apg.norm_threshold, guidance.apg.momentum
            return (w, 1.0 - w), "apg", lambda a, b: (a, b, w, eta, threshold, momentum)
        return (w, 1.0 - w), None, _none  # w = 0 still asks both: the branches stay in order

    def plain(self, node: Node) -> tuple[float, float]:
        """Weights of the two raw outputs in the prediction that guidance starts from: outside its interval the conditional one."""
        inside = self.guidance is not None and self.guidance.at(node) is not None
        return (0.0, 1.0) if inside else (1.0, 0.0)


def _none(a: float, b: float) -> tuple[float, ...]:
    return ()


NO_CONTROLS = Controls()
