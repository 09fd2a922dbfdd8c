"""A compact class-conditional U-Net for 8x8 digits, giving the raw network F of EDM (Karras et al. 2022, arXiv 2206.00364, eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_CLASSES = 10
NULL_CLASS = 10
AUGMENT = 6
EMBED = 128


class Block(nn.Module):
    """A residual block; the noise level and the class scale and shift its second normalisation."""

    def __init__(self, c_in: int, c_out: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(EMBED, 2 * c_out)
        self.norm2 = nn.GroupNorm(8, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        # Every block starts as its own shortcut, so the depth costs nothing early in a short training.
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(self.dropout(F.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))))
        out: Tensor = self.skip(x) + h
        return out


class Attention(nn.Module):
    """Residual self-attention over the 16 cells of the coarse level."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 3, self.heads, -1, x[0, 0].numel()).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        out: Tensor = x + self.out(mixed)
        return out


class DigitsNet(nn.Module):
    """F(c_in x; sigma, class): two levels, 8x8 and 4x4, attention at 4x4. Most weights sit at 4x4, where a weight costs least."""

    frequencies: Tensor

    def __init__(self, fine: int = 32, coarse: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        # c_noise = log(sigma)/4 spans about [-1.6, 1.1]; these wavelengths run from 13 to 0.4 of its units.
        self.register_buffer("frequencies", 0.5 * 2.0 ** torch.linspace(0, 5, 16), persistent=False)
        self.embed_noise = nn.Linear(32, EMBED)
        self.embed_class = nn.Embedding(N_CLASSES + 1, EMBED)
        self.embed_augment = nn.Linear(AUGMENT, EMBED, bias=False)
        self.embed_mix = nn.Linear(EMBED, EMBED)
        self.enter = nn.Conv2d(1, fine, 3, padding=1)
        # The digits are centred and scaled in their frame, so where a pixel lies is worth knowing.
        self.place = nn.Parameter(torch.zeros(1, fine, 8, 8))
        self.down1 = Block(fine, fine, dropout)
        self.shrink = nn.Conv2d(fine, coarse, 2, stride=2)
        self.down2 = Block(coarse, coarse, dropout)
        self.middle1 = Block(coarse, coarse, dropout)
        self.attention = Attention(coarse)
        self.middle2 = Block(coarse, coarse, dropout)
        self.up2 = Block(2 * coarse, coarse, dropout)
        self.grow = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.up1 = Block(2 * fine, fine, dropout)
        self.norm = nn.GroupNorm(8, fine)
        self.leave = nn.Conv2d(fine, 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(
        self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """x: [B, 1, 8, 8], already scaled by c_in; sigma: [B], in data units; class_labels: [B], 0..9, or 10 for no class.

        augmentation: [B, 6], how a training image was distorted; the network knows it, so that undistorted digits come out.
        """
        if class_labels is None:
            class_labels = torch.full((len(x),), NULL_CLASS, device=x.device)
        phase = (sigma.log() / 4)[:, None] * self.frequencies
        embedding = self.embed_noise(torch.cat([phase.cos(), phase.sin()], dim=1)) + self.embed_class(class_labels)
        if augmentation is not None:
            embedding = embedding + self.embed_augment(augmentation)
        embedding = F.silu(self.embed_mix(F.silu(embedding)))
        fine = self.down1(self.enter(x) + self.place, embedding)
        coarse = self.down2(self.shrink(fine), embedding)
        h = self.middle2(self.attention(self.middle1(coarse, embedding)), embedding)
        h = self.grow(self.up2(torch.cat([h, coarse], dim=1), embedding))
        h = self.up1(torch.cat([h, fine], dim=1), embedding)
        raw: Tensor = self.leave(F.silu(self.norm(h)))
        return raw
