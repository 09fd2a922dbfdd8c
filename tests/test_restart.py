"""Restart: what it gains where the model errs, to the last digit; its calls, its noise, and the intervals it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import event, given, settings, strategies as st

import fastsolve
from bits import assert_bits_equal
from fastsolve import Plan, grids, presets, schedules
from fastsolve.ops import Eval
from problems import Gaussian, plane_mixture

Array = npt.NDArray[np.float64]

STDS = np.geomspace(0.02, 0.5, 16)  # of the data, by axis; its mean is 0
EDM = grids.Karras(sigma_min=0.002, sigma_max=80.0)
PRESETS = fastsolve.restart_presets()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def restarted(steps: int, *intervals: tuple[int, int, float, float], **options: object) -> Plan:
    return fastsolve.make_plan(
        "restart", schedule="edm", grid=EDM, steps=steps, options={"intervals": list(intervals), **options}
    )


def heun(steps: int, **options: object) -> Plan:
    return fastsolve.make_plan("heun", schedule="edm", grid=EDM, steps=steps, options=options)


def denoised(x: Array, sigma: float, bias: float, above: float = 0.0) -> Array:
    """The exact denoiser of the data plus bias * sigma in the constant part: a noise prediction wrong by a constant, above a level."""
    d = STDS**2 / (STDS**2 + sigma**2) * x
    d[0] += bias * sigma * (sigma > above)
    return d


def unit(count: int, i: int) -> Array:
    return np.repeat(np.eye(count)[i][:, None], len(STDS), axis=1)


def walked(plan: Plan, bias: float, above: float = 0.0) -> Array:
    """[constant, start, draws..., axis]: the result as an affine function of independent normals, since everything is affine."""
    count = 2 + plan.draws
    known = {"x0": plan.start_std * unit(count, 1)} | {f"z{i}": unit(count, 2 + i) for i in range(plan.draws)}
    for op in plan.ops:
        if isinstance(op, Eval):
            known[op.d] = denoised(known[op.x], op.sigma, bias, above)
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}
    return known[plan.out]


def error(result: Array) -> float:
    """Wasserstein-2 distance to the data, per root of the dimension."""
    spread = np.sqrt(np.square(result[1:]).sum(0))
    return float(np.sqrt(np.mean(np.square(result[0]) + np.square(spread - STDS))))


def euler_maruyama(steps: int, bias: float) -> Array:
    """The reverse SDE of EDM, noise in the last step too (the paper's equation 1)."""
    levels = [*EDM.positive(schedules.get("edm"), steps), 0.0]
    x = 80.0 * unit(2 + steps, 1)
    for i, (s, t) in enumerate(pairwise(levels)):
        slope = (x - denoised(x, s, bias)) / s
        x = x + 2.0 * (t - s) * slope + math.sqrt(2.0 * s * (s - t)) * unit(2 + steps, 2 + i)
    return x


def churned(steps: int, s_churn: float) -> Plan:
    return heun(steps, s_churn=s_churn, s_tmin=0.05, s_tmax=50.0)


ERRORS = [
    (heun(22), 43, 0.0086353938, 0.0394539060),
    (churned(22, 5.0), 43, 0.0156882999, 0.0279386520),
    (restarted(10, (7, 2, 0.02293, 1.08817)), 43, 0.0098224791, 0.0209666250),
    (restarted(18, (3, 2, 0.06, 0.30)), 43, 0.0102354370, 0.0314079776),
    (heun(38), 75, 0.0026397765, 0.0391610240),
    (churned(38, 20.0), 75, 0.0095825244, 0.0204010388),
    (restarted(8, (7, 5, 0.02293, 0.58535)), 75, 0.0047690494, 0.0175334081),
    (heun(58), 115, 0.0010790133, 0.0391921729),
    (churned(58, 40.0), 115, 0.0055542937, 0.0182104337),
    (restarted(24, (3, 17, 0.29644, 0.58535)), 115, 0.0040879279, 0.0164425880),
]


@pytest.mark.parametrize(("plan", "nfe", "right", "biased"), ERRORS, ids=[f"{p.solver}-{n}" for p, n, _, _ in ERRORS])
def test_errors_of_a_right_and_of_a_biased_model(plan: Plan, nfe: int, right: float, biased: float) -> None:
    assert plan.nfe == plan.launches == nfe
    assert [error(walked(plan, bias)) for bias in (0.0, 0.03)] == pytest.approx([right, biased], rel=1e-8, abs=6e-11)


@pytest.mark.parametrize(
    ("steps", "right", "biased"),
    [
        (43, 0.0141202939, 0.0235012991),
        (75, 0.0077264875, 0.0207412319),
        (115, 0.0049332478, 0.0200805760),
    ],
)
def test_errors_of_the_sde_to_compare_with(steps: int, right: float, biased: float) -> None:
    assert [error(euler_maruyama(steps, bias)) for bias in (0.0, 0.03)] == pytest.approx(
        [right, biased], rel=1e-8, abs=6e-11
    )


def test_restart_wins_where_the_model_errs_and_heun_where_it_does_not() -> None:
    for nfe in (43, 75, 115):
        biased = {
            plan.solver + str(i): error(walked(plan, 0.03)) for i, (plan, n, _, _) in enumerate(ERRORS) if n == nfe
        }
        best = min(e for name, e in biased.items() if name.startswith("restart"))
        assert best < min(e for name, e in biased.items() if name.startswith("heun"))
        assert best < error(euler_maruyama(nfe, 0.03))
    assert error(walked(heun(38), 0.0)) < error(walked(restarted(8, (7, 5, 0.02293, 0.58535)), 0.0))


def test_every_restart_contracts_the_error_down_to_a_fixed_point() -> None:
    counts = (1, 2, 3, 5, 10, 20, 40, 80)
    errors = [error(walked(heun(18), 0.03))] + [error(walked(restarted(18, (3, k, 0.06, 0.3)), 0.03)) for k in counts]
    published = [0.04021, 0.03471, 0.03141, 0.02917, 0.02634, 0.02323, 0.02169, 0.02135, 0.02133]
    assert errors == pytest.approx(published, abs=5.1e-6)


def test_an_error_made_early_stays_with_heun_and_is_forgotten_by_restarts() -> None:
    """The model errs above sigma = 1 only, by 0.1; every restart from there contracts what it left, whatever the steps."""
    assert [error(walked(heun(n), 0.1, above=1.0)) for n in (18, 260)] == pytest.approx([0.091, 0.091], abs=2e-3)
    plans = [restarted(18, (5, k, 0.14, 1.0)) for k in (1, 2, 3, 5)]
    assert [plan.nfe for plan in plans] == [43, 51, 59, 75]
    errors = [error(walked(plan, 0.1, above=1.0)) for plan in plans]
    assert errors == pytest.approx([0.0358, 0.0165, 0.0097, 0.0073], abs=5.1e-5)


@pytest.mark.parametrize(
    ("high", "low", "rates"),
    [
        (0.30, 0.06, {3: 7.7e-2, 4: 3.2e-2, 7: 7.3e-3, 30: 3.0e-4}),
        (0.59, 0.30, {3: 5.9e-3, 4: 2.6e-3, 7: 6.2e-4, 30: 2.6e-5}),
        (1.92, 1.09, {3: 2.2e-3, 4: 9.5e-4, 7: 2.3e-4, 30: 9.5e-6}),
    ],
)
def test_one_restart_contracts_by_the_factor_of_the_exact_flow(high: float, low: float, rates: dict) -> None:
    exact = np.sqrt((STDS**2 + low**2) / (STDS**2 + high**2))
    for levels, rate in rates.items():
        plan = fastsolve.make_plan(
            "restart", schedule="edm", grid=(10.0, low), options={"intervals": [(levels, 1, low, high)], "snap": "none"}
        )
        once = fastsolve.make_plan("restart", schedule="edm", grid=(10.0, low))
        factor = walked(plan, 0.0)[1] / walked(once, 0.0)[1]
        assert np.abs(factor / exact - 1.0).max() == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_has_its_model_calls(name: str) -> None:
    preset = PRESETS[name]
    plan = fastsolve.make_plan(schedule=preset.schedule, **preset.arguments())
    assert plan.nfe == plan.launches == preset.nfe
    assert name == preset.name
    assert plan.draws >= sum(k for _, k, _, _ in preset.intervals)


def test_stable_diffusion_presets_cost_less_than_published() -> None:
    for w, published in ((2, 62), (3, 66), (5, 66), (8, 66)):
        preset = PRESETS[f"sd_w{w}"]
        assert published == 30 + sum(2 * k * (levels - 1) for levels, k, _, _ in preset.intervals)
        assert preset.nfe == published - sum(k for _, k, _, _ in preset.intervals if w > 2)


BASES = ["heun", "ddim", "dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_3s", "exp_heun_2_x0", "flow_heun", "seeds2"]
LEVELS = {
    "edm": (40.0, 9.0, 2.5, 0.8, 0.1, 0.0),
    "vp": (1.0, 0.8, 0.55, 0.2, 0.03, 0.0),
    "sub_vp": (1.0, 0.8, 0.55, 0.3, 0.1, 0.0),
    "flow": (0.98, 0.9, 0.55, 0.3, 0.1, 0.0),
    "vp_scaled_linear": (999.0, 700.0, 400.0, 150.0, 20.0, -1.0),
}
INTERVALS = [(4, 2, 0.1, 1.0), (3, 1, 0.6, 2.5)]


@pytest.mark.parametrize("schedule", LEVELS)
@pytest.mark.parametrize("base", BASES)
def test_renoise_adds_no_launch_and_calls_are_those_of_the_steps(base: str, schedule: str) -> None:
    options = {"base": base, "intervals": INTERVALS}
    plan = fastsolve.make_plan("restart", schedule=schedule, grid=LEVELS[schedule], options=options)
    stages, inner = fastsolve.solvers.get(base).stages, 2 * 3 + 2
    assert plan.launches == plan.nfe == 4 * stages + 1 + inner * stages
    assert plan.draws == 3 + (stages * (4 + inner) if base == "seeds2" else 0)


@pytest.mark.parametrize("schedule", LEVELS)
@pytest.mark.parametrize("base", BASES)
def test_marginals_are_those_of_the_law_after_every_jump(base: str, schedule: str) -> None:
    """Many steps: then the state at every call has the moments of its level, those raised by fresh noise included."""
    law = schedules.get(schedule)
    levels = [law.at_lam(-math.log(5.0) + math.log(100.0) * i / 200).t for i in range(201)]
    options = {"base": base, "intervals": [(100, 2, 0.3, 2.0)]}
    plan = fastsolve.make_plan("restart", schedule=schedule, grid=levels, options=options)
    basis = np.eye(1 + plan.draws)
    known = {"x0": math.hypot(0.35 * plan.evals[0].alpha, plan.evals[0].sigma) * basis[0]}
    known |= {f"z{i}": basis[1 + i] for i in range(plan.draws)}
    jumps = 0
    for op in plan.ops:
        if isinstance(op, Eval):
            std = float(np.linalg.norm(known[op.x]))
            assert std == pytest.approx(math.hypot(op.alpha * 0.35, op.sigma), rel=2e-2)
            known[op.d] = op.alpha * 0.35**2 / ((op.alpha * 0.35) ** 2 + op.sigma**2) * known[op.x]
            jumps += op.sigma / op.alpha == pytest.approx(2.0, rel=1e-9)
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}
    assert jumps >= 2


