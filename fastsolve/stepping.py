"""`Stepper`: a plan whose model calls are made by somebody else's loop, one launch for each output that is handed in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import arguments, executors
from fastsolve.arguments import Seed
from fastsolve.executors import Setting
from fastsolve.executors.run import Backend
from fastsolve.lower import lower
from fastsolve.plan import Apply, Eval, Plan

Keys = npt.NDArray[np.uint64]


class _Turn(NamedTuple):
    """What is bound for one launch, by slots. state: the state that the call was made on, -1 where no launch reads it. raw: its output.
    outs: what is written, with dtypes. after: what the caller gets.
    """

    state: int
    raw: int
    outs: tuple[tuple[int, torch.dtype], ...]
    after: int


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
        self._idle: list[tuple[Backend, list[Tensor | None]]] = []

    def _turns(self) -> list[_Turn]:
        program, setting = self._program, self.setting
        (last,) = (row.out for row in program.launches[-1].rows if program.slots[row.out].kind == "out")
        afters = [*(calls[0].x[0] for calls, _ in program.steps[1:]), last]
        turns = []
        for (calls, launch), state, after in zip(program.steps, program.states, afters, strict=True):
            outs = tuple((row.out, setting.dtype_of(program.slots[row.out].kind)) for row in launch.rows)
            turns.append(_Turn(state, calls[0].raws[0], outs, after))
        return turns

    def begin(self, seed: Seed = 0) -> Stepping:
        """A run from the first model call, with seeds as of a `Sampler`. Any number of runs may be on their way at the same time."""
        return self.begin_with(arguments.keys(seed, self.setting.batch))

    def begin_with(self, seeds: Keys) -> Stepping:
        """`begin`, with the keys of the samples, uint64 [B]."""
        try:
            backend, tensors = self._idle.pop()
        except IndexError:
            tensors = [None] * len(self._program.slots)
            backend = executors.backend(self.executor.name, self._program, self.setting, tensors)
        backend.seed(seeds)
        return Stepping(self, backend, tensors, seeds)

    def end(self, backend: Backend, tensors: list[Tensor | None]) -> None:
        """Takes the buffers of a run back, for the next."""
        tensors[:] = [None] * len(tensors)
        self._idle.append((backend, tensors))

    def __deepcopy__(self, memo: object) -> Stepper:
        return self  # which any number of runs share

    def __reduce__(self) -> tuple[Any, ...]:
        at: dict[str, Any] = {"device": self.setting.device, "dtype": self.setting.raw_dtype}
        return functools.partial(Stepper, executor=self.executor.name, **at), (self.plan, self.setting.shape)


class Stepping:
    """A run of a `Stepper`. number: of the model call whose output comes next, from 0.

    A copy, of `copy.deepcopy` or `pickle`, stands where the run stands, and goes on by itself with the same noise.
    """

    def __init__(self, stepper: Stepper, backend: Backend, tensors: list[Tensor | None], seeds: Keys) -> None:
        self._stepper, self._backend, self._tensors, self._seeds = stepper, backend, tensors, seeds
        self._turns, setting = stepper.turns, stepper.setting
        self._shape, self._device = torch.Size(setting.shape), setting.device
        self._raw_dtype, self._dtype = setting.raw_dtype, setting.dtype
        self._given: Tensor | None = None  # what the caller was given last, and its version then
        self._version = -1
        self.number = 0

    def __deepcopy__(self, memo: object) -> Stepping:
        run = _resumed(
            self._stepper, self._seeds, self._tensors, self.number
        )  # both read these tensors, and none writes
        run._given, run._version = self._given, self._version
        return run

    def __reduce__(self) -> tuple[Any, ...]:
        return _resumed, (self._stepper, self._seeds, self._tensors, self.number)

    def input(self, x: Tensor) -> Tensor:
        """What the next model call is made on: the state x, [B, *shape], scaled (by c_in, of EDM); x itself where the scale is 1."""
        scale = self._stepper.scales[self.number]
        if scale == 1.0:
            return x
        return (self._state(x) * scale).to(self._raw_dtype)

    def x0(self, raw: Tensor, x: Tensor) -> Tensor:
        """The data prediction of the next model call: its output is `raw`, and it was made on the state x. Not clipped."""
        call = self._stepper.plan.evals[self.number]
        return (call.a * self._state(x) + call.b[0] * raw.to(self._dtype)).to(self._raw_dtype)

    def step(self, raw: Tensor, x: Tensor) -> Tensor:
        """The state after an output, or after the last one the result: a new tensor [B, *shape] of the outputs' dtype, by one launch.

        raw: what the model returned, [B, *shape]. x: the state that it was called on, not scaled; any floating dtype. Where that is
        the tensor returned before, unchanged, what is computed with is the state in full precision and not its rounded copy.

        Raises ValueError for tensors that do not fit, for a step after the last, and for an output that requires gradients.
        """
        number = self.number
        if number == len(self._turns):
            raise ValueError(f"all {number} model calls of this run are made: begin another")
        if (
            raw.dtype is not self._raw_dtype
            or raw.shape != self._shape
            or x.shape != self._shape
            or raw.device != self._device
            or x.device != self._device
            or raw.requires_grad
        ):
            self._refuse(raw, x)
        tensors, bind = self._tensors, self._backend.bind
        state, slot, outs, after = self._turns[number]
        if state >= 0 and not (x is self._given and self._kept(x, state)):
            tensors[state] = kept = self._contiguous(x)
            bind(state, kept)
        if not raw.is_contiguous():
            raw = raw.contiguous()
        tensors[slot] = raw
        bind(slot, raw)
        for out, dtype in outs:
            tensors[out] = made = torch.empty_like(raw, dtype=dtype)  # half the time of torch.empty
            bind(out, made)
        self._backend.launch(number + 1)
        self.number = number + 1
        returned = tensors[after]
        assert returned is not None
        tensors[slot] = None
        if self.number == len(self._turns):
            self._stepper.end(self._backend, tensors)
            return returned.to(self._raw_dtype)
        self._given, self._version = returned, -1 if returned.is_inference() else returned._version
        return returned

    def _kept(self, x: Tensor, state: int) -> bool:
        """Whether the state's slot holds the state x, which was returned before."""
        held = self._tensors[state]
        return held is x or (held is not None and self._version >= 0 and x._version == self._version)

    def _state(self, x: Tensor) -> Tensor:
        if x is self._given and self.number < len(self._turns):
            state = self._turns[self.number].state
            held = self._tensors[state] if state >= 0 else None
            if held is not None and self._kept(x, state):
                return held
        return x.to(self._dtype)

    def _contiguous(self, x: Tensor) -> Tensor:
        return x.detach().to(self._dtype).contiguous()

    def _refuse(self, raw: Tensor, x: Tensor) -> None:
        setting = self._stepper.setting
        if raw.requires_grad:
            if not torch.is_grad_enabled():
                return
            raise ValueError(
                "a step has no gradients, and the model's output requires them: call the model under torch.no_grad()"
            )
        for name, tensor, dtype in (("the model's output", raw, setting.raw_dtype), ("the state", x, x.dtype)):
            if (tensor.shape, tensor.dtype, tensor.device) != (self._shape, dtype, self._device):
                raise ValueError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; needed is {dtype} "
                    f"{list(self._shape)} on {self._device}"
                )


def _resumed(stepper: Stepper, seeds: Keys, tensors: Sequence[Tensor | None], number: int) -> Stepping:
    """A run that goes on from what another one has reached."""
    run = stepper.begin_with(seeds)
    for slot, tensor in enumerate(tensors):
        if tensor is not None:
            run._tensors[slot] = tensor
            run._backend.bind(slot, tensor)
    run.number = number
    return run


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
