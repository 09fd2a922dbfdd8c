"""`fastsolve.accelerate`: whole pipelines of diffusers through a `Sampler`, against the pipelines themselves."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

import fastsolve  # noqa: E402  # after the library is found
import pipelines  # noqa: E402
from catalogue import needs_native  # noqa: E402
from emulated_graph import EmulatedRecorder, Recorded  # noqa: E402
from fastsolve import api, executors  # noqa: E402
from fastsolve.adapters.diffusers import habits, network, starts  # noqa: E402
from fastsolve.adapters.diffusers.laws import law_of  # noqa: E402
from pipelines import inputs  # noqa: E402

# NumPy's and torch's, about the library's own code.
pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")

Builder = Callable[[], Any]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No bars and no advice of the library."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    yield
    diffusers.utils.logging.set_verbosity_warning()


def quietly(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: Any, **asked: Any) -> Tensor:
    made: Tensor = pipe(**asked)[0]
    return made


def assert_near(out: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest element: ten times the rounding that was seen, and a hundredth of a wrong level or scale."""
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    error, size = (out - expected).abs().max().item(), expected.abs().max().item()
    assert error <= 1e-5 * size, (error, size)


def negative(batch: int = 2) -> dict[str, Tensor]:
    """The negative prompt of Flux, with which it calls its network twice."""
    other = inputs(pipelines.flux(), batch, seed=5)
    return {
        "negative_prompt_embeds": other["prompt_embeds"],
        "negative_pooled_prompt_embeds": other["pooled_prompt_embeds"],
        "true_cfg_scale": 3.0,
    }


def edm() -> Any:
    """SDXL as of a model that EDM's preconditioning is around."""
    pipe = pipelines.sdxl()
    pipe.scheduler = diffusers.EDMEulerScheduler()
    return pipe


UNRESCALED = {"guidance_scale": 5.0}
SAME: dict[str, tuple[Builder, str, str, dict[str, Any]]] = {
    "sd": (pipelines.sd, "dpmpp_2m", "DPMSolverMultistepScheduler", {}),
    "sd unguided": (pipelines.sd, "dpmpp_2m", "DPMSolverMultistepScheduler", {"guidance_scale": 1.0}),
    "sd v": (lambda: pipelines.sd(prediction_type="v_prediction"), "ddim", "DDIMScheduler", {}),
    "sd i2i": (lambda: pipelines.sd("Img2Img"), "dpmpp_2m", "DPMSolverMultistepScheduler", {}),
    "sd inpaint, 9 channels": (lambda: pipelines.sd("Inpaint", 9), "ddim", "DDIMScheduler", {}),
    "sdxl": (pipelines.sdxl, "euler", "EulerDiscreteScheduler", UNRESCALED),
    "sdxl rescaled": (pipelines.sdxl, "euler", "EulerDiscreteScheduler", {**UNRESCALED, "guidance_rescale": 0.7}),
    "sdxl i2i": (lambda: pipelines.sdxl("Img2Img"), "euler", "EulerDiscreteScheduler", {}),
    "sdxl edm": (edm, "euler", "EDMEulerScheduler", {}),
    "flux": (pipelines.flux, "flow_euler", "FlowMatchEulerDiscreteScheduler", {}),
    "flux schnell": (
        lambda: pipelines.flux(guidance_embeds=False, use_dynamic_shifting=False, shift=1.0),
        "flow_euler",
        "FlowMatchEulerDiscreteScheduler",
        {},
    ),
    "flux true cfg": (pipelines.flux, "flow_euler", "FlowMatchEulerDiscreteScheduler", negative()),
    "flux i2i": (lambda: pipelines.flux("Img2Img"), "flow_euler", "FlowMatchEulerDiscreteScheduler", {}),
}


@pytest.mark.parametrize(("build", "solver", "scheduler", "more"), SAME.values(), ids=SAME)
def test_the_result_is_that_of_the_built_in_scheduler(
    build: Builder, solver: str, scheduler: str, more: dict[str, Any]
) -> None:
    pipe = quietly(build())
    out = latents(fastsolve.accelerate(pipe, solver), **inputs(pipe, batch=2), **more)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    assert_near(out, latents(pipe, **inputs(pipe, batch=2), **more))


@pytest.mark.parametrize("build", [pipelines.sd3, pipelines.wan])
def test_with_the_levels_of_the_built_in_scheduler_where_ours_differ(build: Builder) -> None:
    pipe = quietly(build())  # FlowMatchEuler shifts twice at the end; UniPC and DPM-Solver cut flow times to integers
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected = latents(pipe, **inputs(pipe, batch=2))
    fast = fastsolve.accelerate(pipe, "flow_euler", grid=pipe.scheduler.sigmas.tolist())
    assert_near(latents(fast, **inputs(pipe, batch=2)), expected)


