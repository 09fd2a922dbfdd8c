"""ComfyUI: nodes that give samplers and sigmas, and names for its KSampler. Nothing of ComfyUI is imported before it asks for it.

    python -m fastsolve.adapters.comfy /path/to/ComfyUI             puts the nodes into its custom_nodes folder; --remove takes them out

Run it with the Python that runs ComfyUI, in which fastsolve must be installed.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from fastsolve import solvers
from fastsolve.adapters import comfy_models
from fastsolve.adapters.k_diffusion import names, sampler_function

_SAMPLERS, _SCHEDULERS = "sampling/custom_sampling/samplers", "sampling/custom_sampling/schedulers"
_OWN = "; below 0 it is the solver's own"
_NO_BASE = {"ddpm", "restart"}
_GRIDS = (
    *(
        "rbe",
        "karras",
        "beta",
        "kl_optimal",
        "rbe_atan",
        "uniform_logsnr",
        "uniform",
        "trailing",
        "simple",
        "sgm_uniform",
    ),
    *("linear_quadratic", "laplace", "ots", "ays_sd15", "ays_sdxl", "ays_svd", "gits_sd15"),
)


class Sampler:
    """A sampler by name; its options as JSON, such as {"variant": "heun"}."""

    CATEGORY, FUNCTION, RETURN_TYPES = _SAMPLERS, "build", ("SAMPLER",)
    DESCRIPTION = "A solver of fastsolve, for SamplerCustom. An option that it does not have is an error."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The widgets."""
        return {
            "required": {
                "solver": (names(), {"default": "seeds3"}),
                "eta": _number(-1.0, -1.0, 10.0, f"Strength of the noise: 0 the ODE, 1 the reverse SDE{_OWN}"),
                "s_noise": _number(-1.0, -1.0, 10.0, f"Factor on all noise{_OWN}"),
                "order": (
                    "INT",
                    {"default": 0, "min": 0, "max": 8, "tooltip": "Of multistep solvers; 0 is the solver's own"},
                ),
                "options": ("STRING", {"default": "{}", "tooltip": 'All other options as JSON: {"variant": "heun"}'}),
            }
        }

    def build(self, solver: str, eta: float, s_noise: float, order: int, options: str = "{}") -> tuple[Any]:
        """(a KSAMPLER,)."""
        given = {"eta": eta if eta >= 0 else None, "s_noise": s_noise if s_noise >= 0 else None, "order": order or None}
        return _sampler(solver, {**{name: v for name, v in given.items() if v is not None}, **_options(options)})


