"""What callers hand to `sample` and `Sampler`, checked and brought into one form before anything runs."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastsolve import philox, predictions, schedules
from fastsolve.denoiser import Denoiser
from fastsolve.executors.run import Setting
from fastsolve.grids import Grid
from fastsolve.plan import Plan
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule

Seed = int | Sequence[int] | Tensor | torch.Generator
Noise = Sequence[Tensor] | Callable[[int], Tensor]


class Asked(TypedDict, total=False):
    """What each call of a `Sampler` can be given; see there."""

    seed: Seed
    x_init: Tensor | None
    x0_init: Tensor | None
    noise: Noise | None
    model_kwargs: Mapping[str, object] | None
    negative_kwargs: Mapping[str, object] | None
    inpaint: tuple[Tensor, Tensor] | None
    overwrite: tuple[Tensor, Tensor] | None


def known(given: Asked) -> None:
    """Raises TypeError for an argument that a call does not have, naming the nearest."""
    names = Asked.__annotations__
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)[0]
            raise TypeError(
                f"a sampler's call has no argument {name!r}; nearest is {near!r}; it has {', '.join(names)}"
            )


def as_denoiser(
    model: Denoiser | Callable[..., Tensor], schedule: str | Schedule | None, prediction: str | Prediction | None
) -> Denoiser:
    """The model with what it states; a bare callable needs schedule and prediction beside it."""
    if isinstance(model, Denoiser):
        if prediction is not None and predictions.get(prediction) != model.prediction:
            raise ValueError(
                f"the Denoiser states {model.prediction}, not the prediction {prediction!r} given beside it"
            )
        if schedule is not None and type(schedules.get(schedule)) is not type(model.schedule):
            raise ValueError(f"the Denoiser states {model.schedule}, not the schedule {schedule!r} given beside it")
        return model
    if schedule is None or prediction is None:
        raise ValueError(
            "a bare callable needs schedule and prediction; a fastsolve.Denoiser states them once and for all"
        )
    return Denoiser(model, schedule, prediction)


def full_shape(given: Sequence[int] | None, sample_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """[B, *sample] of a run, from the caller's and the model's."""
    if given is None:
        if sample_shape is None:
            raise ValueError("shape is needed, [B, *sample]: the model does not state it")
        return (1, *sample_shape)
    try:
        shape = tuple(operator.index(n) for n in given)
        if any(isinstance(n, bool) for n in given):
            raise TypeError
    except TypeError:
        raise TypeError(f"shape must be ints, the batch first, not {given!r}") from None
    if not shape or min(shape) < 1:
        raise ValueError(f"shape must be positive ints, the batch first, not {shape}")
    if sample_shape is not None and shape[1:] != sample_shape:
        raise ValueError(
            f"the model makes samples of shape {sample_shape}: shape must be (B, {', '.join(map(str, sample_shape))}), not {shape}"
        )
    return shape


def place(given: torch.device | str | None, denoiser: Denoiser) -> torch.device:
    """The device of a run: where the model lives."""
    lives = torch.device(denoiser.device or "cpu")
    found = usable(lives if given is None else given, given is not None)
    if isinstance(denoiser.model, torch.nn.Module) and found.type != lives.type:
        raise ValueError(f"device {given} was asked for, but the model lives on {lives}")
    return found


def usable(device: torch.device | str, tried: bool = True) -> torch.device:
    """A device with its number ("cuda" becomes "cuda:0"). tried: it must hold data, too, for which the host waits."""
    try:
        made = torch.zeros(1, device=torch.device(device))
        if tried:
            made.sum().item()  # a device that can be named may still not be there
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        found = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise ValueError(
            f"device {device!s} cannot be used here, there is {found}: {str(error).splitlines()[0]}"
        ) from None
    return made.device


def keys(seed: Seed, batch: int) -> npt.NDArray[np.uint64]:
    """Keys of the samples, uint64 [B], from an int, ints, an int64 tensor [B] or a generator (one of its ints per sample)."""
    if isinstance(seed, torch.Generator):
        drawn = torch.randint(-(2**63), 2**63 - 1, (batch,), generator=seed, device=seed.device, dtype=torch.int64)
        seed = drawn.tolist()
    elif isinstance(seed, Tensor):
        if seed.is_floating_point() or seed.dim() > 1:
            raise TypeError(f"a seed tensor must hold ints, [B], not {seed.dtype} {list(seed.shape)}")
        seed = seed.tolist()
    return philox.sample_seeds(seed, batch)


def beginning(x_init: Tensor | None, x0_init: Tensor | None, count: int, setting: Setting) -> tuple[list[Tensor], str]:
    """The caller's start, and what it is: a "state", "data", or nothing."""
    if x0_init is not None:
        if x_init is not None:
            raise ValueError("x_init is a state and x0_init data to which noise is added: give one of them")
        if count > 1:
            raise ValueError(f"this solver's state has {count} variables: give x_init, its state, instead of x0_init")
        return [fitting("x0_init", x0_init, setting)], "data"
    return ([], "") if x_init is None else (given_start(x_init, count, setting), "state")


