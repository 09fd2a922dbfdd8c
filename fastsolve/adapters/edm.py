"""Networks of EDM and EDM2 (Karras et al. 2022, arXiv 2206.00364; 2023, arXiv 2312.02696): `net(x, sigma, class_labels=None) -> D`.

They are known by their attributes; neither repository is imported, and no pickle is loaded: docs/edm.md says how to convert one.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsolve import schedules
from fastsolve.denoiser import Denoiser, device_of
from fastsolve.sampler import Sampler
from fastsolve.schedules import Node

_KNOWN_BY = ("sigma_data", "sigma_min", "sigma_max", "round_sigma")


@dataclass(frozen=True)
class Rounded(schedules.EDM):
    """EDM's law for a network that knows some levels only: every node, those that a solver places too, is the network's level.

    snap: sigma -> the network's sigma, in data units.
    """

    snap: Callable[[float], float] = float

    @property
    def whole(self) -> schedules.EDM:
        return schedules.EDM(self.sigma_min, self.sigma_max, self.sigma_data)

    def node(self, t: float) -> Node:
        node = super().node(t)
        return super().node(self.snap(node.t)) if node.sigma > 0.0 else node


def wrap(
    net: Callable[..., Tensor],
    *,
    guide: Callable[..., Tensor] | None = None,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = torch.float32,
    nfe: int | None = 35,
) -> Denoiser:
    """A Denoiser of a preconditioned network `net(x, sigma, class_labels=None, **kwargs) -> D`, D the denoised data.

    Where sigma comes later, as in PhysicsNeMo's super-resolution networks, `net(x, img_lr, sigma)`, it is given by its name.

    Read from the network, where it has them: `sigma_min` and `sigma_max` (which narrow the range given here, as in EDM's sampler),
    `sigma_data` (0.5), `img_channels` or `img_out_channels`, and `img_resolution` (one number or [H, W]; `shape` is a sample's where
    they are missing), `label_dim`, and `round_sigma`: where it changes levels, the rounded one is what the coefficients use as well.
    `class_labels` [B, label_dim], one-hot, go into model_kwargs; without a guide, guidance has none of them in its unconditional call.
    guide: another such network, called with the same labels (autoguidance): EDM2's `ref.lerp(D, guidance)` with `gnet`.
    dtype: of the network's x and D, float32 in both repositories; None is the state's. nfe: model calls where no call says, 35 in EDM.

    Raises TypeError for what is no network, ValueError for one that states nothing of EDM's or has no level in the range.
    """
    _check(net, "net")
    if guide is not None:
        _check(guide, "guide")
    known = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", math.inf))
    low, high = max(sigma_min, known[0]), min(sigma_max, known[1])
    if not 0.0 < low < high < math.inf:
        raise ValueError(
            f"no level is left between sigma_min and sigma_max: the network knows {known[0]:g} to {known[1]:g}, and {sigma_min:g} to "
            f"{sigma_max:g} is asked for"
        )
    data = float(getattr(net, "sigma_data", 0.5))
    snap = _rounding(net, low, high)
    schedule = schedules.EDM(low, high, data) if snap is None else Rounded(low, high, data, snap)
    null = {"class_labels": None} if guide is None and getattr(net, "label_dim", None) else None
    return Denoiser(
        _call(net),
        schedule,
        "x0",
        shape=_shape(net) if shape is None else tuple(shape),
        device=device_of(net),
        dtype=dtype,
        nfe=nfe,
        null=null,
        guide=None if guide is None else _call(guide),
    )


def _call(net: Callable[..., Tensor]) -> Callable[..., Tensor]:
    plain = getattr(net, "_orig_mod", net)  # of a compiled module, whose own signature says nothing
    if "sigma" not in list(inspect.signature(getattr(plain, "forward", plain)).parameters)[2:]:
        return net

    def named(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        return net(x, sigma=t, **kwargs)

    return named


def _check(net: object, name: str) -> None:
    if isinstance(net, dict):
        raise TypeError(
            f"{name} is a dict with {', '.join(map(repr, list(net)[:4]))}: give the network in it, net['ema']"
        )
    if not callable(net):
        raise TypeError(
            f"{name} must be a network, called as net(x, sigma, class_labels), not {type(net).__name__}: fastsolve loads no "
            "pickles, docs/edm.md says how to convert one"
        )
    if not any(hasattr(net, attribute) for attribute in _KNOWN_BY):
        raise ValueError(
            f"{name} ({type(net).__name__}) has none of {', '.join(_KNOWN_BY)}: give the preconditioned network (EDMPrecond, Precond), "
            "not the one inside it; for any other model make a fastsolve.Denoiser"
        )


def _shape(net: object) -> tuple[int, ...] | None:
    channels = getattr(net, "img_out_channels", getattr(net, "img_channels", None))
    size = getattr(net, "img_resolution", None)
    if channels is None or size is None:
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def _rounding(net: object, low: float, high: float) -> Callable[[float], float] | None:
    """The network's `round_sigma` as a function of one number, or None where it changes nothing between the ends."""
    if not callable(getattr(net, "round_sigma", None)):
        return None
    probes = torch.logspace(math.log10(low), math.log10(high), 65, dtype=torch.float64, device=device_of(net))
    if torch.allclose(net.round_sigma(probes).to(probes), probes, rtol=1e-6, atol=0.0):  # type: ignore[attr-defined]
        return None
    reference = weakref.ref(net)  # plans are cached by their schedule, which must not hold the weights

    def snap(sigma: float) -> float:
        owner = reference()
        if owner is None:
            raise RuntimeError("the network whose levels this schedule has is gone: keep it, or its Denoiser")
        return float(owner.round_sigma(probes.new_tensor(sigma)))  # type: ignore[attr-defined]

    return snap


def stacked_noise(
    sampler: Sampler, seeds: Sequence[int], *, labels: int = 0, every_step: bool = True
) -> dict[str, object]:
    """What EDM's generate.py draws for these seeds, as arguments of a call: `sampler(**stacked_noise(sampler, seeds))`.

    One generator per sample on the sampler's device, seeded with seed mod 2^32, gives in this order: the latents in float32; with
    labels = label_dim a random class, whose one-hot row is among the model_kwargs; and for each step one normal tensor in the state's
    dtype. EDM draws that tensor in every step, and uses it where churn raises the level; every_step=False draws there only (EDM2's
    generate_images.py). Solvers other than heun and euler get their draws in their own order.

    Raises ValueError where the seeds are not as many as the samples.
    """
    setting, plan = sampler.setting, sampler.plan
    if len(seeds) != setting.batch:
        raise ValueError(f"{len(seeds)} seeds for a batch of {setting.batch}: give one for each sample")
    generators = [torch.Generator(setting.device).manual_seed(int(seed) % 2**32) for seed in seeds]

    def normals(dtype: torch.dtype) -> Tensor:
        made = [torch.randn(setting.shape[1:], generator=g, device=setting.device, dtype=dtype) for g in generators]
        return torch.stack(made)

    given: dict[str, object] = {"x_init": normals(torch.float32).to(setting.dtype) * plan.start_std}
    if labels:
        classes = [torch.randint(labels, (), generator=g, device=setting.device) for g in generators]
        given["model_kwargs"] = {"class_labels": torch.eye(labels, device=setting.device)[torch.stack(classes)]}
    raised = [plan.evals[call].t > level[0] for call, level in zip(plan.steps, plan.levels, strict=False)]
    if sum(raised) != plan.draws:
        raised = [True] * plan.draws
    drawn = [normals(setting.dtype) if every_step or used else None for used in raised]
    return {**given, "noise": [z for z, used in zip(drawn, raised, strict=True) if z is not None and used]}
