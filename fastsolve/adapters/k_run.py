"""One call of a sampling function: plans and their facts are kept, buffers and the caller's objects are not."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastsolve import solvers
from fastsolve.adapters import comfy_models, k_steps
from fastsolve.adapters.k_steps import Told
from fastsolve.arguments import Seed
from fastsolve.denoiser import Denoiser
from fastsolve.sampler import Sampler
from fastsolve.schedules import Schedule
from fastsolve.solvers import Solver

Model = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], object]
NoiseSampler = Callable[..., Tensor]

_KEPT = 8  # samplers, with their buffers: making those anew costs 0.2 ms (CPU, 5 steps, 2026-11)
_LARGE = 2**18  # elements of x beyond which the memory is worth more than the time, and is given back after each run


def run(
    solver: str,
    options: object,
    schedule: str | Schedule | None,
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None,
    callback: Callback | None,
    disable: bool | None,
    noise_sampler: NoiseSampler | None,
) -> Tensor:
    """x at the last of sigmas; the arguments are those of `k_diffusion.sampler_function`'s function, options frozen."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"x must be a floating tensor [B, ...], not {x.dtype if isinstance(x, Tensor) else type(x).__name__}"
        )
    state = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(sigmas, Tensor) or not sigmas.is_floating_point():
        sigmas = torch.as_tensor(sigmas, dtype=state)
    if sigmas.dim() != 1:
        raise ValueError(f"sigmas must be a row of levels, not {list(sigmas.shape)}")
    if len(sigmas) < 2:
        return x
    given = tuple(map(float, sigmas.tolist()))
    if schedule is None:
        schedule = "flow" if comfy_models.is_flow(comfy_models.model_sampling(model)) else "ve"
    _check(given, schedule)
    sampler, told = _compiled(solvers.get(solver), options, given, schedule, tuple(x.shape), x.device, x.dtype)
    extra = dict(extra_args or {})
    seed: Seed = 0
    if told.draws and noise_sampler is None:
        asked = extra.get("seed")
        seed = int(torch.randint(2**62, ()).item()) if asked is None else asked  # k-diffusion draws from this generator
    extra = comfy_models.published(extra, sigmas, told.levels, state)
    with _bar(disable, len(given) - 1) as bar:
        call = _Call(model, extra, told, sigmas, callback, bar, state)
        if sampler.plan.forwards > sampler.plan.nfe:
            call.ask_unconditional()
        noise = _draws(noise_sampler, told, sigmas, state) if told.draws and noise_sampler is not None else None
        try:
            out = sampler(seed=seed, x_init=x.to(state), noise=noise, model_kwargs={"call": call})
        finally:
            if x.numel() > _LARGE:
                sampler.close()
    return out.to(x.dtype)


def _check(sigmas: tuple[float, ...], schedule: str | Schedule) -> None:
    if schedule == "flow" and sigmas[0] > 1.0:
        raise ValueError(
            f"sigmas of a flow model lie in [0, 1], and these begin at {sigmas[0]:g}: make them from this model's own schedule, not from "
            "that of a Stable Diffusion or EDM model; for ComfyUI there is the node 'fastsolve sigmas'"
        )
    for i, (s, t) in enumerate(pairwise(sigmas), start=1):
        if not t < s:
            hint = (
                ": drop repeated ones" if s == t else ", from noise to data; for the way back there is fastsolve.invert"
            )
            raise ValueError(f"sigmas must decrease, but sigmas[{i}] is {t:g} after {s:g}{hint}")


@functools.lru_cache(maxsize=_KEPT)
def _compiled(
    solver: Solver,
    options: Any,
    sigmas: tuple[float, ...],
    schedule: str | Schedule,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Sampler, Told]:
    """A sampler of whatever model its calls bring, for x of this kind."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    # Guidance is the model's own affair; at 1 only those ask for the unconditional call that need it beside the guided one.
    null = {"unconditional": True}
    facts = {"device": device, "dtype": dtype, "output_dtype": state, "null": null, "reuses_output": True}
    denoiser = Denoiser(_called, schedule, "x0", **facts)  # type: ignore[arg-type]
    way = {"device": device, "dtype": state, "graph": "off"}
    sampler = Sampler(
        denoiser,
        shape,
        solver=solver.name,
        grid=sigmas,
        guidance=1.0,
        options=dict(options),
        **way,  # type: ignore[arg-type]
    )
    return sampler, k_steps.told(sampler.plan, state == torch.float32)


def _called(x: Tensor, t: Tensor, call: _Call, unconditional: bool = False) -> Tensor:
    return call.unconditional() if unconditional else call(x, t)


class _Call:
    """The caller's model in one run: it counts its calls and tells of steps as k-diffusion does, before the update."""

    def __init__(
        self,
        model: Model,
        extra: dict[str, Any],
        told: Told,
        sigmas: Tensor,
        callback: Callback | None,
        bar: Any,
        dtype: torch.dtype,
    ) -> None:
        self._model, self._extra, self._steps, self._sigmas = model, extra, told.steps, sigmas
        self._callback, self._bar, self._dtype, self._number = callback, bar, dtype, 0
        self._unconditional: Tensor | None = None  # of the last call, where it is asked for

    def ask_unconditional(self) -> None:
        self._extra = comfy_models.telling(self._extra, self._keep)

    def _keep(self, unconditional: Tensor | None) -> None:
        self._unconditional = unconditional

    def unconditional(self) -> Tensor:
        """Of the last call, once. Raises ValueError where the model gave none."""
        kept, self._unconditional = self._unconditional, None
        if kept is None:
            raise ValueError(
                "this solver needs the unconditional prediction, and the model gave none: its guider must call the functions of "
                "sampler_post_cfg_function, as ComfyUI's CFGGuider does; with another guider take a solver without cfg_pp"
            )
        return kept.to(self._dtype)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        denoised = self._model(x, t, **self._extra)
        step = self._steps.get(self._number)
        self._number += 1
        if step is not None and self._bar is not None:
            self._bar.update(step[0] - self._bar.n)
        if step is not None and self._callback is not None:
            i, hat = step
            sigma = self._sigmas[i]
            seen = {"x": x.clone(), "i": i, "sigma": sigma, "sigma_hat": sigma if hat is None else t[0].clone()}
            self._callback({**seen, "denoised": denoised})  # x is written again, and callers keep it
        return denoised.to(self._dtype) if isinstance(denoised, Tensor) else denoised


def _draws(noise_sampler: NoiseSampler, told: Told, sigmas: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """All draws of a plan. Raises ValueError for a sampler that gives one twice where the plan comes by an interval again."""
    ends = torch.tensor(told.draws, dtype=sigmas.dtype, device=sigmas.device)
    first, draws = dict[tuple[float, float], Tensor](), list[Tensor]()
    for interval, (sigma, sigma_next) in zip(told.draws, ends, strict=True):
        z = noise_sampler(sigma, sigma_next)
        if interval in first and torch.equal(first[interval], z):
            raise ValueError(
                f"noise_sampler gave the same noise twice for ({interval[0]:g}, {interval[1]:g}), where this solver comes by again: it "
                "needs independent noise each time, so leave noise_sampler out"
            )
        first.setdefault(interval, z)
        draws.append(z.to(dtype))
    return draws


@contextlib.contextmanager
def _bar(disable: bool | None, total: int) -> Iterator[Any]:
    """tqdm's bar over steps, where there is tqdm and it is not disabled."""
    if disable is True:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=total, disable=disable) as bar:
        yield bar
        bar.update(total - bar.n)
