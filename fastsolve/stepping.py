"""`Stepper`: a plan whose model calls are made by somebody else's loop, one launch for each output that is handed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastsolve import arguments, executors
from fastsolve.arguments import Seed
from fastsolve.executors import Setting
from fastsolve.executors.run import Backend
from fastsolve.lower import lower
from fastsolve.plan import Apply, Eval, Plan

_Idle = tuple[Backend, list["Tensor | None"]]  # what a run that has ended leaves to the next


class _Turn(NamedTuple):
    """What is bound for one launch, by slots. state: the state that the call was made on, -1 where no launch reads it. lasts: a later
    launch reads it, too. raw: the call's output. outs: what is written, with dtypes. after: what the caller gets.
    """

    state: int
    lasts: bool
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
        self._idle: dict[int, list[_Idle]] = {}  # by the stream they were begun on

    def _turns(self) -> list[_Turn]:
        program, setting = self._program, self.setting
        (last,) = (row.out for row in program.launches[-1].rows if program.slots[row.out].kind == "out")
        afters = [*(calls[0].x[0] for calls, _ in program.steps[1:]), last]
        turns, later = [], set[int]()
        for (calls, launch), state, after in reversed(list(zip(program.steps, program.states, afters, strict=True))):
            outs = tuple((row.out, setting.dtype_of(program.slots[row.out].kind)) for row in launch.rows)
            turns.append(_Turn(state, state in later, calls[0].raws[0], outs, after))
            later = (later - {row.out for row in launch.rows}) | {*launch.sources}
        return turns[::-1]

    def begin(self, seed: Seed = 0) -> Stepping:
        """A run from the first model call, with seeds as of a `Sampler`. Any number of runs may be on their way at the same time.

        On a GPU, a run is begun and stepped on one stream.
        """
        seeds, device = arguments.keys(seed, self.setting.batch), self.setting.device
        # Launches of a run that has ended may still be queued: only on their own stream may other seeds be written.
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        shelf = self._idle.setdefault(stream, [])
        try:
            backend, tensors = shelf.pop()
        except IndexError:
            tensors = [None] * len(self._program.slots)
            backend = executors.backend(self.executor.name, self._program, self.setting, tensors)
        backend.seed(seeds)
        return Stepping(self, backend, tensors, shelf)


class Stepping:
    """A run of a `Stepper`. number: of the model call whose output comes next, from 0."""

    def __init__(self, stepper: Stepper, backend: Backend, tensors: list[Tensor | None], shelf: list[_Idle]) -> None:
        self._stepper, self._backend, self._tensors, self._shelf = stepper, backend, tensors, shelf
        self._turns, setting = stepper.turns, stepper.setting
        self._shape, self._device = torch.Size(setting.shape), setting.device
        self._raw_dtype, self._dtype = setting.raw_dtype, setting.dtype
        self._launch = backend.launch
        if setting.device.type == "cuda" and torch.cuda.device_count() > 1:
            self._launch = self._launch_there
        self._given: Tensor | None = None  # what the caller was given last, its memory and its version then
        self._address, self._version = 0, 0
        self.number = 0

    def input(self, x: Tensor) -> Tensor:
        """What the next model call is made on: the state x, [B, *shape], scaled (by c_in, of EDM); x itself where the scale is 1."""
        scale = self._stepper.scales[self._next()]
        if scale == 1.0:
            return x
        return (self._state(x) * scale).to(self._raw_dtype)

    def x0(self, raw: Tensor, x: Tensor) -> Tensor:
        """The data prediction of the next model call: its output is `raw`, and it was made on the state x. Not clipped."""
        call = self._stepper.plan.evals[self._next()]
        return (call.a * self._state(x) + call.b[0] * raw.to(self._dtype)).to(self._raw_dtype)

    def step(self, raw: Tensor, x: Tensor) -> Tensor:
        """The state after an output, or after the last one the result: a new tensor [B, *shape] of the outputs' dtype, by one launch.

        raw: what the model returned, [B, *shape]. x: the state that it was called on, not scaled; any floating dtype. Where that is
        the tensor returned before, unchanged, what is computed with is the state in full precision and not its rounded copy.

        Before a step the loop may change the tensor that was returned last, in place too. Those returned before it are the run's:
        later steps may read them. A tensor of the loop's own that later steps read is copied, which is one launch more.

        Raises ValueError for tensors that do not fit, for a step after the last, and for an output that requires gradients.
        """
        number = self._next()
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
        state, lasts, slot, outs, after = self._turns[number]
        if state >= 0 and not self._kept(x, state):
            # A tensor of the loop's own may be its buffer for every state: what later launches read is a copy.
            tensors[state] = kept = x.detach().to(self._dtype, copy=lasts).contiguous()
            bind(state, kept)
        if not raw.is_contiguous():
            raw = raw.contiguous()
        tensors[slot] = raw
        bind(slot, raw)
        for out, dtype in outs:
            tensors[out] = made = _new(raw, dtype)
            bind(out, made)
        self._launch(number + 1)
        self.number = number + 1
        returned = tensors[after]
        assert returned is not None
        tensors[slot] = None
        if self.number == len(self._turns):
            tensors[:] = [None] * len(tensors)
            self._shelf.append((self._backend, tensors))
            return returned.to(self._raw_dtype)
        self._given, self._address, self._version = returned, returned.data_ptr(), returned._version
        return returned

    def _launch_there(self, index: int) -> None:
        """A launch goes to the current device, which the loop may not have chosen."""
        with torch.cuda.device(self._device):
            self._backend.launch(index)

    def _next(self) -> int:
        if self.number == len(self._turns):
            raise ValueError(f"all {self.number} model calls of this run are made: begin another")
        return self.number

    def _kept(self, x: Tensor, state: int) -> bool:
        """Whether the slot of a state holds the state x: returned before, and laid out as it was; if a copy is held, not changed either."""
        if x is not self._given or x.data_ptr() != self._address or not x.is_contiguous():
            return False  # other memory, after set_ or an assignment to x.data
        held = self._tensors[state]
        return held is x or (held is not None and x._version == self._version)

    def _state(self, x: Tensor) -> Tensor:
        state = self._turns[self.number].state
        held = self._tensors[state] if state >= 0 and self._kept(x, state) else None
        return x.to(self._dtype) if held is None else held

    def _refuse(self, raw: Tensor, x: Tensor) -> None:
        for name, tensor, dtype in (("the model's output", raw, self._raw_dtype), ("the state", x, x.dtype)):
            if (tensor.shape, tensor.dtype, tensor.device) != (self._shape, dtype, self._device):
                raise ValueError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; needed is {dtype} "
                    f"{list(self._shape)} on {self._device}"
                )
        if torch.is_grad_enabled():
            raise ValueError(
                "a step has no gradients, and the model's output requires them: call the model under torch.no_grad()"
            )


def _new(like: Tensor, dtype: torch.dtype) -> Tensor:
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):  # an inference tensor keeps no version, by which a write to it shows
            return torch.empty_like(like, dtype=dtype)
    return torch.empty_like(like, dtype=dtype)  # half the time of torch.empty


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