def test_a_scale_may_be_a_number_of_any_library() -> None:
    pipe = quietly(pipelines.sd())
    fast = fastsolve.accelerate(pipe, "ddim")
    expected = latents(fast, **inputs(pipe), guidance_scale=6.5)
    for scale in (np.float32(6.5), torch.tensor(6.5)):
        assert torch.equal(latents(fast, **inputs(pipe), guidance_scale=scale), expected)


def test_a_strength_that_leaves_no_step_is_refused() -> None:
    for pipe in (pipelines.sd("Img2Img"), pipelines.sdxl("Img2Img")):
        fast = fastsolve.accelerate(quietly(pipe), "ddim")
        with pytest.raises(ValueError, match=r"of 5 steps none is left: strength must be .* 0\.2, not 0\.1"):
            latents(fast, **{**inputs(pipe), "strength": 0.1})


def test_eta_is_the_solvers() -> None:
    pipe = quietly(pipelines.sd())
    with pytest.raises(ValueError, match=r"leave eta=0\.5 out, and give accelerate\(\.\.\., options=\{'eta': 0\.5\}\)"):
        latents(fastsolve.accelerate(pipe, "ddim"), **inputs(pipe), eta=0.5)


def test_custom_timesteps_and_sigmas_reach_the_run() -> None:
    pipe = quietly(pipelines.sd())
    asked = {**inputs(pipe), "timesteps": [900, 500, 100]}
    fast = fastsolve.accelerate(pipe, "dpmpp_2m")
    out = latents(fast, **asked)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert_near(out, latents(pipe, **{**asked, "generator": torch.Generator().manual_seed(0)}))
    del asked["num_inference_steps"]
    for own in ({"grid": "karras"}, {"steps": 3}, {"nfe": 3}):
        with pytest.raises(
            ValueError,
            match=rf"timesteps are given, and accelerate\(\.\.\., {next(iter(own))}=\.\.\.\) has levels of its own",
        ):
            latents(fastsolve.accelerate(pipe, "dpmpp_2m", **own), **asked)


def by_hand(pipe: Any, asked: dict[str, Any], solver: str, scale: float, channels: int) -> Tensor:
    """Stable Diffusion's loop as its user would write it with fastsolve."""
    law, generator = law_of(pipe.scheduler.config, solver), asked["generator"]
    model = fastsolve.Denoiser(
        lambda x, t, **kw: pipe.unet(x, t, return_dict=False, **kw)[0],
        law.schedule,
        law.prediction,
        null={},
        doubles=True,
    )
    size = pipelines.SIDE // 2
    x = torch.randn(len(asked["prompt_embeds"]), channels, size, size, generator=generator)
    return fastsolve.sample(
        model,
        solver=solver,
        grid=law.levels(asked["num_inference_steps"]),
        guidance=scale,
        x_init=x,
        seed=generator,
        model_kwargs={"encoder_hidden_states": asked["prompt_embeds"]},
        negative_kwargs={"encoder_hidden_states": asked["negative_prompt_embeds"]},
    )


@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds3", "restart"])
def test_the_result_has_the_bits_of_a_run_by_hand(solver: str) -> None:
    pipe = quietly(pipelines.sd())
    out = latents(fastsolve.accelerate(pipe, solver), **inputs(pipe, batch=2), guidance_scale=6.5)
    assert torch.equal(out, by_hand(pipe, inputs(pipe, batch=2), solver, 6.5, 4))


class Counted:
    """Calls of a pipeline's own network, and its inputs."""

    def __init__(self, net: Any) -> None:
        self.inputs: list[Tensor] = []
        self._hook = net.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        assert isinstance(x, Tensor)
        self.inputs.append(x.clone())


RESTART = {"intervals": [(2, 2, 0.3, 0.7)]}
KINDS: dict[str, tuple[Builder, str, dict[str, Any] | None]] = {
    "sd": (pipelines.sd, "unet", {"intervals": [(2, 2, 0.5, 5.0)]}),
    "sdxl": (pipelines.sdxl, "unet", {"intervals": [(2, 2, 0.5, 5.0)]}),
    "sd3": (pipelines.sd3, "transformer", RESTART),
    "flux": (pipelines.flux, "transformer", RESTART),
    "wan": (pipelines.wan, "transformer", RESTART),
}


