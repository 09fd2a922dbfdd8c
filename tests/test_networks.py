"""Velocity models in either direction of time; and graphs of every network that is wrapped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import needs_native
from emulated_graph import EmulatedRecorder, Recorded
from fastsolve import Denoiser, Sampler, executors, predictions, schedules
from fastsolve.adapters import edm, flow, huggingface, policy
from problems import plane_mixture

LAW = plane_mixture()


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """noise - data on x = (1 - t) data + t noise, exact; t [B]."""
    sigma = t.double().reshape(-1, 1)
    return ((x.double() - LAW.denoise(x.double(), 1.0 - sigma, sigma)) / sigma).to(x.dtype)


class Towards(torch.nn.Module):
    """The same as flow_matching and torchcfm have it: data - noise, of a time that is 0 at noise, told as scale times it."""

    def __init__(self, scale: float = 1.0, order: str = "xt") -> None:
        super().__init__()
        self.scale, self.order = scale, order
        self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if self.order == "keywords":
            assert not args
            x, t = kwargs.pop("x"), kwargs.pop("t")
        else:
            x, t = args if self.order == "xt" else args[::-1]
        out = -velocity(x, 1.0 - t.double() / self.scale) * self.gain
        return out + kwargs["shift"] if "shift" in kwargs else out


def noise(batch: int = 6) -> Tensor:
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def euler(model: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor) -> Tensor:
    """The loop that users of flow matching have: from noise at times[0] to data at times[-1]."""
    for s, t in itertools.pairwise(times):
        x = x + (t - s) * model(x, s.expand(len(x)))
    return x


def midpoint(model: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor) -> Tensor:
    for s, t in itertools.pairwise(times):
        half = x + 0.5 * (t - s) * model(x, s.expand(len(x)))
        x = x + (t - s) * model(half, (0.5 * (s + t)).expand(len(x)))
    return x


def test_the_newcomers_path() -> None:
    net = Towards()
    out = fastsolve.sample(flow.wrap(net, noise_at=0, shape=(2,)), (6, 2), solver="dpmpp_2m", steps=20)
    assert out.dtype == torch.float32
    assert out.isfinite().all()


@pytest.mark.parametrize("order", ["xt", "tx", "keywords"])
@pytest.mark.parametrize("scale", [1.0, 999.0])
def test_euler_from_noise_at_0_is_the_users_loop(order: str, scale: float) -> None:
    x, way = noise(), {"tx": {"time_first": True}, "keywords": {"names": ("x", "t")}}.get(order, {})
    model = flow.wrap(Towards(scale, order), noise_at=0, time_scale=scale, shape=(2,), **way)
    out = Sampler(model, x.shape, solver="flow_euler", steps=10, dtype=torch.float64)(x_init=x)
    expected = euler(lambda x, s: Towards()(x, s), x, torch.linspace(0.0, 1.0, 11, dtype=torch.float64))
    torch.testing.assert_close(out, expected, rtol=0.0, atol=1e-12)
    turned = flow.wrap(lambda x, t: velocity(x, t / scale), noise_at=1, time_scale=scale, shape=(2,))
    same = Sampler(turned, x.shape, solver="flow_euler", steps=10, dtype=torch.float64)(x_init=x)
    torch.testing.assert_close(same, expected, rtol=0.0, atol=1e-12)


def test_what_a_model_is_told() -> None:
    told = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return -x

    grid = [1.0, 0.75, 0.25, 0.0]
    for noise_at, scale, expected in [
        (0, 1.0, [0.0, 0.25, 0.75]),
        (0, 1000.0, [0.0, 250.0, 750.0]),
        (1, 8.0, [8.0, 6.0, 2.0]),
    ]:
        told.clear()
        Sampler(flow.wrap(model, noise_at=noise_at, time_scale=scale), (2, 2), solver="flow_euler", grid=grid)()
        assert told == [[t, t] for t in expected]


def test_a_second_order_solver_goes_where_the_midpoint_rule_goes() -> None:
    x = noise()
    fine = midpoint(Towards(), x, torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)[:-1])
    model = flow.wrap(Towards(), noise_at=0)
    errors = []
    for steps in (40, 80):
        out = Sampler(model, x.shape, solver="dpmpp_2m", grid="rbe", steps=steps, dtype=torch.float64)(x_init=x)
        errors.append((out - fine).abs().max().item())
    assert errors[1] < 0.01
    assert errors[1] < 0.5 * errors[0]


def test_a_transformer_whose_time_is_0_at_noise_and_whose_answer_is_an_object() -> None:
    class Turned(Towards):
        dtype = torch.float64  # its own, as modules of diffusers state it

        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float16))

        def forward(self, hidden_states: Tensor, timestep: Tensor, return_dict: bool = True) -> object:
            out = super().forward(hidden_states, timestep)
            return type("Out", (), {"sample": out}) if return_dict else (out,)

    x, run = noise(), {"solver": "flow_euler", "steps": 5, "dtype": torch.float64}
    model = flow.wrap(Turned(), noise_at=0, names=("hidden_states", "timestep"))
    assert model.dtype == torch.float64
    expected = Sampler(flow.wrap(Towards(), noise_at=0), x.shape, **run)(x_init=x)
    for kwargs in ({}, {"return_dict": False}):
        out = Sampler(model, x.shape, **run)(x_init=x, model_kwargs=kwargs)
        torch.testing.assert_close(out, expected, rtol=0.0, atol=1e-12)


def test_shift_is_that_of_the_schedule() -> None:
    made = flow.wrap(Towards(), noise_at=0, shift=3.0, nfe=4)
    assert made.schedule == schedules.Flow(3.0)
    plan = Sampler(made, (1, 2), solver="flow_euler").plan
    assert [t for t, _, _ in plan.levels] == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])


def test_guidance_and_a_guide_go_through_the_same_call() -> None:
    x, null = noise(), {"shift": torch.zeros(1, 2)}
    one = {"shift": torch.full((6, 2), 0.25)}
    guided = flow.wrap(Towards(order="tx"), noise_at=0, time_first=True, null=null)
    run = {"solver": "flow_euler", "steps": 8, "dtype": torch.float64}
    out = Sampler(guided, x.shape, guidance=3.0, **run)(x_init=x, model_kwargs=one)
    moved = Sampler(guided, x.shape, **run)(x_init=x, model_kwargs={"shift": torch.full((6, 2), 0.75)})
    torch.testing.assert_close(out, moved, rtol=0.0, atol=1e-12)
    weak = flow.wrap(Towards(order="tx"), noise_at=0, time_first=True, guide=lambda t, x: -velocity(x, 1.0 - t) - 1.0)
    out = Sampler(weak, x.shape, guidance=1.5, **run)(x_init=x)
    moved = Sampler(guided, x.shape, **run)(x_init=x, model_kwargs={"shift": torch.full((6, 2), 0.5)})
    torch.testing.assert_close(out, moved, rtol=0.0, atol=1e-12)


def test_the_prediction_towards_data_is_the_velocity_turned() -> None:
    node = schedules.Flow().node(0.3)
    a, b = predictions.Flow().x0(node)
    assert flow.ToData().x0(node) == (a, -b)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"noise_at": 0.5}, ValueError, r"noise_at is the model's time of pure noise: 0 .* or 1 .*, not 0\.5"),
        ({"noise_at": True}, ValueError, "noise_at is the model's time of pure noise"),
        ({"noise_at": 1, "time_scale": -1.0}, ValueError, "time_scale must be positive and finite, not -1.*noise_at"),
        ({"noise_at": 1, "names": "xt"}, ValueError, "names are two keywords, for the state and the time"),
        ({"noise_at": 1, "names": ("x", "t"), "time_first": True}, ValueError, "not time_first beside them"),
        ({"noise_at": 1, "shift": 0.0}, ValueError, "shift must be positive"),
        ({"noise_at": 1, "shpe": (2,)}, TypeError, "shpe"),
    ],
)
def test_flow_refuses(options: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        flow.wrap(velocity, **options)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="a network is needed, something that can be called; str is not callable"):
        flow.wrap("net.pt", noise_at=0)
    with pytest.raises(TypeError, match="this is a Denoiser already"):
        flow.wrap(flow.wrap(velocity, noise_at=1), noise_at=1)
    with pytest.raises(TypeError, match=r"a guide, another network, is needed, .*; str is not callable"):
        flow.wrap(velocity, noise_at=1, guide="weak.pt")
    with pytest.raises(TypeError, match="a guide, another network, is needed, and this is a Denoiser already"):
        flow.wrap(velocity, noise_at=1, guide=flow.wrap(velocity, noise_at=1))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, not function"):
        huggingface.wrap(velocity, "flow", "flow")


# Graphs, emulated: nothing in a wrapper waits for a device or decides by what a tensor holds.


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make = executors.backend
    monkeypatch.setattr(executors, "_no_graph", lambda name, setting: None)
    monkeypatch.setattr(executors, "CudaRecorder", EmulatedRecorder)
    monkeypatch.setattr(executors, "backend", lambda *args: Recorded(make(*args), args[-1]))
    return


class Plain(torch.nn.Module):
    """Answers to every call: (x, t), (t, x) or by keywords; one condition."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, 0.25]))

    def forward(self, sample: Tensor, timestep: Tensor, shift: Tensor | None = None) -> Tensor:
        out = sample * self.weight + 0.01 * timestep.reshape(-1, *[1] * (sample.dim() - 1)).float()
        return out if shift is None else out + shift


