"""The import law of the house, read from the sources: a line of code must know its room.

A solver never sees a tensor; a kernel never sees a noise level; an executor never sees a solver's name.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 250


@dataclass(frozen=True)
class Row:
    """What the files of a room may import of the house beside itself, and what never, not even inside a function."""

    rooms: str = ""
    never: str = ""
    extras: str = ""  # libraries of an extra that it may import at module level: a script's
    discovers: bool = False  # imports its own modules by a computed name


DEVICE = "torch triton"
MATHS = Row(never=DEVICE)
ANY = "*"
ADAPTERS = "__init__ api arguments controls denoiser grids plan planner predictions sampler schedules solvers stepper stepping watching"

# A file's row is that of its path, or else of its top folder; a room may import itself. `_C` and `_cuda` are the native modules.
LAW = {
    "forms": MATHS,
    "integrals": MATHS,
    "philox": MATHS,
    "schedules": MATHS,
    "predictions": Row("schedules", never=DEVICE),
    "grids": Row("schedules", never=DEVICE),
    "presets": Row("grids", never=DEVICE),
    "ops": Row("forms", never=DEVICE),
    "controls": Row("schedules", never=DEVICE),
    "verify": Row("forms ops plan", never=DEVICE),
    "plan": Row("forms ops verify", never=DEVICE),
    "draft": Row("controls forms ops plan predictions schedules", never=DEVICE),
    "transitions": Row("forms ops plan", never=DEVICE),
    "solvers": Row("draft forms integrals schedules", never=DEVICE),
    "solvers/__init__": Row("draft forms integrals plan schedules", never=DEVICE, discovers=True),
    "walks": Row("draft forms plan schedules solvers", never=DEVICE),
    "advice": Row("grids schedules walks", never=DEVICE),
    "recommended": Row("schedules", never=DEVICE),
    "defaults": Row("grids recommended schedules solvers", never=DEVICE),
    "planner": Row("advice controls defaults draft forms grids plan predictions schedules solvers walks", never=DEVICE),
    "program": Row(never=DEVICE),
    "memory": Row("program", never=DEVICE),
    "lower": Row("forms memory ops plan program", never=DEVICE),
    "kernels": Row(),
    "executors": Row("kernels program philox plan _C _cuda"),
    "executors/__init__": Row("kernels program philox plan _C _cuda", discovers=True),
    "denoiser": Row("predictions schedules"),
    "calibrate": Row("denoiser grids predictions schedules"),
    "models": Row("denoiser predictions schedules"),
    "models/train_digits": Row("denoiser predictions schedules", extras="safetensors sklearn tqdm"),
    "problems": Row("denoiser models predictions schedules"),
    "adapters": Row(ADAPTERS),
    "adapters/diffusers/scheduler": Row(ADAPTERS, extras="diffusers"),
    "arguments": Row("denoiser executors grids philox plan predictions schedules"),
    "branches": Row("denoiser"),
    "budgets": Row("arguments"),
    "functions": Row("kernels schedules"),
    "watching": Row("plan sampler schedules"),
    "memo": Row("denoiser"),
    "logprob": Row("branches denoiser ops plan transitions"),
    "compiled": Row(
        "arguments controls denoiser executors functions grids lower plan planner predictions program schedules"
    ),
    "stepper": Row("arguments executors lower plan stepping"),
    "stepping": Row("executors stepper"),
    "sampler": Row(ANY),
    "inversion": Row("denoiser grids predictions sampler schedules"),
    "likelihood": Row(
        "arguments branches controls denoiser executors grids ops philox plan planner predictions sampler schedules"
    ),
    "api": Row(ANY),
    "pictures": Row("grids plan planner schedules watching"),
    "cli": Row("__init__ api models"),  # a caller, who uses the public names
    "cli/doctor": Row("__init__ _C _cuda"),  # asks whether the native modules load
    "__main__": Row("cli"),
    "__init__": Row(ANY),
    "_C": MATHS,
    "_cuda": MATHS,
}

# What an installed fastsolve can count on; everything else belongs to an extra and is imported where it is used.
DEPENDENCIES = {"numpy", "torch", "triton", "typing_extensions"}
NOT_BUILT_YET: set[str] = set()
NOISE_LEVELS = {"alpha", "sigma", "lam", "node", "schedule"}


@dataclass(frozen=True)
class Import:
    line: int
    target: str | None  # dotted, absolute; None where it is computed
    at_import: bool  # runs when the file is imported


def room_of(path: str) -> str | None:
    """The row of a file, by its path inside fastsolve/: None where the law does not know it."""
    stem = path.rpartition(".")[0]
    return next((key for key in (stem, stem.split("/")[0]) if key in LAW and (key == stem or "/" in stem)), None)


def house() -> dict[str, Path]:
    """Every source of the package by its path inside fastsolve/, kernels/ included, with or without the symlink."""
    found = {}
    for folder, prefix in (("fastsolve", ""), ("fastsolve/kernels", "kernels/"), ("kernels", "kernels/")):
        for file in (ROOT / folder).rglob("*.py*"):
            if file.suffix in {".py", ".pyi"}:
                found.setdefault(prefix + file.relative_to(ROOT / folder).as_posix(), file)
    return dict(sorted(found.items()))


SOURCES = house()
NATIVE = {p.relative_to(ROOT).as_posix(): p for p in sorted((ROOT / "csrc").rglob("*")) if p.is_file()}


MODULES = {part for path in [*SOURCES, *LAW] for part in PurePosixPath(path).with_suffix("").parts}


def package_of(path: str) -> str:
    return ".".join(["fastsolve", *PurePosixPath(path).parts[:-1]])


def absolute(path: str, name: str, level: int) -> str:
    """`from ..name import` of a file, as a dotted name from the root."""
    if not level:
        return name
    package = package_of(path).split(".")
    return ".".join([*package[: len(package) - level + 1], *([name] if name else [])])


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(path: str, tree: ast.AST, at_import: bool = True) -> Iterator[Import]:
    """All imports of a file, those inside functions, under TYPE_CHECKING and by import_module included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node.module or "", node.level)
            yield from (Import(node.lineno, f"{base}.{alias.name}", at_import) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                stem = name.value.lstrip(".")
                yield Import(node.lineno, absolute(path, stem, len(name.value) - len(stem)), at_import)
            else:
                yield Import(node.lineno, None, at_import)
        if isinstance(node, ast.If) and is_type_checking(node.test):
            yield from imports(path, ast.Module(node.body, []), False)
            yield from imports(path, ast.Module(node.orelse, []), at_import)
        else:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(path, node, at_import and not lazy)


def target_room(target: str) -> str:
    """The room of an imported `fastsolve.a.b.name`; what the package root itself exports is in `__init__`."""
    top = target.split(".")[1] if "." in target else ""
    return top if top in LAW else "__init__"


def import_offences(path: str, tree: ast.Module, row: Row) -> Iterator[str]:
    allowed = {path.partition(".")[0].split("/")[0], *row.rooms.split()}
    for found in imports(path, tree):
        if found.target is None:
            if not row.discovers:
                yield f"line {found.line}: imports by a computed name"
            continue
        top = found.target.split(".")[0]
        if top == "fastsolve":
            room = target_room(found.target)
            if room not in allowed and ANY not in allowed:
                yield f"line {found.line}: imports {room}, may import {row.rooms or 'nothing'} of the house"
        elif top in row.never.split():
            yield f"line {found.line}: imports {top}"
        elif found.at_import and top not in {*DEPENDENCIES, *row.extras.split(), *sys.stdlib_module_names}:
            yield f"line {found.line}: imports {top} at module level, which is no dependency"


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Identifiers, and the words of string constants, docstrings included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno, word) for word in re.findall(r"\w+", node.value))
        else:
            yield from identifiers(node)


