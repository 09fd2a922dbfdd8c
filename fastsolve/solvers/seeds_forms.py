"""The three parametrisations of exponential integrators: in each, a linear SDE is solved exactly and the model output M interpolated.

    x_b = carry(a, b) x_a + sum_k weight(k, a, b) M^(k-1) + noise(a, b) z

with M = M_0 + theta M' + theta^2/2 M'' in theta, the relative position in the method's own variable. eta: strength of the noise,
1 the reverse SDE, 0 the probability-flow ODE (tau^2 of SA-Solver).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from fastsolve.forms import Form
from fastsolve.integrals import decay, growth
from fastsolve.schedules import Node, Schedule
from fastsolve.solvers import one_of


@dataclass(frozen=True)
class Parametrisation(ABC):
    """Propagator, weights, noise and nodes of one step a -> b."""

    eta: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta < math.inf:
            raise ValueError(f"eta must be at least 0 and finite, not {self.eta}")

    @abstractmethod
    def output(self, x: Form, d: Form, node: Node) -> Form:
        """M from the state and its data prediction."""

    @abstractmethod
    def carry(self, a: Node, b: Node) -> float:
        """Factor of the state."""

    @abstractmethod
    def weight(self, k: int, a: Node, b: Node) -> float:
        """Factor of theta^(k-1)/(k-1)! in M."""

    @abstractmethod
    def noise(self, a: Node, b: Node) -> float:
        """Standard deviation of the noise gathered on the way."""

    def constant(self, x: Form, m: Form, a: Node, b: Node) -> Form:
        """The state at b, without noise, where M is m all the way."""
        return self.carry(a, b) * x + self.weight(1, a, b) * m

    def between(self, schedule: Schedule, a: Node, b: Node, c: float) -> Node:
        """The node at relative position c."""
        return b if c == 1.0 else schedule.at_lam(a.lam + c * (b.lam - a.lam))


class Data(Parametrisation):
    """M = x0, in lambda: factor(b) times the integral of e^{-rate (lambda_b - lambda)} M. Finite at alpha = 0."""

    @property
    def rate(self) -> float:
        return 1.0 + self.eta

    def factor(self, b: Node) -> float:
        return (1.0 + self.eta) * b.alpha

    def output(self, x: Form, d: Form, node: Node) -> Form:
        return d

    def carry(self, a: Node, b: Node) -> float:
        return b.sigma / a.sigma * (math.exp(-self.eta * (b.lam - a.lam)) if self.eta else 1.0)

    def weight(self, k: int, a: Node, b: Node) -> float:
        return b.alpha * decay(k, (1.0 + self.eta) * (b.lam - a.lam))

    def noise(self, a: Node, b: Node) -> float:
        return b.sigma * math.sqrt(-math.expm1(-2.0 * self.eta * (b.lam - a.lam))) if self.eta else 0.0


class Noise(Parametrisation):
    """M = eps, in lambda, with rate and factor as in `Data`. Needs alpha > 0."""

    rate = -1.0

    def factor(self, b: Node) -> float:
        return -(1.0 + self.eta) * b.sigma

    def constant(self, x: Form, m: Form, a: Node, b: Node) -> Form:
        """The same in terms of what m takes from x: where it is x's own noise, no large numbers cancel (DDIM's step at eta = 0)."""
        ratio = b.sigma / a.sigma * (1.0 - self.eta * math.expm1(b.lam - a.lam))
        return ratio * x + self.weight(1, a, b) * (m - x / a.sigma)

    def output(self, x: Form, d: Form, node: Node) -> Form:
        return (x - node.alpha * d) / node.sigma

    def carry(self, a: Node, b: Node) -> float:
        if a.alpha == 0.0:
            raise ValueError(
                "SEEDS in noise form cannot start at alpha = 0: use form='data', or start the grid below that level"
            )
        return b.alpha / a.alpha

    def weight(self, k: int, a: Node, b: Node) -> float:
        return -(1.0 + self.eta) * b.sigma * growth(k, b.lam - a.lam)

    def noise(self, a: Node, b: Node) -> float:
        return b.sigma * math.sqrt(self.eta * math.expm1(2.0 * (b.lam - a.lam)))


@dataclass(frozen=True)
class EDM(Parametrisation):
    """M = F, the raw output of EDM's network, in lambda_F = -log(sin(theta)/d) or -log(theta), theta = atan(rho/d), rho = sigma/alpha.

    eta = 1 or 0, for which the propagator has a closed form; d = sigma_data.
    """

    sigma_data: float

    def __post_init__(self) -> None:
        super().__post_init__()
        d = self.sigma_data
        if isinstance(d, bool) or not isinstance(d, int | float) or not 0.0 < d < math.inf:
            raise ValueError(f"sigma_data must be a positive and finite number, not {d!r}")
        if self.eta not in (0.0, 1.0):
            raise ValueError(f"SEEDS in EDM form have eta 0 or 1, not {self.eta}: other values have no closed form")

    def _rho(self, node: Node) -> float:
        if node.alpha == 0.0:
            raise ValueError(
                "SEEDS in EDM form cannot start at alpha = 0: use form='data', or start the grid below that level"
            )
        return node.sigma / node.alpha

    def _h(self, a: Node, b: Node) -> float:
        d, ra, rb = self.sigma_data, self._rho(a), self._rho(b)
        if self.eta:
            return math.log(ra / math.hypot(ra, d)) - math.log(rb / math.hypot(rb, d))
        return math.log(math.atan(ra / d) / math.atan(rb / d))

    def output(self, x: Form, d: Form, node: Node) -> Form:
        rho, data = self._rho(node), self.sigma_data
        root = math.hypot(rho, data)
        return (root / (rho * data)) * d - (data / (rho * root * node.alpha)) * x

    def carry(self, a: Node, b: Node) -> float:
        ratio = math.hypot(self._rho(b), self.sigma_data) / math.hypot(self._rho(a), self.sigma_data)
        return b.alpha / a.alpha * (ratio * ratio if self.eta else ratio)

    def weight(self, k: int, a: Node, b: Node) -> float:
        rho, d = self._rho(b), self.sigma_data
        scale = 2.0 * rho / d if self.eta else math.atan(rho / d)
        return b.alpha * scale * math.hypot(rho, d) * growth(k, self._h(a, b))

    def noise(self, a: Node, b: Node) -> float:
        if not self.eta:
            return 0.0
        d, ra, rb = self.sigma_data, self._rho(a), self._rho(b)
        return b.alpha * math.hypot(rb, d) * math.sqrt((ra - rb) * (ra + rb)) / math.hypot(ra, d)

    def between(self, schedule: Schedule, a: Node, b: Node, c: float) -> Node:
        if c == 1.0:
            return b
        d, ra, shrink = self.sigma_data, self._rho(a), math.exp(-c * self._h(a, b))
        if self.eta:
            sin = ra / math.hypot(ra, d) * shrink
            return schedule.at_lam(-math.log(d * sin / math.sqrt((1.0 - sin) * (1.0 + sin))))
        return schedule.at_lam(-math.log(d * math.tan(math.atan(ra / d) * shrink)))


def in_lambda(form: str, eta: float) -> Data | Noise:
    """ "data" or "noise", the two that multistep samplers interpolate. Raises ValueError for others."""
    one_of("form", form, ("data", "noise"))
    return Data(eta) if form == "data" else Noise(eta)


_FORMS = {"data": "data", "x0": "data", "noise": "noise", "eps": "noise", "edm": "edm", "F": "edm"}


def parametrisation(form: str, eta: float, sigma_data: float | None, schedule: Schedule) -> Parametrisation:
    """The parametrisation of a name: "data" (or "x0"), "noise" ("eps"), "edm" ("F"). Raises ValueError for others and for eta < 0."""
    one_of("form", form, _FORMS)
    if _FORMS[form] == "edm":
        return EDM(eta, getattr(schedule, "sigma_data", 0.5) if sigma_data is None else sigma_data)
    return Data(eta) if _FORMS[form] == "data" else Noise(eta)
