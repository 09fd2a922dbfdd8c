"""Transitions: the law of every state of a path given all states before it, from the plan alone.

The states of a path are y_0, the start; the tensors that the model is called on after it; and the result. With all other tensors
spelled out, y_i = L_i + n_i z: a combination L_i of earlier states and their data predictions, and one of standard normals z. The rows
n_i are made orthonormal one after the other, n_i = sum_j w_ij q_j + std_i q_i with j < i. The innovation q_j z is known with y_j, so

    mean_i = L_i + sum_j w_ij (y_j - mean_j) / std_j        and        y_i is normal around it with deviation std_i,

for fresh draws, several in one row, and draws that stages share (Gaussian conditioning by Gram and Schmidt). Exact for any denoiser.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fastsolve.forms import CANCELLATION, merge
from fastsolve.ops import Terms
from fastsolve.plan import Plan


@dataclass(frozen=True)
class Transition:
    """One state given all before it: every element is normal around its `mean` with deviation `std`.

    index: i for the law of states[i + 1]; the number of the step where steps have one model call. mean: over states and data
    predictions. calls: the model calls whose predictions it takes. reads: the states that mean and calls take, as indices, ascending.
    group: transitions of one solver step have one number (see `Path`). reason: why there is no density; empty where std > 0.
    """

    index: int
    mean: Terms
    std: float
    calls: tuple[int, ...]
    reads: tuple[int, ...]
    group: int
    reason: str


@dataclass(frozen=True)
class Path:
    """A plan's states, by their symbols, and the transitions to all but the first.

    A group ends at a state after which nothing takes an earlier state, or noise of one, other than by outputs of the model: the end of
    a solver's step. A corrector that the model is never called on (sa_solver, unipc) carries such a state on: one group then.
    """

    states: tuple[str, ...]
    transitions: tuple[Transition, ...]


@dataclass(frozen=True)
class _Innovation:
    """A direction of noise that a state makes known: `noise` over draws, of norm 1, and its value over states and predictions."""

    state: int
    noise: dict[str, float]
    value: dict[str, float]


@functools.lru_cache(maxsize=128)
def path(plan: Plan) -> Path:
    """The states of a plan and the law of each. Raises ValueError for a state of several variables."""
    if len(plan.start) > 1:
        raise ValueError(
            f"log-probabilities are of solvers with a state of one variable; that of {plan.solver} has {len(plan.start)}"
        )
    states = tuple(dict.fromkeys(["x0", *(call.x for call in plan.evals), plan.out]))
    at = {name: i for i, name in enumerate(states)}
    rows, earliest = _spelled(plan, at)
    calls = {call.d: k for k, call in enumerate(plan.evals)}
    known: list[_Innovation] = []
    laws = []
    for i, name in enumerate(states[1:], 1):
        noise = {symbol: c for symbol, c in rows[name].items() if symbol[0] == "z"}
        mean = {symbol: c for symbol, c in rows[name].items() if symbol[0] != "z"}
        rest, shared = _conditioned(noise, known)
        for other, w in shared:
            mean = merge(mean, _scaled(other.value, w).items())
            earliest[i] = min(earliest[i], other.state - 1)
        std = math.hypot(*rest.values())
        if std:
            value = merge({name: 1.0 / std}, _scaled(mean, -1.0 / std).items())
            known.append(_Innovation(i, _scaled(rest, 1.0 / std), value))
        reason = "" if std else "its noise is that of earlier states" if noise else "it has no noise"
        laws.append((mean, std, reason))
    ends = [b for b in range(1, len(states)) if min(earliest[b + 1 :], default=b) >= b]
    transitions = []
    for i, (mean, std, reason) in enumerate(laws, 1):
        made = tuple(sorted(calls[symbol] for symbol in mean if symbol in calls))
        read = {at[symbol] for symbol in mean if symbol in at} | {at[plan.evals[k].x] for k in made}
        terms = tuple(sorted(mean.items(), key=lambda term: (term[0] in calls, int(term[0][1:]))))
        group = sum(b < i for b in ends)
        transitions.append(Transition(i - 1, terms, std, made, tuple(sorted(read)), group, reason))
    return Path(states, tuple(transitions))


def _spelled(plan: Plan, at: Mapping[str, int]) -> tuple[dict[str, dict[str, float]], list[int]]:
    """The states' rows over states, data predictions and draws; and the earliest state of which each is made (not of its outputs)."""
    outputs = [{call.x, call.d} for call in plan.evals]
    rows: dict[str, dict[str, float]] = {}
    oldest = dict(at)
    for row in plan.rows():
        terms: dict[str, float] = {}
        for name, c in row.terms:
            terms = merge(terms, _scaled(rows[name], c).items() if name in rows and name not in at else ((name, c),))
        rows[row.out] = terms
        if row.out not in at:
            taken = [oldest.get(name, len(at)) for name, _ in row.terms]
            oldest[row.out] = len(at) if set(terms) in outputs else min(taken)
    earliest = [len(at)] * len(at)
    for row in plan.rows():
        if row.out in at:
            earliest[at[row.out]] = min(oldest.get(name, len(at)) for name, _ in row.terms)
    return rows, earliest


def _conditioned(
    noise: dict[str, float], known: list[_Innovation]
) -> tuple[dict[str, float], list[tuple[_Innovation, float]]]:
    """What earlier states do not say of a row of noise, and how much of each innovation is in it."""
    least = CANCELLATION * math.hypot(*noise.values())
    rest, weights = noise, dict[int, float]()
    near = [k for k, other in enumerate(known) if not noise.keys().isdisjoint(other.noise)]
    for k in (*near, *near):  # twice: the second round takes away what rounding left of the first
        w = math.fsum(c * rest[symbol] for symbol, c in known[k].noise.items() if symbol in rest)
        rest = merge(rest, _scaled(known[k].noise, -w).items())
        weights[k] = weights.get(k, 0.0) + w
    if math.hypot(*rest.values()) <= least:
        rest = {}
    return rest, [(known[k], w) for k, w in weights.items() if abs(w) > least]


def _scaled(terms: Mapping[str, float], factor: float) -> dict[str, float]:
    return {symbol: factor * c for symbol, c in terms.items()}
