"""What `sample` measures, the most wanted first: tasks, who does them, and for which models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from benchmarks.gpu_clock import Place
from benchmarks.gpu_peers import (
    RESTARTS,
    Problem,
    Run,
    Task,
    device_loop,
    diffusers,
    k_diffusion,
    model_alone,
    ours,
    torch_loop,
)
from benchmarks.subjects import Subject, digits, empty, network, spinning
from benchmarks.wrapped import compiled, graph_per_call, one_graph

Make = Callable[[Problem], Run]
GRAPH, LAUNCHES, ALONE = "fastsolve, graph", "fastsolve, launch by launch", "model alone, one graph"
# fastsolve's own providers, and the arguments of `gpu_peers.ours` that make them.
OURS: dict[str, dict[str, str]] = {
    GRAPH: {"graph": "require"},
    LAUNCHES: {},
    "fastsolve, graph, fused": {"graph": "require", "executor": "fused"},
    "fastsolve, graph, cuda": {"graph": "require", "executor": "cuda"},
}
MINE: dict[str, Make] = {name: functools.partial(ours, **arguments) for name, arguments in OURS.items()}
LOOP: dict[str, Make] = {"torch loop": torch_loop, "torch loop, one graph": one_graph(torch_loop)}
DIFFUSERS: dict[str, Make] = {"diffusers": diffusers, "diffusers, one graph": one_graph(diffusers)}
K_DIFFUSION: dict[str, Make] = {
    "k-diffusion": k_diffusion,
    "k-diffusion, one graph": one_graph(functools.partial(k_diffusion, sigmas_on="cpu")),
}
VP = Task("dpmpp_2m", "vp", (10, 50))
EDM = Task("dpmpp_2m", "edm", (10, 50))
SEEDS = Task("seeds3", "edm", (4, 18))
TASKS: dict[Task, dict[str, Make]] = {
    VP: DIFFUSERS,
    SEEDS: LOOP | {"levels on the device": device_loop},
    EDM: LOOP | K_DIFFUSION,
    Task("dpmpp_3m_sde", "edm", (8, 24)): LOOP
    | {f"{name}, torch.randn": make for name, make in K_DIFFUSION.items()}
    | {"k-diffusion, Brownian tree": functools.partial(k_diffusion, brownian=True)},
    Task("ddim", "vp", (10, 50)): DIFFUSERS,
    Task("restart", "edm", (6, 18), {"intervals": [RESTARTS]}): LOOP,
    Task("euler", "edm", (10, 50)): LOOP | K_DIFFUSION,
    Task("flow_euler", "flow", (10, 50)): DIFFUSERS,
}
# Beside whom they are made of; where the model takes time, whole loops in one graph and the executors by name are left out.
PER_CALL: dict[str, dict[str, Make]] = {
    "diffusers": {"diffusers, graph per call": graph_per_call(diffusers, keeps=False)},
    "torch loop": {"torch loop, graph per call": graph_per_call(torch_loop, keeps=True)},
}
COMPILED: dict[str, dict[str, Make]] = {
    "diffusers": {"diffusers, reduce-overhead": compiled(diffusers, "reduce-overhead", 3)},
    GRAPH: {"fastsolve, graph, compiled model": compiled(MINE[GRAPH], "default", 1)},
}


@dataclass(frozen=True)
class Case:
    """subject: makes the model. lengths: steps of the short and of the long run. more: providers made from those that the task has."""

    task: Task
    subject: Callable[[], Subject]
    label: str
    batch: int
    lengths: tuple[int, int]
    whole: bool = False
    more: Mapping[str, Mapping[str, Make]] | None = None

    def __str__(self) -> str:
        return f"{self.task}, {self.label}, batch {self.batch}"

    def providers(self, right: Mapping[str, Make]) -> dict[str, Make]:
        """Of the providers that compute the right thing, those that this case times, and what is made of them."""
        if self.whole:
            return dict(right)
        kept = {
            name: make
            for name, make in right.items()
            if "one graph" not in name and OURS.get(name, {}).get("executor") is None
        }
        extra = {
            name: make for base, group in (self.more or {}).items() if base in kept for name, make in group.items()
        }
        return kept | {ALONE: one_graph(model_alone)} | extra


def cases(where: Place) -> Iterator[Case]:
    """All of them, in the order of their worth."""
    latent = (4, 8, 8) if where.dry else (4, 64, 64)

    def of_nothing(task: Task, batch: int) -> Case:
        return Case(task, functools.partial(empty, latent, batch, where), "empty model", batch, task.lengths, True)

    def of_network(
        name: str, dtype: torch.dtype, task: Task, batch: int, more: Mapping[str, Mapping[str, Make]]
    ) -> Case:
        subject = functools.partial(network, name, dtype, where)
        label = f"{name}, {str(dtype).removeprefix('torch.')}" + (", compiled" if more is COMPILED else "")
        return Case(task, subject, label, batch, (8, 20), more=more)

    def of_digits(task: Task, batch: int, lengths: tuple[int, int]) -> Case:
        return Case(task, functools.partial(digits, where), "digits", batch, lengths, more=PER_CALL)

    f32, bf16, names = torch.float32, torch.bfloat16, ("DiT-S/2", "U-Net")
    yield from (of_nothing(task, 1) for task in TASKS)
    if where.dry:  # one of each
        yield of_network(names[0], bf16, VP, 1, PER_CALL)
        yield of_network(names[1], f32, EDM, 2, PER_CALL)
        yield of_digits(EDM, 1, (8, 20))
        yield Case(VP, functools.partial(spinning, 50, latent, 1, where), "50 us model", 1, (8, 20), more=PER_CALL)
        return
    yield from (of_network(name, bf16, task, 1, PER_CALL) for name in names for task in (VP, EDM))
    yield of_digits(EDM, 1, (8, 20))
    yield of_digits(SEEDS, 1, (4, 10))
    for us, lengths in ((50, (8, 20)), (200, (8, 20)), (1000, (8, 20)), (20000, (4, 8))):
        yield Case(VP, functools.partial(spinning, us, latent, 1, where), f"{us} us model", 1, lengths, more=PER_CALL)
    yield from (of_nothing(task, 16) for task in (VP, SEEDS, EDM))
    yield from (of_network(name, bf16, VP, 16, PER_CALL) for name in names)
    yield of_digits(EDM, 16, (8, 20))
    yield from (of_network(name, bf16, VP, 1, COMPILED) for name in names)  # a minute may go into compiling them
    yield from (of_network(name, f32, VP, batch, PER_CALL) for name in names for batch in (1, 16))
