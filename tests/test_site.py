"""The site of docs/: it builds, nothing on it comes from elsewhere, its tables are tables, and every public name is on it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import fastsolve
from fastsolve import solvers

ROOT = Path(__file__).parent.parent
MODULES = (
    "calibrate",
    "grids",
    "models",
    "predictions",
    "presets",
    "schedules",
)  # public, and so is what they define or export

needs_mkdocs = pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("mkdocstrings") is None, reason="the docs extra is not installed"
)


class Page(HTMLParser):
    """What a page loads, the names that can be linked to, the cells of each row of its tables, and what is emphasised."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.tables: list[list[int]] = []
        self.emphasis = 0
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids.add(given.get("id", ""))
        if tag in ("script", "img", "iframe", "source", "video") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given.get("href", ""))
        if tag == "table":
            self.tables.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append(0)
        if tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1] += 1
        self.emphasis += tag == "em"
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "pre", "code"} & set(self._open):
            self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of any kind fails the build."""
    to = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(to)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return to


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {p.relative_to(site).as_posix(): Page(p.read_text("utf-8")) for p in sorted(site.rglob("*.html"))}


def elsewhere(address: str) -> bool:
    return re.match(r"(https?:)?//", address) is not None


@needs_mkdocs
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    assert all(page.loads for page in pages.values())
    assert not [(name, address) for name, page in pages.items() for address in page.loads if elsewhere(address)]
    styles = [file.read_text("utf-8") for file in site.rglob("*.css")]
    assert styles
    assert not [a for style in styles for a in re.findall(r"url\([\"']?([^)\"']*)", style) if elsewhere(a)]


@needs_mkdocs
def test_tables_are_tables(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert all(len(set(rows)) == 1 for rows in page.tables), name
        assert "| ---" not in page.text, f"{name}: a table that was not understood"
    assert sum(len(page.tables) for page in pages.values()) >= 20


@needs_mkdocs
def test_docstrings_are_prose(pages: dict[str, Page]) -> None:
    """An asterisk of a docstring multiplies: it is not emphasis."""
    api = {name: page for name, page in pages.items() if name.startswith("api/")}
    assert api
    assert not [name for name, page in api.items() if page.emphasis]
    assert "[B, *shape]" in api["api/index.html"].text
    assert "\\*" not in "".join(page.text for page in api.values())


def offered(module: ModuleType) -> Iterator[str]:
    """Names that a module offers: `X as X`, and its own classes and functions without an underscore."""
    for node in ast.parse(Path(str(module.__file__)).read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.asname == alias.name)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name


def public_names(module: ModuleType = fastsolve) -> set[str]:
    """Dotted names of what the package and the modules that it offers hold, and of the texts of its solvers."""
    names = set()
    for name in offered(module):
        value = getattr(module, name)
        names |= public_names(value) if isinstance(value, ModuleType) else {f"{module.__name__}.{name}"}
    if module is fastsolve:
        texts = [solvers.get(name).text for name in fastsolve.list_solvers()]
        names |= {f"{t.__module__}.{t.__qualname__}" for t in texts if t.__module__.startswith("fastsolve.")}
    return names


@needs_mkdocs
def test_every_public_name_is_in_the_reference(pages: dict[str, Page]) -> None:
    documented = {name for path, page in pages.items() if path.startswith("api/") for name in page.ids}
    assert len(public_names()) > 100
    assert not public_names() - documented


def test_public_names_are_read_from_the_sources() -> None:
    names = public_names()
    assert {
        "fastsolve.sample",
        "fastsolve.grids.Karras",
        "fastsolve.presets.webui",
        "fastsolve.solvers.seeds.seeds3",
    } <= names
    assert "fastsolve.grids.VPTable" not in names  # imported there, and not offered
    for name in names:
        owner, _, last = name.rpartition(".")
        assert hasattr(sys.modules[owner], last), name


@pytest.mark.skipif(find_spec("griffe") is None, reason="the docs extra is not installed")
def test_a_docstring_is_escaped_outside_of_code() -> None:
    spec = spec_from_file_location("docstrings", ROOT / "docs/api/docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "x = a * b in `c * d` and [B] < 3\n\n    e * f\n"
    assert module.escaped(text) == "x = a \\* b in `c * d` and \\[B\\] &lt; 3\n\n    e * f\n"
