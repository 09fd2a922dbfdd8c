"""Which solver for how many calls: `python -m benchmarks.which` measures it, `python -m benchmarks.which_page` makes the page of it.

Two questions. "flow": how far a solver without noise ends from the exact solution of the probability-flow ODE, from the same noise. "law":
how far the samples of any solver lie from the law of the data. Both on mixtures of Gaussians, whose denoisers are known in closed
form; "flow" also on the packaged digits network, whose own ODE is solved in many steps.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fastsolve
from fastsolve import Denoiser, grids, schedules, solvers
from fastsolve.schedules import Schedule

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the problems are the tests', where pytest finds them by themselves

from benchmarks.grids import MIXTURES, mixture  # noqa: E402
from benchmarks.measure import save  # noqa: E402
from problems import Mixture  # noqa: E402

# What needs few calls to tell is asked of few: at 20, most solvers lie as far from the law as exact draws do.
CALLS = {"flow": (5, 8, 10, 15, 20, 30, 50), "law": (5, 8, 10, 15, 20)}
GRIDS = {"edm": "rbe", "vp": "rbe", "flow": "uniform"}  # of the best in docs/grids.md, which compares them
# Without guidance cfg_pp solvers are euler and dpmpp_2m, and restart without intervals is heun. ddpm takes vp only.
SAME = {"euler_cfg_pp": "euler", "dpmpp_2m_cfg_pp": "dpmpp_2m", "restart": "heun"}
STARTS, DIGITS = 256, 64  # paths of a mixture and of digits
# Samples whose law is judged, exact draws that stand for the law, projections.
DRAWN, REFERENCE, DIRECTIONS = 2048, 2**17, 128
LAWS = (0, 1, 4, 5)  # of the mixtures; the other two take as long as these four
SEED = 11
FINE = 400  # steps of the reference, by dpmpp_3s


def catalogue(kind: str, schedule: str) -> list[str]:
    """Solvers that a question can be asked of: an ODE's solution is that of solvers of one variable without noise."""
    asked = [name for name in fastsolve.list_solvers() if name not in SAME]
    if schedule != "vp":
        asked.remove("ddpm")
    if kind == "flow":
        asked = [name for name in asked if not solvers.get(name).stochastic and name != "tada"]
    return asked


class Exact:
    """`model(x, t)` of a mixture in few large products: every sample at the same level."""

    def __init__(self, problem: Mixture, schedule: Schedule) -> None:
        self.schedule = schedule
        self.means, self.weights, self.variances = problem.means, problem.weights, problem.stds.square()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        node = self.schedule.node(float(t[0]))
        state = x.double()
        spread = node.alpha**2 * self.variances + node.sigma**2
        off = state.square().sum(1, keepdim=True) - 2.0 * node.alpha * state @ self.means.T
        off = off + node.alpha**2 * self.means.square().sum(1)
        log_r = self.weights.log() - off / (2.0 * spread) - 0.5 * self.means.shape[1] * spread.log()
        gain = node.alpha * self.variances / spread
        r = log_r.softmax(1)
        return ((r * (1.0 - node.alpha * gain)) @ self.means + (r @ gain)[:, None] * state).to(x.dtype)


