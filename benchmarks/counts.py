"""What a device is told between two calls of a model, ours beside other libraries: `python -m benchmarks.counts`, two minutes.

Counted on an emulated device (tests/emulated.py says how, and what makes it a lower bound), per model call of the steps in the
middle: launches, copies from host to device, waits of the host, operators on host tensors, and bytes that launches read and write, in
float32 tensors of the state ("passes"). Every sampler's result there is compared with its result on the CPU. `--comfyui PATH` takes a
checkout; what is not installed is left out, with the reason.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the emulated device is the tests'

import torch
from torch import Tensor

import emulated
import fastsolve
from benchmarks import peers
from benchmarks.measure import save
from benchmarks.peers import STEPS, Model, Peer

SHAPE = (1, 4, 16, 16)
LATENT = 4 * math.prod(SHAPE)  # bytes of a pass
COLUMNS = ("launches", "uploads", "waits", "host", "passes")


def model(x: Tensor, t: Tensor) -> Tensor:
    """Any function will do; products and sums give the same bits everywhere."""
    return x * 0.625 - 0.25


def ours(solver: str, like: str) -> Peer:
    """A solver of ours on the schedule, and with the prediction, that a library's samplers have."""
    schedule, prediction = ("vp_scaled_linear", "eps") if like == "diffusers" else ("edm", "x0")
    if solver.startswith("flow"):
        schedule, prediction = "flow", "flow"

    def run(model: Model, x: Tensor) -> Tensor:
        denoiser = fastsolve.Denoiser(model, schedule, prediction, device=x.device, dtype=x.dtype)
        executor = "fused" if x.device == emulated.DEVICE else "auto"
        return fastsolve.sample(denoiser, SHAPE, solver=solver, steps=STEPS, executor=executor)

    return Peer("fastsolve", f"{solver} ({prediction})", solver, fastsolve.solvers.get(solver).stages, run)


def gaps(peer: Peer, dtype: torch.dtype) -> list[emulated.Gap]:
    """The ledger of a run with a model in `dtype`; raises AssertionError where the CPU computes something else."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)
    torch.manual_seed(0)
    plain = peer.run(model, x)
    torch.manual_seed(0)
    with emulated.counting() as ledger:
        counted = peer.run(ledger.watched(model), emulated.Emulated(x))
    assert torch.equal(counted.host, plain), f"{peer.method}: the emulated device computes something else"
    return ledger.gaps


def per_call(found: Sequence[emulated.Gap], calls: int) -> dict[str, float]:
    """Means over the whole steps in the middle: from the fourth to the last but one."""
    middle = found[3 * calls + 1 : -calls - 1]
    middle = middle[: len(middle) // calls * calls]
    totals: dict[str, float] = {name: sum(sum(getattr(gap, name).values()) for gap in middle) for name in COLUMNS[:-1]}
    totals["passes"] = sum(gap.moved for gap in middle) / LATENT
    return {name: total / len(middle) for name, total in totals.items()}


def row(peer: Peer) -> dict[str, object]:
    """Counts of a sampler, printed. A model in bfloat16 is tried where the library, and not its caller, casts for it."""
    found = per_call(gaps(peer, torch.float32), peer.calls)
    half: float | None = None
    if peer.library in ("fastsolve", "diffusers"):
        half = per_call(gaps(peer, torch.bfloat16), peer.calls)["launches"]
    figures = "".join(f"{found[name]:9.1f}" for name in COLUMNS) + (" " * 9 if half is None else f"{half:9.1f}")
    print(f"{peer.solver:18s} {peer.library:12s} {peer.method:26s} {figures}", flush=True)
    return {"solver": peer.solver, "library": peer.library, "method": peer.method, **found, "launches, bfloat16": half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="diffusers|torchsde")
    found: list[Peer] = []
    left_out = {}
    for library, load in (
        ("diffusers", peers.diffusers),
        ("k-diffusion", peers.k_diffusion),
        ("ComfyUI", lambda: peers.comfyui(arguments.comfyui)),
    ):
        try:
            found += load()
        except peers.AbsentError as absent:
            left_out[library] = str(absent)
    print(f"{'solver':18s} {'library':12s} {'method':26s} " + "".join(f"{name:>9s}" for name in (*COLUMNS, "bfloat16")))
    rows = []
    with torch.no_grad():
        for solver in fastsolve.list_solvers():
            theirs = [peer for peer in found if peer.solver == solver]
            likes = {"diffusers" if peer.library == "diffusers" else "others": None for peer in theirs}
            if not likes:
                likes = {"diffusers" if solver == "ddpm" else "others": None}  # ddpm takes no edm schedule
            rows += [row(peer) for peer in (*(ours(solver, like) for like in likes), *theirs)]
    for library, reason in left_out.items():
        print(f"{library} was not counted: {reason}")
    if left_out:
        print("so nothing is saved")
    else:
        save("counts", rows)


if __name__ == "__main__":
    main()
