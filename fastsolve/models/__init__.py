"""Small networks that come with the package: `fastsolve.models.digits()` is a trained denoiser of handwritten digits."""

from fastsolve.models.digits_data import (
    SIGMA_DATA as SIGMA_DATA,
    real_digits as real_digits,
    split_digits as split_digits,
)
from fastsolve.models.digits_model import WEIGHTS as WEIGHTS, digits as digits
from fastsolve.models.digits_net import NULL_CLASS as NULL_CLASS
