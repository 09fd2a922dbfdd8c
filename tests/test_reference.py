"""The engine against the plain samplers of `reference/`, on random grids, schedules and options; and those against recordings."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import fastsolve
from fastsolve import grids
from problems import golden_mixture, plane_mixture
from reference import deis, rbe, restart, seeds, tada
from reference.paths import FLOW, PATHS, VE, VP, Model, Path as NoisePath

FOLDER = Path(__file__).parent
TOLERANCE = 1e-12  # relative, float64, a few steps
TOP = {
    "ve": 80.0,
    "edm": 80.0,
    "flow": 200.0,
    "vp": 150.0,
    "sub_vp": 100.0,
    "vp_cosine": 20.0,
}  # sigma / alpha within the schedule
BELOW = 100.0  # so that churn, at most a factor of sqrt(2), stays within the schedule too


def examples(count: int) -> settings:
    slow = [HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=slow)


few = examples(20)
Given = st.DataObject


def plane(path: NoisePath) -> Model:
    """The denoiser of `problems.plane_mixture`, in NumPy."""
    means = np.array([[-1.0, 0.2], [0.6, 0.9], [0.5, -0.8]])
    weights, stds = np.array([0.3, 0.45, 0.25]), np.array([0.25, 0.35, 0.3])

    def model(x: np.ndarray, t: float) -> np.ndarray:
        a, variance = path.alpha(t), path.alpha(t) ** 2 * stds**2 + path.sigma(t) ** 2
        off = x[:, None] - a * means
        log = np.log(weights / variance) - np.sum(off**2, axis=2) / (2 * variance)
        share = np.exp(log - log.max(axis=1, keepdims=True))
        inside = means + (a * stds**2 / variance)[:, None] * off
        return np.sum((share / share.sum(axis=1, keepdims=True))[..., None] * inside, axis=1)

    return model


def levels(
    data: Given, schedule: str, h_max: float, *, ends: bool = False, least: int = 1, top: float = np.inf
) -> list[float]:
    """A random decreasing grid in the schedule's clock, steps of 0.2 to h_max in lambda.

    With `ends` it may end in 0, and on flow it may start from alpha = 0, t = 1.
    """
    path = PATHS[schedule]
    top = data.draw(st.floats(0.05, 1.0), "top") * min(TOP[schedule], top)
    h = data.draw(st.lists(st.floats(0.2, h_max), min_size=least, max_size=5), "h")
    rhos = top * np.exp(-np.cumsum([0.0, *h]))
    end = [0.0] if ends and data.draw(st.booleans(), "zero") else []
    first = [1.0] if ends and schedule == "flow" and data.draw(st.booleans(), "infinity") else []
    return first + [float(path.clock(rho)) for rho in rhos] + end


def engine(
    name: str, schedule: str, grid: Sequence[float], x: np.ndarray, noise: Sequence[np.ndarray], options: dict[str, Any]
) -> np.ndarray:
    """The end of a float64 run; draws that the plan has no use for, at its end, are left over."""
    draws = fastsolve.make_plan(name, schedule=schedule, grid=grid, options=options).draws
    assert draws <= len(noise)
    out = fastsolve.sample(
        plane_mixture().model(schedule, "x0"),
        x.shape if x.ndim == 2 else x.shape[1:],
        solver=name,
        schedule=schedule,
        prediction="x0",
        grid=grid,
        x_init=torch.from_numpy(x.copy()),
        noise=[torch.from_numpy(z) for z in noise[:draws]],
        options=options,
        dtype=torch.float64,
        executor="eager",
    )
    return out.numpy()


def start(path: NoisePath, t: float, draws: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A state at clock value t and unit normals, always the same."""
    rng = np.random.default_rng(7)
    return path.sigma(t) * rng.standard_normal((2, 2)), rng.standard_normal((draws, 2, 2))


def close(ours: np.ndarray, reference: np.ndarray) -> None:
    assert np.isfinite(reference).all()
    assert abs(ours - reference).max() <= TOLERANCE * max(abs(reference).max(), 1.0)


def test_the_reference_knows_nothing_of_the_package() -> None:
    for file in sorted((FOLDER / "reference").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "numpy", "reference"}, f"{file.name}: {name}"


