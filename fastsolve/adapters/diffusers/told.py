"""A caller's callback_on_step_end during a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsolve.watching import Step

_ELSE = "a run by accelerate can be looked at and stopped, not changed: take a scheduler of fastsolve.adapters.diffusers for that"


class Told:
    """Tells a callback (pipeline, step, time, {"latents": ...}) of every step, when the latents after it are there.

    times: of the steps. tick: called once a step, for a progress bar. The callback may set `pipeline._interrupt`; then `latents` holds
    the result. Raises ValueError where it changes anything else.
    """

    def __init__(
        self,
        callback: Callable[..., Any] | None,
        pipe: Any,
        times: Tensor,
        dtype: torch.dtype,
        tick: Callable[[int], object],
    ) -> None:
        self._callback, self._pipe, self._times, self._dtype, self._tick = callback, pipe, times, dtype, tick
        self._before = dict(vars(pipe))  # what the callback keeps there is its own
        self.latents: Tensor | None = None

    def __call__(self, step: Step) -> bool:
        """A callback of `sample`: what the model is called on at the next level are the latents after the step to it."""
        return step.index == 0 or self.tell(step.index - 1, step.x)

    def tell(self, number: int, state: Tensor) -> bool:
        """Step `number` ended in `state`. False ends the run."""
        self._tick(1)
        if self._callback is None:
            return True
        latents = state.to(self._dtype, copy=True)
        made = self._callback(self._pipe, number, self._times[number], {"latents": latents})
        if not torch.allclose(latents, state.to(self._dtype), rtol=0.0, atol=0.0, equal_nan=True):
            raise ValueError(f"callback_on_step_end wrote into the latents: {_ELSE}")
        given = made if isinstance(made, Mapping) else {}
        changed = [name for name, value in given.items() if value is not latents]
        changed += [
            name
            for name, value in self._before.items()
            if name != "_interrupt" and vars(self._pipe).get(name) is not value
        ]
        if changed:
            raise ValueError(f"callback_on_step_end changed {changed[0]}: {_ELSE}")
        if vars(self._pipe).get("_interrupt"):
            self.latents = latents
            return False
        return True
