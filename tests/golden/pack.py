"""Packs recorded trajectories of published samplers into this folder: `python tests/golden/pack.py RECORDINGS`.

RECORDINGS holds one .npz per run: x_init, noises, final (four samples each), grid, evals_level, meta (what was run).
Here a run becomes a case in fastsolve's own terms: what `fastsolve.sample` must be given to walk the same trajectory.
Two of the four samples are kept. cases.json says everything but the tensors, which are in one .npz per family.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import single_step_runs

HERE = Path(__file__).parent
Case = dict[str, Any]


class Recording:
    def __init__(self, path: Path) -> None:
        self.name, self.path = path.stem, path
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files}
        self.meta = json.loads(str(arrays.pop("meta")))
        self.x_init, self.final, self.draws = arrays["x_init"][:2], arrays["final"][:2], arrays["noises"][:, :2]
        self.levels, self.grid = arrays["evals_level"], arrays.get("grid", np.array(self.meta.get("grid", [])))

    def case(self, solver: str, schedule: Any, grid: np.ndarray, nfe: int | None = None, **options: Any) -> Case:
        return {
            "name": self.name,
            "source": self.meta.get("source", "").split(", seeds_ref.py")[0],
            "solver": solver,
            "schedule": schedule,
            "grid": [float(t) for t in grid],
            "options": options,
            "nfe": self.meta["nfe"] if nfe is None else nfe,
            "expect": "agree",
            "x_init": self.x_init,
            "draws": self.draws,
            "final": self.final,
        }


def in_ve(case: Case) -> Case:
    """A VP run walked in VE coordinates, x / alpha, on its levels sigma / alpha."""
    case["x_init"] = case["x_init"] * np.hypot(1.0, case["grid"][0])
    case["final"] = case["final"] * np.hypot(1.0, case["grid"][-1])
    return case


def official_seeds(run: Recording) -> Case:
    """nfsrules/SEEDS: its last step, to 0, changes nothing, so the grid ends at the last positive level.

    Its state in VP scaling is that of a VP schedule, otherwise that of VE. Its stage noise has the sign '-'.
    """
    meta, n, order = run.meta, run.meta["num_steps"], run.meta["order"]
    variant, c2 = meta["solver_kwargs"].get("butcher_type"), meta["solver_kwargs"].get("c2")
    form = {"data": "data", "EDM": "edm"}.get(meta["prediction"].split()[0], "noise")
    if meta["scaling"] == "vp":
        low, high = official_range(run)
        slope = 2 * (np.log1p(low**2) / 1e-3 - np.log1p(high**2)) / (1e-3 - 1)
        start = np.log1p(high**2) - slope / 2
        schedule: Any = {"vp": [float(start), float(start + slope)]}
        grid = run.grid[:n]
    else:
        schedule = "edm" if form == "edm" else "ve"  # the same law; "edm" also states sigma_data
        grid = np.sqrt(run.grid[:n]) if meta["schedule"] == "ve" else run.grid[:n]
    case = run.case(f"seeds{order}", schedule, grid, form=form)
    if variant:
        case["options"]["variant"] = {"2b": "phi_2"}.get(variant, variant)
    if c2:
        case["options"]["r" if order == 2 else "r1"] = c2
    churn = meta["solver_kwargs"] if "S_churn" in meta["solver_kwargs"] else None
    draws = run.draws[: (order + bool(churn)) * (n - 1)]
    if meta["solver_kwargs"].get("noise_type") == "discrete":
        draws = np.where(draws > 0.5, 1.0, -1.0)  # as published: a normal beyond 0.5 is +1
    case["draws"] = -draws if meta["noise_sign"] == "-" else draws
    if churn:
        case["grid"], case["draws"] = unchurned(run, case["draws"], churn)
        case["options"] |= {f"s_{k[2:].lower()}".replace("_m", "_tm"): churn[k] for k in ("S_churn", "S_min", "S_max")}
    # Its errata: the third-order data and noise forms, and inner nodes other than the default.
    if (order == 3 and form != "edm") or c2:
        case["expect"] = "official"
    return case


def unchurned(run: Recording, draws: np.ndarray, churn: Case) -> tuple[list[float], np.ndarray]:
    """The grid before churn, and the draws with only the churns that happen; S_noise is on those alone, and their sign is '+'."""
    n = run.meta["num_steps"]
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    grid = (high + np.arange(n) / (n - 1) * (low - high)) ** 7
    happens = (grid[:-1] >= churn["S_min"]) & (grid[:-1] <= churn["S_max"])
    steps = draws.reshape(n - 1, -1, *draws.shape[1:])
    kept = [
        draw
        for step, on in zip(steps, happens, strict=True)
        for draw in ([-churn["S_noise"] * step[0]] if on else []) + [*step[1:]]
    ]
    return [float(t) for t in grid], np.stack(kept)


def official_range(run: Recording) -> tuple[float, float]:
    """The noise levels between which the official code fits its VP schedule."""
    if run.meta["discretization"] == "edm":
        return 0.002, 80.0
    low, high = (float(np.sqrt(np.expm1(9.55 * t * t + 0.1 * t))) for t in (1e-3, 1.0))
    return low, high


def comfy_seeds(run: Recording) -> Case:
    """ComfyUI. Its flow sampler replaces a first level of 1 by 0.9999 and leaves the state as it is."""
    flow, params = run.meta["frame"] == "rf", dict(run.meta["params"])
    grid = np.concatenate([[0.9999], run.grid[1:]]) if flow else run.grid
    if "solver_type" in params:
        params["variant"] = params.pop("solver_type")
    solver = "seeds3" if "seeds3" in run.name else "seeds2"
    case = run.case(solver, "flow" if flow else "ve", grid, **params)
    if params.get("r") == 1.0:
        case["draws"] = run.draws[::2]  # the second normal of a step is drawn, and weighs exactly 0
    if "pre9633" in run.name:
        case["expect"] = "differ"
    return case


def corrected_seeds(run: Recording) -> Case:
    """Not published: corrected SEEDS by an implementation of its own, for what no published code gets right."""
    meta = run.meta
    params = {"r" if "o2" in run.name and k == "c2" else {"c2": "r1"}.get(k, k): v for k, v in meta["params"].items()}
    if "variant" in params:
        params["variant"] = {"2b": "phi_2"}.get(params["variant"], params["variant"])
    form = "edm" if meta["kind"] == "F" else "data"
    schedule = "flow" if meta["frame"] == "rf" else "edm" if form == "edm" else "ve"
    case = run.case(f"seeds{meta['order']}", schedule, run.grid, form=form, eta=meta["eta"], **params)
    return in_ve(case) if meta["frame"] == "vp" else case


K_DIFFUSION: dict[str, tuple[str, Case]] = {
    "euler": ("ddim", {}),
    "euler_ancestral": ("euler_ancestral", {"eta": 1.0}),
    "euler_ancestral_eta05": ("euler_ancestral", {"eta": 0.5}),
    "heun": ("heun", {}),
    "heun_nozero": ("heun", {}),
    "dpmpp_2m": ("dpmpp_2m", {"variant": "midpoint"}),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {"variant": "midpoint", "eta": 1.0}),
    "dpmpp_2m_sde_heun": ("dpmpp_2m_sde", {"variant": "heun", "eta": 1.0}),
    "dpmpp_3m_sde": ("dpmpp_3m_sde", {"eta": 1.0}),
    "dpmpp_3m_sde_eta0": ("dpmpp_3m_sde", {"eta": 0.0}),
}
DIFFUSERS: dict[str, tuple[str, Case]] = {
    "ddim": ("ddim", {}),
    "ddim_eta1": ("ddim", {"eta": 1.0}),
    "ddpm_small": ("ddpm", {"variance": "small"}),
    "euler": ("ddim", {}),
    "euler_karras": ("ddim", {}),
    "edm_euler": ("ddim", {}),
    "edm_dpmpp_2m": ("dpmpp_2m", {"variant": "midpoint"}),
    "flowmatch_euler_shift1": ("ddim", {}),
    "heun": ("heun", {}),
    "dpmpp_2m": ("dpmpp_2m", {"variant": "midpoint"}),
    "dpmpp_2m_karras": ("dpmpp_2m", {"variant": "midpoint"}),
    "dpmpp_2m_trailing": ("dpmpp_2m", {"variant": "midpoint"}),
    "dpmpp_2m_sigmamin": ("dpmpp_2m", {"variant": "midpoint", "lower_order_final": True}),
    "dpmpp_2m_heun": ("dpmpp_2m", {"variant": "heun"}),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {"variant": "midpoint", "eta": 1.0}),
}


def k_diffusion(run: Recording) -> Case:
    solver, options = (K_DIFFUSION | single_step_runs.K_DIFFUSION)[run.name.removeprefix("peer_kdiff_")]
    return run.case(solver, "ve", run.grid, **options)


def diffusers(run: Recording) -> Case:
    """Float64 copies of the schedulers. VP runs whose levels are entries of the table walk the table, the others VE."""
    key, coords, config = run.name.removeprefix("peer_diffusers_"), run.meta["coords"], run.meta["config"]
    solver, options = (DIFFUSERS | single_step_runs.DIFFUSERS)[key]
    levels = np.unique(run.grid if len(run.grid) else np.append(run.levels, 0.0))[::-1]
    if coords.startswith("alpha=1/"):
        betas = [config["beta_start"], config["beta_end"], config["num_train_timesteps"]]
        table = np.cumprod(1 - np.linspace(*betas))
        rho = np.append(np.sqrt((1 - table) / table), 0.0)  # the last stands for clean data, index -1
        index = np.array([np.argmin(abs(rho - s)) for s in levels])
        if np.all(abs(rho[index] - levels) <= 1e-13 * levels):
            case = run.case(solver, {"vp_table": betas}, np.where(index == len(table), -1, index), **options)
        else:
            case = in_ve(run.case(solver, "ve", levels, **options))
    else:
        case = run.case(solver, "flow" if coords == "alpha=1-sigma" else "ve", levels, **options)
    case["draws"] = run.draws[: int(np.sum(levels[1:] > 0))]  # some draw in a step to 0 too, and multiply by 0
    return case


def edm(run: Recording) -> Case:
    settings = run.meta["settings"]
    options = {"s_churn": settings["S_churn"], "s_noise": settings["S_noise"]} if "S_churn" in settings else {}
    case = run.case("heun", "edm", run.grid, **options)
    case["x_init"] = run.x_init * run.grid[0]  # recorded as unit noise
    if not options:
        case["draws"] = run.draws[:0]  # drawn, and multiplied by 0
    return case


def deis(run: Recording) -> Case:
    return run.case("heun" if "2heun" in run.name else "ddim", "vp", run.grid)


def approximate(case: Case, tolerance: float, reason: str) -> Case:
    """A published run whose own numbers are coarser than rounding."""
    case["tolerance"], case["reason"] = tolerance, reason
    return case


def deis_multistep(run: Recording) -> Case:
    """qsh-zh/deis; `exactcoef` is its loop with exact coefficients, without it they are left sums of 10,000 terms."""
    meta = run.meta
    if meta["method"] == "ipndm":
        return run.case("ipndm", "vp", run.grid)
    if meta["method"] == "rho_rk":
        return run.case("deis_rho_rk", "vp", run.grid, tableau=meta["rk_method"])
    case = run.case(
        {"t_ab": "deis_tab", "rho_ab": "deis_rho_ab"}[meta["method"]], "vp", run.grid, order=meta["ab_order"]
    )
    if (
        meta["schedule"] == "VP cos"
    ):  # cosine without division by its value at 0: another law than ours, the same in rho
        case |= {"schedule": "ve", "grid": [float(t) for t in np.tan(np.pi / 2 * (run.grid + 0.008) / 1.008)]}
        case = in_ve(case)
    if "exactcoef" in run.name:
        return case
    return approximate(
        case, 3e-5 if meta["method"] == "rho_ab" else 2e-4, "published weights are left sums of 10,000 terms in t"
    )


def diff_sampler(run: Recording) -> Case:
    """zju-pi/diff-sampler, in VE. Its deis_tab interpolates in the clock of a VP schedule fitted to EDM's range."""
    if run.name.endswith("heun"):
        return run.case("heun", "ve", run.grid)
    order = int(run.meta["kwargs"]["max_order"])
    if "ipndm_v" in run.name:
        case = run.case("deis_rho_ab", "ve", run.grid, order=order - 1)
        case["expect"] = "agree" if order == 2 else "differ"  # its weights for 3 and 4 miss a pair of brackets
        return case
    if "ipndm" in run.name:
        return run.case("ipndm", "ve", run.grid, order=order)
    low, high = np.log1p(0.002**2), np.log1p(80.0**2)
    slope = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    start, b = high - slope / 2, np.log1p(run.grid**2)
    case = run.case("deis_tab", {"vp": [float(start), float(start + slope)]}, run.grid, order=order - 1)
    case["grid"] = [float(t) for t in 2 * b / (start + np.sqrt(start**2 + 2 * slope * b))]
    case["x_init"], case["final"] = run.x_init / np.hypot(1, run.grid[0]), run.final / np.hypot(1, run.grid[-1])
    return approximate(case, 2e-4, "published weights are left sums of 10,000 terms in t")


