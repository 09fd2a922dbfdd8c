"""DEIS: the exponential integrator whose noise prediction is interpolated through past calls, or integrated by Runge-Kutta, in rho.

All steps are written as DDIM's plus differences of noises, x_t = ddim(x_s, D_0) + sum C_j (eps_j - eps_0), C_j = alpha_t times the
integral of the j-th Lagrange polynomial over rho = sigma / alpha: no cancellation, and finite where alpha_s = 0. They are right to
rounding; in the clock of a table, which has a kink at every index, to 1e-5. Options shared:
warmup "ramp" (as published: as many points as there are, which limits the order to 2), "heun" (the first step is Heun's, one more call,
order 3 at most), "rk" (classical Runge-Kutta until there are enough points, three more calls a step) or "prk" (PNDM's pseudo
Runge-Kutta, the same through the middle of the clock, of order 2); lower_order_final uses no more points than steps are left. A step to
sigma = 0 returns the denoised prediction, one from alpha = 0 is DDIM's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import level_weights
from fastsolve.schedules import Node, Schedule
from fastsolve.solvers import Grid, one_of, solver
from fastsolve.solvers.ddim import ddim_step

SOURCE = "arXiv 2204.13902"
Weights = Callable[[Sequence[Node], Node], Sequence[float]]  # C_j from the nodes of the past, newest first, and t
Tableau = tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]  # nodes c, rows a, weights b

TABLEAUS: dict[str, Tableau] = {
    "1euler": ((0,), ((),), (1,)),
    "midpoint": ((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "2heun": ((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "3kutta": ((0, 1 / 2, 1), ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
    "3ral": ((0, 1 / 2, 3 / 4), ((), (1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
    "3heun": ((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    "3vdh": ((0, 8 / 15, 2 / 3), ((), (8 / 15,), (1 / 4, 5 / 12)), (1 / 4, 0, 3 / 4)),
    "3ssprk": ((0, 1, 1 / 2), ((), (1,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "4rk": ((0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
WARMUPS = {"ramp": "", "heun": "2heun", "rk": "4rk", "prk": "4rk"}


def rk_step(draft: Draft, x: Form, d: Form, s: Node, t: Node, tableau: Tableau, in_clock: bool = False) -> Form:
    """An explicit Runge-Kutta step of d(x / alpha) / d rho = eps; d is the prediction at s. in_clock: where its nodes are even."""
    nodes, rows, weights = tableau
    rho, width = s.sigma / s.alpha, t.sigma / t.alpha - s.sigma / s.alpha
    eps = (x - s.alpha * d) / s.sigma
    bends: list[Form] = []  # eps_j - eps_0, j = 1, 2 ...

    def at(u: Node, row: Sequence[float]) -> Form:
        new = ddim_step(x, d, s, u)
        for c, bend in zip(row[1:], bends, strict=True):
            new = new + ((u.sigma - u.alpha * rho) * c / sum(row)) * bend
        return draft.keep(new)

    for c, row in zip(nodes[1:], rows[1:], strict=True):
        middle = s.t + c * (t.t - s.t)
        u = (
            t
            if c == 1
            else draft.schedule.node(middle)
            if in_clock
            else draft.schedule.at_lam(-math.log(rho + c * width))
        )
        y = at(u, row)
        bends.append((y - u.alpha * draft.denoised(u, y)) / u.sigma - eps)
    return at(t, weights)


def multistep(
    draft: Draft,
    grid: Grid,
    weights: Weights,
    points: int,
    *,
    warmup: str = "ramp",
    lower_order_final: bool = False,
    from_zero: bool = True,
    to_zero: bool = False,
) -> Form:
    """Steps through the last `points` noises; from_zero, to_zero: weights exist with a node at alpha = 0, for a step to sigma = 0."""
    one_of("warmup", warmup, WARMUPS)
    x, past = draft.start, list[tuple[Node, Form]]()
    for i, (s, t) in enumerate(pairwise(grid)):
        d = draft.denoised(s, x)
        past = [(s, draft.keep((x - s.alpha * d) / s.sigma)), *past][:points]
        count = min(len(past), len(grid) - 1 - i) if lower_order_final else len(past)
        new = ddim_step(x, d, s, t)
        if s.alpha == 0.0 or (t.sigma == 0.0 and not to_zero):
            x = draft.keep(new)
        elif (
            len(past) < points and (warmup in ("rk", "prk") or (warmup == "heun" and len(past) == 1)) and t.sigma > 0.0
        ):
            x = rk_step(draft, x, d, s, t, TABLEAUS[WARMUPS[warmup]], warmup == "prk")
        else:
            c = weights([node for node, _ in past[:count]], t) if count > 1 else ()
            for c_j, (_, eps) in zip(c[1:], past[1:count], strict=True):
                new = new + c_j * (eps - past[0][1])
            x = draft.keep(new)
        past = [(node, eps) for node, eps in past if from_zero or node.alpha > 0.0]
    return x


def interpolated(schedule: Schedule, variable: str) -> Weights:
    """The weights of interpolation in the schedule's clock ("t"), in rho = sigma / alpha, or in lambda ("logrho")."""
    one_of("variant", variable, ("t", "rho", "logrho"))
    position = {"t": schedule.clock, "rho": lambda lam: math.exp(-lam), "logrho": None}[variable]

    def weights(nodes: Sequence[Node], t: Node) -> list[float]:
        where = [node.t if variable == "t" else node.lam if position is None else position(node.lam) for node in nodes]
        return [t.alpha * w for w in level_weights(nodes[0].lam, t.lam, where, position)]

    return weights


