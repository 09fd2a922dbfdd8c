"""Plans as data: what they count and print, that they are immutable, cached, kept exactly as JSON, and verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle

import pytest

import fastsolve
from catalogue import CASES, LEVELS, SOLVERS, Case
from fastsolve import Plan, PlanError, grids, predictions, schedules, solvers
from fastsolve.lower import lower
from fastsolve.ops import Apply, Eval, Row, Update

NAN, INF = math.nan, math.inf


def small() -> Plan:
    return fastsolve.make_plan("seeds2", schedule="ve", grid=(4.0, 2.0, 0.0), prediction="eps", options={"eta": 0.5})


def test_prints_as_equations() -> None:
    assert str(small()) == (
        "seeds2 on ve: 3 model calls, 3 launches, 2 draws, 40 bytes per element\n"
        "    x0 = 4 noise\n"
        "    d0 = x0 - 4 model(x0, t=4)\n"
        "    x1 = 0.594604 x0 + 0.405396 d0 + 1.53073 z0\n"
        "    d1 = x1 - 2.82843 model(x1, t=2.82843)\n"
        "    x2 = 0.353553 x0 + 0.646447 d1 + 0.91018 z0 + 1.08239 z1\n"
        "    d2 = x2 - 2 model(x2, t=2)\n"
        "    x3 = d2\n"
        "    return x3"
    )


def test_prints_the_scaled_input_and_both_outputs_of_a_guided_call() -> None:
    edm = predictions.EDM(scaled_input=True)
    plan = fastsolve.make_plan("ddim", schedule="edm", grid=(2.0, 0.0), prediction=edm, guidance=3.0)
    call = "model(0.485071 x0, t=2)"
    assert f"d0 = 0.0588235 x0 + 1.45521 {call} - 0.970143 {call}'" in str(plan)


def test_counts() -> None:
    plan = small()
    assert (plan.nfe, plan.launches, plan.draws, plan.bytes) == (3, 3, 2, 40)
    assert [call.t for call in plan.evals] == pytest.approx([4.0, math.sqrt(8.0), 2.0])
    assert (plan.solver, plan.schedule, plan.start_std, plan.out) == ("seeds2", "ve", 4.0, "x3")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bytes_are_those_of_the_program(case: Case) -> None:
    for schedule, levels in LEVELS.items():
        for prediction, guidance in (("x0", None), ("eps", None), ("v", 2.0)):
            plan = fastsolve.make_plan(
                case.solver,
                schedule=schedule,
                grid=levels,
                prediction=prediction,
                guidance=guidance,
                options=case.options,
            )
            assert plan.bytes == moved(plan)


def moved(plan: Plan) -> int:
    """Bytes per element that the launches after model calls read and write, in float32."""
    return 4 * sum(len(launch.sources) + len(launch.rows) for _, launch in lower(plan).steps)


def test_churn_before_the_first_call_is_part_of_the_start() -> None:
    options = {"s_churn": 1.0, "s_tmin": 3.0}
    plan = fastsolve.make_plan("heun", schedule="edm", grid=(4.0, 2.0, 1.0), options=options)
    assert isinstance(plan.ops[0], Update)
    assert (plan.launches, plan.nfe, plan.draws) == (4, 4, 1)
    assert plan.bytes == moved(plan)


def test_a_guided_call_counts_once() -> None:
    plain, guided = (fastsolve.make_plan("heun", schedule="vp", steps=4, guidance=w) for w in (None, 2.0))
    assert (guided.nfe, guided.launches) == (plain.nfe, plain.launches)
    assert [len(call.b) for call in guided.evals] == [2] * guided.nfe
    assert guided.bytes > plain.bytes


def test_draws_are_numbered_in_the_order_of_the_text_without_gaps() -> None:
    plan = fastsolve.make_plan("seeds3", schedule="ve", steps=4)
    names = list(dict.fromkeys(name for row in plan.rows() for name, _ in row.terms if name[0] == "z"))
    assert names == [f"z{i}" for i in range(9)]


@pytest.mark.parametrize("final_zero", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_budget_buys_the_most_steps_that_fit(name: str, final_zero: bool) -> None:
    grid = grids.UniformLogSNR(final_zero=final_zero)

    def calls(**count: int) -> int:
        return fastsolve.make_plan(name, schedule="ve", grid=grid, **count).nfe

    by_steps = [calls(steps=n) for n in range(1, 12)]
    for budget in range(by_steps[0], 11):
        assert calls(nfe=budget) == max(n for n in by_steps if n <= budget)


def test_is_immutable() -> None:
    plan = small()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.out = "x0"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        plan.evals[0].t = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        plan.ops[0] = plan.ops[1]  # type: ignore[index]


def test_equals_what_has_the_same_numbers() -> None:
    plan = small()
    copy = Plan(plan.solver, plan.schedule, plan.start_std, plan.ops, plan.out, plan.variables, plan.levels)
    other = fastsolve.make_plan("seeds2", schedule="ve", grid=(4.0, 2.0, 0.0), prediction="eps")
    assert copy is not plan
    assert copy == plan
    assert {plan: 1}[copy] == 1
    assert other != plan
    assert len({plan, copy, other}) == 2


def test_a_pickled_plan_carries_nothing_computed_on_the_way() -> None:
    # A hash of strings is another in another process: a plan that brought its own would not be found there.
    plan = small()
    assert {plan: plan.nfe}[plan] == 3
    loaded = pickle.loads(pickle.dumps(plan))
    assert set(vars(loaded)) == {field.name for field in dataclasses.fields(Plan)}
    assert loaded == plan
    assert hash(loaded) == hash(plan)


def test_is_cached_by_meaning() -> None:
    plan = fastsolve.make_plan("seeds2", schedule="vp", steps=5, options={"eta": 0.5, "r": 0.4})
    same = {"options": {"r": 0.4, "eta": 0.5}, "grid": "rbe", "prediction": predictions.X0()}
    assert fastsolve.make_plan("seeds2", schedule=schedules.VP(), steps=5, **same) is plan
    assert fastsolve.make_plan("seeds2", schedule=schedules.VP(), nfe=9, **same) is plan
    assert fastsolve.make_plan("seeds2", schedule=schedules.VP(beta_max=19.0), steps=5, **same) != plan
    listed = fastsolve.make_plan("heun", schedule="ve", grid=[3.0, 1.0, 0.0])
    assert fastsolve.make_plan("heun", schedule="ve", grid=(3, 1, 0)) is listed


@pytest.mark.parametrize("case", CASES, ids=str)
def test_json_keeps_every_bit(case: Case) -> None:
    plan = fastsolve.make_plan(case.solver, schedule="vp", steps=5, prediction="v", options=case.options, guidance=1.5)
    back = Plan.from_json(plan.to_json())
    assert back == plan
    assert hash(back) == hash(plan)
    assert (str(back), back.to_json()) == (str(plan), plan.to_json())
    numbers = [number.hex() for p in (plan, back) for row in p.rows() for _, number in row.terms]
    assert numbers[: len(numbers) // 2] == numbers[len(numbers) // 2 :]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_json_is_refused(share: float) -> None:
    text = small().to_json()
    with pytest.raises(PlanError, match=r"breaks off or is malformed: .*line \d+"):
        Plan.from_json(text[: int(share * len(text))])


@pytest.mark.parametrize(("old", "new"), [('"out": "x3"', '"out": "x2"'), ('"seeds2"', '"seeds3"'), ('"z1"', '"z0"')])
def test_an_altered_plan_is_refused(old: str, new: str) -> None:
    text = small().to_json()
    assert old in text
    with pytest.raises(PlanError, match="altered after it was saved"):
        Plan.from_json(text.replace(old, new))


def test_a_number_edited_in_its_last_digit_is_refused() -> None:
    text, number = small().to_json(), small().evals[1].t
    assert repr(number) in text
    with pytest.raises(PlanError, match="altered after it was saved"):
        Plan.from_json(text.replace(repr(number), repr(math.nextafter(number, INF))))


@pytest.mark.parametrize(
    ("text", "given"),
    [("[]", "'list'"), ("3", "'int'"), ("{}", "None"), ('{"format": "fastsolve.plan.9"}', r"'fastsolve\.plan\.9'")],
)
def test_another_format_is_refused(text: str, given: str) -> None:
    with pytest.raises(PlanError, match=rf"not a plan of format 'fastsolve\.plan\.2', but {given}"):
        Plan.from_json(text)


def test_a_plan_file_without_a_plan_is_refused() -> None:
    with pytest.raises(PlanError, match="checksum"):
        Plan.from_json('{"format": "fastsolve.plan.2", "checksum": "0"}')


def test_a_bad_plan_with_a_good_checksum_is_refused() -> None:
    whole = json.loads(small().to_json())
    whole["plan"]["out"] = "x9"
    body = json.dumps(whole["plan"], sort_keys=True).encode()
    whole["checksum"] = hashlib.sha256(body).hexdigest()[:16]
    with pytest.raises(PlanError, match="the result x9 is never written"):
        Plan.from_json(json.dumps(whole))


def call(**fields: object) -> Eval:
    return Eval(**{"d": "d0", "x": "x0", "t": 1.0, "alpha": 1.0, "sigma": 1.0, "a": 0.5, "b": (1.0,), **fields})


def update(**rows: list[tuple[str, float]]) -> Update:
    return Update(tuple(Row(out, tuple(terms)) for out, terms in rows.items()))


GOOD = update(x1=[("x0", 0.5), ("d0", 0.5), ("z0", 1.0)])
BAD: dict[str, tuple[tuple[Eval | Apply | Update, ...], str]] = {
    "a call reads what is not there": ((call(x="x5"), GOOD), "call d0 reads x5, which is not written before"),
    "a row reads what comes later": ((GOOD, call()), "x1 reads d0, which is not written before"),
    "a row reads its own update": (
        (call(), update(x2=[("d0", 1.0)], x1=[("x2", 1.0)])),
        "x1 reads x2, which is not written before",
    ),
    "the start is overwritten": ((call(), update(x0=[("d0", 1.0)])), "x0 is written twice"),
    "a tensor is overwritten": ((call(), GOOD, call(d="d1"), GOOD), "x1 is written twice"),
    "updates follow each other": ((call(), GOOD, update(x2=[("x1", 1.0)])), "two updates in a row: x2"),
    "the last call is for nothing": ((call(), GOOD, call(d="d1")), "nothing is computed from the last call, d1"),
    "a prediction is overwritten": ((call(), call(), GOOD), "d0 is written twice"),
    "a row is empty": ((call(), update(x1=[])), "x1 is an empty combination"),
    "nothing is sampled": ((update(x1=[("x0", 1.0)]),), "without a model call"),
    "there is nothing": ((), "the result x1 is never written"),
    "the result is missing": ((call(),), "the result x1 is never written"),
    "an update is empty": ((call(), update(), GOOD), "an update without rows"),
    "a call has no output": ((call(b=()), GOOD), "call d0 has no raw output"),
    "a draw is written": ((call(), update(z0=[("d0", 1.0)])), "z0 is a draw"),
    "a coefficient is NaN": ((call(), update(x1=[("d0", NAN)])), "a number of x1 is not finite"),
    "coefficients cancel to NaN": ((call(), update(x1=[("d0", INF), ("x0", -INF)])), "a number of x1 is not finite"),
    **{
        f"{field} is not finite": ((call(**{field: number}), GOOD), "a number of d0 is not finite")
        for field, number in {
            "t": NAN,
            "alpha": INF,
            "sigma": INF,
            "a": -INF,
            "b": (1.0, NAN),
            "scale": INF,
            "clip": (0.0, INF),
        }.items()
    },
    "a number of a function is NaN": (
        (call(), Apply("d1", "apg", ("r0",), 1.0, 1.0, 1.0, (NAN,)), update(x1=[("d1", 1.0)])),
        "a number of d1 is not finite",
    ),
    "a call reads a prediction": (
        (call(), GOOD, call(d="d1", x="d0"), update(x2=[("d1", 1.0)])),
        "call d1 reads d0, which is no tensor",
    ),
}


def test_a_good_plan_is_taken() -> None:
    plan = Plan("mine", "ve", 1.0, (call(), GOOD), "x1")
    assert (plan.nfe, plan.launches, plan.draws) == (1, 1, 1)


@pytest.mark.parametrize("name", BAD)
def test_a_plan_that_breaks_a_rule_is_refused(name: str) -> None:
    ops, message = BAD[name]
    with pytest.raises(PlanError, match=message):
        Plan("mine", "ve", 1.0, ops, "x1")


@pytest.mark.parametrize("std", [0.0, -1.0, NAN, INF])
def test_a_plan_that_starts_from_no_noise_is_refused(std: float) -> None:
    with pytest.raises(PlanError, match=f"start_std must be positive and finite, not {std}"):
        Plan("mine", "ve", std, (call(), GOOD), "x1")


def test_levels_are_finite() -> None:
    with pytest.raises(PlanError, match="a number of levels is not finite"):
        Plan("mine", "ve", 1.0, (call(), GOOD), "x1", levels=((NAN, 1.0, 1.0),))


def test_a_text_may_run_another_from_any_form() -> None:
    law = schedules.get("ve")
    nodes = tuple(law.node(t) for t in (4.0, 2.0, 1.0))
    draft = fastsolve.Draft(law, predictions.X0())
    half = draft.run(solvers.get("ddim").text, 2.0 * draft.start, nodes[:2], eta=1.0)
    assert draft.start == fastsolve.Form({"x0": 1.0})
    whole = draft.run(solvers.get("ddim").text, half, nodes[1:], eta=1.0)
    twice = draft.finish(whole, "twice", 4.0)
    once = fastsolve.make_plan("ddim", schedule=law, grid=(4.0, 2.0, 1.0), options={"eta": 1.0})
    (start,), *others = [op.rows for op in twice.ops if isinstance(op, Update)]
    assert start == Row("x1", (("x0", 2.0),))
    assert [row.terms[-1] for rows in others for row in rows] == [row.terms[-1] for row in once.rows()]
    assert (twice.nfe, twice.launches, twice.draws) == (once.nfe, once.launches, once.draws)


@pytest.mark.parametrize("name", SOLVERS)
def test_cite_names_source_and_authors(name: str) -> None:
    cited = fastsolve.cite(name)
    assert cited.startswith(f"{solvers.get(name).source}. ")
    assert any(year in cited for year in map(str, range(2015, 2030)))


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"two solvers are called 'heun': fastsolve\.solvers\.heun and"):
        fastsolve.solver("heun", order=1, source="nowhere")(_text)


def _text(draft: fastsolve.Draft, grid: object) -> fastsolve.Form:
    raise AssertionError("is never written")