def test_without_intervals_it_is_its_base() -> None:
    for base in BASES:
        alone = fastsolve.make_plan(
            base, schedule="vp", grid="quadratic", steps=6
        )  # VP's own grid knows the solver's order
        plan = fastsolve.make_plan("restart", schedule="vp", grid="quadratic", steps=6, options={"base": base})
        assert plan.ops == alone.ops


@pytest.mark.parametrize("base", ["heun", "dpm_solver_3", "seeds2"])
def test_main_grid_cut_by_intervals_is_walked_as_a_whole(base: str) -> None:
    """The levels of the main steps, churned ones included, are those of the base alone: churn counts the whole grid's levels."""
    churn = {} if base == "dpm_solver_3" else {"s_churn": 3.0, "s_tmin": 0.1, "s_tmax": 50.0}
    plan = fastsolve.make_plan(
        "restart", schedule="edm", steps=8, options={"base": base, "intervals": [(2, 1, 1.0, 3.0)], **churn}
    )
    alone = fastsolve.make_plan(base, schedule="edm", steps=8, options=churn)
    main = [call.sigma for call in plan.evals]
    assert set(main) >= {call.sigma for call in alone.evals}


def test_zero_as_t_min_ends_every_restart_with_the_denoised_prediction() -> None:
    plan = restarted(6, (4, 2, 0.0, 0.3))
    assert plan.nfe == 11 + 2 * 5
    assert dict(list(plan.rows())[-1].terms) == {plan.evals[-1].d: 1.0}


