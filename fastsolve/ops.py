"""The two instructions of a plan, model calls and updates, and what an update reads once everything is spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastsolve.forms import merge

Terms = tuple[tuple[str, float], ...]


class Eval(NamedTuple):
    """A model call: d = a * x + sum(b[i] * raw[i]), the model called on scale * x at clock value t, once per entry of b.

    With guidance b has two entries, the conditional and the unconditional output. alpha, sigma: the level's, for the reader.
    """

    d: str
    x: str
    t: float
    alpha: float
    sigma: float
    a: float
    b: tuple[float, ...]
    scale: float = 1.0


class Row(NamedTuple):
    """One linear combination of an update: out = sum of coefficient * symbol."""

    out: str
    terms: Terms


class Update(NamedTuple):
    """Rows computed together by one kernel launch; all of them read the state before the update."""

    rows: tuple[Row, ...]


Ops = tuple[Eval | Update, ...]
Rows = dict[str, dict[str, float]]  # out symbol -> terms over tensors, raw outputs and draws
Group = tuple[tuple[Eval, ...], Rows]  # model calls, and the rows of the launch after them


def start_names(count: int) -> list[str]:
    """The symbols of the tensors that sampling starts from: x0, and s1, s2 ... for solvers of several variables."""
    return ["x0", *(f"s{i}" for i in range(1, count))]


def raw_name(call: Eval, i: int) -> str:
    """The symbol of raw output i of a call: `r3`, and `r3'` for the second."""
    return "r" + call.d[1:] + "'" * i


def definition(call: Eval) -> list[tuple[str, float]]:
    """A call's data prediction over the state it was called on and its raw outputs."""
    terms = [(call.x, call.a)] if call.a else []
    return terms + [(raw_name(call, i), b) for i, b in enumerate(call.b) if b]


def substituted(terms: dict[str, float], name: str, meaning: dict[str, float]) -> dict[str, float]:
    """Terms with one symbol spelled out."""
    c = terms[name]
    rest = {symbol: factor for symbol, factor in terms.items() if symbol != name}
    return merge(rest, [(symbol, c * factor) for symbol, factor in meaning.items()])


def _grouped(ops: Ops) -> Iterator[tuple[tuple[Eval, ...], Update]]:
    """Each update with the calls made since the update before it, whose raw outputs are still at hand."""
    calls: list[Eval] = []
    for op in ops:
        if isinstance(op, Eval):
            calls.append(op)
        else:
            yield tuple(calls), op
            calls = []


def spelled(ops: Ops, stored: frozenset[str]) -> list[Group]:
    """The program's launches over tensors, raw outputs and draws; group 0 has no calls and holds what comes before the first.

    A data prediction is spelled out as (x, raw) unless it is `stored`: then the launch after its call writes it as a row, and later
    launches read that. A state that the launch before has made from tensors which are read anyway is spelled out too: one read less.
    """
    groups: list[Group] = [((), {})]
    meaning: dict[str, list[tuple[str, float]]] = {}
    made: Rows = {}
    for calls, update in _grouped(ops):
        meaning.update({call.d: definition(call) for call in calls})
        fresh = {call.d for call in calls}
        rows: Rows = {}
        for row in update.rows:
            terms: dict[str, float] = {}
            for name, c in row.terms:
                if name[0] != "d" or (name in stored and name not in fresh):
                    terms = merge(terms, ((name, c),))
                else:
                    terms = merge(terms, [(symbol, c * factor) for symbol, factor in meaning[name]])
            rows[row.out] = terms
        rows = _fewer_reads(rows, made)
        if not calls:
            groups[0][1].update(rows)
        else:
            rows.update({call.d: dict(meaning[call.d]) for call in calls if call.d in stored})
            groups.append((calls, rows))
        made = rows
    return groups


def _fewer_reads(rows: Rows, made: Rows) -> Rows:
    read = {name for terms in rows.values() for name in terms}
    for name, terms in made.items():
        if name in read and all(symbol in read for symbol in terms):
            rows = {out: substituted(old, name, terms) if name in old else old for out, old in rows.items()}
    return rows


def history(ops: Ops, state: int = 4, raw: int = 4, reused: bool = False) -> frozenset[str]:
    """Data predictions that are cheaper to store as tensors than to read again as (x, raw), by bytes per element.

    state, raw: bytes of an element of the state and of a raw output. reused: raw outputs do not outlive the launch after their call
    (the model writes into its own buffer), so every prediction that is read later is stored.
    """
    calls: dict[str, Eval] = {}
    extra: dict[str, int] = {}  # bytes that storing would add; negative saves
    for fresh, update in _grouped(ops):
        read = {name for row in update.rows for name, _ in row.terms}
        for name in read:
            call = calls.get(name)
            if call is not None:  # a data prediction of an earlier group
                again = raw * len(call.b) + (state if call.a and call.x not in read else 0)
                extra[name] = extra.get(name, state) + state - again
        calls.update({call.d: call for call in fresh})
    return frozenset(name for name, more in extra.items() if more < 0 or reused)


def traffic(ops: Ops) -> int:
    """Bytes per element that the launches after model calls read and write, float32 throughout, with the history that `history` chooses."""
    total = 0
    for calls, rows in spelled(ops, history(ops)):
        if calls:
            total += len({name for terms in rows.values() for name in terms if name[0] != "z"}) + len(rows)
    return 4 * total
