"""A program as a function: out of place in plain torch, so that gradients flow from the result back to all that it came from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as checkpointed

from fastsolve import philox
from fastsolve.executors.run import Model, Setting, Work
from fastsolve.program import Call, Launch, Mid, Program


def function(
    program: Program,
    setting: Setting,
    work: Work,
    seeds: npt.NDArray[np.uint64],
    checkpoint: bool = False,
    check_finite: bool = False,
    on_call: Callable[[], object] | None = None,
) -> Tensor:
    """One sample batch with the eager executor's bits, differentiable in its work's tensors and whatever its models depend on.

    work: as for `Run.loop`. checkpoint: of each step only the tensors that later steps read are kept, and on the way back its
    model calls are made again: twice the calls, and memory that does not grow with the models' activations. Raises ValueError under
    torch.inference_mode and for an output of a model that does not fit.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("nothing computed under torch.inference_mode can be differentiated: call this outside")
    steps, tell = _Steps(program, setting, work, seeds, check_finite), on_call or (lambda: None)
    given = {"start": iter(work.start), "noise": iter(work.noise)}
    given |= {"mask": iter(work.blend[:1]), "known": iter(work.blend[1:])}
    held = {i: next(given[slot.kind]) for i, slot in enumerate(program.slots) if slot.kind in given}
    values = tuple(held[i] for i in steps.live[0])
    advance = functools.partial(checkpointed, steps.advance, use_reentrant=False) if checkpoint else steps.advance
    for index, (calls, _) in enumerate(steps.steps):
        values = advance(index, *values)
        for _ in (call for call in calls if not call.function):
            tell()
    return values[0]


@dataclass
class _Steps:
    """The opening and the steps of a program, each a function of the tensors that it or a later one reads: `live[index]`."""

    program: Program
    setting: Setting
    work: Work
    seeds: npt.NDArray[np.uint64]
    check_finite: bool

    def __post_init__(self) -> None:
        program, setting = self.program, self.setting
        self.steps: list[tuple[tuple[Call, ...], Launch]] = [((), program.opening), *program.steps]
        self.live = [[[slot.kind for slot in program.slots].index("out")]]
        for calls, launch in reversed(self.steps):
            read = set(self.live[0]) - {row.out for row in launch.rows} | set(launch.sources)
            for call in reversed(calls):
                read = read - set(call.raws) | set(call.x)
            self.live.insert(0, sorted(read))
        table = (program.table if setting.dtype == torch.float64 else program.table32).T.copy()
        by_sample = [1] * (len(setting.shape) - 1) * (table.ndim - 1)  # coefficients [B, 1, ...], or one for all
        self._table = torch.from_numpy(table).to(setting.device).view(*table.shape, *by_sample).unbind()
        levels = torch.from_numpy(program.levels.reshape(len(program.levels), -1))
        self._levels = levels.to(setting.clock_dtype).expand(-1, setting.batch).to(setting.device)

    def advance(self, index: int, *values: Tensor) -> tuple[Tensor, ...]:
        """From the tensors of `live[index]` to those of `live[index + 1]`: the calls of a step, and its launch."""
        held = dict(zip(self.live[index], values, strict=True))
        calls, launch = self.steps[index]
        number = sum(not call.function for made, _ in self.steps[:index] for call in made)
        for call in calls:
            given, models = [held[slot] for slot in call.x], self.work.models
            if call.function:
                own = [x.clone() for x in given]  # it may work in place, and a checkpoint gives it its input twice
                made = self.work.functions[call.function](*own, call.level, *call.numbers)
                self._check(
                    made,
                    self.setting.shape,
                    getattr(made, "dtype", self.setting.dtype),
                    f"the function {call.function!r} at t = {call.t:g}",
                )
                held[call.raws[0]] = made.to(self.setting.dtype)
                continue
            if len(given) > 1:
                held |= zip(call.raws, self._called(models[-1], torch.cat(given), call, number).chunk(2), strict=True)
            else:
                for model, slot in zip(models, call.raws, strict=False):  # a call may need fewer outputs than others
                    held[slot] = self._called(model, given[0], call, number)
            number += 1
        held.update(self._launched(launch, held))
        return tuple(held[slot] for slot in self.live[index + 1])

    def _called(self, model: Model, x: Tensor, call: Call, number: int) -> Tensor:
        setting, which = self.setting, f"model call {number + 1} of {len(self._levels)} (t = {call.t:g})"
        version, clock = (
            x._version,
            self._levels[number].repeat(len(call.x)),
        )  # whose own: a model may scale it in place
        raw = model(x, clock)
        if x._version != version:
            raise ValueError(f"{which} changed its input in place: x belongs to the sampler")
        self._check(raw, (len(x), *setting.shape[1:]), setting.raw_dtype, which)
        if self.check_finite and not bool(raw.isfinite().all()):
            raise ValueError(f"{which} returned NaN or infinite values")
        return raw.clone() if setting.reuses_output else raw

    def _check(self, made: Tensor, shape: tuple[int, ...], dtype: torch.dtype, which: str) -> None:
        if not isinstance(made, Tensor):
            raise TypeError(f"{which} returned {type(made).__name__}, not a tensor")
        if (made.shape, made.dtype, made.device) != (shape, dtype, self.setting.device):
            expected = f"{dtype} {shape} on {self.setting.device}"
            raise ValueError(
                f"{which} returned {made.dtype} {tuple(made.shape)} on {made.device}; expected is {expected}"
            )

    def _launched(self, launch: Launch, held: dict[int, Tensor]) -> dict[int, Tensor]:
        """What a launch writes, by slot."""
        setting = self.setting
        values = [held[slot].to(setting.dtype) for slot in launch.sources]
        for stream, number in launch.draws:
            z = torch.from_numpy(philox.normals(self.seeds, setting.size, number, stream)).view(setting.shape)
            values.append(z.to(setting.device, setting.dtype))
        for mid in launch.mids:
            values.append(self._mid(mid, values))  # which later ones read
        totals = {row.out: self._sum(row.terms, row.offset, values) for row in launch.rows}
        return {slot: total.to(setting.dtype_of(self.program.slots[slot].kind)) for slot, total in totals.items()}

    def _sum(self, terms: tuple[int, ...], offset: int, values: list[Tensor]) -> Tensor:
        total = self._table[offset] * values[terms[0]]
        for i, term in enumerate(terms[1:], offset + 1):
            total = total + self._table[i] * values[term]
        return total

    def _mid(self, mid: Mid, values: list[Tensor]) -> Tensor:
        total, after = self._sum(mid.terms, mid.offset, values), mid.offset + len(mid.terms)
        if mid.op == "blend":
            m, known = values[mid.mask], values[mid.known]
            return (1 - m) * total + m * (self._table[after] * known)
        low, high = self._table[after], self._table[after + 1]
        return torch.where(total < low, low, torch.where(total > high, high, total))
