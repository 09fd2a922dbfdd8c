"""A better multistep sampler for 4 to 10 model calls? `python -m benchmarks.search` trains, judges and reports; some 15 minutes on a core.

`--train` trains alone (resumed candidate by candidate), `--judge` measures on what was held out (resumed panel by panel), `--report`
makes the table, the picture and the verdict of the rows there are. Without them all three, and `benchmarks.search_parts`. Everything is
seeded; one thread.

Written down and committed before any figure of a held-out problem was looked at:

- Training problem: one mixture of 24 Gaussians in 32 dimensions (`training_mixture`) on EDM's range, fresh noise in every round, the mean
  over N = 4 ... 10 of the mean log distance of path ends from the exact ends ("typical" in `benchmarks.quality_cases`).
- Validation: `golden_mixture()` on EDM. Forms were explored on some 20 short trainings that were looked at on the golden mixture
  (EDM, VP, flow), on three other random mixtures, on shifted and scaled copies of these, and on the training problem.
- Candidates, two, frozen before judging. "few": seven numbers for all N. The multistep update in data form, w by interpolation in
  log(sigma / alpha + c) through the last two data predictions and through the last three, half of each; levels a (1 - u)^p / u^q at even
  u; the first call is not made at the start, where nothing is to be learnt, but `reach` steps above the next level. "table": for each N
  its own levels and weights of three predictions (sum 1), trained from "few". "few" is the one that may ship, being a rule for any grid and
  any N, though "table" was better by 0.4 on the validation problem in the mean over N; "table" is judged beside it, and does not ship.
- Held out, nine problems: the six mixtures of `benchmarks.grids`, the digits learnt by heart (`digits_kernel`), Gaussian data with 16
  scales, each on EDM, VP and flow; the trained digits network on EDM against its own ODE in many steps.
- Figure: log distance of path ends from exact ends, mean over 64 paths in 16 groups; for Gaussian data the logarithm of the exact
  2-Wasserstein distance. A difference is taken group by group, from the same noise.
- Rivals at equal N: every solver of the catalogue without noise, with the variants of `benchmarks.quality_cases`, on every grid of its
  schedule there; for Gaussian data tada too. The rival of a panel and N is the one that is best there, chosen on these very figures,
  which flatters it. Beside it stands the pair that was best on the training problem in the mean over N.
- Verdict: the log ratio to the rival is averaged over the schedules of a problem, then over the nine problems; its standard error is
  that over problems. It ships as `fastsolve` only if the mean is below -2 standard errors for at least 5 of the 7 N, above +0.1 for
  none, and the mean over N on the trained network is not above 0. Else the negative result is published.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import fastsolve
from benchmarks import metrics, search_model
from benchmarks.grids import MIXTURES, mixture
from benchmarks.measure import RESULTS, commit, processor
from benchmarks.quality_cases import AXES, GRIDS, WAYS, Case, Way, layout, twins
from benchmarks.search_model import Numbers
from benchmarks.search_plan import few_plan, table_plan
from benchmarks.search_report import CANDIDATES, fixed_pair, read, report
from fastsolve import Denoiser, Plan, grids, schedules
from fastsolve.ops import Eval
from fastsolve.problems import Mixture, digits_kernel, golden_mixture
from fastsolve.schedules import Schedule

FOLDER = RESULTS / "search"
CALLS = (4, 5, 6, 7, 8, 9, 10)
GROUPS, PATHS = 16, 4
START: Numbers = {"c": 0.57, "a": 1.2, "p": 3.4, "q": 0.93, "before": 1.3, "after": 3.2, "reach": 1.2}
ROUNDS, ITERATIONS, BATCH = 4, 15, 128
TEN = 10
HELD_OUT = [
    *((f"mixture {i}", law) for i in range(len(MIXTURES)) for law in GRIDS),
    *(("digits kernel", law) for law in GRIDS),
    *(("gaussian", law) for law in GRIDS),
    ("digits network", "edm"),
]
Row = dict[str, Any]


# Training.


def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise and exact ends, new ones each time."""
    denoise, generator = (
        search_model.denoiser_of(search_model.training_mixture()),
        torch.Generator().manual_seed(seed),
    )
    while True:
        noise = torch.randn(BATCH, 32, generator=generator, dtype=torch.float64)
        yield noise, search_model.exact_ends(denoise, noise)


