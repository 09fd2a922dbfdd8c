"""The command line: `fastsolve demo` draws digits and measures them, `fastsolve solvers` lists, `fastsolve plan` prints equations."""

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
from fastsolve.models import digits, split_digits

SOLVERS = ("ddim", "heun", "dpmpp_2m", "seeds1", "seeds2", "seeds3")
BUDGETS = (12, 24, 48)
DIRECTIONS = 256


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
    bar: tqdm = tqdm(unit="call")

    def counted(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        bar.update()
        return shipped(x, t, class_labels=class_labels)

    model = dataclasses.replace(shipped, model=counted)
    samplers = [
        fastsolve.Sampler(model, (args.samples, 1, 8, 8), solver=name, nfe=nfe, executor=args.executor)
        for name in args.solvers
        for nfe in args.nfe
    ]
    _, _, held_out, _ = split_digits()
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numeric = [
        all(cell.replace(".", "", 1).isdigit() or not cell for cell in column) for column in zip(*rows, strict=True)
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def draw(runs: Sequence[Run], seed: int, out: Path) -> None:
    """One panel per solver, one row per budget, one column per class."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(run.solver for run in runs))
    deep = len(runs) // len(names)
    wide = min(2, len(names))
    high = -(-len(names) // wide)
    size = (5.8 * wide, (0.41 * deep + 0.3) * high + 0.6)
    figure, axes = plt.subplots(high, wide, figsize=size, squeeze=False)
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
    figure.savefig(out, dpi=150)
    plt.close(figure)


def demo(args: argparse.Namespace) -> None:
    try:
        import matplotlib as matplotlib
        import tqdm as tqdm
    except ImportError as error:
        raise ImportError(f"the demo draws with matplotlib and tqdm ({error}): pip install fastsolve[demo]") from error
    if not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out}: there is no folder {args.out.parent}")
    runs = measure(args)
    rows = [
        (r.solver, f"{r.nfe}", f"{r.launches}", f"{r.ms:.0f}", f"{r.ms / args.samples:.2f}", f"{r.distance:.4f}")
        for r in runs
    ]
    rows.append(("real digits", "", "", "", "", f"{floor(args.samples):.4f}"))
    print(table(("solver", "NFE", "launches", "ms/batch", "ms/sample", "distance"), rows))
    print(
        f"\ndistance: sliced 2-Wasserstein, {DIRECTIONS} fixed directions, from {args.samples} digits to 297 real ones that the\n"
        "model never saw. Last row: real training digits, as many, averaged over 8 choices: a perfect model's floor.\n"
        "Milliseconds include the model."
    )
    draw(runs, args.seed, args.out)
    print(f"picture: {args.out}")


def list_solvers(_: argparse.Namespace) -> None:
    rows = []
    for name in fastsolve.list_solvers():
        facts = fastsolve.solvers.get(name)
        rows.append((name, f"{facts.order}", f"{facts.stages}", "yes" if facts.stochastic else "no", facts.source))
    print(table(("solver", "order", "stages", "stochastic", "source"), rows))


def print_plan(args: argparse.Namespace) -> None:
    plan = fastsolve.make_plan(
        args.solver, schedule=args.schedule, grid=args.grid, steps=args.steps, prediction=args.prediction
    )
    print(plan)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="fastsolve", description="Diffusion samplers, compiled to one kernel launch per model call."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("demo", help="draw digits with several solvers and budgets, and measure them")
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
    command.set_defaults(act=demo)
    command = commands.add_parser("solvers", help="list the solvers")
    command.set_defaults(act=list_solvers)
    command = commands.add_parser("plan", help="print a solver's plan as equations")
    command.add_argument("solver")
    command.add_argument("--schedule", default="edm", help="default: %(default)s")
    command.add_argument("--grid", default=None)
    command.add_argument("--steps", type=positive, default=4, help="default: %(default)s")
    command.add_argument("--prediction", default="x0", help="default: %(default)s")
    command.set_defaults(act=print_plan)
    return top


def main(argv: Sequence[str] | None = None) -> None:
    command = parser()
    args = command.parse_args(argv)
    try:
        args.act(args)
    except (ValueError, TypeError, ImportError, OSError) as error:
        command.error(str(error))


if __name__ == "__main__":
    main()
