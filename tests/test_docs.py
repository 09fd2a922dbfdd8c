"""Every example of docs/ runs, in the order of its page, and prints what the page says it prints."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import re
from pathlib import Path

import pytest

from fastsolve import solvers

ROOT = Path(__file__).parent.parent
DOCS, README = ROOT / "docs", ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
SAID = re.compile(r"^\s*print\(.*\)\s+# (.*\n)", re.MULTILINE)
OWN_TEST = {"errata"}  # each demonstration has names of its own


def blocks(page: Path) -> list[tuple[int, str, str]]:
    """The examples of a page: the lines they stand under, and what they print, in a block below or beside each print."""
    text = page.read_text("utf-8")
    return [
        (text.count("\n", 0, match.start(1)), code, "".join(SAID.findall(code)) if shown is None else shown)
        for match in BLOCK.finditer(text)
        for code, shown in [match.groups()]
        if not code.startswith(">>> ")  # shows a session
    ]


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page.stem not in OWN_TEST and blocks(page)]


def run(page: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for line, code, shown in blocks(page):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile("\n" * line + code, str(page), "exec"), names)  # an error names the line of the page
        assert out.getvalue() == shown, f"{page.name}, below line {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run_and_print_what_they_say(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: solvers.get(name) for name in solvers.names()}
    monkeypatch.setattr(solvers, "_registry", whole)  # a page's solvers are no one else's
    run(page)


@pytest.mark.parametrize(
    "example",
    ["```python\nprint(1 + 1)    # 3\n```", "```python\nprint(2)\n```", "```python\nprint(2)\n```\n\n```text\n3\n```"],
)
def test_what_is_not_printed_is_seen(example: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text\n\n{example}\n", "utf-8")
    with pytest.raises(AssertionError, match=r"page\.md, below line 3"):
        run(page)
    page.write_text(f"Text\n\n{example}\n".replace("3\n", "2\n").replace("(2)\n```\n", "(2)    # 2\n```\n"), "utf-8")
    run(page)


def test_an_error_names_the_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text\n```python\n\n1 / 0\n```\n", "utf-8")
    with pytest.raises(ZeroDivisionError) as error:
        run(page)
    assert error.traceback[-1].lineno == 3  # counted from 0


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(name: str) -> None:
    """Those of docs/ are checked where the site is built."""
    page = ROOT / name
    if not page.exists():
        pytest.skip("not shipped")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    assert links
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


FEATURES = re.compile(r"^\| [^`|\n]+(?: \| (?:yes|part|hook|no)\b[^|\n]*){5} \|$", re.MULTILINE)
SEEN = re.compile(r"`([\w/]+\.py)` `([^`]+)`")


def features(page: Path) -> list[list[str]]:
    """The rows of the table of features: what, and for each library its answer."""
    return [line[2:-2].split(" | ") for line in FEATURES.findall(page.read_text("utf-8"))]


def test_the_readme_has_the_features_that_were_looked_up() -> None:
    looked_up = features(DOCS / "features.md")
    assert features(README) == [[what, *(answer.split(":")[0] for answer in answers)] for what, *answers in looked_up]
    assert len(looked_up) > 25


def test_what_is_said_of_diffusers_stands_in_its_source() -> None:
    found = importlib.util.find_spec("diffusers")
    if found is None or found.origin is None:
        pytest.skip("the bench extra, with diffusers, is not installed")
    if (version := importlib.metadata.version("diffusers")) not in (DOCS / "features.md").read_text("utf-8"):
        pytest.skip(f"the table was made with another diffusers, not {version}")
    seen = [pair for row in features(DOCS / "features.md") for pair in SEEN.findall(row[2])]
    assert len(seen) > 20
    for file, words in seen:
        assert words in (Path(found.origin).parent / file).read_text("utf-8"), (file, words)