class Later(torch.nn.Module):
    """Takes its level third."""

    sigma_data = 0.5

    def __init__(self, net: Plain) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, shift: Tensor, sigma: Tensor) -> Tensor:
        return self.net(x, sigma, shift)


WRAPPED: dict[str, Callable[[Plain], Denoiser]] = {
    "flow": lambda net: flow.wrap(net, noise_at=0, time_scale=1000.0, shape=(2, 2)),
    "keywords": lambda net: flow.wrap(net, noise_at=1, names=("sample", "timestep"), shape=(2, 2)),
    "huggingface": lambda net: huggingface.wrap(net, "vp_scaled_linear", "eps", shape=(2, 2)),
    "edm": lambda net: edm.wrap(Later(net), shape=(2, 2)),
    "policy": lambda net: policy.wrap(net, horizon=2, action_dim=2, whole_steps=True),
}


@needs_native
@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_network_is_captured_and_watched(kind: str, graphs: None) -> None:
    net = Plain()
    model, given = WRAPPED[kind](net), {"model_kwargs": {"shift": torch.full((3, 1, 1), 0.1)}, "seed": 5}
    plain = Sampler(model, (3, 2, 2), solver="dpmpp_2m", steps=4, graph="off")
    captured = Sampler(model, (3, 2, 2), solver="dpmpp_2m", steps=4, graph="require")
    for shift in (0.1, 0.7):
        given["model_kwargs"]["shift"].fill_(shift)
        assert_bits_equal(captured(**given), plain(**given))
    assert captured(**given).requires_grad is False
    net.weight = torch.nn.Parameter(torch.tensor([-1.0, 2.0]))  # seen through the wrapper
    assert_bits_equal(captured(**given), plain(**given))
