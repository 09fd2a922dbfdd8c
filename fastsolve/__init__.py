"""fastsolve: samplers of diffusion and flow-matching models, compiled once into plans and run with one fused kernel per model call."""

from fastsolve import (
    calibrate as calibrate,
    grids as grids,
    models as models,
    pictures as pictures,
    predictions as predictions,
    presets as presets,
    problems as problems,
    schedules as schedules,
)
from fastsolve.adapters import accelerate as accelerate
from fastsolve.api import cite as cite, list_solvers as list_solvers, sample as sample
from fastsolve.controls import APG as APG, Guidance as Guidance
from fastsolve.denoiser import Denoiser as Denoiser
from fastsolve.draft import Draft as Draft
from fastsolve.executors.library import combine as combine
from fastsolve.forms import Form as Form
from fastsolve.functions import dynamic_threshold as dynamic_threshold
from fastsolve.inversion import invert as invert, slerp as slerp
from fastsolve.likelihood import log_likelihood as log_likelihood
from fastsolve.logprob import Transitions as Transitions
from fastsolve.plan import Plan as Plan, PlanError as PlanError
from fastsolve.planner import make_plan as make_plan
from fastsolve.presets import restart_presets as restart_presets
from fastsolve.recommended import Recommendation as Recommendation, recommend as recommend
from fastsolve.sampler import Sampler as Sampler
from fastsolve.solvers import Solver as Solver, solver as solver
from fastsolve.stepper import Stepper as Stepper
from fastsolve.stepping import Stepping as Stepping
from fastsolve.watching import Step as Step

__version__ = "0.1.0"
