"""The instructions of a plan, calls and updates, and what an update reads once everything is spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastsolve.forms import merge

Terms = tuple[tuple[str, float], ...]


class Eval(NamedTuple):
    """A model call: d = a * x + sum(b[i] * raw[i]), the model called on scale * x at clock value t, once per entry of b.

    With guidance b has two entries, the conditional and the unconditional output. alpha, sigma: the level's, for the reader.
    clip: d is then cut to these bounds.
    """

    d: str
    x: str
    t: float
    alpha: float
    sigma: float
    a: float
    b: tuple[float, ...]
    scale: float = 1.0
    clip: tuple[float, float] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is called on."""
        return (self.x,)


class Apply(NamedTuple):
    """A call of a function: d = function(*inputs, level, *numbers), cut as an `Eval`'s.

    inputs: tensors that the update before it has made, or raw outputs since then. function: the name under which a run is given it.
    """

    d: str
    function: str
    inputs: tuple[str, ...]
    t: float
    alpha: float
    sigma: float
    numbers: tuple[float, ...] = ()
    clip: tuple[float, float] | None = None


class Row(NamedTuple):
    """One linear combination of an update: out = sum of coefficient * symbol."""

    out: str
    terms: Terms


class Update(NamedTuple):
    """Rows computed together by one kernel launch; all of them read the state before the update."""

    rows: tuple[Row, ...]


Call = Eval | Apply
Ops = tuple[Call | Update, ...]
Rows = dict[str, dict[str, float]]  # out symbol -> terms over tensors, raw outputs, draws and middles


class Middle(NamedTuple):
    """A value inside a launch (`program.Mid`): a sum, then op "clip" with numbers (lo, hi) or "blend" with (c,)."""

    terms: dict[str, float]
    op: str
    numbers: tuple[float, ...]


class Group(NamedTuple):
    """Calls, and the launch after them: its middles, in order, and its rows."""

    calls: tuple[Call, ...]
    middles: dict[str, Middle]
    rows: Rows


def start_names(count: int) -> list[str]:
    """The symbols of the tensors that sampling starts from: x0, and s1, s2 ... for solvers of several variables."""
    return ["x0", *(f"s{i}" for i in range(1, count))]


def raw_name(call: Call, i: int) -> str:
    """The symbol of output i of a call: `r3`, and `r3'` for the second; `h3` of a function's."""
    return ("r" if isinstance(call, Eval) else "h") + call.d[1:] + "'" * i


def raw_names(call: Call) -> list[str]:
    """The symbols of all outputs of a call."""
    return [raw_name(call, i) for i in range(len(call.b) if isinstance(call, Eval) else 1)]


def definition(call: Call) -> list[tuple[str, float]]:
    """A call's data prediction, before it is cut, over the state it was called on and its raw outputs."""
    if isinstance(call, Apply):
        return [(raw_name(call, 0), 1.0)]
    terms = [(call.x, call.a)] if call.a else []
    # A term of weight 0 stays: beside it a sample may have another.
    return [*terms, *((raw_name(call, i), b) for i, b in enumerate(call.b) if b or len(call.b) > 1)]


def substituted(terms: dict[str, float], name: str, meaning: dict[str, float]) -> dict[str, float]:
    """Terms with one symbol spelled out."""
    c = terms[name]
    rest = {symbol: factor for symbol, factor in terms.items() if symbol != name}
    return merge(rest, [(symbol, c * factor) for symbol, factor in meaning.items()])


def _grouped(ops: Ops) -> Iterator[tuple[tuple[Call, ...], Update]]:
    """Each update with the calls made since the update before it, whose raw outputs are still at hand."""
    calls: list[Call] = []
    for op in ops:
        if isinstance(op, Update):
            yield tuple(calls), op
            calls = []
        else:
            calls.append(op)


