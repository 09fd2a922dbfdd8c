"""Grids that were measured on a model, kept as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, TypeVar

T = TypeVar("T", bound="Kept")


class Kept:
    """Saves and loads the fields of a grid's dataclass, which are numbers and tuples of numbers."""

    name: ClassVar[str]

    def save(self, path: str | Path) -> None:
        """Write the pilot as JSON."""
        Path(path).write_text(json.dumps({"grid": self.name, **vars(self)}, indent=1) + "\n")

    @classmethod
    def load(cls: type[T], path: str | Path) -> T:
        """The pilot of a JSON file. Raises ValueError for a file that holds none."""
        try:
            values = json.loads(Path(path).read_text())
            if values.pop("grid") != cls.name:
                raise ValueError("of another grid")
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no pilot of {cls.name!r}: {error}") from error
