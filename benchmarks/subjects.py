"""The models that `sample` runs: one that does nothing, one that takes as long as it is told to, digits, and two of known size.

Three laws. "edm": model(x, sigma) gives the denoised x. "vp": model(x, t) gives eps, t an index into a table of 1000 levels.
"flow": model(x, t) gives the velocity noise - data.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_clock import Place, call_time
from benchmarks.networks import DiT, UNet
from fastsolve import Denoiser, schedules

Net = Callable[[Tensor, Tensor], Tensor]
SIGMA_DATA = 0.5
SIGMAS = (80.0, 0.002)
ALPHAS_CUMPROD = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000, dtype=np.float32))


@functools.cache
def schedule(law: str) -> schedules.Schedule:
    """fastsolve's schedule of a law."""
    return schedules.VPTable(tuple(ALPHAS_CUMPROD.astype(np.float64).tolist())) if law == "vp" else schedules.get(law)


PREDICTIONS = {"edm": "x0", "vp": "eps", "flow": "flow"}


@dataclass(frozen=True)
class Subject:
    """shape: of a sample. net: the model as its owner calls it, in `dtype`; a whole Denoiser if it has conventions of its own.

    costs: whether it takes time by itself.
    """

    name: str
    shape: tuple[int, ...]
    net: Net | Denoiser
    dtype: torch.dtype = torch.float32
    costs: bool = True

    def denoiser(self, law: str, device: torch.device) -> Denoiser:
        """What fastsolve samples from."""
        if isinstance(self.net, Denoiser):
            return self.net
        return Denoiser(self.net, schedule(law), PREDICTIONS[law], device=device, dtype=self.dtype)

    def in_float(self) -> Net:
        """What loops with a float32 state call; a Denoiser, in EDM's form, becomes the function of x and sigma that its paper calls D."""
        net = self.net
        if isinstance(net, Denoiser):
            data = net.schedule.sigma_data  # type: ignore[union-attr]

            def preconditioned(x: Tensor, sigma: Tensor) -> Tensor:
                s = sigma[:, None, None, None]
                root = (s**2 + data**2).sqrt()
                return (data / root) ** 2 * x + (s * data / root) * net(x / root, sigma)

            return preconditioned
        if self.dtype == torch.float32:
            return net
        return lambda x, t: net(x.to(self.dtype), t).float()


def empty(shape: tuple[int, ...], batch: int, where: Place) -> Subject:
    """Hands out one of four tensors in turn, all with the same numbers: multistep samplers hold up to three."""
    full = torch.randn(batch, *shape, device=where.device)
    turn = itertools.cycle([full.clone() for _ in range(4)])
    return Subject("empty model", shape, lambda x, t: next(turn), costs=False)


def spinning(us: float, shape: tuple[int, ...], batch: int, where: Place) -> Subject:
    """Occupies the GPU, or in a rehearsal the host, for `us` microseconds, and hands out what `empty` does."""
    idle = empty(shape, batch, where).net
    if where.dry:
        return Subject(f"{us:g} us model", shape, idle)
    where.settle(0.1)
    torch.cuda._sleep(10**6)
    times = [call_time(where, lambda n=n: torch.cuda._sleep(n)) for n in (10**6, 5 * 10**6) for _ in range(3)]
    cycles = int(us * 4 * 10**6 / (min(times[3:]) - min(times[:3])))

    def net(x: Tensor, t: Tensor) -> Tensor:
        torch.cuda._sleep(cycles)
        return idle(x, t)

    return Subject(f"{us:g} us model", shape, net)


def digits(where: Place) -> Subject:
    """The packaged network."""
    import fastsolve

    return Subject("digits", (1, 8, 8), fastsolve.models.digits(where.device))


def network(name: str, dtype: torch.dtype, where: Place) -> Subject:
    """ "DiT-S/2" or "U-Net", with random weights; tiny in a rehearsal."""
    torch.manual_seed(0)
    if name == "DiT-S/2":
        made, shape = (DiT(32, 1, 2, 4, 8), (4, 8, 8)) if where.dry else (DiT(), (4, 32, 32))
    else:
        made, shape = (UNet(8, (1, 2), 1), (3, 8, 8)) if where.dry else (UNet(), (3, 32, 32))
    return Subject(name, shape, made.eval().requires_grad_(False).to(where.device, dtype), dtype)


def gaussian(law: str, shape: tuple[int, ...], where: Place) -> Subject:
    """The exact model of normal data with deviation 1/2, for comparing what providers compute."""
    table = torch.from_numpy(ALPHAS_CUMPROD).to(where.device)
    variance = SIGMA_DATA**2

    def net(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, *[1] * (x.dim() - 1))
        if law == "edm":
            return x * (variance / (variance + t * t))
        if law == "vp":
            square = table[t.long()]
            return x * ((1.0 - square).sqrt() / (square * variance + 1.0 - square))
        return x * ((t - (1.0 - t) * variance) / ((1.0 - t) ** 2 * variance + t * t))

    return Subject(f"Gaussian, {law}", shape, net)