def test_snapping_of_both_ends_of_one_and_of_none() -> None:
    levels = [node.sigma for node in grids.nodes(EDM, schedules.get("edm"), 18)]

    def tops(snap: str, t_min: float) -> list[float]:
        plan = restarted(18, (3, 1, t_min, 0.31), snap=snap)
        return [b.sigma for a, b in pairwise(plan.evals) if b.sigma > a.sigma]

    assert tops("t_min", 0.06) == pytest.approx([0.31])
    assert tops("both", 0.06) == [levels[12]]
    assert tops("none", levels[14]) == pytest.approx([0.31])
    with pytest.raises(ValueError, match=r"t_min = 0.06 .* is no level of the grid; the nearest is 0.0599473"):
        tops("none", 0.06)


def test_linear_inner_grid_is_the_published_one_of_a_table() -> None:
    plan = fastsolve.make_plan(schedule="vp_scaled_linear", **PRESETS["sd_w8"].arguments())
    calls = [call.t for call in plan.evals]
    inner = [562, 500, 437, 375, 313, 250, 188, 126, 63]
    assert calls[29:47] == [float(t) for pair in zip(inner, [*inner[1:], 0], strict=True) for t in pair][:17] + [562.0]


@pytest.mark.parametrize(("low", "high"), [(0.029167, 14.6146), (0.002, 80.0), (0.0291675, 14.614642)])
def test_coming_down_leaves_no_ulp_to_be_bridged_by_noise(low: float, high: float) -> None:
    """webui's own code draws a spurious normal at step counts where (x^(1/7))^7 falls short of the main level by an ulp."""
    for steps in range(20, 151):
        preset = presets.webui(steps)
        plan = fastsolve.make_plan(
            schedule="ve", **{**preset.arguments(), "grid": grids.Karras(sigma_min=low, sigma_max=high)}
        )
        assert plan.nfe == 2 * steps - 1
        assert plan.draws == preset.intervals[0][1]


