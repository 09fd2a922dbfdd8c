"""A pipeline's network, as fastsolve calls it, and as a dry loop of the pipeline does."""

from __future__ import annotations

import copy
import inspect
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from fastsolve.denoiser import Denoiser
from fastsolve.predictions import Prediction
from fastsolve.schedules import Schedule

BESIDE = "beside the latents"  # no name of an argument: the tensor that is concatenated to them


@dataclass(frozen=True)
class Habits:
    """How a pipeline calls its network.

    name: of the argument that is the latents. told, factor: what it is given at a level t, told(t) * factor. tokens: the shape of the
    times of one sample, () for a single one. along: the dimension in which other tensors are concatenated to the latents; 0 is none.
    doubled: both branches in one call, with the arguments of that call. swapped: in it the one without condition comes first.
    """

    name: str
    told: str
    factor: float
    tokens: tuple[int, ...]
    along: int
    doubled: bool
    swapped: bool


class Network:
    """model(x, t, **conditions) of a network that it does not keep alive; t is [B] in the clock of its schedule."""

    def __init__(self, net: Module, habits: Habits) -> None:
        self._net, self._habits = weakref.ref(net), habits

    @property
    def __wrapped__(self) -> Module | None:
        return self._net()

    def __call__(self, x: Tensor, t: Tensor, **conditions: object) -> Tensor:
        net, habits = self._net(), self._habits
        assert net is not None  # whoever samples holds it
        beside, shape = conditions.pop(BESIDE, None), x.shape[1:]
        if isinstance(beside, Tensor):
            x = torch.cat([x, beside], dim=habits.along)
        t = _TOLD[habits.told](t)
        t = t if habits.factor == 1.0 else t * habits.factor
        t = t.reshape(-1, *(1 for _ in habits.tokens)).expand(-1, *habits.tokens)
        out = leading(output(net(**{habits.name: x, "timestep": t}, **conditions)), shape)
        return torch.cat(out.chunk(2)[::-1]) if habits.swapped else out


# In float32, the words of `Law.told`; the factor has the number of training steps.
_TOLD: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda t: t,
    "flow": lambda t: t,
    "flow_backwards": lambda t: 1.0 - t,
    "log": lambda t: 0.25 * t.log(),
    "atan": lambda t: t.atan() * (2.0 / math.pi),
}


def output(made: Any) -> Tensor:
    """The tensor in what a network returns: a tensor, or the first of a tuple or of an output of diffusers."""
    return made if isinstance(made, Tensor) else made[0]


def leading(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first [B, *shape] of a tensor that may be wider."""
    for dim, size in enumerate(shape, start=1):
        if tensor.shape[dim] != size:
            tensor = tensor.narrow(dim, 0, size)
    return tensor


class Form(NamedTuple):
    """What a network returns: shape of one sample, dtype, and what makes it of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    wrap: Callable[[Tensor], object]


class Call(NamedTuple):
    """A call of the network by a pipeline in a dry loop. name: of the argument that is its input. out: what it was given back."""

    net: Module
    name: str
    arguments: dict[str, Any]
    form: Form
    out: Tensor

    @property
    def x(self) -> Any:
        """The input."""
        return self.arguments.get(self.name)

    @property
    def eps(self) -> float:
        """The precision of the time it is told."""
        told = self.arguments.get("timestep")
        return torch.finfo(told.dtype if isinstance(told, Tensor) and told.is_floating_point() else torch.float32).eps


_MOST = 8  # denoisers kept for one network
_forms: weakref.WeakKeyDictionary[Module, dict[object, Form]] = weakref.WeakKeyDictionary()
_denoisers: weakref.WeakKeyDictionary[Module, dict[object, Denoiser]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def denoiser(call: Call, habits: Habits, schedule: Schedule, prediction: Prediction) -> Denoiser:
    """The network of a call as a Denoiser: for the same question the same one as long as the network lives, and with it its samplers."""
    net, x, form = call.net, call.x, call.form
    reuses = _reuses_output(net)
    key = (habits, schedule, prediction, form.dtype, x.dtype, x.device, reuses)
    with _lock:
        kept = _denoisers.setdefault(net, {})
        if key not in kept:
            kept[key] = Denoiser(
                Network(net, habits),
                schedule,
                prediction,
                device=x.device,
                dtype=x.dtype,
                output_dtype=form.dtype,
                null={},
                doubles=_of_both if habits.doubled else False,
                reuses_output=reuses,
            )
            if len(kept) > _MOST:
                del kept[next(iter(kept))]
        return kept[key]


def switches(net: Module) -> list[dict[str, object]]:
    """The plain attributes of each of its modules."""
    return [{name: v for name, v in vars(m).items() if isinstance(v, bool | int | float | str)} for m in net.modules()]


def _reuses_output(net: Module) -> bool:
    """Whether it is compiled to CUDA graphs of its own, as by mode="reduce-overhead"."""
    compiled = getattr(net, "_compiled_call_impl", None) or net
    config: Mapping[str, object] | None = getattr(compiled, "get_compiler_config", lambda: None)()
    return config is not None and bool(config.get("triton.cudagraphs"))


def _of_both(nothing: Mapping[str, object], arguments: Mapping[str, object]) -> Mapping[str, object]:
    """A doubled call is given what the pipeline gives it: nothing is divided or joined, whatever it means."""
    return arguments


def standing_in(
    net: Module, note: Callable[[Call], object], random: Callable[[tuple[int, ...], Tensor], Tensor]
) -> Module:
    """A module that looks like the network and shares its parameters, and gives back what is random; `note` is told each call.

    For inputs of a shape that it has not seen, the network itself is called once, to learn what it returns. random: of a shape, on the
    device of a tensor.
    """
    inner = getattr(net, "_orig_mod", net)  # of a compiled one
    _, *names = inspect.signature(type(inner).forward).parameters

    def forward(*args: object, **kwargs: object) -> object:
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        x = arguments.get(names[0])
        if not isinstance(x, Tensor):
            return net(*args, **kwargs)
        autocast = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type)
        key = (tuple(x.shape[1:]), x.dtype, kwargs.get("return_dict"), autocast)
        with _lock:
            known = _forms.setdefault(net, {})
        if key not in known:
            made = net(*args, **kwargs)
            raw = output(made)
            wrap = type(made) if isinstance(made, dict) else _alone if isinstance(made, tuple) else _same
            known[key] = Form(tuple(raw.shape[1:]), raw.dtype, wrap)
        form = known[key]
        out = random((len(x), *form.shape), x)
        note(Call(net, names[0], _held(arguments), form, out))
        return form.wrap(out.clone())  # the pipeline may write into it

    made = copy.copy(inner)
    hooks = {name: OrderedDict() for name in vars(inner) if name.endswith("_hooks")}  # type: ignore[var-annotated]
    vars(made).update(hooks, forward=forward, _compiled_call_impl=None)
    return made


def _held(value: Any) -> Any:
    """Dicts and lists of their own: a pipeline may write into them before its next call."""
    if isinstance(value, dict):
        return {key: _held(v) for key, v in value.items()}
    return type(value)(map(_held, value)) if type(value) in (list, tuple) else value


def _alone(tensor: Tensor) -> tuple[Tensor]:
    return (tensor,)


def _same(tensor: Tensor) -> Tensor:
    return tensor