def dpm_solver(run: Recording) -> Case:
    """LuChengTHU/dpm-solver and wl-zhao/UniPC: the first lowers the order at the end below 10 steps only."""
    meta, lower = run.meta, run.meta["lower_order_final"]
    if run.name.startswith("peer_unipc"):
        options = {"variant": meta["variant"], "form": "data" if meta["data_prediction"] else "noise"}
        case = run.case("unipc", "vp", run.grid, order=meta["order"], lower_order_final=lower, **options)
        if meta["variant"] == "vary_coeff" and meta["order"] > 1:  # its corrector reads a leaked loop index
            case["expect"] = "differ"
        return case
    case = run.case(f"dpmpp_{meta['order']}m", "vp", run.grid, lower_order_final=lower and meta["steps"] < 10)
    if meta["algorithm_type"] == "dpmsolver":
        case["options"]["form"] = "noise"
    if meta["denoise_to_zero"]:
        case["options"]["denoise_final"] = True
    return case


def comfy_sde(run: Recording) -> Case:
    """ComfyUI's er_sde and sa_solver. Its er_sde sums 200 terms for two integrals, `_f32` as published, with nodes in float32."""
    flow, params = run.meta["frame"] == "rf", run.meta["params"]
    grid = np.concatenate([[0.9999], run.grid[1:]]) if flow else run.grid
    if "sasolver" in run.name:
        options = {"order": params.get("predictor_order", 3), "corrector_order": params.get("corrector_order", 4)}
        if "interval" in params.get("tau_func", "interval"):
            options |= {"s_tmin": 0.25, "s_tmax": 4.0} if flow else {"s_tmin": 0.2, "s_tmax": 10.0}
        if params.get("simple_order_2"):
            options["variant"] = "simple"
        if params.get("use_pece"):
            options["pece"] = True
        return run.case("sa_solver", "flow" if flow else "ve", grid, **options)
    options = {"stages": params.get("max_stage", 3)} | ({"eta": 1.0} if "phisde" in run.name else {})
    case = run.case("er_sde", "flow" if flow else "ve", grid, **options)
    case["expect"] = "agree" if options["stages"] == 1 else "official"
    if "_f32" in run.name:
        approximate(case, 1e-6, "as published, the nodes of the sums are float32")
    return case


