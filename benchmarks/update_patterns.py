"""The updates that `update` times, on rotating sets of tensors; what they must compute, and who computes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import fastsolve
from benchmarks.gpu_clock import Place
from fastsolve import executors, philox
from fastsolve.executors import Setting
from fastsolve.lower import lower
from fastsolve.program import Launch, Program, Row, Slot

Node = Callable[[int], list[Tensor]]  # queues launch i, on tensors of set i, and returns what it wrote
SEED = 2**63 + 12345
SLICE = 2**14  # elements at each end that are compared with NumPy
_COEFFICIENTS = (1.0, 0.7, -0.3, 1.1, 0.25, -0.6, 0.4, 0.9, -0.8)


@dataclass(frozen=True)
class Pattern:
    """sources, outs: a letter per tensor, s the state (float32), r a raw output and i an input of the model (`model` dtype).

    rows: the sources, then the draws, that each out sums; draws: how many.
    """

    name: str
    sources: str
    outs: str
    rows: tuple[tuple[int, ...], ...]
    draws: int
    model: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes per element that are read and written."""
        return sum(self.dtype(kind).itemsize for kind in self.sources + self.outs)

    def dtype(self, kind: str) -> torch.dtype:
        """The dtype of a letter."""
        return torch.float32 if kind == "s" else self.model

    def __str__(self) -> str:
        return self.name


def one_row(inputs: int, draws: int, model: torch.dtype) -> Pattern:
    """All inputs and draws into one state: the state, the model's output, and what is kept of the past as states."""
    kinds = ("sr" + "s" * inputs)[:inputs]
    word = str(model).removeprefix("torch.")
    name = f"{inputs} in, 1 out, {draws} normal{'' if draws == 1 else 's'}, {word}"
    return Pattern(name, kinds, "s", (tuple(range(inputs + draws)),), draws, model)


def of_solver(solver: str, prediction: str, step: int, model: torch.dtype) -> Pattern:
    """A launch of a real solver with a model in `model`, whose input is a second row."""
    schedule = "vp" if prediction == "eps" else "edm"
    plan = fastsolve.make_plan(solver, schedule=schedule, prediction=prediction, steps=8)
    program = lower(plan, cast=True, raw_bytes=model.itemsize)
    launch = program.steps[step][1]
    letters = {"state": "s", "out": "s", "raw": "r", "input": "i"}
    sources = "".join(letters[program.slots[slot].kind] for slot in launch.sources)
    outs = "".join(letters[program.slots[row.out].kind] for row in launch.rows)
    name = f"{solver}, {len(sources)} in, {len(outs)} out, {len(launch.draws)} normals, {str(model).removeprefix('torch.')}"
    return Pattern(name, sources, outs, tuple(row.terms for row in launch.rows), len(launch.draws), model)


