"""diffusers' own common checks of schedulers, on ours: where DIFFUSERS_PATH names a checkout with its `tests`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = os.environ.get("DIFFUSERS_PATH")
CODE = """
from tests.schedulers.test_schedulers import SchedulerCommonTest as Common
from fastsolve.adapters.diffusers import FastSolveFlowScheduler, FastSolveScheduler

VP = dict(num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
EDM = dict(sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)
FLOW = dict(num_train_timesteps=1000)

def checks(name, kind, **config):
    body = dict(
        scheduler_classes=(kind,),
        forward_default_kwargs=(("num_inference_steps", 25),),
        get_scheduler_config=lambda self, **more: {**config, **more},
    )
    if kind is FastSolveFlowScheduler:
        body["test_trained_betas"] = None  # flow matching has none; diffusers' own flow schedulers fail it
    return type(name, (Common,), body)

for solver in ("dpmpp_2m", "euler", "ddim", "heun", "seeds3", "unipc", "deis", "dpmpp_2m_sde", "euler_ancestral", "er_sde"):
    for kind, config in ((FastSolveScheduler, VP), (FastSolveFlowScheduler, FLOW)):
        name = f"Test_{kind.__name__}_{solver}"
        globals()[name] = checks(name, kind, solver=solver, **config)
Test_edm = checks("Test_edm", FastSolveScheduler, solver="heun", **EDM)
del Common
"""


@pytest.mark.skipif(not CHECKOUT, reason="DIFFUSERS_PATH names no checkout of diffusers")
def test_upstreams_common_checks_pass(tmp_path: Path) -> None:
    assert CHECKOUT
    (tmp_path / "test_ours.py").write_text(CODE)
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([CHECKOUT, str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_ours.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\b200 passed", done.stdout), done.stdout[-400:]
