"""NVIDIA's assembly in NumPy: what a kernel compiled for a GPU writes, where there is none.

Only what the kernels of this package are made of, with PTX's meaning: every rounding to nearest even, no flush of subnormals. All
threads of a grid go at once, and part where a branch parts them; nothing here waits for another thread. A load or store outside the
given memory, or not on a multiple of its own size, is an error, as it is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Registers = dict[str, np.ndarray]
_TYPES = {"b16": np.uint16, "u16": np.uint16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32}
_TYPES |= {"b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f16": np.float16, "pred": np.bool_}


class Memory:
    """The arrays a kernel may touch, by their addresses."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._spans = [(a.__array_interface__["data"][0], a.reshape(-1).view(np.uint8)) for a in arrays]

    def words(self, addresses: np.ndarray, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The array under these accesses, in words of `size` bytes, and where in it each of the `count` words of each begins."""
        assert not (addresses % np.uint64(size * count)).any(), f"{count} times {size} bytes on a wrong address"
        for start, data in self._spans:
            first = (addresses - np.uint64(start)).astype(np.int64)
            if (first >= 0).all() and (first + size * count <= len(data)).all():
                shift = -start % size  # the array may begin in the middle of a word
                whole = data[shift : shift + (len(data) - shift) // size * size].view(f"u{size}")
                return whole, (first - shift)[:, None] // size + np.arange(count)
        raise AssertionError("an access outside the memory of the launch")


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a*b + c, rounded once to float32: the sum in float64 rounded to odd, which a second rounding does not spoil."""
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(even & (error != 0), odd, total).astype(np.float32)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    even = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), even)


def to_float16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).view(np.uint16).astype(np.uint32)


_CONVERTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"bf16": to_bfloat16, "f16": to_float16}
_ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "neg": np.negative, "shl": np.left_shift, "shr": np.right_shift, "div": np.floor_divide, "fma": fma,
    "rsqrt": lambda x: (1 / np.sqrt(x.astype(np.float64))).astype(np.float32), "mov": lambda x: x,
    "bfe": lambda x, first, count: x >> first & (1 << count) - 1,
}  # fmt: skip
_COMPARED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
}


