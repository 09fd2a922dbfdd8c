"""What both schedulers do: levels laid for a run, a run for each thread, one launch for each model output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsolve import grids
from fastsolve.adapters.diffusers.law import Law
from fastsolve.adapters.diffusers.layout import ELSEWHERE, Layout, checked_times, mixed, stages
from fastsolve.adapters.diffusers.seeds import Generators, seed_of
from fastsolve.schedules import Node
from fastsolve.stepper import Stepper
from fastsolve.stepping import Stepping

_KEPT = 16  # compiled plans: of as many shapes, dtypes, devices and starts


class Run(threading.local):
    """Where this thread's run stands. laid: what this thread's `set_timesteps` laid. layout: of the run that is on its way. index: of the
    model call whose output comes next.
    """

    laid: Layout | None = None
    layout: Layout | None = None
    begin: int | None = None
    index: int | None = None
    end: int = 0
    stepping: Stepping | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _of, (dict(self.__dict__),)


def _of(state: Mapping[str, Any]) -> Run:
    run = Run()
    run.__dict__.update(state)
    return run


class Stepped:
    """The part of a scheduler that is not diffusers'. Each thread has its own run: one scheduler serves pipelines in several threads.

    A copy stands where the thread that makes it stands. order: model calls, and timesteps, of a step.
    """

    config: Any
    order: int
    output: Callable[..., Any]  # diffusers' dataclass

    def _set_up(self, law: Law, options: Mapping[str, Any] | None) -> None:
        self._law, self._solver = law, str(self.config.solver)
        self._options = tuple(sorted((options or {}).items()))
        grids.get(self.config.grid, law.schedule)  # which says what is wrong with a name
        self.order = stages(self._solver, dict(self._options), law)
        self._learned = self.config.get("variance_type") in ("learned", "learned_range")
        self._latest: Layout | None = None
        self._steppers: dict[tuple[object, ...], Stepper] = {}
        self._run = Run()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_steppers": {}}

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    @property
    def _layout(self) -> Layout | None:
        return self._run.layout or self._run.laid or self._latest

    @property
    def num_inference_steps(self) -> int | None:
        """Steps of the levels that are laid."""
        layout = self._layout
        return None if layout is None else layout.steps

    @property
    def step_index(self) -> int | None:
        """The number of the next model call, from the start of the run; None before the first."""
        return self._run.index

    @property
    def begin_index(self) -> int | None:
        """The number of the first model call, as `set_begin_index` said."""
        return self._run.begin

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Says with which model call the run begins: a multiple of `order`."""
        if begin_index % self.order:
            raise ValueError(
                f"a run of {self._solver} begins with a step, at a multiple of {self.order} model calls, not with call {begin_index}"
            )
        run, layout = self._run, self._layout
        if begin_index and self.order > 1 and layout is not None and layout.given:
            raise ValueError(
                f"where sigmas or timesteps are given, diffusers' pipelines take the {len(layout.told)} timesteps for as many steps, and "
                f"so would begin elsewhere than strength says: take dpmpp_2m, say, of one call a step; {ELSEWHERE.format(self._solver)}"
            )
        run.begin = begin_index
        run.layout = run.index = run.stepping = None

    @property
    def timesteps(self) -> Tensor:
        """What the network is told, for each model call; float32 on the device of `set_timesteps`."""
        layout = self._layout
        return self._all_timesteps() if layout is None else layout.timesteps

    @property
    def sigmas(self) -> Tensor:
        """sigma / alpha (flow matching: sigma) at each model call and at the end; float32 on the CPU."""
        layout = self._layout
        if layout is not None:
            return layout.sigmas
        nodes = [self._node(t) for t in self._all_timesteps().tolist()]
        flow = self._law.family == "flow"
        return torch.tensor(
            [*(n.sigma if flow else n.sigma / n.alpha if n.alpha else float("inf") for n in nodes), 0.0]
        )

    @property
    def init_noise_sigma(self) -> float:
        """The factor of a pipeline's unit noise."""
        layout = self._layout
        return self._law.start_scale(None if layout is None else layout.levels[0])

    def _all_timesteps(self) -> Tensor:
        raise NotImplementedError

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Lays the levels of this thread's next run.

        timesteps: what the network is told at the start of each step (not of the stages between), instead of the config's rule. sigmas:
        sigma / alpha there (flow matching: sigma before the shift); a 0 after the last is left out. mu: log of the shift, where the
        config has use_dynamic_shifting. With both timesteps and sigmas, these are the levels and those what the network is told.
        """
        times, values = (None if given is None else [float(v) for v in given] for given in (timesteps, sigmas))
        grid = self.config.grid if times is None and values is None else None
        levels = self._law.levels(num_inference_steps, timesteps=times, sigmas=values, mu=mu, grid=grid)
        told = checked_times(self._law, times, values)
        given = times is not None or values is not None
        layout = Layout(self._law, self._solver, self._options, levels, self.order, device, told, given)
        run = self._run
        run.laid = self._latest = layout
        run.layout = run.begin = run.index = run.stepping = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network is called on: the state scaled by c_in of an EDM model, itself for others."""
        if self._law.family != "ve":
            return sample
        run = self._run
        if run.stepping is not None:
            return run.stepping.input(sample)
        layout = self._layout
        if layout is None:
            return sample * self._law.prediction.input_scale(self._node(timestep))
        return sample * layout.scales[self._first(run, layout, timestep)]

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """The state of the next model call, or after the last one the result, in the dtype of the model's output; one launch.

        timestep: looked at in the first step only, and only where no `set_begin_index` told where the run begins. generator: gives the
        seeds of the run in its first step, if the solver draws noise; without one torch's own does.
        """
        run = self._run
        stepping = run.stepping
        if stepping is None:
            stepping = self._begin(run, model_output, timestep, sample, generator)
            if stepping is None:
                after = sample.to(model_output.dtype)
                return self.output(prev_sample=after) if return_dict else (after,)
        if self._learned:
            model_output = model_output[:, : sample.shape[1]]
        after = stepping.step(model_output, sample)
        run.index += 1  # type: ignore[operator]  # a run has begun
        if run.index == run.end:
            run.layout = run.stepping = None  # the next run may be of levels that another thread has laid since
        return self.output(prev_sample=after) if return_dict else (after,)

    def _first(self, run: Run, layout: Layout, timestep: float | Tensor | None) -> int:
        """The model call at which this thread's run stands, or begins."""
        if run.index is None or run.layout is None:
            run.index = (
                run.begin if run.begin is not None else layout.nearest(float(0.0 if timestep is None else timestep))
            )
        return run.index

    def _begin(
        self, run: Run, output: Tensor, timestep: float | Tensor, sample: Tensor, generator: Generators
    ) -> Stepping | None:
        """The run from where this thread stands; None in a call that no plan needs."""
        layout = self._layout
        if layout is None:
            raise ValueError("there are no levels to step through: call set_timesteps(num_inference_steps) first")
        index, run.end = self._first(run, layout, timestep), len(layout.told)
        run.layout = layout
        if index >= run.end:
            raise ValueError(f"a run of {run.end} model calls cannot begin with call {index}: set_begin_index says so")
        if index < layout.idle:
            run.index = index + 1
            return None
        plan = layout.plan(index // layout.order)
        key = (plan, sample.shape, output.dtype, sample.device)
        stepper = self._steppers.get(key)
        if stepper is None:
            stepper = Stepper(plan, sample.shape, device=sample.device, dtype=output.dtype)
            if len(self._steppers) >= _KEPT:
                self._steppers.clear()
            self._steppers[key] = stepper
        run.stepping = stepping = stepper.begin(seed_of(generator, len(sample)) if plan.draws else 0)
        return stepping

    def _node(self, time: float | Tensor | None) -> Node:
        """The level at which the network is told `time`, or the end of the model's range that is nearest."""
        law, schedule = self._law, self._law.schedule
        level = schedule.t_clean if time is None else law.level(float(time))
        if law.family == "vp" and level < 0.0:
            level = 0.0
        return schedule.node(
            min(max(level, schedule.t_clean), schedule.t_max if schedule.t_limit is None else schedule.t_limit)
        )

    def _noised(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha sample + sigma noise: at the next model call of a run that `set_begin_index` placed, else at each timestep."""
        run, layout = self._run, self._layout
        if layout is not None and run.begin is not None:
            node = layout.nodes[run.begin if run.index is None else run.index]
            return node.alpha * sample + node.sigma * noise
        return mixed(sample, noise, [self._node(t) for t in timesteps.reshape(-1).tolist()])
