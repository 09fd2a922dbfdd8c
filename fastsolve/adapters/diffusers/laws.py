"""The config of a diffusers scheduler, read as a `Law`: of its model (schedule, prediction, clock) and of its levels."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsolve import grids, predictions, solvers
from fastsolve.adapters.diffusers.law import Backwards, EDMVelocity, Law as Law
from fastsolve.adapters.diffusers.spacings import RESPACED, Distilled, only_one, spacing
from fastsolve.grids import Grid, Spacing, Uniform
from fastsolve.predictions import Prediction
from fastsolve.schedules import EDM, Flow, VPTable, squared_cosine, zero_terminal_snr

Config = Mapping[str, Any]


# The built-in scheduler that a solver's name means, whose rules of spacing and of the end it takes over; "dpm" for all others.
_LIKE = {
    **dict.fromkeys(("ddim", "ddpm", "pndm", "ipndm", "lcm"), "ddim"),
    **dict.fromkeys(
        ("euler", "euler_ancestral", "heun", "dpm_2_ancestral", "ancestral", "lms", "dpmpp_sde", "gradient_estimation"),
        "euler",
    ),
}
_TO_TABLE = {"deis", "deis_tab", "deis_rho_ab", "sa_solver"}  # their built-ins stop at the table's first entry

_FLOW = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
)
_VE = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler")
_ELSEWHERE = (
    "AmusedScheduler", "BlockRefinementScheduler", "CMStochasticIterativeScheduler", "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler", "DDIMInverseScheduler",
    "DPMSolverMultistepInverseScheduler", "DDPMWuerstchenScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
    "FlowMapEulerDiscreteScheduler", "HeliosScheduler", "HeliosDMDScheduler", "IPNDMScheduler", "KarrasVeScheduler",
    "MiniMaxH3Scheduler", "PiflowScheduler", "RFD4ProteinaScheduler", "RePaintScheduler", "SCMScheduler",
    "ScoreSdeVeScheduler", "UnCLIPScheduler", "VQDiffusionScheduler",
)  # fmt: skip
# By a key of theirs: only a loaded config names its class.
_BY_KEY = {
    "snr_shift_scale": "CogVideoXDDIMScheduler", "clip_denoised": "CMStochasticIterativeScheduler", "stages": "HeliosScheduler",
    "n_grid": "PiflowScheduler", "s_max": "KarrasVeScheduler", "snr": "ScoreSdeVeScheduler",
}  # fmt: skip
# What a model was trained on is kept where it is a class's default, too; the rest is the default of the class that reads it.
MODEL_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "sigma_min",
              "sigma_max", "sigma_data", "sigma_schedule", "rho")  # fmt: skip


def law_of(config: Config, solver: str = "dpmpp_2m", *, compat: bool = False) -> Law:
    """The law of a scheduler's config, as that of `pipe.scheduler.config`, for a solver of the catalogue.

    Keys that the config holds only as defaults of its class are those of the built-in that the solver's name means, as where diffusers
    swaps schedulers; those of the model (MODEL_KEYS) are kept. compat: flow levels as diffusers lays them by default, shifted twice at
    their end. Raises ValueError for what is not there, with what to write instead.
    """
    unsaid = set(config.get("_use_default_values") or ()) - set(MODEL_KEYS)
    said = {key: value for key, value in config.items() if key not in unsaid and value is not None}
    order = solvers.get(solver).order
    if said.get("thresholding"):
        raise ValueError(
            "dynamic thresholding (thresholding=True) is a function of every data prediction, which a scheduler here does not have: set "
            "thresholding=False, or run fastsolve.sample(..., x0_hook=fastsolve.dynamic_threshold(0.995, 1.0))"
        )
    match family_of(config):
        case "flow":
            return _flow(said, solver, order, compat)
        case "ve":
            return _ve(said, order, is_cosine(config))
    return _vp(said, solver, order)


def family_of(config: Config) -> str:
    """Whether it is of "flow", "ve" or "vp": by the class where the config names it, else by the keys that it has.

    Raises ValueError for other laws.
    """
    name, keys = str(config.get("_class_name") or ""), {key for key, value in config.items() if value is not None}
    name = next((_BY_KEY[key] for key in _BY_KEY if key in keys), name)
    if name in _ELSEWHERE:
        raise ValueError(
            f"{name} is not a law of noise by a table of betas, by EDM's sigma or by flow matching's t, or its steps are a model's own: "
            "keep that scheduler"
        )
    if name in _FLOW or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return "flow"
    if name in _VE or _log_sigma(config):
        return "ve"
    if has_betas(config):
        return "vp"
    return "flow" if keys & {"shift", "base_shift", "invert_sigmas"} else "ve" if "sigma_data" in keys else "vp"


def has_betas(config: Config) -> bool:
    """Whether it says that the model is of a table of betas."""
    return any(config.get(key) is not None for key in ("beta_start", "beta_end", "beta_schedule", "trained_betas"))


def _log_sigma(config: Config) -> bool:
    """EulerDiscreteScheduler as Stable Video Diffusion has it: EDM with sigma_data = 1."""
    return config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"


def _train_steps(config: Config) -> int:
    return int(config.get("num_train_timesteps", 1000))


def _known(config: Config, key: str, meanings: Mapping[str, Any], usual: str) -> Any:
    value = config.get(key, usual)
    if value not in meanings:
        raise ValueError(f"{key} must be one of {', '.join(map(repr, meanings))}, not {value!r}")
    return meanings[value]


def _flow(config: Config, solver: str, order: int, compat: bool) -> Law:
    kind = config.get("prediction_type", "flow_prediction")
    if kind != "flow_prediction":
        raise ValueError(
            f"a flow-matching scheduler with prediction_type {kind!r}: flow models predict a velocity, leave prediction_type out; for a "
            "model trained on betas take FastSolveScheduler with use_flow_sigmas=False"
        )
    if config.get("stochastic_sampling"):
        raise ValueError('stochastic_sampling=True is a solver here: leave it out, and take solver="flow_sde" or "lcm"')
    train, backwards = _train_steps(config), bool(config.get("invert_sigmas"))
    by_betas = bool(config.get("use_flow_sigmas"))  # DPM-Solver, UniPC and DEIS with a model of flow matching
    shift = float(config.get("flow_shift" if by_betas else "shift", 1.0))
    dynamic = _known(config, "time_shift_type", {"exponential": "exponential", "linear": "linear"}, "exponential")
    dynamic = dynamic if config.get("use_dynamic_shifting") else None
    schedule = Flow(shift=1.0 if dynamic else shift, t_min=1.0 / train)
    rule: Grid = Spacing("linspace")
    if compat and not dynamic:  # their sigma_min has been shifted before
        schedule = Flow(shift=shift, t_min=schedule.warp(schedule.t_min))
    respaced = only_one(config)
    if by_betas and respaced:  # in sigma of the betas, brought to the t of the same sigma / alpha
        lams = VPTable(_table(config)).lams
        ends = {
            "sigma_min": config.get("sigma_min", math.exp(-lams[0])),
            "sigma_max": config.get("sigma_max", math.exp(-lams[-1])),
        }
        rule, respaced = dataclasses.replace(RESPACED[respaced], **ends), None  # type: ignore[type-var]
    elif by_betas:
        # n + 1 even levels without the last: UniPC's from 1 to 1 / T, DPM-Solver's and DEIS' from 1 - 1 / T to 0.
        lower = solver.startswith(("dpmpp", "deis", "sa_solver"))
        rule = Uniform() if lower else Spacing("trailing")
        schedule = dataclasses.replace(schedule, t_max=1.0 - schedule.t_min) if lower else schedule
    return Law(
        "flow", schedule, Backwards() if backwards else predictions.Flow(), _clip(config, False), rule, 0.0,
        "flow_backwards" if backwards else "flow", train, order, dynamic, config.get("shift_terminal") or None, respaced,
    )  # fmt: skip


def kept_of(config: Config, reader: type, family: str) -> dict[str, Any]:
    """What says of the model, where it is a default of the config's class but not of the class that reads it."""
    keys = {"vp": MODEL_KEYS[:6], "ve": MODEL_KEYS[:1] + MODEL_KEYS[5:], "flow": MODEL_KEYS[:1]}[family]
    defaults = {name: p.default for name, p in inspect.signature(reader).parameters.items()}
    unsaid = set(config.get("_use_default_values") or ()) & set(keys) & set(defaults)
    return {key: config[key] for key in unsaid if key in config and config[key] != defaults[key]}