@cache
def checked(number: int, schedule: str) -> Exact:
    """The fast model of a mixture, compared with that of the tests before it is used."""
    problem, law = mixture(number), schedules.get(schedule)
    model, tests = Exact(problem, law), problem.model(law)
    x = torch.randn(16, *problem.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for t in (0.02, 0.3, 0.9):
        clock = torch.full((16,), t, dtype=torch.float64)
        torch.testing.assert_close(model(x, clock), tests(x, clock), rtol=1e-9, atol=1e-9)
    return model


def mean(values: Iterable[float]) -> float:
    return math.exp(float(np.mean(np.log(list(values)))))


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def ends(denoiser: Denoiser, noise: Tensor, solver: str, grid: object, **kwargs: object) -> Tensor:
    """Where the paths of this noise end."""
    law = denoiser.schedule
    first = grids.nodes(grids.get(grid, law), law, 3)[0] if isinstance(grid, str) else law.node(grid[0])  # type: ignore[index]
    return fastsolve.sample(
        denoiser,
        tuple(noise.shape),
        solver=solver,
        grid=grid,
        x_init=law.start_std(first) * noise,
        dtype=noise.dtype,
        executor="eager",
        **kwargs,
    )


def fine(law: Schedule, steps: int) -> tuple[float, ...]:
    """Levels of the reference: from where the schedule starts to where no level of data is near."""
    top = law.node(law.t_max)
    inner = grids.UniformLogSNR(sigma_max=1e4 if top.alpha == 0.0 else None, final_zero=True).levels(law, steps)
    return (law.t_max, *inner) if top.alpha == 0.0 else tuple(inner)


def exact_ends(denoiser: Denoiser, noise: Tensor, **kwargs: object) -> tuple[Tensor, float]:
    """The reference, and how far it is from that of half the steps."""
    found, half = (
        ends(denoiser, noise, "dpmpp_3s", fine(denoiser.schedule, steps), **kwargs) for steps in (FINE, FINE // 2)
    )
    return found, rms(found - half)


Case = tuple[Denoiser, Tensor, dict[str, object]]


def mixture_case(number: int, schedule: str) -> Case:
    problem = mixture(number)
    noise = torch.randn(STARTS, *problem.shape, generator=torch.Generator().manual_seed(777), dtype=torch.float64)
    return Denoiser(checked(number, schedule), schedule, "x0", shape=problem.shape, dtype=torch.float64), noise, {}


def digits_case() -> Case:
    noise = torch.randn(DIGITS, 1, 8, 8, generator=torch.Generator().manual_seed(777))
    return fastsolve.models.digits(), noise, {"model_kwargs": {"class_labels": torch.arange(DIGITS) % 10}}


def flow_rows(name: str, schedule: str, cases: Sequence[Callable[[], Case]]) -> list[dict[str, object]]:
    """Root mean square distance from the exact end, relative to the data's own root mean square; for every solver."""
    grid, doubts = GRIDS[schedule], []
    errors: dict[str, list[list[float]]] = {solver: [] for solver in catalogue("flow", schedule)}
    for make in cases:
        denoiser, noise, kwargs = make()
        exact, doubt = exact_ends(denoiser, noise, **kwargs)
        doubts.append(doubt / rms(exact))
        for solver in errors:
            runs = [ends(denoiser, noise, solver, grid, nfe=calls, **kwargs) for calls in CALLS["flow"]]
            errors[solver].append([rms(run - exact) / rms(exact) for run in runs])
    print(f"flow {name}: the reference moves by {max(doubts):.1e} when its steps are halved", flush=True)
    return [row("flow", name, grid, solver, schedule, found) for solver, found in errors.items()] + [
        {"question": "flow", "problem": name, "solver": "reference", "moves": max(doubts)}
    ]


class Law:
    """The law of a mixture on random lines: sorted projections of many exact draws."""

    def __init__(self, number: int) -> None:
        self.problem = mixture(number)
        generator = torch.Generator().manual_seed(5)
        lines = torch.randn(*self.problem.shape, DIRECTIONS, generator=generator, dtype=torch.float64)
        self.lines = lines / lines.norm(dim=0)
        drawn = (self.problem.draw(REFERENCE, seed=1) @ self.lines).sort(0).values
        self.quantiles = drawn.view(DRAWN, -1, DIRECTIONS).mean(1)
        floors = [self.distance(self.problem.draw(DRAWN, seed=2 + i)) for i in range(8)]
        self.floor = mean(floors)
        self.exact = [floor / self.floor for floor in floors]

    def distance(self, x: Tensor) -> float:
        """Sliced 2-Wasserstein distance of DRAWN samples."""
        return rms((x.double() @ self.lines).sort(0).values - self.quantiles)


def law_rows(schedule: str) -> list[dict[str, object]]:
    """Distance from the law of the data, in units of that of as many exact draws: 1 is as good as the data themselves."""
    grid, asked = GRIDS[schedule], catalogue("law", schedule)
    errors: dict[str, list[list[float]]] = {solver: [] for solver in asked}
    exact = []
    for number in LAWS:
        law = Law(number)
        exact.append(law.exact)
        model = Denoiser(checked(number, schedule), schedule, "x0", shape=law.problem.shape)
        run = partial(fastsolve.sample, model, (DRAWN, *law.problem.shape), grid=grid, seed=SEED)
        for solver in asked:
            errors[solver].append([law.distance(run(solver=solver, nfe=n)) / law.floor for n in CALLS["law"]])
    spread = [mean(values) for values in zip(*exact, strict=True)]
    print(f"law {schedule}: exact draws lie between {min(spread):.2f} and {max(spread):.2f}", flush=True)
    return [row("law", schedule, grid, solver, schedule, found) for solver, found in errors.items()] + [
        {"question": "law", "problem": schedule, "solver": "exact draws", "least": min(spread), "most": max(spread)}
    ]


def row(
    question: str, problem: str, grid: str, solver: str, schedule: str, found: list[list[float]]
) -> dict[str, object]:
    """A solver's errors by budget: geometric mean and worst of the cases."""
    budgets = list(zip(*found, strict=True))
    error, worst = [[float(f"{value:.4g}") for value in map(f, budgets)] for f in (mean, max)]
    print(f"{question:5s} {problem:7s} {grid:9s} {solver:20s}" + "".join(f"{e:10.3g}" for e in error), flush=True)
    nfe = [fastsolve.make_plan(solver, schedule=schedule, grid=grid, nfe=calls).nfe for calls in CALLS[question]]
    return {
        "question": question,
        "problem": problem,
        "grid": grid,
        "solver": solver,
        "nfe": nfe,
        "error": error,
        "worst": worst,
    }


def measured(asked: tuple[str, str]) -> list[dict[str, object]]:
    """One question on one problem."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of grids that are far off: that is what is measured
    question, name = asked
    if question == "law":
        return law_rows(name)
    if name == "digits":
        return flow_rows(name, "edm", [digits_case])
    return flow_rows(name, name, [partial(mixture_case, number, name) for number in range(len(MIXTURES))])


def main() -> None:
    rows: list[dict[str, object]] = []
    asked = [*(("flow", name) for name in GRIDS), *(("law", name) for name in GRIDS), ("flow", "digits")]
    with ProcessPoolExecutor(2) as workers:
        for found in workers.map(measured, asked):
            rows += found
            save("which", rows, calls=CALLS, samples={"flow": STARTS, "digits": DIGITS, "law": DRAWN})


if __name__ == "__main__":
    main()
