"""The packaged digits model: a trained class-conditional U-Net as a Denoiser, ready for `fastsolve.sample(digits())`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from fastsolve import schedules
from fastsolve.denoiser import Denoiser
from fastsolve.models.digits_data import SIGMA_DATA
from fastsolve.models.digits_net import DigitsNet
from fastsolve.predictions import EDM
from fastsolve.schedules import Schedule

WEIGHTS = Path(__file__).with_name("digits.safetensors")
EARLY = Path(__file__).with_name("digits_early.safetensors")
SHAPE = (1, 8, 8)
NFE = 36
LOUDEST = 80.0  # sigma / alpha; pure noise, of a schedule that has it, the network is told to be this


def digits(device: str | torch.device = "cpu", schedule: str | Schedule | None = None) -> Denoiser:
    """The trained model. It takes `class_labels`, int64 [B]: 0..9, or 10 for any digit, which is also what none at all means.

    schedule: another law of the states, such as "vp", whose levels the network is then asked at: it knows sigma / alpha only. None is
    its own, EDM.
    """
    return _denoiser(WEIGHTS, device, schedule)


def digits_early(device: str | torch.device = "cpu", schedule: str | Schedule | None = None) -> Denoiser:
    """The same network with errors, on purpose: after 600 steps of training in place of 9000. Its arguments are those of `digits`.

    `python -m fastsolve.models.train_digits --steps 600 --out digits_early.safetensors` made it, seed 0, on one thread.
    """
    return _denoiser(EARLY, device, schedule)


def _denoiser(weights: Path, device: str | torch.device, schedule: str | Schedule | None) -> Denoiser:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError("the weights of the digits model need safetensors: pip install fastsolve[models]") from error
    net = DigitsNet()
    net.load_state_dict(load_file(weights))  # stored in float16; copying into the parameters widens it
    net.eval().requires_grad_(False).to(device)
    law = schedules.EDM(sigma_data=SIGMA_DATA) if schedule is None else schedules.get(schedule)
    return Denoiser(
        net if schedule is None else _Elsewhere(net, law),
        schedule=law,
        prediction=EDM(sigma_data=SIGMA_DATA, scaled_input=True),
        shape=SHAPE,
        dtype=torch.float32,
        device=device,
        nfe=NFE,
        null={"class_labels": None},
    )


class _Elsewhere(torch.nn.Module):
    """The network, asked in the clock of another schedule. Its input is scaled to the variance of data 1 in every one alike."""

    def __init__(self, net: DigitsNet, law: Schedule) -> None:
        super().__init__()
        self.net, self.law = net, law

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        values = t.double().tolist()
        told = {v: min(math.exp(-self.law.node(v).lam), LOUDEST) for v in set(values)}
        raw: Tensor = self.net(x, torch.tensor([told[v] for v in values], device=x.device), class_labels)
        return raw
