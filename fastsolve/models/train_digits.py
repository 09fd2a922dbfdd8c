"""Train the packaged digits model: `python -m fastsolve.models.train_digits`; seeded, about fifteen minutes on one CPU core.

The loss is EDM's (Karras et al. 2022, arXiv 2206.00364, eq. 8): with its weighting it is the plain squared error of F. The weights
written are an exponential moving average, stored in float16: half the bytes, and a rounding far below the held-out loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sklearn
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fastsolve.models.digits_data import SIGMA_DATA, split_digits
from fastsolve.models.digits_net import NULL_CLASS, DigitsNet

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# log(sigma) is normal with these moments: centred a little above EDM's -1.2, since eight by eight pixels lose their class sooner.
LOG_MEAN, LOG_STD = -0.7, 1.4
CLASS_DROPOUT = 0.12
EMA_DECAY = 0.999


def squared_error(
    net: DigitsNet, clean: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor, augmentation: Tensor | None = None
) -> Tensor:
    """EDM's weighted loss per image, [B]: F = 0 gives about 1."""
    s = sigma[:, None, None, None]
    total = (s**2 + SIGMA_DATA**2).sqrt()
    noisy = clean + s * noise
    target = (clean - (SIGMA_DATA / total) ** 2 * noisy) * total / (s * SIGMA_DATA)
    raw: Tensor = net(noisy / total, sigma, labels, augmentation)
    loss: Tensor = (raw - target).square().mean(dim=(1, 2, 3))
    return loss


@torch.no_grad()
def losses_per_level(net: DigitsNet, images: Tensor, labels: Tensor, repeats: int = 8) -> dict[float, float]:
    """The loss at each of LEVELS, `repeats` fixed noises per image, with the class given."""
    net.eval()
    generator = torch.Generator().manual_seed(1)
    clean, labels = images.repeat(repeats, 1, 1, 1), labels.repeat(repeats)
    noise = torch.randn(clean.shape, generator=generator)
    return {s: squared_error(net, clean, torch.full((len(clean),), s), noise, labels).mean().item() for s in LEVELS}


def sigmas(batch: int, generator: torch.Generator) -> Tensor:
    """One level from each of `batch` equally likely slices: every batch sees all levels, so the gradient is quieter."""
    quantile = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    normal: Tensor = torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4))
    return (LOG_MEAN + LOG_STD * normal).exp()


def distort(images: Tensor, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random affine map of each image, and its six numbers; every fourth image, roughly, stays as it is, with six zeros.

    1500 images are few: without this, the held-out loss rises after 2000 steps at sigma 0.1 to 0.3.
    """
    how = torch.randn(len(images), 2, 3, generator=generator)
    how = how * (torch.rand(len(images), 1, 1, generator=generator) < 0.75)
    identity = torch.eye(2, 3)
    # In the frame's own units (its half width is 1): shifts of about half a pixel, turns and stretches of about 0.1.
    grid = functional.affine_grid(identity + strength * how, list(images.shape), align_corners=False)
    # The sampler pads with 0, and ink of value -1 is the empty background.
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1, how.flatten(1)


def train(
    steps: int, batch: int, rate: float, dropout: float, distortion: float, seed: int, report: int
) -> tuple[DigitsNet, dict[float, float]]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels, held_images, held_labels = split_digits()
    net = DigitsNet(dropout=dropout).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = DigitsNet()
    average.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    warm = max(1, steps // 50)
    decline = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps - warm)
    rise = torch.optim.lr_scheduler.LinearLR(optimiser, 1 / warm, total_iters=warm)
    rates = torch.optim.lr_scheduler.SequentialLR(optimiser, [rise, decline], [warm])
    held: dict[float, float] = {}
    bar = tqdm(range(1, steps + 1), desc="digits", mininterval=5)
    for step in bar:
        net.train()
        chosen = torch.randint(len(images), (batch,), generator=generator)
        nobody = torch.rand(batch, generator=generator) < CLASS_DROPOUT
        named = torch.where(nobody, NULL_CLASS, labels[chosen])
        noise = torch.randn(batch, 1, 8, 8, generator=generator)
        clean, how = distort(images[chosen], distortion, generator)
        loss = squared_error(net, clean, sigmas(batch, generator), noise, named, how).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rates.step()
        with torch.no_grad():
            weight = 1 - min(EMA_DECAY, step / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), weight)
        if step % report == 0 or step == steps:
            seen = losses_per_level(average, images[: len(held_images)], labels[: len(held_labels)])
            held = losses_per_level(average, held_images, held_labels)
            tqdm.write(f"{step:6d}  held out " + "  ".join(f"{s:g}: {value:.4f}" for s, value in held.items()))
            tqdm.write(f"{'':6s}  training " + "  ".join(f"{s:g}: {value:.4f}" for s, value in seen.items()))
    return average, held


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the packaged digits model.")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--distortion", type=float, default=0.1, help="of the random affine maps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="two save a quarter of the time, if both are free")
    parser.add_argument("--report", type=int, default=1000, help="steps between two lines of held-out losses")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("digits.safetensors"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net, held = train(args.steps, args.batch, args.rate, args.dropout, args.distortion, args.seed, args.report)
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in net.state_dict().items()}
    metadata = {
        "data": "scikit-learn load_digits, 1500 training images",
        "sigma_data": f"{SIGMA_DATA}",
        "steps": f"{args.steps}",
        "batch": f"{args.batch}",
        "rate": f"{args.rate}",
        "dropout": f"{args.dropout}",
        "distortion": f"{args.distortion}",
        "seed": f"{args.seed}",
        "torch": torch.__version__,
        "scikit_learn": sklearn.__version__,
        "held_out_loss": " ".join(f"{s:g}:{value:.4f}" for s, value in held.items()),
    }
    save_file(weights, args.out, metadata)
    print(f"{args.out.name}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
