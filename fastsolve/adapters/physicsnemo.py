"""NVIDIA PhysicsNeMo: its predictors and noise schedulers here, and one-step solvers from here in its `sample`.

Known by their protocols only, the library is not imported. A predictor is called as `predictor(x, t)` with t [B]; a noise scheduler has
`timesteps(num_steps)`, [num_steps + 1] and decreasing to 0, and, where x = alpha(t) x0 + sigma(t) noise, `alpha(t)` and `sigma(t)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastsolve import schedules, solvers
from fastsolve.adapters.facts import Facts, stated
from fastsolve.arguments import Seed
from fastsolve.denoiser import Denoiser
from fastsolve.grids import Grid
from fastsolve.sampler import Sampler
from fastsolve.schedules import Schedule

_PREDICTORS = {
    "x0_predictor": "x0",
    "score_predictor": "score",
    "epsilon_predictor": "eps",
    "velocity_predictor": "flow",
}


@dataclass(frozen=True)
class Law(Schedule):
    """The alpha(t) and sigma(t) of a noise scheduler, asked in float64, between its first level and its last above 0."""

    scheduler: Any
    t_min: float
    t_max: float
    name: ClassVar[str] = "physicsnemo"
    unit_start: ClassVar[bool] = False

    def law(self, t: float) -> tuple[float, float, float]:
        at = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = float(self.scheduler.alpha(at)), float(self.scheduler.sigma(at))
        if not sigma > 0.0 or alpha < 0.0:
            raise ValueError(f"alpha = {alpha:g} and sigma = {sigma:g} at t = {t:g} are no level of a schedule")
        return alpha, sigma, math.log(alpha / sigma) if alpha > 0.0 else -math.inf

    def clock(self, lam: float) -> float:
        low, high = 1e-9 * self.t_min, self.t_max
        for _ in range(100):  # by halves: of the inverses that a scheduler may have, none is that of alpha / sigma
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.law(middle)[2] > lam else (low, middle)
            if high - low <= 1e-15 * high:
                break
        return 0.5 * (low + high)


@dataclass(frozen=True)
class Levels(Grid):
    """The levels of a noise scheduler's `timesteps`, as a grid of any number of steps."""

    scheduler: Any
    name: ClassVar[str] = "physicsnemo"
    final_zero: ClassVar[bool] = True  # type: ignore[misc]

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        levels: list[float] = self.scheduler.timesteps(count, dtype=torch.float64).tolist()
        if len(levels) != count + 1 or levels[-1] != 0.0:
            raise ValueError(
                f"{type(self.scheduler).__name__}.timesteps({count}) must be {count + 1} levels that end in 0, not {len(levels)} that "
                f"end in {levels[-1]:g}"
            )
        return levels[:-1]


def schedule_of(noise_scheduler: Any) -> Schedule:
    """The law of a noise scheduler: VE and flow matching where its alpha and sigma are theirs, else a `Law` that asks it.

    Raises TypeError for a noise scheduler that states no alpha and sigma.
    """
    missing = [name for name in ("timesteps", "alpha", "sigma") if not callable(getattr(noise_scheduler, name, None))]
    if missing:
        raise TypeError(
            f"{type(noise_scheduler).__name__} has no {' and no '.join(missing)}: a law needs them, as linear-Gaussian noise schedulers "
            "have them; a scheduler without them is a fastsolve.Denoiser with a schedule of fastsolve.schedules"
        )
    levels = noise_scheduler.timesteps(1000, dtype=torch.float64)
    high, low = float(levels[0]), float(levels[-2])
    probes = torch.linspace(low, high, 9, dtype=torch.float64)
    alpha, sigma = (torch.as_tensor(law(probes)).double() for law in (noise_scheduler.alpha, noise_scheduler.sigma))
    if torch.allclose(sigma, probes, rtol=1e-9, atol=0.0):
        if torch.allclose(alpha, torch.ones_like(probes), rtol=1e-9):
            return schedules.VE(low, high)
        if torch.allclose(alpha, 1.0 - probes, rtol=1e-9, atol=1e-12):
            return schedules.Flow(t_max=high)
    return Law(noise_scheduler, low, high)


