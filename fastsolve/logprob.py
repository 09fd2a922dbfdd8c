"""Log-probabilities of a sampler's transitions: along a recorded path, and again for stored ones, differentiable in the model.

log N(next; mean, std^2) is summed over the elements of a sample; `/ numel` of a sample is the mean that Flow-GRPO takes. All is computed in
the dtype of the states, which is float32 (or float64) whatever the model's: of a sum over 262144 elements float32 resolves 0.03, of
their mean 1e-7. Where sums are subtracted, give the states in float64 to a Denoiser that states its dtype. States stored in bfloat16
are refused: their rounding would pass for noise.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsolve import branches
from fastsolve.denoiser import Denoiser
from fastsolve.ops import Apply, Eval
from fastsolve.plan import Plan
from fastsolve.transitions import Transition, path


@dataclass(frozen=True, eq=False)
class Transitions:
    """A path of sampling with the law of each of its n stochastic transitions.

    states: [m + 1, B, *shape]: the start, the states that the model was called on after it, the result. laws: law k is that of
    states[laws[k].index + 1] given states[laws[k].reads]; laws of one `group` make one solver step, whose log-probability is their sum.
    mean: [n, B, *shape]. std: [n]. logprob: [n, B], summed over a sample's elements. skipped: the other m - n transitions, which have
    no density, each with its `reason`.
    """

    states: Tensor
    laws: tuple[Transition, ...]
    mean: Tensor
    std: Tensor
    logprob: Tensor
    skipped: tuple[Transition, ...]

    def __len__(self) -> int:
        """The number of stochastic transitions."""
        return len(self.laws)

    def stored(self, k: int) -> tuple[Tensor | list[Tensor], Tensor, int]:
        """What `logprob` takes for stochastic transition k: prev, next and step."""
        law = self.laws[k]
        prev = [self.states[i] for i in law.reads]
        return prev[0] if len(prev) == 1 else prev, self.states[law.index + 1], law.index


@torch.no_grad()
def along(
    denoiser: Denoiser,
    plan: Plan,
    states: Tensor | Sequence[Tensor],
    *,
    predictions: Sequence[Tensor] | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    negative_kwargs: Mapping[str, object] | None = None,
) -> Transitions:
    """The transitions of a recorded path.

    states: one [B, *shape] for each name in `path(plan).states`. predictions: the data prediction of each of the plan's calls, as
    sampling had them, with all that was done to them; without them the model is asked again where a stochastic transition needs it.
    model_kwargs, negative_kwargs: as in sampling.

    Raises ValueError for another number of states or predictions, for shapes that differ, and for a state of several variables.
    """
    laws = _laws(plan)
    if len(states) != len(laws) + 1:
        raise ValueError(f"a path of this plan has {len(laws) + 1} states, not {len(states)}")
    if predictions is not None and len(predictions) != plan.nfe:
        raise ValueError(f"there are predictions of {len(predictions)} model calls, and the plan makes {plan.nfe}")
    first, *_ = kept = _checked(list(states), "states")
    known = dict(zip(path(plan).states, kept, strict=True))
    found, means, values = [law for law in laws if law.std], [], []
    for k, law in enumerate(found):
        _predict(denoiser, plan, law, known, (model_kwargs, negative_kwargs), predictions)
        mean = _mean(law, known, first)
        means.append(mean)
        values.append(_log_density(kept[law.index + 1], mean, law.std))
        later = {plan.evals[j].d for other in found[k + 1 :] for j in other.calls}
        for done in {plan.evals[j].d for j in law.calls} - later:
            del known[done]
    return Transitions(
        torch.stack(kept),
        tuple(found),
        torch.stack(means) if means else first.new_empty(0, *first.shape),
        torch.tensor([law.std for law in found], dtype=first.dtype, device=first.device),
        torch.stack(values) if values else first.new_empty(0, len(first)),
        tuple(law for law in laws if not law.std),
    )


def logprob(
    denoiser: Denoiser,
    plan: Plan,
    prev: Tensor | Sequence[Tensor],
    next: Tensor,
    step: int,
    *,
    model_kwargs: Mapping[str, object] | None = None,
    negative_kwargs: Mapping[str, object] | None = None,
) -> Tensor:
    """log p of a stored transition, [B]: differentiable in the model's parameters, and in prev and next.

    step: the transition's index on the path; that of the step, from 0, for solvers with one model call a step. prev: the states that
    it reads, `path(plan).transitions[step].reads` (for one-step solvers the one tensor before), [B, *shape] each. next: the state it
    leads to. The model is called once per entry of `calls`, twice with guidance, in its own dtypes. B may be any.

    Raises ValueError where the transition has no density, and for tensors that do not fit; TypeError for a dtype too small.
    """
    laws = _laws(plan)
    index = operator.index(step)
    if not 0 <= index < len(laws):
        raise ValueError(f"step must be 0 to {len(laws) - 1}, the transitions of this plan, not {step}")
    law = laws[index]
    if law.reason:
        raise ValueError(f"transition {index} of {plan.solver} has no density: {law.reason}")
    read = [prev] if isinstance(prev, Tensor) else list(prev)
    if len(read) != len(law.reads):
        raise ValueError(f"transition {index} of {plan.solver} reads the states {law.reads}: prev holds {len(read)}")
    _checked([next, *read], "next and prev")
    known = {path(plan).states[i]: x for i, x in zip(law.reads, read, strict=True)}
    _predict(denoiser, plan, law, known, (model_kwargs, negative_kwargs), None)
    return _log_density(next, _mean(law, known, next), law.std)


def states(plan: Plan) -> tuple[str, ...]:
    """The symbols of a path's states. Raises ValueError where the model is not called on the first, or a function is applied."""
    _laws(plan)
    if plan.evals[0].x != "x0":
        raise ValueError(
            "a start with churn is not seen by the model: there are log-probabilities from the first call on, without it"
        )
    return path(plan).states


