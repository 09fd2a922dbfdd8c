"""How recorded runs of Restart, and of single-step and ancestral samplers, become cases; `pack.py` uses it."""

from __future__ import annotations

from typing import Any

import numpy as np

Case = dict[str, Any]

# What fastsolve calls the run, and its options, by the run's name without its prefix.
K_DIFFUSION: dict[str, tuple[str, Case]] = {
    "dpm_2": ("dpm_solver_2", {}),
    "dpm_2_ancestral": ("dpm_2_ancestral", {}),
    "dpmpp_2s_ancestral_eta05": ("dpmpp_2s_ancestral", {"eta": 0.5}),
    "dpmpp_sde": ("dpmpp_sde", {"compat": "k_diffusion"}),
}
DIFFUSERS: dict[str, tuple[str, Case]] = {
    "ddpm_large": ("ddpm", {"variance": "large"}),
    "kdpm2": ("dpm_solver_2", {}),
    "flowmatch_heun": ("flow_heun", {}),
    "dpm_3s_single_eps": ("dpm_solver_3", {"inner": "grid", "variant": "midpoint"}),
    "dpmpp_2s_single": ("dpmpp_2s", {"inner": "grid", "orders": [2, 2, 2, 2, 1, 1]}),
}
DPM_SOLVER: dict[str, tuple[str, Case]] = {
    "1s_ls_nfe12": ("euler", {}),
    "2s_ls_nfe12": ("dpm_solver_2", {}),
    "3s_ls": ("dpm_solver_3", {"orders": [3, 3, 3, 1]}),
    "3s_ls_nfe12": ("dpm_solver_3", {"orders": [3, 3, 3, 2, 1]}),
    "3s_taylor": ("dpm_solver_3", {"orders": [3, 3, 3, 2, 1], "variant": "taylor"}),
    "3s_tu": ("dpm_solver_3", {"orders": [3, 3, 3, 1], "inner": "grid"}),
    "pp_1s_ls_nfe12": ("euler", {}),
    "pp_2s_ls_nfe12": ("dpmpp_2s", {}),
    "pp_3s_taylor": ("dpmpp_3s", {"orders": [3, 3, 3, 2, 1], "variant": "taylor"}),
}
FLOAT32 = "its levels are float32"


def dpm_solver(run: Any) -> Case:
    """LuChengTHU/dpm-solver. Where steps are uniform in time, inner nodes are levels of the finer grid: each a model call."""
    solver, options = DPM_SOLVER[run.name.removeprefix("peer_dpmsolver_")]
    grid = np.append(run.levels, run.grid[-1]) if options.get("inner") == "grid" else run.grid
    return run.case(solver, "vp", grid, **options)


def dpm_fast(run: Any) -> Case:
    """k-diffusion's dpm_fast: DPM-Solver's orders on a grid uniform in log sigma; it does not use the grid it is given."""
    nfe = run.meta["nfe"]
    count = nfe // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if nfe % 3 == 0 else [3] * (count - 1) + [nfe % 3]
    return run.case("dpm_solver_3", "ve", np.geomspace(run.grid[0], run.grid[-2], count + 1), orders=orders)


def restart(run: Any) -> Case:
    """Newbeeer/diffusion_restart_sampling, EDM scripts: starts from unit noise, draws at every step, mostly times 0."""
    settings = run.meta["settings"]
    intervals = list((settings["restart_info"] or {}).values())
    options: Case = {"intervals": intervals, "s_noise": settings["S_noise"]}
    if settings["restart_gamma"]:
        options |= {"gamma": settings["restart_gamma"], "s_tmin": settings["S_min"], "s_tmax": settings["S_max"]}
    case = run.case("restart", "edm", run.grid, **options)
    case["x_init"], case["draws"] = run.x_init * run.grid[0], run.draws[run.meta["noise_used_idx"]]
    if "f32grid" in run.name:
        case |= {"tolerance": 1e-7, "why": FLOAT32}
    if "collision" in run.name:
        case |= {"expect": "refuse", "match": "both start from the level 0.0599473"}
    return case


def restart_sd(run: Any) -> Case:
    """The same authors' Stable Diffusion pipeline: DDIM, inside intervals Heun, but DDIM where a step ends at index 1 or 0.

    Its `second_order` makes the main steps but the last the mean of two noises, which is DPM-Solver-2 with its node at the end.
    """
    options: Case = {"base": "ddim"}
    if run.meta["settings"]["second_order"]:
        orders = [2] * (len(run.meta["timesteps"]) - 2) + [1]
        options = {"base": "dpm_solver_2", "base_options": {"r": 1.0, "orders": orders}}
    for part in run.meta["segments"]:
        bounds = part["t_min_requested_sigma"], part["t_max_requested_sigma"]
        options |= {"inner_grid": "linear", "inner_base": "heun"}
        options["intervals"] = [*options.get("intervals", []), [part["n_levels"], part["K"], *bounds]]
        if part["timesteps"][-1] <= 1:
            options["inner_last"] = "ddim"
    case = run.case("restart", "vp_scaled_linear", np.array(run.meta["timesteps"], float), **options)
    case["draws"] = run.draws[run.meta["noise_used_idx"]]
    if "f32" in run.name:
        case |= {"tolerance": 1e-6, "why": "its table of alphas_cumprod is float32"}
    return case


def restart_webui(run: Any) -> Case:
    """AUTOMATIC1111/stable-diffusion-webui: both ends of an interval are main levels, and the whole is made of `steps` steps."""
    settings, n = run.meta["settings"], run.meta["settings"]["steps"]
    low, high = run.meta["sigmas_in"][-2], run.meta["sigmas_in"][0]
    inner, k = (0, 0) if n < 20 else (9, 1) if n < 36 else (n // 4, 2)
    intervals = [[inner + 1, k, 0.1, 2.0]] if inner else []
    if settings["restart_list"]:
        intervals = [[levels, k, float(t_min), t_max] for t_min, (levels, k, t_max) in settings["restart_list"].items()]
        inner = 0
    roots = np.linspace(high ** (1 / 7), low ** (1 / 7), n - inner * k)
    case = run.case("restart", "ve", np.append(roots**7, 0.0), intervals=intervals, snap="both")
    case["draws"] = run.draws[run.meta["noise_used_idx"]]
    if "f32" in run.name:
        case |= {"tolerance": 1e-6, "why": "float32 throughout"}
    return case


def single_step(run: Any, k_diffusion: Any, diffusers: Any) -> Case:
    """By the name of the run; the last two convert runs of those libraries."""
    kind = next(k for k in ("restart", "kdiff_dpm_fast", "kdiff", "diffusers", "dpmsolver") if k in run.name)
    if kind == "restart":
        which = {"sd": restart_sd, "webui": restart_webui}.get(run.name.split("_")[1], restart)
        return which(run)
    convert = {"kdiff_dpm_fast": dpm_fast, "kdiff": k_diffusion, "diffusers": diffusers, "dpmsolver": dpm_solver}[kind]
    return dict(convert(run))


PATTERNS = [
    *(f"peer_kdiff_{k}" for k in [*K_DIFFUSION, "dpm_fast_nfe*"]),
    *(f"peer_diffusers_{k}" for k in DIFFUSERS),
    *(f"peer_dpmsolver_{k}" for k in DPM_SOLVER),
    *(f"restart_{k}" for k in ("none18", "one_k*", "two_k1", "cifar_*", "imagenet_*", "collision", "webui_*")),
    *(f"restart_sd_{k}" for k in ("ddim30_none", "ddim30_heun_none", "ddim30_w*", "ddim10_w8")),
]
