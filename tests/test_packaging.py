"""What is shipped, what an import drags in, and which versions are pinned."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

import fastsolve

ROOT = Path(__file__).resolve().parent.parent
INPUTS = [
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "constraints.txt",
    "Makefile",
    "mkdocs.yml",
    "*.md",
    "CITATION.cff",
    "LICENSE",
]
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


def build_wheel(tree: Path, to: Path, native: bool) -> Path:
    """The wheel of the tree; without the native module where what it holds beside is the question."""
    to.mkdir()
    code = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    run_python(code, to, cwd=tree, FASTSOLVE_NATIVE=str(int(native)), FASTSOLVE_CUDA="0")
    (wheel,) = to.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def sources(folder: str, *suffixes: str) -> set[str]:
    """Paths of a folder's files, from the root; a link inside is not followed."""
    files = (file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(ROOT).as_posix() for file in files if not suffixes or file.suffix in suffixes}


def package_files() -> set[str]:
    """What every wheel must hold: the package's own files, and the kernels as fastsolve/kernels."""
    return sources("fastsolve", ".py", ".pyi", ".typed", ".safetensors", ".json") | {
        f"fastsolve/kernels/{path.name}" for path in (ROOT / "fastsolve/kernels").glob("*.py")
    }


def made(base: Path, symlinks: bool, native: bool) -> tuple[set[str], Path]:
    """The names in the sdist of the tree, and the wheel that is made of that."""
    with tarfile.open(build_sdist(copy_of_the_tree(base / "tree", symlinks), base / "sdist")) as archive:
        (top,) = {name.split("/")[0] for name in archive.getnames()}
        # "data" refuses links that leave the archive: what is shipped must be files.
        archive.extractall(base / "unpacked", filter="data")
    unpacked = base / "unpacked" / top
    shipped = {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*") if file.is_file()}
    return shipped, build_wheel(unpacked, base / "wheel", native)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], Path]:
    """With the native module, unless whoever installed what is tested here did without a compiler."""
    native = importlib.util.find_spec("fastsolve._C") is not None
    return made(tmp_path_factory.mktemp("built"), symlinks=True, native=native)


@pytest.mark.parametrize("symlinks", [True, False], ids=["symlink", "no symlink"])
def test_sdist_and_its_wheel_are_complete(tmp_path: Path, symlinks: bool, request: pytest.FixtureRequest) -> None:
    shipped, file = request.getfixturevalue("built") if symlinks else made(tmp_path, symlinks=False, native=False)
    assert (
        sources("csrc") | sources("docs") | sources("tests") | {"setup.py", "pyproject.toml", "constraints.txt"}
        <= shipped
    )
    assert {"LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md", "README.md", "mkdocs.yml"} <= shipped
    # Where there is no link, setup.py maps the folder, and the sdist holds the kernels where they are.
    assert package_files() <= {re.sub("^kernels/", "fastsolve/kernels/", name) for name in shipped}
    assert not {name for name in shipped if name.endswith((".so", ".pyc"))}

    wheel = names_in(file)
    assert package_files() <= wheel
    assert {"fastsolve/py.typed", "fastsolve/adapters/__init__.py"} <= wheel
    (information,) = {name.split("/")[0] for name in wheel if name.startswith("fastsolve-")}
    assert f"{information}/licenses/LICENSE" in wheel
    with zipfile.ZipFile(file) as archive:
        said = archive.read(f"{information}/METADATA").decode()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(said.splitlines())
    strangers = {name for name in wheel if not name.startswith(("fastsolve/", f"{information}/"))}
    assert not strangers, "a wheel that installs more than fastsolve"
    assert not {name for name in wheel if name.endswith((".md", ".yml", ".cu", ".cpp", ".cff"))}, (
        "docs or sources in the wheel"
    )