def _laws(plan: Plan) -> tuple[Transition, ...]:
    if any(isinstance(op, Apply) for op in plan.ops):
        raise ValueError(
            "a function of data predictions (x0_hook, rescale, apg) is not part of a transition's law: leave it out"
        )
    if plan.takes_raw:
        raise ValueError(
            f"{plan.solver} takes the unconditional prediction by itself, which is not recorded: leave guidance out"
        )
    return path(plan).transitions


def _checked(tensors: list[Tensor], name: str) -> list[Tensor]:
    first = tensors[0]
    for x in tensors:
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{name} must be float32 (or float64) tensors, as they were recorded, not {given}")
        if x.shape != first.shape or x.dtype != first.dtype or not x.dim():
            raise ValueError(f"{name} must be of one shape [B, *shape] and dtype: {[list(y.shape) for y in tensors]}")
    return tensors


Given = tuple[Mapping[str, object] | None, Mapping[str, object] | None]


def _predict(
    denoiser: Denoiser,
    plan: Plan,
    law: Transition,
    known: dict[str, Tensor],
    given: Given,
    predictions: Sequence[Tensor] | None,
) -> None:
    """Adds to `known` the data predictions that a transition takes."""
    for k in law.calls:
        call = plan.evals[k]
        if call.d in known:
            continue
        if predictions is not None:
            known[call.d] = predictions[k]
            continue
        x = known[call.x]
        raws = [b * raw.to(x.dtype) for b, raw in zip(call.b, _asked(denoiser, call, x, given), strict=True)]
        made = functools.reduce(operator.add, raws, call.a * x)
        known[call.d] = made if call.clip is None else made.clamp(*call.clip)


def _asked(denoiser: Denoiser, call: Eval, x: Tensor, given: Given) -> list[Tensor]:
    """The raw outputs at a state, on tensors of the model's own."""
    dtype, guided, raw = denoiser.dtype or x.dtype, len(call.b) > 1, list[Tensor]()
    clock = dtype if dtype in (torch.float32, torch.float64) else x.dtype
    models, arguments = branches.of(denoiser, given[0], given[1] if guided else None, guided, len(x))
    for model, kwargs, _ in zip(models, arguments, call.b, strict=False):
        t = torch.full((len(x),), call.t, dtype=clock, device=x.device)
        out = model((call.scale * x).to(dtype), t, **kwargs)
        raw.append(out.clone() if denoiser.reuses_output else out)
        if out.shape != x.shape:
            raise ValueError(f"the model returned {list(out.shape)} for a state {list(x.shape)}")
    return raw


def _mean(law: Transition, known: Mapping[str, Tensor], like: Tensor) -> Tensor:
    return functools.reduce(operator.add, [c * known[name] for name, c in law.mean], torch.zeros_like(like))


def _log_density(x: Tensor, mean: Tensor, std: float) -> Tensor:
    z = ((x - mean) / std).reshape(len(x), -1)
    return -0.5 * z.square().sum(1) - z.shape[1] * (math.log(std) + 0.5 * math.log(2.0 * math.pi))
