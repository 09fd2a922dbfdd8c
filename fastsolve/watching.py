"""What a caller sees of a run: steps, one after the other, and a run that waits between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastsolve.plan import Plan
from fastsolve.schedules import Node

if TYPE_CHECKING:
    from fastsolve.sampler import Sampler


class Step(NamedTuple):
    """A step or a call of the model, seen after the update that followed it.

    index: of the step, or of the call. node: its level. x [B, *shape]: the state the model was called on. x0 [B, *shape]: the data
    prediction, with guidance and all that is done to it; what is overwritten has its value in both. x and x0 are the sampler's buffers:
    clone what is kept.
    """

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    node: Node
    x: Tensor
    x0: Tensor
    sampler: Sampler


Callback = Callable[[Step], object]
At = str | Sequence[int]


def calls_at(plan: Plan, at: At) -> tuple[int, ...]:
    """The model calls, by number, of "step", "call", or given numbers. Raises ValueError for others."""
    if at == "step":
        return plan.steps
    if at == "call":
        return tuple(range(plan.nfe))
    numbers = at if isinstance(at, Sequence) and not isinstance(at, str) else (-1,)
    if all(type(i) is int and 0 <= i < plan.nfe for i in numbers):
        return tuple(sorted(set(numbers)))
    raise ValueError(f"a run is seen at 'step', at 'call' or at calls between 0 and {plan.nfe - 1}, not at {at!r}")


class Running:
    """A run that waits: iterate for the next `Step`, as many as wanted; `finish()` does the rest and gives the samples.

    Waiting changes nothing: the result has the same bits. Its buffers are its own until it is finished, closed or dropped.
    """

    def __init__(self, looks: Generator[Step, None, Tensor]) -> None:
        self._looks = looks
        self._result: Tensor | None = None

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        try:
            return next(self._looks)
        except StopIteration as end:
            self._result = self._result if end.value is None else end.value
            raise StopIteration from None

    def finish(self) -> Tensor:
        """The samples, [B, *shape]. Raises RuntimeError for a run that was closed or broke off."""
        for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("this run was closed, or an error ended it: it has no result")
        return self._result

    def kept(self) -> list[Step]:
        """All steps that are left, with tensors of their own: the trajectory, if none was taken before."""
        return [step._replace(x=step.x.clone(), x0=step.x0.clone()) for step in self]

    def close(self) -> None:
        """Ends the run where it is, and gives its buffers back."""
        self._looks.close()


def node_of(plan: Plan, number: int) -> Node:
    """The level of a model call."""
    call = plan.evals[number]
    lam = math.inf if call.sigma == 0.0 else math.log(call.alpha / call.sigma) if call.alpha > 0.0 else -math.inf
    return Node(call.t, call.alpha, call.sigma, lam)


@torch.no_grad()
def told(run: Running, callback: Callback | None) -> Tensor:
    """Runs to the end, or until the callback returns False: then the result is the data prediction it saw last."""
    try:
        for step in run:
            if callback is not None and callback(step) is False:
                return step.x0.clone()
        return run.finish()
    finally:
        run.close()
