"""Slots for the symbols of a program, by lifetime."""

from __future__ import annotations

from collections.abc import Iterable

from fastsolve.program import Slot


class Memory:
    """Slots of symbols; a buffer is given back with its symbol's last use."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.held: dict[str, int] = {}
        self._free: dict[str, list[int]] = {}

    def take(self, symbol: str, kind: str) -> int:
        free = self._free.setdefault(kind, [])
        if not free:
            free.append(len(self.slots))
            self.slots.append(Slot(kind))
            if kind == "pair":
                self.slots.append(Slot("twin"))  # the second half of the tensor before
        self.held[symbol] = free.pop()
        if kind == "pair":
            self.held[symbol + "'"] = self.held[symbol] + 1
        return self.held[symbol]

    def release(self, symbols: Iterable[str]) -> None:
        for symbol in symbols:
            slot = self.held.pop(symbol)
            if (kind := self.slots[slot].kind) != "twin":
                self._free[kind].append(slot)
