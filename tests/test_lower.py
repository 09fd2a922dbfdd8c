"""Programs: a plan lowered in every way and interpreted in NumPy says what the plan's equations say."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

import fastsolve
from catalogue import CASES, LEVELS, SOLVERS, Case
from fastsolve import Plan, predictions
from fastsolve.lower import lower
from fastsolve.ops import Eval, Row, Update, raw_names
from fastsolve.program import START, STEP, Program

Array = npt.NDArray[np.float64]
Model = Callable[[Array, float, int], Array]
Ways = dict[str, bool]

N = 5
RAW_BYTES = {"raw_bytes": 2}  # of a model in bfloat16
SCALED = predictions.EDM(scaled_input=True)
PREDICTIONS = ["x0", "eps", "v", SCALED]
WAYS: list[Ways] = [
    dict(zip(("cast", "reused", "given", "noise"), on, strict=True))
    for on in itertools.product((False, True), (False, True), ("", "state"), (False, True))
]


def model(x: Array, t: float, branch: int) -> Array:
    """Any function: conditional (0) and unconditional (1) output."""
    return np.sin(x + t) + (0.5 - branch) * x


def material(plan: Plan) -> tuple[Array, Array]:
    """A start and the plan's draws, any numbers."""
    rng = np.random.default_rng(7)
    return rng.standard_normal(N), rng.standard_normal((plan.draws, N))


def direct(plan: Plan, start: Array, draws: Array) -> tuple[Array, list[Array]]:
    """The plan's equations as they stand: the result, and what the model was called on."""
    known, inputs = {"x0": start, **{f"z{i}": z for i, z in enumerate(draws)}}, []
    for op in plan.ops:
        if isinstance(op, Eval):
            x = op.scale * known[op.x]
            inputs.append(x)
            raws = [model(x, op.t, i) for i in range(len(op.b))]
            known |= zip(raw_names(op), raws, strict=True)
            known[op.d] = op.a * known[op.x] + sum(b * raw for b, raw in zip(op.b, raws, strict=True))
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}
    return known[plan.out], inputs


def interpreted(program: Program, start: Array, draws: Array, reused: bool) -> tuple[Array, list[Array]]:
    """The program on buffers that are NaN until written; a model that reuses its output spoils what it returned before."""
    buffers = [np.full(N, np.nan) for _ in program.slots]
    kinds = [slot.kind for slot in program.slots]
    noise, inputs = iter(draws), []
    for buffer, kind in zip(buffers, kinds, strict=True):
        if kind in ("start", "noise"):
            buffer[:] = start if kind == "start" else next(noise)

    def launch(index: int) -> None:
        one = program.launches[index]
        values = [buffers[slot].copy() for slot in one.sources]
        values += [start if stream == START else draws[number] for stream, number in one.draws]
        for row in one.rows:
            coefficients = program.table[row.offset : row.offset + len(row.terms)]
            buffers[row.out][:] = sum(c * values[p] for c, p in zip(coefficients, row.terms, strict=True))

    launch(0)
    for index, (calls, _) in enumerate(program.steps, start=1):
        for kind, buffer in zip(kinds, buffers, strict=True):
            if kind == "raw" and reused:
                buffer[:] = np.nan
        for call in calls:
            inputs.append(buffers[call.x[0]].copy())
            for branch, slot in enumerate(call.raws):
                buffers[slot][:] = model(inputs[-1], call.t, branch)
        launch(index)
    return buffers[kinds.index("out")], inputs


