"""Host time of whole runs through a sampling function: `python -m benchmarks.adapters_k [--comfyui PATH]`, about a minute, one thread.

Ours, k-diffusion's and ComfyUI's function of the same name, with the same model and levels, in one process and in turns; see `peers` for
what those libraries need here. x has 512 elements, so that hardly anything computes. "outside of the model" is a run of 12 steps less
the model's own calls and the making of the levels, per model call. A pair is measured after their results agreed without noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.measure import Report, quantiles
from benchmarks.peers import STEPS, AbsentError, Peer
from fastsolve import make_plan
from fastsolve.adapters.k_diffusion import sampler_function
from fastsolve.grids import Karras

SHAPE = (2, 4, 8, 8)
# By which options ours is theirs, where a published error or another default has to be asked for.
THEIRS: dict[str, dict[str, object]] = {
    "lms": {"compat": "official"},
    "er_sde": {"compat": "official"},
}
NEAR = 2e-5  # of float32 runs whose coefficients are float32 there, relative to the largest value


def model(x: Tensor, sigma: Tensor) -> Tensor:
    return x * 0.5


def levels() -> Tensor:
    """As k-diffusion makes them; `peers` does the same in each run."""
    ramp = torch.linspace(0, 1, STEPS)
    low, high = 0.03 ** (1 / 7), 14.6 ** (1 / 7)
    return torch.cat([(high + ramp * (low - high)) ** 7, torch.zeros(1)])


def ours(method: str, **more: object) -> Callable[[Tensor], Tensor]:
    function = sampler_function(method, **THEIRS.get(method, {}))

    def run(x: Tensor) -> Tensor:
        return function(
            lambda x, sigma, **kw: model(x, sigma), x, levels(), extra_args={"seed": 1}, disable=True, **more
        )

    return run


def away(peer: Peer, x: Tensor) -> float:
    """Relative distance of the results, both without noise."""
    zero = mock.patch("torch.randn", lambda *size, **kw: torch.zeros(tuple(size[0]) if len(size) == 1 else size))
    with zero, mock.patch("torch.randn_like", torch.zeros_like):
        theirs = peer.run(model, x)
    mine = ours(peer.method, noise_sampler=lambda s, t: torch.zeros(SHAPE))(x)
    return float((mine - theirs).abs().max() / theirs.abs().max())


def measure(report: Report, peer: Peer, x: Tensor) -> None:
    run = ours(peer.method)
    calls = make_plan(peer.solver, schedule="ve", grid=Karras(sigma_min=0.03, sigma_max=14.6), steps=STEPS).nfe
    sigma = torch.full((len(x),), 1.0)

    def bare() -> None:
        levels()
        for _ in range(calls):
            model(x, sigma)

    label = f"{peer.library} {peer.method}"
    slow = peer.method.startswith(("dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde"))
    providers = [("fastsolve", lambda: run(x)), (peer.library, lambda: peer.run(model, x)), ("model", bare)]
    times = quantiles(providers, 21, 2 if slow else 10)
    rest = times.pop("model")[1]
    report.add(f"{label}, run", times)
    shares = {name: [(t - rest) / calls for t in ts] for name, ts in times.items()}
    report.add(f"{label}, per call", shares, "thread time outside of the model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report, x = Report("adapters_k"), 14.6 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for library in (peers.k_diffusion, lambda: peers.comfyui(args.comfyui)):
            try:
                found = library()
            except AbsentError as error:
                print(f"not measured: {error}")
                continue
            for peer in found:
                if (distance := away(peer, x)) > NEAR:
                    print(f"{peer.library} {peer.method}: not measured, the results are {distance:.2g} apart")
                else:
                    measure(report, peer, x)
    report.write()


if __name__ == "__main__":
    main()
