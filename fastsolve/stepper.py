"""`Stepper`: a plan whose model calls are made by somebody else's loop, one launch for each output that is handed in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch

from fastsolve import arguments, executors
from fastsolve.arguments import Seed
from fastsolve.executors import Setting
from fastsolve.lower import lower
from fastsolve.plan import Apply, Eval, Plan
from fastsolve.stepping import Idle, Keys, Stepping, Turn


class Stepper:
    """A plan that waits for each model output: for loops that are not ours, such as that of a pipeline with a scheduler.

    plan: of `make_plan`, with one model call at a time: no guidance (the loop combines the outputs), no functions. shape:
    [B, *sample]. dtype: of the model's outputs, and of the states that are returned: a floating type, of which float64 runs in the
    eager executor. The state itself is float32 (float64) whatever the dtype. device, executor: as of `Sampler`.

    Raises ValueError for a plan that cannot wait: of several variables (tada), guided, with functions, or one that adds noise before
    the first call.
    """

    def __init__(
        self,
        plan: Plan,
        shape: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        executor: str = "auto",
    ) -> None:
        _check(plan)
        self.plan = plan
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype must be that of a model's outputs, a floating type, not {dtype}")
        state = torch.float64 if dtype == torch.float64 else torch.float32
        self.setting = Setting(
            arguments.full_shape(shape, None), arguments.usable(device, False), state, dtype, dtype, state, True
        )
        self.executor = executors.choose(executor, self.setting)
        self.scales = [call.scale for call in plan.evals]
        unscaled = tuple(op._replace(scale=1.0) if isinstance(op, Eval) else op for op in plan.ops)
        self._program = lower(
            dataclasses.replace(plan, ops=unscaled),
            state_bytes=state.itemsize,
            raw_bytes=dtype.itemsize,
            cast=dtype != state,
            reused=True,
            given="state",
            open=True,
        )
        self.turns = self._turns()
        self._idle: dict[int, list[Idle]] = {}  # by the stream they were begun on

    def _turns(self) -> list[Turn]:
        program, setting = self._program, self.setting
        (last,) = (row.out for row in program.launches[-1].rows if program.slots[row.out].kind == "out")
        afters = [*(calls[0].x[0] for calls, _ in program.steps[1:]), last]
        turns, later = [], set[int]()
        for (calls, launch), state, after in reversed(list(zip(program.steps, program.states, afters, strict=True))):
            outs = tuple((row.out, setting.dtype_of(program.slots[row.out].kind)) for row in launch.rows)
            turns.append(Turn(state, state in later, calls[0].raws[0], outs, after))
            later = (later - {row.out for row in launch.rows}) | {*launch.sources}
        return turns[::-1]

    def begin(self, seed: Seed = 0) -> Stepping:
        """A run from the first model call, with seeds as of a `Sampler`. Any number of runs may be on their way at the same time.

        On a GPU, a run is begun and stepped on one stream.
        """
        return self.begin_with(arguments.keys(seed, self.setting.batch))

    def begin_with(self, seeds: Keys) -> Stepping:
        """`begin`, with the keys of the samples, uint64 [B]."""
        device = self.setting.device
        # Launches of a run that has ended may still be queued: only on their own stream may other seeds be written.
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        shelf = self._idle.setdefault(stream, [])
        try:
            backend, tensors = shelf.pop()
        except IndexError:
            tensors = [None] * len(self._program.slots)
            backend = executors.backend(self.executor.name, self._program, self.setting, tensors)
        backend.seed(seeds)
        return Stepping(self, backend, tensors, shelf, seeds)

    def __deepcopy__(self, memo: object) -> Stepper:
        return self  # which any number of runs share

    def __reduce__(self) -> tuple[Any, ...]:
        at: dict[str, Any] = {"device": self.setting.device, "dtype": self.setting.raw_dtype}
        return functools.partial(Stepper, executor=self.executor.name, **at), (self.plan, self.setting.shape)


def _check(plan: Plan) -> None:
    if plan.variables:
        why = f"its state has {len(plan.variables)} variables, and such a loop has one"
    elif any(isinstance(op, Apply) for op in plan.ops):
        why = "it calls functions between the model's outputs"
    elif any(len(call.b) > 1 for call in plan.evals):
        why = "it is guided, and such a loop hands in outputs that are combined already: leave guidance out"
    elif not isinstance(plan.ops[0], Eval):
        why = "it changes the state before the first model call (noise is added at the first level)"
    else:
        return
    raise ValueError(f"this plan of {plan.solver} cannot wait for somebody else's loop: {why}")
