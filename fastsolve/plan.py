"""Plans: a sampler as a verified straight-line program of model calls and linear updates.

A plan is data: printable as equations, countable, hashable, saved as JSON. Its symbols are `x0` (the state sampling starts from),
`x1`, `x2` ... (tensors that updates write), `d0`, `d1` ... (data predictions, each a * x + sum b_i * raw_i of one call) and
`z0`, `z1` ... (draws of standard normals).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from fastsolve.forms import spell
from fastsolve.ops import Eval as Eval, Ops, Row as Row, Update as Update, start_names, traffic

_FORMAT = "fastsolve.plan.1"


class PlanError(ValueError):
    """A plan that breaks a rule of plans, or a plan file that cannot be trusted."""


@dataclass(frozen=True)
class Plan:
    """A sampler's program. `start_std`: the scale of the noise x0 starts from; `out`: the symbol of the result.

    variables: for solvers of several variables, how the start tensors x0, s1, s2 ... come from as many unit noises, row by row.
    """

    solver: str
    schedule: str
    start_std: float
    ops: Ops
    out: str
    variables: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _verify(self)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        return Plan, (
            self.solver,
            self.schedule,
            self.start_std,
            self.ops,
            self.out,
            self.variables,
        )  # a hash holds in one process only

    @cached_property
    def _hash(self) -> int:
        return hash((self.solver, self.schedule, self.start_std, self.ops, self.out, self.variables))

    @cached_property
    def evals(self) -> tuple[Eval, ...]:
        """The model calls, in order."""
        return tuple(op for op in self.ops if isinstance(op, Eval))

    @property
    def start(self) -> tuple[tuple[float, ...], ...]:
        """How the start tensors come from unit noises: `variables`, or one tensor scaled by start_std."""
        return self.variables or ((self.start_std,),)

    @cached_property
    def nfe(self) -> int:
        """Number of model evaluations; a guided one counts once."""
        return len(self.evals)

    @cached_property
    def launches(self) -> int:
        """Update kernels launched after the first model call: one per call. What comes before it is part of drawing x0."""
        first = next(i for i, op in enumerate(self.ops) if isinstance(op, Eval))
        return sum(isinstance(op, Update) for op in self.ops[first:])

    @cached_property
    def draws(self) -> int:
        """Number of normal draws that updates use, without the start."""
        return len({name for row in self.rows() for name, _ in row.terms if name[0] == "z"})

    @cached_property
    def bytes(self) -> int:
        """Bytes per element of the state that all launches read and write, float32 throughout."""
        return traffic(self.ops)

    def rows(self) -> Iterator[Row]:
        """All rows of all updates."""
        for op in self.ops:
            if isinstance(op, Update):
                yield from op.rows

    def __str__(self) -> str:
        head = (
            f"{self.solver} on {self.schedule}: {self.nfe} model calls, {self.launches} launches, {self.draws} draws, "
        )
        lines = [f"{head}{self.bytes} bytes per element"]
        for name, row in zip(start_names(len(self.start)), self.start, strict=True):
            terms = [("noise" if len(row) == 1 else f"noise{j}", c) for j, c in enumerate(row) if c]
            lines.append(f"    {name} = {spell(terms)}")
        for op in self.ops:
            if isinstance(op, Eval):
                arg = spell([(op.x, op.scale)])
                raws = [f"model({arg}, t={op.t:.6g})" + ("'" * i) for i in range(len(op.b))]
                terms = [(op.x, op.a), *zip(raws, op.b, strict=True)]
                lines.append(f"    {op.d} = {spell([t for t in terms if t[1]])}")
            else:
                lines += [f"    {row.out} = {spell(row.terms)}" for row in op.rows]
        return "\n".join([*lines, f"    return {self.out}"])

    def to_json(self) -> str:
        """The plan as JSON with a checksum; floats survive exactly."""
        body = {
            "solver": self.solver,
            "schedule": self.schedule,
            "start_std": self.start_std,
            "variables": [list(row) for row in self.variables],
            "ops": [
                {"eval": [op.d, op.x, op.t, op.alpha, op.sigma, op.a, list(op.b), op.scale]}
                if isinstance(op, Eval)
                else {"update": [[row.out, [list(term) for term in row.terms]] for row in op.rows]}
                for op in self.ops
            ],
            "out": self.out,
        }
        return json.dumps({"format": _FORMAT, "checksum": _checksum(body), "plan": body}, indent=1)

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan of `to_json`. Raises PlanError for text that is truncated, altered, or of another format."""
        try:
            whole = json.loads(text)
        except (json.JSONDecodeError, TypeError) as error:
            raise PlanError(f"not a whole plan file, the JSON breaks off or is malformed: {error}") from None
        if not isinstance(whole, dict) or whole.get("format") != _FORMAT:
            given = whole.get("format") if isinstance(whole, dict) else type(whole).__name__
            raise PlanError(f"not a plan of format {_FORMAT!r}, but {given!r}")
        body = whole.get("plan")
        if not isinstance(body, dict) or whole.get("checksum") != _checksum(body):
            raise PlanError("the plan was altered after it was saved: its checksum does not fit")
        try:
            ops = tuple(_op(item) for item in body["ops"])
            variables = tuple(map(tuple, body["variables"]))
            return Plan(body["solver"], body["schedule"], body["start_std"], ops, body["out"], variables)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise (
                error if isinstance(error, PlanError) else PlanError(f"a plan file that is no plan: {error!r}")
            ) from None


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _op(item: dict[str, list]) -> Eval | Update:  # type: ignore[type-arg]
    if "eval" in item:
        d, x, t, alpha, sigma, a, b, scale = item["eval"]
        return Eval(d, x, t, alpha, sigma, a, tuple(b), scale)
    return Update(tuple(Row(out, tuple((name, c) for name, c in terms)) for out, terms in item["update"]))