def is_cosine(config: Config) -> bool:
    """CosineDPMSolverMultistepScheduler, by what EDM's two classes do not have or have beside."""
    named = config.get("_class_name") == "CosineDPMSolverMultistepScheduler" or config.get("clock") == "atan"
    return named or ("solver_order" in config and "algorithm_type" not in config)


def _ve(config: Config, order: int, cosine: bool) -> Law:
    if _log_sigma(config):
        schedule = EDM(config.get("sigma_min", 0.002), config.get("sigma_max", 700.0), 1.0)
        told, rho, kind, scaled = "log", 7.0, "karras" if config.get("use_karras_sigmas") else "exponential", True
        if only_one(config) not in ("use_karras_sigmas", "use_exponential_sigmas"):
            raise ValueError('timestep_type "continuous" needs use_karras_sigmas=True or use_exponential_sigmas=True')
        scaled = config.get("timestep_spacing", "linspace") != "leading"
    else:
        ends = (0.3, 500.0, 1.0) if cosine else (0.002, 80.0, 0.5)
        schedule = EDM(
            *(config.get(key, usual) for key, usual in zip(("sigma_min", "sigma_max", "sigma_data"), ends, strict=True))
        )
        told, rho, scaled = "atan" if cosine else "log", config.get("rho", 7.0), False
        kind = _known(
            config, "sigma_schedule", {k: k for k in ("karras", "exponential")}, "exponential" if cosine else "karras"
        )
    meanings: dict[str, Prediction] = {
        "epsilon": predictions.EDM(schedule.sigma_data, scaled_input=True),
        "v_prediction": EDMVelocity(schedule.sigma_data, scaled_input=True),
    }
    prediction = _known(config, "prediction_type", meanings, "v_prediction" if told == "atan" else "epsilon")
    rule: Grid = grids.Karras(rho=rho) if kind == "karras" else grids.UniformLogSNR()
    return Law(
        "ve", schedule, prediction, _clip(config, False), rule, 0.0, told, _train_steps(config), order, scaled=scaled
    )


