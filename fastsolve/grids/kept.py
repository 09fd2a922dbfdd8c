"""Grids that were measured on a model, kept as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import EllipsisType
from typing import ClassVar, TypeVar

T = TypeVar("T", bound="Kept")


class Kept:
    """Saves and loads the fields of a grid's dataclass, which are numbers and tuples of numbers."""

    name: ClassVar[str]

    def save(self, path: str | Path, guidance: float | None = None) -> None:
        """Write the pilot as JSON, with the guidance it was measured with."""
        Path(path).write_text(json.dumps({"grid": self.name, "guidance": guidance, **vars(self)}, indent=1) + "\n")

    @classmethod
    def load(cls: type[T], path: str | Path, guidance: float | EllipsisType | None = ...) -> T:
        """The pilot of a JSON file, of this guidance where one is asked for. Raises ValueError for a file that holds none, or another's."""
        try:
            values = json.loads(Path(path).read_text())
            if values.pop("grid") != cls.name:
                raise ValueError("of another grid")
            measured = values.pop("guidance", None)
            pilot = cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no pilot of {cls.name!r}: {error}") from error
        if guidance is not ... and guidance != measured:
            raise ValueError(f"{path} was measured with guidance {measured}, not {guidance}: give another path")
        return pilot
