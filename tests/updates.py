"""Updates of every pattern, for the kernels of csrc/: their tensors, and what they must write, spelled in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch

from bits import assert_bits_equal
from fastsolve import philox
from fastsolve.program import Mid

SEEDS = np.array([2**64 - 1, 2**63 + 12345, 7], np.uint64)
DTYPES = {"f": torch.float32, "b": torch.bfloat16, "h": torch.float16}
STREAMED = 2**20 + 3  # outs of this size are written past the caches of a CPU, and by several threads
MARGIN = 4096  # elements behind every tensor, more than a block of any kernel could run past its end
AWKWARD = (torch.nan, torch.inf, -torch.inf, -0.0, 1e-40, 3e38, -3e38, 65519, 65520, 1.00390625, 1.01171875, 6e-8)


@dataclass(frozen=True)
class Case:
    name: str
    size: int
    sources: str = ""  # one letter per tensor: f float32, b bfloat16, h float16
    outs: str = "f"
    rows: tuple[tuple[int, ...], ...] = ((0,),)
    draws: tuple[tuple[int, int], ...] = ()  # (stream, number)
    batch: int = 1
    alias: tuple[int, ...] = ()  # out i is the tensor of source alias[i]
    mids: tuple[Mid, ...] = ()  # with offsets that `placed` writes
    per_sample: bool = False  # a table of its own for every sample

    def __str__(self) -> str:
        return self.name


def in_order(n: int) -> tuple[tuple[int, ...], ...]:
    return (tuple(range(n)),)


def clip(*terms: int) -> Mid:
    return Mid("clip", terms, 0)


def blend(mask: int, known: int, *terms: int) -> Mid:
    return Mid("blend", terms, 0, mask, known)


def placed(mids: Sequence[Mid], first: int) -> tuple[tuple[Mid, ...], int]:
    """The mids with their coefficients one after the other from `first` on, and where the last of them ends."""
    found = []
    for mid in mids:
        found.append(replace(mid, offset=first))
        first += len(mid.terms) + (2 if mid.op == "clip" else 1)
    return tuple(found), first


def any_pattern(rng: np.random.Generator, sources: int, draws: int) -> dict[str, Any]:
    """Mids and rows at random, for a Case: terms in any order, left out, repeated; mids of mids, and rows that read none."""
    mids: list[Mid] = []
    for i in range(rng.integers(1, 5)):
        terms = tuple(map(int, rng.integers(0, sources + draws + i, rng.integers(1, 11))))
        mids.append(blend(*map(int, rng.integers(0, sources, 2)), *terms) if rng.random() < 0.5 else clip(*terms))
    count = sources + draws + len(mids)
    rows = [rng.integers(0, count, rng.integers(1, 7)).tolist() for _ in range(rng.integers(1, 5))]
    rows[0].append(count - 1)
    return {
        "sources": "".join(rng.choice(list("fbh"), sources)),
        "outs": "".join(rng.choice(list("fbh"), len(rows))),
        "rows": tuple(map(tuple, rows)),
        "draws": tuple((1, number) for number in range(draws)),
        "mids": tuple(mids),
        "per_sample": bool(rng.random() < 0.5),
    }


CLIP_AND_BLEND = (clip(0, 1), blend(2, 0, 3, 1))  # of three sources; the second takes the first
MID_CASES = [
    *(Case(f"clip-{n}", n, "fb", "fb", ((2, 0), (1, 2)), mids=(clip(1, 0),)) for n in (1, 63, 1003, 1_000_003)),
    *(Case(f"blend-{n}", n, "hfb", "fh", ((3, 0), (3,)), mids=(blend(0, 2, 1, 2),)) for n in (1, 63, 1003, 1_000_003)),
    *(Case(f"both-{n}", n, "bff", "fb", ((0, 4), (3, 4)), batch=3, mids=CLIP_AND_BLEND) for n in (1, 63, 1003)),
    Case("clip-in-place", 2003, "ff", "ff", ((2, 1), (0, 2)), alias=(0, 1), mids=(clip(0, 1),)),
    Case("blend-in-place-16-bit", 2003, "bhb", "b", ((3,),), alias=(2,), mids=(blend(2, 1, 0),)),
    Case("mid-of-a-draw", 1003, "f", "fb", ((2, 0), (1, 2)), ((1, 9),), 3, mids=(clip(1, 0),)),
    Case("mid-of-ten", 1003, "fbhf" * 2, "f", ((10, 9),), ((1, 0),), mids=(clip(*range(9), 0), blend(1, 2, 9, 3))),
    Case("eight-mids", 1003, "ff", "fh", ((9,), (5, 2)), mids=(*(clip(i, 0) for i in range(7)), blend(0, 1, 8))),
]
PER_SAMPLE_CASES = [
    *(Case(f"of-each-{n}", n, "fb", "fb", ((0, 1), (1,)), (), 3, per_sample=True) for n in (1, 63, 1000, 1024, 4099)),
    *(Case(f"of-each-draw-{n}", n, "f", "h", ((1, 0),), ((1, 9),), 3, per_sample=True) for n in (1, 63, 1000, 4099)),
    *(
        Case(f"of-each-mids-{n}", n, "bff", "fb", ((0, 4, 5), (3, 4)), (), 3, (), (*CLIP_AND_BLEND, clip(4)), True)
        for n in (1, 63, 1003, 4096)
    ),
    Case("of-each-large", 400_003, "ffb", "fb", ((0, 1, 3), (1, 2)), (), 3, mids=(clip(0, 1),), per_sample=True),
    Case("of-each-in-place", STREAMED, "ff", "ff", ((1, 0), (0, 1)), (), 2, alias=(0, 1), per_sample=True),
    Case("of-each-of-none", 0, "ff", "f", ((0, 1),), (), 3, per_sample=True),
    Case("of-one", 1003, "ff", "f", ((0, 2),), mids=(clip(0, 1),), per_sample=True),
]
MID_CASES += PER_SAMPLE_CASES

CASES = [
    *(Case(f"{n}-sources-to-{out}", 1003, "f" * n, out, in_order(n)) for n in range(1, 11) for out in "fbh"),
    *(Case(f"size-{n}", n, "ffff", "f", in_order(4), batch=3) for n in (0, 1, 3, 63, 1024)),
    *(Case(f"16-bit-size-{n}", n, "bhfb", "bh", ((0, 1, 2), (2, 3)), batch=3) for n in (1, 3, 63, 1000)),
    *(Case(f"draw-size-{n}", n, "ff", "f", ((0, 1, 2),), ((1, 5),), batch=3) for n in (1, 3, 63, 1000, 4099)),
    Case("only-draws", 1003, "", "fbh", ((0, 1, 2), (2,), (1, 0)), ((1, 0), (0, 0), (1, 2**32 - 1)), batch=3),
    Case("a-draw-in-three-rows", 1003, "fb", "fbh", ((0, 2), (1, 0, 2), (2, 1)), ((1, 9),), batch=3),
    Case("terms-repeat-and-reverse", 1003, "fh", "f", ((1, 0, 1, 2, 0, 0),), ((1, 9),)),
    Case("ten-with-draws", 1003, "fbhfbhf", "b", ((9, 8, 7, 6, 5, 4, 3, 2, 1, 0),), ((1, 0), (1, 1), (1, 2)), batch=3),
    Case("four-rows", 1003, "ffff", "fbhf", ((0, 1), (1, 2, 3), (3,), (0, 1, 2, 3))),
    Case("in-place", 2003, "fff", "f", ((0, 1, 2),), alias=(0,)),
    Case("in-place-16-bit", 2003, "bh", "bh", ((0, 1), (1, 0)), alias=(0, 1)),
    Case("exchange", 2003, "ff", "ff", ((1,), (0,)), alias=(0, 1)),
    Case("rotate-with-draw", 2003, "fff", "fff", ((0, 1, 3), (2, 0), (1, 3)), ((1, 4),), 3, (1, 2, 0)),
    Case("streamed", STREAMED, "ffb", "fb", ((0, 1, 2), (1, 2))),
    Case("streamed-unaligned-samples", STREAMED // 3, "ff", "f", ((0, 2, 1),), ((1, 1),), batch=3),
    Case("in-place-large", STREAMED, "ff", "ff", ((1, 0), (0, 1)), alias=(0, 1)),
]


class Problem:
    """Tensors of a case with what a program needs beside them, and what its update must write.

    awkward: sources begin with NaN, infinities, subnormals and ties. shift: by so many elements tensors start behind an address
    that suits vectors.
    """

    def __init__(self, case: Case, *, device: str = "cpu", awkward: bool = False, shift: int = 0) -> None:
        self.case, self._shift, self._device = case, shift, device
        generator = torch.Generator().manual_seed(len(case.name))
        drawn = [torch.randn(case.batch, case.size, generator=generator) for _ in case.sources]
        if awkward:
            for x in drawn:
                x.view(-1)[: len(AWKWARD)] = torch.tensor(AWKWARD)[: x.numel()]
        self._homes: list[tuple[torch.Tensor, float]] = []
        # Around sources stands no NaN: a sum of what must not be read would be NaN, and pass for what stands around outs.
        self.sources = [self._placed(x.to(DTYPES[k]), 0.5) for x, k in zip(drawn, case.sources, strict=True)]
        empty = torch.full((case.batch, case.size), torch.nan)
        self.outs = [
            self.sources[case.alias[i]] if case.alias else self._placed(empty.to(DTYPES[letter]), torch.nan)
            for i, letter in enumerate(case.outs)
        ]
        self._mids, first = placed(case.mids, 2)  # what stands before the first offset is nobody's
        offsets = np.cumsum([first] + [len(row) for row in case.rows])
        shape = (case.batch, offsets[-1]) if case.per_sample else (offsets[-1],)
        self.table = np.full(shape, np.nan, np.float32)
        self.table[..., 2:] = np.random.default_rng(0).standard_normal((*shape[:-1], offsets[-1] - 2))
        for mid in self._mids:
            if mid.op == "clip":
                low, high = mid.offset + len(mid.terms) + np.arange(2)
                self.table[..., low], self.table[..., high] = (-abs(self.table[..., low]), abs(self.table[..., high]))
        self._offsets = [int(offset) for offset in offsets[:-1]]
        self.seeds = SEEDS if case.batch <= len(SEEDS) else philox.sample_seeds(5, case.batch)

    @property
    def codes(self) -> list[int]:
        """Dtypes of the slots: sources, then outs."""
        return [list(DTYPES).index(letter) for letter in self.case.sources + self.case.outs]

    @property
    def update(self) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, tuple[int, ...], int]]]:
        """The update over the slots, as programs take it."""
        n, rows = len(self.sources), self.case.rows
        return list(range(n)), list(self.case.draws), [(n + i, row, self._offsets[i]) for i, row in enumerate(rows)]

    @property
    def mids(self) -> list[list[tuple[Any, ...]]]:
        """Those of the update, as programs take them."""
        return [[astuple(mid) for mid in self._mids]] if self._mids else []

    @property
    def stride(self) -> int:
        """From the coefficients of a sample to those of the next."""
        return self.table.shape[1] if self.case.per_sample else 0

    def addresses(self) -> list[int]:
        """Those of the slots; an empty tensor has none."""
        return [tensor.data_ptr() or 64 for tensor in self.sources + self.outs]

    def expected(self) -> list[torch.Tensor]:
        """What the outs must hold; to be asked before the update runs."""
        values = [source.float().cpu().numpy() for source in self.sources]
        seeds = self.seeds[: self.case.batch]
        values += [philox.normals(seeds, self.case.size, number, stream) for stream, number in self.case.draws]
        columns = [column[..., None] for column in self.table.T]
        with np.errstate(all="ignore"):
            for mid in self._mids:
                values.append(middle(mid, columns[mid.offset :], values))
            # torch's casts round to nearest even
            return [
                torch.from_numpy(linear(columns[offset:], row, values)).to(out.dtype)
                for row, offset, out in zip(self.case.rows, self._offsets, self.outs, strict=True)
            ]

    def assert_margins(self) -> None:
        """Nothing was written outside the tensors."""
        size = self.case.batch * self.case.size
        for home, around in self._homes:
            before, after = home[: self._shift], home[self._shift + size :]
            assert_bits_equal(before, torch.full_like(before, around))
            assert_bits_equal(after, torch.full_like(after, around))

    def _placed(self, x: torch.Tensor, around: float) -> torch.Tensor:
        home = torch.full((self._shift + x.numel() + MARGIN,), around, dtype=x.dtype, device=self._device)
        self._homes.append((home, around))
        placed = home[self._shift : self._shift + x.numel()].view(x.shape)
        placed.copy_(x)
        return placed


def linear(coefficients: Sequence[np.ndarray], terms: Sequence[int], values: Sequence[np.ndarray]) -> np.ndarray:
    """Term by term, each product and each sum rounded. coefficients: from the first on, [1] or [batch, 1]."""
    total = coefficients[0] * values[terms[0]]
    for c, term in zip(coefficients[1 : len(terms)], terms[1:], strict=True):
        total = total + c * values[term]
    return total


def middle(mid: Mid, coefficients: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> np.ndarray:
    """A mid, each operation rounded."""
    total, own = linear(coefficients, mid.terms, values), coefficients[len(mid.terms) :]
    if mid.op == "clip":
        return np.where(total < own[0], own[0], np.where(total > own[1], own[1], total))
    mask, known = values[mid.mask], values[mid.known]
    return (1 - mask) * total + mask * (own[0] * known)


def rounding_values(letter: str) -> torch.Tensor:
    """All finite values of a 16-bit type, the ties between them and their float32 neighbours; subnormals, overflow, infinity."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(DTYPES[letter]).float()
    every = every[every.isfinite()].double().sort().values
    ties = ((every[1:] + every[:-1]) / 2).float()
    edge = torch.tensor([0.0, -0.0, 65519.99, 65520.0, 1e38, 3.4e38, 1e-45, torch.inf, -torch.inf, 2**-25, 2**-24])
    return torch.cat([every.float(), ties, ties.nextafter(torch.tensor(9e9)), ties.nextafter(torch.tensor(-9e9)), edge])
