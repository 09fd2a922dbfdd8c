"""Sampling functions with the contract of k-diffusion, which ComfyUI and stable-diffusion-webui share, for solvers of the catalogue.

    from fastsolve.adapters.k_diffusion import sample_dpmpp_2m, sample_seeds_3
    x = sample_seeds_3(model, x, sigmas, extra_args={"seed": 7}, eta=0.5)

Every `sample_NAME` of a name in `names()` is here, k-diffusion's and ComfyUI's names among them; see `sampler_function`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fastsolve import planner, solvers
from fastsolve.adapters.k_run import run
from fastsolve.schedules import Schedule

Options = dict[str, object]

# Names that others have for solvers of ours, and the options by which they are those.
_NAMES: dict[str, tuple[str, Options]] = {
    "ddpm": ("ddim", {"eta": 1.0}),  # the same step on any schedule
    "dpm_2": ("dpm_solver_2", {}),
    "dpmpp_2m_sde_heun": ("dpmpp_2m_sde", {"variant": "heun"}),
    "euler_ancestral_cfg_pp": ("euler_cfg_pp", {"eta": 1.0}),
    "res_multistep_ancestral": ("res_multistep", {"eta": 1.0}),
    "sa_solver_pece": ("sa_solver", {"pece": True}),
    "seeds_2": ("seeds2", {}),
    "seeds_3": ("seeds3", {}),
    "uni_pc": ("unipc", {"variant": "bh1"}),
    "uni_pc_bh2": ("unipc", {"variant": "bh2"}),
}
_ON_GPU = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")  # noise is the same on every device here
_NAMES |= {f"{name}_gpu": _NAMES.get(name, (name, {})) for name in _ON_GPU}

# What options are called elsewhere.
_OPTIONS = {
    "max_order": "order",
    "predictor_order": "order",
    "solver_type": "variant",
    "r_1": "r1",
    "r_2": "r2",
    "ge_gamma": "gamma",
    "max_stage": "stages",
    "use_pece": "pece",
}
_UNFIT = {
    "tada": "its state has several variables, and a sampling function is given one: use fastsolve.sample",
}


def names() -> list[str]:
    """What may stand after `sample_`, sorted: solvers of `fastsolve.list_solvers()` that fit, and other libraries' names of them."""
    return sorted({*solvers.names(), *_NAMES} - {*_UNFIT})


def sampler_function(
    solver: str, *, schedule: str | Schedule | None = None, **options: object
) -> Callable[..., torch.Tensor]:
    """A function (model, x, sigmas, extra_args=None, callback=None, disable=None, *, noise_sampler=None, **options) -> x.

    solver: one of `names()`. options: the solver's own, as defaults; a call may give others. schedule: None takes "flow" for ComfyUI's
    flow models, which are recognised, and "ve" for all others; what is given is taken for every model.

    The function: model(x, sigma, **extra_args) returns the denoised x; sigma is [B]. x [B, ...] of any rank is at the level sigmas[0]; it
    and sigmas are not changed. The state is float32 inside (float64 for such x), and the result is of x's dtype. callback is called
    with a dict of x, i, sigma, sigma_hat and denoised once per step, before its update; x is a copy. disable is tqdm's. Noise is keyed
    by extra_args["seed"] and the index in the batch; without a seed one is drawn from torch's generator. noise_sampler(sigma, sigma_next)
    is asked for all draws before the first call, each over its own part of a step. CFG++ solvers take models of ComfyUI only, which have
    an unconditional prediction to give.

    Raises ValueError for names and options that are not known, with the nearest, and from the function for sigmas that do not decrease.
    """
    base, defaults = _found(solver)
    chosen = {**defaults, **_checked(solver, base, options)}
    usual = planner.frozen(chosen)

    def sample(
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
        *,
        noise_sampler: Callable[..., torch.Tensor] | None = None,
        **options: object,
    ) -> torch.Tensor:
        asked = planner.frozen({**chosen, **_checked(solver, base, options)}) if options else usual
        return run(base, asked, schedule, model, x, sigmas, extra_args, callback, disable, noise_sampler)

    sample.__name__ = sample.__qualname__ = f"sample_{solver}"
    sample.__doc__ = f"{solvers.get(base).text.__doc__}\n\nCalled as `sampler_function` says."
    kinds = [p for p in inspect.signature(sample).parameters.values() if p.kind is not p.VAR_KEYWORD]
    facts = {**solvers.get(base).options, **chosen}
    kinds += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in facts.items()]
    sample.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]  # callers look there for what they may give
    return sample


def _found(name: str) -> tuple[str, Options]:
    """Our solver of a name, and the options that make it that one."""
    if not isinstance(name, str):
        raise TypeError(f"a solver is a name of fastsolve.adapters.k_diffusion.names(), not {name!r}")
    if name in _UNFIT:
        raise ValueError(f"{name} is no sampling function: {_UNFIT[name]}")
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.0)[0]
        raise ValueError(f"unknown solver {name!r}; nearest is {near!r}; known are {', '.join(known)}")
    return _NAMES.get(name, (name, {}))


def _checked(solver: str, base: str, options: Mapping[str, object]) -> Options:
    """Options by our names. Raises ValueError for one that the solver does not have."""
    known = {*solvers.get(base).options, "denoise_final"}
    chosen = dict[str, object]()
    for given, value in options.items():
        option = given if given in known else _OPTIONS.get(given, given)
        if option not in known:
            near = difflib.get_close_matches(option, known, 1, 0.0)[0]
            raise ValueError(
                f"sample_{solver} has no option {given!r}; nearest is {near!r}; it has {', '.join(sorted(known))}"
            )
        chosen[option] = value
    return chosen


@functools.cache
def _function(name: str) -> Callable[..., torch.Tensor]:
    return sampler_function(name)


def __getattr__(name: str) -> Callable[..., torch.Tensor]:
    if not name.startswith("sample_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _function(name.removeprefix("sample_"))
    except ValueError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return [*globals(), *(f"sample_{name}" for name in names())]
