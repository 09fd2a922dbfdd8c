"""docs/orders.md states the declared orders of every solver, its measured ones are those, and its strong errors are right."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastsolve
from catalogue import CASES, NO_LIMIT, Case
from fastsolve import solvers
from moments import marginal, propagate
from orders import DOWN_AND_UP, HIGH, LOW, mean_order, path_order, plan_of, variance_order
from strong import left, levels_of, strong_error, strong_order

PAGE = (Path(__file__).parent.parent / "docs/orders.md").read_text("utf-8")
ROWS = [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*", PAGE, re.MULTILINE)]
TABLE = {(name.strip("`"), options.replace("`", "")): rest for name, options, *rest in ROWS}
EXACT = [*(Case(name) for name in ("seeds1", "seeds2", "seeds3", "dpmpp_2m_sde", "dpm_2_ancestral", "dpmpp_sde"))]
EXACT += [Case("seeds2", {"form": "noise"}), Case("seeds3", {"form": "edm"})]


def options_of(case: Case) -> str:
    return ", ".join(f"{k}={v}" for k, v in case.options.items()) or "-"


def row(case: Case) -> list[str]:
    """Order, path at eta = 0 and 1, weak order, mean, variance, strong, notes."""
    return TABLE[case.solver, options_of(case)]


def test_every_solver_and_variant_has_one_row() -> None:
    assert sorted({name for name, _ in TABLE}) == fastsolve.list_solvers()
    assert sorted(TABLE) == sorted((c.solver, options_of(c)) for c in [*CASES, Case("ddpm"), Case("tada")])
    assert len(ROWS) == len(TABLE)


@pytest.mark.parametrize(("name", "options"), TABLE)
def test_declared_orders_are_the_catalogues_and_measured_ones_are_those(name: str, options: str) -> None:
    fact, (order, ode, sde, weak, mean, variance, strong, notes) = solvers.get(name), TABLE[name, options]
    assert (order, weak) == (str(fact.order), "-" if fact.weak_order is None else str(fact.weak_order))
    assert name in NO_LIMIT or {ode, sde} != {"-"}
    assert name in NO_LIMIT or (variance == strong == "-") == (fact.weak_order is None)
    beside = 1 if name in DOWN_AND_UP else fact.order
    for shown, right in (
        (ode, fact.order),
        (sde, fact.order),
        (mean, beside),
        (variance, fact.weak_order),
        (strong, 1),
    ):
        assert shown == "-" or float(shown) == pytest.approx(right, abs=0.25)
    assert notes == "-" or all(f"\n- **{note}** " in PAGE for note in notes.split(", "))


@pytest.mark.parametrize("case", EXACT[:4], ids=str)
def test_the_page_shows_what_is_measured_today(case: Case) -> None:
    shown = [float(row(case)[i]) for i in (1, 4, 5, 6)]
    now = [path_order(case, 0.0)[0], *(measure(case)[0] for measure in (mean_order, variance_order, strong_order))]
    assert now == pytest.approx(shown, abs=0.011)


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_strong_error_is_the_distance_from_many_fine_steps_on_the_same_path(case: Case) -> None:
    # The other way round: the path's increments over 40 fine steps in each sub-interval, which a coarse draw sums up.
    steps, fine = 12, 40
    plan = plan_of(case, steps, eta=1.0)
    levels = levels_of(plan, steps)
    assert levels is not None
    lams = [float(x) for a, b in pairwise(-np.log(levels)) for x in np.linspace(a, b, fine, endpoint=False)]
    grid = (*(math.exp(-lam) for lam in lams), LOW)
    mean, std = marginal(1.0, HIGH)
    # dpmpp_2m_sde in fine steps is the exact solution to the second order of their size, given their increments.
    reference = fastsolve.make_plan("dpmpp_2m_sde", schedule="ve", grid=grid, options={"eta": 1.0})
    right = propagate(reference, (mean + 1.0, std))[reference.out]
    middles = np.sqrt(np.array(grid[:-1]) * np.array(grid[1:]))
    weights = left(str(case.options.get("form", "data")), middles).reshape(len(levels) - 1, fine)
    weights *= np.sqrt(np.log(np.array(grid[:-1]) / np.array(grid[1:]))).reshape(weights.shape)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    out = propagate(plan, (mean + 1.0, std))[plan.out]
    coarse = np.concatenate([out[:2], (out[2:, None] * weights).ravel()])
    assert np.linalg.norm(coarse - right) == pytest.approx(strong_error(case, steps), rel=5e-3)


def test_draws_that_are_no_increments_are_refused() -> None:
    churning = Case("restart", {"intervals": [(3, 2, 0.2, 0.5)]})
    with pytest.raises(ValueError, match="are not the increments between its levels"):
        strong_error(churning, 6)