class Tensors:
    """`sets` sets of tensors of a pattern, [1, n] each, filled with normal numbers."""

    def __init__(self, pattern: Pattern, n: int, sets: int, place: Place) -> None:
        self.pattern, self.n, self.count, self.place = pattern, n, sets, place
        generator = torch.Generator(place.device).manual_seed(5)

        def filled(kind: str) -> Tensor:
            made = torch.empty(1, n, dtype=pattern.dtype(kind), device=place.device)
            return made.normal_(generator=generator)

        self.sources = [[filled(kind) for kind in pattern.sources] for _ in range(sets)]
        self.outs = [[filled(kind) for kind in pattern.outs] for _ in range(sets)]
        self.coefficients = [_COEFFICIENTS[: len(row)] for row in pattern.rows]

    @functools.cached_property
    def pairs(self) -> list[Tensor]:
        """For each set two tensors of half its bytes."""
        half = self.n * self.pattern.bytes // 8
        return [torch.ones(2, half, device=self.place.device) for _ in range(self.count)]

    def by_executor(self, name: str) -> Node:
        """One of the package's executors. Raises ValueError with the reason where it does not run here."""
        pattern, first, rows = self.pattern, len(self.pattern.sources), []
        for r, terms in enumerate(pattern.rows):
            rows.append(Row(first + r, terms, sum(map(len, pattern.rows[:r]))))
        draws = tuple((philox.STEP_STREAM, 3 + d) for d in range(pattern.draws))
        kinds = {"s": "state", "r": "raw", "i": "input"}
        program = Program(
            tuple(Slot(kinds[kind]) for kind in pattern.sources + pattern.outs),
            Launch(tuple(range(first)), draws, tuple(rows)),
            (),
            np.concatenate(self.coefficients),
            np.zeros(0),
            0,
        )
        f32, model = torch.float32, pattern.model
        setting = Setting((1, self.n), self.place.device, f32, model, model, f32, False)
        executors.choose(name, setting)
        tensors: list[Tensor | None] = [*self.sources[0], *self.outs[0]]
        backend = executors.backend(name, program, setting, tensors)
        backend.seed(np.array([SEED], np.uint64))

        def node(i: int) -> list[Tensor]:
            outs = self.outs[i % self.count]
            for slot, tensor in enumerate((*self.sources[i % self.count], *outs)):
                tensors[slot] = tensor
                backend.bind(slot, tensor)
            backend.launch(0)
            return outs

        return node

    def by_torch(self, expression: Callable[[list[Tensor]], list[Tensor]]) -> Node:
        """A function of the sources that makes its outs."""
        return lambda i: expression(self.sources[i % self.count])

    def expression(self, sources: list[Tensor]) -> list[Tensor]:
        """The update as one writes it in torch."""
        values = [source.float() for source in sources]
        values += [torch.randn_like(values[0]) for _ in range(self.pattern.draws)]
        outs = []
        for terms, coefficients, kind in zip(self.pattern.rows, self.coefficients, self.pattern.outs, strict=True):
            total = coefficients[0] * values[terms[0]]
            for c, p in zip(coefficients[1:], terms[1:], strict=True):
                total = total + c * values[p]
            outs.append(total.to(self.pattern.dtype(kind)))
        return outs

    def reference(self, low: int, high: int, draws: bool) -> list[Tensor]:
        """Elements low .. high - 1 of every out of set 0 by NumPy, on the CPU, with or without the draws."""
        values = [source[0, low:high].cpu().float().numpy() for source in self.sources[0]]
        values += [_normals(low, high, 3 + d) for d in range(self.pattern.draws)]
        outs = []
        for terms, coefficients, kind in zip(self.pattern.rows, self.coefficients, self.pattern.outs, strict=True):
            used = [(c, p) for c, p in zip(coefficients, terms, strict=True) if draws or p < len(self.sources[0])]
            total = np.float32(used[0][0]) * values[used[0][1]]
            for c, p in used[1:]:
                total = total + np.float32(c) * values[p]
            outs.append(torch.from_numpy(total).to(self.pattern.dtype(kind)))
        return outs

    def wrong(self, node: Node, ours: bool) -> str | None:
        """What is wrong with a node's first launch; None if nothing.

        Ours must have the bits of NumPy, others come close or, with draws, have the moments.
        """
        for out in self.outs[0]:
            out.fill_(float("nan"))
        got = node(0)
        self.place.quiet()
        for number, out in enumerate(got):
            if out.shape != (1, self.n) or not bool(out.isfinite().all()):
                return f"out {number} is not wholly written"
        for low in {0, max(0, (self.n - SLICE) // 4 * 4)}:
            high = min(self.n, low + SLICE + 4)
            for number, (out, want) in enumerate(zip(got, self.reference(low, high, ours), strict=True)):
                mine = out[0, low:high].cpu()
                if ours and not torch.equal(_bits(mine), _bits(want)):
                    first = int((_bits(mine) != _bits(want)).nonzero()[0])
                    return f"out {number} has other bits than NumPy from element {low + first}: {mine[first]} for {want[first]}"
                if not ours and (flaw := self._far(mine.float(), want.float(), number)):
                    return f"out {number}, elements {low} to {high}: {flaw}"
        return None

    def _far(self, mine: Tensor, want: Tensor, row: int) -> str | None:
        noise = [
            c for c, p in zip(self.coefficients[row], self.pattern.rows[row], strict=True) if p >= len(self.sources[0])
        ]
        rounding = 2.0**-7 if self.pattern.dtype(self.pattern.outs[row]) != torch.float32 else 1e-5
        rest = mine - want
        if not noise:
            far = float((rest.abs() / (1.0 + want.abs())).max())
            return f"off by {far:g}" if far > rounding else None
        sd = float(np.linalg.norm(noise))
        if len(mine) >= 4096 and not (abs(float(rest.mean())) < 0.06 * sd and abs(float(rest.std()) / sd - 1.0) < 0.06):
            return f"the noise has mean {float(rest.mean()):g} and deviation {float(rest.std()):g}, not 0 and {sd:g}"
        return None


def _normals(low: int, high: int, number: int) -> np.ndarray:
    """Elements low .. high - 1 of a draw, low a multiple of 4, from the definition's parts."""
    group = np.arange(low // 4, -(-high // 4), dtype=np.uint64)
    counter = (
        (group & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        (group >> np.uint64(32)).astype(np.uint32),
        number,
        philox.STEP_STREAM,
    )
    words = philox.philox4x32(counter, (SEED & 0xFFFFFFFF, SEED >> 32))
    z = np.stack(philox.box_muller(words[0], words[1]) + philox.box_muller(words[2], words[3]), axis=-1)
    return z.reshape(-1)[: high - low]


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int16 if x.itemsize == 2 else torch.int32)