def _vp(config: Config, solver: str, order: int) -> Law:
    like = _LIKE.get(solver, "dpm")
    schedule = VPTable(_table(config))
    meanings = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
    prediction = predictions.get(_known(config, "prediction_type", meanings, "epsilon"))
    ends = _known(
        config, "final_sigmas_type", {"zero": -1.0, "sigma_min": 0.0}, "sigma_min" if solver in _TO_TABLE else "zero"
    )
    if like == "ddim" and solver != "ddpm":
        ends = -1.0 if config.get("set_alpha_to_one", solver not in ("pndm", "ipndm")) else 0.0
    usual = "leading" if like == "ddim" else "linspace"
    if solver == "lcm":
        rule: Grid = Distilled(int(config.get("original_inference_steps", 50)))
    else:
        rule = spacing(config, like, usual, schedule)
    scaled = like == "euler" and config.get("timestep_spacing", usual) != "leading"
    return Law(
        "vp", schedule, prediction, _clip(config, solver in ("ddim", "ddpm")), rule, ends, "index", len(schedule.lams), order,
        scaled=scaled,
    )  # fmt: skip


def _clip(config: Config, usual: bool) -> float | None:
    return float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", usual) else None


def _table(config: Config) -> tuple[float, ...]:
    """alphas_cumprod [T] in float64."""
    size = _train_steps(config)
    first, last = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
    elif kind == "linear":
        betas = np.linspace(first, last, size)
    elif kind == "scaled_linear":
        betas = np.linspace(math.sqrt(first), math.sqrt(last), size) ** 2
    elif kind == "squaredcos_cap_v2":
        betas = None
    elif kind == "sigmoid":
        betas = first + (last - first) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, size)))
    else:
        known = "'linear', 'scaled_linear', 'squaredcos_cap_v2' or 'sigmoid'"
        raise ValueError(f"beta_schedule must be {known}, not {kind!r}; for other betas give them as trained_betas")
    table = tuple(squared_cosine(size).alphas_cumprod if betas is None else np.cumprod(1.0 - betas).tolist())
    return zero_terminal_snr(table) if config.get("rescale_betas_zero_snr") else table