@pytest.mark.parametrize("solver", ["seeds3", "tada", "restart", "heun"])
@pytest.mark.parametrize(("build", "name", "intervals"), KINDS.values(), ids=KINDS)
def test_every_solver_runs_and_asks_the_network_as_often_as_its_plan(
    build: Builder, name: str, intervals: dict[str, Any] | None, solver: str
) -> None:
    pipe = quietly(build())
    fast = fastsolve.accelerate(pipe, solver, options=intervals if solver == "restart" else None)
    first = latents(fast, **inputs(pipe))
    counted = Counted(getattr(pipe, name))
    again = latents(fast, **inputs(pipe))
    assert torch.equal(first, again)
    assert first.isfinite().all()
    law = law_of(pipe.scheduler.config, solver)
    levels = fastsolve.make_plan(
        solver,
        schedule=law.schedule,
        grid=law.levels(5, mu=0.5 if law.dynamic else None),
        options=intervals if solver == "restart" else None,
    )
    calls = 2 if name == "transformer" and type(pipe).__name__.startswith("Wan") else 1
    assert len(counted.inputs) == calls * levels.nfe
    assert not torch.equal(latents(fast, **inputs(pipe, seed=1)), again)


def animated() -> tuple[Any, dict[str, Any]]:
    """AnimateDiff, which repeats its prompts for each frame of a sample, and arguments of a call of two samples."""
    part, generator = pipelines.sd(), torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        sizes = {"block_out_channels": (8, 16), "motion_num_attention_heads": 2, "motion_norm_num_groups": 4}
        adapter = diffusers.MotionAdapter(**sizes, motion_layers_per_block=1)
    pipe = diffusers.AnimateDiffPipeline(part.vae, None, None, part.unet, adapter, part.scheduler)
    words = {name: torch.randn(2, 3, 12, generator=generator) for name in ("prompt_embeds", "negative_prompt_embeds")}
    size = {"height": pipelines.SIDE, "width": pipelines.SIDE, "num_frames": 3}
    return quietly(pipe), {**words, **size, "num_inference_steps": 4, "output_type": "latent"}


def test_prompts_of_each_frame_stay_in_their_half_of_the_call() -> None:
    pipe, asked = animated()
    start = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    out = latents(fastsolve.accelerate(pipe, "ddim"), **asked, latents=start)
    assert_near(out, latents(pipe, **asked, latents=start))


def test_a_doubled_call_is_given_what_the_pipeline_gives_it() -> None:
    generator, seen = torch.Generator().manual_seed(0), []
    sample, table = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(4, 5, generator=generator)
    both = torch.randn(4, 4, 8, 8, generator=generator)
    form = network.Form((4, 8, 8), torch.float32, lambda tensor: tensor)
    given = {"x": torch.cat([sample] * 2), "timestep": torch.tensor(500.0), "table": table, "masks": [torch.ones(1, 3)]}

    class Net(torch.nn.Module):
        def forward(self, **kwargs: Any) -> Tensor:
            seen.append(kwargs)
            return both

    net, law = Net(), law_of({"beta_schedule": "scaled_linear"}, "ddim")
    u, c = both.chunk(2)
    call = network.Call(net, "x", given, form, both)
    turn = habits.seen([call], u + 7.5 * (c - u), 500.0, sample, law, [fastsolve.Guidance(7.5)])
    model = network.denoiser(call, turn.habits, law.schedule, law.prediction)
    conditions, other = turn.conditions
    fastsolve.sample(model, sample.shape, solver="ddim", grid=[500.0, -1.0], guidance=turn.guidance, x_init=sample,
                     model_kwargs=conditions, negative_kwargs=other)  # fmt: skip
    assert len(seen) == 1
    assert seen[0]["table"] is table  # as long as the doubled batch, and of no batch
    assert seen[0]["masks"][0].shape == (1, 3)
    assert torch.equal(seen[0]["x"], given["x"])
    assert torch.equal(model(given["x"], torch.full((4,), 500.0), **other), torch.cat([c, u]))
    with pytest.raises(habits.UnlikeError, match=r"scale 1 has no use"):
        habits.seen([call], c, 500.0, sample, law, [fastsolve.Guidance(1.0)])


def test_tada_begins_with_the_latents_and_draws_the_rest() -> None:
    pipe = quietly(pipelines.flux())
    fast = fastsolve.accelerate(pipe, "tada", options={"n_variables": 3})
    latents(fast, **inputs(pipe))
    counted = Counted(pipe.transformer)
    latents(fast, **inputs(pipe))
    drawn = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    packed = pipe._pack_latents(drawn, 1, 4, 8, 8)
    assert torch.allclose(counted.inputs[0], packed, rtol=0.0, atol=1e-6)  # at alpha = 0, noise alone


