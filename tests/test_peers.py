"""The controls against the loops that users run today: diffusers' pipelines, on tiny random networks, and k-diffusion's callback."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsolve import Denoiser, Guidance, Sampler, Step, philox
from fastsolve.schedules import VPTable

SHAPE = (2, 4, 8, 8)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, with NumPy 2
F64 = torch.float64
SEEDS = philox.sample_seeds(3, SHAPE[0])
NOISE = torch.from_numpy(philox.normals(SEEDS, 4 * 8 * 8, 0, philox.START_STREAM)).reshape(SHAPE)
IMAGE = torch.linspace(-1.0, 1.0, NOISE.numel()).reshape(SHAPE)
MASK = (torch.arange(8) >= 4).float()  # 1 is painted, as in diffusers
SOLVERS = {"DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler", "DPMSolverMultistepScheduler": "dpmpp_2m"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are too small for more, and where the machine is busy threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="the bench extra, with diffusers, is not installed")


@pytest.fixture
def k_diffusion(monkeypatch: pytest.MonkeyPatch) -> Any:
    """k_diffusion.sampling without what its package imports beside it: training, torchvision, clip."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        pytest.skip("k-diffusion is not installed")
    for name in ("torchdiffeq", "torchsde", "scipy", "tqdm"):
        pytest.importorskip(name, reason=f"k-diffusion's sampling needs {name}")
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = list(found.submodule_search_locations or ())
    utils.append_dims = lambda x, n: x.reshape(x.shape + (1,) * (n - x.dim()))  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "k_diffusion", package)
    monkeypatch.setitem(sys.modules, "k_diffusion.utils", utils)
    monkeypatch.delitem(sys.modules, "k_diffusion.sampling", raising=False)
    module = importlib.import_module("k_diffusion.sampling")
    monkeypatch.delitem(sys.modules, "k_diffusion.sampling")
    return module


@pytest.fixture
def unet(diffusers: Any) -> torch.nn.Module:
    """A conditional U-Net of diffusers with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    return net.eval().requires_grad_(False)


@pytest.fixture
def transformer(diffusers: Any) -> torch.nn.Module:
    """Stable Diffusion 3's transformer with random weights, those of its last layer too, which begin at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=16,
            pooled_projection_dim=8,
            pos_embed_max_size=8,
        )
    return net.eval().requires_grad_(False)


def scheduler_of(diffusers: Any, name: str, steps: int) -> Any:
    """Stable Diffusion's scheduler, whose timesteps are entries of its table and whose last step ends at clean data."""
    only = {"clip_sample": False} if name == "DDIMScheduler" else {}
    made = getattr(diffusers, name)(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing", **only
    )
    made.set_timesteps(steps)
    return made


def table_of(scheduler: Any) -> VPTable:
    return VPTable(scheduler.alphas_cumprod.tolist())


def grid_of(timesteps: Tensor) -> list[float]:
    """The levels of a slice of the scheduler's timesteps, down to clean data."""
    return [*timesteps.tolist(), -1.0]


def net(x: Tensor, t: Tensor) -> Tensor:
    """A network whose elements know of each other."""
    return torch.tanh(x + 0.5 * x.roll(1, -1) - 0.3 * x.roll(3, -2)) + 0.1 * torch.cos(t / 100.0).reshape(-1, 1, 1, 1)


