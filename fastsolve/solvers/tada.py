"""TADA: diffusion augmented by momentum variables, without retraining."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, one_of, solver, tada_basis
from fastsolve.solvers.tada_basis import Array


def _mixed(matrix: Array, forms: list[Form]) -> list[Form]:
    """The rows of matrix @ forms."""
    return [sum((c * form for c, form in zip(row, forms, strict=True)), Form({})) for row in matrix.tolist()]


SOURCE = "arXiv 2506.21757, algorithm 1; its authors' code was not available to compare with"


@solver("tada", forms="force", order=2, source=SOURCE)
def tada(draft: Draft, grid: Grid, *, n_variables: int = 2, order: int = 2, last_var: float = 1.0) -> Form:
    """TADA (Chen et al. 2025, arXiv 2506.21757, algorithm 1), from the paper's text.

    n_variables: N, of which N - 1 are momenta; 1 is the ablation, Adams-Bashforth on the flow velocity. order: of the multistep rule
    in the force, 1 to 3, reached by a ramp. last_var: variance of the last variable's noise: the further from 0, the further the
    noise that the model sees rotates away from the one it started with, for more detail and diversity (0.25 to 64 are useful; see
    `tada_basis`). For `x_init` the state is [N, B, *shape]: the position and its derivatives at the first level. A step to sigma = 0
    returns the data prediction.
    """
    n = n_variables
    one_of("n_variables", n, range(1, 5))
    one_of("order", order, range(1, 4))
    if not 0.0 < last_var < math.inf:
        raise ValueError(f"last_var is a variance, positive and finite, not {last_var}")
    rhos = [node.sigma / node.alpha if node.alpha else math.inf for node in grid]
    taus = [tada_basis.time_of(n, last_var, rho) if rho else 1.0 for rho in rhos]
    scales = tada_basis.noise_scales(n, last_var)
    start = tada_basis.propagator(n, taus[0]) * scales
    z = _mixed(tada_basis.inverse_propagator(n, taus[0]) / scales[:, None], list(draft.starts(start.tolist())))
    frames = [tada_basis.frame(tada_basis.direction(n, last_var, tau)) for tau in taus]
    # Held are the model's input x = sigma u . Z, and q = the rest of Z in a frame that turns with u: no separate input, unit scales.
    held = [draft.keep(form) for form in _mixed(np.diag([grid[0].sigma] + [1.0] * (n - 1)) @ frames[0], z)]
    forces: list[Form] = []
    for i, (s, t) in enumerate(pairwise(grid)):
        d = draft.denoised(s, held[0])
        if t.sigma == 0.0:
            return draft.keep(t.alpha * d)
        tau, end = taus[i], taus[i + 1]
        unheld = frames[i].T / np.array([s.sigma] + [1.0] * (n - 1))
        x = _mixed(tada_basis.propagator(n, tau) * scales @ unheld, held)
        aim = [(1.0 - tau) ** k / math.factorial(k) for k in range(n)]
        force = (math.factorial(n) / (1.0 - tau) ** n) * (d - _mixed(np.array([aim]), x)[0])
        forces = [force, *forces][:order]
        weights = tada_basis.force_weights(n, taus[i::-1][: len(forces)], end)
        moved = [a + b for a, b in zip(_mixed(tada_basis.shift(n, end - tau), x), _mixed(weights, forces), strict=True)]
        to_held = np.diag([t.sigma] + [1.0] * (n - 1)) @ frames[i + 1] / scales @ tada_basis.inverse_propagator(n, end)
        held = [draft.keep(form) for form in _mixed(to_held, moved)]
        forces = [draft.keep(force), *forces[1:]] if order > 1 else []
    return held[0]
