"""Drafts: what a solver writes on. It asks for denoised predictions and noise, does arithmetic, and keeps what it needs again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastsolve.controls import NO_CONTROLS, Controls
from fastsolve.forms import Form, FormError, merge
from fastsolve.ops import Apply, Call, Eval, Row, Update, raw_name, raw_names, start_names
from fastsolve.plan import Plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Node, Schedule


class Draft:
    """Records a solver's text as a plan.

    schedule: the law, for solvers that place nodes of their own. start: the state at the grid's first level. calls: model calls so
    far. controls: guidance, bounds and a function of the caller's for every data prediction.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction, controls: Controls = NO_CONTROLS) -> None:
        self.schedule = schedule
        self.start = Form({"x0": 1.0})
        self._prediction, self._controls = prediction, controls
        self._average: Form | None = None  # of the differences of guided calls, with momentum
        self._ops: list[Call | Update] = []
        self._pending: dict[str, dict[str, float]] = {}  # rows of the next update, over what is already computed
        self._tensors = self._draws = self._calls = 0
        self._variables: tuple[tuple[float, ...], ...] = ()
        self.calls = 0

    def starts(self, mixing: Sequence[Sequence[float]]) -> tuple[Form, ...]:
        """Several start tensors, for a state of several variables: from noise, tensor i is sum_j mixing[i][j] * unit noise j.

        Raises ValueError where another solver has been before: it has one tensor to hand over.
        """
        if self.start.terms != {"x0": 1.0}:
            raise ValueError("a solver of several variables cannot go on from another solver's state, which has one")
        self._variables = tuple(tuple(row) for row in mixing)
        return tuple(Form({name: 1.0}) for name in start_names(len(self._variables)))

    def denoised(self, node: Node, form: Form) -> Form:
        """The model's data prediction of the state `form` at `node`: one model call. Raises ValueError where it has none."""
        return self._called(node, form, False)[0]

    def guided(self, node: Node, form: Form) -> tuple[Form, Form]:
        """The data prediction with guidance and the one without condition, from one guided call; without guidance they are the same."""
        return self._called(node, form, True)

    def _called(self, node: Node, form: Form, both: bool) -> tuple[Form, Form]:
        if node.sigma == 0.0:
            raise ValueError("the denoiser is asked at sigma = 0, where there is nothing to denoise")
        controls, level = self._controls, (node.t, node.alpha, node.sigma)
        a, b = self._prediction.x0(node)
        x = self._flush(self._name(form))
        weights, function, numbers = controls.weights(node, both)
        clip = controls.clip if function is None else None
        scale = self._prediction.input_scale(node)
        call = Eval(f"d{self._calls}", x, *level, a, tuple(b * w for w in weights), scale, clip)
        self._ops.append(call)
        self._calls += 1
        self.calls += 1
        d, plain = call.d, Form({call.d: 1.0})
        if both and len(weights) > 1:
            outputs = {raw_name(call, i): b * c for i, c in enumerate(controls.plain(node)) if c or controls.both}
            plain = self.keep(Form(({x: a} if a else {}) | outputs))
        if function is not None:
            inputs = (x, *raw_names(call))
            if controls.momentum and (before := self._averaged(b, raw_names(call), controls.momentum)):
                function, inputs = "apg_momentum", (*inputs, *before)
            d = self._applied(Apply("", function, inputs, *level, numbers(a, b), controls.clip))
        if controls.hooked:
            made = self._flush(self._tensor(Form({d: 1.0})))
            d = self._applied(Apply("", "x0", (made,), *level))
        return Form({d: 1.0}), plain if len(weights) > 1 else Form({d: 1.0})

    def _averaged(self, b: float, names: Sequence[str], momentum: float) -> tuple[str, ...]:
        """The running sum of differences as it was before a call, if there was one; with the call's own it is the next update's."""
        before, (conditional, unconditional) = self._average, names
        difference = Form({conditional: b, unconditional: -b})
        if before is not None:
            difference = difference + momentum * before
        self._average = Form({self._tensor(difference): 1.0})
        return () if before is None else tuple(before.terms)

    def _applied(self, call: Apply) -> str:
        call = call._replace(d=f"d{self._calls}")
        self._calls += 1
        self._ops.append(call)
        return call.d

    def noise(self) -> Form:
        """A new draw of standard normals, independent of all others."""
        self._draws += 1
        return Form({f"z{self._draws - 1}": 1.0})

    def keep(self, form: Form) -> Form:
        """The form as a tensor of its own, computed by the next update; free if it is one already.

        A data prediction stays what it is: lowering finds the cheaper way to hold one.
        """
        if len(form.terms) == 1 and all(name[0] == "d" and c == 1.0 for name, c in form.terms.items()):
            return form
        return Form({self._name(form): 1.0})

    def run(self, text: Callable[..., Form], form: Form, /, *args: object, **options: object) -> Form:
        """Another solver's text written here as if `form` were the start; returns its final form."""
        outer, self.start = self.start, form
        try:
            return text(self, *args, **options)
        finally:
            self.start = outer

    def finish(
        self, form: Form, solver: str, start_std: float, levels: Sequence[Node] = (), first_draw: int = 0
    ) -> Plan:
        """The plan that returns `form`; rows and draws that nobody reads are gone, and names count from 0."""
        out = self._name(form)
        if out not in self._pending:  # the result is written last, into the caller's tensor
            out = self._tensor(form)
        self._flush(out)
        ops, live = _alive(self._ops, out)
        starts = start_names(max(1, len(self._variables)))
        if len(live.union(starts)) < len(starts) + self._tensors + self._calls + self._draws:
            ops, out = _renamed(ops, out, starts)
        walked = tuple((node.t, node.alpha, node.sigma) for node in levels)
        return Plan(solver, self.schedule.name, start_std, tuple(ops), out, self._variables, walked, first_draw)

    def _name(self, form: Form) -> str:
        """The symbol of a form: itself if it is a tensor, else a new row of the next update."""
        if len(form.terms) == 1:
            ((name, c),) = form.terms.items()
            if c == 1.0 and name[0] in "xs":
                return name
        return self._tensor(form)

    def _tensor(self, form: Form) -> str:
        terms: dict[str, float] = {}
        for name, c in form.terms.items():
            if name in self._pending:  # not computed yet, and rows read the state before the update
                terms = merge(terms, [(symbol, c * factor) for symbol, factor in self._pending[name].items()])
            else:
                terms = merge(terms, ((name, c),))
        if not terms:
            raise FormError("a state that is identically zero")
        self._tensors += 1
        name = f"x{self._tensors}"
        self._pending[name] = terms
        return name

    def _flush(self, needed: str) -> str:
        if self._pending:
            self._ops.append(Update(tuple(Row(out, tuple(terms.items())) for out, terms in self._pending.items())))
            self._pending = {}
        return needed


