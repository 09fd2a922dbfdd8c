"""The loop of a pipeline, run dry to learn how it asks its network, and then by a `Sampler` at once."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsolve.adapters.diffusers import habits, starts
from fastsolve.adapters.diffusers.habits import Turn, UnlikeError
from fastsolve.adapters.diffusers.law import Law
from fastsolve.adapters.diffusers.network import Call, denoiser, switches
from fastsolve.adapters.diffusers.seeds import seed_of
from fastsolve.adapters.diffusers.told import Told
from fastsolve.api import sample
from fastsolve.controls import Guidance
from fastsolve.grids import Grid
from fastsolve.planner import make_plan


class Previous(NamedTuple):
    """What pipelines take from a scheduler's step, by name or as the first of a tuple."""

    prev_sample: Tensor


class Loop:
    """Stands in for a pipeline's scheduler during one call of it.

    Every step but the last gives back random latents and looks at what the pipeline makes of them and of random outputs of its network:
    that shows conditions, guidance, the time the network is told, and that nothing else happens between two steps. The last step gives
    back what a `Sampler` made of the latents that came to the first one.
    """

    order = 1

    def __init__(self, law: Law, config: Any, asked: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """asked: solver, grid, options, executor and graph of `accelerate`. given: arguments of the pipeline's call."""
        self.config = config
        self._law, self._asked, self._given = law, asked, given
        self._calls: list[Call] = []
        self._first: Turn | None = None
        self._before = self._latents = torch.empty(0)
        self._start, self._made, self._ran = 0, 0, False
        self._switches: list[dict[str, object]] = []
        self._random: torch.Generator | None = None
        self._times: list[float] = []
        self.levels: tuple[float, ...] = ()
        self.pipe: Any = None  # the pipeline that runs dry, which has this loop
        self.callback: Callable[..., Any] | None = None
        self.tick: Callable[[int], object] = int

    @property
    def ran(self) -> bool:
        """Whether the pipeline came to its last step."""
        return self._ran

    # What pipelines ask of a scheduler.

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Lays the levels: the law's, or `grid`; timesteps and sigmas as the caller or the pipeline gives them."""
        grid: str | Grid | Sequence[float] | None = self._asked["grid"]
        mu = mu if self._law.dynamic else None  # Flux gives it to every scheduler
        if grid is not None:
            count = len(sigmas) if num_inference_steps is None and sigmas is not None else num_inference_steps
            levels = self._law.levels(count, mu=mu, grid=grid)
        else:
            levels = self._law.levels(num_inference_steps, timesteps=timesteps, sigmas=sigmas, mu=mu)
        self.levels = levels
        self.num_inference_steps = len(levels) - 1
        times = [self._law.time(t) for t in levels[:-1]]
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self._times = self.timesteps.tolist()
        nodes = [self._law.schedule.node(t) for t in levels]
        ratios = [node.sigma / (node.alpha or math.nan) for node in nodes]
        self.sigmas = torch.tensor([node.t for node in nodes] if self._law.family == "flow" else ratios)

    @property
    def init_noise_sigma(self) -> float:
        """The factor of unit noise at the first level."""
        return self._law.start_scale(self.levels[0])

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing: the first time that comes to `step` says where the loop begins."""

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The sample: the plan has the scale of the network's input."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Data brought to a level of the grid."""
        node = self._law.schedule.node(self.levels[self._index(timesteps)])
        return node.alpha * original_samples + node.sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` in the order of flow matching."""
        return self.add_noise(sample, noise, timestep)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: object = None,
        return_dict: bool = True,
    ) -> Previous:
        """A turn of the dry loop, or in its last one the run."""
        calls, self._calls = self._calls, []
        i = self._index(timestep)
        time = self._times[i]
        if self._first is None:
            self._first = habits.seen(calls, model_output, time, sample, self._law, self._guidances())
            self._start, self._latents, self._switches = i, sample, switches(calls[0].net)
            self._before = self._normal(tuple(sample.shape), sample).to(sample.dtype)
        elif self._ran or i != self._start + self._made:
            raise UnlikeError("it does not walk its timesteps one after the other")
        elif not (sample is self._before or torch.equal(sample.to(self._before.dtype), self._before)):
            raise UnlikeError(
                "it changes the latents between two steps (as inpainting with a network of 4 channels does)"
            )
        else:
            habits.check(self._first, calls, model_output, time, sample)
        self._made += 1
        last = vars(self.pipe).get("_num_timesteps", len(self._times) - self._start)
        return Previous(self._before if self._made < last else self._run(self._first, sample).to(sample.dtype))

    def _index(self, time: Tensor | float) -> int:
        if isinstance(time, Tensor) and not time.numel():
            raise ValueError(
                f"of {len(self._times)} steps none is left: strength must be 1 / num_inference_steps at least, that is "
                f"{1 / len(self._times):.3g}, not {self._given.get('strength')}"
            )
        value = float(time.reshape(-1)[0]) if isinstance(time, Tensor) else float(time)
        return min(range(len(self._times)), key=lambda i: abs(self._times[i] - value))

    def note(self, call: Call) -> None:
        """Told each call of the network."""
        self._calls.append(call)

    def random(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """What the next call of the network gives back: in every turn the same."""
        number = len(self._calls)
        known = self._first.calls[number : number + 1] if self._first is not None else []
        return known[0].out if known and known[0].out.shape == shape else self._normal(shape, like)

    def _normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normals in float32; nobody else's random state is touched."""
        if self._random is None or self._random.device != like.device:
            self._random = torch.Generator(like.device).manual_seed(0)
        return torch.randn(shape, generator=self._random, device=like.device)

    def _draw(self, latents: Tensor, generator: Any) -> Tensor:
        """Normals as a pipeline draws its latents."""
        from diffusers.utils.torch_utils import randn_tensor

        drawn: Tensor = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=torch.float32)
        return drawn

    def _guidances(self) -> list[Guidance]:
        """What the arguments of the call may mean."""
        said = {
            name: float(v)
            for name, v in self._given.items()
            if ("guidance" in name or "cfg" in name)
            and (isinstance(v, numbers.Real) or (isinstance(v, Tensor) and v.numel() == 1))
        }
        shares = [0.0, *(v for name, v in said.items() if "rescale" in name and v)]
        scales = dict.fromkeys(v for name, v in said.items() if "rescale" not in name)
        return [Guidance(scale, rescale=share) for scale, share in itertools.product(scales, shares)]

    def _run(self, turn: Turn, now: Tensor) -> Tensor:
        """The latents after the last step, from those of the first."""
        asked, law, latents, stop = self._asked, self._law, self._latents, self._start + self._made
        self._ran = True
        part: dict[str, Any] = {
            "solver": asked["solver"],
            "grid": self.levels,
            "guidance": turn.guidance,
            "clip": law.clip,
            "options": asked["options"],
            "start": self._start or None,
            "stop": stop if stop < len(self._times) else None,
        }
        if switches(turn.calls[0].net) != self._switches:
            raise UnlikeError("it changes modules of its network from step to step (as GLIGEN does)")
        plan = make_plan(schedule=law.schedule, prediction=law.prediction, **part)
        if self._made == 1 and plan.nfe > 1:
            raise UnlikeError(
                f"one step does not show what changes from step to step, and in it {plan.solver} calls the network {plan.nfe} times (take "
                "two steps or more)"
            )
        if plan.variables and self._start:
            raise UnlikeError(f"it starts from data, and {plan.solver} from {len(plan.variables)} noises")
        generator = self._given.get("generator")
        state = starts.state(plan, latents, self.init_noise_sigma, lambda: self._draw(latents, generator))
        conditions, *negative = turn.conditions
        told = Told(self.callback, self.pipe, self.timesteps[self._start :], now.dtype, self.tick)
        looked_at = (
            self.callback is not None or latents.device.type != "cuda"
        )  # where it may be one graph, it stays one
        out = sample(
            denoiser(turn.calls[0], turn.habits, law.schedule, law.prediction),
            latents.shape,
            **part,
            seed=seed_of(generator, len(latents)) if plan.draws else 0,
            x_init=state,
            model_kwargs=conditions,
            negative_kwargs=negative[0] if negative else None,
            device=latents.device,
            executor=asked["executor"],
            graph=asked["graph"],
            callback=told if looked_at else None,
        )
        if not looked_at:
            self.tick(self._made - 1)
        if told.latents is None:
            told.tell(self._made - 1, out)
        return out if told.latents is None else told.latents
