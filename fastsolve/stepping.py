"""`Stepping`: one run of a `Stepper`, which answers each output of the model by one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.executors.run import Backend

if TYPE_CHECKING:
    from fastsolve.stepper import Stepper

Keys = npt.NDArray[np.uint64]
Idle = tuple[Backend, list["Tensor | None"]]  # what a run that has ended leaves to the next


class Turn(NamedTuple):
    """What is bound for one launch, by slots. state: the state that the call was made on, -1 where no launch reads it. lasts: a later
    launch reads it, too. raw: the call's output. outs: what is written, with dtypes. after: what the caller gets.
    """

    state: int
    lasts: bool
    raw: int
    outs: tuple[tuple[int, torch.dtype], ...]
    after: int


class Stepping:
    """A run of a `Stepper`. number: of the model call whose output comes next, from 0.

    A copy, of `copy.deepcopy` or `pickle`, stands where the run stands, and goes on by itself with the same noise.
    """

    def __init__(
        self, stepper: Stepper, backend: Backend, tensors: list[Tensor | None], shelf: list[Idle], seeds: Keys
    ) -> None:
        self._stepper, self._backend, self._tensors, self._shelf = stepper, backend, tensors, shelf
        self._seeds = seeds
        self._turns, setting = stepper.turns, stepper.setting
        self._shape, self._device = torch.Size(setting.shape), setting.device
        self._raw_dtype, self._dtype = setting.raw_dtype, setting.dtype
        self._launch = backend.launch
        if setting.device.type == "cuda" and torch.cuda.device_count() > 1:
            self._launch = self._launch_there
        self._given: Tensor | None = None  # what the caller was given last, its memory and its version then
        self._address, self._version = 0, 0
        self.number = 0

    def __deepcopy__(self, memo: object) -> Stepping:
        run = _resumed(
            self._stepper, self._seeds, self._tensors, self.number
        )  # both read these tensors, and none writes
        run._given, run._address, run._version = self._given, self._address, self._version
        return run

    def __reduce__(self) -> tuple[Any, ...]:
        return _resumed, (self._stepper, self._seeds, self._tensors, self.number)

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


def _resumed(stepper: Stepper, seeds: Keys, tensors: Sequence[Tensor | None], number: int) -> Stepping:
    """A run that goes on from what another one has reached."""
    run = stepper.begin_with(seeds)
    for slot, tensor in enumerate(tensors):
        if tensor is not None:
            run._tensors[slot] = tensor
            run._backend.bind(slot, tensor)
    run.number = number
    return run
