"""The packaged digits model: a trained class-conditional U-Net as a Denoiser, ready for `fastsolve.sample(digits())`."""

from __future__ import annotations

from pathlib import Path

import torch

from fastsolve import schedules
from fastsolve.denoiser import Denoiser
from fastsolve.models.digits_data import SIGMA_DATA
from fastsolve.models.digits_net import DigitsNet
from fastsolve.predictions import EDM

WEIGHTS = Path(__file__).with_name("digits.safetensors")
SHAPE = (1, 8, 8)
NFE = 36


def digits(device: str | torch.device = "cpu") -> Denoiser:
    """The trained model. It takes `class_labels`, int64 [B]: 0..9, or 10 for any digit, which is also what none at all means."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError("the weights of the digits model need safetensors: pip install fastsolve[models]") from error
    net = DigitsNet()
    net.load_state_dict(load_file(WEIGHTS))  # stored in float16; copying into the parameters widens it
    net.eval().requires_grad_(False).to(device)
    return Denoiser(
        net,
        schedule=schedules.EDM(sigma_data=SIGMA_DATA),
        prediction=EDM(sigma_data=SIGMA_DATA, scaled_input=True),
        shape=SHAPE,
        dtype=torch.float32,
        device=device,
        nfe=NFE,
        null={"class_labels": None},
    )
