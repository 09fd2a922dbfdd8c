"""Any shape: actions, audio, video, numbers; each sample the same whatever its batch, on every executor of the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import EXECUTORS
from fastsolve import Denoiser

SHAPES = {
    "actions [B, T, D]": (3, 6, 7),
    "audio [B, C, T]": (3, 2, 33),
    "video [B, C, F, H, W]": (3, 2, 3, 4, 5),
    "scalars [B]": (3,),
    "[B, 1]": (3, 1),
}
SOLVERS = {"stochastic": "seeds3", "multistep": "unipc", "multi-stage": "heun"}
SEEDS = (5, -1, 2**63 + 7)


def model(x: Tensor, t: Tensor) -> Tensor:
    """Products and sums, rounded alike everywhere; it sees the level, per sample."""
    if t.shape != x.shape[:1]:
        raise AssertionError(f"one level per sample is needed, not {tuple(t.shape)} for {tuple(x.shape)}")
    return x * 0.625 - 0.25 * t.view(-1, *[1] * (x.dim() - 1))


def run(name: str, kind: str, executor: str, samples: slice = slice(None)) -> Tensor:
    shape = (len(SEEDS[samples]), *SHAPES[name][1:])
    denoiser = Denoiser(model, "vp", "eps", dtype=torch.float32)
    return fastsolve.sample(denoiser, shape, solver=SOLVERS[kind], steps=3, seed=SEEDS[samples], executor=executor)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize("name", SHAPES)
def test_any_shape_and_no_sample_depends_on_its_batch(name: str, kind: str, executor: str) -> None:
    whole = run(name, kind, executor)
    assert whole.shape == SHAPES[name]
    assert whole.isfinite().all()
    assert whole[0].ne(whole[1]).all()
    for i in range(3):
        assert_bits_equal(run(name, kind, executor, slice(i, i + 1)), whole[i : i + 1])
    assert_bits_equal(whole, run(name, kind, "eager"))


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Of the fused executor in Triton's interpreter, which is chosen once for a process."""
    pytest.importorskip("triton")
    path = tmp_path_factory.mktemp("shapes") / "results.npz"
    search = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, __file__, path],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize("name", SHAPES)
def test_fused_has_the_bits_of_eager_in_any_shape(name: str, kind: str, interpreted: dict[str, np.ndarray]) -> None:
    assert_bits_equal(interpreted[f"{name} {kind}"], run(name, kind, "eager"))
    if kind == "stochastic":
        assert_bits_equal(interpreted[f"{name} alone"], run(name, kind, "eager", slice(1, 2)))


if __name__ == "__main__":
    runs = {f"{name} {kind}": run(name, kind, "fused").numpy() for name in SHAPES for kind in SOLVERS}
    runs |= {f"{name} alone": run(name, "stochastic", "fused", slice(1, 2)).numpy() for name in SHAPES}
    np.savez(sys.argv[1], **runs)
