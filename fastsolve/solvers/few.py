"""This project's own sampler for few model calls, found by a search: `benchmarks/search.py`, docs/search.md.

The numbers are those of the search's candidate "few", `python -m benchmarks.search --train`, 2026-11-26, seed 1, on one mixture of 24
Gaussians with noise from EDM's range; frozen before it was judged on other problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.integrals import exponential_weights, lagrange
from fastsolve.schedules import Node
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.ddim import ddim_step

C, REACH = 0.617, 1.15
NOISY = 10.0  # times c: a start with less noise than this has data in it
CLEAN = 4.0  # times c: with less noise than this the data are seen, and a scaled start is none of theirs
GROWTH = 2.0  # of the third step over the second: more, and what the first call is off by would be extrapolated far


def _first_call(draft: Draft, grid: Grid, c: float) -> Node:
    """One step, REACH times the second one, above the first level; the start itself where that is not above."""
    start = grid[0]
    if len(grid) < 4 or start.sigma < NOISY * c * start.alpha:
        return start
    second = grid[2].lam - grid[1].lam
    lam = grid[1].lam - REACH * second
    even = grid[3].sigma == 0.0 or grid[3].lam - grid[2].lam <= GROWTH * second
    return draft.schedule.at_lam(lam) if even and start.lam < lam < min(grid[1].lam, -math.log(CLEAN * c)) else start


def _weights(nodes: Sequence[Node], s: Node, t: Node, c: float) -> list[float]:
    """Of predictions at nodes, newest first, adding up to 1: half through the last two, half through all."""

    def position(lam: float) -> float:
        return math.log(math.exp(-lam) + c)

    def through(count: int) -> list[float]:
        where = [position(node.lam) for node in nodes[:count]]
        if t.sigma == 0.0:
            found = [lagrange(where, j, math.log(c)) for j in range(count)]
        else:
            found = exponential_weights(s.lam, t.lam, where, 1.0, position)
        return [w / sum(found) for w in found] + [0.0] * (len(nodes) - count)

    return [(a + b) / 2.0 for a, b in zip(through(min(2, len(nodes))), through(len(nodes)), strict=True)]


@solver("fastsolve", order=2, source="this project, benchmarks/search.py and docs/search.md")
def few(draft: Draft, grid: Grid, *, c: float = C) -> Form:
    """Multistep in data form, interpolated in log(sigma / alpha + c), made for 4 to 10 calls and the grid "few" (this project, 2026).

    The second difference counts half, as in `dpmpp_3m`; a step to sigma = 0 extrapolates, too. From pure noise the first call is not
    made at the start, where a prediction is the data's mean whatever the noise, but nearer the second level, of the start scaled as
    data N(0, c^2) would be. c: scale of the data, of root mean square 0.6 where none is given; on data of scale k take c = 0.617 k / 0.6.
    """
    if not 0.0 < c < math.inf:
        raise ValueError(f"c must be positive and finite, not {c}")
    x, past = draft.start, list[tuple[Node, Form]]()
    for i, (s, t) in enumerate(pairwise(grid)):
        at, seen = s, x
        if not i and (at := _first_call(draft, grid, c)) != s:
            seen = (math.hypot(at.alpha * c, at.sigma) / math.hypot(s.alpha * c, s.sigma)) * x
        d = mean = draft.denoised(at, seen)
        past = [(at, d), *past][:3]
        if at.alpha > 0.0:
            past = [output for output in past if output[0].alpha > 0.0]
            for w, (_, before) in zip(_weights([n for n, _ in past], at, t, c)[1:], past[1:], strict=True):
                mean = mean + w * (before - d)
        x = draft.keep(ddim_step(x, mean, s, t))
    return x
