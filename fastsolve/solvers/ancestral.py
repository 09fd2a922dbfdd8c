"""Ancestral sampling: an ODE step below the next level, then fresh noise up to it, around any single-step solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node, Schedule
from fastsolve.solvers import Grid, get, solver
from fastsolve.solvers.dpm_solver import dpm_solver_2
from fastsolve.solvers.dpmpp_single import dpmpp_2s
from fastsolve.solvers.restart import options_of, raised


def down_from(schedule: Schedule, s: Node, t: Node, eta: float) -> Node:
    """The level below t from which noise of eta times DDPM's variance leads up to t (k-diffusion's get_ancestral_step).

    rho_down^2 = rho_t^2 (1 - eta^2 (1 - rho_t^2 / rho_s^2)), rho = sigma / alpha. A table is not left: its lowest level is the least.
    """
    kept = (1.0 - eta) * (1.0 + eta) + eta * eta * math.exp(2.0 * (s.lam - t.lam))
    lam = t.lam - 0.5 * math.log(kept) if kept > 0.0 else math.inf
    lowest = schedule.node(schedule.t_min)
    if schedule.t_clean < 0.0 and lowest.lam < lam < math.inf:
        return lowest if lowest.lam > t.lam else t
    return schedule.at_lam(lam) if lam > t.lam else t


def renoised(
    draft: Draft, grid: Grid, step: Callable[..., Form], options: Mapping[str, object], eta: float, s_noise: float
) -> Form:
    """Every step down by the solver `step`, and up again; a step to sigma = 0 has no noise."""
    if not 0.0 <= eta < math.inf:
        raise ValueError(f"eta must be at least 0 and finite, not {eta}")
    x = draft.start
    for s, t in pairwise(grid):
        down = down_from(draft.schedule, s, t, eta) if eta and t.sigma else t
        x = draft.run(step, x, (s, down), **options)
        if down is not t:
            x = raised(draft, x, down, t, s_noise)
    return x


@solver(
    "ancestral",
    forms="its base's",
    order=2,
    stages=2,
    weak_order=2,
    stochastic=True,
    source="k-diffusion, ancestral samplers",
)
def ancestral(
    draft: Draft,
    grid: Grid,
    *,
    base: str = "dpmpp_2s",
    base_options: Mapping[str, object] | Sequence[tuple[str, object]] = (),
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Form:
    """Ancestral sampling (Crowson, k-diffusion, 2022) around any solver; both parts map marginals exactly, so its order stays (weakly).

    base, base_options: a deterministic single-step solver. eta: 0 is the base itself, 1 the posterior's variance. s_noise: factor on
    the noise.
    """
    fact = get(base)
    options = options_of(fact, base_options)
    if fact.order > fact.stages or base == "gradient_estimation":  # which remembers, and is first order nevertheless
        raise ValueError(f"ancestral needs a single-step base, but {base!r} remembers earlier steps")
    noisy = any(options.get(name, fact.options.get(name)) for name in ("eta", "s_churn"))
    if base == "restart" or noisy or (fact.stochastic and "eta" not in fact.options):
        raise ValueError(
            f"ancestral needs a deterministic base, but {base!r} adds noise of its own: eta and s_churn of a base must be 0"
        )
    return renoised(draft, grid, fact.text, options, eta, s_noise)


@solver(
    "dpm_2_ancestral",
    forms="noise",
    order=2,
    stages=2,
    weak_order=2,
    stochastic=True,
    source="k-diffusion sample_dpm_2_ancestral",
)
def dpm_2_ancestral(draft: Draft, grid: Grid, *, eta: float = 1.0, s_noise: float = 1.0) -> Form:
    """Ancestral DPM-Solver-2 (Crowson, k-diffusion, 2022): `ancestral` around dpm_solver_2."""
    return renoised(draft, grid, dpm_solver_2, {}, eta, s_noise)


@solver(
    "dpmpp_2s_ancestral",
    order=2,
    stages=2,
    weak_order=2,
    stochastic=True,
    source="k-diffusion sample_dpmpp_2s_ancestral",
)
def dpmpp_2s_ancestral(draft: Draft, grid: Grid, *, eta: float = 1.0, s_noise: float = 1.0) -> Form:
    """Ancestral DPM-Solver++(2S) (Crowson, k-diffusion, 2022): `ancestral` around dpmpp_2s."""
    return renoised(draft, grid, dpmpp_2s, {}, eta, s_noise)