def given_start(x_init: Tensor, count: int, setting: Setting) -> list[Tensor]:
    """The caller's start, one tensor per variable of the solver's state."""
    if count == 1 and not (isinstance(x_init, Tensor) and x_init.dim() == len(setting.shape) + 1):
        return [fitting("x_init", x_init, setting)]
    if not isinstance(x_init, Tensor) or x_init.dim() == 0 or len(x_init) != count:
        given = list(x_init.shape) if isinstance(x_init, Tensor) else type(x_init).__name__
        raise ValueError(
            f"this solver's state has {count} variable(s): x_init must be {[count, *setting.shape]}, not {given}"
        )
    return [fitting(f"x_init[{i}]", x, setting) for i, x in enumerate(x_init)]


def fitting(name: str, tensor: Tensor, setting: Setting) -> Tensor:
    """A tensor of the caller, checked to have the run's shape, dtype and device, made contiguous."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}")
    if tensor.shape != setting.shape or tensor.dtype != setting.dtype or tensor.device != setting.device:
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; "
            f"needed is {setting.dtype} {list(setting.shape)} on {setting.device}"
        )
    return tensor.contiguous()


def given_draws(noise: Noise | None, plan: Plan, setting: Setting) -> list[Tensor]:
    """The caller's draws, checked; none where the seeds make them."""
    if noise is None:
        return []
    if not callable(noise) and not isinstance(noise, Sequence | Tensor):
        raise TypeError(f"noise must be a sequence of tensors or a callable (draw index) -> tensor, not {noise!r}")
    first, draws = plan.first_draw, plan.draws
    given = [noise(first + i) for i in range(draws)] if callable(noise) else list(noise)
    if len(given) != draws:
        raise ValueError(f"noise has {len(given)} tensors, and the plan draws {draws}")
    return [fitting(f"noise {i}", z, setting) for i, z in enumerate(given)]


def blending(inpaint: object, overwrite: object, setting: Setting) -> tuple[list[Tensor], str]:
    """(mask, tensor) of the caller, 1 where the tensor is, each of the run's shape and dtype; and which of the two ways it is."""
    if inpaint is not None and overwrite is not None:
        raise ValueError("inpaint mixes data predictions and overwrite what the model sees: give one of them")
    kind = "inpaint" if inpaint is not None else "overwrite" if overwrite is not None else ""
    given = overwrite if inpaint is None else inpaint
    if given is None:
        return [], ""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"{kind} must be a pair of tensors, a mask and what goes with it, not {type(given).__name__}")
    mask, tensor = (_wide(f"{kind}[{i}]", part, setting) for i, part in enumerate(given))
    mask = 1.0 - mask if inpaint is not None else mask
    return [mask, tensor.masked_fill(mask == 0.0, 0.0)], kind  # what is masked out may be NaN: missing data is


def _wide(name: str, tensor: object, setting: Setting) -> Tensor:
    """A tensor broadcast to the run's shape."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}")
    if tensor.device != setting.device:
        raise ValueError(f"{name} lies on {tensor.device}, and the run is on {setting.device}")
    try:
        return tensor.to(setting.dtype).expand(setting.shape).contiguous()
    except RuntimeError:
        raise ValueError(
            f"{name} is {list(tensor.shape)}, which cannot be broadcast to {list(setting.shape)}"
        ) from None


def one_per_sample(name: str, given: object, batch: int) -> list[object] | None:
    """A list with an entry for each sample, or None for something that all of them share."""
    if not isinstance(given, list | tuple) or not given:
        return None
    if name == "grid" and not all(isinstance(v, list | tuple | Grid) for v in given):
        return None
    if len(given) != batch:
        raise ValueError(f"{name} has {len(given)} entries, one per sample, and the batch is {batch}")
    return list(given)


def progress_bar(total: int, name: str):  # type: ignore[no-untyped-def]  # tqdm states no types
    """A tqdm bar over model calls. Raises ImportError naming the extra where tqdm is missing."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install fastsolve[progress]") from error
    return tqdm(total=total, desc=name, unit="call")
