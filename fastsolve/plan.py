"""Plans: a sampler as a verified straight-line program of model calls and linear updates.

A plan is data: printable as equations, countable, hashable, saved as JSON. Its symbols are `x0` (the state sampling starts from),
`x1`, `x2` ... (tensors that updates write), `d0`, `d1` ... (data predictions, each a * x + sum b_i * raw_i of one call, or what a
function of the caller's returned), `z0`, `z1` ... (draws of standard normals), and `r3`, `r3'` (the raw outputs of call 3, which only the
update after it reads).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastsolve.forms import spell
from fastsolve.ops import (
    Apply as Apply,
    Call,
    Eval as Eval,
    Ops,
    Row as Row,
    Update as Update,
    raw_names,
    start_names,
    traffic,
)
from fastsolve.verify import PlanError as PlanError, verify

_FORMAT = "fastsolve.plan.2"


@dataclass(frozen=True)
class Plan:
    """A sampler's program. `start_std`: the scale of the noise x0 starts from; `out`: the symbol of the result.

    variables: for solvers of several variables, how the start tensors x0, s1, s2 ... come from as many unit noises, row by row.
    levels: (t, alpha, sigma) of the grid's nodes. first_draw: the number of z0 among the seed's draws: a run that is continued goes on.
    """

    solver: str
    schedule: str
    start_std: float
    ops: Ops
    out: str
    variables: tuple[tuple[float, ...], ...] = ()
    levels: tuple[tuple[float, float, float], ...] = ()
    first_draw: int = 0

    def __post_init__(self) -> None:
        verify(self)

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
            self.levels,
            self.first_draw,
        )  # a hash holds in one process only

    @cached_property
    def _hash(self) -> int:
        return hash(self.__reduce__()[1])

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
    def forwards(self) -> int:
        """Number of times a network runs over the batch: a guided call is two."""
        return sum(len(call.b) for call in self.evals)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The calls, by number, with which the solver's steps begin: the last one at a level (or with churn before it) until it is left."""
        way = 1.0 if not self.levels or self.levels[0][0] >= self.levels[-1][0] else -1.0  # an inverse walks up
        starts, clock = [way * t for t, *_ in self.levels[:-1]], [way * call.t for call in self.evals]
        if starts and clock:
            clock[0] = max(starts[0], clock[0])  # a first call below the start is still the first step's
        after = [*clock[1:], -math.inf]
        return tuple(
            i for i, (t, below) in enumerate(zip(clock, after, strict=True)) if any(below < s <= t for s in starts)
        )

    @cached_property
    def launches(self) -> int:
        """Update kernels launched after the first model call: one per call of the model or of a function. The one before it draws x0."""
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

    @cached_property
    def takes_raw(self) -> bool:
        """Whether an update reads a raw output itself, and not only the data prediction made of all of them."""
        return any(name[0] == "r" for row in self.rows() for name, _ in row.terms)

    def rows(self) -> Iterator[Row]:
        """All rows of all updates."""
        for op in self.ops:
            if isinstance(op, Update):
                yield from op.rows

    def __str__(self) -> str:
        functions = sum(isinstance(op, Apply) for op in self.ops)
        counts = f"{self.nfe} model calls, {self.launches} launches" + f", {functions} calls of functions" * bool(
            functions
        )
        head = f"{self.solver} on {self.schedule}: {counts}, {self.draws} draws, "
        read = {name for row in self.rows() for name, _ in row.terms}
        lines = [f"{head}{self.bytes} bytes per element"]
        for name, row in zip(start_names(len(self.start)), self.start, strict=True):
            terms = [("noise" if len(row) == 1 else f"noise{j}", c) for j, c in enumerate(row) if c]
            lines.append(f"    {name} = {spell(terms)}")
        for op in self.ops:
            if isinstance(op, Eval):
                arg = spell([(op.x, op.scale)])
                raws = [f"model({arg}, t={op.t:.6g})" + ("'" * i) for i in range(len(op.b))]
                if op.d not in read:  # its outputs are
                    lines.append(f"    {', '.join(raw_names(op))} = {', '.join(raws)}")
                    continue
                terms = [(op.x, op.a), *zip(raws, op.b, strict=True)]
                value = spell([t for t in terms if t[1]])
                lines.append(
                    f"    {op.d} = {value}"
                    if op.clip is None
                    else f"    {op.d} = clip({value}, {op.clip[0]:g}, {op.clip[1]:g})"
                )
            elif isinstance(op, Apply):
                lines.append(f"    {op.d} = {op.function}({', '.join(op.inputs)}, t={op.t:.6g})")
            else:
                lines += [f"    {row.out} = {spell(row.terms)}" for row in op.rows]
        return "\n".join([*lines, f"    return {self.out}"])

    def to_json(self) -> str:
        """The plan as JSON with a checksum; floats survive exactly."""
        body = {
            "solver": self.solver,
            "schedule": self.schedule,
            "start_std": self.start_std,
            "variables": self.variables,
            "levels": self.levels,
            "first_draw": self.first_draw,
            "ops": [{_KIND[type(op)]: op} for op in self.ops],
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
            facts = {name: _tuples(value) for name, value in body.items()}
            return Plan(**{**facts, "ops": ops})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise (
                error if isinstance(error, PlanError) else PlanError(f"a plan file that is no plan: {error!r}")
            ) from None


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


_KIND: dict[type, str] = {Eval: "eval", Apply: "apply", Update: "update"}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _op(item: dict[str, list[Any]]) -> Call | Update:
    ((kind, fields),) = item.items()
    if kind == "update":
        return Update(tuple(Row(out, _tuples(terms)) for out, terms in fields[0]))
    call: Call = {"eval": Eval, "apply": Apply}[kind](*_tuples(fields))
    return call