def identifiers(node: ast.AST) -> Iterator[tuple[int, str]]:
    for field in ("id", "attr", "arg", "name"):
        if isinstance(value := getattr(node, field, None), str):
            yield getattr(node, "lineno", 0), value


def environment_offences(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        for line, name in identifiers(node):
            if name in {"environ", "environb", "getenv", "getenvb"}:
                yield f"line {line}: reads the environment ({name})"


def root_offences(tree: ast.Module) -> Iterator[str]:
    """The package root: a docstring, `from .x import X as X`, `__all__`, `__version__`."""
    for node in tree.body:
        match node:
            case ast.Expr(ast.Constant()) | ast.ImportFrom(module="__future__"):
                continue
            case ast.ImportFrom(names=names) if all(alias.asname == alias.name for alias in names):
                continue
            case ast.Assign(targets=[ast.Name("__all__" | "__version__")], value=value):
                if isinstance(value, ast.Constant | ast.List | ast.Tuple):
                    continue
        yield f"line {node.lineno}: more than `X as X`: {ast.unparse(node).splitlines()[0]}"


def shadow_offences(path: str, tree: ast.Module) -> Iterator[str]:
    """Names that a package offers beside its modules: one that is also a module's would hide that module."""
    for node in tree.body:
        names = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.ImportFrom) and absolute(path, node.module or "", node.level) != package_of(path):
            names = [alias.asname or alias.name for alias in node.names]
        yield from (f"line {node.lineno}: {name} bears the name of a module" for name in names if name in MODULES)


