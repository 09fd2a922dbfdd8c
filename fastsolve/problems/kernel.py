"""A data set as a law: its points, each blurred by the same small Gaussian. The network that has learnt a data set by heart."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsolve.models import real_digits
from fastsolve.problems.law import Problem


class Kernel(Problem):
    """Each of points [K, *shape] with the same weight, plus bandwidth times unit noise (data units, above 0).

    A `Mixture` for thousands of components: equal widths leave two products of matrices, [B, K] being the largest tensor.
    """

    def __init__(self, points: Tensor, bandwidth: float) -> None:
        if not bandwidth > 0.0:
            raise ValueError(f"bandwidth must be positive, not {bandwidth}: of points alone no denoiser is smooth")
        self.shape, self.bandwidth = tuple(points.shape[1:]), bandwidth
        self.points = points.double().flatten(1)
        self.squares = self.points.square().sum(1)

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        points, squares, var = self.points.to(x.device), self.squares.to(x.device), self.bandwidth**2
        flat, alpha, sigma = x.flatten(1), alpha.flatten(1), sigma.flatten(1)
        spread = alpha**2 * var + sigma**2
        # |x - alpha m|^2 without its |x|^2, which all points share.
        log_r = (alpha * (flat @ points.T) - 0.5 * alpha**2 * squares) / spread
        mean = log_r.softmax(1) @ points
        return (mean + alpha * var / spread * (flat - alpha * mean)).view_as(x)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(len(self.points), (n,), generator=generator)
        z = torch.randn(n, self.points.shape[1], generator=generator, dtype=torch.float64)
        return (self.points[which] + self.bandwidth * z).view(n, *self.shape)


def digits_kernel(bandwidth: float = 0.1) -> Kernel:
    """scikit-learn's 1797 digits, [1, 8, 8] in [-1, 1], blurred by `bandwidth` in every pixel; it needs scikit-learn.

    0.1 is well under the distance between neighbours (0.25 per pixel, median), so the law has about as many modes as images.
    """
    return Kernel(real_digits()[0], bandwidth)