class Restart:
    """Restart around a solver: from t_min back up to t_max, k times, n_levels levels each; levels are sigma / alpha."""

    CATEGORY, FUNCTION, RETURN_TYPES = _SAMPLERS, "build", ("SAMPLER",)
    DESCRIPTION = "Restart (arXiv 2306.14878): goes back up to t_max with fresh noise and comes down again, k times."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The widgets."""
        bases = sorted({*solvers.names()} & {*names()} - _NO_BASE)
        return {
            "required": {
                "base": (bases, {"default": "heun"}),
                "n_levels": (
                    "INT",
                    {"default": 10, "min": 2, "max": 1000, "tooltip": "Levels of a restart, both ends included"},
                ),
                "k": ("INT", {"default": 1, "min": 1, "max": 100, "tooltip": "How often"}),
                "t_min": _number(0.1, 0.001, 1e4, "The level it goes up from: the nearest of the sigmas"),
                "t_max": _number(2.0, 0.001, 1e4, "The level it goes up to"),
                "s_noise": _number(1.0, 0.0, 10.0, "Factor on all noise"),
            }
        }

    def build(self, base: str, n_levels: int, k: int, t_min: float, t_max: float, s_noise: float) -> tuple[Any]:
        """(a KSAMPLER,)."""
        return _sampler("restart", {"base": base, "intervals": ((n_levels, k, t_min, t_max),), "s_noise": s_noise})


class Schedule:
    """Sigmas of a grid of fastsolve on the model's own schedule. denoise: the last part of a longer grid, as in BasicScheduler."""

    CATEGORY, FUNCTION, RETURN_TYPES = _SCHEDULERS, "sigmas", ("SIGMAS",)
    DESCRIPTION = "Noise levels by a grid of fastsolve."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The widgets."""
        return {
            "required": {
                "model": ("MODEL",),
                "grid": (list(_GRIDS), {"default": "rbe"}),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "denoise": _number(1.0, 0.0, 1.0, "Below 1: the last steps of a grid of steps / denoise steps"),
                "order": ("INT", {"default": 2, "min": 1, "max": 3, "tooltip": "Of the solver that rbe is for"}),
            }
        }

    def sigmas(self, model: Any, grid: str, steps: int, denoise: float, order: int = 2) -> tuple[torch.Tensor]:
        """(float32 [steps + 1],); nothing where denoise is 0."""
        if denoise <= 0.0:
            return (torch.zeros(0),)
        whole = comfy_models.sigmas(model.get_model_object("model_sampling"), grid, int(steps / denoise), order)
        return (whole[-(steps + 1) :],)


def _number(default: float, low: float, high: float, tip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": low, "max": high, "step": 0.01, "round": False, "tooltip": tip}


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f'options are JSON, such as {{"variant": "heun"}}, not {text!r}: {error}') from None
    if not isinstance(options, dict):
        raise ValueError(f'options are names with values, such as {{"variant": "heun"}}, not {text!r}')
    return options


def _sampler(solver: str, options: dict[str, Any]) -> tuple[Any]:
    return (_comfyui().KSAMPLER(sampler_function(solver, **options)),)


def _comfyui() -> Any:
    """`comfy.samplers`. Raises ImportError where there is no ComfyUI."""
    try:
        return importlib.import_module("comfy.samplers")
    except ModuleNotFoundError as error:
        if error.name not in ("comfy", "comfy.samplers"):
            raise  # ComfyUI is there, and lacks something itself
        raise ImportError(
            "there is no comfy.samplers here: nodes and register() work inside of ComfyUI, as a custom node of it; elsewhere take "
            "fastsolve.adapters.k_diffusion.sampler_function"
        ) from None


NODE_CLASS_MAPPINGS = {"FastSolveSampler": Sampler, "FastSolveRestart": Restart, "FastSolveSchedule": Schedule}
NODE_DISPLAY_NAME_MAPPINGS = {
    "FastSolveSampler": "fastsolve sampler",
    "FastSolveRestart": "fastsolve Restart sampler",
    "FastSolveSchedule": "fastsolve sigmas",
}


def register(
    solvers: Sequence[str] = ("seeds3", "dpmpp_3m_sde", "deis", "unipc"), grids: Sequence[str] = ("rbe",)
) -> None:
    """Adds names to the lists of ComfyUI's KSampler: `fastsolve_` before each. Call it late; calling it again changes nothing.

    A module of ComfyUI that another extension loads anew has lost them: call it again.
    """
    samplers = _comfyui()
    functions = importlib.import_module("comfy.k_diffusion.sampling")
    for solver in solvers:
        setattr(functions, f"sample_fastsolve_{solver}", sampler_function(solver))
        _add(samplers.KSampler.SAMPLERS, f"fastsolve_{solver}")
    for grid in grids:
        handler = samplers.SchedulerHandler(functools.partial(_scheduled, grid), True)
        samplers.SCHEDULER_HANDLERS[f"fastsolve_{grid}"] = handler
        _add(samplers.KSampler.SCHEDULERS, f"fastsolve_{grid}")


def _scheduled(grid: str, model_sampling: object, steps: int) -> torch.Tensor:
    return comfy_models.sigmas(model_sampling, grid, steps)


def _add(known: list[str], name: str) -> None:
    if name not in known:
        known.append(name)


if __name__ == "__main__":
    from fastsolve.adapters.comfy_install import main

    raise SystemExit(main())