def descended(parameters: Sequence[Tensor], loss: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
    """ROUNDS of L-BFGS, each on fresh noise."""
    for _, (noise, exact) in zip(range(ROUNDS), batches(seed), strict=False):
        optimiser = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

        def closure(noise: Tensor = noise, exact: Tensor = exact, optimiser: Any = optimiser) -> Tensor:
            optimiser.zero_grad()
            value = loss(noise, exact)
            value.backward()
            return value

        optimiser.step(closure)  # type: ignore[no-untyped-call]


def train_few() -> Numbers:
    """Seven numbers for all N, to three digits."""
    denoise = search_model.denoiser_of(search_model.training_mixture())
    logs = {name: torch.tensor(math.log(v), dtype=torch.float64, requires_grad=True) for name, v in START.items()}

    def loss(noise: Tensor, exact: Tensor) -> Tensor:
        numbers = {name: v.exp() for name, v in logs.items()}
        return torch.stack([_missed(denoise, numbers, calls, noise, exact) for calls in CALLS]).mean()

    descended(list(logs.values()), loss, seed=1)
    return {name: float(f"{float(v.exp()):.3g}") for name, v in logs.items()}


def _missed(
    denoise: search_model.Denoise, numbers: dict[str, Tensor], calls: int, noise: Tensor, exact: Tensor
) -> Tensor:
    levels = search_model.few_levels(numbers, calls)
    weights = search_model.few_weights(numbers, levels)
    end = search_model.walk(denoise, noise, levels, weights, numbers["c"])
    return search_model.log_distance(end, exact).mean()


def train_table(calls: int, few: Numbers) -> Row:
    """Levels and weights of one N, from those of `few`."""
    denoise = search_model.denoiser_of(search_model.training_mixture())
    numbers = {name: torch.tensor(v, dtype=torch.float64) for name, v in few.items()}
    levels = search_model.few_levels(numbers, calls)
    table = search_model.table_of(levels, search_model.few_weights(numbers, levels))
    for value in table.values():
        value.requires_grad_(True)

    def loss(noise: Tensor, exact: Tensor) -> Tensor:
        end = search_model.walk(
            denoise, noise, search_model.table_levels(table), search_model.table_weights(table), numbers["c"]
        )
        return search_model.log_distance(end, exact).mean()

    descended(list(table.values()), loss, seed=calls)
    return {
        "levels": search_model.table_levels(table).tolist(),
        "weights": [w.tolist() for w in search_model.table_weights(table)],
    }


def trained() -> Row:
    """What training leaves in numbers.json; what is there is not trained again."""
    path = FOLDER / "numbers.json"
    found: Row = json.loads(path.read_text()) if path.exists() else about("python -m benchmarks.search --train")
    FOLDER.mkdir(parents=True, exist_ok=True)
    bar = tqdm([None, *CALLS], desc="train")
    for calls in bar:
        if calls is None and "few" not in found:
            found["few"] = train_few()
        elif calls is not None and str(calls) not in found.setdefault("table", {}):
            found["table"][str(calls)] = train_table(calls, found["few"])
        path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def about(command: str) -> Row:
    return {
        "command": command,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit(),
        "device": processor(),
        "torch": torch.__version__,
    }


# Judging.


def ends(plan: Plan, denoiser: Denoiser, start: Tensor, **kwargs: object) -> Tensor:
    """Where the paths end that start there: the plan, instruction by instruction, in float64; the model in its own dtype."""
    known = {"x0": start}
    for op in plan.ops:
        if isinstance(op, Eval):
            t = torch.full((len(start),), op.t, dtype=denoiser.dtype or start.dtype)
            raw = denoiser((op.scale * known[op.x]).to(t.dtype), t, **kwargs).to(start.dtype)
            known[op.d] = op.a * known[op.x] + op.b[0] * raw
        else:
            known |= {row.out: sum(c * known[name] for name, c in row.terms) for row in op.rows}  # type: ignore[misc]
    return known[plan.out]


class Paths:
    """A panel of paths: the figure of a plan is the log distance from the exact ends, one for each group."""

    def __init__(self, denoiser: Denoiser, start: Tensor, exact: Tensor, **kwargs: object) -> None:
        self.denoiser, self.start, self.exact, self.kwargs = denoiser, start, exact, kwargs

    def __call__(self, plan: Plan) -> list[float]:
        apart = ends(plan, self.denoiser, self.start, **self.kwargs) - self.exact
        return [float(search_model.log_distance(part, 0.0 * part).mean()) for part in apart.split(PATHS)]


class Exactly:
    """Gaussian data: the figure is the logarithm of the exact 2-Wasserstein distance."""

    def __init__(self, law: str) -> None:
        self.denoiser = AXES.denoiser(law)

    def __call__(self, plan: Plan) -> list[float]:
        return [math.log(metrics.gaussian_w2(*metrics.moments(plan, self.denoiser), AXES))]


def fine_levels(law: Schedule, steps: int) -> tuple[float, ...]:
    """Of the reference: from where the schedule starts to where no level of data is near."""
    top = law.node(law.t_max)
    inner = grids.UniformLogSNR(sigma_max=1e4 if top.alpha == 0.0 else None).levels(law, steps)
    return (law.t_max, *inner) if top.alpha == 0.0 else tuple(inner)


def panel(problem: str, law_name: str) -> Paths | Exactly:
    law, kwargs = schedules.get(law_name), {}
    if problem == "gaussian":
        return Exactly(law_name)
    if problem == "digits network":
        denoiser = fastsolve.models.digits()
        kwargs = {"class_labels": torch.arange(GROUPS * PATHS) % 10}
    elif problem == "digits kernel":
        denoiser = digits_kernel().denoiser(law)
    else:
        made = {"golden": golden_mixture, "training": search_model.training_mixture}.get(problem)
        return paths_of(made() if made else mixture(int(problem.split()[-1])), law_name)
    return _paths(denoiser, **kwargs)


def paths_of(law: Mixture, schedule: str) -> Paths:
    """Paths of a mixture."""
    flat, on = Mixture(law.means.numpy(), law.weights.numpy(), law.stds.numpy()), schedules.get(schedule)
    return _paths(flat.denoiser(on))


def _paths(denoiser: Denoiser, **kwargs: object) -> Paths:
    assert denoiser.shape is not None
    law = denoiser.schedule
    assert isinstance(law, Schedule)
    generator = torch.Generator().manual_seed(777)
    noise = torch.randn(GROUPS * PATHS, *denoiser.shape, generator=generator, dtype=torch.float64)
    start = law.start_std(law.node(law.t_max)) * noise
    fine = fastsolve.make_plan("dpmpp_3s", schedule=law, grid=fine_levels(law, 200), prediction=denoiser.prediction)
    return Paths(denoiser, start, ends(fine, denoiser, start, **kwargs), **kwargs)


def noiseless(law: str, problem: str) -> list[Way]:
    """Solvers without noise; those of several variables have no path."""
    return [
        way
        for name, way in WAYS.items()
        if name not in twins(law)
        and not fastsolve.solvers.get(way.solver).stochastic
        and not way.options.get("s_churn")
        and way.solver not in ("restart", "lcm", "fastsolve")
        and (way.solver != "tada" or problem == "gaussian")
    ]


def rivals(law: Schedule, problem: str, calls: int, prediction: Any) -> Iterator[tuple[str, str, Plan]]:
    """Every pair of a solver and a grid with such a budget that starts where the schedule does."""
    for way in noiseless(law.name, problem):
        for grid in dict.fromkeys([*GRIDS[law.name], "ots"]):
            try:
                plan = fastsolve.make_plan(
                    way.solver,
                    schedule=law,
                    grid=layout(Case("", "", law.name, way.name, grid, calls)),
                    nfe=calls,
                    options=way.options,
                    prediction=prediction,
                )
            except ValueError:
                continue
            if plan.levels[0][0] == law.t_max:
                yield way.name, grid, plan


def rows_of(problem: str, law_name: str, numbers: Row) -> list[Row]:
    """A panel's rows: the candidates and all rivals, at each N."""
    judge, rows = panel(problem, law_name), []
    law, prediction = judge.denoiser.schedule, judge.denoiser.prediction
    assert isinstance(law, Schedule)
    for calls in CALLS:
        plans = [
            ("few", "few", few_plan(law, calls, numbers["few"], prediction)),
            ("table", "table", _table_plan(law, calls, numbers, prediction)),
            *rivals(law, problem, calls, prediction),
        ]
        for way, grid, plan in plans:
            logs = judge(plan)
            if all(map(math.isfinite, logs)):
                place = {"problem": problem, "schedule": law_name, "nfe": calls, "calls": plan.nfe}
                rows.append({**place, "way": way, "grid": grid, "logs": [round(v, 4) for v in logs]})
    return rows


def _table_plan(law: Schedule, calls: int, numbers: Row, prediction: Any) -> Plan:
    table = numbers["table"][str(calls)]
    return table_plan(law, table["levels"], table["weights"], numbers["few"]["c"], prediction)


def thinned(rows: Sequence[Row], pair: tuple[str, str] | None) -> list[Row]:
    """Rivals that are not among the ten best of their N, nor the pair, keep their mean alone."""
    kept = []
    for calls in CALLS:
        every = [row for row in rows if row["nfe"] == calls]
        rivals = sorted((row for row in every if row["way"] not in CANDIDATES), key=lambda row: _mean(row["logs"]))
        for place, row in enumerate(rivals):
            if place >= TEN and (row["way"], row["grid"]) != pair:
                row["logs"] = [round(_mean(row["logs"]), 4)]
        kept += every
    return kept


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def judged(name: str, panels: Sequence[tuple[str, str]], numbers: Row) -> list[Row]:
    """All rows of the panels, panel by panel into a file; a run that is killed goes on with the panel it was in."""
    path = FOLDER / f"{name}.jsonl"
    pair = fixed_pair(read("validation")) if name == "held_out" else None
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["problem"], row["schedule"]) for row in found}
    for problem, law in tqdm(panels, desc=name):
        if (problem, law) not in done:
            began = time.process_time()
            rows = rows_of(problem, law, numbers)
            if pair:
                rows = thinned(rows, pair)
            with path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            found += rows
            tqdm.write(f"{problem}, {law}: {time.process_time() - began:.0f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("train", "judge", "report"):
        parser.add_argument(f"--{part}", action="store_true")
    args = parser.parse_args()
    every = not (args.train or args.judge or args.report)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that a grid is far off is what is measured
    numbers = trained() if args.train or every else json.loads((FOLDER / "numbers.json").read_text())
    if args.train or every:
        judged("validation", [("golden", "edm"), ("training", "edm")], numbers)
    if args.judge or every:
        judged("held_out", HELD_OUT, numbers)
    if args.report or every:
        report()
    if every:
        from benchmarks.search_parts import parts  # which judges with what is above

        parts()


if __name__ == "__main__":
    main()
