"""Lowering: a plan to a program of model calls and kernel launches on numbered slots, with one table of coefficients.

What is decided here: which data predictions are stored (`ops.history`), the scaled and cast input of each model call as one more
row of the launch before it, the buffers by lifetime (a launch may write over a tensor it reads), and the order of all terms.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

from fastsolve.ops import Eval, Group, Rows, history, raw_name, spelled, start_names, substituted
from fastsolve.plan import Plan
from fastsolve.program import START, STEP, Call, Launch, Program, Row, Slot


@functools.lru_cache(maxsize=128)
def lower(
    plan: Plan,
    *,
    state_bytes: int = 4,
    raw_bytes: int = 4,
    cast: bool = False,
    reused: bool = False,
    given: bool = False,
    noise: bool = False,
) -> Program:
    """The program of a plan.

    state_bytes, raw_bytes: element sizes of the state and of raw outputs. cast: the model's input has another dtype than the state.
    reused: the model writes into its own output buffer, so no raw output outlives the launch after its call. given: the state at the
    start comes from the caller, not from noise. noise: the draws come from the caller.
    """
    starts: Rows = {}
    for i, (name, row) in enumerate(zip(start_names(len(plan.start)), plan.start, strict=True)):
        starts[name] = {f"start{i}": 1.0} if given else {f"noise{j}": c for j, c in enumerate(row) if c}
    groups = _opened(spelled(plan.ops, history(plan.ops, state_bytes, raw_bytes, reused)), starts)
    groups = _pruned(_with_inputs(groups, cast), plan.out, cast)
    return _placed(groups, plan, cast, given, noise)


def _opened(groups: list[Group], starts: Rows) -> list[Group]:
    """Group 0 with the start tensors as rows, from noise or the caller's, and what the plan computes from them before its first call."""
    first = groups[0][1]
    for name, meaning in starts.items():
        first = {out: substituted(terms, name, meaning) if name in terms else terms for out, terms in first.items()}
    return [((), {**starts, **first}), *groups[1:]]


def _input(call: Eval, cast: bool) -> str:
    """The tensor a model is called on: the state itself, or the scaled and cast copy made for it by the launch before."""
    return "i" + call.d[1:] if cast or call.scale != 1.0 else call.x


def _with_inputs(groups: list[Group], cast: bool) -> list[Group]:
    for (_, rows), (calls, _) in pairwise(groups):
        for call in calls:
            if _input(call, cast) != call.x:
                state = rows.get(call.x, {call.x: 1.0})  # rows read the state before their launch
                rows[_input(call, cast)] = {name: call.scale * c for name, c in state.items()}
    return groups


def _pruned(groups: list[Group], out: str, cast: bool) -> list[Group]:
    """Groups without the rows that nobody reads."""
    live, kept = {out}, []
    for calls, rows in reversed(groups):
        rows = {name: terms for name, terms in rows.items() if name in live}
        live.update(name for terms in rows.values() for name in terms)
        live.update(_input(call, cast) for call in calls)
        kept.append((calls, rows))
    return kept[::-1]


def _last_uses(groups: list[Group], cast: bool) -> dict[str, int]:
    last: dict[str, int] = {}
    for index, (calls, rows) in enumerate(groups):
        for call in calls:
            last[_input(call, cast)] = index
        last.update(dict.fromkeys((name for terms in rows.values() for name in terms), index))
    return last


class _Memory:
    """Slots of symbols; a buffer is given back with its symbol's last use."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.held: dict[str, int] = {}
        self._free: dict[str, list[int]] = {}

    def take(self, symbol: str, kind: str) -> int:
        free = self._free.setdefault(kind, [])
        if not free:
            free.append(len(self.slots))
            self.slots.append(Slot(kind))
        self.held[symbol] = free.pop()
        return self.held[symbol]

    def release(self, symbol: str) -> None:
        slot = self.held.pop(symbol)
        self._free[self.slots[slot].kind].append(slot)


def _rank(term: tuple[str, float]) -> tuple[int, int, str]:
    """States, data predictions, raw outputs, draws; each kind by its number."""
    name = term[0]
    return "xsdrnz".find(name[0]), len(name), name


def _placed(groups: list[Group], plan: Plan, cast: bool, given: bool, noise: bool) -> Program:
    memory, last = _Memory(), _last_uses(groups, cast)
    table: list[float] = []
    caller = [f"start{i}" for i in range(len(plan.start) if given else 0)]
    caller += [f"z{i}" for i in range(plan.draws if noise else 0)]
    for name in caller:
        memory.take(name, "noise" if name[0] == "z" else "start")
    launches: list[Launch] = []
    calls_made: list[tuple[Call, ...]] = []
    for index, (calls, rows) in enumerate(groups):
        made = []
        for call in calls:
            x = memory.held[_input(call, cast)]
            made.append(Call(x, tuple(memory.take(raw_name(call, i), "raw") for i in range(len(call.b))), call.t))
        calls_made.append(tuple(made))

        # In an order of their own: that of a form depends on what happens to cancel in it, and so on its numbers.
        rows = {out: dict(sorted(terms.items(), key=_rank)) for out, terms in rows.items()}
        read = list(dict.fromkeys(name for terms in rows.values() for name in terms))
        sources = [name for name in read if name in memory.held]
        draws = [name for name in read if name not in memory.held]
        if not all(name[0] in "nz" for name in draws):
            raise ValueError(f"launch {index} reads {', '.join(draws)}, of which not all are draws")
        place = {name: p for p, name in enumerate([*sources, *draws])}
        slots = tuple(memory.held[name] for name in sources)
        for name in [name for name in memory.held if last.get(name, -1) <= index and name not in caller]:
            memory.release(name)
        placed = []
        for out, terms in rows.items():
            slot = memory.take(out, "out" if out == plan.out else "input" if out[0] == "i" else "state")
            placed.append(Row(slot, tuple(place[name] for name in terms), len(table)))
            table.extend(terms.values())
        numbered = tuple((START, int(name[5:])) if name[0] == "n" else (STEP, int(name[1:])) for name in draws)
        launches.append(Launch(slots, numbered, tuple(placed)))
    steps = tuple(zip(calls_made[1:], launches[1:], strict=True))
    levels = np.array([call.t for made in calls_made for call in made])
    return Program(tuple(memory.slots), launches[0], steps, np.array(table), levels, plan.draws)
