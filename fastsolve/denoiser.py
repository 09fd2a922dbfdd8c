"""The denoiser: a network and what a sampler must know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from fastsolve import predictions, schedules
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A model `model(x, t, **kwargs) -> raw` with everything that sampling needs, so that no call has to repeat it.

    model: x is [B, *shape] at the scale the prediction expects, t is [B] in the schedule's clock; raw is [B, *shape]. x is the
    sampler's buffer and will be written again: clone what is kept.
    schedule, prediction: names or objects of `fastsolve.schedules` and `fastsolve.predictions`.
    shape: of one sample, without the batch; None leaves it to the caller.
    device: where the model lives; None finds it from a module's parameters, else the CPU.
    dtype: of the x the model is called with; None is the state's. output_dtype: of raw; None is dtype.
    nfe: the budget of model calls where the caller states none.
    null: keyword arguments of the unconditional call, for guidance. guide: another network for that call, of the same prediction and
    dtypes (autoguidance, Karras et al. 2024, arXiv 2406.02507). doubles: a guided call is one call on a doubled batch, the conditional
    half first, and not two; or a function (arguments with condition, those without) -> those of the doubled call, where more is to be
    done than to join tensors of the batch.
    reuses_output: the model returns the same storage every time (a `reduce-overhead` model): it is copied, never captured.
    """

    model: Callable[..., torch.Tensor]
    schedule: str | Schedule
    prediction: str | Prediction
    shape: tuple[int, ...] | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    output_dtype: torch.dtype | None = None
    nfe: int | None = None
    null: Mapping[str, object] | None = field(default=None)
    guide: Callable[..., torch.Tensor] | None = None
    doubles: bool | Callable[[Mapping[str, object], Mapping[str, object]], Mapping[str, object]] = False
    reuses_output: bool = False

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(f"a model is called as model(x, t, ...); {type(self.model).__name__} is not callable")
        schedule = schedules.get(self.schedule)
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "prediction", predictions.get(self.prediction, getattr(schedule, "sigma_data", None)))
        object.__setattr__(self, "device", torch.device(self.device) if self.device else device_of(self.model))
        for name in ("dtype", "output_dtype"):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, torch.dtype) and given.is_floating_point):
                raise TypeError(f"{name} must be a floating torch.dtype, not {given!r}")
        if self.shape is not None:
            shape = self.shape
            if isinstance(shape, int) or not all(isinstance(n, int) and n > 0 for n in shape):
                raise ValueError(f"shape must be positive ints, without the batch, not {self.shape}")
            object.__setattr__(self, "shape", tuple(shape))
        if self.nfe is not None and (not isinstance(self.nfe, int) or self.nfe < 1):
            raise ValueError(f"nfe must be a positive int, not {self.nfe!r}")
        if self.guide is not None and not callable(self.guide):
            raise TypeError(f"guide is a network, called as the model is; {type(self.guide).__name__} is not callable")
        if self.guide is not None and self.doubles:
            raise ValueError("doubles=True is one call of one network, and guide is another one: give one of them")
        if self.null is not None and not isinstance(self.null, Mapping):
            raise TypeError(f"null must be a dict of keyword arguments, not {self.null!r}")

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """The raw output at x [B, *shape], t [B]."""
        return self.model(x, t, **kwargs)


def device_of(model: object) -> torch.device:
    """Where a model lives: a Denoiser's device, that of a module's first parameter, else the CPU."""
    if isinstance(model, Denoiser):
        assert isinstance(model.device, torch.device)
        return model.device
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")
