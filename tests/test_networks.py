"""Velocity models in either direction of time, and modules that are called as those of diffusers; captured by graphs, too."""

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
from fastsolve.adapters import flow, huggingface, policy
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
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, not function"):
        huggingface.wrap(velocity, "flow", "flow")


# Modules of diffusers: tiny, random, in training mode's opposite.

diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")


def made(cls: str, **config: object) -> torch.nn.Module:
    torch.manual_seed(0)
    module = getattr(diffusers, cls)(**config).eval().requires_grad_(False)
    for parameter in module.parameters():  # what is initialised with zeros would answer nothing
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return module


def unet(**config: object) -> torch.nn.Module:
    small = {"block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
    small |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4, "attention_head_dim": 8}
    return made("UNet2DModel", sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, **small, **config)


def dit() -> torch.nn.Module:
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "patch_size": 2}
    return made("DiTTransformer2DModel", in_channels=4, out_channels=8, sample_size=8, num_embeds_ada_norm=10, **small)


def sd3() -> torch.nn.Module:
    small = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "joint_attention_dim": 16}
    small |= {"caption_projection_dim": 16, "pooled_projection_dim": 12, "pos_embed_max_size": 8}
    return made("SD3Transformer2DModel", sample_size=8, patch_size=2, in_channels=4, out_channels=4, **small)


def flux() -> torch.nn.Module:
    small = {
        "patch_size": 1,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
    }
    small |= {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)}
    return made("FluxTransformer2DModel", in_channels=4, **small)


def normals(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ddim(scheduler: object, steps: int, x: Tensor, model: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x, return_dict=False)[0]
    return x


# A number of steps that divides 1000: else diffusers' DDIM steps to levels that are not those it calls the model at.
LINEAR = {"num_train_timesteps": 1000, "clip_sample": False, "timestep_spacing": "trailing"}


@torch.no_grad()
def test_a_unet_is_stepped_as_by_diffusers() -> None:
    net, scheduler, x = unet(num_class_embeds=7), diffusers.DDIMScheduler(**LINEAR), normals(2, 3, 8, 8)
    labels = torch.tensor([2, 5])
    table = schedules.VPTable(scheduler.alphas_cumprod.tolist())
    model = huggingface.wrap(net, table, "eps")
    assert (model.shape, model.dtype) == ((3, 8, 8), torch.float32)
    out = Sampler(model, x.shape, solver="ddim", steps=8)(x_init=x, model_kwargs={"class_labels": labels})
    expected = ddim(scheduler, 8, x, lambda x, t: net(x, t, class_labels=labels).sample)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("doubles", [False, True])
def test_dit_with_its_null_class_and_learned_variance(doubles: bool) -> None:
    net, scheduler, x = dit(), diffusers.DDIMScheduler(**LINEAR), normals(2, 4, 8, 8)
    labels, null = torch.tensor([2, 5]), torch.tensor([10, 10])
    table = schedules.VPTable(scheduler.alphas_cumprod.tolist())
    model = huggingface.wrap(net, table, "eps", null_class=10, doubles=doubles)
    assert model.shape == (4, 8, 8)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        both = net(torch.cat([x, x]), t.expand(4), class_labels=torch.cat([labels, null])).sample
        conditional, unconditional = both[:, :4].chunk(2)
        return unconditional + 4.0 * (conditional - unconditional)

    out = Sampler(model, x.shape, solver="ddim", steps=8, guidance=4.0)(x_init=x, model_kwargs={"class_labels": labels})
    torch.testing.assert_close(out, ddim(scheduler, 8, x, guided), rtol=1e-4, atol=1e-4)
    unguided = Sampler(model, x.shape, solver="ddim", steps=8)(x_init=x, model_kwargs={"class_labels": labels})
    assert (out - unguided).abs().max() > 1e-2


@torch.no_grad()
def test_sd3_is_stepped_as_by_diffusers() -> None:
    net, scheduler, x = sd3(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), normals(2, 4, 8, 8)
    text = {"encoder_hidden_states": normals(2, 5, 16, seed=2), "pooled_projections": normals(2, 12, seed=3)}
    expected = ddim(scheduler, 5, x, lambda x, t: net(x, timestep=t.expand(2), **text).sample)
    model = huggingface.wrap(net, "flow", "flow", time_scale=1000.0)
    out = Sampler(model, x.shape, solver="flow_euler", grid=scheduler.sigmas.tolist())(x_init=x, model_kwargs=text)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_flux_is_stepped_as_by_diffusers() -> None:
    """Packed tokens [B, N, C] and a time from 0 to 1, which the transformer multiplies itself."""
    net, scheduler, x = flux(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), normals(2, 6, 4)
    text = {"encoder_hidden_states": normals(2, 5, 32, seed=2), "pooled_projections": normals(2, 32, seed=3)}
    text |= {"txt_ids": torch.zeros(5, 3), "img_ids": torch.arange(18.0).reshape(6, 3)}
    expected = ddim(scheduler, 5, x, lambda x, t: net(x, timestep=t.expand(2) / 1000, **text).sample)
    model = huggingface.wrap(net, "flow", "flow", time_scale=1.0)
    assert model.shape is None
    out = Sampler(model, x.shape, solver="flow_euler", grid=scheduler.sigmas.tolist())(x_init=x, model_kwargs=text)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


class Half(torch.nn.Module):
    """A module without a signature of diffusers' own: an object with .sample for an answer, a time of another name."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(4, 8, dtype=torch.bfloat16)
        self.told: list[Tensor] = []

    def forward(self, hidden_states: Tensor, context: Tensor, timesteps: Tensor) -> object:
        self.told.append(timesteps)
        out = self.lin(hidden_states.movedim(1, -1)).movedim(-1, 1) + context
        return type("Out", (), {"sample": out})


def test_the_time_of_a_half_precision_module_is_not_half() -> None:
    net = Half()
    model = huggingface.wrap(net, "vp_scaled_linear", "eps", learned_variance=True, shape=(4, 3))
    assert model.dtype == torch.bfloat16
    Sampler(model, (2, 4, 3), solver="ddim", grid=[750.5, 3.0, -1.0])(
        model_kwargs={"context": torch.zeros(1, 1, 1).bfloat16()}
    )
    assert [(t.dtype, t.tolist()) for t in net.told] == [(torch.float32, [t, t]) for t in (750.5, 3.0)]


def test_huggingface_refuses() -> None:
    with pytest.raises(
        ValueError, match=r"time_scale is needed on schedule 'flow', whose t runs to 1: 1000 .*SD3.* 1 .*Flux"
    ):
        huggingface.wrap(sd3(), "flow", "flow")
    with pytest.raises(ValueError, match="null_class is the null of modules with class_labels: give it or null"):
        huggingface.wrap(dit(), "vp_scaled_linear", "eps", null_class=10, null={})
    whole = huggingface.wrap(dit(), "vp_scaled_linear", "eps", learned_variance=False)
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 8\).*expected is torch\.float32 \(1, 4, 8, 8\)"):
        Sampler(whole, solver="ddim", steps=2)(model_kwargs={"class_labels": torch.tensor([1])})


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


WRAPPED: dict[str, Callable[[Plain], Denoiser]] = {
    "flow": lambda net: flow.wrap(net, noise_at=0, time_scale=1000.0, shape=(2, 2)),
    "keywords": lambda net: flow.wrap(net, noise_at=1, names=("sample", "timestep"), shape=(2, 2)),
    "huggingface": lambda net: huggingface.wrap(net, "vp_scaled_linear", "eps", shape=(2, 2)),
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
