"""Samplers of other libraries, each run as its own callers run it: a loop around `.step`, or a call of its sampling function.

Only what samples is loaded of k-diffusion and ComfyUI, so neither needs its other requirements: for k-diffusion
`pip install --no-deps k-diffusion torchsde torchdiffeq trampoline` beside this package's extra `dev`, for ComfyUI a checkout. Their
models return the data prediction. What surrounds the model there (input scaling, guidance, eps to data) is not part of a run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from torch import Tensor

STEPS = 12
Model = Callable[[Tensor, Tensor], Tensor]


class Peer(NamedTuple):
    """A sampler of another library. solver: ours for the same method. calls: of the model, per step. run(model, x) samples from x."""

    library: str
    method: str
    solver: str
    calls: int
    run: Callable[[Model, Tensor], Tensor]


class AbsentError(Exception):
    """Why a library's samplers are not here."""


def schedulers() -> list[tuple[str, str, int, Callable[[], Any]]]:
    """Of diffusers, (name, solver, calls, make): eps-prediction on Stable Diffusion's betas, or flow matching."""
    try:
        import diffusers as d
    except ImportError as error:
        raise AbsentError(f"{error}; the extra `bench` has it") from None
    d.utils.logging.set_verbosity_error()
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    multistep, unipc = d.DPMSolverMultistepScheduler, d.UniPCMultistepScheduler
    return [
        ("FlowMatchEuler", "flow_euler", 1, lambda: d.FlowMatchEulerDiscreteScheduler(shift=3.0)),
        ("FlowMatchHeun", "flow_heun", 2, lambda: d.FlowMatchHeunDiscreteScheduler(shift=3.0)),
        ("EulerDiscrete", "euler", 1, lambda: d.EulerDiscreteScheduler(**betas)),
        ("EulerAncestral", "euler_ancestral", 1, lambda: d.EulerAncestralDiscreteScheduler(**betas)),
        ("Heun", "heun", 2, lambda: d.HeunDiscreteScheduler(**betas)),
        ("KDPM2Ancestral", "dpm_2_ancestral", 2, lambda: d.KDPM2AncestralDiscreteScheduler(**betas)),
        ("DDIM", "ddim", 1, lambda: d.DDIMScheduler(**betas)),
        ("DDPM", "ddpm", 1, lambda: d.DDPMScheduler(**betas)),
        ("LCM", "lcm", 1, lambda: d.LCMScheduler(**betas)),
        ("PNDM", "pndm", 1, lambda: d.PNDMScheduler(**betas, skip_prk_steps=True)),
        ("LMSDiscrete", "lms", 1, lambda: d.LMSDiscreteScheduler(**betas)),
        ("IPNDM", "ipndm", 1, lambda: d.IPNDMScheduler()),
        ("DPMSolver++ 2S", "dpmpp_2s", 2, lambda: d.DPMSolverSinglestepScheduler(**betas, solver_order=2)),
        ("DPMSolver++ 2M", "dpmpp_2m", 1, lambda: multistep(**betas, solver_order=2)),
        ("DPMSolver++ 3M", "dpmpp_3m", 1, lambda: multistep(**betas, solver_order=3)),
        ("DPMSolver++ 2M SDE", "dpmpp_2m_sde", 1, lambda: multistep(**betas, algorithm_type="sde-dpmsolver++")),
        ("DEIS order 2", "deis", 1, lambda: d.DEISMultistepScheduler(**betas, solver_order=2)),
        ("DEIS order 3", "deis", 1, lambda: d.DEISMultistepScheduler(**betas, solver_order=3)),
        ("UniPC order 2", "unipc", 1, lambda: unipc(**betas, solver_order=2)),
        ("UniPC order 3", "unipc", 1, lambda: unipc(**betas, solver_order=3)),
        ("UniPC flow order 2", "unipc", 1, lambda: unipc(solver_order=2, **flow)),
        ("SASolver", "sa_solver", 1, lambda: d.SASolverScheduler(**betas)),
    ]


def diffusers() -> list[Peer]:
    """Loops around `.step` and `.scale_model_input`; with `set_begin_index(0)`, the best case."""
    return [Peer("diffusers", name, solver, calls, _loop(make)) for name, solver, calls, make in schedulers()]