REFUSED = [
    ([(1, 1, 0.06, 0.3)], {}, r"n_levels counts levels, both ends included: at least 2, not 1"),
    ([(3, 0, 0.06, 0.3)], {}, r"k is a number of restarts, at least 1, not 0"),
    (
        [(3, 1, 0.3, 0.06)],
        {},
        r"t_max of \(3, 1, 0.3, 0.06\), 0.06 here, is not above t_min, which is the level 0.296442",
    ),
    ([(3, 1, 0.06, 0.0599)], {}, r"not above t_min, which is the level 0.0599473"),
    ([(3, 1, 0.28, 0.31)], {"snap": "both"}, r"t_max .* is not above t_min"),
    ([(3, 1, 75.0, 79.0)], {}, r"t_min of \(3, 1, 75.0, 79.0\) is the grid's first level, 80, before which no step"),
    ([(3, 1, 0.06, 90.0)], {}, r"t_max of \(3, 1, 0.06, 90.0\) is above all levels of the schedule 'edm', up to 80"),
    ([(3, 1, 0.055, 0.3), (4, 2, 0.062, 0.5)], {}, r"both start from the level 0.0599473: one of them would be lost"),
    ([(3, 1, math.nan, 0.3)], {}, r"t_min and t_max are finite levels sigma / alpha"),
    ([(math.inf, 1, 0.06, 0.3)], {}, r"n_levels counts levels, both ends included: at least 2, not inf"),
    ([(3, math.nan, 0.06, 0.3)], {}, r"k is a number of restarts, at least 1, not nan"),
    ([(3, 1e300, 0.06, 0.3)], {}, r"an interval may walk 100000 levels, n_levels times k, not as many as \(3, 1e\+300"),
    ([(3, True, 0.06, 0.3)], {}, r"an interval is \(n_levels, k, t_min, t_max\), not \(3, True, 0.06, 0.3\)"),
    ([(3, 1, 0.06)], {}, r"an interval is \(n_levels, k, t_min, t_max\), not \(3, 1, 0.06\)"),
    ([3, 1, 0.06, 0.3], {}, r"an interval is \(n_levels, k, t_min, t_max\), not 3"),
    ("cifar", {}, r"intervals is a list of \(n_levels, k, t_min, t_max\), not 'cifar'"),
    ([(3, 1, 0.06, 0.3)], {"snap": "grid"}, r"snap must be one of 't_min', 'both', 'none', not 'grid'"),
    ([(3, 1, 0.06, 0.3)], {"inner_grid": "rho"}, r"inner_grid must be one of 'karras', 'linear', not 'rho'"),
    ([(3, 1, 0.06, 0.3)], {"rho": 0.0}, r"rho must be positive and finite, not 0.0"),
    ([(3, 1, 0.06, 0.3)], {"base": "restart"}, r"restart cannot be its own base"),
    ([(3, 1, 0.06, 0.3)], {"base": "tada"}, r"several variables cannot go on from another solver's state"),
    ([(3, 1, 0.06, 0.3)], {"gamma": -0.05}, r"gamma must be 0 to sqrt\(2\) - 1, EDM's bound, not -0.05"),
    ([(3, 1, 0.06, 0.3)], {"gamma": 0.5}, r"gamma must be 0 to sqrt\(2\) - 1, EDM's bound, not 0.5"),
    ([(3, 1, 0.06, 0.3)], {"base_options": {"s_churn": -1.0}}, r"option s_churn of heun must be at least 0, not -1.0"),
    ([(3, 1, 0.06, 0.3)], {"base": "huen"}, r"unknown solver 'huen'; nearest is 'heun'"),
    ([(3, 1, 0.06, 0.3)], {"base_options": {"etha": 1.0}}, r"heun has no option 'etha'; it has s_churn, "),
    ([(3, 1, 0.06, 0.3)], {"base_options": "eta"}, r"base_options must be a dict of options of 'heun', not 'eta'"),
    (
        [(3, 1, 0.06, 0.3)],
        {"base": "ddim", "base_options": {"eta": "1"}},
        r"option eta of ddim must be a number, not '1'",
    ),
    ([(3, 1, 0.06, 0.3)], {"base": "dpmpp_3s", "gamma": 0.05}, r"dpmpp_3s has no churn"),
    ([(3, 1, 0.06, 0.3)], {"base": "dpm_solver_3", "base_options": {"orders": [3]}}, r"each of the 18 main steps"),
]