def test_tadas_state_has_the_law_of_its_plan() -> None:
    plan = fastsolve.make_plan("tada", schedule="vp_scaled_linear", steps=4, options={"n_variables": 3})
    generator, shape = torch.Generator().manual_seed(3), (2, 3, 100, 100)
    given = torch.randn(shape, generator=generator)
    state = starts.state(plan, 14.0 * given, 14.0, lambda: torch.randn(shape, generator=generator))
    rows = torch.tensor(plan.variables)
    covariance = torch.cov(state.reshape(3, -1))
    assert torch.allclose(covariance, rows @ rows.T, atol=4.0 / 60000**0.5)  # four deviations of an estimate
    run = fastsolve.Sampler(lambda x, t: x, shape, solver="tada", schedule="vp_scaled_linear", prediction="eps", steps=4,
                            options={"n_variables": 3})  # fmt: skip
    seen = next(run.iterate(x_init=state)).x
    assert torch.allclose(seen, plan.evals[0].sigma * given, atol=1e-5)


def test_a_start_from_data_is_none_for_tada() -> None:
    pipe = quietly(pipelines.sd("Img2Img"))
    with pytest.raises(ValueError, match=r"it starts from data, and tada from 2 noises"):
        latents(fastsolve.accelerate(pipe, "tada"), **inputs(pipe))


def test_a_list_of_generators_seeds_each_sample() -> None:
    pipe = quietly(pipelines.sd())
    fast, asked = fastsolve.accelerate(pipe, "seeds3"), inputs(pipe, batch=2)
    both = latents(fast, **{**asked, "generator": [torch.Generator().manual_seed(i) for i in (3, 4)]})
    for i, seed in enumerate((3, 4)):
        one = {key: v[i : i + 1] if isinstance(v, Tensor) else v for key, v in asked.items()}
        alone = latents(fast, **{**one, "generator": [torch.Generator().manual_seed(seed)]})
        assert_near(both[i : i + 1], alone)


def test_several_images_of_a_prompt() -> None:
    pipe = quietly(pipelines.sd())
    asked = {**inputs(pipe, batch=2), "num_images_per_prompt": 2}
    out = latents(fastsolve.accelerate(pipe, "ddim"), **asked)
    assert len(out) == 4
    assert_near(out, latents(pipe, **{**asked, "generator": torch.Generator().manual_seed(0)}))


def test_without_a_generator_torchs_own_is_drawn_from() -> None:
    pipe = quietly(pipelines.sd())
    fast, asked = fastsolve.accelerate(pipe, "seeds3"), inputs(pipe)
    latents(fast, **asked)
    del asked["generator"]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, then = latents(fast, **asked), latents(fast, **asked)
        torch.manual_seed(5)
        assert torch.equal(latents(fast, **asked), first)
        assert not torch.equal(first, then)


def test_bfloat16_is_no_further_off_than_the_built_in_scheduler() -> None:
    pipe = quietly(pipelines.sd()).to(torch.bfloat16)
    exact = copy.deepcopy(pipe).to(torch.float32)
    asked = inputs(pipe, batch=2, dtype=torch.bfloat16)
    asked["latents"] = torch.randn(2, 4, 8, 8, generator=asked["generator"]).bfloat16()
    out, theirs = latents(fastsolve.accelerate(pipe, "ddim"), **asked), latents(pipe, **asked)
    expected = latents(exact, **{key: v.float() if isinstance(v, Tensor) else v for key, v in asked.items()})
    assert out.dtype == torch.bfloat16
    ours, builtin = ((x.float() - expected).abs().mean() for x in (out, theirs))
    assert ours <= builtin