def stepped(scheduler: Any, timesteps: Tensor, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A pipeline's loop: x after each step, of the scheduler's own scale; the caller may send another one."""
    for i, t in enumerate(timesteps):
        raw = net(scheduler.scale_model_input(x, t), t.to(x.dtype).expand(len(x)))
        x = scheduler.step(raw, t, x, return_dict=False)[0]
        sent = yield i, x
        x = x if sent is None else sent


@pytest.mark.parametrize("strength", [0.35, 0.8, 1.0])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_start_from_data_is_that_of_img2img(diffusers: Any, name: str, strength: float) -> None:
    """The levels of StableDiffusionImg2ImgPipeline.get_timesteps, and the scheduler's noise at the first of them."""
    steps, image, noise = 10, IMAGE.to(F64), NOISE.to(F64)
    scheduler = scheduler_of(diffusers, name, steps)
    begin = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin * scheduler.order)
    x = scheduler.add_noise(image, noise, timesteps[:1].repeat(len(image)))
    *_, (_, want) = stepped(scheduler, timesteps, x)
    ours = Sampler(
        Denoiser(net, table_of(scheduler), "eps"), SHAPE, solver=SOLVERS[name], grid=grid_of(timesteps), dtype=F64
    )
    torch.testing.assert_close(ours(seed=3, x0_init=image), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_inpainting_is_that_of_its_pipeline(diffusers: Any, name: str) -> None:
    """StableDiffusionInpaintPipeline with a model of 4 channels: the image, with the noise of the start, at the level of the next call."""
    image, noise, mask = IMAGE.to(F64), NOISE.to(F64), MASK.to(F64)
    scheduler = scheduler_of(diffusers, name, 8)
    timesteps = scheduler.timesteps
    x = scheduler.add_noise(image, noise, timesteps[:1].repeat(len(image)))
    loop = stepped(scheduler, timesteps, x)
    for i, _ in enumerate(timesteps):
        x = next(loop)[1] if i == 0 else loop.send(x)[1]
        known = image
        if i < len(timesteps) - 1:
            known = scheduler.add_noise(image, noise, timesteps[i + 1 : i + 2])
        x = (1.0 - mask) * known + mask * x
    denoiser = Denoiser(net, table_of(scheduler), "eps")
    made = Sampler(denoiser, SHAPE, solver=SOLVERS[name], grid=grid_of(timesteps), dtype=F64)
    torch.testing.assert_close(made(seed=3, x0_init=image, inpaint=(mask, image)), x, rtol=1e-5, atol=1e-5)


def rescaled(guided: Tensor, conditional: Tensor, phi: float) -> Tensor:
    """rescale_noise_cfg of the pipelines."""
    dims = list(range(1, guided.dim()))
    back = guided * conditional.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return phi * back + (1.0 - phi) * guided


def assert_near(got: Tensor, want: Tensor) -> None:
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("doubles", [True, False])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_is_that_of_a_pipeline(diffusers: Any, unet: torch.nn.Module, rescale: float, doubles: bool) -> None:
    """StableDiffusionPipeline's loop, with DDIM."""
    generator = torch.Generator().manual_seed(1)
    prompt, negative = torch.randn(2, 2, 3, 8, generator=generator)
    scheduler, x = scheduler_of(diffusers, "DDIMScheduler", 4), NOISE
    for t in scheduler.timesteps:
        both = torch.cat([x, x])
        raw = unet(scheduler.scale_model_input(both, t), t, encoder_hidden_states=torch.cat([negative, prompt])).sample
        other, one = raw.chunk(2)
        guided = other + 5.0 * (one - other)
        if rescale:
            guided = rescaled(guided, one, rescale)
        x = scheduler.step(guided, t, x, return_dict=False)[0]
    calls = list[int]()

    def model(x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
        calls.append(len(x))
        return unet(x, t, encoder_hidden_states=prompt).sample

    denoiser = Denoiser(model, table_of(scheduler), "eps", null={"prompt": negative}, doubles=doubles)
    made = Sampler(
        denoiser, SHAPE, solver="ddim", grid=grid_of(scheduler.timesteps), guidance=Guidance(5.0, rescale=rescale)
    )
    assert_near(made(x_init=NOISE, model_kwargs={"prompt": prompt}), x)
    assert calls == ([4] * 4 if doubles else [2] * 8)


@pytest.mark.parametrize("doubles", [True, False])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_guidance_of_a_flow_is_that_of_a_pipeline(
    diffusers: Any, transformer: torch.nn.Module, rescale: float, doubles: bool
) -> None:
    """StableDiffusion3Pipeline's loop; its clock is 1000 times ours."""
    generator = torch.Generator().manual_seed(1)
    prompt, negative = torch.randn(2, 2, 3, 8, generator=generator)
    pooled, pooled_negative = torch.randn(2, 2, 8, generator=generator)
    scheduler, x = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), NOISE
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        raw = transformer(
            hidden_states=torch.cat([x, x]),
            timestep=t.expand(4),
            encoder_hidden_states=torch.cat([negative, prompt]),
            pooled_projections=torch.cat([pooled_negative, pooled]),
        ).sample
        other, one = raw.chunk(2)
        guided = other + 5.0 * (one - other)
        if rescale:
            guided = rescaled(guided, one, rescale)
        x = scheduler.step(guided, t, x, return_dict=False)[0]

    def model(x: Tensor, t: Tensor, text: dict[str, Tensor]) -> Tensor:
        return transformer(hidden_states=x, timestep=1000.0 * t, **text).sample

    texts = [
        {"text": {"encoder_hidden_states": p, "pooled_projections": q}}
        for p, q in ((prompt, pooled), (negative, pooled_negative))
    ]
    denoiser = Denoiser(model, "flow", "flow", null=texts[1], doubles=doubles)
    made = Sampler(
        denoiser, SHAPE, solver="flow_euler", grid=scheduler.sigmas.tolist(), guidance=Guidance(5.0, rescale=rescale)
    )
    assert_near(made(x_init=NOISE, model_kwargs=texts[0]), x)


@pytest.mark.parametrize(("churn", "at"), [(0.0, "step"), (2.0, "call")])
def test_a_callback_sees_what_k_diffusions_sees(k_diffusion: Any, churn: float, at: str) -> None:
    """sample_euler tells, before the update, of x as the model saw it, of its level and of the data prediction."""
    sigmas = [14.0, 6.0, 2.0, 0.5, 0.1, 0.0]

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x / (1.0 + sigma.reshape(-1, 1, 1, 1)))

    told, start = list[dict[str, Any]](), 14.0 * NOISE.to(F64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        want = k_diffusion.sample_euler(
            model, start, torch.tensor(sigmas, dtype=F64), callback=told.append, disable=True, s_churn=churn
        )
        torch.manual_seed(5)
        draws = [torch.randn_like(start) for _ in sigmas[1:]]
    made = Sampler(
        Denoiser(model, "ve", "x0"), SHAPE, solver="euler", grid=sigmas, dtype=F64, options={"s_churn": churn}
    )
    steps = list[Step]()
    got = made(
        x_init=start,
        noise=draws if churn else None,
        at=at,
        callback=lambda step: steps.append(step._replace(x=step.x.clone(), x0=step.x0.clone())),
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    for step, event in zip(steps, told, strict=True):
        assert step.index == event["i"]
        torch.testing.assert_close(step.x, event["x"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(step.x0, event["denoised"], rtol=1e-9, atol=1e-9)
        assert step.node.sigma == pytest.approx(event["sigma_hat"].item(), rel=1e-9)