LATER_DIFFUSERS: dict[str, tuple[str, Case]] = {
    **{f"deis_o{k}": ("deis", {"order": k - 1, "variant": "logrho", "lower_order_final": True}) for k in (1, 2, 3)},
    "deis_o3_karras": ("deis", {"order": 2, "variant": "logrho", "lower_order_final": True}),
    "lms": ("lms", {}),
    "pndm_plms": ("pndm", {}),
    **{f"unipc_bh{b}_o{k}": ("unipc", {"order": k, "variant": f"bh{b}"}) for b in (1, 2) for k in (1, 2, 3)},
    "dpmpp_3m": ("dpmpp_3m", {"lower_order_final": True}),
    "dpmpp_3m_sde": ("dpmpp_3m_sde", {"warmup": "midpoint", "lower_order_final": True}),
    "dpm_2m_eps": ("dpmpp_2m", {"form": "noise", "lower_order_final": True}),
    "dpm_3m_eps": ("dpmpp_3m", {"form": "noise", "lower_order_final": True}),
    "sde_dpmsolver_2m": ("dpmpp_2m_sde", {"form": "noise", "lower_order_final": True}),
    "unipc_bh2_o3_eps": ("unipc", {"form": "noise"}),
    "sasolver_p2c2": ("sa_solver", {"order": 2, "corrector_order": 2, "variant": "simple"}),
}
DIFFUSERS |= LATER_DIFFUSERS


