"""What every solver of the catalogue declares, measured: a solver added later is tested here without writing a test."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
import fused_runs
from bits import assert_bits_equal
from catalogue import (
    CASES,
    IN_THE_CLOCK,
    LEVELS,
    NO_LIMIT,
    NO_START_BELOW,
    ONE_CALL_MORE,
    OWN_ENDS,
    PREDICTIONS,
    RENOISING,
    SOLVERS,
    Case,
    needs_native,
)
from fastsolve import Plan, grids, philox, predictions, schedules, solvers
from fastsolve.lower import lower
from fastsolve.schedules import Node
from moments import MEAN, STD, marginal, moments, propagate
from orders import HIGH, LOW, MIDDLE, START, exact, path_order, plan_of, slope, variance_order, without_noise
from problems import Gaussian, plane_mixture

BASIC = [Case(name) for name in SOLVERS]
CHURNING = [name for name in SOLVERS if "s_churn" in solvers.get(name).options]
FROM_ALPHA_0 = {
    "flow": schedules.get("flow"),
    "cosine": schedules.get("vp_cosine"),
    "table": schedules.VPTable((*[math.cos(0.5 * math.pi * i / 408) ** 2 for i in range(8, 408)], 0.0)),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors of a few elements: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


NEW_SOLVER = '''"""Ralston's method, as a paper of tomorrow might have it."""

from __future__ import annotations

import math
from itertools import pairwise

from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.solvers import Grid, solver
from fastsolve.solvers.ddim import ddim_step


@solver("ralston", order=2, stages=2, forms="noise", source="arXiv 0000.00000, algorithm 1")
def ralston(draft: Draft, grid: Grid, *, c: float = 2.0 / 3.0) -> Form:
    """Ralston's method in sigma / alpha (Ralston 1962); c: the inner node."""
    x = draft.start
    for s, t in pairwise(grid):
        d = draft.denoised(s, x)
        end = ddim_step(x, d, s, t)
        if t.sigma > 0.0 and s.alpha > 0.0:
            rho, width = s.sigma / s.alpha, t.sigma / t.alpha - s.sigma / s.alpha
            u = draft.schedule.at_lam(-math.log(rho + c * width))
            y = draft.keep(ddim_step(x, d, s, u))
            bend = (y - u.alpha * draft.denoised(u, y)) / u.sigma - (x - s.alpha * d) / s.sigma
            end = end + (t.alpha * width / (2.0 * c)) * bend
        x = draft.keep(end)
    return x
