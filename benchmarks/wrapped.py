"""Providers made from others: all of it in one CUDA graph, its model as a graph for each call, its model compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.gpu_peers import Problem, Run
from fastsolve import Denoiser


def one_graph(make: Callable[[Problem], Run]) -> Callable[[Problem], Run]:
    """All that a provider queues for a sample, as one CUDA graph."""

    def made(problem: Problem) -> Run:
        run = make(problem)
        for _ in range(3):
            run()
        return problem.where.recorded(run)  # type: ignore[return-value]

    return made


def graph_per_call(make: Callable[[Problem], Run], keeps: bool) -> Callable[[Problem], Run]:
    """A provider whose model is a CUDA graph, replayed for each call on inputs that are copied in. keeps: it holds on to outputs."""

    def made(problem: Problem) -> Run:
        subject = problem.subject
        x = problem.start().to(subject.dtype)
        t = torch.full((len(x),), problem.levels[1], device=x.device)
        net = subject.in_float() if isinstance(subject.net, Denoiser) else subject.net
        for _ in range(3):
            net(x, t)
        replay = problem.where.recorded(lambda: net(x, t))

        def model(given: Tensor, level: Tensor) -> Tensor:
            x.copy_(given)
            t.copy_(level)
            out: Tensor = replay()  # type: ignore[assignment]
            return out.clone() if keeps else out

        return make(dataclasses.replace(problem, subject=dataclasses.replace(subject, net=model)))

    return made


def compiled(make: Callable[[Problem], Run], mode: str, calls: int) -> Callable[[Problem], Run]:
    """A provider whose model went through torch.compile; `calls` of it come first, which compile and, by the mode, record."""

    def made(problem: Problem) -> Run:
        subject = problem.subject
        net = torch.compile(subject.net, mode=mode)

        def model(x: Tensor, t: Tensor) -> Tensor:
            if mode == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            return net(x, t)

        run = make(dataclasses.replace(problem, subject=dataclasses.replace(subject, net=model)))
        for _ in range(calls):
            run()
        return run

    return made


def normal(shape: Sequence[int], device: torch.device, scale: float = 1.0) -> Callable[[], Tensor]:
    """Fresh normal numbers times a scale, as peers make them."""
    if scale == 1.0:
        return lambda: torch.randn(shape, device=device)
    return lambda: torch.randn(shape, device=device) * scale
