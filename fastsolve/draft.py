"""Drafts: what a solver writes on. It asks for denoised predictions and noise, does arithmetic, and keeps what it needs again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastsolve.forms import Form, FormError, merge
from fastsolve.ops import Eval, Row, Update, start_names
from fastsolve.plan import Plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Node, Schedule


class Draft:
    """Records a solver's text as a plan.

    schedule: the law, for solvers that place nodes of their own. start: the state at the grid's first level. calls: model calls so
    far. guidance: the scale w of classifier-free guidance, D = D_uncond + w (D_cond - D_uncond), or None.
    """

    def __init__(self, schedule: Schedule, prediction: Prediction, guidance: float | None = None) -> None:
        self.schedule = schedule
        self.start = Form({"x0": 1.0})
        self._prediction, self._guidance = prediction, guidance
        self._ops: list[Eval | Update] = []
        self._pending: dict[str, dict[str, float]] = {}  # rows of the next update, over what is already computed
        self._tensors = self._draws = 0
        self._variables: tuple[tuple[float, ...], ...] = ()
        self.calls = 0

    def starts(self, mixing: Sequence[Sequence[float]]) -> tuple[Form, ...]:
        """Several start tensors, for a state of several variables: from noise, tensor i is sum_j mixing[i][j] * unit noise j."""
        self._variables = tuple(tuple(row) for row in mixing)
        return tuple(Form({name: 1.0}) for name in start_names(len(self._variables)))

    def denoised(self, node: Node, form: Form) -> Form:
        """The model's data prediction of the state `form` at `node`: one model call. Raises ValueError where it has none."""
        if node.sigma == 0.0:
            raise ValueError("the denoiser is asked at sigma = 0, where there is nothing to denoise")
        a, b = self._prediction.x0(node)
        w = self._guidance
        weights = (
            (b,) if w is None or w == 1.0 else (b * w, b * (1.0 - w))
        )  # w = 0 still asks both: the branches stay in order
        x = self._flush(self._name(form))
        d = f"d{self.calls}"
        self.calls += 1
        self._ops.append(Eval(d, x, node.t, node.alpha, node.sigma, a, weights, self._prediction.input_scale(node)))
        return Form({d: 1.0})

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

    def run(self, text: Callable[..., Form], form: Form, *args: object, **options: object) -> Form:
        """Another solver's text written here as if `form` were the start; returns its final form."""
        outer, self.start = self.start, form
        try:
            return text(self, *args, **options)
        finally:
            self.start = outer

    def finish(self, form: Form, solver: str, start_std: float) -> Plan:
        """The plan that returns `form`; rows and draws that nobody reads are gone, and names count from 0."""
        out = self._name(form)
        if out not in self._pending:  # the result is written last, into the caller's tensor
            out = self._tensor(form)
        self._flush(out)
        ops, live = _alive(self._ops, out)
        starts = start_names(max(1, len(self._variables)))
        if len(live.union(starts)) < len(starts) + self._tensors + self.calls + self._draws:
            ops, out = _renamed(ops, out, starts)
        return Plan(solver, self.schedule.name, start_std, tuple(ops), out, self._variables)

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


def _alive(ops: list[Eval | Update], out: str) -> tuple[list[Eval | Update], set[str]]:
    """Instructions without the rows that nobody reads, and the symbols that are left. Calls stay: a solver that asks, pays."""
    live, kept = {out}, []
    for op in reversed(ops):
        if isinstance(op, Eval):
            live.update((op.d, op.x))
        else:
            if not all(row.out in live for row in op.rows):
                op = Update(tuple(row for row in op.rows if row.out in live))
            if not op.rows:
                continue
            for row in op.rows:
                live.update([name for name, _ in row.terms])
        kept.append(op)
    return kept[::-1], live


def _renamed(ops: list[Eval | Update], out: str, starts: list[str]) -> tuple[list[Eval | Update], str]:
    """The same with symbols that count from 0 without gaps; draws in the order in which the text draws."""
    written = [name for op in ops for name in ([op.d] if isinstance(op, Eval) else [row.out for row in op.rows])]
    read = {name for op in ops if isinstance(op, Update) for row in op.rows for name, _ in row.terms}
    kinds = {
        "x": ["x0", *(name for name in written if name[0] == "x")],
        "d": [name for name in written if name[0] == "d"],
        "z": sorted((name for name in read if name[0] == "z"), key=lambda name: int(name[1:])),
    }
    new = {old: f"{kind}{i}" for kind, names in kinds.items() for i, old in enumerate(names)} | {s: s for s in starts}
    renamed: list[Eval | Update] = []
    for op in ops:
        if isinstance(op, Eval):
            renamed.append(op._replace(d=new[op.d], x=new[op.x]))
        else:
            rows = tuple(Row(new[row.out], tuple((new[name], c) for name, c in row.terms)) for row in op.rows)
            renamed.append(Update(rows))
    return renamed, new[out]