'''


def test_a_new_solver_is_one_file_and_no_other_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ralston_1962.py").write_text(NEW_SOLVER, "utf-8")
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path)])
    monkeypatch.setattr(solvers, "_registry", dict(solvers._registry))
    monkeypatch.delitem(sys.modules, "fastsolve.solvers.ralston_1962", raising=False)
    solvers._discover.cache_clear()  # as in a new process
    try:
        assert "ralston" in fastsolve.list_solvers()
        assert "0000.00000" in fastsolve.cite("ralston")
        case = Case("ralston")
        order, errors = path_order(case, 0.0)
        assert order == pytest.approx(case.fact.order, abs=0.25), errors
        for schedule, levels in LEVELS.items():
            plan = fastsolve.make_plan("ralston", schedule=schedule, grid=levels, prediction="v")
            assert plan.launches == plan.nfe == 2 * (len(levels) - 2) + 1
        assert_close(run("ralston", c=1.0), run("heun"))
        with pytest.raises(ValueError, match=r"ralston has no option 'eta'; nearest is .*; it has c, denoise_final"):
            fastsolve.make_plan("ralston", schedule="vp", steps=3, options={"eta": 1.0})
        with pytest.raises(ValueError, match="unknown solver 'ralson'; nearest is 'ralston'"):
            fastsolve.make_plan("ralson", schedule="vp", steps=3)
    finally:
        sys.modules.pop("fastsolve.solvers.ralston_1962", None)


@pytest.mark.parametrize("name", fastsolve.list_solvers())
def test_a_solver_has_45_lines_of_code_at_most(name: str) -> None:
    source = textwrap.dedent(inspect.getsource(solvers.get(name).text))
    docstring = ast.parse(source).body[0].body[0]
    lines = source.splitlines()
    lines = lines[: docstring.lineno - 1] + lines[docstring.end_lineno :]
    assert sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines) <= 45


@pytest.mark.parametrize(
    ("case", "eta"),
    [
        (case, eta)
        for case in CASES
        for eta in ((0.0, 1.0) if "eta" in case.fact.options and case.solver not in RENOISING else (0.0,))
        if case.solver not in NO_LIMIT
    ],
    ids=str,
)
def test_declared_order_on_a_nonlinear_problem(case: Case, eta: float) -> None:
    order, errors = path_order(case, eta)
    assert order == pytest.approx(case.fact.order, abs=0.25), errors


@pytest.mark.parametrize("case", [case for case in CASES if case.fact.weak_order], ids=str)
def test_declared_weak_order_of_the_variance(case: Case) -> None:
    order, errors = variance_order(case)
    assert order == pytest.approx(case.fact.weak_order, abs=0.25), errors
    assert errors[-1] < (3e-2 if case.fact.weak_order == 1 else 3e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case.solver not in NO_LIMIT], ids=str)
def test_moments_on_the_whole_range(case: Case) -> None:
    plan = fastsolve.make_plan(case.solver, schedule="edm", steps=300, options=case.options)
    mean, variance = moments(plan)
    bound = 0.06 if case.fact.order == 1 else 0.006
    assert mean == pytest.approx(MEAN, rel=bound)
    assert variance == pytest.approx(STD**2, rel=bound)


@pytest.mark.parametrize("name", SOLVERS)
def test_draws_noise_where_it_says_so(name: str) -> None:
    case = Case(name)
    assert (plan_of(case, 3).draws > 0) == case.fact.stochastic
    assert not case.fact.stochastic or case.fact.weak_order is not None
    if "eta" in case.fact.options:
        assert plan_of(case, 3, eta=0.0).draws == 0
        assert plan_of(case, 3, eta=1.0).draws > 0


@pytest.mark.parametrize("name", [name for name in SOLVERS if "s_noise" in solvers.get(name).options])
def test_s_noise_multiplies_every_draw_and_nothing_else(name: str) -> None:
    once, twice = (plan_of(Case(name), 4, "vp", s_churn=4.0, s_noise=s) for s in (1.0, 2.0))
    if not once.draws:
        pytest.skip("these options draw no noise")
    for row, louder in zip(once.rows(), twice.rows(), strict=True):
        assert dict(louder.terms) == pytest.approx({k: c * (2.0 if k[0] == "z" else 1.0) for k, c in row.terms})


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@pytest.mark.parametrize("name", CHURNING)
def test_churn_raises_the_state_to_the_law_of_its_new_level(name: str, schedule: str) -> None:
    plan, first = plan_of(Case(name), 5, schedule, s_churn=2.0), grids.nodes(MIDDLE, schedules.get(schedule), 5)[0]
    call = plan.evals[0]
    assert call.sigma / call.alpha == pytest.approx(HIGH * (1.0 + 2.0 / 6.0))
    x = propagate(plan, marginal(first.alpha, first.sigma))[call.x]
    assert (x[0], math.hypot(*x[1:])) == pytest.approx(marginal(call.alpha, call.sigma))


@pytest.mark.parametrize("name", CHURNING)
def test_churn_stays_in_its_window_and_in_the_schedule(name: str) -> None:
    options = Case(name).where(s_churn=50.0, eta=0.0)
    plan = fastsolve.make_plan(name, schedule="vp", steps=6, options=options)
    assert plan.evals[0].t == 1.0
    assert all(call.t < 1.0 for call in plan.evals[1:])

    law = schedules.get("vp")
    levels = [node.sigma / node.alpha for node in grids.nodes(MIDDLE, law, 6)][:-1]
    for low, high, expected in (
        (0.0, math.inf, 6),
        (levels[3] * 0.99, levels[1] * 1.01, 3),
        (1.01 * levels[3], 0.99 * levels[1], 1),
    ):
        window = {**options, "s_tmin": low, "s_tmax": high}
        assert plan_of(Case(name, window), 6, "vp").draws == expected


@pytest.mark.parametrize("name", CHURNING)
def test_churn_raises_by_the_square_root_of_two_at_most(name: str) -> None:
    for churn, factor in ((0.07, 1.01), (2.8, 1.4), (2.9, 2**0.5), (1e9, 2**0.5)):
        call = plan_of(Case(name), 6, "vp", s_churn=churn).evals[0]
        assert call.sigma / call.alpha == pytest.approx(HIGH * factor)


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("name", SOLVERS)
def test_calls_are_those_of_the_declared_stages(name: str, steps: int) -> None:
    stages, more = solvers.get(name).stages, name in ONE_CALL_MORE
    assert fastsolve.make_plan(name, schedule="edm", steps=steps).nfe == stages * (steps - 1) + 1 + (more and steps > 1)
    open_end = fastsolve.make_plan(name, schedule="edm", steps=steps, grid=grids.Karras(final_zero=False))
    assert open_end.nfe == stages * steps + more


@pytest.mark.parametrize("prediction", [*PREDICTIONS, predictions.EDM(scaled_input=True)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_launch_for_each_call_of_the_model(case: Case, prediction: str | predictions.Prediction) -> None:
    for schedule, levels in LEVELS.items():
        plan = fastsolve.make_plan(
            case.solver, schedule=schedule, grid=levels, prediction=prediction, options=case.options
        )
        program = lower(plan)
        assert plan.launches == plan.nfe == len(program.steps)
        assert all(launch.rows for launch in program.launches)
        assert max(len(launch.sources) for launch in program.launches) <= (
            7 if "corrector" in "".join(case.fact.options) else 5
        )


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in OWN_ENDS])
def test_a_grid_to_zero_ends_with_the_denoised_prediction(name: str) -> None:
    plan = fastsolve.make_plan(name, schedule="vp", steps=5)
    (last,) = plan.ops[-1].rows
    ((name, c),) = last.terms
    assert (last.out, name) == (plan.out, plan.evals[-1].d)
    assert c == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("name", SOLVERS)
def test_denoise_final_adds_one_call_at_the_last_level(name: str) -> None:
    usual = fastsolve.make_plan(name, schedule="ve", steps=5, grid=MIDDLE)
    clean = fastsolve.make_plan(name, schedule="ve", steps=5, grid=MIDDLE, options={"denoise_final": True})
    assert clean.ops[: len(usual.ops)] == usual.ops
    assert (clean.nfe, clean.evals[-1].x, clean.evals[-1].t) == (usual.nfe + 1, usual.out, pytest.approx(LOW))
    assert list(clean.rows())[-1].terms == ((clean.evals[-1].d, 1.0),)


def test_seeds3_moves_eleven_tensors_a_step_and_reads_three_at_most() -> None:
    plans = [fastsolve.make_plan("seeds3", schedule="edm", steps=steps) for steps in (5, 6)]
    assert plans[1].bytes - plans[0].bytes == 11 * 4
    assert max(len(launch.sources) for launch in lower(plans[0]).launches) == 3
    assert max(len(launch.draws) for launch in lower(plans[0]).launches) == 3


# Numbers of the method's table for VE, sigma 2.0 to 0.8: per row the node's sigma, the factor of x, of M_1 .. and of z_1 ..
TABLE = [
    (
        ("seeds2", "data", 1.0),
        (1.264911064067, 0.4, [0.6], [0.979795897113]),
        (0.8, 0.16, [0.0, 0.84], [0.391918358845, 0.619677335393]),
    ),
    (
        ("seeds3", "data", 1.0),
        (1.473612599456, 0.542883523319, [0.457116476681], [0.996315218046]),
        (1.085767046638, 0.294722519891, [-0.140158598897, 0.845436079006], [0.540883115909, 0.734091329172]),
        (0.8, 0.16, [0.0275547008, 0.0, 0.8124452992], [0.293636531669, 0.398526087219, 0.540883115909]),
    ),
    (
        ("seeds3", "data", 0.5),
        (1.473612599456, 0.632455532034, [0.367544467966], [0.755998738938]),
        (1.085767046638, 0.4, [-0.090371998475, 0.690371998475], [0.478135584652, 0.557024633436]),
        (0.8, 0.252982212813, [0.0622806303, 0.0, 0.684737156886], [0.302399495575, 0.352293310896, 0.410419259019]),
    ),
    (
        ("seeds3", "noise", 1.0),
        (1.473612599456, 1.0, [-1.052774801088], [1.352207789773]),
        (1.085767046638, 1.0, [-0.185008715078, -1.643457191646], [1.352207789773, 0.996315218046]),
        (0.8, 1.0, [-0.871115995426, 0.0, -1.528884004574], [1.352207789773, 0.996315218046, 0.734091329172]),
    ),
    (
        ("seeds3", "edm", 1.0),
        (1.241407519415, 0.421433559826, [0.304872737473], [1.017971554874]),
        (0.959933856746, 0.275640708077, [0.005831243204, 0.384229234542], [0.665809339683, 0.636604494749]),
        (0.8, 0.209411764706, [0.116020260392, 0.0, 0.318813077868], [0.505833516948, 0.483645799617, 0.462431317123]),
    ),
]


def in_terms_of_model(form: str, x: float, d: float, sigma: float) -> tuple[float, float]:
    """Factors of x and M where factors of x and of D = M, x - sigma M or c_skip x + c_out M are given."""
    if form == "data":
        return x, d
    if form == "noise":
        return x + d, -sigma * d
    power = sigma**2 + 0.25
    return x + d * 0.25 / power, d * 0.5 * sigma / math.sqrt(power)


@pytest.mark.parametrize("table", TABLE, ids=lambda table: "-".join(map(str, table[0])))
def test_seeds_weights_are_those_of_the_method(table: tuple) -> None:
    (name, form, eta), *expected = table
    plan = fastsolve.make_plan(name, schedule="ve", grid=(2.0, 0.8), options={"form": form, "eta": eta})
    sigmas = [call.sigma for call in plan.evals] + [0.8]
    for i, (row, (sigma, carry, weights, draws)) in enumerate(zip(plan.rows(), expected, strict=True), start=1):
        terms = dict(row.terms)
        pairs = [in_terms_of_model(form, terms.get(f"x{j}", 0.0), terms.get(f"d{j}", 0.0), sigmas[j]) for j in range(i)]
        assert sigmas[i] == pytest.approx(sigma, abs=1e-11)
        assert [x for x, _ in pairs] == pytest.approx([carry] + [0.0] * (i - 1), abs=1e-11)
        assert [m for _, m in pairs] == pytest.approx(weights, abs=1e-11)
        assert [terms.get(f"z{j}", 0.0) for j in range(i)] == pytest.approx(draws, abs=1e-11)


def transition(form: str, eta: float, a: Node, b: Node) -> tuple[float, float]:
    """Factor of the state and standard deviation of the noise from a to b, where the model output is constant."""
    h = b.lam - a.lam
    if form == "data":
        return b.sigma / a.sigma * math.exp(-eta * h), b.sigma * math.sqrt(1.0 - math.exp(-2.0 * eta * h))
    if form == "noise":
        return b.alpha / a.alpha, b.sigma * math.sqrt(eta * (math.exp(2.0 * h) - 1.0))
    above, below = a.sigma**2 + 0.25, b.sigma**2 + 0.25
    return below / above, math.sqrt(below * (a.sigma**2 - b.sigma**2) / above)


NODES = {"seeds1": [{}], "seeds2": [{}, {"r": 0.8}, {"r": 0.2}, {"r": 1.0}], "seeds3": [{}, {"r1": 0.2, "r2": 0.9}]}
FRAMES = [("data", eta, s) for eta in (1.0, 0.5, 2.0) for s in ("ve", "vp", "flow")]
FRAMES += [("noise", eta, s) for eta in (1.0, 0.5, 2.0) for s in ("ve", "vp", "flow")] + [("edm", 1.0, "ve")]


@pytest.mark.parametrize(("form", "eta", "schedule"), FRAMES)
@pytest.mark.parametrize(("name", "nodes"), [(name, nodes) for name in NODES for nodes in NODES[name]], ids=str)
def test_seeds_noise_is_that_of_one_brownian_path(name: str, nodes: dict, form: str, eta: float, schedule: str) -> None:
    law = schedules.get(schedule)
    ends = law.at_lam(-math.log(HIGH)), law.at_lam(-math.log(LOW))
    options = {**nodes, "form": form, "eta": eta}
    plan = fastsolve.make_plan(name, schedule=law, grid=[node.t for node in ends], options=options)
    stages = [law.node(call.t) for call in plan.evals[1:]] + [ends[1]]
    gathered = noises(plan)
    for i, (node, noise) in enumerate(zip(stages, gathered, strict=True)):
        variance = transition(form, eta, ends[0], node)[1] ** 2
        assert noise @ noise == pytest.approx(variance, rel=1e-11)
        for later, other in zip(stages[i:], gathered[i:], strict=True):
            assert noise @ other == pytest.approx(transition(form, eta, node, later)[0] * variance, rel=1e-11)


@pytest.mark.parametrize(("form", "eta"), [("data", 1.0), ("noise", 0.3), ("edm", 1.0), ("edm", 0.0)])
def test_seeds_nodes_lie_where_they_are_asked_for(form: str, eta: float) -> None:
    def variable(sigma: float) -> float:
        if form != "edm":
            return -math.log(sigma)
        return -math.log(sigma / math.hypot(sigma, 0.5)) if eta else -math.log(math.atan(sigma / 0.5))

    options = {"r1": 0.3, "r2": 0.8, "form": form, "eta": eta}
    plan = fastsolve.make_plan("seeds3", schedule="edm", grid=(HIGH, LOW), options=options)
    whole = variable(LOW) - variable(HIGH)
    places = [(variable(call.sigma) - variable(HIGH)) / whole for call in plan.evals]
    assert places == pytest.approx([0.0, 0.3, 0.8], abs=1e-12)


def noises(plan: Plan) -> list[np.ndarray]:
    """What each row of a plan adds of z0, z1, z2."""
    return [np.array([dict(row.terms).get(f"z{j}", 0.0) for j in range(3)]) for row in plan.rows()]


def correlation(plan: Plan) -> float:
    """Of the noise of the first stage and of the whole step."""
    first, *_, last = noises(plan)
    return float(first @ last / np.linalg.norm(first) / np.linalg.norm(last))


def test_official_seeds_have_the_published_errors() -> None:
    grid = (math.exp(1.2), 1.0)  # h = 1.2

    def plan(name: str, **options: object) -> Plan:
        return fastsolve.make_plan(name, schedule="ve", grid=grid, options=options)

    right, wrong = plan("seeds3", form="noise"), plan("seeds3", form="noise", compat="official")
    assert (correlation(right), correlation(wrong)) == pytest.approx((0.778, 0.522), abs=1e-3)
    assert np.square(noises(wrong)[1]).sum() / np.square(noises(right)[1]).sum() == pytest.approx(0.449, abs=1e-3)
    right, wrong = plan("seeds2", r=0.8), plan("seeds2", r=0.8, compat="official")
    assert (correlation(right), correlation(wrong)) == pytest.approx((0.762, 0.248), abs=1e-3)

    case = Case("seeds3", {"compat": "official"})
    errors = [float((without_noise(case, n, 1.0) - exact(1.0)).norm()) for n in (32, 128)]
    assert slope((32, 128), errors) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize(("r1", "r2"), [(1 / 3, 2 / 3), (0.2, 0.7)])
@pytest.mark.parametrize("form", ["data", "noise"])
def test_official_seeds_compute_what_was_published(form: str, r1: float, r2: float) -> None:
    h, ends, k = 1.2, (math.exp(1.2), 1.0), -2.4 if form == "data" else 2.4
    a, b, c = (math.sqrt(abs(math.exp(k * high) - math.exp(k * low))) for low, high in ((0.0, r1), (r1, r2), (r2, 1.0)))
    whole = math.sqrt(abs(math.exp(k) - math.exp(k * r1)))
    options = {"form": form, "compat": "official"}
    three = fastsolve.make_plan("seeds3", schedule="ve", grid=ends, options={**options, "r1": r1, "r2": r2})
    two = fastsolve.make_plan("seeds2", schedule="ve", grid=ends, options={**options, "r": r1})
    _, second, third = (call.sigma for call in three.evals)
    # The last draw belongs to the last part of the step, and has the size of the first one.
    assert noises(two)[1] == pytest.approx([whole, a, 0.0])
    right = plan_weights(three, form)[1]
    if form == "data":
        assert noises(three) == [pytest.approx(v) for v in ([second * a, 0, 0], [third * b, third * a, 0], [c, b, a])]
        assert right == pytest.approx(r2 / r1 * (1.0 + math.expm1(-2.0 * r1 * h) / (r1 * h)))
    else:
        assert noises(three) == [pytest.approx(v) for v in ([second * a, 0, 0], [b, a, 0], [b, c, a])]
        assert right == pytest.approx(-2.0 * third * r2 / r1 * (math.exp(r2 * h) - 1.0 - r2 * h) / (r2 * h))


def plan_weights(plan: Plan, form: str) -> list[float]:
    """Weights of the model's outputs in the second row of a one-step plan, in VE."""
    row = dict(list(plan.rows())[1].terms)
    return [in_terms_of_model(form, 0.0, row[call.d], call.sigma)[1] for call in plan.evals[:2]]


@pytest.mark.parametrize("name", ["seeds2", "seeds3"])
def test_official_seeds_in_edm_form_are_right(name: str) -> None:
    ours, theirs = (
        fastsolve.make_plan(name, schedule="edm", steps=5, options={"form": "edm", "compat": compat})
        for compat in (None, "official")
    )
    assert ours.ops == theirs.ops


@needs_native
@pytest.mark.parametrize("shape", [(1, 7), (3, 3, 5, 3), (3, 1003)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_has_the_bits_of_eager(case: Case, shape: tuple[int, ...]) -> None:
    for (schedule, levels), prediction in zip(LEVELS.items(), [*PREDICTIONS, "v"], strict=True):
        model = Gaussian().model(schedule, prediction)
        eager, native = (
            fastsolve.sample(
                model,
                shape,
                solver=case.solver,
                schedule=schedule,
                prediction=prediction,
                grid=levels[:3] + levels[-1:],
                seed=3,
                options=case.options,
                executor=executor,
            )
            for executor in ("eager", "native")
        )
        assert eager.isfinite().all()
        assert_bits_equal(native, eager)


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def fused(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = tmp_path_factory.mktemp("fused") / "results.npz"
    interpreting = request.param == "interpreter"
    search = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpreting)), "PYTHONPATH": search}
    command = [sys.executable, fused_runs.__file__, "cpu" if interpreting else "cuda", path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("name", fused_runs.RUNS)
def test_fused_has_the_bits_of_eager(name: str, fused: dict[str, np.ndarray]) -> None:
    assert_bits_equal(fused[name], fused_runs.run(name, "eager"))


def drawn(name: str, seed: object, batch: int = 4, **kwargs: object) -> Tensor:
    model = Gaussian().model("vp", "v")
    return fastsolve.sample(
        model, (batch, 3, 5), solver=name, steps=4, schedule="vp", prediction="v", seed=seed, **kwargs
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_a_seed_decides_every_bit(name: str) -> None:
    assert_bits_equal(drawn(name, 11), drawn(name, 11))
    assert not (drawn(name, 11) == drawn(name, 12)).any()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    whole = drawn(name, [5, 6, -7, 2**63])
    assert_bits_equal(whole[2:3], drawn(name, [-7], batch=1))
    assert_bits_equal(whole[1:3], drawn(name, [6, -7], batch=2))


@pytest.mark.parametrize("name", SOLVERS)
def test_an_int_seeds_sample_i_by_its_documented_key(name: str) -> None:
    whole = drawn(name, 11)
    for i in range(4):
        assert_bits_equal(whole[i : i + 1], drawn(name, [(11 + i * 0x9E3779B97F4A7C15) % 2**64], batch=1))


@pytest.mark.parametrize("name", SOLVERS)
def test_no_draw_is_used_for_two_things(name: str) -> None:
    plan = fastsolve.make_plan(name, schedule="ve", steps=5, options=Case(name).where(eta=1.0, s_churn=10.0))
    program = lower(plan)
    numbers = {draw for launch in program.launches for draw in launch.draws}
    assert numbers == {(philox.START_STREAM, 0)} | {(philox.STEP_STREAM, i) for i in range(plan.draws)}
    assert not any(stream == philox.START_STREAM for _, launch in program.steps for stream, _ in launch.draws)


def test_a_step_by_hand_has_the_start_and_the_draw_of_its_streams() -> None:
    x = fastsolve.sample(
        lambda x, t: torch.zeros_like(x),
        (2, 9),
        solver="euler_ancestral",
        schedule="ve",
        prediction="x0",
        grid=(2.0, 1.0),
        seed=(8, 9),
        dtype=torch.float64,
        executor="eager",
    )
    keys = philox.sample_seeds((8, 9), 2)
    start, draw = (philox.normals(keys, 9, 0, stream).astype(np.float64) for stream in (0, 1))
    up = math.sqrt(0.75)  # k-diffusion's get_ancestral_step: sqrt(1 (4 - 1) / 4), and sigma_down = 1/2
    np.testing.assert_allclose(x.numpy(), 0.25 * 2.0 * start + up * draw, rtol=1e-14)


def run(name: str, schedule: str = "ve", prediction: str = "x0", grid: object = MIDDLE, **options: object) -> Tensor:
    """A float64 run on the mixture in six steps, in units of data: of x / alpha, from the same noise."""
    law, start = schedules.get(schedule), grids.nodes(MIDDLE, schedules.get(schedule), 6)
    if not isinstance(grid, grids.Grid):
        start = tuple(law.node(t) for t in grid)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(40, *START.shape, generator=generator, dtype=torch.float64)
    x = fastsolve.sample(
        plane_mixture().model(law, prediction),
        solver=name,
        schedule=law,
        prediction=prediction,
        grid=grid,
        steps=6 if isinstance(grid, grids.Grid) else None,
        x_init=START * start[0].alpha,
        noise=lambda i: noise[i],
        options=options,
        dtype=torch.float64,
        executor="eager",
    )
    return x / start[-1].alpha


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_ddim_with_noise_is_ancestral_euler_and_the_posterior_of_seeds1() -> None:
    ddim, euler = (
        fastsolve.make_plan(name, schedule="vp", steps=9, options={"eta": 1.0}) for name in ("ddim", "euler_ancestral")
    )
    assert (ddim.ops, ddim.out) == (euler.ops, euler.out)
    assert_close(run("seeds1"), run("ddim", eta=1.0))
    assert (run("ddim", eta=1.0) - run("ddim", eta=0.5)).abs().max() > 0.01


def test_without_noise_the_first_order_solvers_are_one() -> None:
    for other in (run("seeds1", eta=0.0), run("euler_ancestral", eta=0.0), run("seeds1", eta=0.0, form="noise")):
        assert_close(other, run("ddim"))


@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_without_noise_dpmpp_2m_sde_is_dpmpp_2m(variant: str) -> None:
    plain = fastsolve.make_plan("dpmpp_2m", schedule="vp", steps=9, options={"variant": variant})
    noisy = fastsolve.make_plan("dpmpp_2m_sde", schedule="vp", steps=9, options={"variant": variant, "eta": 0.0})
    assert (plain.ops, plain.out) == (noisy.ops, noisy.out)


@pytest.mark.parametrize("schedule", ["vp", "flow", "sub_vp", "vp_cosine"])
@pytest.mark.parametrize("case", [case for case in CASES if case.solver not in IN_THE_CLOCK], ids=str)
def test_the_schedule_is_a_matter_of_scale(case: Case, schedule: str) -> None:
    options = case.where(s_churn=3.0)
    assert_close(run(case.solver, schedule, **options), run(case.solver, **options), 1e-13)


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_network_predicts_is_a_matter_of_algebra(case: Case, schedule: str) -> None:
    expected = run(case.solver, schedule, **case.options)
    for prediction in PREDICTIONS[1:]:
        assert_close(run(case.solver, schedule, prediction, **case.options), expected, 1e-11)


@pytest.mark.parametrize("name", SOLVERS)
def test_x_init_of_the_start_noise_is_the_start(name: str) -> None:
    keys = philox.sample_seeds(11, 4)
    start = torch.from_numpy(philox.normals(keys, 15, 0, philox.START_STREAM)).view(4, 3, 5)
    assert_bits_equal(drawn(name, 11, x_init=start), drawn(name, 11))


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver_2"])
def test_churn_is_that_of_edm_algorithm_2(name: str) -> None:
    levels = (HIGH, 2.0, 1.1, 0.5, LOW, 0.0)
    churn, t_min, t_max, loud = 1.5, 0.3, 2.5, 1.01
    noise = torch.randn(40, *START.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    denoise, draws, x = plane_mixture().x0, iter(noise), START
    for s, t in pairwise(levels):
        gamma = min(churn / 5, math.sqrt(2.0) - 1.0) if t_min <= s <= t_max else 0.0
        hat = s * (1.0 + gamma)
        if gamma:
            x = x + math.sqrt(hat**2 - s**2) * loud * next(draws)
        slope_hat = (x - denoise(x, hat)) / hat
        euler, middle = x + (t - hat) * slope_hat, math.sqrt(hat * t)
        if name == "euler" or t == 0.0:
            x = euler
        elif name == "heun":
            x = x + (t - hat) * 0.5 * (slope_hat + (euler - denoise(euler, t)) / t)
        else:
            inside = x + (middle - hat) * slope_hat
            x = x + (t - hat) * (inside - denoise(inside, middle)) / middle
    assert_close(run(name, grid=levels, s_churn=churn, s_tmin=t_min, s_tmax=t_max, s_noise=loud), x)


@pytest.mark.parametrize("lower_order_final", [False, True])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_dpmpp_2m_is_the_algorithm_of_its_paper(variant: str, lower_order_final: bool) -> None:
    levels = (HIGH, 2.0, 1.1, 0.5, LOW)
    x, before, h_before = START, None, 0.0
    for s, t in pairwise(levels):
        h = math.log(s / t)
        d = plane_mixture().x0(x, s)
        x = t / s * x + (1.0 - math.exp(-h)) * d
        if before is not None and not (lower_order_final and t == LOW):
            ratio = h_before / h
            bend = (1.0 - math.exp(-h)) / 2.0 if variant == "midpoint" else (math.exp(-h) - 1.0 + h) / h
            x = x + bend * (d - before) / ratio
        before, h_before = d, h
    assert_close(run("dpmpp_2m", grid=levels, variant=variant, lower_order_final=lower_order_final), x)


def guided(guidance: float | None) -> Tensor:
    mixture, levels = plane_mixture(), (HIGH, 1.0, 0.4, LOW)

    def model(x: Tensor, t: Tensor, shift: float = 0.2) -> Tensor:
        return mixture.model("ve")(x, t) + shift

    denoiser = fastsolve.Denoiser(model, "ve", "x0", null={"shift": -0.1})
    return fastsolve.sample(
        denoiser, solver="seeds2", grid=levels, x_init=START.float(), guidance=guidance, options={"eta": 0.0}
    )


def test_guidance_of_one_is_none() -> None:
    assert_bits_equal(guided(1.0), guided(None))


@pytest.mark.parametrize("guidance", [2.5, 0.0, -1.0])
def test_guidance_combines_the_two_outputs(guidance: float) -> None:
    mixture = plane_mixture().model("ve")
    by_hand = fastsolve.Denoiser(lambda x, t: mixture(x, t) - 0.1 + guidance * (0.2 + 0.1), "ve", "x0")
    expected = fastsolve.sample(
        by_hand, solver="seeds2", grid=(HIGH, 1.0, 0.4, LOW), x_init=START.float(), options={"eta": 0.0}
    )
    torch.testing.assert_close(guided(guidance), expected, rtol=1e-5, atol=1e-5)
    assert (guided(guidance) - guided(1.0)).abs().max() > 0.1


@pytest.mark.parametrize("schedule", FROM_ALPHA_0)
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in NO_LIMIT])
def test_a_start_at_alpha_0_is_right(name: str, schedule: str) -> None:
    law = FROM_ALPHA_0[schedule]
    plan = fastsolve.make_plan(name, schedule=law, steps=200, grid="uniform")
    assert plan.evals[0].alpha == 0.0 or name in OWN_ENDS
    mean, variance = moments(plan)
    bound = 0.08 if solvers.get(name).order == 1 else 0.02
    assert mean == pytest.approx(MEAN, rel=bound)
    assert variance == pytest.approx(STD**2, rel=bound)


@pytest.mark.parametrize("schedule", FROM_ALPHA_0)
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in NO_START_BELOW])
def test_a_start_at_alpha_0_is_the_limit_of_starts_below(name: str, schedule: str) -> None:
    law = FROM_ALPHA_0[schedule]
    levels = grids.get("uniform", law).levels(law, 8)
    below = [levels[0] * (1.0 - 1e-9), *levels[1:]]
    ends = [moments(fastsolve.make_plan(name, schedule=law, grid=grid)) for grid in (levels, below)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


@pytest.mark.filterwarnings("ignore:grid 'uniform'")
@pytest.mark.parametrize("schedule", FROM_ALPHA_0)
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in OWN_ENDS])
def test_at_alpha_0_a_network_must_say_something_about_the_data(name: str, schedule: str) -> None:
    law = FROM_ALPHA_0[schedule]
    for prediction in ("eps", "score"):
        with pytest.raises(ValueError, match=rf"{prediction}-prediction says nothing about x0 at alpha = 0"):
            fastsolve.make_plan(name, schedule=law, steps=4, grid="uniform", prediction=prediction)
    for prediction in ("v", "flow", "edm"):
        model = Gaussian().model(law, prediction)
        x = fastsolve.sample(model, (2, 5), solver=name, steps=4, grid="uniform", schedule=law, prediction=prediction)
        assert x.isfinite().all()
