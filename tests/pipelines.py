"""Tiny pipelines of diffusers with random weights: no text encoder, no tokenizer, nothing from the network.

Each builder gives a pipeline; `inputs(pipe, ...)` the arguments of a call of it: prompt embeddings, a size, latents as the result.
"""

from __future__ import annotations

import copy
import functools
import os
from typing import Any

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SIDE = 16  # pixels; latents have half of it
_SD_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def _made(kind: str, **sizes: Any) -> Any:
    """A network of a kind: the same weights every time, in modules of its own."""
    return copy.deepcopy(_weighted(kind, **sizes))


@functools.cache
def _weighted(kind: str, **sizes: Any) -> Any:
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(7)
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in sizes.items()}
        net = getattr(diffusers, kind)(**lists).eval()
        for parameter in net.parameters():
            if not parameter.any():  # with the zeros that training starts from, a network would ignore its condition
                parameter.data.normal_(std=0.05)
    return net.requires_grad_(False)


def _vae(channels: int = 4) -> Any:
    return _made(
        "AutoencoderKL",
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=SIDE,
        scaling_factor=0.5,
        shift_factor=0.1,
    )


def _unet(channels: int = 4, **more: Any) -> Any:
    return _made(
        "UNet2DConditionModel",
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        sample_size=SIDE // 2,
        **more,
    )


def sd(way: str = "", channels: int = 4, **config: Any) -> Any:
    """Stable Diffusion; way: "", "Img2Img" or "Inpaint". channels: 9 for the UNet that is given mask and image."""
    import diffusers

    return getattr(diffusers, f"StableDiffusion{way}Pipeline")(
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=_unet(channels),
        scheduler=diffusers.DDIMScheduler(**{**_SD_SCHEDULER, "clip_sample": False, **config}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(way: str = "", **config: Any) -> Any:
    """Stable Diffusion XL."""
    import diffusers

    unet = _unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 10
    )
    return getattr(diffusers, f"StableDiffusionXL{way}Pipeline")(
        vae=_vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(**{**_SD_SCHEDULER, **config}),
        add_watermarker=False,
    )


def sd3(way: str = "", **config: Any) -> Any:
    """Stable Diffusion 3."""
    import diffusers

    transformer = _made(
        "SD3Transformer2DModel",
        sample_size=SIDE // 2,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
    )
    return getattr(diffusers, f"StableDiffusion3{way}Pipeline")(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config}),
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(way: str = "", guidance_embeds: bool = True, **config: Any) -> Any:
    """Flux; way: "" or "Img2Img"."""
    import diffusers

    transformer = _made(
        "FluxTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    )
    shifts = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    return getattr(diffusers, f"Flux{way}Pipeline")(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**{**shifts, **config}),
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )


def wan(**config: Any) -> Any:
    """Wan, text to video."""
    import diffusers

    transformer = _made(
        "WanTransformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=12,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    vae = _made(
        "AutoencoderKLWan",
        base_dim=3,
        z_dim=16,
        dim_mult=(1, 1, 1, 1),
        num_res_blocks=1,
        temperal_downsample=(False, True, True),
    )
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=diffusers.UniPCMultistepScheduler(**{**flow, **config}),
        transformer=transformer,
    )


def inputs(
    pipe: Any, batch: int = 1, steps: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Arguments of a call: embeddings that differ from sample to sample, those of the negative prompt, latents as the result."""
    name, generator = type(pipe).__name__, torch.Generator().manual_seed(100 + seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator).to(dtype)

    asked: dict[str, Any] = {"prompt_embeds": random(3, 12), "num_inference_steps": steps, "output_type": "latent"}
    if not name.startswith("Flux"):
        asked["negative_prompt_embeds"] = random(3, 12)
    if "XL" in name or "Diffusion3" in name or name.startswith("Flux"):
        asked["pooled_prompt_embeds"] = random(10)
    if "XL" in name or "Diffusion3" in name:
        asked["negative_pooled_prompt_embeds"] = random(10)
    if "Img2Img" in name or "Inpaint" in name:
        asked["image"] = random(3, SIDE, SIDE).clamp(-2, 2) / 4 + 0.5
        asked["strength"] = 0.6
    if name not in ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"):
        asked |= {"height": SIDE, "width": SIDE}
    if "Inpaint" in name:
        asked["mask_image"] = (torch.arange(SIDE) < SIDE // 2).to(dtype).expand(batch, 1, SIDE, SIDE)
    if name.startswith("Wan"):
        asked["num_frames"] = 5
    return {**asked, "generator": torch.Generator().manual_seed(seed)}
