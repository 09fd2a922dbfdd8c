"""The drop-in schedulers inside diffusers' own pipelines: the built-in's image, image to image, inpainting, saving and loading."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

import pipelines  # noqa: E402  # after the library is found
from fastsolve.adapters.diffusers import FastSolveFlowScheduler, FastSolveScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")

# What a built-in computes, as a solver and its options.
SAME: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}, "ddim", {}),
    "DDIM trailing": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}, "ddim", {}),
    "DDIM to the table": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, "ddim", {}),
    "Euler": ("EulerDiscreteScheduler", {}, "euler", {}),
    "Euler leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, "euler", {}),
    "Euler Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "euler", {}),
    "Heun": ("HeunDiscreteScheduler", {}, "heun", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, "dpmpp_2m", {}),
    "DPM++ 2M heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "dpmpp_2m", {"variant": "heun"}),
    "DPM++ 2M trailing": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, "dpmpp_2m", {}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}, "dpmpp_3m", {"lower_order_final": True}),
    "DEIS": ("DEISMultistepScheduler", {}, "deis", {"order": 1, "variant": "logrho", "lower_order_final": True}),
    "UniPC": ("UniPCMultistepScheduler", {}, "unipc", {"order": 2}),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}, "unipc", {"order": 3}),
}


def called(pipe: Any, steps: int = 5, **more: Any) -> Tensor:
    """The latents of a call. 5 steps: DDIMScheduler goes down by whole 1000 / steps, wherever its next timestep is."""
    return pipe(**{**pipelines.inputs(pipe, 2, steps), **more}).images


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-4 of the image's scale."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("name", "config", "solver", "options"), SAME.values(), ids=SAME)
def test_stable_diffusion_makes_the_built_ins_image(
    name: str, config: dict[str, Any], solver: str, options: dict[str, Any], prediction: str
) -> None:
    pipe = pipelines.sd()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, prediction_type=prediction, **config)
    expected = called(pipe)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver=solver, options=options)
    close(called(pipe), expected)


@pytest.mark.parametrize(("name", "solver"), [("DPMSolverMultistepScheduler", "dpmpp_2m_sde")])
def test_a_stochastic_solver_without_its_noise_is_the_built_in_without_its(
    name: str, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipelines.sd()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    module = sys.modules[type(pipe.scheduler).__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda shape, **_: torch.zeros(shape))
        expected = called(pipe, latents=x)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver=solver, options={"s_noise": 0.0})
    close(called(pipe, latents=x), expected)


def test_a_new_scheduler_reads_what_the_pipelines_own_would_have_become() -> None:
    """From a DDIM config with its class's defaults, as DPMSolverMultistepScheduler.from_config does."""
    pipe = pipelines.sd()
    own = pipe.scheduler
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(own.config)
    expected = called(pipe)
    pipe.scheduler = FastSolveScheduler.from_config(own.config, solver="dpmpp_2m")
    close(called(pipe), expected)


def test_swapping_out_and_back_gives_the_pipelines_own_image() -> None:
    pipe = pipelines.sd()
    expected = called(pipe)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver="seeds3")
    assert not torch.equal(called(pipe), expected)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(called(pipe), expected)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.6, 1.0])
@pytest.mark.parametrize(
    ("name", "solver"),
    [("DDIMScheduler", "ddim"), ("HeunDiscreteScheduler", "heun"), ("EulerDiscreteScheduler", "euler")],
)
def test_image_to_image_starts_where_the_built_in_does(name: str, solver: str, strength: float) -> None:
    pipe = pipelines.sd("Img2Img")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    expected = called(pipe, strength=strength)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
    close(called(pipe, strength=strength), expected)


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize(("name", "solver"), [("DDIMScheduler", "ddim"), ("HeunDiscreteScheduler", "heun")])
def test_inpainting_makes_the_built_ins_image(name: str, solver: str, channels: int) -> None:
    pipe = pipelines.sd("Inpaint", channels=channels)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    expected = called(pipe, strength=0.8)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
    close(called(pipe, strength=0.8), expected)


@pytest.mark.parametrize("solver", ["seeds3", "dpmpp_2m_sde", "seeds2"])
@pytest.mark.parametrize("way", ["Img2Img", "Inpaint"])
def test_stochastic_solvers_of_several_stages_edit_images(way: str, solver: str) -> None:
    pipe = pipelines.sd(way)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver=solver)
    seen: list[int] = []

    def told(pipe: Any, i: int, t: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(i)
        return {}

    first = called(pipe, 10, strength=0.5, callback_on_step_end=told)
    assert torch.isfinite(first).all()
    order = pipe.scheduler.order
    assert len(seen) == order * 4 + 1  # 5 of 10 steps, an entry for each model call
    assert torch.equal(called(pipe, 10, strength=0.5), first)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_sdxl_makes_the_built_ins_image(rescale: float) -> None:
    pipe = pipelines.sdxl()
    expected = called(pipe, guidance_rescale=rescale)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver="euler")
    close(called(pipe, guidance_rescale=rescale), expected)