def test_later_calls_reuse_the_sampler_as_long_as_the_network_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Noted(fastsolve.Sampler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(api, "Sampler", Noted)
    pipe = quietly(pipelines.sd())
    latents(fastsolve.accelerate(pipe, "seeds3"), **inputs(pipe))
    latents(fastsolve.accelerate(pipe, "seeds3"), **inputs(pipe, seed=1))
    assert len(made) == 1
    latents(fastsolve.accelerate(pipe, "seeds3"), **inputs(pipe, batch=2))
    assert len(made) == 2
    gone = [weakref.ref(sampler) for sampler in made]
    del pipe
    made.clear()
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_the_pipeline_stays_as_it_was() -> None:
    pipe = quietly(pipelines.sd())
    pipe.scheduler.set_timesteps(7)
    before = dict(vars(pipe)), dict(vars(pipe.unet)), dict(vars(pipe.scheduler)), torch.get_rng_state()
    fast = fastsolve.accelerate(pipe, "seeds3")
    asked = inputs(pipe)
    prompt = asked["prompt_embeds"].clone()
    latents(fast, **asked)
    after = vars(pipe), vars(pipe.unet), vars(pipe.scheduler)
    for old, new in zip(before, after, strict=False):
        assert old.keys() == new.keys()
        assert all(old[key] is new[key] for key in old)
    assert torch.equal(before[3], torch.get_rng_state())
    assert torch.equal(asked["prompt_embeds"], prompt)
    assert fast.pipe is pipe
    assert fast.vae is pipe.vae  # as every other attribute


def test_what_is_set_or_moved_is_the_pipeline() -> None:
    pipe = quietly(pipelines.sd())
    fast = fastsolve.accelerate(pipe, "ddim")
    assert fast.to("cpu") is fast
    fast.scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    assert pipe.scheduler is fast.scheduler
    expected = latents(fast, **inputs(pipe))
    assert_near(expected, latents(pipe, **inputs(pipe)))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(latents(other, **inputs(pipe)), expected)
        assert other.unet is not pipe.unet


def test_an_error_of_the_network_leaves_no_trace() -> None:
    pipe = quietly(pipelines.flux())
    fast = fastsolve.accelerate(pipe, "seeds3")
    expected = latents(fast, **inputs(pipe))
    before = [dict(vars(module)) for module in (pipe, *pipe.transformer.modules())]
    hook = pipe.transformer.norm_out.register_forward_pre_hook(lambda *args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        latents(fast, **inputs(pipe))
    hook.remove()
    for module, known in zip((pipe, *pipe.transformer.modules()), before, strict=True):
        assert vars(module).keys() == known.keys()
        assert all(vars(module)[name] is value for name, value in known.items())
    assert torch.equal(latents(fast, **inputs(pipe)), expected)


def test_autocast_may_come_and_go() -> None:
    pipe = quietly(pipelines.sd())
    fast = fastsolve.accelerate(pipe, "ddim")
    expected = latents(fast, **inputs(pipe))
    with torch.autocast("cpu", torch.bfloat16):
        half = latents(fast, **inputs(pipe))
    assert 0.0 < (half - expected).abs().max() < 0.03 * expected.abs().max()  # rounded to 8 bits, five times
    assert torch.equal(latents(fast, **inputs(pipe)), expected)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_network_with_cuda_graphs_of_its_own_is_known() -> None:
    for whole in (False, True):
        for mode, own in (("default", False), ("reduce-overhead", True)):
            net = torch.nn.Identity()
            if whole:
                net = torch.compile(net, mode=mode)
            else:
                net.compile(mode=mode)
            x = torch.ones(1, 4)
            call = network.Call(net, "x", {"x": x}, network.Form((4,), x.dtype, lambda tensor: tensor), x)
            way = network.Habits("x", "index", 1.0, (), 0, False, False)
            law = law_of({"beta_schedule": "scaled_linear"}, "ddim")
            assert network.denoiser(call, way, law.schedule, law.prediction).reuses_output is own


def test_two_threads_may_call_at_once() -> None:
    pipe = quietly(pipelines.flux())
    fast = fastsolve.accelerate(pipe, "seeds3")
    alone = [latents(fast, **inputs(pipe, seed=seed)) for seed in range(4)]
    found: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: latents(fast, **inputs(pipe, seed=seed))}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], alone[seed]) for seed in range(4))