def wrap(
    noise_scheduler: Any,
    *,
    x0_predictor: Callable[..., Tensor] | None = None,
    score_predictor: Callable[..., Tensor] | None = None,
    epsilon_predictor: Callable[..., Tensor] | None = None,
    velocity_predictor: Callable[..., Tensor] | None = None,
    **facts: Unpack[Facts],
) -> Denoiser:
    """A Denoiser of a predictor and its noise scheduler, with the arguments of `get_denoiser`; its clock is theirs.

    facts: further fields of the Denoiser, shape above all. `Levels(noise_scheduler)` is the grid of its own time steps.

    Raises ValueError unless one predictor is given, and for a velocity on another path than VE's and flow matching's.
    """
    given = {
        name: predictor
        for name, predictor in zip(
            _PREDICTORS, (x0_predictor, score_predictor, epsilon_predictor, velocity_predictor), strict=True
        )
        if predictor is not None
    }
    if len(given) != 1:
        raise ValueError(f"give one of {', '.join(_PREDICTORS)}, not {' and '.join(given) or 'none'}")
    ((name, predictor),) = given.items()
    law, prediction = schedule_of(noise_scheduler), _PREDICTORS[name]
    if prediction == "flow" and not isinstance(law, schedules.Flow):
        if not isinstance(law, schedules.VE):
            raise ValueError(
                "a velocity is known here on VE and flow matching paths: give x0_predictor or score_predictor"
            )
        prediction = "eps"  # dx/dt where alpha = 1 and sigma = t

    return stated(lambda net: net, predictor, law, prediction, facts)


class Stepper:
    """A solver from here for PhysicsNeMo's `sample(..., solver=Stepper(...))`: its `step(x, t_cur, t_next)`, each with t of [B].

    It walks the noise scheduler's `steps` time steps, one at a time, as parts of one plan: the draws of a stochastic solver go on from
    step to step, and churn is that of the whole. It keeps no state, and any number of threads may step at the same time. Solvers that
    remember earlier steps are refused. Where x lives on a GPU a step reads t_cur, which waits for the device.

    seed: as for `Sampler`. options: the solver's.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        noise_scheduler: Any,
        steps: int,
        *,
        solver: str = "heun",
        seed: Seed = 0,
        options: Mapping[str, object] | None = None,
    ) -> None:
        fact = solvers.get(solver)
        if fact.order > fact.stages:
            alone = [name for name in solvers.names() if 0 < solvers.get(name).order <= solvers.get(name).stages]
            raise ValueError(
                f"{solver} remembers earlier steps, and a step is all it would see: use {', '.join(alone)}"
            )
        self.denoiser, self.seed, self._solver, self._options = denoiser, seed, solver, options
        self._levels = [*Levels(noise_scheduler).positive(denoiser.schedule, steps), 0.0]  # type: ignore[arg-type]
        self._made: dict[tuple[object, ...], Sampler] = {}

    def step(self, x: Tensor, t_cur: Tensor, t_next: Tensor) -> Tensor:
        """The state at t_next, [B, *shape]. Raises ValueError where t_cur and t_next are no step of the noise scheduler's."""
        here, there = (float(t[0]) for t in (t_cur, t_next))
        number = min(range(len(self._levels) - 1), key=lambda i: abs(self._levels[i] - here))
        for t, level in ((here, self._levels[number]), (there, self._levels[number + 1])):
            if abs(t - level) > 1e-5 * self._levels[number]:
                raise ValueError(
                    f"{here:g} to {there:g} is no step of these levels, whose nearest is {self._levels[number]:g} to "
                    f"{self._levels[number + 1]:g}: give sample the same noise scheduler and number of steps"
                )
        key = (number, x.shape, x.dtype, x.device)
        if key not in self._made:
            made = Sampler(
                self.denoiser,
                x.shape,
                solver=self._solver,
                grid=self._levels,
                start=number,
                stop=number + 1,
                device=x.device,
                dtype=x.dtype,
                options=self._options,
            )
            for other in self._made.values():
                made.share(other)
            self._made[key] = made
        return self._made[key](x_init=x, seed=self.seed)
