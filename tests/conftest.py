"""What every test runs under: unwritten memory is NaN, GPU tests say why they do not run, kernels are interpreted
where there is no GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

import shim

# The tensors of the tests are small: more threads would only wait for each other, and those of other processes of pytest-xdist too,
# which makes a small network fifty times slower.
torch.set_num_threads(max(1, min(4, torch.get_num_threads()) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined

ALLOCATORS = ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch.Tensor, "new_empty"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch.cuda finds no GPU"))


@pytest.fixture(scope="session")
def shimmed(tmp_path_factory: pytest.TempPathFactory) -> shim.Shimmed:
    """The CUDA kernels on a CPU, compiled once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return shim.build((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shim")


@pytest.fixture(autouse=True, scope="session")
def poison() -> Iterator[None]:
    """Fills what the package allocates and has not written yet, so that an output left unwritten cannot hide."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ALLOCATORS:
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocate_poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        out = allocate(*args, **kwargs)
        if sys._getframe(1).f_globals.get("__name__", "").split(".")[0] != "fastsolve" or out.dtype is torch.bool:
            return out
        worst = float("nan") if out.is_floating_point() or out.is_complex() else torch.iinfo(out.dtype).max
        return out.fill_(worst)

    return allocate_poisoned
