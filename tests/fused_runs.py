"""Runs whose bits must not depend on the executor. As a script: `fused_runs.py DEVICE PATH` saves those of the fused executor.

Triton chooses its interpreter once for a process, so the interpreted kernels run in one of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

import fastsolve
from catalogue import SOLVERS
from fastsolve import Denoiser

SEEDS = (5, -1, 2**63 + 7)

# name: solver, shape, options, dtype of the model, prediction
RUNS: dict[str, tuple[str, tuple[int, ...], Mapping[str, object], torch.dtype | None, str]] = {
    **{f"{name} default": (name, (2, 37), {}, None, "v") for name in SOLVERS},
    "seeds3 image": ("seeds3", (3, 3, 5, 3), {"eta": 0.5, "s_churn": 2.0}, None, "eps"),
    "seeds3 blocks": ("seeds3", (1, 1003), {}, None, "x0"),
    "seeds2 bfloat16": ("seeds2", (3, 48), {"form": "noise"}, torch.bfloat16, "eps"),
    "dpmpp_2m_sde float16": ("dpmpp_2m_sde", (2, 63), {}, torch.float16, "edm"),
    "heun batch of scalars": ("heun", (3,), {"s_churn": 3.0}, None, "x0"),
}


def model(x: Tensor, t: Tensor) -> Tensor:
    """Products and sums only, each rounded alike on every device."""
    return x * 0.625 - 0.25


def run(name: str, executor: str, device: str = "cpu") -> Tensor:
    """The result of a run."""
    solver, shape, options, dtype, prediction = RUNS[name]
    denoiser = Denoiser(model, "edm", prediction, device=device, dtype=dtype)
    return fastsolve.sample(
        denoiser, shape, solver=solver, steps=3, seed=SEEDS[: shape[0]], options=options, executor=executor
    )


if __name__ == "__main__":
    np.savez(sys.argv[2], **{name: run(name, "fused", sys.argv[1]).cpu().numpy() for name in RUNS})