class Kernel:
    """A kernel from its text. Called with its parameters, its grid and its memory, it does to that memory what a GPU would."""

    def __init__(self, text: str) -> None:
        self._threads = int(re.search(r"\.reqntid\s+(\d+)", text)[1])
        body = re.sub(r"//.*|^\s*\.loc.*", "", text[text.index(".entry") :], flags=re.MULTILINE)
        header, _, body = body.partition("\n{")
        self._parameters = re.findall(r"\.param\b.*?(\w+)[,\s]*$", header, re.MULTILINE)
        self._code: list[tuple[str, str, list[str]]] = []
        self._labels: dict[str, int] = {}
        for statement in body[: body.index("\n}")].split(";"):
            while label := re.match(r"[\s}]*(\$\w+):", statement):
                self._labels[label[1]] = len(self._code)
                statement = statement[label.end() :]
            form = r"[\s{}]*(?:@(!?%\w+)\s+)?([a-z][\w.]*)\s*(.*?)\s*"
            if (found := re.fullmatch(form, statement, re.DOTALL)) and not re.match(r"[\s{}]*\.reg", statement):
                operands = re.findall(r"\{.*?\}|\[.*?\]|[^\s,]+", found[3])
                self._code.append((found[1] or "", found[2], operands))

    def __call__(self, parameters: Sequence[int], grid: tuple[int, int], memory: Memory) -> None:
        y, x, thread = (i.reshape(-1).astype(np.uint32) for i in np.indices((grid[1], grid[0], self._threads)))
        start = {"%ctaid.x": x, "%ctaid.y": y, "%tid.x": thread}
        given = dict(
            zip(self._parameters, parameters, strict=False)
        )  # Triton's last two are pointers that nobody reads
        groups: list[tuple[int, Registers]] = [(0, start)]
        with np.errstate(all="ignore"):
            while groups:
                groups += self._run(*groups.pop(), given, memory)

    def _run(self, at: int, registers: Registers, given: dict[str, int], memory: Memory) -> list[tuple[int, Registers]]:
        """From an instruction to the end, or to where these threads part: then where each part goes on."""
        count = len(next(iter(registers.values())))

        def value(name: str, kind: Any) -> np.ndarray:
            if name.startswith("0f"):
                return np.full(count, int(name[2:], 16), np.uint32).view(np.float32)
            if re.match(r"-?\d", name):
                bits = int(name, 0) & (1 << 8 * np.dtype(kind).itemsize) - 1
                return np.full(count, bits, f"u{np.dtype(kind).itemsize}").view(kind)
            return registers[name].view(kind)

        def unsigned(x: np.ndarray) -> np.ndarray:
            return x if x.dtype == np.bool_ else x.view(f"u{x.dtype.itemsize}")

        for i in range(at, len(self._code)):
            guard, opcode, operands = self._code[i]
            on = np.ones(count, np.bool_)
            if guard:
                on = registers[guard.lstrip("!")] != guard.startswith("!")
            name, *marks = opcode.split(".")
            names = [re.findall(r"-?[%\w.$]+", operand) for operand in operands]
            if name == "ret":
                return []
            if name == "bra":
                goal = self._labels[operands[-1]]
                parts = [(goal, on), (i + 1, ~on)]
                return [(to, {k: v[who] for k, v in registers.items()}) for to, who in parts if who.any()]
            if marks[:2] == ["param", marks[-1]]:
                registers[operands[0]] = value(str(given[names[1][0]]), _TYPES[marks[-1]]).copy()
            elif name in ("ld", "st"):
                kind = _TYPES[marks[-1]]
                place, words = (names[1], names[0]) if name == "ld" else (names[0], names[1])
                addresses = value(place[0], np.uint64) + np.uint64(int(place[1]) if len(place) > 1 else 0)
                data, where = memory.words(addresses[on], np.dtype(kind).itemsize, len(words))
                for word, column in zip(words, where.T, strict=True):
                    if name == "st":
                        data[column] = value(word, kind)[on]
                    else:
                        registers[word] = np.where(on, 0, registers.get(word, 0)).astype(kind)
                        registers[word][on] = data[column]
            elif name == "mov" and operands[0].startswith("{"):
                parts = (
                    value(operands[1], _TYPES[marks[0]])
                    .view(f"u{np.dtype(_TYPES[marks[0]]).itemsize // 2}")
                    .reshape(count, 2)
                )
                registers |= {word: parts[:, k].copy() for k, word in enumerate(names[0]) if word != "_"}
            elif name == "mov" and operands[1].startswith("{"):
                size = np.dtype(_TYPES[marks[0]]).itemsize
                words = [value(word, f"u{size // len(names[1])}") for word in names[1]]
                registers[operands[0]] = np.stack(words, axis=1).view(f"u{size}").reshape(count)
            elif name == "cvt":
                registers[operands[0]] = unsigned(
                    self._convert(marks, [value(o, self._source(marks)) for o in operands[1:]])
                )
            elif name == "setp":
                left, right = (value(o, _TYPES[marks[1]]) for o in operands[1:])
                registers[operands[0]] = _COMPARED[marks[0]](left, right)
            elif name == "selp":
                yes, no = (value(o, _TYPES[marks[0]]) for o in operands[1:3])
                registers[operands[0]] = unsigned(np.where(registers[operands[3]], yes, no))
            else:
                registers[operands[0]] = unsigned(self._compute(name, marks, operands[1:], value))
        return []

    @staticmethod
    def _source(marks: list[str]) -> Any:
        return np.float32 if marks[-1] == "f32" else _TYPES[marks[-1]]

    @staticmethod
    def _convert(marks: list[str], x: list[np.ndarray]) -> np.ndarray:
        to = marks[-2]
        if to.endswith("x2"):  # the first operand is the upper half
            upper, lower = (_CONVERTED[to[:-2]](v).astype(np.uint32) for v in x)
            return upper << np.uint32(16) | lower
        return _CONVERTED[to](x[0]).astype(np.uint16) if to in _CONVERTED else x[0].astype(_TYPES[to])

    @staticmethod
    def _compute(
        name: str, marks: list[str], operands: list[str], value: Callable[[str, Any], np.ndarray]
    ) -> np.ndarray:
        kind = _TYPES[marks[-1]]
        if name in ("shl", "shr"):
            amount = value(operands[1], np.uint32).astype(kind)
            return _ARITHMETIC[name](value(operands[0], kind), amount)
        if "wide" in marks:
            wide = _TYPES[marks[-1].replace("32", "64")]
            product = value(operands[0], kind).astype(wide) * value(operands[1], kind).astype(wide)
            return product + value(operands[2], wide) if name == "mad" else product
        return _ARITHMETIC[name](*(value(o, kind) for o in operands))
