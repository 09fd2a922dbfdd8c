"""scikit-learn's digits: 1797 real 8x8 images (UCI optical recognition of handwritten digits), scaled from 0..16 to [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

# Standard deviation of all scaled pixels: 0.7521 (their mean is -0.389).
SIGMA_DATA = 0.75
HELD_OUT = 297
SPLIT_SEED = 0


def real_digits() -> tuple[Tensor, Tensor]:
    """Images, float32 [1797, 1, 8, 8] in [-1, 1], and labels, int64 [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the real digits come with scikit-learn: pip install fastsolve[demo]") from error
    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return images, torch.as_tensor(data.target, dtype=torch.int64)


def split_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels (1500), held-out images and labels (297): seeded, every class in its share."""
    images, labels = real_digits()
    from sklearn.model_selection import train_test_split

    kept, held = train_test_split(
        range(len(labels)), test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=labels.numpy()
    )
    return images[kept], labels[kept], images[held], labels[held]
