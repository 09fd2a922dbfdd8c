"""The loop that every executor shares: call the model, check what it returns, launch the update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve.executors.upload import upload
from fastsolve.program import Call, Program

Model = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """What a run is bound to. shape: [B, *sample]; dtype of the state, of the model's input, its raw output and its t."""

    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    input_dtype: torch.dtype
    raw_dtype: torch.dtype
    clock_dtype: torch.dtype
    reuses_output: bool

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.shape[0]

    @property
    def size(self) -> int:
        """Elements of a sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64))

    def dtype_of(self, kind: str) -> torch.dtype:
        """The dtype of a slot of a kind (see `program.Slot`)."""
        return {"input": self.input_dtype, "raw": self.raw_dtype}.get(kind, self.dtype)


class Backend(ABC):
    """An executor's part: `tensors` is the list of slot tensors, which the loop fills as it goes.

    On a GPU, a launch only queues work on the current stream, and reads coefficients and seeds where `load` and `seed` write them.
    """

    @abstractmethod
    def load(self, program: Program) -> None:
        """Another program of the same structure: its coefficients."""

    @abstractmethod
    def seed(self, seeds: npt.NDArray[np.uint64]) -> None:
        """Set the seeds of the samples, [B]."""

    @abstractmethod
    def bind(self, slot: int, tensor: Tensor) -> None:
        """A slot got another tensor: contiguous, of the slot's dtype, on the device, and alive until the run ends."""

    @abstractmethod
    def launch(self, index: int) -> None:
        """Run launch `index` of the program."""