@pytest.mark.parametrize("form", ["data", "noise", "edm"])
@pytest.mark.parametrize("stages", [1, 2, 3])
@few
@given(data=st.data())
def test_seeds(data: Given, stages: int, form: str) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path = PATHS[schedule]
    eta = data.draw(st.sampled_from([1.0, 0.0]) if form == "edm" else st.floats(0.0, 1.5), "eta")
    s_noise = data.draw(st.sampled_from([1.0, 0.9]), "s_noise")
    # Far above sigma_data the variable of form "edm" is flat: nodes lose (sigma / sigma_data)^2 roundings, in any arithmetic.
    top = 3.0 if form == "edm" else BELOW
    grid = levels(data, schedule, 2.0 if form == "data" else 0.8, ends=form == "data", top=top)
    inner, options = (), {"form": form, "eta": eta, "s_noise": s_noise}
    churn = {"s_churn": data.draw(st.sampled_from([0.0, 0.5, 2.0]), "s_churn"), "s_tmin": 0.1}
    churn["s_tmax"] = data.draw(st.sampled_from([0.9, 0.3]), "s_tmax") * min(float(path.rho(grid[0])), BELOW)
    if form == "edm":
        options["sigma_data"] = data.draw(st.sampled_from([0.5, 0.8]), "sigma_data")
    if stages == 2:
        inner = (data.draw(st.floats(0.2, 0.95), "r"),)
        options |= {"r": inner[0], "variant": data.draw(st.sampled_from(["2a", "2b"]), "variant")}
    if stages == 3:
        inner = (data.draw(st.floats(0.2, 0.45), "r1"), data.draw(st.floats(0.55, 0.95), "r2"))
        options |= {"r1": inner[0], "r2": inner[1], "variant": data.draw(st.sampled_from(["3a", "3b"]), "variant")}
    x, noise = start(path, grid[0], (stages + 1) * len(grid))
    variant = options.get("variant", "1")
    expected = seeds.seeds(
        plane(path),
        x,
        grid,
        noise,
        path,
        stages=stages,
        form=form,
        eta=eta,
        s_noise=s_noise,
        nodes=inner,
        variant=variant,
        sigma_data=options.get("sigma_data", 0.5),
        **churn,
    )
    close(engine(f"seeds{stages}", schedule, grid, x, noise, options | churn), expected)


