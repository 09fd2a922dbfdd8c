"""Why something cannot be a graph."""

from __future__ import annotations

from torch import Tensor


class UnfollowedError(Exception):
    """Something whose changes a graph could not see."""


class UncapturableError(RuntimeError):
    """A model that cannot run inside a captured graph, with the reason in one line. out: what it has sampled before that was found."""

    def __init__(self, reason: str, out: Tensor | None = None) -> None:
        super().__init__(reason)
        self.out = out


def reason(error: BaseException, handled: BaseException | None) -> str:
    """The first line of the error that came first: torch's own at the end of a spoilt capture says less. handled: by the caller."""
    while error.__context__ is not None and error.__context__ is not handled:
        error = error.__context__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
