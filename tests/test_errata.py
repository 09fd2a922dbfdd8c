"""Every demonstration of docs/errata.md, run: it prints what stands under it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs/errata.md").read_text("utf-8")
SECTIONS = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
DEMONSTRATION = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
DEMONSTRATIONS = [pytest.param(*match, id=title) for title, body in SECTIONS for match in DEMONSTRATION.findall(body)]


@pytest.mark.parametrize(("code", "shown"), DEMONSTRATIONS)
def test_demonstration_prints_what_stands_under_it(code: str, shown: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "errata", "exec"), {})
    assert printed.getvalue() == shown


def test_every_block_of_the_page_is_a_demonstration() -> None:
    assert len(DEMONSTRATIONS) == PAGE.count("```python") == PAGE.count("```text") >= 25


def test_everything_called_wrong_is_demonstrated() -> None:
    wrong = PAGE.split("\n## Wrong")[1].split("\n## ")[0]
    assert wrong.count("\n### ") == wrong.count("```python")