@solver("deis", forms="noise", order=2, source=f"{SOURCE}, tAB-DEIS")
def deis(
    draft: Draft,
    grid: Grid,
    *,
    order: int = 3,
    variant: str = "t",
    warmup: str = "ramp",
    lower_order_final: bool = False,
) -> Form:
    """DEIS (Zhang & Chen 2022, arXiv 2204.13902, equations 13 to 15), multistep; exact coefficients where published code sums 10,000 terms.

    order: degree of the interpolation, 0 (DDIM) to 3. variant: its variable, the clock "t" (tAB-DEIS), "rho" (rhoAB-DEIS) or "logrho",
    lambda, as in diffusers. warmup, lower_order_final: as in the module; with warmup="rk" the order is one more than the degree.
    """
    one_of("order", order, range(4))
    weights = interpolated(draft.schedule, variant)
    return multistep(
        draft,
        grid,
        weights,
        order + 1,
        warmup=warmup,
        lower_order_final=lower_order_final,
        from_zero=variant == "t",
    )


@solver("deis_tab", forms="noise", order=2, source=f"{SOURCE}, tAB-DEIS")
def deis_tab(
    draft: Draft, grid: Grid, *, order: int = 3, warmup: str = "ramp", lower_order_final: bool = False
) -> Form:
    """tAB-DEIS (Zhang & Chen 2022, arXiv 2204.13902, equations 13 to 15): DEIS interpolated in the schedule's clock; exact coefficients."""
    return deis(draft, grid, order=order, variant="t", warmup=warmup, lower_order_final=lower_order_final)


@solver("deis_rho_ab", forms="noise", order=2, source=f"{SOURCE}, rhoAB-DEIS")
def deis_rho_ab(
    draft: Draft, grid: Grid, *, order: int = 3, warmup: str = "ramp", lower_order_final: bool = False
) -> Form:
    """rhoAB-DEIS (Zhang & Chen 2022, arXiv 2204.13902, section on rho): DEIS interpolated in sigma / alpha; exact coefficients."""
    return deis(draft, grid, order=order, variant="rho", warmup=warmup, lower_order_final=lower_order_final)


@solver("deis_rho_rk", forms="noise", order=3, stages=3, source=f"{SOURCE}, rhoRK-DEIS")
def deis_rho_rk(draft: Draft, grid: Grid, *, tableau: str = "3kutta") -> Form:
    """rhoRK-DEIS (Zhang & Chen 2022, arXiv 2204.13902, rhoRK): explicit Runge-Kutta in sigma / alpha; "midpoint" is not in the paper.

    tableau: its name in `TABLEAUS`, which starts with the number of calls a step (and the order).
    """
    one_of("tableau", tableau, TABLEAUS)
    x = draft.start
    for s, t in pairwise(grid):
        d = draft.denoised(s, x)
        single = t.sigma == 0.0 or s.alpha == 0.0
        x = draft.keep(ddim_step(x, d, s, t)) if single else rk_step(draft, x, d, s, t, TABLEAUS[tableau])
    return x
