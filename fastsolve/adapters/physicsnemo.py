"""NVIDIA PhysicsNeMo: its predictors and noise schedulers here, and one-step solvers from here in its `sample`.

Known by their protocols only, the library is not imported. A predictor is called as `predictor(x, t)` with t [B]; a noise scheduler has
`timesteps(num_steps)`, [num_steps + 1] and decreasing to 0, and, where x = alpha(t) x0 + sigma(t) noise, `alpha(t)` and `sigma(t)`.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from fastsolve import schedules
from fastsolve.adapters.facts import Facts, Net, stated
from fastsolve.arguments import Seed
from fastsolve.denoiser import Denoiser
from fastsolve.grids import Grid
from fastsolve.plan import Plan, Update
from fastsolve.planner import make_plan
from fastsolve.predictions import Prediction
from fastsolve.sampler import Sampler
from fastsolve.schedules import Node, Schedule

_PREDICTORS = {
    "x0_predictor": "x0",
    "score_predictor": "score",
    "epsilon_predictor": "eps",
    "velocity_predictor": "flow",
}


class _OfScheduler:
    """Equal where all is equal and the noise scheduler is the same object: by its own measure it may have no hash."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._known == other._known

    def __hash__(self) -> int:
        return hash(tuple(self._known.values()))

    @property
    def _known(self) -> dict[str, object]:
        return vars(self) | {"scheduler": id(self.scheduler)}  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Law(_OfScheduler, Schedule):
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


@dataclass(frozen=True, eq=False)
class Levels(_OfScheduler, Grid):
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


@dataclass(frozen=True, eq=False)
class Velocity(_OfScheduler, Prediction):
    """raw = dx/dt = alpha' x0 + sigma' noise, where a noise scheduler states `alpha_dot(t)` and `sigma_dot(t)`."""

    scheduler: Any
    name: ClassVar[str] = "velocity"

    def x0(self, node: Node) -> tuple[float, float]:
        at = torch.tensor(node.t, dtype=torch.float64)
        falls, rises = float(self.scheduler.alpha_dot(at)), float(self.scheduler.sigma_dot(at))
        power = rises * node.alpha - falls * node.sigma
        return rises / power, -node.sigma / power


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
    x0_predictor: Net | None = None,
    score_predictor: Net | None = None,
    epsilon_predictor: Net | None = None,
    velocity_predictor: Net | None = None,
    **facts: Unpack[Facts],
) -> Denoiser:
    """A Denoiser of a predictor and its noise scheduler, with the arguments of `get_denoiser`; its clock is theirs.

    facts: further fields of the Denoiser, shape above all; dtype is the state's, as in `sample`, where none is given.
    `Levels(noise_scheduler)` is the grid of its own time steps.

    Raises ValueError unless one predictor is given, and for a velocity where the path's own is not stated: on other paths than VE's and
    flow matching's it takes the noise scheduler's `alpha_dot` and `sigma_dot`.
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
    law = schedule_of(noise_scheduler)
    prediction: str | Prediction = _PREDICTORS[name]
    if prediction == "flow" and isinstance(law, schedules.VE):
        prediction = "eps"  # dx/dt where alpha = 1 and sigma = t
    elif prediction == "flow" and not isinstance(law, schedules.Flow):
        if not all(callable(getattr(noise_scheduler, dot, None)) for dot in ("alpha_dot", "sigma_dot")):
            raise ValueError(
                f"a velocity on the path of {type(noise_scheduler).__name__} needs its alpha_dot and sigma_dot: give x0_predictor or "
                "score_predictor"
            )
        prediction = Velocity(noise_scheduler)
    return stated(lambda net: net, predictor, law, prediction, {"dtype": None, **facts})


class Stepper:
    """A solver from here for PhysicsNeMo's `sample(..., solver=Stepper(...))`: its `step(x, t_cur, t_next)`, each with t of [B].

    It walks the noise scheduler's `steps` time steps, one at a time, as parts of one plan: the draws of a stochastic solver go on from
    step to step, and churn is that of the whole. It keeps no state, and any number of threads may step at the same time. Solvers that
    remember earlier steps are refused. Where x lives on a GPU a step reads its two times, which waits for the device.

    seed: as for `Sampler`, of every run; a torch.Generator gives other ones to each. options: the solver's.
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
        law = schedules.get(denoiser.schedule)
        self._levels = [*Levels(noise_scheduler).positive(law, steps), law.t_clean]
        if _remembers(make_plan(solver, schedule=law, grid=self._levels, options=options)):
            raise ValueError(
                f"{solver} remembers earlier steps, and a step is all it would see: use one that does not, such as euler, heun, "
                "dpmpp_3s or seeds3"
            )
        self.seed = seed
        self._part = functools.partial(Sampler, denoiser, solver=solver, grid=self._levels, options=options)
        self._made: dict[tuple[object, ...], Sampler] = {}
        self._making = threading.Lock()

    def step(self, x: Tensor, t_cur: Tensor, t_next: Tensor) -> Tensor:
        """The state at t_next, [B, *shape]. Raises ValueError where t_cur and t_next are no step of the noise scheduler's."""
        here, there = torch.stack((t_cur[0], t_next[0])).tolist()
        number = min(range(len(self._levels) - 1), key=lambda i: abs(self._levels[i] - here))
        for t, level in ((here, self._levels[number]), (there, self._levels[number + 1])):
            if abs(t - level) > 1e-5 * self._levels[number]:
                raise ValueError(
                    f"{here:g} to {there:g} is no step of these levels, whose nearest is {self._levels[number]:g} to "
                    f"{self._levels[number + 1]:g}: give sample the same noise scheduler and number of steps"
                )
        key = (number, x.shape, x.dtype, x.device)
        with self._making:
            if key not in self._made:
                made = self._part(x.shape, start=number, stop=number + 1, device=x.device, dtype=x.dtype)
                for other in self._made.values():
                    made.share(other)
                self._made[key] = made
        return self._made[key](x_init=x, seed=self.seed)


def _remembers(plan: Plan) -> bool:
    """Whether a step reads more of those before it than the state on which it calls the model first."""
    first = {plan.evals[number].d for number in plan.steps}
    made, gone = {"x0"}, set[str]()
    for op in plan.ops:
        if isinstance(op, Update):
            makes = {row.out for row in op.rows}
            reads = {
                f"d{name[1:]}".rstrip("'") if name[0] in "rh" else name for row in op.rows for name, _ in row.terms
            }
        else:
            makes, reads = {op.d}, set(op.inputs)
            if op.d in first:
                gone = made - reads
        if reads & gone:
            return True
        made |= makes
    return False