def _verify(plan: Plan) -> None:
    """Every symbol is written once before it is read, every coefficient is finite, the result exists."""
    known, calls, before = set(start_names(len(plan.start))), 0, None
    if not 0.0 < plan.start_std < math.inf:
        raise PlanError(f"start_std must be positive and finite, not {plan.start_std}")
    if not all(len(row) == len(plan.start) and any(row) for row in plan.start):
        raise PlanError(f"variables must be a square matrix without empty rows, not {plan.variables}")
    if not math.isfinite(sum(map(sum, plan.start))):
        raise PlanError(f"a number of variables is not finite: {plan.variables}")
    for op in plan.ops:
        if isinstance(op, Update) and isinstance(before, Update):
            raise PlanError(
                f"two updates in a row: {op.rows[0].out if op.rows else 'the second'} belongs to the update before it"
            )
        before = op
        if isinstance(op, Eval):
            calls += 1
            if op.x not in known:
                raise PlanError(f"call {op.d} reads {op.x}, which is not written before")
            # The sum of finite numbers of this size is finite, and that of others is not: one test for all.
            size, made = op.t + op.alpha + op.sigma + op.a + op.scale + sum(op.b), [op.d]
            if not op.b:
                raise PlanError(f"call {op.d} has no raw output")
        else:
            size, made = 0.0, [row.out for row in op.rows]
            if not made:
                raise PlanError("an update without rows")
            for out, terms in op.rows:
                if not terms:
                    raise PlanError(f"{out} is an empty combination")
                for name, c in terms:
                    size += c
                    if name not in known and name[0] != "z":
                        raise PlanError(f"{out} reads {name}, which is not written before")
        if not math.isfinite(size):
            raise PlanError(f"a number of {made[0]} is not finite: {op}")
        for name in made:
            if name in known or name[0] == "z":
                raise PlanError(
                    f"{name} is written twice" if name in known else f"{name} is a draw, and nothing writes draws"
                )
            known.add(name)
    draws = {name for row in plan.rows() for name, _ in row.terms if name[0] == "z"}
    if draws != {f"z{i}" for i in range(len(draws))}:
        raise PlanError(f"draws must be numbered z0 ... z{len(draws) - 1}, not {', '.join(sorted(draws))}")
    if plan.out not in known:
        raise PlanError(f"the result {plan.out} is never written")
    if isinstance(before, Eval):
        raise PlanError(f"nothing is computed from the last call, {before.d}")
    if not calls:
        raise PlanError("a plan without a model call samples nothing")