def _loop(make: Callable[[], Any]) -> Callable[[Model, Tensor], Tensor]:
    def run(model: Model, x: Tensor) -> Tensor:
        scheduler = begun(make, x.device)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(model(scaled, t), t, x, return_dict=False)[0]
        return x

    return run


def begun(make: Callable[[], Any], device: torch.device) -> Any:
    """A scheduler before its first step."""
    scheduler = make()
    scheduler.set_timesteps(STEPS, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def k_diffusion() -> list[Peer]:
    """Sampling functions with sigmas on the device, as its callers have them."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise AbsentError(
            "k_diffusion is not installed: pip install --no-deps k-diffusion torchsde torchdiffeq trampoline"
        )
    # The package imports what it trains and evaluates with (clip, clean-fid, wandb ...); its sampling.py is one file and utils.py.
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["k_diffusion"] = package
    sampling = _imported("k_diffusion.sampling", unused=["torchvision", "torchvision.transforms"])
    methods = {
        "euler": 1,
        "euler_ancestral": 1,
        "heun": 2,
        "dpmpp_2m": 1,
        "lms": 1,
        "dpm_2_ancestral": 2,
        "dpmpp_2s_ancestral": 2,
        "dpmpp_2m_sde": 1,
        "dpmpp_3m_sde": 1,
        "dpmpp_sde": 2,
    }
    return [Peer("k-diffusion", name, name, calls, _function(sampling, name)) for name, calls in methods.items()]


def comfyui(checkout: Path | None) -> list[Peer]:
    """Sampling functions with sigmas on the device, where ComfyUI's CFGGuider takes them (comfy/samplers.py)."""
    if checkout is None:
        raise AbsentError("no checkout given: --comfyui PATH")
    if not (checkout / "comfy/k_diffusion/sampling.py").exists():
        raise AbsentError(f"{checkout} has no comfy/k_diffusion/sampling.py")
    sys.path.insert(0, str(checkout))
    unused = [
        "comfy.model_patcher",
        "comfy.ldm.modules.diffusionmodules.util",
    ]  # of cfg_pp samplers, and of beta schedules
    sampling = _imported("comfy.k_diffusion.sampling", unused)
    methods = {
        "euler": 1,
        "ipndm": 1,
        "dpmpp_2m": 1,
        "dpmpp_3m_sde": 1,
        "dpmpp_3m_sde_gpu": 1,
        "seeds_2": 2,
        "seeds_3": 3,
        "er_sde": 1,
        "res_multistep": 1,
        "deis": 1,
        "sa_solver": 1,
        "gradient_estimation": 1,
        "lcm": 1,
    }
    ours = {"dpmpp_3m_sde_gpu": "dpmpp_3m_sde", "seeds_2": "seeds2", "seeds_3": "seeds3"}
    laws = importlib.import_module("comfy.model_sampling")
    law = type("Law", (laws.ModelSamplingContinuousEDM, laws.EPS), {})()
    return [
        Peer("ComfyUI", name, ours.get(name, name), calls, _function(sampling, name, law))
        for name, calls in methods.items()
    ]


def _imported(name: str, unused: list[str]) -> ModuleType:
    """A module, in which imports that sampling does not need are empty where they are not installed."""
    for other in unused:
        sys.modules.setdefault(other, MagicMock())
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"{name} does not load: {error}") from None


def _function(sampling: ModuleType, name: str, law: object = None) -> Callable[[Model, Tensor], Tensor]:
    brownian = importlib.import_module("torchsde._brownian.brownian_interval")
    # Its seeds would need a generator of x's device; the numbers come from the global one instead, the operators stay the same.
    brownian._randn = lambda size, dtype, device, seed: torch.randn(size, dtype=dtype, device=device)
    function = getattr(sampling, f"sample_{name}")

    def run(model: Model, x: Tensor) -> Tensor:
        def called(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
            return model(x, sigma)

        inner = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=law),
            model_patcher=SimpleNamespace(get_model_object=lambda name: law),
        )
        called.inner_model = inner  # type: ignore[attr-defined]
        sigmas = sampling.get_sigmas_karras(STEPS, 0.03, 14.6, device="cpu").to(x.device)
        return function(called, x, sigmas, extra_args={}, disable=True)

    return run