def spelled(ops: Ops, stored: frozenset[str], blended: bool = False, fewer: bool = True) -> list[Group]:
    """The program's launches over tensors, raw outputs and draws; group 0 has no calls and holds what comes before the first.

    A data prediction is spelled out as (x, raw) unless it is `stored`: then the launch after its call writes it as a row, and later
    launches read that. fewer: a state that the launch before has made from tensors which are read anyway is spelled out too: one read
    less. blended: every data prediction is blended with what the caller knows of it.
    """
    made_by = [op for op in ops if not isinstance(op, Update)]
    # What a function makes of a prediction is blended, not the prediction.
    last = {a.d for a, b in zip(made_by, [*made_by[1:], None], strict=True) if blended and not isinstance(b, Apply)}
    groups = [Group((), {}, {})]
    meaning: dict[str, list[tuple[str, float]]] = {}
    made: Rows = {}
    for calls, update in _grouped(ops):
        meaning.update({call.d: definition(call) for call in calls})
        fresh = {call.d for call in calls}
        middles = {name: middle for call in calls for name, middle in _middles(call, call.d in last)}
        rows: Rows = {}
        for row in update.rows:
            terms: dict[str, float] = {}
            for name, c in row.terms:
                if name[0] != "d" or (name in stored and name not in fresh) or name in middles:
                    terms = merge(terms, ((name, c),))
                else:
                    terms = merge(terms, [(symbol, c * factor) for symbol, factor in meaning[name]])
            rows[row.out] = terms
        rows = _fewer_reads(rows, made) if fewer else rows
        if not calls:
            groups[0].rows.update(rows)
        else:
            own = [call for call in calls if call.d in stored]
            rows.update({call.d: {call.d: 1.0} if call.d in middles else dict(meaning[call.d]) for call in own})
            groups.append(Group(calls, middles, rows))
        made = rows
    return groups


def _middles(call: Call, blended: bool) -> Iterator[tuple[str, Middle]]:
    """How a data prediction is made that is no linear combination; `c3` is one that is cut and then blended."""
    terms = dict(definition(call))
    if call.clip is not None:
        cut = "c" + call.d[1:] if blended else call.d
        yield cut, Middle(terms, "clip", call.clip)
        terms = {cut: 1.0}
    if blended:
        yield call.d, Middle(terms, "blend", (1.0,))


def _fewer_reads(rows: Rows, made: Rows) -> Rows:
    read = {name for terms in rows.values() for name in terms}
    for name, terms in made.items():
        if name in read and all(symbol in read for symbol in terms):
            rows = {out: substituted(old, name, terms) if name in old else old for out, old in rows.items()}
    return rows


def history(ops: Ops, state: int = 4, raw: int = 4, reused: bool = False, blended: bool = False) -> frozenset[str]:
    """Data predictions that are cheaper to store as tensors than to read again as (x, raw), by bytes per element.

    state, raw: bytes of an element of the state and of a raw output. reused: raw outputs do not outlive the launch after their call
    (the model writes into its own buffer). Then every prediction that is read later is stored, and so is one that is cut or blended.
    """
    calls: dict[str, Call] = {}
    extra: dict[str, int] = {}  # bytes that storing would add; negative saves
    for fresh, update in _grouped(ops):
        read = {name for row in update.rows for name, _ in row.terms}
        for name in read:
            call = calls.get(name)
            if call is not None:  # a data prediction of an earlier group
                again = state
                if isinstance(call, Eval):
                    again = raw * len(call.b) + (state if call.a and call.x not in read else 0)
                extra[name] = extra.get(name, state) + state - again
                if reused or blended or call.clip is not None:
                    extra[name] = -1
        calls.update({call.d: call for call in fresh})
    return frozenset(name for name, more in extra.items() if more < 0)


def traffic(ops: Ops) -> int:
    """Bytes per element that the launches after model calls read and write, float32 throughout, with the history that `history` chooses."""
    total = 0
    for calls, middles, rows in spelled(ops, history(ops)):
        if calls:
            spelled_out = [*rows.values(), *(middle.terms for middle in middles.values())]
            total += len({name for terms in spelled_out for name in terms if name[0] != "z"} - {*middles}) + len(rows)
    return 4 * total
