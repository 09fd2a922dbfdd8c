"""The loop that every executor shares: call the model, check what it returns, launch the update."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastsolve.executors.setting import INPUTS, Backend as Backend, Setting as Setting
from fastsolve.executors.upload import upload
from fastsolve.program import Call, Program, Seen, last_reads

Model = Callable[[Tensor, Tensor], Tensor]


class Work(NamedTuple):
    """What a run is made with. models: one per branch, and where a guided call is one, that of the doubled batch after them. start,
    noise: of the caller. blend: mask and known tensor, or nothing. functions: by the names that calls have for them.
    """

    models: Sequence[Model]
    start: Sequence[Tensor] = ()
    noise: Sequence[Tensor] = ()
    blend: Sequence[Tensor] = ()
    functions: Mapping[str, Callable[..., Tensor]] = MappingProxyType({})


def bound(models: Sequence[Callable[..., Tensor]], arguments: Sequence[dict[str, object]]) -> list[Model]:
    """Each model with its keyword arguments."""
    return [functools.partial(model, **kw) if kw else model for model, kw in zip(models, arguments, strict=True)]


class Look(NamedTuple):
    """The model's call `number`, after the launch that followed it: the state it was called on, and the data prediction. Buffers."""

    number: int
    x: Tensor
    d: Tensor


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
        self._doubled: dict[int, Tensor] = {}
        calls, batch, doubled = len(program.levels), setting.batch, "pair" in self._kinds
        with torch.inference_mode(False):  # an inference tensor keeps no version, by which a write to it shows
            for slot, kind in enumerate(self._kinds):
                if kind in ("state", "input"):
                    dtype = setting.dtype_of(kind)
                    self._tensors[slot] = torch.empty(setting.shape, dtype=dtype, device=setting.device)
                elif kind == "pair":
                    shape = (2 * batch, *setting.shape[1:])
                    both = torch.empty(shape, dtype=setting.input_dtype, device=setting.device)
                    self._doubled[slot], self._tensors[slot : slot + 2] = both, (both[:batch], both[batch:])
            self._levels = torch.empty(calls, batch + batch * doubled, dtype=setting.clock_dtype, device=setting.device)
        self._ours = {t.data_ptr() for t in self._tensors if t is not None}
        self._made = [slot for slot, kind in enumerate(self._kinds) if kind in ("raw", "made")]
        self._several = len(self._made) > 1
        self.backend = make(program, setting, self._tensors)
        self.writes_t = False  # the model was seen to write into its t
        self._program = program
        self._steps = self._planned(program)
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

    @property
    def segments(self) -> int:
        """In how many parts the loop comes."""
        seen = self._program.seen
        return len(seen) + (not seen or seen[-1].launch < len(self._program.steps))

    def new(self) -> Tensor:
        """A tensor for a result, not yet written; no inference tensor, as a run that waits may end outside of that mode."""
        with torch.inference_mode(False):
            return torch.empty(self._setting.shape, dtype=self._setting.dtype, device=self._setting.device)

    def _tell(self, program: Program) -> None:
        levels = program.levels if program.levels.ndim == 2 else program.levels[:, None]
        # Of a doubled batch the second half has the levels of the first.
        upload(self._levels, np.tile(levels, (1, self._levels.shape[1] // levels.shape[1])))

    def _planned(self, program: Program) -> list[tuple[int, list[tuple[Call, Tensor]], list[int], list[Seen]]]:
        clocks = iter(self._levels.unbind(0))
        seen: dict[int, list[Seen]] = {}
        for look in program.seen:
            seen.setdefault(look.launch, []).append(look)
        steps = []
        for index, ((calls, _), dead) in enumerate(zip(program.steps, last_reads(program), strict=True), start=1):
            told = []
            for call in calls:
                clock = self._levels if call.function else next(clocks)
                told.append((call, clock if len(call.x) > 1 else clock[: self._setting.batch]))
            steps.append((index, told, dead, seen.get(index, [])))
        return steps

    def loop(
        self,
        work: Work,
        out: Tensor,
        check_finite: bool = False,
        on_call: Callable[[], object] | None = None,
    ) -> Generator[Look, None, None]:
        """All calls and launches, with the seeds that are set, into `out`; comes up where something is to be seen."""
        bind, launch, models = self.backend.bind, self.backend.launch, work.models
        given = {"start": iter(work.start), "noise": iter(work.noise), "out": iter([out])}
        given |= {"mask": iter(work.blend[:1]), "known": iter(work.blend[1:])}
        for slot, kind in enumerate(self._kinds):
            if kind in given:
                self._put(slot, next(given[kind]))
        tensors, number = self._tensors, 0
        try:
            launch(0)
            for index, calls, dead, looks in self._steps:
                for call, clock in calls:
                    if call.function:
                        self._put(call.raws[0], self._applied(call, work.functions[call.function]))
                        continue
                    number += 1
                    pair, slots = len(call.x) > 1, call.raws
                    x = self._doubled[call.x[0]] if pair else tensors[call.x[0]]
                    assert x is not None
                    version, told = x._version, clock._version
                    for model, slot in ((models[-1], slots[0]),) if pair else zip(models, slots, strict=False):
                        raw = self._checked(model(x, clock), slot, call, number)
                        if check_finite and not bool(raw.isfinite().all()):
                            raise ValueError(f"{self._which(call, number)} returned NaN or infinite values")
                        if pair:
                            for half, part in zip(slots, raw.chunk(2), strict=True):
                                self._put(half, part)
                        else:
                            tensors[slot] = raw
                            bind(slot, raw)
                        if clock._version != told:  # a model that scales its t in place spoils no other call
                            self.writes_t = True
                            self._tell(self._program)
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
                for look in looks:
                    state, prediction = tensors[look.x], tensors[look.d]
                    assert state is not None
                    assert prediction is not None
                    yield Look(look.number, state, prediction)
        except BaseException:
            if number and clock._version != told:
                self._tell(self._program)
            raise
        finally:
            for slot, kind in enumerate(self._kinds):
                if kind not in ("state", *INPUTS):
                    tensors[slot] = None

    def _put(self, slot: int, tensor: Tensor) -> None:
        self._tensors[slot] = tensor
        self.backend.bind(slot, tensor)

    def _applied(self, call: Call, function: Callable[..., Tensor]) -> Tensor:
        """What a function makes of a data prediction, contiguous and of the state's dtype."""
        made = function(*(self._tensors[slot] for slot in call.x), call.level, *call.numbers)
        name, shape = f"the function {call.function!r} at t = {call.t:g}", self._setting.shape
        if not isinstance(made, Tensor):
            raise TypeError(f"{name} returned {type(made).__name__}, not a tensor")
        if made.shape != shape or made.device != self._setting.device:
            raise ValueError(
                f"{name} returned {tuple(made.shape)} on {made.device}; expected is {shape} on {self._setting.device}"
            )
        made = made.to(self._setting.dtype).contiguous()
        if made.data_ptr() in self._ours:
            return made.clone()
        if self._several and self._lies_on_another(made, call.raws):
            raise ValueError(
                f"{name} returned the storage of an earlier output, which is still needed: return a new tensor"
            )
        return made

    def _which(self, call: Call, number: int) -> str:
        return f"model call {number} of {len(self._levels)} (t = {call.t:g})"

    def _checked(self, raw: Tensor, slot: int, call: Call, number: int) -> Tensor:
        """The raw output, contiguous and not in a buffer that a launch will write."""
        setting = self._setting
        if not isinstance(raw, Tensor):
            raise TypeError(f"{self._which(call, number)} returned {type(raw).__name__}, not a tensor")
        pair = len(call.x) > 1
        shape = (2 * setting.batch, *setting.shape[1:]) if pair else setting.shape
        if raw.shape != shape or raw.dtype is not setting.raw_dtype or raw.device != setting.device:
            raise ValueError(
                f"{self._which(call, number)} returned {raw.dtype} {tuple(raw.shape)} on {raw.device}; expected is "
                f"{setting.raw_dtype} {shape} on {setting.device} (a Denoiser states dtype, output_dtype, device)"
            )
        if not raw.is_contiguous():
            raw = raw.contiguous()
        if raw.data_ptr() in self._ours or (setting.reuses_output and not pair and len(call.raws) > 1):
            return raw.clone()
        if self._several and self._lies_on_another(raw, call.raws if pair else (slot,)):
            raise ValueError(
                f"{self._which(call, number)} returned the storage of an earlier output, which is still needed: state "
                "Denoiser(..., reuses_output=True) for a model that reuses its output buffer"
            )
        return raw

    def _lies_on_another(self, raw: Tensor, slots: Sequence[int]) -> bool:
        """Whether it shares its storage with an earlier output that is still needed."""
        storage = raw.untyped_storage().data_ptr()  # views of one buffer may overlap without starting together
        for other in self._made:
            held = self._tensors[other]
            if held is not None and other not in slots and held.untyped_storage().data_ptr() == storage:
                return True
        return False
