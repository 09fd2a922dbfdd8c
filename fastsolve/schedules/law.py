"""The law alpha(t), sigma(t), its nodes, and what every schedule answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple


class Node(NamedTuple):
    """A point of a schedule: clock t, alpha, sigma (data units) and lam = log(alpha / sigma) (nats)."""

    t: float
    alpha: float
    sigma: float
    lam: float


class Schedule(ABC):
    """A law. `t_max` is the noisiest clock value, `t_min` the last positive level of named grids, `t_clean` where sigma = 0."""

    name: ClassVar[str]
    t_clean: ClassVar[float] = 0.0
    unit_start: ClassVar[bool] = True  # sampling starts from unit noise (VP), not from sigma * noise (VE, flow)
    t_min: float
    t_max: float
    t_limit: float | None = None  # the largest clock value there is, where it is not t_max

    @property
    def whole(self) -> Schedule:
        """The law that grids are laid on: itself, but for a schedule that rounds nodes to levels that its model knows."""
        return self

    @abstractmethod
    def law(self, t: float) -> tuple[float, float, float]:
        """(alpha, sigma, lam) at a clock value inside the domain, t_clean excluded."""

    @abstractmethod
    def clock(self, lam: float) -> float:
        """The clock value with log(alpha / sigma) = lam; the inverse of `law`."""

    def node(self, t: float) -> Node:
        """The node at clock value t. Raises ValueError outside [t_clean, t_limit]."""
        t, limit = float(t), self.t_max if self.t_limit is None else self.t_limit
        if t == self.t_clean:
            return Node(t, 1.0, 0.0, math.inf)
        if not self.t_clean < t <= limit or not math.isfinite(t):
            raise ValueError(
                f"level {t:g} is outside the schedule {self.name!r}, whose clock runs from {self.t_clean:g} to {limit:g}"
            )
        return Node(t, *self.law(t))

    def at_lam(self, lam: float) -> Node:
        """The node with log(alpha / sigma) = lam; its clock value is right within 1e-12.

        Raises ValueError where the schedule has no such level.
        """
        if lam == math.inf:
            return self.node(self.t_clean)
        if lam == -math.inf:
            end = self.node(self.t_max)
            if end.alpha:
                raise ValueError(f"alpha = 0 is not a level of the schedule {self.name!r}")
            return end
        try:
            t = self.clock(lam)
        except OverflowError:
            raise ValueError(
                f"log(alpha / sigma) = {lam:g} is beyond every level of the schedule {self.name!r}"
            ) from None
        if self.t_max < t <= self.t_max * (1.0 + 1e-12) and self.t_limit is None:
            t = self.t_max  # rounding at the end of the range
        return self.node(t)

    def warp(self, u: float) -> float:
        """Clock value of a step position u that named grids space uniformly; flow schedules shift here."""
        return u

    def start_std(self, node: Node) -> float:
        """Standard deviation of the noise that sampling starts from at a node."""
        return math.hypot(node.alpha, node.sigma) if self.unit_start else node.sigma
