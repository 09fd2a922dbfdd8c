"""Which grid for which solver: `python -m benchmarks.grids` measures it on mixtures of Gaussians and writes docs/grids.md."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

import fastsolve
from fastsolve import Denoiser, grids, schedules
from fastsolve.grids import OTS, Grid, Karras, RBEAtan, Uniform, UniformLogSNR
from fastsolve.problems import Mixture
from fastsolve.schedules import Schedule

ROOT = Path(__file__).parents[1]
SOLVERS = ("ddim", "dpmpp_2m", "dpmpp_3m", "deis", "unipc", "heun", "dpm_solver_2", "dpmpp_2s")
CALLS = (6, 8, 12, 20)
SCHEDULES = ("vp", "vp_cosine", "vp_scaled_linear", "edm", "flow")
SAMPLES = 128
FINE = 300  # steps of the reference
# Components, dimensions and width of six mixtures that no setting of any grid was chosen on.
MIXTURES = ((3, 16, 0.3), (10, 32, 0.1), (40, 48, 0.05), (200, 64, 0.02), (5, 96, 0.5), (20, 24, 0.2))
TOP = 150.0  # sigma / alpha where those grids start that cannot at alpha = 0

GRIDS: dict[str, Grid] = {
    "uniform": Uniform(),
    "quadratic": Uniform(2.0),
    "uniform_logsnr": UniformLogSNR(),
    "karras": Karras(),
    "trailing": grids.Spacing("trailing"),
    "beta": grids.Beta(),
    "tpoly": grids.TPoly(),
    "rbe": grids.RBE(),
    "rbe_atan": RBEAtan(),
    "ots": OTS(),
    'OTS("latent")': OTS("latent"),
}

HEAD = f"""# Which grid for which solver

Written by `python -m benchmarks.grids`; do not edit. Geometric mean of the root mean square error against the exact flow (`dpmpp_2m` in
{FINE} steps), over {len(MIXTURES)} mixtures of Gaussians (3 to 200 components in 16 to 96 dimensions, whose exact denoisers are known; no
setting of a grid was chosen on them) and budgets of {", ".join(map(str, CALLS))} calls, relative to the least of the solver in its row.
All end at clean data. So 1.00 would be the best grid in every case; the last column is the worst case of the grid with any solver. The
schedule's default is in bold. These are toys with exact denoisers: they tell which grids waste calls, not which picture looks best.
"""


def mixture(number: int) -> Mixture:
    components, size, width = MIXTURES[number]
    rng = np.random.default_rng(900 + number)
    means = rng.uniform(0.3, 0.9) * rng.standard_normal((components, size))
    weights = rng.dirichlet(np.ones(components))
    return Mixture(means, weights, width * (0.5 + rng.random(components)))


def on(law: Schedule, grid: Grid) -> Grid:
    """The grid, started at TOP where it cannot start at alpha = 0."""
    if law.node(law.t_max).alpha == 0.0 and isinstance(grid, Karras | UniformLogSNR):
        return type(grid)(sigma_max=TOP)
    return grid


def errors(law: Schedule, number: int) -> dict[tuple[str, int, str], float]:
    problem = mixture(number)
    denoiser = Denoiser(problem.model(law, "x0"), law, "x0", shape=problem.shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(777)
    noise = torch.randn(SAMPLES, *problem.shape, generator=generator, dtype=torch.float64)

    def run(solver: str, grid: Grid, **budget: int) -> torch.Tensor:
        start = law.start_std(grids.nodes(grid, law, 3)[0]) * noise
        return fastsolve.sample(
            denoiser,
            tuple(noise.shape),
            solver=solver,
            grid=grid,
            x_init=start,
            dtype=torch.float64,
            executor="eager",
            **budget,
        )

    exact = run("dpmpp_2m", on(law, UniformLogSNR()), steps=FINE)
    return {
        (solver, calls, name): float((run(solver, on(law, grid), nfe=calls) - exact).square().mean().sqrt())
        for solver in SOLVERS
        for calls in CALLS
        for name, grid in GRIDS.items()
    }


def mean(values: Iterable[float]) -> float:
    return math.exp(float(np.mean(np.log(list(values)))))


def table(law: Schedule) -> str:
    cases = [errors(law, number) for number in range(len(MIXTURES))]
    best = [{(s, n): min(case[s, n, g] for g in GRIDS) for s in SOLVERS for n in CALLS} for case in cases]

    def ratios(solver: str, grid: str) -> list[float]:
        return [
            case[solver, n, grid] / least[solver, n] for case, least in zip(cases, best, strict=True) for n in CALLS
        ]

    lines = [f"\n## `{law.name if law.name != 'vp_table' else 'vp_scaled_linear'}`\n"]
    lines += [
        "| grid | " + " | ".join(f"`{s}`" for s in SOLVERS) + " | all | worst |",
        "| --- |" + " --- |" * (len(SOLVERS) + 2),
    ]
    for name, grid in GRIDS.items():
        every = [ratio for solver in SOLVERS for ratio in ratios(solver, name)]
        figures = [mean(ratios(solver, name)) for solver in SOLVERS]
        mark = "**" if grid == grids.get(None, law) else ""
        cells = [f"{figure:.2f}" for figure in (*figures, mean(every))]
        lines.append(f"| {mark}`{name}`{mark} | " + " | ".join(cells) + f" | {max(every):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parts = [HEAD]
    for name in SCHEDULES:
        parts.append(table(schedules.get(name)))
        print(parts[-1], flush=True)
    (ROOT / "docs" / "grids.md").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