@pytest.mark.parametrize(("intervals", "options", "text"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_refuses_what_cannot_be_run_as_it_is_written(intervals: object, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fastsolve.make_plan("restart", schedule="edm", grid=EDM, steps=18, options={"intervals": intervals, **options})


def test_intervals_that_a_table_has_no_levels_for_are_refused() -> None:
    def plan(*interval: float, **options: object) -> Plan:
        options |= {"intervals": [interval]}
        return fastsolve.make_plan(
            "restart", schedule="vp_scaled_linear", grid=(999.0, 500.0, 10.0, -1.0), options=options
        )

    with pytest.raises(ValueError, match=r"40 levels from 0.199059 to 0.0982911 repeat one: lower n_levels"):
        plan(40, 1, 0.1, 0.2, inner_grid="linear")
    with pytest.raises(ValueError, match=r"\(3, 1, 0.0, 0.3\) does not fit the schedule: .* is outside the table"):
        plan(3, 1, 0.0, 0.3)


def test_a_restart_may_reach_above_the_grid_but_not_above_the_schedule() -> None:
    options = {"intervals": [(3, 1, 1.0, 9.0)], "inner_grid": "linear", "base": "ddim"}
    indices = (901.0, 601.0, 301.0, 1.0)
    plan = fastsolve.make_plan("restart", schedule="vp_scaled_linear", grid=indices, options=options)
    calls = [call.t for call in plan.evals]
    assert calls == [901.0, 601.0, 914.0, 608.0, 301.0]
    with pytest.raises(ValueError, match=r"above all levels of the schedule 'vp_table', up to 14.6146"):
        fastsolve.make_plan(
            "restart", schedule="vp_scaled_linear", grid=indices, options=options | {"intervals": [(3, 1, 1.0, 15.0)]}
        )


SIZES = st.floats() | st.sampled_from([0.0, 5e-324, 1e-300, 1e300, math.inf]) | st.floats(0.0, 90.0)
COUNTS = st.integers(-1, 9) | st.sampled_from([2.5, math.nan, math.inf, -math.inf, 1e6, 1e300]) | st.booleans()
SOUND = st.tuples(st.integers(2, 5), st.integers(1, 3), st.floats(0.05, 2.0), st.floats(2.5, 14.0))
ANY = SOUND | SOUND | st.tuples(COUNTS, COUNTS, SIZES, SIZES) | st.lists(SIZES, max_size=5)


def plan_or_sentence(*args: object, **kwargs: object) -> Plan | str:
    try:
        return fastsolve.make_plan(*args, **kwargs)
    except ValueError as error:
        return str(error)


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_intervals_give_a_sound_plan_or_a_sentence(data: st.DataObject) -> None:
    def rarely(usual: float) -> float:
        return data.draw(SIZES) if data.draw(st.integers(0, 19)) == 0 else usual

    options = {
        "intervals": data.draw(st.lists(ANY, min_size=1, max_size=2)),
        "base": data.draw(st.sampled_from(["heun", "ddim", "dpm_solver_3", "seeds2"])),
        "snap": data.draw(st.sampled_from(["t_min", "both"])),
        "inner_grid": data.draw(st.sampled_from(["karras", "linear"])),
        "rho": rarely(7.0),
        "gamma": rarely(0.0),
        "s_churn": rarely(0.0),
        "s_tmin": rarely(0.0),
        "s_tmax": rarely(math.inf),
    }
    schedule = data.draw(st.sampled_from(sorted(LEVELS)))
    plan = plan_or_sentence("restart", schedule=schedule, grid=LEVELS[schedule], options=options)
    event("refused" if isinstance(plan, str) else "planned")
    if isinstance(plan, str):
        assert len(plan.split()) > 5
        return
    numbers = [c for row in plan.rows() for _, c in row.terms]
    numbers += [v for call in plan.evals for v in (call.t, call.alpha, call.sigma)]
    assert all(math.isfinite(v) for v in numbers)
    assert plan.launches == plan.nfe


@pytest.mark.parametrize("schedule", LEVELS)
def test_native_has_the_bits_of_eager(schedule: str) -> None:
    model = Gaussian().model(schedule, "v")
    eager, native = (
        fastsolve.sample(
            model,
            (3, 5, 7),
            solver="restart",
            schedule=schedule,
            prediction="v",
            grid=LEVELS[schedule],
            seed=3,
            options={"intervals": INTERVALS},
            executor=executor,
        )
        for executor in ("eager", "native")
    )
    assert eager.isfinite().all()
    assert_bits_equal(native, eager)


def test_restart_keeps_the_order_of_its_base() -> None:
    """Main and inner steps doubled together, with the same noise: the result converges with the order of the base."""

    def run(base: str, n: int) -> torch.Tensor:
        lams = np.linspace(math.log(3.0), math.log(0.15), 4 * n + 1)
        middle = math.exp(lams[2 * n])
        return fastsolve.sample(
            plane_mixture().model("ve"),
            solver="restart",
            schedule="ve",
            prediction="x0",
            grid=np.exp(lams).tolist(),
            x_init=torch.tensor([[1.2, -2.0], [-3.0, 0.7], [0.4, 2.6], [2.0, 2.0]], dtype=torch.float64),
            noise=[torch.tensor([[0.3, 1.1], [-0.4, 0.2], [1.0, -1.0], [0.0, 0.6]], dtype=torch.float64)],
            options={"base": base, "intervals": [(n + 1, 1, middle, 1.5)]},
            dtype=torch.float64,
            executor="eager",
        )

    for base, order in (("ddim", 1), ("heun", 2), ("dpmpp_2s", 2), ("dpm_solver_3", 3)):
        ends = [run(base, n) for n in (8, 16, 32, 64)]
        steps = [float((b - a).norm()) for a, b in pairwise(ends)]
        assert math.log2(steps[1] / steps[2]) == pytest.approx(order, abs=0.25)