class Run:
    """A program with its buffers, for one run at a time. Models are told levels by one [B] tensor per call."""

    def __init__(
        self,
        program: Program,
        setting: Setting,
        make: Callable[[Program, Setting, list[Tensor | None]], Backend],
    ) -> None:
        self._setting = setting
        self._kinds = [slot.kind for slot in program.slots]
        self._tensors: list[Tensor | None] = [None] * len(self._kinds)
        calls = sum(len(made) for made, _ in program.steps)
        with torch.inference_mode(False):  # an inference tensor keeps no version, by which a write to it shows
            for slot, kind in enumerate(self._kinds):
                if kind in ("state", "input"):
                    dtype = setting.dtype_of(kind)
                    self._tensors[slot] = torch.empty(setting.shape, dtype=dtype, device=setting.device)
            self._levels = torch.empty(calls, setting.batch, dtype=setting.clock_dtype, device=setting.device)
            self._clocks = self._levels.unbind(0)
        self._ours = {t.data_ptr() for t in self._tensors if t is not None}
        self._raw_slots = [slot for slot, kind in enumerate(self._kinds) if kind == "raw"]
        self.backend = make(program, setting, self._tensors)
        self.writes_t = False  # the model was seen to write into its t
        self._program = program
        self._tell(program)

    def load(self, program: Program) -> None:
        """Another program of the same structure, in the same buffers: its coefficients and levels are written where the old ones are."""
        if program is not self._program:
            self.backend.load(program)
            self._tell(program)
            self._program = program

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._setting.device

    def new(self) -> Tensor:
        """A tensor for a result, not yet written."""
        return torch.empty(self._setting.shape, dtype=self._setting.dtype, device=self._setting.device)

    def _tell(self, program: Program) -> None:
        levels = program.levels if program.levels.ndim == 2 else program.levels[:, None]
        upload(self._levels, np.repeat(levels, self._setting.batch // levels.shape[1], 1))
        left = iter(self._clocks)
        self._steps = [
            (index, [(call, next(left)) for call in calls], dead)
            for index, ((calls, _), dead) in enumerate(zip(program.steps, _last_reads(program), strict=True), start=1)
        ]

    def __call__(
        self,
        models: Sequence[Model],
        seeds: npt.NDArray[np.uint64],
        start: Sequence[Tensor],
        noise: Sequence[Tensor],
        check_finite: bool,
        on_call: Callable[[], object] | None,
    ) -> Tensor:
        """One sample batch, in a tensor of its own. models: one per raw output of a call."""
        out = self.new()
        self.backend.seed(seeds)
        self.loop(models, start, noise, out, check_finite, on_call)
        return out

    def loop(
        self,
        models: Sequence[Model],
        start: Sequence[Tensor],
        noise: Sequence[Tensor],
        out: Tensor,
        check_finite: bool = False,
        on_call: Callable[[], object] | None = None,
    ) -> None:
        """All calls and launches, with the seeds that are set, into `out`."""
        bind, launch = self.backend.bind, self.backend.launch
        given = {"start": iter(start), "noise": iter(noise), "out": iter([out])}
        for slot, kind in enumerate(self._kinds):
            if kind in given:
                self._put(slot, next(given[kind]))
        tensors, number = self._tensors, 0
        try:
            launch(0)
            for index, calls, dead in self._steps:
                for call, clock in calls:
                    number += 1
                    x = tensors[call.x]
                    assert x is not None
                    version, told = x._version, clock._version
                    for model, slot in zip(models, call.raws, strict=True):
                        raw = self._checked(model(x, clock), slot, call, number)
                        if check_finite and not bool(raw.isfinite().all()):
                            raise ValueError(f"{self._which(call, number)} returned NaN or infinite values")
                        tensors[slot] = raw
                        bind(slot, raw)
                        if clock._version != told:  # a model that scales its t in place spoils no other call
                            self.writes_t = True
                            clock.fill_(call.t)
                            told = clock._version
                    if x._version != version:
                        raise ValueError(
                            f"{self._which(call, number)} changed its input in place: x belongs to the sampler"
                        )
                    if on_call is not None:
                        on_call()
                launch(index)
                for slot in dead:
                    tensors[slot] = None
        except BaseException:
            if number and clock._version != told:
                clock.fill_(call.t)
            raise
        finally:
            for slot, kind in enumerate(self._kinds):
                if kind not in ("state", "input"):
                    tensors[slot] = None

    def _put(self, slot: int, tensor: Tensor) -> None:
        self._tensors[slot] = tensor
        self.backend.bind(slot, tensor)

    def _which(self, call: Call, number: int) -> str:
        return f"model call {number} of {sum(len(calls) for _, calls, _ in self._steps)} (t = {call.t:g})"

    def _checked(self, raw: Tensor, slot: int, call: Call, number: int) -> Tensor:
        """The raw output, contiguous and not in a buffer that a launch will write."""
        setting = self._setting
        if not isinstance(raw, Tensor):
            raise TypeError(f"{self._which(call, number)} returned {type(raw).__name__}, not a tensor")
        if raw.shape != setting.shape or raw.dtype is not setting.raw_dtype or raw.device != setting.device:
            raise ValueError(
                f"{self._which(call, number)} returned {raw.dtype} {tuple(raw.shape)} on {raw.device}; expected is "
                f"{setting.raw_dtype} {setting.shape} on {setting.device} (a Denoiser states dtype, output_dtype, device)"
            )
        if not raw.is_contiguous():
            raw = raw.contiguous()
        if raw.data_ptr() in self._ours or (setting.reuses_output and len(call.raws) > 1):
            return raw.clone()
        if len(self._raw_slots) > 1:
            storage = raw.untyped_storage().data_ptr()  # views of one buffer may overlap without starting together
            for other in self._raw_slots:
                held = self._tensors[other]
                if other != slot and held is not None and held.untyped_storage().data_ptr() == storage:
                    raise ValueError(
                        f"{self._which(call, number)} returned the storage of an earlier output, which is still needed: state "
                        "Denoiser(..., reuses_output=True) for a model that reuses its output buffer"
                    )
        return raw


def _last_reads(program: Program) -> list[list[int]]:
    """For each step the raw slots that no later launch reads: their tensors can go."""
    live: set[int] = set()
    dead = []
    for calls, launch in reversed(program.steps):
        held = {slot for call in calls for slot in call.raws} | {
            s for s in launch.sources if program.slots[s].kind == "raw"
        }
        dead.append([slot for slot in held if slot not in live])
        live = (live | held) - {slot for call in calls for slot in call.raws}
    return dead[::-1]
