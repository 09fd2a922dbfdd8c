"""Lowering: a plan to a program of calls and kernel launches on numbered slots, with one table of coefficients.

What is decided here: which data predictions are stored (`ops.history`), the scaled and cast input of each model call as one more
row of the launch before it, the buffers by lifetime (a launch may write over a tensor it reads), and the order of all terms.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np

from fastsolve import ops
from fastsolve.memory import Memory
from fastsolve.ops import Apply, Eval, Group, Middle, Rows, history, raw_names, spelled, start_names, substituted
from fastsolve.plan import Plan
from fastsolve.program import START, STEP, Call, Launch, Mid, Program, Row, Seen


@functools.lru_cache(maxsize=128)
def lower(
    plan: Plan,
    *,
    state_bytes: int = 4,
    raw_bytes: int = 4,
    cast: bool = False,
    reused: bool = False,
    given: str = "",
    noise: bool = False,
    blend: str = "",
    paired: bool = False,
    seen: tuple[int, ...] = (),
    open: bool = False,
) -> Program:
    """The program of a plan.

    state_bytes, raw_bytes: element sizes of the state and of raw outputs. cast: the model's input has another dtype than the state.
    reused: the model writes into its own output buffer, so no raw output outlives the launch after its call. given: what comes from the
    caller and not from noise, the "state" at the first level, or the "data" to which noise is added. noise: the draws come from the
    caller. blend: "inpaint" blends data predictions with what is known, "overwrite" the model's input and the result. paired: a guided
    call is one, on a doubled batch. seen: calls of the model, by number, whose state and data prediction are held until the launch after.
    open: the state of a call may be another one when its output comes: a launch reads it as it is then, and writes over nothing that
    it reads. The program has `states`.
    """
    starts: Rows = {}
    for i, (name, row) in enumerate(zip(start_names(len(plan.start)), plan.start, strict=True)):
        starts[name] = {f"start{i}": 1.0} if given == "state" else {f"noise{j}": c for j, c in enumerate(row) if c}
    if given == "data":
        _, alpha, sigma = plan.levels[0]
        starts["x0"] = {name: c for name, c in (("start0", alpha), ("noise0", sigma)) if c}
    inpaint = blend == "inpaint"
    stored = history(plan.ops, state_bytes, raw_bytes, reused, inpaint)
    groups = _opened(spelled(plan.ops, stored, inpaint, not open), starts)
    shape = _Shape(cast, paired, blend == "overwrite")
    groups, looks = _looked_at(groups, plan, seen)
    groups = _pruned(_with_inputs(groups, plan.out, shape), plan.out, shape, looks)
    return _Placing(plan, shape, given, noise, bool(blend), looks, open).program(groups)


def _opened(groups: list[Group], starts: Rows) -> list[Group]:
    """Group 0 with the start tensors as rows, from noise or the caller's, and what the plan computes from them before its first call."""
    first = groups[0].rows
    for name, meaning in starts.items():
        first = {out: substituted(terms, name, meaning) if name in terms else terms for out, terms in first.items()}
    return [Group((), {}, {**starts, **first}), *groups[1:]]


class _Shape:
    """What the model is called on: a tensor of its own where it is scaled, cast, doubled or overwritten, else the state."""

    def __init__(self, cast: bool, paired: bool, overwrite: bool) -> None:
        self.cast, self.paired, self.overwrite = cast, paired, overwrite

    def doubled(self, call: ops.Call) -> bool:
        """One call on a doubled batch."""
        return self.paired and isinstance(call, Eval) and len(call.b) == 2

    def inputs(self, call: ops.Call) -> tuple[str, ...]:
        """The tensors a call is made on; of a doubled one both halves."""
        if isinstance(call, Apply):
            return call.inputs
        own = self.cast or call.scale != 1.0 or self.overwrite
        name = "i" + call.d[1:]
        return (name, name + "'") if self.doubled(call) else (name if own else call.x,)


def _with_inputs(groups: list[Group], result: str, shape: _Shape) -> list[Group]:
    for (_, middles, rows), (calls, *_) in pairwise(groups):
        for call in calls:
            if isinstance(call, Eval) and call.x not in (names := shape.inputs(call)):
                state = rows.get(call.x, {call.x: 1.0})  # rows read the state before their launch
                terms = {name: call.scale * c for name, c in state.items()}
                if shape.overwrite:
                    middles["o" + call.d[1:]] = Middle(terms, "blend", (call.scale,))
                    terms = {"o" + call.d[1:]: 1.0}
                rows.update(dict.fromkeys(names, terms))
    if shape.overwrite:
        _, middles, rows = groups[-1]
        middles["o"] = Middle(rows[result], "blend", (1.0,))
        rows[result] = {"o": 1.0}
    return groups


Looks = dict[int, tuple[int, str, str]]  # call of the model -> the launch after it, its state and its data prediction


def _looked_at(groups: list[Group], plan: Plan, seen: tuple[int, ...]) -> tuple[list[Group], Looks]:
    """The launches after which calls are seen, with their data predictions as rows."""
    looks: Looks = {}
    number, state = -1, ""
    for index, (calls, *_) in enumerate(groups):
        for call in calls:
            if isinstance(call, Eval):
                number, state = number + 1, call.x
            if number in seen:  # what functions make of the prediction comes later, and is what is seen
                looks[number] = (index, state, call.d)
    for index, _, d in looks.values():
        calls, middles, rows = groups[index]
        call = next(call for call in calls if call.d == d)
        rows.setdefault(d, {d: 1.0} if d in middles else dict(ops.definition(call)))
    return groups, looks