# Every case with every prediction; guided are every other case and every other prediction, and the rest of them in the next one.
@pytest.mark.parametrize(
    ("case", "prediction", "guidance"),
    [
        (case, prediction, (None, 2.0)[(i + j) % 2])
        for i, case in enumerate(CASES)
        for j, prediction in enumerate(PREDICTIONS)
    ],
    ids=lambda value: "scaled" if isinstance(value, predictions.EDM) else str(value),
)
def test_a_program_computes_its_plan(case: Case, prediction: str, guidance: float | None) -> None:
    churn = case.where(s_churn=1.5, s_tmax=15.0)
    for options in (case.options, churn) if churn != case.options else (case.options,):
        plan = fastsolve.make_plan(
            case.solver, schedule="ve", grid=LEVELS["ve"], prediction=prediction, guidance=guidance, options=options
        )
        start, draws = material(plan)
        by_noise, by_hand = direct(plan, plan.start_std * start, draws), direct(plan, start, draws)
        for ways in WAYS:
            program = lower(plan, **ways, **(RAW_BYTES if ways["cast"] else {}))
            result, inputs = interpreted(program, start, draws, ways["reused"])
            expected, expected_inputs = by_hand if ways["given"] else by_noise
            np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-8, err_msg=str(ways))
            np.testing.assert_allclose(inputs, expected_inputs, rtol=1e-8, atol=1e-8, err_msg=str(ways))


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_two_calls_before_one_launch(ways: Ways) -> None:
    first, second = (Eval(f"d{i}", "x0", 2.0 - i, 1.0, 1.0, 0.3, (0.7,)) for i in range(2))
    rows = (Row("x1", (("d0", 0.5), ("d1", -1.0), ("z0", 0.2))), Row("x2", (("x0", 1.0), ("d1", 0.4))))
    last = Row("x3", (("x2", 1.0), ("d2", 1.0), ("d0", 0.1)))
    ops = (first, second, Update(rows), Eval("d2", "x1", 0.5, 1.0, 0.5, 0.0, (1.0,), 0.25), Update((last,)))
    plan = Plan("by hand", "ve", 2.0, ops, "x3")
    start, draws = material(plan)
    result, _ = interpreted(lower(plan, **ways), start, draws, ways["reused"])
    expected, _ = direct(plan, start if ways["given"] else 2.0 * start, draws)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def kinds(program: Program) -> dict[str, int]:
    return dict(Counter(slot.kind for slot in program.slots))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_memory_does_not_grow_with_the_steps(case: Case) -> None:
    for prediction, ways in itertools.product(PREDICTIONS, ({}, {"reused": True}, {"cast": True})):
        few, many = (
            lower(
                fastsolve.make_plan(case.solver, schedule="edm", steps=n, prediction=prediction, options=case.options),
                **ways,
            )
            for n in (9, 20)
        )
        assert kinds(few) == kinds(many)


@pytest.mark.parametrize(
    ("solver", "prediction", "ways", "expected"),
    [
        ("ddim", "x0", {}, {"state": 1, "raw": 1, "out": 1}),
        ("ddim", "eps", {"reused": True}, {"state": 1, "raw": 1, "out": 1}),
        ("ddim", "eps", {"cast": True}, {"state": 1, "input": 1, "raw": 1, "out": 1}),
        ("ddim", SCALED, {"given": "state"}, {"start": 1, "state": 1, "input": 1, "raw": 1, "out": 1}),
        ("dpmpp_2m", "x0", {}, {"state": 1, "raw": 2, "out": 1}),
        ("dpmpp_2m", "x0", {"reused": True}, {"state": 2, "raw": 1, "out": 1}),
        ("heun", "x0", {}, {"state": 2, "raw": 2, "out": 1}),
        ("seeds3", "x0", {}, {"state": 2, "raw": 2, "out": 1}),
    ],
)
def test_buffers_are_shared_by_lifetime(solver: str, prediction: str, ways: Ways, expected: dict[str, int]) -> None:
    plan = fastsolve.make_plan(solver, schedule="edm", steps=8, prediction=prediction)
    assert kinds(lower(plan, **ways)) == expected


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: p if isinstance(p, str) else "scaled")
@pytest.mark.parametrize("name", SOLVERS)
def test_the_input_is_a_tensor_of_its_own_only_if_cast_or_scaled(name: str, prediction: str) -> None:
    plan = fastsolve.make_plan(name, schedule="edm", steps=4, prediction=prediction)
    for cast in (False, True):
        program = lower(plan, cast=cast)
        called_on = {program.slots[call.x[0]].kind for calls, _ in program.steps for call in calls}
        assert called_on == {"input" if cast or prediction is SCALED else "state"}
        read = {program.slots[slot].kind for launch in program.launches for slot in launch.sources}
        assert "input" not in read


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reused_output_is_read_by_the_launch_after_its_call_alone(case: Case, prediction: str) -> None:
    plan = fastsolve.make_plan(case.solver, schedule="edm", steps=5, prediction=prediction, options=case.options)
    for calls, launch in lower(plan, reused=True).steps:
        fresh = {slot for call in calls for slot in call.raws}
        kept = [slot for slot in launch.sources if lower(plan, reused=True).slots[slot].kind == "raw"]
        assert set(kept) <= fresh


