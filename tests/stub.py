"""A stub driver in the place of libcuda: launches arrive, are counted, and do nothing. What is left of a launch is the host's own work.

Triton takes it for an sm_90. It can only be put in before anything has loaded a driver, and for good: use it in a process of its own,
one that does not interpret kernels.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("stub_driver.c")


class Stub:
    """Builds the driver in a folder that outlives the process's launches, and loads it. Raises OSError without a C compiler."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise OSError("there is no C compiler to build the stub driver with")
        self.library = folder / "libcuda.so.1"
        flags = ["-O2", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        subprocess.run([compiler, *flags, SOURCE, "-o", self.library], check=True)
        self._loaded = ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)
        # What Triton builds against it must not be found by a later process with a driver.
        os.environ |= {"TRITON_LIBCUDA_PATH": str(folder), "TRITON_CACHE_DIR": str(folder / "cache")}
        torch._C._cuda_getCurrentRawStream = lambda device: 0  # type: ignore[attr-defined]

        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia.driver import CudaDriver
        from triton.runtime import driver

        # torch.cuda would ask the driver for more than the stub has.
        active = CudaDriver()
        active.get_current_target = lambda: GPUTarget("cuda", 90, 32)
        active.get_current_device = lambda: 0
        active.set_current_device = lambda device: None
        active.get_device_capability = lambda device=0: (9, 0)
        active.get_current_stream = lambda device=0: 0
        driver.set_active(active)

    @property
    def launches(self) -> int:
        """Kernels launched so far."""
        return ctypes.c_long.in_dll(self._loaded, "launches").value

    @property
    def modules(self) -> int:
        """Modules loaded so far: a module is a compiled variant of a kernel."""
        return ctypes.c_long.in_dll(self._loaded, "modules").value