@pytest.mark.parametrize("solver", ["flow_euler", "euler", "ddim"])
def test_sd3_with_compat_makes_the_built_ins_image(solver: str) -> None:
    pipe = pipelines.sd3()
    expected = called(pipe)
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, solver=solver, compat=True)
    close(called(pipe), expected)
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, compat=False)
    assert float((called(pipe) - expected).abs().max()) > 1e-4  # the last level is shifted once, not twice


def test_flow_heun_makes_the_built_ins_image() -> None:
    pipe = pipelines.sd3()
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    expected = called(pipe)
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, solver="flow_heun", compat=True)
    close(called(pipe), expected)


@pytest.mark.parametrize("way", ["", "Img2Img"])
def test_flux_makes_the_built_ins_image(way: str) -> None:
    pipe = pipelines.flux(way)
    expected = called(pipe)
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, solver="flow_euler")
    close(called(pipe), expected)


I2I = functools.partial(pipelines.flux, "Img2Img")


@pytest.mark.parametrize(
    ("make", "solver"),
    [
        (make, solver)
        for make in (pipelines.sd3, pipelines.flux)
        for solver in ("seeds3", "dpmpp_2m", "flow_heun", "flow_sde")
    ]
    + [(I2I, "dpmpp_2m"), (I2I, "flow_sde")],
)
def test_any_solver_runs_flow_pipelines(make: Any, solver: str) -> None:
    pipe = make()
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, solver=solver)
    results = []
    with torch.random.fork_rng():
        for _ in range(2):
            torch.manual_seed(0)  # these pipelines hand no generator to their scheduler
            results.append(called(pipe))
    assert torch.isfinite(results[0]).all()
    assert 0.1 < float(results[0].std()) < 10.0  # an eps scheduler would leave noise of 60
    assert torch.equal(*results)


def test_a_start_that_the_pipeline_counts_wrong_is_refused() -> None:
    pipe = I2I()
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, solver="seeds3")
    with pytest.raises(ValueError, match=r"take the 13 timesteps for as many steps.*fastsolve\.accelerate"):
        called(pipe)


def test_wan_makes_nearly_the_built_ins_video() -> None:
    pipe = pipelines.wan()
    asked = pipelines.inputs(pipe, 1, 6)
    expected = pipe(**asked).frames
    pipe.scheduler = FastSolveFlowScheduler.from_config(pipe.scheduler.config, solver="unipc", options={"order": 2})
    found = pipe(**{**asked, "generator": torch.Generator().manual_seed(0)}).frames
    # UniPC tells the network whole timesteps of levels that are not whole: ours says what they are.
    assert float((found - expected).abs().max()) < 2e-2 * float(expected.abs().max())


def test_modular_flux_makes_the_built_ins_image() -> None:
    from diffusers.modular_pipelines import FluxAutoBlocks

    whole = pipelines.flux()
    blocks = FluxAutoBlocks()
    blocks.sub_blocks.pop("text_encoder")
    pipe = blocks.init_pipeline()
    pipe.update_components(transformer=whole.transformer, vae=whole.vae, scheduler=whole.scheduler)
    asked = pipelines.inputs(whole, 2, 4)

    def images() -> Tensor:
        again = {**asked, "generator": torch.Generator().manual_seed(0)}
        return pipe(**again, output="latents")  # type: ignore[no-any-return]

    expected = images()
    pipe.update_components(scheduler=FastSolveFlowScheduler.from_config(whole.scheduler.config, solver="flow_euler"))
    close(images(), expected)


def test_a_pipeline_is_saved_and_loaded_where_the_module_was_imported(tmp_path: Path) -> None:
    pipe = diffusers.DDPMPipeline(pipelines._made("UNet2DModel", **SMALL), diffusers.DDPMScheduler())
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver="seeds2", options={"eta": 0.5})
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["fastsolve.adapters.diffusers", "FastSolveScheduler"]
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path, local_files_only=True)
    assert type(again.scheduler) is FastSolveScheduler
    assert (again.scheduler.config.solver, again.scheduler.config.options) == ("seeds2", {"eta": 0.5})
    other = diffusers.DDPMPipeline.from_pretrained(tmp_path, scheduler=diffusers.DDPMScheduler(), local_files_only=True)
    assert type(other.scheduler) is diffusers.DDPMScheduler
    code = (
        "import sys, diffusers\n"
        "try:\n"
        "    diffusers.DDPMPipeline.from_pretrained(sys.argv[1], local_files_only=True)\n"
        "except ValueError as error:\n"
        "    print('refused', 'fastsolve.adapters.diffusers' in str(error))\n"
        "import fastsolve.adapters.diffusers\n"
        "print(diffusers.DDPMPipeline.from_pretrained(sys.argv[1], local_files_only=True).scheduler.order)\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["refused True", "2"], done.stderr[-2000:]


SMALL = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_a_pipeline_in_half_precision(dtype: torch.dtype) -> None:
    pipe = pipelines.sd().to(dtype)
    pipe.scheduler = FastSolveScheduler.from_config(pipe.scheduler.config, solver="seeds3")
    found = pipe(**pipelines.inputs(pipe, 2, 4, dtype=dtype)).images
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
