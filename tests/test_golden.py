"""Trajectories of published samplers, walked again: same model, same start, same noise, same end, to 1e-10 in float64.

`golden/cases.json` says what was run. A case expects one of four things: "agree"; "official", where the published
code has an erratum that fastsolve corrects, and reproduces under compat="official"; "differ", where it only corrects; "refuse".
A case recorded in float32 states its `tolerance`, and why.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastsolve
from fastsolve import schedules
from fastsolve.schedules import Schedule
from problems import golden_mixture

FOLDER = Path(__file__).parent / "golden"
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())}
TOLERANCE = (
    1e-10  # relative, on the final state; a case whose publisher computes coarsely states its own, and the reason
)
# Below this a published erratum could be mistaken for rounding.
VISIBLE = 1e-6

# The same runs as a network of another kind would give them: (case, prediction), chosen to meet every schedule.
PREDICTIONS = [
    ("seeds_comfy_seeds3_rf_eta1_n6", "flow"),
    ("seeds_comfy_seeds2_rf_eta0p5_n6", "v"),
    ("seeds_comfy_seeds3_ve_eta1_n6", "edm"),
    ("seeds_off_edm_dp_o2_n6", "score"),
    ("seeds_off_vp_np_o2_n12", "eps"),
    ("peer_diffusers_ddim_eta1", "eps"),
    ("peer_diffusers_dpmpp_2m", "v"),
    ("peer_diffusers_flowmatch_euler_shift1", "flow"),
    ("restart_edm_churn18_nolimits", "edm"),
    ("deis_rho_rk_2heun", "score"),
]


def named(expect: str) -> list[str]:
    return [name for name, case in CASES.items() if case["expect"] == expect]


@cache
def arrays(family: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / f"{family}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def schedule_of(case: dict[str, Any]) -> str | Schedule:
    match case["schedule"]:
        case str(name):
            return name
        case {"vp": [beta_min, beta_max]}:
            return schedules.VP(beta_min, beta_max)
        case {"vp_table": [first, last, steps]}:
            return schedules.VPTable(tuple(np.cumprod(1 - np.linspace(first, last, steps)).tolist()))
    raise ValueError(case["schedule"])


def distance(name: str, prediction: str = "x0", **options: object) -> float:
    """Relative distance between the recorded end and ours; checks the number of model calls on the way."""
    case = CASES[name]
    tensors, schedule = arrays(case["family"]), schedule_of(case)
    x_init, draws, final = (tensors[f"{name}.{key}"] for key in ("x_init", "draws", "final"))
    model = golden_mixture().model(schedule, prediction)
    ours = fastsolve.sample(
        model,
        tuple(final.shape),
        solver=case["solver"],
        grid=case["grid"],
        schedule=schedule,
        prediction=prediction,
        x_init=x_init.clone(),
        noise=list(draws),
        options={**case["options"], **options},
        dtype=torch.float64,
        executor="eager",
    )
    assert ours.dtype == torch.float64
    assert model.calls == case["nfe"]
    return float((ours - final).abs().max() / final.abs().max())


@pytest.mark.parametrize("name", named("agree"))
def test_agrees_with_the_published_sampler(name: str) -> None:
    assert distance(name) <= CASES[name].get("tolerance", TOLERANCE)


@pytest.mark.parametrize("name", named("refuse"))
def test_refuses_what_the_published_code_loses_silently(name: str) -> None:
    with pytest.raises(ValueError, match=CASES[name]["match"]):
        distance(name)


@pytest.mark.parametrize(("name", "prediction"), PREDICTIONS)
def test_agrees_whatever_the_network_predicts(name: str, prediction: str) -> None:
    assert distance(name, prediction) <= TOLERANCE


@pytest.mark.parametrize("name", named("official"))
def test_corrects_an_erratum_and_reproduces_it_on_request(name: str) -> None:
    assert distance(name) > VISIBLE
    assert distance(name, compat="official") <= CASES[name].get("tolerance", TOLERANCE)


@pytest.mark.parametrize("name", named("differ"))
def test_is_not_the_published_mistake(name: str) -> None:
    assert distance(name) > VISIBLE


@pytest.mark.parametrize("name", ["seeds_off_edm_dp_o2_n6", "seeds_off_vp_np_o2b_n16", "seeds_off_edmF_o3_n6"])
def test_official_compatibility_changes_nothing_where_the_published_code_is_right(name: str) -> None:
    assert distance(name, compat="official") <= TOLERANCE
