"""Schedulers for diffusers' pipelines: `pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver="seeds3")`.

Import this module before a pipeline that was saved with them is loaded. Needs the extra `diffusers`.
"""

from fastsolve.adapters.diffusers.scheduler import (
    FastSolveFlowScheduler as FastSolveFlowScheduler,
    FastSolveScheduler as FastSolveScheduler,
    SchedulerMixin as SchedulerMixin,  # diffusers looks for it here, to know how a saved class is loaded
)