@pytest.mark.parametrize("form", ["data", "noise"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_seeds_without_noise(stages: int, form: str) -> None:
    grid = [float(FLOW.clock(rho)) for rho in (40.0, 15.0, 4.0, 1.5, 0.5, 0.2)]
    x, noise = start(FLOW, grid[0], stages * len(grid))
    nodes, variant = {1: (), 2: (0.5,), 3: (1 / 3, 2 / 3)}[stages], f"{stages}a"
    expected = seeds.seeds(
        plane(FLOW), x, grid, noise, FLOW, stages=stages, form=form, eta=0.0, nodes=nodes, variant=variant
    )
    close(engine(f"seeds{stages}", "flow", grid, x, noise, {"form": form, "eta": 0.0}), expected)


@few
@given(data=st.data())
def test_ddim(data: Given) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, eta = PATHS[schedule], data.draw(st.sampled_from([0.0, 0.3, 1.0]), "eta")
    grid = levels(data, schedule, 2.0, ends=True)
    x, noise = start(path, grid[0], len(grid) - 1)
    close(
        engine("ddim", schedule, grid, x, noise, {"eta": eta}), seeds.ddim(plane(path), x, grid, noise, path, eta=eta)
    )


@few
@given(data=st.data())
def test_heun(data: Given) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, grid = PATHS[schedule], levels(data, schedule, 1.5, ends=True, top=BELOW)
    churn = {"s_churn": data.draw(st.sampled_from([0.0, 0.5, 2.0]), "s_churn")}
    # Not at the first level: it may not be raised on a schedule that ends there.
    churn |= {
        "s_tmin": 0.1,
        "s_tmax": 0.99 * float(path.rho(grid[0])),
        "s_noise": data.draw(st.floats(0.9, 1.1), "s_noise"),
    }
    x, noise = start(path, grid[0], len(grid))
    close(
        engine("heun", schedule, grid, x, noise, churn),
        restart.restart(plane(path), x, grid, noise, path, intervals=(), **churn),
    )


def warmup(data: Given) -> dict[str, Any]:
    return {
        "warmup": data.draw(st.sampled_from(["ramp", "heun", "rk"]), "warmup"),
        "lower_order_final": data.draw(st.booleans(), "lower_order_final"),
    }


@pytest.mark.parametrize("variable", ["t", "rho", "logrho"])
@pytest.mark.parametrize("order", range(4))
@examples(10)
@given(data=st.data())
def test_deis_adams_bashforth(data: Given, order: int, variable: str) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, grid = PATHS[schedule], levels(data, schedule, 1.0, ends=True)
    options = {"order": order, **warmup(data)}
    x, _ = start(path, grid[0])
    expected = deis.adams_bashforth(plane(path), x, grid, path, variable=variable, **options)
    close(engine("deis", schedule, grid, x, [], {"variant": variable, **options}), expected)
    if variable != "logrho":
        name = "deis_tab" if variable == "t" else "deis_rho_ab"
        close(engine(name, schedule, grid, x, [], options), expected)


@pytest.mark.parametrize("tableau", sorted(deis.TABLEAUS))
@examples(8)
@given(data=st.data())
def test_deis_runge_kutta(data: Given, tableau: str) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, grid = PATHS[schedule], levels(data, schedule, 1.0, ends=True)
    x, _ = start(path, grid[0])
    expected = deis.rho_rk(plane(path), x, grid, path, tableau=tableau)
    close(engine("deis_rho_rk", schedule, grid, x, [], {"tableau": tableau}), expected)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@examples(10)
@given(data=st.data())
def test_ipndm(data: Given, order: int) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, grid = PATHS[schedule], levels(data, schedule, 1.0, ends=True)
    options = {"order": order, **warmup(data)}
    x, _ = start(path, grid[0])
    close(engine("ipndm", schedule, grid, x, [], options), deis.ipndm(plane(path), x, grid, path, **options))


@pytest.mark.parametrize("base", sorted(restart.STEPS))
@few
@given(data=st.data())
def test_restart(data: Given, base: str) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, grid = PATHS[schedule], levels(data, schedule, 1.5, ends=True, least=2, top=BELOW)
    rhos = [float(path.rho(t)) for t in grid if path.alpha(t)]
    options = {
        "snap": data.draw(st.sampled_from(["t_min", "both"]), "snap"),
        "inner_grid": data.draw(st.sampled_from(["karras", "linear"]), "inner_grid"),
        "rho": data.draw(st.sampled_from([7.0, 3.0]), "rho"),
        "s_noise": data.draw(st.floats(0.9, 1.1), "s_noise"),
    }
    if base == "heun" and data.draw(st.booleans(), "churn"):
        options |= {"s_churn": data.draw(st.sampled_from([0.0, 0.5, 2.0]), "s_churn"), "s_tmin": 0.1}
        options |= {"gamma": data.draw(st.sampled_from([0.0, 0.05, 0.3]), "gamma"), "s_tmax": 0.99 * rhos[0]}
    intervals = []
    for i in data.draw(st.lists(st.integers(1, len(rhos) - 1), min_size=1, max_size=3, unique=True), "at"):
        share, off = data.draw(st.floats(0.3, 0.95), "t_max"), data.draw(st.floats(0.95, 1.05), "off")
        top = rhos[0] * ((rhos[i] or 0.01) / rhos[0]) ** (1.0 - share)
        if options["snap"] == "both":
            top = off * rhos[data.draw(st.integers(0, i - 1), "snapped")]
        intervals.append(
            (data.draw(st.integers(2, 4), "n_levels"), data.draw(st.integers(1, 3), "k"), off * rhos[i], top)
        )
    x, noise = start(path, grid[0], len(grid) + sum(n * k for n, k, _, _ in intervals))
    options |= {"intervals": intervals, "base": base}
    expected = restart.restart(plane(path), x, grid, noise, path, **options)
    close(engine("restart", schedule, grid, x, noise, options), expected)


@few
@given(data=st.data())
def test_restart_of_stable_diffusion(data: Given) -> None:
    table = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    path = NoisePath(lambda t: table[int(t)] ** 0.5, lambda t: (1 - table[int(t)]) ** 0.5, lambda rho: np.nan)
    steps, twice = data.draw(st.sampled_from([5, 10, 20, 30]), "steps"), data.draw(st.booleans(), "second_order")
    timesteps = [i * (1000 // steps) + 1 for i in reversed(range(steps))] + [0]
    at_the_end = data.draw(st.booleans(), "at_the_end")  # there the last inner step is first order
    places, intervals = st.integers(steps - 1, steps) if at_the_end else st.integers(1, steps - 2), []
    for t in [timesteps[i] for i in data.draw(st.lists(places, min_size=1, max_size=2, unique=True), "at")]:
        counts = data.draw(st.integers(2, 6), "n_levels"), data.draw(st.integers(1, 3), "k")
        top = data.draw(st.integers(t + 12, 999), "top")
        intervals.append((*counts, 1.0005 * path.rho(t), 1.0005 * path.rho(top)))
    s_noise = data.draw(st.sampled_from([1.0, 0.9]), "s_noise")
    options = {"base": "ddim", "inner_base": "heun", "inner_grid": "linear", "intervals": intervals, "s_noise": s_noise}
    if twice:  # DPM-Solver-2 with its node at the end is the mean of two predictions
        options |= {"base": "dpm_solver_2", "base_options": {"r": 1.0, "orders": [2] * (steps - 1) + [1]}}
    if at_the_end:
        options["inner_last"] = "ddim"
    x, noise = start(path, timesteps[0], 6)
    data_prediction = plane(path)

    def eps(x: np.ndarray, t: int) -> np.ndarray:
        return (x - path.alpha(t) * data_prediction(x, t)) / path.sigma(t)

    expected = restart.stable_diffusion(
        eps, x, timesteps, noise, table, intervals=intervals, second_order=twice, s_noise=s_noise
    )
    close(engine("restart", "vp_scaled_linear", timesteps, x, noise, options), expected)


@pytest.mark.parametrize("N", [1, 2, 3, 4])
@few
@given(data=st.data())
def test_tada(data: Given, N: int) -> None:
    schedule = data.draw(st.sampled_from(sorted(PATHS)), "schedule")
    path, grid = PATHS[schedule], levels(data, schedule, 1.5, ends=True, least=2)
    order, last_var = data.draw(st.integers(1, 3), "order"), data.draw(st.floats(0.1, 64.0), "last_var")
    X = tada.start(np.random.default_rng(7).standard_normal((N, 2, 2)), float(path.rho(grid[0])), last_var)
    steps, denoise = [t for t in grid if t], grid[-1] == 0.0
    expected = tada.tada(plane(path), X, steps, path, order=order, last_var=last_var, denoise=denoise)
    options = {"n_variables": N, "order": order, "last_var": last_var}
    close(engine("tada", schedule, grid, X, [], options), expected)


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@few
@given(
    steps=st.integers(1, 30), c=st.floats(0.1, 2.0), high=st.floats(5.0, 80.0), low=st.sampled_from([0.0, 0.002, 0.05])
)
def test_arctan_grid_shrinks_gaussian_data_by_the_same_cosine_in_every_step(
    schedule: str, steps: int, c: float, high: float, low: float
) -> None:
    path, x = PATHS[schedule], np.array([[1.0, -2.0]])
    rhos = rbe.arctan_grid(steps, high, low, c)
    angle = (np.arctan(high / c) - np.arctan(low / c)) / steps
    exact = np.sqrt((c**2 + low**2) / (c**2 + high**2))  # of the probability flow, from rho = high to low
    expected = x * exact * np.cos(angle) ** steps
    np.testing.assert_allclose(rbe.ddim_on_gaussian(x, rhos, c), expected, rtol=1e-11)
    grid, node = [float(path.clock(rho)) for rho in rhos[:-1]] + [float(path.clock(low))], path.alpha
    ours = fastsolve.sample(
        lambda x, t: node(float(t[0])) * c**2 / (node(float(t[0])) ** 2 * c**2 + path.sigma(float(t[0])) ** 2) * x,
        solver="ddim",
        schedule=schedule,
        prediction="x0",
        grid=grid,
        x_init=torch.from_numpy(x * node(grid[0])),
        dtype=torch.float64,
        executor="eager",
    )
    np.testing.assert_allclose(ours.numpy() / node(grid[-1]), expected, rtol=1e-11)


# 152.17 to 0.0105: the VP schedule of beta 0.1 to 20, t from 1 to 0.001. Figures of an independent implementation.
RANGE = (152.16697028394637, 0.010485992786702987)
RECORDED_GRIDS = [
    (
        rbe.arctan_grid(6, *RANGE, 0.5),
        [1.871688797895015, 0.8757040673615645, 0.5089206341771568, 0.2973293151349976, 0.1430876559518112],
    ),
    (
        rbe.spectrum_grid(6, *RANGE, (0.1, 0.3, 1.0), order=2, kappa=1.0),
        [5.263671226742596, 1.73418783568956, 0.6033352142872164, 0.25470036258852224, 0.07970377134906115],
    ),
]


@pytest.mark.parametrize(("ours", "recorded"), RECORDED_GRIDS, ids=["arctan", "spectrum"])
def test_equal_error_grids_are_as_recorded(ours: np.ndarray, recorded: list[float]) -> None:
    np.testing.assert_allclose(ours[1:-1], recorded, rtol=1e-12)
    np.testing.assert_allclose(ours[[0, -1]], RANGE, rtol=1e-12)


@pytest.mark.parametrize("name", ["RBEAtan", "RBE"])
@few
@given(
    steps=st.integers(1, 30),
    stds=st.lists(st.floats(0.1, 2.0), min_size=1, max_size=4),
    order=st.sampled_from([1, 2]),
    kappa=st.floats(0.0, 1.0),
)
def test_equal_error_grids_are_the_packages(name: str, steps: int, stds: list[float], order: int, kappa: float) -> None:
    ends: dict[str, Any] = {"sigma_max": 80.0, "sigma_min": 0.002, "final_zero": False}
    if name == "RBE":
        ends |= {"c": tuple(stds), "order": order, "kappa": kappa}
        expected = rbe.spectrum_grid(steps, 80.0, 0.002, stds, order=order, kappa=kappa)
    else:
        ends |= {"c": stds[0]}
        expected = rbe.arctan_grid(steps, 80.0, 0.002, stds[0])
    levels = vars(grids)[name](**ends).levels(fastsolve.schedules.get("ve"), steps)
    np.testing.assert_allclose(levels, expected, rtol=1e-11)  # far above c an angle holds rho to (rho / c) roundings


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@few
@given(data=st.data())
def test_ddim_on_equal_error_grids(data: Given, schedule: str) -> None:
    """RBE's sampler: DDIM on its grid, of which the engine is given the name of the rule and no level."""
    steps, path = data.draw(st.integers(1, 12), "steps"), PATHS[schedule]
    stds = data.draw(st.lists(st.floats(0.3, 2.0), min_size=1, max_size=3), "c")
    high, low = data.draw(st.floats(3.0, 80.0), "sigma_max"), data.draw(st.floats(0.01, 0.2), "sigma_min")
    ends = {"sigma_max": high, "sigma_min": low, "final_zero": False}
    if data.draw(st.booleans(), "spectrum"):
        grid, rhos = grids.RBE(c=tuple(stds), **ends), rbe.spectrum_grid(steps, high, low, stds)
    else:
        grid, rhos = grids.RBEAtan(c=stds[0], **ends), rbe.arctan_grid(steps, high, low, stds[0])
    clocks = [float(path.clock(rho)) for rho in rhos]
    x, noise = start(path, clocks[0], steps)
    ours = fastsolve.sample(
        plane_mixture().model(schedule, "x0"),
        x.shape,
        solver="ddim",
        schedule=schedule,
        prediction="x0",
        grid=grid,
        steps=steps,
        x_init=torch.from_numpy(x.copy()),
        dtype=torch.float64,
        executor="eager",
    )
    close(ours.numpy(), seeds.ddim(plane(path), x, clocks, noise, path))


def recording(name: str) -> tuple[dict[str, Any], np.ndarray, list[np.ndarray], np.ndarray]:
    case = next(case for case in json.loads((FOLDER / "golden/cases.json").read_text()) if case["name"] == name)
    with np.load(FOLDER / f"golden/{case['family']}.npz") as file:
        x, draws, final = (file[f"{name}.{key}"] for key in ("x_init", "draws", "final"))
    return case, x, list(draws), final


RECORDED_RUNS: list[tuple[str, Callable[..., np.ndarray], NoisePath, dict[str, Any]]] = [
    ("seeds_off_ve_dp_o1_n6", seeds.seeds, VE, {"stages": 1}),
    ("seeds_off_ve_np_o2_n12", seeds.seeds, VE, {"stages": 2, "nodes": (0.5,), "variant": "2a", "form": "noise"}),
    ("seeds_ref_x0_rf_o2_c2_08_n6", seeds.seeds, FLOW, {"stages": 2, "nodes": (0.8,), "variant": "2a"}),
    ("seeds_ref_x0_ve_o3b_n6", seeds.seeds, VE, {"variant": "3b"}),
    ("seeds_off_edmF_o3_n6", seeds.seeds, VE, {"form": "edm"}),
    ("restart_edm_heun18", restart.restart, VE, {"intervals": ()}),
    ("restart_edm_churn18_nolimits", restart.restart, VE, {"intervals": (), "s_churn": 4.0}),
    ("restart_two_k1", restart.restart, VE, {"intervals": [(4, 1, 1.09, 1.92), (4, 1, 0.06, 0.3)]}),
    (
        "restart_imagenet_nfe39",
        restart.restart,
        VE,
        {
            "intervals": [(3, 1, 19.35, 40.79), (3, 1, 1.09, 1.92), (3, 1, 0.06, 0.3)],
            "s_noise": 1.003,
            "gamma": 0.05,
            "s_tmin": 0.01,
            "s_tmax": 1.0,
        },
    ),
    ("restart_webui_20", restart.restart, VE, {"intervals": [(10, 1, 0.1, 2.0)], "snap": "both"}),
    ("tada_edm_N2_o2_n8_k1_edm7", tada.tada, VE, {"order": 2}),
    ("tada_edm_N3_o3_n15_k1_tpoly2", tada.tada, VE, {"order": 3}),
    ("tada_flow_N2_o2_n10_k1_shift3", tada.tada, FLOW, {"order": 2}),
    ("deis_t_ab0_exactcoef", deis.adams_bashforth, VP, {"order": 0}),
    ("deis_t_ab3_exactcoef", deis.adams_bashforth, VP, {"order": 3}),
    ("deis_rho_ab3_exactcoef", deis.adams_bashforth, VP, {"order": 3, "variable": "rho"}),
    ("deis_rho_rk_2heun", deis.rho_rk, VP, {"tableau": "2heun"}),
    ("deis_rho_rk_3kutta", deis.rho_rk, VP, {"tableau": "3kutta"}),
    ("deis_ipndm", deis.ipndm, VP, {"order": 4}),
]


@pytest.mark.parametrize(("name", "run", "path", "options"), RECORDED_RUNS, ids=[name for name, *_ in RECORDED_RUNS])
def test_reference_walks_a_recorded_run(
    name: str, run: Callable[..., np.ndarray], path: NoisePath, options: dict[str, Any]
) -> None:
    case, x, draws, final = recording(name)
    law = golden_mixture()

    def model(x: np.ndarray, t: float) -> np.ndarray:
        alpha, sigma = (torch.full((len(x), 1), float(f(t)), dtype=torch.float64) for f in (path.alpha, path.sigma))
        return law.denoise(torch.from_numpy(x), alpha, sigma).numpy()

    noise = [] if run.__module__ in (deis.__name__, tada.__name__) else [draws]
    levels = [t for t in case["grid"] if t] if run is tada.tada else case["grid"]  # it ends with the data prediction
    ours = run(model, x, levels, *noise, path, **options)
    assert abs(ours - final).max() <= 1e-11 * abs(final).max()  # published runs carry their own rounding
