"""The orders that every solver reaches: `python -m benchmarks.orders` measures them and writes docs/orders.md.

Measured by the functions of tests/orders.py and tests/strong.py, which the catalogue's tests use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the measuring functions are the tests', where pytest finds them by themselves

from catalogue import CASES, NO_LIMIT, RENOISING, Case  # noqa: E402
from orders import DOWN_AND_UP, STEPS, mean_order, path_order, tada_order, variance_order  # noqa: E402
from strong import strong_order  # noqa: E402

ROWS = sorted([*CASES, Case("ddpm"), Case("tada")], key=lambda case: case.solver)
COLUMNS = (
    "solver",
    "options",
    "order",
    "path, eta = 0",
    "path, eta = 1",
    "weak",
    "mean",
    "variance",
    "strong",
    "notes",
)

NOTES = {
    "a": "It renoises in every step: with an ordinary denoiser it converges to nothing, and there is no order to measure.",
    "b": "An ODE step to below the next level, and noise up to it, maps the marginals to the declared order, and what starts beside "
    "them to first order unless eta = 1 makes the step that of the reverse SDE: the mean is measured beside them, so it shows 1 "
    "at any declared order.",
    "c": "With eta = 1 its path without noise is not that of the reverse SDE, so there is nothing to compare it with; its marginals "
    "are right to the weak order.",
    "d": "Draws noise always (eta = 1 in the words of the others), and takes variance-preserving schedules only; measured on `vp`. Its "
    "mean on Gaussian data is exact.",
    "e": "The exact solution of a state of several variables is not known: measured against its own 2560 steps. Its first step is "
    "first order, as in every Adams-Bashforth method started from one value. (TADA's official code was not available to compare with.)",
}

HEAD = f"""# Measured orders

Written by `python -m benchmarks.orders` from the functions that `tests/test_catalogue.py` checks the declared orders with
(`tests/orders.py`, `tests/strong.py`); do not edit. Each figure is minus the slope of log error over log steps at {STEPS[0]} and
{STEPS[1]} steps, in float64, on a grid uniform in log-SNR from sigma / alpha = 3 to 0.15, where data and noise interact; start-up steps
included. Nothing is sampled.

- **order**: declared, of the path without noise and of the mean. **path**: measured on a mixture of three Gaussians in the plane, every
  draw set to 0, against dx = (1 + eta) (D - x) dlam solved by Runge and Kutta; eta = 0 is the probability-flow ODE.
- **weak**: declared, of the variance. **mean**, **variance**: measured on Gaussian data by propagating constants and the factors of
  every draw through the plan. The variance with eta = 1; the mean with eta = 1/2, started 1 beside its path, because with
  eta = 1 and data prediction it is exact for every order and even for wrong weights (the form `edm`, which has no other
  eta than 0 and 1, is measured with 1).
- **strong**: root mean square distance from the exact solution of the linear reverse SDE (eta = 1, Gaussian data) on the same Brownian
  path. A draw stands for the normalised increment of the path over its sub-interval: between two calls for solvers that draw once per call,
  between two levels for those that draw once per step; weighted by what the solver's linear part leaves of the noise. The exact
  solution's noise is written in those draws by their covariances, and the part that no draw knows counts as error. That part alone
  is of order 1: knowing a path by one increment per sub-interval, no solver is of higher strong order. So every entry is 1.

The orders say how fast an error falls, not how large it is.
"""


def figure(measure: Callable[[], tuple[float, list[float]]]) -> str:
    return f"{measure()[0]:.2f}"


def cells(case: Case) -> dict[str, str]:
    """A row of the table by column."""
    fact, schedule = case.fact, "vp" if case.solver == "ddpm" else "ve"
    text = ", ".join(f"`{k}={v}`" for k, v in case.options.items())
    row = dict.fromkeys(COLUMNS, "") | {"solver": f"`{case.solver}`", "options": text, "order": str(fact.order)}
    notes = []
    if fact.weak_order is not None:
        row["weak"] = str(fact.weak_order)
    if case.solver in NO_LIMIT:
        return row | {"notes": "a"}
    if case.solver == "tada":
        return row | {"path, eta = 0": figure(lambda: tada_order(case)), "notes": "e"}
    if case.solver == "ddpm":
        notes.append("d")
    else:
        row["path, eta = 0"] = figure(lambda: path_order(case, 0.0))
    if fact.weak_order is not None:
        if case.solver in RENOISING:
            notes.append("c")
        else:
            row["path, eta = 1"] = figure(lambda: path_order(case, 1.0, schedule))
        if case.solver != "ddpm":
            row["mean"] = figure(lambda: mean_order(case))
        row["variance"] = figure(lambda: variance_order(case, schedule))
        row["strong"] = figure(lambda: strong_order(case, schedule))
        notes += ["b"] if case.solver in DOWN_AND_UP and fact.order > 1 else []
    return row | {"notes": ", ".join(sorted(notes))}


def line(values: list[str]) -> str:
    return f"| {' | '.join(value or '-' for value in values)} |"


def main() -> None:
    table = [line(list(COLUMNS)), line(["---"] * len(COLUMNS))]
    for case in ROWS:
        table.append(line(list(cells(case).values())))
        print(table[-1])
    notes = [f"- **{key}** {text}" for key, text in NOTES.items()]
    (ROOT / "docs/orders.md").write_text("\n".join([HEAD, *table, "", *notes, ""]), "utf-8")


if __name__ == "__main__":
    main()