def diffusers_multistep(run: Recording) -> Case:
    key = run.name.removeprefix("peer_diffusers_")
    if key == "pndm_plms":  # its last call, at the last level, changes nothing
        run.grid = np.unique(run.levels)[::-1]
    case = diffusers(run)
    if key == "pndm_plms":
        case["nfe"] = 10
    if (
        key == "deis_o3_karras"
    ):  # its grid has the last level twice, and it lowers the order before a step that changes nothing
        case |= {"expect": "differ", "nfe": 9}
    if key == "dpmpp_3m_sde":  # a wrong sign
        case["expect"] = "differ"
    if key == "lms":
        case["expect"] = "official"  # extrapolates in the step to sigma = 0
    if key == "sasolver_p2c2":  # tau = 1 on steps that leave a timestep in [200, 800], and it draws in all steps
        on = [i + 1 for i, t in enumerate(case["grid"][:-1]) if 200 <= t <= 800]
        rho = run.grid[on]
        case["options"] |= {"s_tmin": float(rho[-1] * 0.99), "s_tmax": float(rho[0] * 1.01)}
        case["draws"] = run.draws[[i - 1 for i in on]]
    return case


def single_step(run: Recording) -> Case:
    return single_step_runs.single_step(run, k_diffusion, diffusers)


