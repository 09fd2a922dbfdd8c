"""What is shipped, what an import drags in, and which versions are pinned."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import fastsolve

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ["pyproject.toml", "setup.py", "MANIFEST.in", "constraints.txt", "Makefile", "README*", "LICENSE*", "NOTICE*"]
FOLDERS = ["csrc", "docs", "kernels", "fastsolve", "tests"]
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")


def run_python(code: str, *arguments: object, cwd: Path = ROOT, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_tree(to: Path, symlinks: bool) -> Path:
    """The sources as a checkout has them; without symlinks a link is a text file, as git leaves it on some systems."""
    to.mkdir()
    for pattern in INPUTS:
        for file in ROOT.glob(pattern):
            shutil.copy(file, to)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, to / folder, symlinks=True, ignore=BUILT)
    link = to / "fastsolve/kernels"
    if link.is_symlink() and not symlinks:
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    return to


def build_sdist(tree: Path, to: Path) -> Path:
    """The backend itself, as a front end calls it, with no build environment and so with no network."""
    to.mkdir()
    run_python("import sys; from setuptools import build_meta as b; b.build_sdist(sys.argv[1])", to, cwd=tree)
    (sdist,) = to.glob("*.tar.gz")
    return sdist


def build_wheel(tree: Path, to: Path) -> set[str]:
    """The names in the wheel of the tree, built without the native module: what it holds beside is the question."""
    to.mkdir()
    code = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    run_python(code, to, cwd=tree, FASTSOLVE_NATIVE="0")
    (wheel,) = to.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def sources(folder: str, *suffixes: str) -> set[str]:
    """Paths of a folder's files, from the root; a link inside is not followed."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(ROOT).as_posix() for file in files if not suffixes or file.suffix in suffixes}


def package_files() -> set[str]:
    """What every wheel must hold: the package's own files, and the kernels as fastsolve/kernels."""
    return sources("fastsolve", ".py", ".pyi", ".typed", ".safetensors") | {
        f"fastsolve/kernels/{path.name}" for path in (ROOT / "fastsolve/kernels").glob("*.py")
    }


@pytest.mark.parametrize("symlinks", [True, False], ids=["symlink", "no symlink"])
def test_sdist_and_its_wheel_are_complete(tmp_path: Path, symlinks: bool) -> None:
    tree = copy_of_the_tree(tmp_path / "tree", symlinks)
    with tarfile.open(build_sdist(tree, tmp_path / "sdist")) as archive:
        (top,) = {name.split("/")[0] for name in archive.getnames()}
        # "data" refuses links that leave the archive: what is shipped must be files.
        archive.extractall(tmp_path / "unpacked", filter="data")
    unpacked = tmp_path / "unpacked" / top
    shipped = {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*") if file.is_file()}
    assert sources("csrc") | {"setup.py", "pyproject.toml", "constraints.txt"} <= shipped
    # Where there is no link, setup.py maps the folder, and the sdist holds the kernels where they are.
    assert package_files() <= {re.sub("^kernels/", "fastsolve/kernels/", name) for name in shipped}
    assert not {name for name in shipped if name.endswith((".so", ".pyc"))}

    wheel = build_wheel(unpacked, tmp_path / "wheel")
    assert package_files() <= wheel
    strangers = {name for name in wheel if not name.startswith(("fastsolve/", "fastsolve-"))}
    assert not strangers, "a wheel that installs more than fastsolve"


EXTENSIONS = """
import sys
import setuptools
from distutils.core import run_setup
distribution = run_setup("setup.py", stop_after="init")
modules = distribution.ext_modules
"""


def nvcc_that_fails(folder: Path) -> Path:
    """A CUDA_HOME whose compiler refuses, as nvcc does beside a host compiler that it does not know."""
    nvcc = folder / "bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho unsupported GNU version >&2\nexit 1\n")
    nvcc.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("environment", "built"),
    [
        ({}, "fastsolve._C fastsolve._cuda"),
        ({"FASTSOLVE_CUDA": "0"}, "fastsolve._C"),
        ({"FASTSOLVE_NATIVE": "0"}, ""),
        ({"CUDA_HOME": "/nowhere"}, "fastsolve._C"),
    ],
    ids=["nvcc", "CUDA off", "native off", "no nvcc"],
)
def test_nvcc_and_two_switches_decide_what_is_built(tmp_path: Path, environment: dict[str, str], built: str) -> None:
    given = {"CUDA_HOME": str(nvcc_that_fails(tmp_path)), "FASTSOLVE_CUDA": "1", "FASTSOLVE_NATIVE": "1", **environment}
    assert run_python(EXTENSIONS + "print(*(m.name for m in modules))", **given).strip() == built


def test_a_failing_nvcc_names_the_way_out(tmp_path: Path) -> None:
    code = """
distribution.ext_modules = [m for m in modules if m.name == "fastsolve._cuda"]
command = distribution.get_command_obj("build_ext")
command.build_temp = command.build_lib = sys.argv[1]
command.ensure_finalized()
try:
    command.run()
except RuntimeError as error:
    print(error)
"""
    given = {"CUDA_HOME": str(nvcc_that_fails(tmp_path)), "FASTSOLVE_CUDA": "1", "FASTSOLVE_NATIVE": "1"}
    said = run_python(EXTENSIONS + code, tmp_path, **given)
    assert "Set FASTSOLVE_CUDA=0 to install without them" in said
    assert "CXX=g++-13" in said


def test_kernels_link_is_relative() -> None:
    link = ROOT / "fastsolve/kernels"
    if link.is_symlink():
        assert os.readlink(link) == "../kernels"
    assert not (ROOT / "kernels/__init__.py").exists()


def test_import_is_light() -> None:
    """After torch, `import fastsolve` brings in no compiler, no plots, no data sets."""
    code = "import sys, torch; before = set(sys.modules); import fastsolve; print(*(set(sys.modules) - before))"
    brought = {name.split(".")[0] for name in run_python(code).split()}
    assert "fastsolve" in brought
    assert not brought & {"triton", "matplotlib", "sklearn", "tqdm", "safetensors", "scipy", "diffusers", "setuptools"}


def test_every_requirement_is_pinned_once() -> None:
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from Python 3.11 on")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = settings["project"]
    groups = [project["dependencies"], settings["build-system"]["requires"], *project["optional-dependencies"].values()]
    needed = {name_of(requirement) for group in groups for requirement in group} - {"fastsolve"}
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line.strip()]
    pinned = [name_of(line) for line in lines if not line.startswith("#")]
    assert sorted(pinned) == sorted(needed)


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match, requirement
    return match[0].lower().replace("_", "-")


def test_command_is_where_the_metadata_says() -> None:
    (command,) = entry_points(group="console_scripts", name="fastsolve")
    assert callable(command.load())


def test_version_is_one() -> None:
    assert fastsolve.__version__ == version("fastsolve")