def _alive(ops: list[Call | Update], out: str) -> tuple[list[Call | Update], set[str]]:
    """Instructions without the rows that nobody reads, and the symbols that are left. Calls stay: a solver that asks, pays."""
    live, kept = {out}, []
    for op in reversed(ops):
        if isinstance(op, Update):
            if not all(row.out in live for row in op.rows):
                op = Update(tuple(row for row in op.rows if row.out in live))
            if not op.rows:
                continue
            for row in op.rows:
                live.update([name for name, _ in row.terms])
        else:
            live.update((op.d, *op.inputs))
        kept.append(op)
    return kept[::-1], {name for name in live if name[0] != "r"}


def _renamed(ops: list[Call | Update], out: str, starts: list[str]) -> tuple[list[Call | Update], str]:
    """The same with symbols that count from 0 without gaps; draws in the order in which the text draws."""
    written = [name for op in ops for name in ([row.out for row in op.rows] if isinstance(op, Update) else [op.d])]
    read = {name for op in ops if isinstance(op, Update) for row in op.rows for name, _ in row.terms}
    kinds = {
        "x": ["x0", *(name for name in written if name[0] == "x")],
        "d": [name for name in written if name[0] == "d"],
        "z": sorted((name for name in read if name[0] == "z"), key=lambda name: int(name[1:])),
    }
    new = {old: f"{kind}{i}" for kind, names in kinds.items() for i, old in enumerate(names)} | {s: s for s in starts}
    for op in ops:
        if isinstance(op, Eval):
            new.update(zip(raw_names(op), raw_names(op._replace(d=new[op.d])), strict=True))
    renamed: list[Call | Update] = []
    for op in ops:
        if isinstance(op, Eval):
            renamed.append(op._replace(d=new[op.d], x=new[op.x]))
        elif isinstance(op, Apply):
            renamed.append(op._replace(d=new[op.d], inputs=tuple(new[name] for name in op.inputs)))
        else:
            rows = tuple(Row(new[row.out], tuple((new[name], c) for name, c in row.terms)) for row in op.rows)
            renamed.append(Update(rows))
    return renamed, new[out]
