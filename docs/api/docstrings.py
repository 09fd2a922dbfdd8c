"""For mkdocs: docstrings are prose in which an asterisk multiplies and brackets index; in Markdown they would be emphasis and links."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Prose(griffe.Extension):
    """Escapes what Markdown would read as its own, outside of code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """Text whose asterisks, brackets and angles stay what they are; `code` and indented blocks are left alone."""
    parts = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)
    return "".join(
        part if i % 2 else re.sub(r"[*\[\]]", r"\\\g<0>", part).replace("<", "&lt;") for i, part in enumerate(parts)
    )
