"""Samplers of flow models, written in their state y = x / (alpha + sigma), time u = sigma / (alpha + sigma) and velocity v = eps - D.

On flow schedules alpha + sigma = 1, and y, u are x, t; on any other they are the same path in other words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.ddim import windowed


def clock(node: Node) -> tuple[float, float]:
    """(u, alpha + sigma)."""
    return node.sigma / (node.alpha + node.sigma), node.alpha + node.sigma


def velocity(x: Form, d: Form, node: Node) -> Form:
    return (x - (node.alpha + node.sigma) * d) / node.sigma


@solver("flow_euler", order=1, source="arXiv 2209.03003, the ODE by Euler")
def flow_euler(draft: Draft, grid: Grid) -> Form:
    """Euler's method on the velocity (rectified flow: Liu, Gong & Liu 2022, arXiv 2209.03003); it equals DDIM."""
    x = draft.start
    for s, t in pairwise(grid):
        (u, scale), (w, new) = clock(s), clock(t)
        v = velocity(x, draft.denoised(s, x), s)
        x = draft.keep((new / scale) * x + (new * (w - u)) * v)
    return x


@solver("flow_heun", forms="velocity", order=2, stages=2, source="diffusers FlowMatchHeunDiscreteScheduler")
def flow_heun(draft: Draft, grid: Grid) -> Form:
    """Heun's method on the velocity (diffusers FlowMatchHeunDiscrete, 2024; ODE of arXiv 2209.03003): not EDM's, which averages eps.

    A step to sigma = 0 is Euler's; a step from alpha = 0 is not.
    """
    x = draft.start
    for s, t in pairwise(grid):
        (u, scale), (w, new) = clock(s), clock(t)
        v = velocity(x, draft.denoised(s, x), s)
        euler = draft.keep((new / scale) * x + (new * (w - u)) * v)
        if t.sigma == 0.0:
            return euler
        x = draft.keep(euler + (0.5 * new * (w - u)) * (velocity(euler, draft.denoised(t, euler), t) - v))
    return x


@solver("flow_sde", order=1, weak_order=1, stochastic=True, source="arXiv 2505.05470, equation 9")
def flow_sde(
    draft: Draft, grid: Grid, *, eta: float = 0.245, s_noise: float = 1.0, window: Sequence[int] | None = None
) -> Form:
    """Marginal-preserving SDE of flow models (Flow-GRPO: Liu et al. 2025, arXiv 2505.05470, equation 9); the last step is the ODE's.

    dy = (v + g^2 eps / (2 u)) du + g dW with g^2 = 2 eta u / (1 - u): g = a sqrt(u / (1 - u)) with a^2 = 2 eta, a = 0.7 by default. eta is
    that of the other solvers: 0 the ODE, 1 the reverse SDE. A step from alpha = 0 takes g from its end, as their code does. window: (first,
    last), steps outside which eta is 0 (`ddim.windowed`).
    """
    x = draft.start
    for (s, t), strength in zip(pairwise(grid), windowed(eta, window, grid), strict=True):
        (u, scale), (w, new) = clock(s), clock(t)
        d = draft.denoised(s, x)
        rate = 2.0 * strength / (1.0 - (u if s.alpha else w)) if t.sigma else 0.0  # g^2 / u
        eps = (x - s.alpha * d) / s.sigma
        step = (w - u) * (velocity(x, d, s) + (0.5 * rate) * eps)
        x = draft.keep((new / scale) * x + new * step + (new * math.sqrt(rate * u * (u - w)) * s_noise) * draft.noise())
    return x
