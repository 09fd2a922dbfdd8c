"""Host time of one control step of a diffusion policy. `python -m benchmarks.control`, a minute, one thread.

A control step samples one trajectory [1, 16, 7] in 10 model calls and overwrites its first action in each of them. The model hands out
prepared tensors, so that what is measured is the sampler alone; beside it the loop that policies have, with diffusers' DDIM. Both are
compared with each other first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Report, quantiles
from fastsolve import Sampler, grids
from fastsolve.adapters import policy

SHAPE, STEPS = (1, 16, 7), 10


def loop(scheduler: Any, model: Callable[..., Tensor], x: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    """A policy's conditional_sample."""
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x[mask] = value[mask]
        x = scheduler.step(model(x, t), t, x, use_clipped_model_output=True).prev_sample
    x[mask] = value[mask]
    return x


def main() -> None:
    from diffusers import DDIMScheduler

    torch.set_num_threads(1)
    report = Report("control")
    scheduler = DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
    outputs = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(STEPS)]
    turn = itertools.cycle(range(STEPS))

    def model(x: Tensor, t: Tensor, global_cond: Tensor | None = None) -> Tensor:
        return outputs[next(turn)]

    mask = torch.zeros(SHAPE)
    mask[:, 0] = 1.0
    value, x = torch.full(SHAPE, 0.5), torch.randn(SHAPE)
    made = policy.wrap(model, scheduler, horizon=SHAPE[1], action_dim=SHAPE[2], nfe=STEPS)
    sampler = Sampler(made, SHAPE, solver="ddim", grid=grids.Spacing("leading"), clip=1.0)
    known, kwargs = mask.bool(), {"global_cond": torch.zeros(1, 32)}

    def theirs() -> Tensor:
        return loop(scheduler, model, x.clone(), known, value)

    def ours() -> Tensor:
        return sampler(x_init=x, overwrite=(mask, value), model_kwargs=kwargs)

    torch.testing.assert_close(ours(), theirs(), rtol=0.0, atol=1e-4)
    seeds = itertools.count()
    plain = functools.partial(sampler, model_kwargs=kwargs)
    sides = [("fastsolve, overwritten", ours), ("fastsolve, seeded", lambda: plain(seed=next(seeds)))]
    sides += [("diffusers DDIM, overwritten", theirs)]
    report.add(f"one control step of {STEPS} calls", quantiles(sides, 31, 5))
    report.write()


if __name__ == "__main__":
    main()