@pytest.mark.parametrize("name", SOLVERS)
def test_what_the_caller_gives_is_not_drawn(name: str) -> None:
    plan = fastsolve.make_plan(name, schedule="ve", steps=4, options=Case(name).where(eta=1.0))
    streams = {
        (given, noise): {s for launch in lower(plan, given=given, noise=noise).launches for s, _ in launch.draws}
        for given in ("", "state")
        for noise in (False, True)
    }
    steps = {STEP} if plan.draws else set()
    assert streams == {
        ("", False): {START} | steps,
        ("", True): {START},
        ("state", False): steps,
        ("state", True): set(),
    }
    both = kinds(lower(plan, given="state", noise=True))
    assert (both["start"], both.get("noise", 0)) == (1, plan.draws)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_result_is_written_once_and_the_callers_tensors_never(case: Case) -> None:
    plan = fastsolve.make_plan(case.solver, schedule="ve", steps=4, options=case.options)
    program = lower(plan, given="state", noise=True)
    written = [program.slots[row.out].kind for launch in program.launches for row in launch.rows]
    assert set(written) <= {"state", "out"}
    assert written.count("out") == 1
    assert program.slots[program.launches[-1].rows[-1].out].kind == "out"
    assert all(program.slots[slot].kind != "out" for launch in program.launches for slot in launch.sources)


@pytest.mark.parametrize("cast", [False, True], ids=["plain", "cast"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_written_that_nobody_reads(case: Case, cast: bool) -> None:
    options = case.where(s_churn=1.5, s_tmin=10.0)
    program = lower(fastsolve.make_plan(case.solver, schedule="edm", steps=5, options=options), cast=cast)
    unread: set[int] = set()
    for calls, launch in zip([(), *(calls for calls, _ in program.steps)], program.launches, strict=True):
        unread -= {slot for call in calls for slot in call.x} | set(launch.sources)
        written = {row.out for row in launch.rows}
        assert not written & unread
        unread |= written
    assert {program.slots[slot].kind for slot in unread} == {"out"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_table_holds_the_rows_in_order_without_gaps(case: Case) -> None:
    program = lower(fastsolve.make_plan(case.solver, schedule="vp", steps=5, prediction="v", options=case.options))
    at = 0
    for launch in program.launches:
        assert len(set(launch.sources)) == len(launch.sources)
        assert len({row.out for row in launch.rows}) == len(launch.rows)
        for row in launch.rows:
            assert row.offset == at
            assert len(set(row.terms)) == len(row.terms) > 0
            assert all(0 <= p < len(launch.sources) + len(launch.draws) for p in row.terms)
            at += len(row.terms)
        used = {p for row in launch.rows for p in row.terms}
        assert used == set(range(len(launch.sources) + len(launch.draws)))
    assert program.table.shape == (at,)
    assert program.table.dtype == np.float64


def test_a_table_by_hand() -> None:
    plan = fastsolve.make_plan("euler_ancestral", schedule="ve", grid=(2.0, 1.0, 0.0), prediction="eps")
    # d0 = x - 2 raw, x1 = x / 4 + 3/4 d0 + sqrt(3/4) z0; then d1 = x - 1 raw, returned
    assert lower(plan).table.tolist() == pytest.approx([2.0, 1.0, -1.5, math.sqrt(0.75), 1.0, -1.0])
    assert [len(launch.rows) for launch in lower(plan).launches] == [1, 1, 1]


# fastsolve's first call is at the start or below it, as the levels are.
@pytest.mark.parametrize("case", [case for case in CASES if str(case) != "fastsolve"], ids=str)
def test_other_levels_change_nothing_but_the_table_and_the_clock(case: Case) -> None:
    first, second = (
        lower(fastsolve.make_plan(case.solver, schedule="ve", grid=levels, prediction="eps", options=case.options))
        for levels in ((9.0, 4.0, 2.0, 0.5, 0.0), (30.0, 3.0, 1.0, 0.1, 0.0))
    )
    assert first.launches == second.launches
    assert first.slots == second.slots
    assert first.table.tolist() != second.table.tolist()


def test_is_cached_by_plan_and_ways() -> None:
    plan = fastsolve.make_plan("heun", schedule="ve", steps=4)
    assert lower(plan, cast=True) is lower(Plan.from_json(plan.to_json()), cast=True)
    assert lower(plan, cast=True) is not lower(plan)