def test_a_compiled_network_is_the_one_that_runs() -> None:
    pipe = quietly(pipelines.flux())
    expected = latents(fastsolve.accelerate(pipe, "flow_euler"), **inputs(pipe))
    calls = []

    def backend(module: Any, example: Any) -> Any:
        return lambda *args: calls.append(1) or module(*args)

    pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    fast = fastsolve.accelerate(pipe, "flow_euler")
    latents(fast, **inputs(pipe))
    calls.clear()
    assert_near(latents(fast, **inputs(pipe)), expected)
    assert calls


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=needs_native), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("build", [pipelines.sd, pipelines.flux, pipelines.wan])
def test_a_loop_becomes_a_graph_that_new_prompts_and_seeds_go_through(
    build: Builder, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":  # emulated there
        made = executors.backend
        monkeypatch.setattr(executors, "_no_graph", lambda name, setting: None)
        monkeypatch.setattr(executors, "CudaRecorder", EmulatedRecorder)
        monkeypatch.setattr(executors, "backend", lambda *args: Recorded(made(*args), args[-1]))
    pipe = quietly(build()).to(device)

    def asked(seed: int) -> dict[str, Any]:
        """A call whose prompts, too, go with the seed."""
        return {key: v.to(device) if isinstance(v, Tensor) else v for key, v in inputs(pipe, seed=seed).items()}

    plain = fastsolve.accelerate(pipe, "seeds3", graph="off")
    expected = [latents(plain, **asked(seed)) for seed in range(3)]
    fast = fastsolve.accelerate(pipe, "seeds3", graph="require")
    latents(fast, **asked(0))
    counted = Counted(getattr(pipe, "unet", None) or pipe.transformer)
    for seed in range(3):
        assert torch.equal(latents(fast, **asked(seed)), expected[seed])
    assert not counted.inputs  # a replay runs no Python of the network


def seen_latents(pipe: Any, stop: int | None = None) -> tuple[Tensor, list[tuple[int, float, Tensor]]]:
    shown = []

    def look(pipeline: Any, number: int, time: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        shown.append((number, float(time), given["latents"].clone()))
        pipeline._interrupt = number == stop
        return given

    return latents(pipe, **inputs(getattr(pipe, "pipe", pipe)), callback_on_step_end=look), shown


@pytest.mark.parametrize("way", ["", "Img2Img"])
@pytest.mark.parametrize("stop", [None, 1])
def test_a_callback_sees_the_latents_after_each_step_and_can_stop(way: str, stop: int | None) -> None:
    pipe = quietly(pipelines.sd(way))
    out, shown = seen_latents(fastsolve.accelerate(pipe, "ddim"), stop)
    expected, theirs = seen_latents(pipe, stop)
    assert_near(out, expected)
    assert [(i, time) for i, time, _ in shown] == [(i, time) for i, time, _ in theirs]
    for (_, _, x), (_, _, y) in zip(shown, theirs, strict=True):
        assert_near(x, y)


def test_a_bar_moves_with_the_run() -> None:
    pipe, out = pipelines.sd(), io.StringIO()
    pipe.set_progress_bar_config(file=out, mininterval=0.0)
    seen: list[str] = []

    def look(pipeline: Any, number: int, time: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(out.getvalue().rpartition("|")[2].split()[0])
        return given

    latents(fastsolve.accelerate(pipe, "seeds3"), **inputs(pipe), callback_on_step_end=look)
    assert seen == [f"{i}/5" for i in range(1, 6)]


CHANGES: dict[str, Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]] = {
    "latents": lambda pipe, given: {"latents": 2 * given["latents"]},
    "wrote into": lambda pipe, given: {"latents": given["latents"].mul_(2)},
    "_guidance_scale": lambda pipe, given: setattr(pipe, "_guidance_scale", 1.0) or given,
}


@pytest.mark.parametrize(("what", "change"), CHANGES.items(), ids=CHANGES)
def test_a_callback_that_changes_something_is_refused(what: str, change: Any) -> None:
    pipe = quietly(pipelines.sd())
    with pytest.raises(ValueError, match=rf"callback_on_step_end .*{what}.* take a scheduler of fastsolve"):
        latents(
            fastsolve.accelerate(pipe, "ddim"),
            **inputs(pipe),
            callback_on_step_end=lambda pipeline, number, time, given: change(pipeline, given),
        )


def test_a_callback_may_keep_things_and_see_what_is_no_number() -> None:
    pipe = quietly(pipelines.sd())
    pipe.unet.conv_in.bias.fill_(torch.nan)

    def count(pipeline: Any, number: int, time: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        pipeline.seen = getattr(pipeline, "seen", 0) + 1
        assert pipeline.seen == number + 1
        return given

    assert latents(fastsolve.accelerate(pipe, "ddim"), **inputs(pipe), callback_on_step_end=count).isnan().all()


def test_a_callback_for_other_tensors_is_refused() -> None:
    pipe = quietly(pipelines.sd())
    fast = fastsolve.accelerate(pipe, "ddim")
    with pytest.raises(ValueError, match=r"can be shown \['latents'\] here, not \['latents', 'prompt_embeds'\]"):
        latents(
            fast,
            **inputs(pipe),
            callback_on_step_end=lambda *args: {},
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )
    with pytest.raises(ValueError, match=r"give callback_on_step_end="):
        latents(fast, **inputs(pipe), callback=print)


def test_two_parts_of_a_run_are_the_whole_of_it() -> None:
    base, refiner = quietly(pipelines.sdxl()), quietly(pipelines.sdxl("Img2Img"))
    refiner.unet = base.unet
    first, second = (fastsolve.accelerate(pipe, "euler") for pipe in (base, refiner))
    asked = inputs(base, steps=10)
    whole = latents(first, **asked)
    half = latents(first, **inputs(base, steps=10), denoising_end=0.5)
    shared = {key: v for key, v in asked.items() if key not in ("height", "width")}
    size = {"original_size": (16, 16), "target_size": (16, 16)}
    out = latents(second, **shared, **size, image=half, denoising_start=0.5, guidance_scale=5.0)
    assert_near(out, whole)


@pytest.mark.parametrize("nfe", [13, 14, 15])
def test_a_budget_of_calls(nfe: int) -> None:
    pipe = quietly(pipelines.sd())
    fast = fastsolve.accelerate(pipe, "seeds3", nfe=nfe)
    asked = inputs(pipe)
    del asked["num_inference_steps"]
    latents(fast, **asked)
    counted = Counted(pipe.unet)
    latents(fast, **asked)
    assert len(counted.inputs) == 13  # four steps of three, and the last of one


def test_steps_and_their_number_must_agree() -> None:
    pipe = quietly(pipelines.sd())
    for more in ({"steps": 4}, {"grid": [900.0, 500.0, 100.0, 10.0, -1.0]}):
        with pytest.raises(
            ValueError, match=r"num_inference_steps is 5, and accelerate was asked for 4 steps: leave one out"
        ):
            latents(fastsolve.accelerate(pipe, "ddim", **more), **inputs(pipe))
    with pytest.raises(ValueError, match=r"give one of steps and nfe, not both \(steps=4, nfe=8\)"):
        fastsolve.accelerate(pipe, "ddim", steps=4, nfe=8)
    with pytest.raises(ValueError, match=r"num_inference_steps must be a positive int"):
        latents(
            fastsolve.accelerate(pipe, "ddim", steps=0), **{k: v for k, v in inputs(pipe).items() if "steps" not in k}
        )


def test_unknown_names_are_refused_at_once() -> None:
    pipe = pipelines.sd()
    with pytest.raises(ValueError, match=r"unknown solver 'seeds33'.*'seeds3'"):
        fastsolve.accelerate(pipe, "seeds33")
    with pytest.raises(TypeError, match=r"a pipeline of diffusers, not UNet2DConditionModel"):
        fastsolve.accelerate(pipe.unet)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'promt'"):
        fastsolve.accelerate(pipelines.flux())(promt="a cat")


def test_the_scheduler_of_another_family_is_refused() -> None:
    pipe = pipelines.sd3()
    pipe.scheduler = diffusers.EulerDiscreteScheduler()
    with pytest.raises(ValueError, match=r"is made for flow matching, .*EulerDiscreteScheduler is of the family 'vp'"):
        fastsolve.accelerate(pipe)
    pipe = pipelines.sd()
    pipe.scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    with pytest.raises(ValueError, match=r"is made for a model trained on betas, .* of the family 'flow'"):
        fastsolve.accelerate(pipe)


def test_inpainting_between_the_steps_is_refused() -> None:
    pipe = quietly(pipelines.sd("Inpaint"))
    with pytest.raises(ValueError, match=r"it changes the latents between two steps .*FastSolveScheduler\.from_config"):
        latents(fastsolve.accelerate(pipe, "ddim"), **inputs(pipe))


def test_a_controlnet_is_refused() -> None:
    pipe = pipelines.sd()
    control = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_channels=3)
    parts = {**pipe.components, "controlnet": control}
    with pytest.raises(ValueError, match=r"what its ControlNet adds depends on the latents"):
        fastsolve.accelerate(diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False))


def test_skipped_layers_are_refused() -> None:
    pipe = quietly(pipelines.sd3())
    with pytest.raises(ValueError, match=r"networks it calls changes .*FastSolveFlowScheduler\.from_config"):
        latents(fastsolve.accelerate(pipe), **inputs(pipe), skip_guidance_layers=[0], skip_layer_guidance_stop=1.0)


def test_a_second_network_half_way_is_refused() -> None:
    pipe = quietly(pipelines.wan())
    pipe.transformer_2 = copy.deepcopy(pipe.transformer)
    pipe.register_to_config(boundary_ratio=0.9)
    with pytest.raises(ValueError, match=r"which networks it calls changes from step to step"):
        latents(fastsolve.accelerate(pipe), **inputs(pipe))


def test_one_step_of_several_calls_is_refused() -> None:
    pipe = quietly(pipelines.sdxl())
    with pytest.raises(ValueError, match=r"in it seeds3 calls the network 3 times \(take two steps or more\)"):
        latents(fastsolve.accelerate(pipe, "seeds3"), **inputs(pipe), denoising_end=0.2)


class Switched(diffusers.StableDiffusionPipeline):  # type: ignore[misc]
    """Changes a module of its network in each step, as GLIGEN does in one; or asks its scheduler for what not all have."""

    asks = False

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        return {"table": self.scheduler.alphas_cumprod} if self.asks else {}

    @property
    def interrupt(self) -> bool:
        self.unet.conv_out.enabled = not getattr(self.unet.conv_out, "enabled", True)
        return False


def test_modules_that_change_and_unknown_attributes_of_schedulers_are_refused() -> None:
    pipe = quietly(Switched(**pipelines.sd().components, requires_safety_checker=False))
    with pytest.raises(ValueError, match=r"it changes modules of its network from step to step"):
        latents(fastsolve.accelerate(pipe, "ddim"), **{**inputs(pipe), "num_inference_steps": 4})
    pipe.asks = True
    with pytest.raises(ValueError, match=r"it asks its scheduler for alphas_cumprod.*FastSolveScheduler\.from_config"):
        latents(fastsolve.accelerate(pipe, "ddim"), **inputs(pipe))


def test_a_cache_that_counts_steps_is_refused() -> None:
    pipe = quietly(pipelines.flux())
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ValueError, match=r"its transformer has a cache, .*disable_cache\(\)"):
        latents(fastsolve.accelerate(pipe), **inputs(pipe))


