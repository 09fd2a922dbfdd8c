"""The README says what is true: its table, its plan and its solver come from the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import fastsolve
from fastsolve import solvers

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def row(name: str) -> str:
    """A solver's line of the README's table, from what it declares."""
    fact = solvers.get(name)
    weak = "-" if fact.weak_order is None else fact.weak_order
    options = ", ".join(f"`{option}`" for option in fact.options) or "-"
    noise = "yes" if fact.stochastic else "no"
    return f"| `{name}` | {fact.order} | {weak} | {fact.stages} | {noise} | {fact.forms} | {options} | {fact.source} |"


def block(containing: str) -> str:
    (found,) = [b for b in BLOCKS if containing in b]
    return found


@pytest.mark.parametrize("name", fastsolve.list_solvers())
def test_table_states_the_declared_facts(name: str) -> None:
    assert row(name) in README.splitlines()


def test_table_lists_no_other_solver() -> None:
    listed = re.findall(r"^\| `(\w+)` \| \d", README, re.MULTILINE)
    assert sorted(listed) == fastsolve.list_solvers()


def test_plan_is_what_make_plan_prints() -> None:
    shown = block(">>> print(fastsolve.make_plan").split("\n", 1)[1].rstrip()
    assert shown == str(fastsolve.make_plan("dpmpp_2m", schedule="edm", steps=3))


def test_example_solver_is_dpmpp_2m(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_registry", dict(solvers._registry))
    exec(block("def my_2m"), {})
    ours, theirs = (
        fastsolve.make_plan(name, schedule="edm", grid=[80.0, 9.0, 1.0, 0.1, 0.0]) for name in ("my_2m", "dpmpp_2m")
    )
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = [
        fastsolve.sample(
            lambda x, t: x / (1 + t[:, None] ** 2),
            solver=plan.solver,
            grid=[80.0, 9.0, 1.0, 0.1, 0.0],
            schedule="edm",
            prediction="x0",
            x_init=x,
            dtype=torch.float64,
        )
        for plan in (ours, theirs)
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)
