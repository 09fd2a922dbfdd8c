"""The rules of a plan, checked once when it is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fastsolve.ops import Eval, Update, raw_names, start_names

if TYPE_CHECKING:
    from fastsolve.plan import Plan


class PlanError(ValueError):
    """A plan that breaks a rule of plans, or a plan file that cannot be trusted."""


def verify(plan: Plan) -> None:
    """Every symbol is written once before it is read, every coefficient is finite, the result exists."""
    known, calls, before = set(start_names(len(plan.start))), 0, None
    at_hand: set[str] = set()  # raw outputs since the last update
    if not 0.0 < plan.start_std < math.inf:
        raise PlanError(f"start_std must be positive and finite, not {plan.start_std}")
    if not all(len(row) == len(plan.start) and any(row) for row in plan.start):
        raise PlanError(f"variables must be a square matrix without empty rows, not {plan.variables}")
    if not math.isfinite(sum(map(sum, plan.start))):
        raise PlanError(f"a number of variables is not finite: {plan.variables}")
    if not math.isfinite(sum(map(sum, plan.levels))):
        raise PlanError(f"a number of levels is not finite: {plan.levels}")
    for op in plan.ops:
        if isinstance(op, Update) and isinstance(before, Update):
            raise PlanError(
                f"two updates in a row: {op.rows[0].out if op.rows else 'the second'} belongs to the update before it"
            )
        before = op
        raws: list[str] = []
        if not isinstance(op, Update):
            calls += isinstance(op, Eval)
            for name in op.inputs:
                if name not in known and name not in at_hand:
                    raise PlanError(f"call {op.d} reads {name}, which is not written before")
                if name[0] == "d":
                    raise PlanError(f"call {op.d} reads {name}, which is no tensor before an update writes it as one")
            # The sum of finite numbers of this size is finite, and that of others is not: one test for all.
            size, made, raws = op.t + op.alpha + op.sigma, [op.d], raw_names(op)
            if isinstance(op, Eval):
                size += op.a + op.scale + sum(op.b)
            else:
                size += sum(op.numbers)
            size += sum(op.clip or ())
            if not raws:
                raise PlanError(f"call {op.d} has no raw output")
            if op.clip is not None and not op.clip[0] < op.clip[1]:
                raise PlanError(f"call {op.d} is cut to {op.clip}, which does not increase")
        else:
            size, made = 0.0, [row.out for row in op.rows]
            if not made:
                raise PlanError("an update without rows")
            for out, terms in op.rows:
                if not terms:
                    raise PlanError(f"{out} is an empty combination")
                for name, c in terms:
                    size += c
                    if name not in known and name[0] != "z" and name not in at_hand:
                        raise PlanError(f"{out} reads {name}, which is not written before")
        if not math.isfinite(size):
            raise PlanError(f"a number of {made[0]} is not finite: {op}")
        for name in made:
            if name in known or name[0] == "z":
                raise PlanError(
                    f"{name} is written twice" if name in known else f"{name} is a draw, and nothing writes draws"
                )
            known.add(name)
        at_hand = at_hand.union(raws) if raws else set()
    draws = {name for row in plan.rows() for name, _ in row.terms if name[0] == "z"}
    if draws != {f"z{i}" for i in range(len(draws))}:
        raise PlanError(f"draws must be numbered z0 ... z{len(draws) - 1}, not {', '.join(sorted(draws))}")
    if plan.out not in known:
        raise PlanError(f"the result {plan.out} is never written")
    if before is not None and not isinstance(before, Update):
        raise PlanError(f"nothing is computed from the last call, {before.d}")
    if not calls:
        raise PlanError("a plan without a model call samples nothing")
