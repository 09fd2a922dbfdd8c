"""`Sampler`: a compiled sampler and the ways to run it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastsolve import arguments, branches, functions, logprob, watching
from fastsolve.arguments import Asked
from fastsolve.compiled import Compiled
from fastsolve.executors import Given
from fastsolve.executors.function import function
from fastsolve.executors.run import Look, Work, bound
from fastsolve.logprob import Transitions
from fastsolve.program import Program
from fastsolve.watching import At, Callback, Running, Step


class Sampler(Compiled):
    """A sampler compiled once: `sampler(seed=...)` runs its plan. Any number of threads may call one at the same time.

    model: a `Denoiser`, or any callable model(x, t, **model_kwargs) with schedule and prediction beside it; t is [B], in the
    schedule's clock and in `dtype` (a float32 or float64 Denoiser gets it in its own). shape: [B, *sample]; a Denoiser that states
    the shape of a sample makes it optional (B = 1).
    solver, steps, nfe, grid, schedule, prediction, guidance, clip, options, start, stop, strength, inverse: see `make_plan`; a Denoiser
    may state schedule, prediction and a usual nfe. guidance and explicit grids may be lists with an entry for each sample. guidance
    needs a Denoiser with `null`, the arguments of the unconditional call, or with `guide`, another network. x0_hook: a function
    (x0, node) -> x0 that is applied to every data prediction, at one launch more per call beside its own. device: the model's, if
    given at all.
    dtype: of the state; float32, or float64 for the eager executor. executor: "auto", "eager", "native", "fused" or "cuda".
    graph: "auto" captures a run with its model as one CUDA graph in the second call, where there is a GPU and the model allows it;
    "require" captures in the first call, and what cannot be captured is an error; "off". A captured model is seen to get other
    parameters, buffers, submodules or keyword arguments; what else it decides in Python stays as it was captured.
    check_finite: look at every output of the model for NaN and infinities (a synchronisation on a GPU).

    Raises ValueError or TypeError, before the model is called, for anything that cannot work.
    """

    @overload
    def __call__(
        self,
        *,
        callback: Callback | None = None,
        at: At = "step",
        progress: bool = False,
        return_logprob: Literal[False] = False,
        grad: bool | str = False,
        **given: Unpack[Asked],
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        *,
        callback: None = None,
        at: At = "step",
        progress: bool = False,
        return_logprob: Literal[True],
        **given: Unpack[Asked],
    ) -> tuple[Tensor, Transitions]: ...

    def __call__(
        self,
        *,
        callback: Callback | None = None,
        at: At = "step",
        progress: bool = False,
        return_logprob: bool = False,
        grad: bool | str = False,
        **given: Unpack[Asked],
    ) -> Tensor | tuple[Tensor, Transitions]:
        """One batch of samples, [B, *shape], in a tensor that is the caller's.

        seed: an int (sample i is seeded by `philox.sample_seeds`), one int per sample, an int64 tensor [B], or a torch.Generator that
        gives one per sample. x_init: the state at the first level, at its scale, instead of noise; [N, B, *shape] for a
        solver of N variables. x0_init: data, to which the noise of the first level is added (img2img). noise: standard
        normals [B, *shape] in the order in which the solver draws, or a callable (draw index) -> tensor, instead of the seeded ones.
        model_kwargs: passed to every call of the model; negative_kwargs: over them and the Denoiser's null, to the unconditional one.
        inpaint: (mask, image): painted is where the mask is 1, and where it is 0 the result is the image; between, a mixture of data
        predictions. overwrite: (mask, value): where the mask is 1 the model sees the value, at every level, and so is the result.
        Masks and images broadcast to [B, *shape]. callback: called with a `Step`, at each "step", "call", or at the model calls of given
        numbers; if it returns False, the run ends with the data prediction it has seen. progress: a tqdm bar over model calls.
        return_logprob: returns (samples, `Transitions`), the law of each stochastic transition of the run.
        grad: True makes the result differentiable in x_init, noise, model_kwargs and the model's parameters: it is computed in plain
        torch, whatever the executor; "checkpoint" keeps the state between the steps only, and calls the model again on the way back.

        A CUDA graph is split where a callback looks.
        """
        if grad not in (False, True, "checkpoint"):
            raise ValueError(f"grad must be True, False or 'checkpoint', not {grad!r}")
        if grad and (callback is not None or return_logprob):
            raise ValueError(
                "grad=True goes without callback and return_logprob: a run that is looked at has no gradients"
            )
        if return_logprob and callback is not None:
            raise ValueError("return_logprob=True looks at every call itself: it goes without callback")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is called with a Step; {type(callback).__name__} is not callable")
        bar = arguments.progress_bar(self.plan.nfe, self.plan.solver) if progress else contextlib.nullcontext()
        with bar as shown:
            on_call = None if shown is None else shown.update
            if grad:
                return self._differentiable(grad == "checkpoint", on_call, given)
            if return_logprob:
                return self._with_laws(on_call, given)
            return watching.told(self._begun(at if callback is not None else (), on_call, given), callback)

    def _differentiable(self, checkpoint: bool, on_call: Callable[[], object] | None, given: Asked) -> Tensor:
        program, models, all_of = self._given((), given)
        plain = {**all_of.functions, **functions.PLAIN}
        work = Work(bound(models, all_of.arguments), all_of.start, all_of.noise, all_of.blend, plain)
        with _on(self.setting.device):
            return function(program, self.setting, work, all_of.seeds, checkpoint, self._check_finite, on_call)

    def _with_laws(self, on_call: Callable[[], object] | None, given: Asked) -> tuple[Tensor, Transitions]:
        self._one_law()
        for blend in ("overwrite", "inpaint"):
            if given.get(blend) is not None:
                raise ValueError(f"what is known to {blend} is not part of a transition's law: leave it out")
        names = logprob.states(self.plan)
        run = self._begun("call", on_call, given)
        steps = run.kept()
        out = run.finish()
        known = {call.x: step.x for call, step in zip(self.plan.evals, steps, strict=True)} | {self.plan.out: out}
        predictions = [step.x0 for step in steps]
        return out, logprob.along(self.denoiser, self.plan, [known[name] for name in names], predictions=predictions)

    def _one_law(self) -> None:
        if len(self.plans) > 1:
            raise ValueError("samples with plans of their own have no common transitions: sample them one by one")

    def logprob(
        self,
        prev: Tensor | Sequence[Tensor],
        next: Tensor,
        step: int,
        *,
        model_kwargs: Mapping[str, object] | None = None,
        negative_kwargs: Mapping[str, object] | None = None,
    ) -> Tensor:
        """log p of a stored transition, [B], differentiable in the model: see `fastsolve.logprob.logprob`.

        `transitions.stored(k)`, of what return_logprob=True gave, are prev, next and step.
        """
        self._one_law()
        conditions = {"model_kwargs": model_kwargs, "negative_kwargs": negative_kwargs}
        return logprob.logprob(self.denoiser, self.plan, prev, next, step, **conditions)

    def iterate(self, *, at: At = "step", **given: Unpack[Asked]) -> Running:
        """A run that waits at each "step", "call", or at the model calls of given numbers. Other arguments are those of a call."""
        return self._begun(at, None, given)

    def _given(self, seen: tuple[int, ...], given: Asked) -> tuple[Program, Sequence[Callable[..., Tensor]], Given]:
        """All arguments checked, and nothing called yet."""
        arguments.known(given)
        setting, plan = self.setting, self.plan
        if self.inverse and given.get("x_init") is None:
            raise ValueError("an inverse starts from data: give it as x_init")
        start, kind = arguments.beginning(given.get("x_init"), given.get("x0_init"), len(plan.start), setting)
        blend, way = arguments.blending(given.get("inpaint"), given.get("overwrite"), setting)
        guided, negative = plan.forwards > plan.nfe, given.get("negative_kwargs")
        if self.guidance is not None and not guided:
            negative = None  # of scale 1, say: no call asks for them
        models, kwargs = branches.of(self.denoiser, given.get("model_kwargs"), negative, guided, setting.batch)
        noise = given.get("noise")
        seeds, draws = arguments.keys(given.get("seed", 0), setting.batch), arguments.given_draws(noise, plan, setting)
        program = self.program(kind, noise is not None, way, seen)
        work = Given(seeds, start, draws, kwargs, blend, self._functions)
        return program, models, work

    def _begun(self, at: At, on_call: Callable[[], object] | None, given: Asked) -> Running:
        """All arguments checked, and nothing called yet."""
        setting, plan, seen = self.setting, self.plan, watching.calls_at(self.plan, at)
        program, models, work = self._given(seen, given)
        numbers = {number: i for i, number in enumerate(plan.steps)} if at == "step" else {}

        def shown(look: Look) -> Look:
            if given.get("overwrite") is None:
                return look
            mask, known = work.blend  # what the model saw, and the result will have
            x, d = ((1 - mask) * buffer + mask * known for buffer in (look.x, look.d))
            return look._replace(x=x, d=d)

        def looks() -> Generator[Step, None, Tensor]:
            steps = self._pool(program, models, work, self._check_finite, on_call)
            while True:
                try:
                    with torch.no_grad(), _on(setting.device):
                        look = shown(next(steps))
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                node = watching.node_of(plan, look.number)
                yield Step(numbers.get(look.number, look.number), node, look.x, look.d, self)

        return Running(looks())


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
