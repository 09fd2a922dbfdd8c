"""The native build, through ninja. Metadata stands in pyproject.toml.

Where nvcc is found, CUDA kernels are built too. FASTSOLVE_CUDA=0 leaves them out, FASTSOLVE_NATIVE=0 everything native.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

CFLAGS = "-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fPIC -fvisibility=hidden"
# csrc/kernels.cpp is compiled once for each; csrc/isa.cpp chooses at run time.
ISAS = {"portable": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = "-DFASTSOLVE_AVX2 -mavx2 -mf16c"
    ISAS["avx512"] = "-DFASTSOLVE_AVX512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mf16c"
SOURCES = ["binding", "isa", "kernels", "pool", "program", "text"]

NVCC_FLAGS = "-std=c++17 -O3 --fmad=false -Xcompiler=-fPIC,-fvisibility=hidden"
GPUS = (80, 90, 100)  # of these, machine code for those that nvcc knows, and PTX of the newest for what comes after
CUDA_SOURCES = ["text", "cuda/binding", "cuda/order", "cuda/program"]
CUDA_KERNELS = ["cuda/float32", "cuda/launch", "cuda/mixed"]


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        cuda = ext.name.endswith("._cuda")
        folder = Path(self.build_temp, ext.name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (folder / "build.ninja").write_text(cuda_rules(target) if cuda else native_rules(target))
            subprocess.run([sys.executable, "-m", "ninja", "-C", str(folder)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(CUDA_FAILED if cuda else NATIVE_FAILED) from error


NATIVE_FAILED = (
    "fastsolve: the native build failed (see the compiler's message above). A C++17 compiler is needed; "
    "set FASTSOLVE_NATIVE=0 to install without the native part."
)
CUDA_FAILED = (
    "fastsolve: the build of the CUDA kernels failed (see the message of nvcc above). Set FASTSOLVE_CUDA=0 to install "
    "without them. If nvcc says that the host compiler is too new, CXX=g++-13, say, names an older one."
)


def native_rules(target: Path) -> str:
    units = [(s, f"{s}.cpp", "") for s in SOURCES if s != "kernels"]
    units += [(f"kernels_{isa}", "kernels.cpp", f"-DFASTSOLVE_ISA={isa} {extra}") for isa, extra in ISAS.items()]
    link = "-shared -pthread" + (" -undefined dynamic_lookup" if sys.platform == "darwin" else "")
    return rules([("compile", unit) for unit in units], f"$cxx {link} $in -o $out", target)


def cuda_rules(target: Path) -> str:
    units = [("compile", (s, f"{s}.cpp", "")) for s in CUDA_SOURCES]
    units += [("device", (s, f"{s}.cu", gpu_flags())) for s in CUDA_KERNELS]
    return rules(units, f"{nvcc_command()} -shared -nodlink -cudart static $in -o $out", target)


def rules(units: list[tuple[str, tuple[str, str, str]]], link: str, target: Path) -> str:
    import pybind11

    flags = [f"-isystem {path(p)}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
    lines = [
        f"cxx = {os.environ.get('CXX', 'c++')}",
        "rule compile",
        f"  command = $cxx {CFLAGS} {' '.join(flags)} $extra -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule device",
        f"  command = {nvcc_command()} {NVCC_FLAGS} $extra -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {link}",
    ]
    for rule, (name, source, extra) in units:
        lines += [f"build {name}.o: {rule} {path(Path('csrc', source).resolve())}", f"  extra = {extra}"]
    lines += [f"build {path(target)}: link " + " ".join(f"{name}.o" for _, (name, _, _) in units)]
    return "\n".join(lines) + "\n"


def find_nvcc() -> str | None:
    """That of CUDA_HOME, or else the first on PATH."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=str(Path(home, "bin")) if home else None)


def nvcc_command() -> str:
    host = os.environ.get("CXX")
    given = f" -ccbin {path(host)}" if host and shutil.which(host) else ""  # not one behind a launcher
    return path(find_nvcc() or "nvcc") + given


def gpu_flags() -> str:
    known = subprocess.run(
        [find_nvcc() or "nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout
    gpus = [gpu for gpu in GPUS if re.search(rf"^compute_{gpu}$", known, re.MULTILINE)] or [GPUS[0]]
    codes = [f"-gencode arch=compute_{gpu},code=sm_{gpu}" for gpu in gpus]
    return " ".join([*codes, f"-gencode arch=compute_{gpus[-1]},code=compute_{gpus[-1]}"])


def path(p: str | Path) -> str:
    return str(p).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


packages = find_namespace_packages(include=["fastsolve", "fastsolve.*"])
package_dir = {"": "."}
if not Path("fastsolve/kernels").is_dir():  # a clone without symlinks
    packages.append("fastsolve.kernels")
    package_dir["fastsolve.kernels"] = "kernels"

headers = sorted(str(file) for file in Path("csrc").rglob("*.*h"))
extensions = []
if os.environ.get("FASTSOLVE_NATIVE") != "0":
    extensions.append(Extension("fastsolve._C", [f"csrc/{name}.cpp" for name in SOURCES], depends=headers))
    if os.environ.get("FASTSOLVE_CUDA") != "0" and find_nvcc():
        sources = [f"csrc/{name}.cpp" for name in CUDA_SOURCES] + [f"csrc/{name}.cu" for name in CUDA_KERNELS]
        extensions.append(Extension("fastsolve._cuda", sources, depends=headers))

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={"fastsolve": ["py.typed", "_C.pyi", "_cuda.pyi", "recommended.json", "models/*.safetensors"]},
    ext_modules=extensions,
    cmdclass={"build_ext": NinjaBuild},
)
