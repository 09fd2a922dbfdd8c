"""The schedulers: any solver of the catalogue in diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import (
    KarrasDiffusionSchedulers,
    SchedulerMixin as SchedulerMixin,
    SchedulerOutput,
)
from torch import Tensor

from fastsolve.adapters.diffusers.laws import family_of, has_betas, is_cosine, kept_of, law_of
from fastsolve.adapters.diffusers.layout import mixed
from fastsolve.adapters.diffusers.stepped import Stepped
from fastsolve.schedules import VPTable


class _Scheduler(Stepped, SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # two classes of diffusers disagree on a name
    """What diffusers asks of a scheduler's class."""

    output = SchedulerOutput

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler from another's config (`pipe.scheduler.config`), and what is to be different.

        Raises ValueError for the config of a model of the other class.
        """
        kept = cls._of_the_model(config) if isinstance(config, Mapping) else {}
        return super().from_config(config, return_unused_kwargs, **{**kept, **kwargs})

    @classmethod
    def _of_the_model(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """What is taken over of another's config beyond diffusers' rules."""
        raise NotImplementedError


class FastSolveScheduler(_Scheduler):
    """Any solver with steps that are alike, for models of noise levels: DDPM's and Stable Diffusion's (betas), EDM's.

    solver: a name of `fastsolve.list_solvers()`. options: its keyword arguments, as a dict. grid: a name of `fastsolve.grids`, or
    clock values, instead of the config's spacing. The rest is what diffusers' schedulers call by the same names; where it is None, the
    rule is that of the built-in scheduler of the solver's name (DPMSolverMultistepScheduler's for solvers that have none).
    sigma_data: makes it EDM's (alpha = 1), of a network that is told log(sigma) / 4, or with clock="atan" 2 atan(sigma) / pi.

    The state is alpha x0 + sigma noise, as in DDIM and DPM-Solver (EDM: x0 + sigma noise). Raises ValueError for unknown names, with the
    nearest; for solvers whose steps are not alike (restart), or of several variables (tada); and for dynamic thresholding.
    """

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers]  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        solver: str = "dpmpp_2m",
        options: dict[str, Any] | None = None,
        grid: str | list[float] | None = None,
        timestep_spacing: str | None = None,
        timestep_type: str = "discrete",
        steps_offset: int = 0,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_lu_lambdas: bool = False,
        rescale_betas_zero_snr: bool = False,
        final_sigmas_type: str | None = None,
        set_alpha_to_one: bool | None = None,
        clip_sample: bool | None = None,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        variance_type: str | None = None,
        lambda_min_clipped: float | None = None,
        original_inference_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
        sigma_schedule: str | None = None,
        rho: float = 7.0,
        clock: str | None = None,
    ) -> None:
        """All that the class's description does not name is as in diffusers."""
        config = {key: value for key, value in self.config.items() if sigma_data is None or not key.startswith("beta_")}
        self._set_up(law_of(config, solver), options)
        if self._law.family == "vp":
            table = self._law.schedule
            assert isinstance(table, VPTable)
            self.alphas_cumprod = torch.tensor(table.alphas_cumprod, dtype=torch.float32)
            before = torch.cat([torch.ones(1), self.alphas_cumprod[:-1]])
            self.betas = 1.0 - self.alphas_cumprod / before

    @classmethod
    def _of_the_model(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        family = family_of(config)
        if family == "flow":
            raise ValueError(
                "this config is of a flow-matching model, and FastSolveScheduler is for models of noise levels (its samples would be "
                "noise): write FastSolveFlowScheduler.from_config(pipe.scheduler.config, ...)"
            )
        if family == "vp" and not has_betas(config):
            raise ValueError(
                "this config has no betas, so that it may be of any model: write FastSolveScheduler(beta_start=..., beta_end=..., "
                "beta_schedule=..., ...) where they are known, FastSolveFlowScheduler.from_config(...) for flow matching"
            )
        kept = kept_of(config, cls, family)
        return {"clock": "atan", **kept} if family == "ve" and is_cosine(config) else kept

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma noise: at the level of the next model call, once `set_begin_index` was called, else at the timesteps."""
        return self._noised(original_samples, noise, timesteps)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha noise - sigma x0, what a network of v-prediction is trained on, at the timesteps."""
        return mixed(noise, -sample, [self._node(t) for t in timesteps.reshape(-1).tolist()])

    def _all_timesteps(self) -> Tensor:
        if self._law.family == "vp":
            return torch.arange(len(self.alphas_cumprod) - 1, -1, -1, dtype=torch.float32)
        levels = self._law.levels(len(self))[:-1]
        return torch.tensor([self._law.time(t) for t in levels], dtype=torch.float32)


class FastSolveFlowScheduler(_Scheduler):
    """Any solver with steps that are alike, for flow-matching models: Stable Diffusion 3, Flux, video models.

    solver, options, grid: as of `FastSolveScheduler`. The rest is what diffusers' schedulers call by the same names. compat: the levels
    that FlowMatchEulerDiscreteScheduler lays where a pipeline gives it none; it shifts its last one twice, which is not done otherwise.

    The state is (1 - t) x0 + t noise. Raises ValueError as `FastSolveScheduler` does.
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        solver: str = "dpmpp_2m",
        options: dict[str, Any] | None = None,
        grid: str | list[float] | None = None,
        compat: bool = False,
        prediction_type: str = "flow_prediction",
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        shift_terminal: float | None = None,
        invert_sigmas: bool = False,
        stochastic_sampling: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        thresholding: bool = False,
        variance_type: str | None = None,
    ) -> None:
        self._set_up(law_of(self.config, solver, compat=compat), options)

    @classmethod
    def _of_the_model(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        family = family_of(config)
        if family != "flow" and (family == "ve" or has_betas(config)):
            raise ValueError(
                "this config is of a model of noise levels (betas, or EDM's sigma), and FastSolveFlowScheduler is for flow matching: write "
                "FastSolveScheduler.from_config(pipe.scheduler.config, ...)"
            )
        return kept_of(config, cls, "flow")

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """(1 - t) x0 + t noise: at the level of the next model call, once `set_begin_index` was called, else at the timesteps."""
        return self._noised(sample, noise, timestep)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`scale_noise` in the other schedulers' order of arguments."""
        return self._noised(original_samples, noise, timesteps)

    def _all_timesteps(self) -> Tensor:
        train = len(self)
        levels = [self._law.schedule.warp((i + 1) / train) for i in reversed(range(train))]
        return torch.tensor([self._law.time(t) for t in levels], dtype=torch.float32)


# What a saved pipeline names, wherever in the package the classes are written.
FastSolveScheduler.__module__ = FastSolveFlowScheduler.__module__ = "fastsolve.adapters.diffusers"
