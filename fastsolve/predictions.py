"""What a raw model output means: two numbers per node, x0 = a * x + b * raw, and the scale of the model's input."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fastsolve.schedules import Node


class Prediction(ABC):
    """A parametrisation of the denoiser. Every node has x = alpha x0 + sigma eps."""

    name: ClassVar[str]

    @abstractmethod
    def x0(self, node: Node) -> tuple[float, float]:
        """(a, b) with x0 = a * x + b * raw. Raises ValueError where the output does not determine x0."""

    def input_scale(self, node: Node) -> float:
        """The model is called with this number times x."""
        return 1.0


def _needs_signal(name: str, node: Node) -> None:
    if node.alpha == 0.0:
        raise ValueError(
            f"{name}-prediction says nothing about x0 at alpha = 0 (t = {node.t:g}, zero terminal SNR): "
            "use a model with x0, v or flow prediction, or start the grid below that level"
        )


@dataclass(frozen=True)
class X0(Prediction):
    """raw = x0, the denoised data."""

    name: ClassVar[str] = "x0"

    def x0(self, node: Node) -> tuple[float, float]:
        return 0.0, 1.0


@dataclass(frozen=True)
class Eps(Prediction):
    """raw = eps, the noise."""

    name: ClassVar[str] = "eps"

    def x0(self, node: Node) -> tuple[float, float]:
        _needs_signal(self.name, node)
        return 1.0 / node.alpha, -node.sigma / node.alpha


@dataclass(frozen=True)
class V(Prediction):
    """raw = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512, appendix D)."""

    name: ClassVar[str] = "v"

    def x0(self, node: Node) -> tuple[float, float]:
        power = node.alpha**2 + node.sigma**2
        return node.alpha / power, -node.sigma / power


@dataclass(frozen=True)
class Flow(Prediction):
    """raw = eps - x0, the velocity of flow matching (Lipman et al. 2022, arXiv 2210.02747)."""

    name: ClassVar[str] = "flow"

    def x0(self, node: Node) -> tuple[float, float]:
        return 1.0 / (node.alpha + node.sigma), -node.sigma / (node.alpha + node.sigma)


@dataclass(frozen=True)
class Score(Prediction):
    """raw = grad log p(x) = -eps / sigma."""

    name: ClassVar[str] = "score"

    def x0(self, node: Node) -> tuple[float, float]:
        _needs_signal(self.name, node)
        return 1.0 / node.alpha, node.sigma**2 / node.alpha


@dataclass(frozen=True)
class EDM(Prediction):
    """raw = F, the network inside EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, equation 7), in x / alpha.

    sigma_data: standard deviation of the data, in data units. scaled_input: the model expects c_in * x (as EDM's own networks
    do inside their wrapper) and not x.
    """

    sigma_data: float = 0.5
    scaled_input: bool = False
    name: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma_data) and self.sigma_data > 0):
            raise ValueError(f"sigma_data must be positive and finite, not {self.sigma_data}")

    def x0(self, node: Node) -> tuple[float, float]:
        # c_skip / alpha and c_out of s = sigma / alpha, multiplied out so that alpha = 0 is no special case.
        d = self.sigma_data
        power = node.sigma**2 + (node.alpha * d) ** 2
        return node.alpha * d * d / power, node.sigma * d / math.sqrt(power)

    def input_scale(self, node: Node) -> float:
        return 1.0 / math.hypot(node.sigma, node.alpha * self.sigma_data) if self.scaled_input else 1.0


_ELSEWHERE = {
    "epsilon": "eps",
    "sample": "x0",
    "v_prediction": "v",
    "flow_prediction": "flow",
    "velocity": "flow",
    "data": "x0",
}
_NAMED = {p.name: p for p in (X0(), Eps(), V(), Flow(), Score(), EDM())}


def get(prediction: str | Prediction, sigma_data: float | None = None) -> Prediction:
    """The prediction of a name ("x0", "eps", "v", "flow", "score", "edm"), or the object itself.

    sigma_data: what "edm" by name takes, if the schedule states one. Raises ValueError for an unknown name.
    """
    if isinstance(prediction, Prediction):
        return prediction
    if not isinstance(prediction, str):
        raise TypeError(f"prediction must be a name or a Prediction, not {type(prediction).__name__}")
    if prediction == "edm" and sigma_data is not None:
        return EDM(sigma_data)
    if prediction in _NAMED:
        return _NAMED[prediction]
    near = _ELSEWHERE.get(prediction) or difflib.get_close_matches(prediction, _NAMED, 1, 0.0)[0]
    raise ValueError(f"unknown prediction {prediction!r}: known are {', '.join(_NAMED)}; nearest is {near!r}")
