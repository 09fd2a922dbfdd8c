"""What commands answer with: aligned tables and JSON."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest

_WIDTH = 100


class FailedError(Exception):
    """What a command found wrong; its text is the answer all the same."""


def as_json(value: object, indent: int = 0) -> str:
    """JSON that every parser reads, without NaN and infinities; what fits into a line is one line."""
    flat = json.dumps(value, allow_nan=False)
    if len(flat) + indent <= _WIDTH or not isinstance(value, dict | list):
        return flat
    start, end = "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {as_json(part, indent + 1)}" for key, part in value.items()]
    else:
        parts = [as_json(part, indent + 1) for part in value]
    inner = ",".join(f"\n{' ' * (indent + 1)}{part}" for part in parts)
    return f"{start}{inner}\n{' ' * indent}{end}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], wraps: Mapping[int, int] | None = None) -> str:
    """Aligned columns: words to the left, numbers to the right. wraps: columns, by number, whose cells break at a width."""
    whole = [
        [textwrap.wrap(c, (wraps or {}).get(i, 10**6)) or [""] for i, c in enumerate(row)] for row in [head, *rows]
    ]
    widths = [max(len(part) for cell in column for part in cell) for column in zip(*whole, strict=True)]
    numeric = [all(map(_is_number, column)) for column in zip(*rows, strict=True)] or [False] * len(head)

    def lines(row: Sequence[Sequence[str]]) -> list[str]:
        return [
            "  ".join(
                part.rjust(w) if n else part.ljust(w) for part, w, n in zip(parts, widths, numeric, strict=True)
            ).rstrip()
            for parts in zip_longest(*row, fillvalue="")
        ]

    first, *others = map(lines, whole)
    return "\n".join([*first, *lines([["-" * w] for w in widths]), *(line for row in others for line in row)])


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True


def positive(text: str) -> int:
    """An int of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, not {text!r}")
    return value
