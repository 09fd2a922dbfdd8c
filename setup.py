"""The native build, through ninja. Metadata stands in pyproject.toml. FASTSOLVE_NATIVE=0 leaves the native part out."""

import os
import platform
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


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(self.rules(target))
        try:
            subprocess.run([sys.executable, "-m", "ninja", "-C", str(folder)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                "fastsolve: the native build failed (see the compiler's message above). A C++17 compiler is needed; "
                "set FASTSOLVE_NATIVE=0 to install without the native part."
            ) from error

    def rules(self, target: Path) -> str:
        import pybind11

        flags = [f"-isystem {path(p)}" for p in (pybind11.get_include(), sysconfig.get_path("include"))]
        units = [(s, s, "") for s in SOURCES if s != "kernels"]
        units += [(f"kernels_{isa}", "kernels", f"-DFASTSOLVE_ISA={isa} {extra}") for isa, extra in ISAS.items()]
        link = "-shared -pthread" + (" -undefined dynamic_lookup" if sys.platform == "darwin" else "")
        lines = [
            f"cxx = {os.environ.get('CXX', 'c++')}",
            "rule compile",
            f"  command = $cxx {CFLAGS} {' '.join(flags)} $extra -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = $cxx {link} $in -o $out",
        ]
        for name, source, extra in units:
            lines += [f"build {name}.o: compile {path(Path('csrc', source + '.cpp').resolve())}", f"  extra = {extra}"]
        lines += [f"build {path(target)}: link " + " ".join(f"{name}.o" for name, _, _ in units)]
        return "\n".join(lines) + "\n"


def path(p: str | Path) -> str:
    return str(p).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


packages = find_namespace_packages(include=["fastsolve", "fastsolve.*"])
package_dir = {"": "."}
if not Path("fastsolve/kernels").is_dir():  # a clone without symlinks
    packages.append("fastsolve.kernels")
    package_dir["fastsolve.kernels"] = "kernels"

extension = Extension(
    "fastsolve._C",
    [f"csrc/{name}.cpp" for name in SOURCES],
    depends=sorted(str(header) for header in Path("csrc").glob("*.h")),
)

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={"fastsolve": ["py.typed", "_C.pyi", "models/*.safetensors"]},
    ext_modules=[] if os.environ.get("FASTSOLVE_NATIVE") == "0" else [extension],
    cmdclass={"build_ext": NinjaBuild},
)