def tada(run: Recording) -> Case:
    """Not published code, which was not to be had: an implementation of its own, in the basis of derivatives, x_init [N, B, ...]."""
    meta = run.meta
    options = {"n_variables": meta["N"], "order": meta["order"], "last_var": meta["last_var"]}
    case = run.case(
        "tada", "flow" if "flow" in run.name else "ve", np.append(run.levels, 0.0), nfe=meta["NFE"], **options
    )
    with np.load(run.path) as file:
        case["x_init"] = file["x_init"][:, :2]
    case["draws"], case["source"] = run.draws[:0], "own implementation of arXiv 2506.21757"
    return case


FAMILIES = {
    "tada": (tada, ["tada_edm_*", "tada_flow_*"]),
    "seeds_official": (official_seeds, ["seeds_off_*"]),
    "seeds_comfyui": (comfy_seeds, ["seeds_comfy_seeds*", "seeds_comfy_expheun*"]),
    "seeds_corrected": (
        corrected_seeds,
        ["seeds_ref_F_*", "seeds_ref_x0_rf_*_c2_*", "seeds_ref_x0_v?_o3b*", "seeds_ref_x0_vp_o?_eta0p5*"],
    ),
    "k_diffusion": (k_diffusion, [f"peer_kdiff_{k}" for k in K_DIFFUSION if "3m" not in k]),
    "diffusers": (diffusers, [f"peer_diffusers_{k}" for k in DIFFUSERS if k not in LATER_DIFFUSERS]),
    "edm": (edm, ["restart_edm_heun18", "restart_edm_churn18*"]),
    "deis_multistep": (
        deis_multistep,
        [
            "deis_ipndm",
            "deis_*_ab[13]_exactcoef",
            "deis_*_ab[0-3]",
            "deis_rho_ab3_*",
            "deis_t_ab3_[!c]*",
            "deis_rho_rk_3*",
            "deis_rho_rk_4rk",
        ],
    ),
    "diff_sampler": (
        diff_sampler,
        ["peer_diffsampler_ipndm*", "peer_diffsampler_deis_tab*", "peer_diffsampler_heun"],
    ),
    "diffusers_multistep": (diffusers_multistep, [f"peer_diffusers_{k}" for k in LATER_DIFFUSERS]),
    "k_diffusion_multistep": (k_diffusion, ["peer_kdiff_dpmpp_3m_sde", "peer_kdiff_dpmpp_3m_sde_eta0"]),
    "dpm_solver": (
        dpm_solver,
        [
            "peer_unipc_bh?_o[123]",
            "peer_unipc_*_tu",
            "peer_unipc_*_nolof",
            "peer_unipc_*_eps",
            "peer_unipc_vary_coeff_o?",
            "peer_dpmsolver_pp_[23]m_*",
            "peer_dpmsolver_[23]m_*",
        ],
    ),
    "comfyui_sde": (comfy_sde, ["seeds_comfy_ersde*", "seeds_comfy_sasolver*"]),
    "single_step": (single_step, single_step_runs.PATTERNS),
    "deis": (deis, ["deis_t_ab0_exactcoef", "deis_rho_rk_1euler", "deis_rho_rk_2heun"]),
}


def main(recordings: Path) -> None:
    cases = []
    for family, (convert, patterns) in FAMILIES.items():
        arrays = {}
        for path in sorted({p for pattern in patterns for p in recordings.glob(pattern + ".npz")}):
            if path.stem.endswith(("_n24", "_n6_f32")):  # twice the steps of a case that is here, or the same with more
                continue
            case = convert(Recording(path))
            for key in ("x_init", "draws", "final"):
                arrays[f"{case['name']}.{key}"] = case.pop(key)
            cases.append({"family": family, **case})
        np.savez_compressed(HERE / f"{family}.npz", **arrays)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