def _pruned(groups: list[Group], out: str, shape: _Shape, looks: Looks) -> list[Group]:
    """Groups without the rows and middles that nobody reads."""
    live, kept = {out}, []
    for index, (calls, middles, rows) in reversed(list(enumerate(groups))):
        live.update(name for launch, *names in looks.values() if launch == index for name in names)
        rows = {name: terms for name, terms in rows.items() if name in live}
        read = {name for terms in rows.values() for name in terms}
        for name, middle in reversed(middles.items()):
            read.update(middle.terms if name in read else ())
        middles = {name: middle for name, middle in middles.items() if name in read}
        live.update(read)
        live.update(name for call in calls for name in shape.inputs(call))
        kept.append(Group(calls, middles, rows))
    return kept[::-1]


def _rank(term: tuple[str, float]) -> tuple[int, int, str]:
    """States, data predictions, raw outputs, draws; each kind by its number."""
    name = term[0]
    return "xsdcorhnz".find(name[0]), len(name), name


class _Placing:
    """Gives every symbol a slot and every term a place, launch by launch."""

    def __init__(
        self, plan: Plan, shape: _Shape, given: str, noise: bool, blend: bool, looks: Looks, open: bool
    ) -> None:
        self._plan, self._shape, self._looks, self._open = plan, shape, looks, open
        self._memory, self._table = Memory(), list[float]()
        caller = [f"start{i}" for i in range(len(plan.start) if given else 0)]
        caller += [f"z{i}" for i in range(plan.draws if noise else 0)]
        caller += ["mask", "known"] if blend else []
        self._caller = frozenset(caller)  # asked at every launch for every tensor held
        for name in caller:
            self._memory.take(name, {"z": "noise", "s": "start"}.get(name[0], name))

    def program(self, groups: list[Group]) -> Program:
        last = self._last_uses(groups)
        launches, made, seen, states = [], [], [], []
        for index, (calls, middles, rows) in enumerate(groups):
            states += [self._memory.held.get(call.x, -1) for call in calls if self._open and isinstance(call, Eval)]
            made.append(tuple(map(self._called, calls)))
            launches.append(self._launched(index, middles, rows, last))
            held = self._memory.held
            seen += [Seen(index, number, held[x], held[d]) for number, (at, x, d) in self._looks.items() if at == index]
        levels = np.array([call.t for call in self._plan.evals])
        steps = tuple(zip(made[1:], launches[1:], strict=True))
        slots, table = tuple(self._memory.slots), np.array(self._table)
        return Program(slots, launches[0], steps, table, levels, self._plan.draws, tuple(seen), tuple(states))

    def _last_uses(self, groups: list[Group]) -> dict[str, int]:
        last: dict[str, int] = {}
        for index, (calls, middles, rows) in enumerate(groups):
            for call in calls:
                last.update(dict.fromkeys(self._shape.inputs(call), index))
            terms = [*(middle.terms for middle in middles.values()), *rows.values()]
            last.update(dict.fromkeys((name for each in terms for name in each), index))
        for index, x, d in self._looks.values():  # seen after the launch, which must not write over them
            last[x], last[d] = max(last.get(x, 0), index + 1), max(last.get(d, 0), index + 1)
        return last

    def _called(self, call: ops.Call) -> Call:
        memory = self._memory
        inputs = tuple(memory.held[name] for name in self._shape.inputs(call))
        if isinstance(call, Apply):
            numbers = (call.t, call.alpha, call.sigma), call.numbers
            return Call(inputs, (memory.take(raw_names(call)[0], "made"),), call.t, call.function, *numbers)
        return Call(inputs, tuple(memory.take(name, "raw") for name in raw_names(call)), call.t)

    def _launched(self, index: int, middles: dict[str, Middle], rows: Rows, last: dict[str, int]) -> Launch:
        memory, table, out = self._memory, self._table, self._plan.out
        # In an order of their own: that of a form depends on what happens to cancel in it, and so on its numbers.
        sums = {name: dict(sorted(middle.terms.items(), key=_rank)) for name, middle in middles.items()}
        rows = {name: dict(sorted(terms.items(), key=_rank)) for name, terms in rows.items()}
        read = dict.fromkeys(
            name for terms in (*sums.values(), *rows.values()) for name in terms if name not in middles
        )
        if any(middle.op == "blend" for middle in middles.values()):
            read.update(dict.fromkeys(("mask", "known")))
        sources = [name for name in read if name in memory.held]
        draws = [name for name in read if name not in memory.held]
        if not all(name[0] in "nz" for name in draws):
            raise ValueError(f"launch {index} reads {', '.join(draws)}, of which not all are draws")
        place = {name: p for p, name in enumerate([*sources, *draws, *middles])}
        slots = tuple(memory.held[name] for name in sources)
        over = [name for name in memory.held if last.get(name, -1) <= index and name not in self._caller]
        if not self._open:
            memory.release(over)
        mids = []
        for name, terms in sums.items():
            op, numbers = middles[name].op, middles[name].numbers
            known = (place["mask"], place["known"]) if op == "blend" else ()
            mids.append(Mid(op, tuple(place[term] for term in terms), len(table), *known))
            table.extend((*terms.values(), *numbers))
        placed = []
        for name, terms in rows.items():
            if name[0] == "i" and name + "'" in rows:
                memory.take(name, "pair")
            elif name[-1] != "'":
                memory.take(name, "out" if name == out else "input" if name[0] == "i" else "state")
            placed.append(Row(memory.held[name], tuple(place[term] for term in terms), len(table)))
            table.extend(terms.values())
        if self._open:
            memory.release(over)
        first = self._plan.first_draw
        numbered = tuple((START, int(n[5:])) if n[0] == "n" else (STEP, first + int(n[1:])) for n in draws)
        return Launch(slots, numbered, tuple(placed), tuple(mids))
