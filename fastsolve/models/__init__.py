"""Small networks that come with the package: `fastsolve.models.digits()` is a trained denoiser of handwritten digits.

`digits_early()` is the same, hardly trained: a network with errors, to compare samplers on.
"""

from fastsolve.models.digits_data import (
    SIGMA_DATA as SIGMA_DATA,
    real_digits as real_digits,
    split_digits as split_digits,
)
from fastsolve.models.digits_model import (
    EARLY as EARLY,
    WEIGHTS as WEIGHTS,
    digits as digits,
    digits_early as digits_early,
)
from fastsolve.models.digits_net import NULL_CLASS as NULL_CLASS
