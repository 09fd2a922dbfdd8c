"""SEEDS: exponential SDE solvers with one to three stages, as corrected; what the published code does differently is `compat`.

Options shared by the three: form "data", "noise" or "edm" is the output that is interpolated (see `seeds_forms`), sigma_data belongs to
"edm" (by default the schedule's, else 0.5); eta is 1 for the reverse SDE, 0 for the ODE; s_noise multiplies all noise; s_churn, s_tmin,
s_tmax churn as in EDM. A step to sigma = 0 returns the denoised prediction; a step from alpha = 0 takes one stage, since no node lies
between in lambda.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, one_of, seeds_official, solver
from fastsolve.solvers.heun import churned
from fastsolve.solvers.seeds_forms import Parametrisation, parametrisation

SOURCE = "arXiv 2305.14267"


def _one_stage(draft: Draft, p: Parametrisation, x: Form, d: Form, s: Node, t: Node, s_noise: float) -> Form:
    if t.sigma == 0.0:
        return draft.keep(t.alpha * d)
    return draft.keep(
        p.carry(s, t) * x + p.weight(1, s, t) * p.output(x, d, s) + (s_noise * p.noise(s, t)) * draft.noise()
    )


def _stage(draft: Draft, p: Parametrisation, state: Form, node: Node) -> Form:
    """M at a stage: the model is called there."""
    x = draft.keep(state)
    return p.output(x, draft.denoised(node, x), node)


def _gathered(p: Parametrisation, nodes: Sequence[Node], draws: Sequence[Form]) -> list[Form]:
    """The noise at every node after the first: that of one path, carried along and added to."""
    noises = [p.noise(nodes[0], nodes[1]) * draws[0]]
    for (a, b), z in zip(pairwise(nodes[1:]), draws[1:], strict=True):
        noises.append(p.carry(a, b) * noises[-1] + p.noise(a, b) * z)
    return noises


@solver("seeds1", forms="data, noise, F", order=1, weak_order=1, stochastic=True, source=f"{SOURCE}, SEEDS-1")
def seeds1(
    draft: Draft,
    grid: Grid,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    form: str = "data",
    sigma_data: float | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Form:
    """SEEDS-1 (Gonzalez et al. 2023, arXiv 2305.14267): a step that is exact for a constant model output. Options as in the module.

    In data form with eta = 1 this is DDPM's posterior. (The published EDM-F code of this stage count crashes.)
    """
    p = parametrisation(form, eta, sigma_data, draft.schedule)
    x = draft.start
    for s, t in pairwise(grid):
        x, s = churned(draft, x, s, grid, s_churn, s_tmin, s_tmax, s_noise)
        x = _one_stage(draft, p, x, draft.denoised(s, x), s, t, s_noise)
    return x


@solver("seeds2", forms="data, noise, F", order=2, stages=2, weak_order=2, stochastic=True, source=f"{SOURCE}, SEEDS-2")
def seeds2(
    draft: Draft,
    grid: Grid,
    *,
    r: float = 0.5,
    variant: str = "phi_1",
    eta: float = 1.0,
    s_noise: float = 1.0,
    form: str = "data",
    sigma_data: float | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    compat: str | None = None,
) -> Form:
    """SEEDS-2 (Gonzalez et al. 2023, arXiv 2305.14267; variant "phi_2": equation 53), two calls a step. Options as in the module.

    r: the inner node, in (0, 1]. variant: "phi_1" (type 2a) or "phi_2" (2b). compat="official" swaps the noise of the two parts of a
    step, as published: wrong unless r = 1/2 (see `seeds_official`).
    """
    p, z_s = parametrisation(form, eta, sigma_data, draft.schedule), s_noise
    phi_1 = one_of("variant", variant, ("phi_1", "phi_2", "2a", "2b")) in ("phi_1", "2a")
    if not 0.0 < r <= 1.0:
        raise ValueError(f"r must lie in (0, 1], not {r}")
    official = seeds_official.checked(compat, p, r == 0.5)
    x = draft.start
    for s, t in pairwise(grid):
        x, s = churned(draft, x, s, grid, s_churn, s_tmin, s_tmax, s_noise)
        d = draft.denoised(s, x)
        if t.sigma == 0.0 or s.alpha == 0.0:
            x = _one_stage(draft, p, x, d, s, t, s_noise)
            continue
        m, u, z = p.output(x, d, s), p.between(draft.schedule, s, t, r), (draft.noise(), draft.noise())
        n_2, n_t = _gathered(p, (s, u, t), z)
        if official:
            n_t = seeds_official.noise_2(p, s, t, r, z)
        m_2 = _stage(draft, p, p.carry(s, u) * x + p.weight(1, s, u) * m + z_s * n_2, u)
        w = p.weight(1, s, t)
        b = w / (2.0 * r) if phi_1 else p.weight(2, s, t) / r
        x = draft.keep(p.carry(s, t) * x + (w - b) * m + b * m_2 + z_s * n_t)
    return x


@solver("seeds3", forms="data, noise, F", order=3, stages=3, weak_order=2, stochastic=True, source=f"{SOURCE}, SEEDS-3")
def seeds3(
    draft: Draft,
    grid: Grid,
    *,
    r1: float = 1.0 / 3.0,
    r2: float = 2.0 / 3.0,
    variant: str = "3a",
    eta: float = 1.0,
    s_noise: float = 1.0,
    form: str = "data",
    sigma_data: float | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    compat: str | None = None,
) -> Form:
    """SEEDS-3 (Gonzalez et al. 2023, arXiv 2305.14267), three calls a step, corrected. Options as in the module.

    r1, r2: inner nodes, 0 < r1 < r2 <= 1; order 3 needs r2 = 2/3. variant: "3a", or "3b" with the quadratic through all three
    outputs. compat="official": as published, of first order in data form, with wrong stage noise in noise form (`seeds_official`).
    """
    p, c, z_s = parametrisation(form, eta, sigma_data, draft.schedule), (r1, r2), s_noise
    linear = one_of("variant", variant, ("3a", "3b")) == "3a"
    if not 0.0 < r1 < r2 <= 1.0:
        raise ValueError(f"0 < r1 < r2 <= 1 is needed, not r1 = {r1}, r2 = {r2}")
    official = seeds_official.checked(compat, p, c == (1.0 / 3.0, 2.0 / 3.0))
    x = draft.start
    for s, t in pairwise(grid):
        x, s = churned(draft, x, s, grid, s_churn, s_tmin, s_tmax, s_noise)
        d = draft.denoised(s, x)
        if t.sigma == 0.0 or s.alpha == 0.0:
            x = _one_stage(draft, p, x, d, s, t, s_noise)
            continue
        m, u, v = p.output(x, d, s), p.between(draft.schedule, s, t, r1), p.between(draft.schedule, s, t, r2)
        z = draft.noise(), draft.noise(), draft.noise()
        n_2, n_3, n_t = _gathered(p, (s, u, v, t), z)
        a = r2 / r1 * p.weight(2, s, v)
        if official:
            (n_3, n_t), a = seeds_official.noises_3(p, s, v, t, c, z), seeds_official.weight_3(p, s, v, t, c)
        m_2 = _stage(draft, p, p.carry(s, u) * x + p.weight(1, s, u) * m + z_s * n_2, u)
        m_3 = _stage(draft, p, p.carry(s, v) * x + (p.weight(1, s, v) - a) * m + a * m_2 + z_s * n_3, v)
        # 3a: the line through M at 0 and r2; 3b: the quadratic through 0, r1, r2, by divided differences.
        w_1, w_2 = p.weight(1, s, t), p.weight(2, s, t)
        bend = w_2 if linear else (2.0 * p.weight(3, s, t) - w_2 * r1) / (r2 - r1)
        c_2, c_3 = (w_2 - bend) / r1, bend / r2
        x = draft.keep(p.carry(s, t) * x + (w_1 - c_2 - c_3) * m + c_2 * m_2 + c_3 * m_3 + z_s * n_t)
    return x