def offences(path: str, source: str, solver_names: frozenset[str] = frozenset()) -> list[str]:
    """What a file of fastsolve/ does against the law, in the order of its reading."""
    room = room_of(path)
    if room is None:
        return [f"{path} has no row in the law: which room is it?"]
    tree, found = ast.parse(source), []
    if (lines := len(source.splitlines())) > MAX_LINES:
        found.append(f"{lines} lines, more than {MAX_LINES}: split it by idea")
    if room == "kernels" and path.endswith("__init__.py"):
        found.append("an __init__.py in kernels/ shadows the package `kernels` of others")
    found += import_offences(path, tree, LAW[room])
    found += environment_offences(tree)
    if room == "__init__":
        found += root_offences(tree)
    if room == "kernels":
        known = (pair for node in ast.walk(tree) for pair in identifiers(node) if pair[1] in NOISE_LEVELS)
        found += [f"line {line}: a kernel sees a noise level ({name})" for line, name in known]
    if room.startswith("executors"):
        known = (
            pair for pair in words(tree) if pair[1] in solver_names - {"fastsolve"}
        )  # which is the house's name, too
        found += [f"line {line}: an executor sees a solver's name ({name})" for line, name in known]
    if path.endswith("__init__.py"):
        found += shadow_offences(path, tree)
    return found