def turn(
    mix: Callable[[Tensor, Tensor], Tensor], time: Any = 500.0, x: Callable[[Tensor], Tensor] = lambda x: x
) -> Any:
    """What is learned of a turn with two calls, whose outputs are mixed so."""
    generator = torch.Generator().manual_seed(0)
    sample, c, u = torch.randn(3, 2, 4, 8, 8, generator=generator)
    form = network.Form((4, 8, 8), torch.float32, lambda tensor: tensor)
    told = torch.as_tensor(time)
    net = torch.nn.Identity()
    calls = [network.Call(net, "x", {"x": x(sample), "timestep": told, "y": y}, form, y) for y in (c, u)]
    law = law_of({"beta_schedule": "scaled_linear"}, "ddim")
    return habits.seen(
        calls, mix(c, u), 500.0, sample, law, [fastsolve.Guidance(7.5), fastsolve.Guidance(7.5, rescale=0.5)]
    )


def test_guidance_is_seen_and_nothing_else_is_taken_for_it() -> None:
    assert turn(lambda c, u: u + 7.5 * (c - u)).guidance == fastsolve.Guidance(7.5)
    swapped = turn(lambda c, u: c + 7.5 * (u - c))
    assert torch.equal(swapped.conditions[0]["y"], turn(lambda c, u: u + 7.5 * (c - u)).conditions[1]["y"])
    mixed = {
        "another scale": lambda c, u: u + 7.0 * (c - u),
        "the other sign": lambda c, u: -(u + 7.5 * (c - u)),
        "zero-star": lambda c, u: 0.98 * u + 7.5 * (c - 0.98 * u),
        "normalised": lambda c, u: (m := u + 7.5 * (c - u)) * (c.norm() / m.norm()),
        "bounded": lambda c, u: (u + 7.5 * (c - u)).clamp(-20, 20),
    }
    for what, mix in mixed.items():
        with pytest.raises(habits.UnlikeError, match=r"are not combined by guidance"):
            pytest.fail(f"{what} was taken for {turn(mix).guidance}")


def test_the_time_of_the_network_is_seen() -> None:
    assert turn(lambda c, u: u + 7.5 * (c - u)).habits.factor == 1.0
    assert turn(lambda c, u: u + 7.5 * (c - u), time=0.5).habits.factor == 1e-3
    for time in (499.0, 0.499, 500, [500.0, 400.0]):
        with pytest.raises(habits.UnlikeError, match=r"its network is (not )?told"):
            turn(lambda c, u: u + 7.5 * (c - u), time=time)


def test_an_input_that_is_not_the_latents_is_refused() -> None:
    for change in (lambda x: 0.99 * x, lambda x: x.flip(1), lambda x: x[:, :3], lambda x: x.flatten(1)):
        with pytest.raises(habits.UnlikeError, match=r"the input of its network is not the latents"):
            turn(lambda c, u: u + 7.5 * (c - u), x=change)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("fastsolve.adapters.diffusers", "diffusers."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r'pip install "fastsolve\[diffusers\]"'):
        fastsolve.accelerate(object())
