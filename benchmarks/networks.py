"""Networks of known sizes with random weights, for timing: a diffusion transformer like DiT-S/2 and a small U-Net."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Clock(nn.Module):
    """[B] levels to [B, width]: 128 cosines and sines, and two layers."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(128) / 128))
        self.layers = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        phase = t[:, None].float() * self.frequencies.float()
        out: Tensor = self.layers(torch.cat([phase.cos(), phase.sin()], 1).to(self.layers[0].weight.dtype))
        return out


class DiTBlock(nn.Module):
    """Attention and a fourfold MLP, both scaled, shifted and gated by the level (Peebles & Xie 2022, arXiv 2212.09748, adaLN)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(level)[:, None].chunk(6, -1)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        x = x + gate * self.mixed(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale_mlp) + shift_mlp
        out: Tensor = x + gate_mlp * self.mlp(h)
        return out


class DiT(nn.Module):
    """DiT-S/2 without its classes by default: 12 blocks of width 384 on 256 patches of 2x2 of a latent [B, 4, 32, 32]; 33 M parameters."""

    def __init__(self, width: int = 384, depth: int = 12, heads: int = 6, channels: int = 4, side: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 2, stride=2)
        self.place = nn.Parameter(0.02 * torch.randn(1, (side // 2) ** 2, width))
        self.clock = Clock(width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.modulation, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, 4 * channels)
        self.channels, self.side = channels, side

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: [B, channels, side, side]; t: [B]."""
        level = F.silu(self.clock(t))
        h = self.enter(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            h = block(h, level)
        shift, scale = self.modulation(level)[:, None].chunk(2, -1)
        h = self.leave(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        grid = h.unflatten(1, (self.side // 2, self.side // 2)).unflatten(-1, (2, 2, self.channels))
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class UNetBlock(nn.Module):
    """A residual block with the level added between its convolutions, and attention if asked for."""

    def __init__(self, c_in: int, c_out: int, width: int, attends: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.level = nn.Linear(width, c_out)
        self.norm2, self.conv2 = nn.GroupNorm(8, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.norm3 = nn.GroupNorm(8, c_out) if attends else None
        self.qkv, self.mixed = (nn.Conv2d(c_out, n * c_out, 1) if attends else nn.Identity() for n in (3, 1))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.level(level)[:, :, None, None]
        x = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        if self.norm3 is None:
            return x
        q, k, v = self.qkv(self.norm3(x)).flatten(2).unflatten(1, (3, 1, -1)).transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        out: Tensor = x + self.mixed(mixed.reshape(x.shape))
        return out


class UNet(nn.Module):
    """DDPM's layout for images of 32x32 (Ho et al. 2020, arXiv 2006.11239), 4 levels, attention at 16x16; 19 M parameters by default."""

    def __init__(
        self, width: int = 96, factors: tuple[int, ...] = (1, 2, 2, 2), deep: int = 2, channels: int = 3
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in factors]
        self.clock = Clock(4 * width)
        self.enter, held = nn.Conv2d(channels, width, 3, padding=1), [width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        here = width
        for level, c in enumerate(widths):
            for _ in range(deep):
                self.down.append(UNetBlock(here, c, 4 * width, level == 1))
                here = c
                held.append(c)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                held.append(c)
        self.middle = UNetBlock(here, here, 4 * width, True)
        for level, c in reversed(list(enumerate(widths))):
            for _ in range(deep + 1):
                self.up.append(UNetBlock(here + held.pop(), c, 4 * width, level == 1))
                here = c
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(c, c, 3, padding=1)))
        self.norm, self.leave = nn.GroupNorm(8, here), nn.Conv2d(here, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: [B, channels, H, W] with sides that halve as often as there are levels but one; t: [B]."""
        level = F.silu(self.clock(t))
        h = self.enter(x)
        held = [h]
        for part in self.down:
            h = part(h, level) if isinstance(part, UNetBlock) else part(h)
            held.append(h)
        h = self.middle(h, level)
        for part in self.up:
            h = part(torch.cat([h, held.pop()], 1), level) if isinstance(part, UNetBlock) else part(h)
        out: Tensor = self.leave(F.silu(self.norm(h)))
        return out
