"""What ComfyUI's objects say, by their attributes: nothing of it is imported."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from fastsolve import grids, schedules
from fastsolve.schedules import Schedule


def model_sampling(model: object) -> Any:
    """The `model_sampling` behind a model that ComfyUI hands to a sampling function; None for any other model."""
    inner = getattr(model, "inner_model", None)
    patcher = getattr(inner, "model_patcher", None)
    if patcher is not None:
        return patcher.get_model_object("model_sampling")
    return getattr(getattr(inner, "inner_model", None), "model_sampling", None)


def is_flow(sampling: object) -> bool:
    """Whether it is one of flow matching: x = sigma eps + (1 - sigma) x0, sigma in [0, 1]. All others have x = x0 + sigma eps."""
    return any(base.__name__ == "CONST" for base in type(sampling).__mro__)


def published(
    extra_args: dict[str, Any], sigmas: Tensor, levels: tuple[float, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """Arguments in which `sample_sigmas` has all levels that the model will be called at; what was given is not changed.

    Some models and context windows look their sigma up there, and the next one after it: so levels decrease, each is there once, and
    all are rounded to dtype, in which the model gets its own.
    """
    options = extra_args.get("model_options")
    if not isinstance(options, Mapping):
        return extra_args
    inner = options.get("transformer_options", {})
    known = inner.get("sample_sigmas")
    before = (sigmas if known is None else known).to(dtype).tolist()
    if {*levels} <= {*before}:
        return extra_args
    whole = torch.tensor(sorted({*before, *levels}, reverse=True), dtype=dtype, device=sigmas.device)
    return {
        **extra_args,
        "model_options": {**options, "transformer_options": {**inner, "sample_sigmas": whole}},
    }


def telling(extra_args: dict[str, Any], keep: Callable[[Tensor], None]) -> dict[str, Any]:
    """Arguments with which the model hands its unconditional prediction to `keep` in every call, also where guidance is 1.

    Raises ValueError for arguments that are not ComfyUI's.
    """
    options = extra_args.get("model_options")
    if not isinstance(options, Mapping):
        raise ValueError(
            "this solver needs the unconditional prediction beside the guided one, which ComfyUI's models give, by the model_options in "
            "extra_args; there are none: use fastsolve.sample with guidance"
        )

    def guided(args: dict[str, Any]) -> Tensor:
        keep(args["uncond_denoised"])
        return cast("Tensor", args["denoised"])

    more = [*options.get("sampler_post_cfg_function", []), guided]
    told = {**options, "sampler_post_cfg_function": more, "disable_cfg1_optimization": True}
    return {**extra_args, "model_options": told}


def schedule_of(sampling: Any) -> Schedule:
    """The schedule of a `model_sampling`, by its table of sigmas: flow with its shift, a table of alphas_cumprod, or VE over its range."""
    table = sampling.sigmas.tolist()
    if is_flow(sampling):
        middle = len(table) // 2
        t, sigma = middle / len(table), table[middle - 1]
        return schedules.Flow(shift=sigma * (1.0 - t) / (t * (1.0 - sigma)))
    discrete = float(sampling.timestep(sampling.sigmas[1])) == 1.0  # its clock is the table's index
    return _table(tuple(table)) if discrete else schedules.VE(table[0], table[-1])


@functools.lru_cache(maxsize=8)
def _table(sigmas: tuple[float, ...]) -> Schedule:
    return schedules.VPTable(tuple(1.0 / (1.0 + sigma * sigma) for sigma in sigmas))


def sigmas(sampling: Any, grid: str, steps: int, order: int = 2) -> Tensor:
    """The steps + 1 levels of a named grid as ComfyUI counts them, float32: sigma / alpha, or of flow models sigma itself.

    order: of the solver they are for, which the grid "rbe" asks for. Raises ValueError for names, and for grids that do not fit the model.
    """
    law = schedule_of(sampling)
    nodes = grids.nodes(grids.get(grid, law).for_order(order), law, steps)
    flow, top = isinstance(law, schedules.Flow), float(sampling.sigmas[-1])
    found = [node.sigma if flow else node.sigma / node.alpha for node in nodes]
    if found[0] > top * (1.0 + 1e-4):
        raise ValueError(f"grid {grid!r} starts at sigma = {found[0]:g}, and this model knows levels up to {top:g}")
    return torch.tensor(found, dtype=torch.float32)