@cache
def registered() -> frozenset[str]:
    """Names of the `@solver("name", ...)` decorators."""
    found = set()
    for path, file in SOURCES.items():
        if path.startswith("solvers/"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                match node:
                    case ast.Call(func=ast.Name("solver"), args=[ast.Constant(str(name)), *_]):
                        found.add(name)
    return frozenset(found)


@pytest.mark.parametrize("path", SOURCES)
def test_file_keeps_the_law(path: str) -> None:
    found = offences(path, SOURCES[path].read_text("utf-8"), registered())
    assert not found, "\n".join([f"fastsolve/{path}", *found])


@pytest.mark.parametrize("path", NATIVE)
def test_native_file_keeps_the_law(path: str) -> None:
    found = native_offences(NATIVE[path].read_text("utf-8"))
    assert not found, "\n".join([path, *found])


def native_offences(source: str) -> list[str]:
    found = [f"includes {header}" for header in re.findall(r'#\s*include\s*[<"]((?:torch|ATen|c10)/[^>"]*)', source)]
    if (lines := len(source.splitlines())) > MAX_LINES:
        found.append(f"{lines} lines, more than {MAX_LINES}: split it by idea")
    return found


def test_every_row_has_a_file() -> None:
    assert set(LAW) - {room_of(path) for path in SOURCES} == NOT_BUILT_YET


def test_registered_names_are_read_from_the_sources() -> None:
    import fastsolve

    assert registered() == set(fastsolve.list_solvers())


# The law can fail: each source breaks it once, and says so.
OFFENDERS = {
    "no row": ("utils.py", "", "has no row"),
    "no row for a folder": ("common/maths.py", "", "has no row"),
    "a solver sees a tensor": ("solvers/x.py", "import torch", "line 1: imports torch"),
    "in a function": ("solvers/x.py", "def f():\n    from torch import Tensor", "line 2: imports torch"),
    "under TYPE_CHECKING": ("plan.py", "if TYPE_CHECKING:\n    import torch", "line 2: imports torch"),
    "in a branch": ("forms.py", "try:\n    pass\nexcept ValueError:\n    import triton", "line 4: imports triton"),
    "by name": ("grids.py", "import importlib\nimportlib.import_module('torch.nn')", "line 2: imports torch"),
    "by a computed name": ("lower.py", "def f(n):\n    return __import__(n)", "line 2: imports by a computed name"),
    "a room, absolute": ("lower.py", "import fastsolve.schedules", "line 1: imports schedules"),
    "a room, from the root": ("lower.py", "from fastsolve import schedules", "line 1: imports schedules"),
    "a room, relative": ("solvers/x.py", "from ..executors.eager import run", "line 1: imports executors"),
    "a room, by dots": ("solvers/x.py", "from .. import plan", "line 1: imports plan"),
    "a room, by dotted name": ("forms.py", "import_module('.plan', __package__)", "line 1: imports plan"),
    "the package root": ("draft.py", "from fastsolve import sample", "line 1: imports __init__"),
    "a kernel knows the house": ("kernels/x.py", "from fastsolve.plan import Plan", "line 1: imports plan"),
    "a kernel knows a noise level": ("kernels/x.py", "def f(x, sigma): ...", "a kernel sees a noise level (sigma)"),
    "a kernel reads a noise level": ("kernels/x.py", "def f(x): return x.alpha", "a kernel sees a noise level (alpha)"),
    "kernels is a package": ("kernels/__init__.py", "", "an __init__.py in kernels/"),
    "an executor knows solvers": ("executors/x.py", "from ..solvers import find", "line 1: imports solvers"),
    "an executor names a solver": ("executors/x.py", "if name == 'seeds9': pass", "sees a solver's name (seeds9)"),
    "an executor tells of a solver": ("executors/x.py", '"""Fast for seeds9."""', "sees a solver's name (seeds9)"),
    "an executor calls a solver": ("executors/x.py", "seeds9 = 1", "sees a solver's name (seeds9)"),
    "a foreign library": ("adapters/x.py", "import diffusers", "line 1: imports diffusers at module level"),
    "a foreign class body": ("adapters/x.py", "class A:\n    import tqdm", "line 2: imports tqdm at module level"),
    "the environment": ("api.py", "import os\nos.environ['X']", "line 2: reads the environment (environ)"),
    "the environment, in a function": ("cli/x.py", "def f():\n    os.getenv('X')", "line 2: reads the environment"),
    "the environment, imported": ("kernels/x.py", "from os import environ", "reads the environment (environ)"),
    "logic in the root": ("__init__.py", "from . import api as api\nif True: pass", "line 2: more than `X as X`"),
    "a bare import in the root": ("__init__.py", "from .api import sample", "line 1: more than `X as X`"),
    "a function in the root": ("__init__.py", "def __getattr__(name): ...", "line 1: more than `X as X`"),
    "a function like a folder": ("__init__.py", "from .api import solvers as solvers", "bears the name of a module"),
    "a function like a module": ("executors/__init__.py", "def lower(): ...", "bears the name of a module"),
    "a long file": ("forms.py", "x = 1\n" * 251, "251 lines, more than 250"),
}


@pytest.mark.parametrize(("path", "source", "offence"), OFFENDERS.values(), ids=OFFENDERS)
def test_law_can_fail(path: str, source: str, offence: str) -> None:
    found = offences(path, source, frozenset({"seeds9"}))
    assert len(found) == 1, found
    assert offence in found[0]


LAWFUL = {
    "a lazy foreign import": ("adapters/x.py", "def f():\n    import diffusers"),
    "a foreign type": ("adapters/x.py", "if TYPE_CHECKING:\n    from diffusers import DDIMScheduler"),
    "a kernel beside a kernel": ("kernels/x.py", "import triton\nfrom .philox import draw"),
    "a helper of another solver": ("solvers/x.py", "import numpy\nfrom .seeds import stage\nfrom ..forms import Form"),
    "discovery": ("solvers/__init__.py", "import pkgutil\nimport_module(f'.{name}', __name__)"),
    "everything": ("api.py", "from .executors import eager\nfrom .solvers import find\nimport torch"),
    "a root": ("__init__.py", '"""Doc."""\nfrom . import grids as grids\n__version__ = "1"\n__all__ = ["grids"]'),
    "a root, absolute": ("__init__.py", "from fastsolve import grids as grids, models as models"),
    "an executor's own words": ("executors/x.py", '"""Runs a program: 9 seeds."""\nfrom .. import _C'),
}


@pytest.mark.parametrize(("path", "source"), LAWFUL.values(), ids=LAWFUL)
def test_law_lets_pass(path: str, source: str) -> None:
    assert offences(path, source, frozenset({"seeds9"})) == []


def test_law_reads_native_sources() -> None:
    assert native_offences("#include <torch/extension.h>\n") == ["includes torch/extension.h"]
    assert native_offences('#include "ATen/ATen.h"\n' + "\n" * 250) == [
        "includes ATen/ATen.h",
        "251 lines, more than 250: split it by idea",
    ]
    assert native_offences("#include <cstdint>\n") == []
