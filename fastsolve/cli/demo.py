"""`fastsolve demo`: digits by several solvers and budgets, drawn and measured."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import fastsolve
from fastsolve.cli.text import positive, table
from fastsolve.models import digits, split_digits

SOLVERS = ("ddim", "heun", "dpmpp_2m", "seeds1", "seeds2", "seeds3")
BUDGETS = (12, 24, 48)
DIRECTIONS = 256


_EXAMPLES = """\
examples:
  fastsolve demo
  fastsolve demo --solvers euler unipc seeds3 --nfe 6 10 20 --samples 500 --out digits.png
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "demo",
        help="draw digits with several solvers and budgets, and measure them",
        description="Digits of the packaged model by several solvers and budgets: a picture, and how far each is from real digits. "
        "Needs fastsolve[demo].",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture (default: %(default)s)")
    command.add_argument(
        "--solvers", nargs="+", default=list(SOLVERS), metavar="NAME", help=f"default: {' '.join(SOLVERS)}"
    )
    command.add_argument(
        "--nfe", nargs="+", type=positive, default=list(BUDGETS), metavar="N", help="budgets of model calls"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--samples", type=positive, default=200, help="digits per run; ten of them are drawn (default: %(default)s)"
    )
    command.add_argument("--executor", default="auto", help="default: %(default)s")
    command.set_defaults(run=run)


@dataclass(frozen=True)
class Run:
    """One solver at one budget. ms: of the whole batch, model calls included."""

    solver: str
    nfe: int
    launches: int
    ms: float
    images: Tensor
    distance: float


def distance(images: Tensor, reference: Tensor) -> float:
    """Sliced 2-Wasserstein distance of two sets of images, [B, 1, 8, 8], in units of a pixel's value (black to white is 2).

    The same fixed random unit directions every time; in each one the distance of two sets of numbers compares equal quantiles.
    """
    directions = torch.randn(reference[0].numel(), DIRECTIONS, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=0)
    quantiles = (torch.arange(min(len(images), len(reference))) + 0.5) / min(len(images), len(reference))
    ours, theirs = (torch.quantile(x.flatten(1) @ directions, quantiles, dim=0) for x in (images, reference))
    return (ours - theirs).square().mean().sqrt().item()


def floor(samples: int) -> float:
    """What as many real training digits reach on average: the distance of a perfect sampler of a perfect model."""
    train, _, held_out, _ = split_digits()
    generator = torch.Generator().manual_seed(0)
    drawn = [train[torch.randperm(len(train), generator=generator)[:samples]] for _ in range(8)]
    return sum(distance(images, held_out) for images in drawn) / len(drawn)


def measure(args: argparse.Namespace) -> list[Run]:
    """All runs of the demo."""
    from tqdm import tqdm

    shipped = digits()

    def counted(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        bar.update()
        return shipped(x, t, class_labels=class_labels)

    model = dataclasses.replace(shipped, model=counted)
    samplers = [
        fastsolve.Sampler(model, (args.samples, 1, 8, 8), solver=name, nfe=nfe, executor=args.executor)
        for name in dict.fromkeys(args.solvers)
        for nfe in dict.fromkeys(args.nfe)
    ]
    _, _, held_out, _ = split_digits()
    bar: tqdm = tqdm(unit="call", disable=None)  # on a terminal only
    labels = {"class_labels": torch.arange(args.samples) % 10}
    samplers[0](seed=args.seed, model_kwargs=labels)  # the first calls of a process pay for caches and threads
    runs = []
    bar.reset(total=sum(sampler.plan.nfe for sampler in samplers))
    with bar:
        for sampler in samplers:
            plan = sampler.plan
            bar.set_description(f"{plan.solver:12s}")
            start = time.perf_counter()
            images = sampler(seed=args.seed, model_kwargs=labels)
            ms = 1e3 * (time.perf_counter() - start)
            runs.append(Run(plan.solver, plan.nfe, plan.launches, ms, images[:10], distance(images, held_out)))
    return runs


def draw(runs: Sequence[Run], seed: int, out: Path) -> None:
    """One panel per solver, one row per budget, one column per class."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.solver for run in runs))
    deep = len(runs) // len(names)
    wide = min(2, len(names))
    high = -(-len(names) // wide)
    size = (5.8 * wide, (0.41 * deep + 0.3) * high + 0.6)
    figure = Figure(figsize=size)
    axes = figure.subplots(high, wide, squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.07)
    figure.suptitle(f"Digits by class · seed {seed} · the same initial noise in every row", fontsize=13)
    for axis in axes.flat:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        mine = [run for run in runs if run.solver == name]
        # Tiles of 8x8 in cells of 9x9: the gap keeps neighbouring digits apart.
        sheet = torch.full((9 * deep + 1, 91), float("nan"))
        for i, run in enumerate(mine):
            for j, image in enumerate(run.images[:, 0]):
                sheet[9 * i + 1 : 9 * i + 9, 9 * j + 1 : 9 * j + 9] = image
        axis.axis("on")
        axis.imshow(sheet.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_xticks([9 * j + 4.5 for j in range(10)], [str(j) for j in range(10)])
        axis.set_yticks([9 * i + 4.5 for i in range(deep)], [f"{name} · {run.nfe} NFE" for run in mine])
        axis.xaxis.tick_top()
        axis.tick_params(length=0, labelsize=10, pad=3)
        axis.spines[:].set_visible(False)
    fastsolve.pictures.save(figure, out, dpi=150)


def run(args: argparse.Namespace) -> str:
    try:
        import matplotlib as matplotlib
        import tqdm as tqdm
    except ImportError as error:
        raise ImportError(f"the demo draws with matplotlib and tqdm ({error}): pip install fastsolve[demo]") from error
    fastsolve.pictures.savable(args.out)  # before minutes of sampling
    runs = measure(args)
    rows = [
        (r.solver, f"{r.nfe}", f"{r.launches}", f"{r.ms:.0f}", f"{r.ms / args.samples:.2f}", f"{r.distance:.4f}")
        for r in runs
    ]
    rows.append(("real digits", "", "", "", "", f"{floor(args.samples):.4f}"))
    draw(runs, args.seed, args.out)
    return (
        f"{table(('solver', 'NFE', 'launches', 'ms/batch', 'ms/sample', 'distance'), rows)}\n\n"
        f"distance: sliced 2-Wasserstein, {DIRECTIONS} fixed directions, from {args.samples} digits to 297 real ones that the\n"
        "model never saw. Last row: real training digits, as many, averaged over 8 choices: a perfect model's floor.\n"
        f"Milliseconds include the model.\npicture: {args.out}"
    )
