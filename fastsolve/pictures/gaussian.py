"""Plans on Gaussian data, exactly and without a sample: the denoiser is linear, and so is the whole run.

Data are N(0, std^2) in every element, so D(x) = alpha std^2 / (alpha^2 std^2 + sigma^2) x; std = 0 is a model that always answers 0. A
plan's rows are linear forms, hence the result is a linear form of the start's noise, of the draws and of an error in each data
prediction. One walk from the result backwards gives all its weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastsolve import schedules
from fastsolve.grids import Grid
from fastsolve.plan import Apply, Eval, Plan
from fastsolve.planner import make_plan
from fastsolve.schedules import Schedule


@dataclass(frozen=True)
class Budget:
    """Variance of a plan's result by its origin, per element. at: the clock value of the call after which each draw is used first.

    start: from the noise that sampling starts from. draws: from each draw. target: of the state at the last level,
    alpha^2 std^2 + sigma^2, which an exact sampler reaches.
    """

    start: float
    draws: tuple[float, ...]
    at: tuple[float, ...]
    target: float

    @property
    def total(self) -> float:
        """Variance of the result."""
        return math.fsum((self.start, *self.draws))


def gains(plan: Plan, std: float = 0.5) -> tuple[float, ...]:
    """|d result / d error| for an error added to the data prediction of each call, [nfe]; later calls answer to what it changes.

    Raises ValueError for a plan that is not linear (clip, functions) and for a negative std.
    """
    weights = _weights(plan, std)
    return tuple(abs(weights[f"error {call.d}"]) for call in plan.evals)


def noise_budget(plan: Plan, std: float = 0.5) -> Budget:
    """Where the variance of a plan's result comes from, for data N(0, std^2), started as the plan starts.

    Raises ValueError as `gains`, and for an inverse, which starts from data.
    """
    weights = _weights(plan, std)
    if not plan.levels:
        raise ValueError("a plan without levels has no target: make it by make_plan")
    if plan.levels[0][0] < plan.levels[-1][0]:
        raise ValueError("an inverse starts from data and not from noise: it has no noise budget")
    names = ["x0", *(f"s{i}" for i in range(1, len(plan.start)))]
    columns = zip(*plan.start, strict=True)  # of each unit noise, into all start tensors
    start = math.fsum(sum(weights[name] * c for name, c in zip(names, column, strict=True)) ** 2 for column in columns)
    _, alpha, sigma = plan.levels[-1]
    used: dict[str, float] = {}
    t = plan.levels[0][0]
    for op in plan.ops:
        if isinstance(op, Eval | Apply):
            t = op.t
        else:
            used.update({name: t for row in op.rows for name, _ in row.terms if name[0] == "z" and name not in used})
    draws = [f"z{i}" for i in range(plan.draws)]
    return Budget(
        start,
        tuple(weights[z] ** 2 for z in draws),
        tuple(used[z] for z in draws),
        (alpha * std) ** 2 + sigma**2,
    )


def gaussian_errors(
    solvers: Sequence[str],
    budgets: Sequence[int],
    *,
    schedule: str | Schedule,
    grid: str | Grid | None = None,
    stds: Sequence[float] = (0.1, 0.3, 1.0),
    options: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, list[tuple[int, float]]]:
    """(model calls, error) of each solver at each budget of model calls, exactly.

    Data are Gaussian, with elements of the given standard deviations; the run starts from the exact law of its first level (for solvers
    of one variable). The error is the 2-Wasserstein distance per element between the law of the result and that of the last level, for
    Gaussians the root mean square of the differences of the standard deviations. A grid that ends in clean data ends with a data
    prediction, whose variance is less than the data's: a floor, of all solvers; a grid with final_zero=False has none.

    options: by solver. Raises ValueError as `make_plan`.
    """
    if isinstance(solvers, str):
        raise TypeError(f"solvers is a list of names, not {solvers!r}")
    law = schedules.get(schedule)
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in solvers:
        chosen = (options or {}).get(name)
        plans = [make_plan(name, schedule=law, grid=grid, nfe=budget, options=chosen) for budget in budgets]
        curves[name] = [
            (plan.nfe, math.sqrt(math.fsum(_off(plan, std) ** 2 for std in stds) / len(stds)))
            for plan in dict.fromkeys(plans)  # a budget that buys no more calls than another is the same plan
        ]
    return curves


def _off(plan: Plan, std: float) -> float:
    budget, start = noise_budget(plan, std), 1.0
    if not plan.variables:
        _, alpha, sigma = plan.levels[0]
        start = math.hypot(alpha * std, sigma) / plan.start_std
    return math.sqrt(start**2 * budget.start + math.fsum(budget.draws)) - math.sqrt(budget.target)


def _weights(plan: Plan, std: float) -> Mapping[str, float]:
    """d result / d symbol, for tensors and draws, and for an "error d3" in each data prediction."""
    if not isinstance(plan, Plan):
        raise TypeError(f"a plan is made by make_plan, or is sampler.plan; this is {type(plan).__name__}")
    if not 0.0 <= std < math.inf:
        raise ValueError(f"std must be a standard deviation of data, at least 0, not {std}")
    weights: defaultdict[str, float] = defaultdict(float)
    weights[plan.out] = 1.0
    for op in reversed(plan.ops):
        if isinstance(op, Apply) or (isinstance(op, Eval) and op.clip is not None):
            what = f"the function {op.function!r}" if isinstance(op, Apply) else "clip"
            raise ValueError(f"a plan with {what} is not linear: make it without")
        if isinstance(op, Eval):
            # Both branches of a guided call answer the same: raw = (D - a x) / b.
            b = sum(op.b)
            if b == 0.0:
                raise ValueError(f"call {op.d} of this plan does not depend on the model's output")
            raws = sum(weights["r" + op.d[1:] + "'" * i] for i in range(len(op.b))) / b
            error = weights[op.d] + raws
            weights[f"error {op.d}"] = error
            weights[op.x] += _gain(op, std) * error - op.a * raws
        else:
            for row in op.rows:
                for name, c in row.terms:
                    weights[name] += c * weights[row.out]
    return weights


def _gain(call: Eval, std: float) -> float:
    if call.sigma == 0.0:
        return 1.0 / call.alpha
    return call.alpha * std**2 / ((call.alpha * std) ** 2 + call.sigma**2)