@pytest.fixture(scope="module")
def elsewhere(built: tuple[set[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A virtual environment with the wheel in it, and an empty folder, both outside the tree.

    What the package needs is lent by the environment that runs the tests, through a path that comes after its own.
    """
    base = tmp_path_factory.mktemp("elsewhere")
    venv.create(base / "venv", with_pip=False)
    python = base / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    lent = Path(packages.strip(), "lent.pth")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", built[1]]
    subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    lent.write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    (base / "empty").mkdir()
    return python, base / "empty"


def run_elsewhere(elsewhere: tuple[Path, Path], *command: object) -> subprocess.CompletedProcess[str]:
    python, folder = elsewhere
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [python, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


OPTIONAL = """
    accelerate comfy diffusers huggingface_hub k_diffusion matplotlib mkdocs mypy ninja PIL pybind11 pytest safetensors scipy setuptools
    sklearn tqdm transformers triton
"""

SMOKE = """
import socket, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def no_network(*args, **kwargs):
    raise OSError("no network here")

sys.meta_path.insert(0, Without())
socket.socket.connect = socket.create_connection = no_network

import torch
import fastsolve

assert fastsolve.__file__.startswith(sys.prefix), fastsolve.__file__
for name in fastsolve.list_solvers():
    x = fastsolve.sample(lambda x, t: 0.5 * x, (2, 3, 5), solver=name, schedule="vp", prediction="eps", nfe=6, seed=1)
    assert x.shape == (2, 3, 5) and x.isfinite().all(), name
sampler = fastsolve.Sampler(lambda x, t: 0.5 * x, (2, 65), solver="seeds2", schedule="flow", prediction="flow", nfe=7)
reference = fastsolve.Sampler(lambda x, t: 0.5 * x, (2, 65), solver="seeds2", schedule="flow", prediction="flow", nfe=7, executor="eager")
assert torch.equal(sampler(seed=3), reference(seed=3))
plan = fastsolve.Plan.from_json(sampler.plan.to_json())
assert plan == sampler.plan and "fastsolve" in fastsolve.__file__
assert fastsolve.recommend(8).nfe == 8
try:
    fastsolve.models.digits()
except ImportError as error:
    print(error)
"""


def test_the_wheel_runs_outside_the_tree_without_anything_optional(elsewhere: tuple[Path, Path]) -> None:
    """Every solver, the fastest executor of the machine against eager; and what is missing is named."""
    done = run_elsewhere(elsewhere, "-c", SMOKE, OPTIONAL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pip install fastsolve[models]" in done.stdout


def test_core_tests_pass_outside_the_tree(elsewhere: tuple[Path, Path]) -> None:
    _, folder = elsewhere
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=BUILT)
    shutil.copy(ROOT / "pyproject.toml", folder)
    files = [f"tests/test_{name}.py" for name in ("forms", "plan", "predictions")]
    done = run_elsewhere(elsewhere, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) > 100


TYPED = """
import fastsolve

plan = fastsolve.make_plan("ddim", schedule="vp", steps=3)
reveal_type(plan.nfe)
fastsolve.make_plan("ddim", schedule="vp", stepz=3)
"""

# Ours alone: what the package imports, transformers and diffusers above all, takes mypy twenty times as long.
STRANGERS = """
[mypy]
follow_imports = skip
[mypy-torch.*,numpy.*]
follow_imports_for_stubs = true
[mypy-fastsolve.*]
follow_imports = normal
"""


def test_a_typed_program_sees_our_types(elsewhere: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy belongs to the dev extra")
    python, folder = elsewhere
    (tmp_path / "program.py").write_text(TYPED)
    (tmp_path / "mypy.ini").write_text(STRANGERS)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
        "--cache-dir",
        tmp_path / "cache",
    ]
    done = subprocess.run(
        [*command, "--config-file", tmp_path / "mypy.ini", tmp_path / "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if "program.py" in line]
    assert said[0] == 'note: Revealed type is "int"', done.stdout + done.stderr
    assert 'Unexpected keyword argument "stepz"' in said[1]
    assert len([line for line in said if line.startswith("error")]) == 1


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert hashlib.md5(text.encode()).hexdigest() == "3b83ef96387f14655fc854ddc3c6bd57", (
        "the text at apache.org, as it stands"
    )
    project = settings()["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])


def test_the_citation_is_of_this_package() -> None:
    """CFF 1.2.0: what it requires, for the work itself and for each paper."""
    yaml = pytest.importorskip("yaml", reason="a YAML parser comes with the docs extra")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["cff-version"], cited["title"], cited["license"]) == ("1.2.0", "fastsolve", "Apache-2.0")
    assert cited["version"] == fastsolve.__version__
    assert cited["authors"] == [{"name": settings()["project"]["authors"][0]["name"]}]
    papers = {paper["identifiers"][0]["value"].removeprefix("arXiv:"): paper for paper in cited["references"]}
    assert set(papers) == {"2305.14267", "2204.13902", "2306.14878", "2506.21757", "2304.11446"}
    for number, paper in papers.items():
        assert {"type", "title", "authors", "year"} <= set(paper)
        assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
        first = paper["authors"][0]["family-names"]
        sources = "".join(file.read_text("utf-8") for file in (ROOT / "fastsolve").rglob("*.py"))
        assert re.search(rf"{first}[^()]* \d{{4}}, arXiv {number}", sources), "the papers that the sources cite"


def test_the_change_log_has_this_version() -> None:
    assert f"\n## {fastsolve.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_tested_versions_are_the_pinned_ones() -> None:
    pinned = dict(re.findall(r"^(\w+)==([\w.]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    policy = (ROOT / "docs/versions.md").read_text("utf-8")
    tested = {
        name.split()[0].lower(): cell
        for name, cell in re.findall(r"^\| (\S[^|]*) \| [^|]+ or later \| ([\w.]+) \|$", policy, re.MULTILINE)
    }
    assert tested.pop("python") in {"3.11"}
    assert tested == {name: pinned[name] for name in tested}
    assert set(tested) == {"torch", "triton", "numpy", "diffusers"}


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


def settings() -> dict[str, Any]:
    """pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from Python 3.11 on")
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return found


def test_every_requirement_is_pinned_once() -> None:
    project, build = settings()["project"], settings()["build-system"]
    groups = [project["dependencies"], build["requires"], *project["optional-dependencies"].values()]
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
