"""ER-SDE-Solver: exact for a family of reverse SDEs, given by how fast they forget."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import gauss_legendre
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, one_of, solver

POINTS = 200  # of the published sum


def _log_gain(level: float, eta: float | None) -> float:
    """log(phi(L) / L) of the noise scale phi: L^(1 + eta), or the paper's L (e^(L^0.3) + 10)."""
    if eta is None:
        power = math.pow(level, 0.3)
        return power + math.log1p(10.0 * math.exp(-power))
    return eta * math.log(level) if eta else 0.0


def _moments(low: float, high: float, eta: float | None, official: bool) -> tuple[float, float]:
    """phi(low) times the integrals of 1 / phi and (L - high) / phi over [low, high]: by Gauss in log L, or the published left sum."""

    def ratio(level: float) -> float:
        return math.exp(_log_gain(low, eta) - _log_gain(level, eta)) * low / level

    if official:
        step = (high - low) / POINTS
        levels = [low + i * step for i in range(POINTS)]
        return step * math.fsum(map(ratio, levels)), step * math.fsum((u - high) * ratio(u) for u in levels)
    a, b = math.log(low), math.log(high)
    return (
        gauss_legendre(lambda u: math.exp(u) * ratio(math.exp(u)), a, b),
        gauss_legendre(lambda u: math.exp(u) * (math.exp(u) - high) * ratio(math.exp(u)), a, b),
    )


@solver("er_sde", order=2, weak_order=2, stochastic=True, source="arXiv 2309.06169, VP and VE ER-SDE-Solver 1 to 3")
def er_sde(
    draft: Draft,
    grid: Grid,
    *,
    stages: int = 3,
    eta: float | None = None,
    s_noise: float = 1.0,
    compat: str | None = None,
) -> Form:
    """ER-SDE-Solver (Cui et al. 2023, arXiv 2309.06169, solvers 1 to 3; ComfyUI sample_er_sde), with exact integrals for any noise scale.

    stages: of its Taylor expansion, 1 to 3; all make one call a step, and 3 is second order as 2 is, since its first derivative is a
    backward difference. eta: noise scale phi(L) = L^(1 + eta) in L = sigma / alpha, 0 the ODE, 1 the reverse SDE; by default
    the paper's L (e^(L^0.3) + 10). compat="official" takes the published sums of 200 terms for the integrals, which leave a floor.
    """
    one_of("stages", stages, (1, 2, 3))
    one_of("compat", compat, (None, "official"))
    if eta == math.inf:
        raise ValueError(f"eta must be finite, not {eta}")
    x, past = draft.start, list[tuple[Node, Form, Form]]()  # a node, D and the backward difference D'
    for s, t in pairwise(grid):
        d, first = draft.denoised(s, x), Form({})
        if t.sigma == 0.0:
            return draft.keep(d)
        start, end = s.sigma / s.alpha if s.alpha else math.inf, t.sigma / t.alpha
        log_fade = _log_gain(end, eta) - _log_gain(start, eta)
        fade = math.exp(log_fade)
        new = (t.sigma / s.sigma * fade) * x + (t.alpha * (1.0 - end / start * fade)) * d
        if past and stages > 1:
            i_0, i_1 = _moments(end, start, eta, compat is not None)
            u, d_u, first_u = past[-1]
            first = (d - d_u) / (start - u.sigma / u.alpha)
            new = new + (t.alpha * (end - start + i_0)) * first
            if len(past) > 1 and stages == 3:
                second = (first - first_u) / (0.5 * (start - past[-2][0].sigma / past[-2][0].alpha))
                new = new + (t.alpha * (0.5 * (end - start) ** 2 + i_1)) * second
        noise = s_noise * t.sigma * math.sqrt(-math.expm1(2.0 * log_fade))
        x = draft.keep(new + noise * draft.noise())
        past += [(s, d, first)] if s.alpha else []
    return x
