"""Modules that are called as those of diffusers: real ones, tiny and random, stepped by diffusers' own schedulers beside ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastsolve import Sampler, schedules
from fastsolve.adapters import huggingface

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


def wan() -> torch.nn.Module:
    small = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16}
    small |= {"freq_dim": 16, "ffn_dim": 16, "num_layers": 1, "rope_max_seq_len": 16}
    return made("WanTransformer3DModel", **small)


def test_a_module_that_keeps_some_parameters_in_float32_is_called_in_its_own_dtype(tmp_path: Path) -> None:
    wan().save_pretrained(tmp_path)
    net = diffusers.WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert next(net.parameters()).dtype == torch.float32  # a table, kept so
    model = huggingface.wrap(net, "flow", "flow", time_scale=1000.0)
    assert (model.dtype, model.shape) == (torch.bfloat16, None)
    text = {"encoder_hidden_states": normals(1, 3, 16).bfloat16()}
    out = Sampler(model, (1, 4, 1, 4, 4), solver="flow_euler", steps=2)(model_kwargs=text)
    assert out.isfinite().all()


def test_the_signature_of_a_compiled_module_is_that_of_the_module() -> None:
    """Of which the time is the fourth argument, not the second."""
    net, x = sd3(), normals(2, 4, 8, 8)
    text = {"encoder_hidden_states": normals(2, 5, 16, seed=2), "pooled_projections": normals(2, 12, seed=3)}
    run = {"solver": "flow_euler", "steps": 1}
    plain = huggingface.wrap(net, "flow", "flow", time_scale=1000.0)
    compiled = huggingface.wrap(torch.compile(net, backend="eager"), "flow", "flow", time_scale=1000.0)
    assert compiled.shape == (4, 8, 8)
    with torch.compiler.set_stance("force_eager"):
        out = Sampler(compiled, x.shape, **run)(x_init=x, model_kwargs=text)
    torch.testing.assert_close(out, Sampler(plain, x.shape, **run)(x_init=x, model_kwargs=text), rtol=0.0, atol=1e-5)


def test_a_sample_size_of_sound_is_no_image() -> None:
    small = {"block_out_channels": (8,), "down_block_types": ("DownBlock1D",), "up_block_types": ("UpBlock1D",)}
    net = made("UNet1DModel", sample_size=64, in_channels=2, out_channels=2, **small)
    assert huggingface.wrap(net, "vp", "eps", time_scale=1.0).shape is None
    assert huggingface.wrap(net, "vp", "eps", time_scale=1.0, shape=(2, 64)).shape == (2, 64)


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
