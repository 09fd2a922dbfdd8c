"""The ComfyUI adapter through the path that its KSAMPLER takes: by a stand-in always, by the real one where COMFYUI_PATH is a checkout."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import comfy_paths
import fastsolve
from comfy_paths import SHAPE, Options, Real, StandIn
from fastsolve import schedules
from fastsolve.adapters import comfy, comfy_install, comfy_models, k_diffusion
from fastsolve.adapters.k_diffusion import sampler_function

NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
Look = Callable[[Tensor, Options], None]
Make = Callable[..., Any]
MULTI_CALL = ["heun", "seeds_2", "seeds_3", "dpm_2", "dpmpp_sde", "sa_solver_pece", "uni_pc", "dpmpp_2m_sde"]


@pytest.fixture(scope="module", params=["stand-in", "real"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a model of a kind, "eps", "flow" or "edm", of the stand-in or of the real ComfyUI."""
    if request.param == "stand-in":
        yield StandIn
        return
    if (path := comfy_paths.checkout()) is None:
        pytest.skip("COMFYUI_PATH is not set to a checkout of ComfyUI")
    for name in ("aiohttp", "einops", "psutil", "torchsde", "yaml", "safetensors", "transformers"):
        pytest.importorskip(name, reason=f"ComfyUI needs {name}")
    with comfy_paths.imported(path):
        yield Real


def levels(model: Any, steps: int = 8, grid: str = "karras") -> Tensor:
    return comfy_models.sigmas(model.sampling, "uniform" if comfy_models.is_flow(model.sampling) else grid, steps)


def exact(model: Any, sigmas: Tensor) -> Tensor:
    """The end of the probability flow from the state that the path begins with, at sigma = 0."""
    flow = comfy_models.is_flow(model.sampling)
    s = float(sigmas[0])
    alpha = 1.0 - s if flow else 1.0
    top = not flow and s >= float(model.sampling.sigmas[-1]) * (1 - 1e-5)
    x = NOISE.double() * ((1 + s * s) ** 0.5 if top else s)
    spread = (alpha**2 * comfy_paths.STD**2 + s * s) ** 0.5
    return comfy_paths.MEAN + comfy_paths.STD / spread * (x - alpha * comfy_paths.MEAN)


@pytest.mark.parametrize("kind", ["eps", "flow", "edm"])
@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "seeds_3", "uni_pc", "restart"])
def test_sampling_comes_to_the_end_of_the_flow(make: Make, kind: str, solver: str) -> None:
    errors = []
    for steps in (12, 24):
        model = make(kind)
        sigmas = levels(model, steps)
        options = {"eta": 0.0} if solver == "seeds_3" else {}
        out = model.sample(sampler_function(solver), sigmas, NOISE, **options)
        errors.append(float((out - exact(model, sigmas)).abs().max()))
    assert errors[1] < 0.6 * errors[0] or errors[1] < 5e-3  # what the last step, to 0, leaves
    assert errors[1] < 0.2


def test_euler_is_the_formula(make: Make) -> None:
    model = make("eps")
    sigmas = levels(model)
    x = NOISE.double() * (1 + sigmas[0].double() ** 2) ** 0.5
    for s, t in zip(sigmas[:-1].double(), sigmas[1:].double(), strict=True):
        x = x + (x - comfy_paths.denoised(x, s, False)) / s * (t - s)
    torch.testing.assert_close(model.sample(sampler_function("euler"), sigmas, NOISE).double(), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("solver", ["euler", "seeds_3", "restart", "dpmpp_2m_sde"])
def test_what_is_not_painted_stays_bit_for_bit(make: Make, kind: str, solver: str) -> None:
    model = make(kind)
    latent = torch.linspace(-1.0, 1.0, NOISE.numel()).reshape(SHAPE)
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 4:] = 1.0
    out = model.sample(sampler_function(solver), levels(model), NOISE, latent=latent, mask=mask.expand(SHAPE))
    assert torch.equal(out[..., :4], latent[..., :4])
    assert (out[..., 4:] - latent[..., 4:]).abs().mean() > 0.05


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds_3"])
def test_a_part_of_the_grid_goes_from_an_image(make: Make, kind: str, solver: str) -> None:
    """denoise < 1: the last steps of a longer grid. With little noise the image is still there."""
    model = make(kind)
    latent = torch.full(SHAPE, 0.8)
    (sigmas,) = comfy.Schedule().sigmas(SimpleNamespace(get_model_object=lambda _: model.sampling), "uniform", 5, 0.25)
    assert len(sigmas) == 6
    assert sigmas[0] < levels(model)[0]
    out = model.sample(sampler_function(solver), sigmas, NOISE, latent=latent)
    s = float(sigmas[0])
    alpha = 1.0 - s if kind == "flow" else 1.0
    gain = (
        alpha * comfy_paths.STD / (alpha**2 * comfy_paths.STD**2 + s * s) ** 0.5
    )  # of the probability flow, for the means
    expected = comfy_paths.MEAN + gain * (0.8 - comfy_paths.MEAN) if solver == "dpmpp_2m" else None
    if expected is not None:
        assert abs(float(out.mean()) - expected) < 0.05
    assert abs(float(out.mean()) - comfy_paths.MEAN) > 0.02


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_a_last_level_above_zero_is_kept(make: Make, kind: str) -> None:
    model = make(kind)
    whole = levels(model)
    seen: list[Tensor] = []
    rest = model.sample(sampler_function("euler"), whole[:5], NOISE, callback=lambda i, d, x, n: seen.append(d))
    assert len(seen) == 4
    assert rest.std() > 1.2 * comfy_paths.STD  # the noise of the level is still in it


@pytest.mark.parametrize("solver", ["restart", *MULTI_CALL])
def test_progress_rises_and_stays_within_the_bar(make: Make, solver: str) -> None:
    model, seen = make("eps"), list[tuple[int, int]]()
    options = {"intervals": [(4, 2, 0.1, 2.0), (3, 1, 0.5, 3.0)]} if solver == "restart" else {}
    sigmas = levels(model, 9)
    model.sample(sampler_function(solver, **options), sigmas, NOISE, callback=lambda i, d, x, n: seen.append((i, n)))
    steps = [i for i, _ in seen]
    assert {n for _, n in seen} == {9}
    assert steps == sorted(steps)
    assert set(steps) == set(range(9))
    assert (len(seen) > 9) == (solver == "restart")


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("solver", ["restart", *MULTI_CALL])
def test_models_find_their_sigma_in_the_published_levels(make: Make, kind: str, solver: str) -> None:
    """As ComfyUI's context windows look (to 1e-4), and as its models for mean flows do: equal, and there is a next, lower one."""
    found: list[tuple[float, float]] = []

    def look(sigma: Tensor, model_options: Options) -> None:
        whole = model_options["transformer_options"]["sample_sigmas"]
        assert torch.isclose(whole, sigma[0], rtol=1e-4).any()
        (where,) = torch.where(sigma[0] == whole)
        assert len(where) == 1
        found.append((float(sigma[0]), float(whole[where[0] + 1])))

    model = make(kind, look)
    sigmas = levels(model)
    options = {"intervals": [(4, 2, 0.1, 1.0)]} if solver == "restart" else {}
    model.sample(sampler_function(solver, **options), sigmas, NOISE)
    assert len(found) == len(model.calls)
    assert all(after < sigma for sigma, after in found)


def test_a_sampler_that_publishes_nothing_would_be_seen() -> None:
    """The check above can fail: two of three levels of SEEDS-3 are not among the sigmas."""
    asked: list[bool] = []
    sigmas = levels(StandIn("eps"))
    model = StandIn("eps", lambda sigma, options: asked.append(bool((sigma[0] == sigmas).any())))
    model.sample(sampler_function("seeds_3"), sigmas, NOISE)
    assert asked.count(False) == 2 * 7


def test_what_the_caller_published_is_neither_changed_nor_lost() -> None:
    sigmas = levels(StandIn("eps"))
    whole = torch.cat([torch.tensor([90.0, 40.0]), sigmas])
    inner: Options = {"sample_sigmas": whole, "other": object()}
    kept, seen = whole.clone(), list[Options]()
    model = StandIn("eps", lambda sigma, options: seen.append(options["transformer_options"]))
    model.sample(sampler_function("seeds_2"), sigmas, NOISE, model_options={"transformer_options": inner})
    assert inner["sample_sigmas"] is whole
    assert torch.equal(whole, kept)
    assert seen[0]["other"] is inner["other"]
    assert {*kept.tolist()} < {*seen[0]["sample_sigmas"].tolist()}
    assert (seen[0]["sample_sigmas"].diff() < 0).all()
    single = list[Options]()
    model = StandIn("eps", lambda sigma, options: single.append(options["transformer_options"]))
    model.sample(sampler_function("euler"), sigmas, NOISE, model_options={"transformer_options": inner})
    assert single[0] is inner  # nothing to add
    repeated: Options = {
        "sample_sigmas": torch.cat([sigmas[:3], sigmas[1:3]])
    }  # as many entries as there will be levels
    model = StandIn("eps", lambda sigma, options: seen.append(options["transformer_options"]))
    seen.clear()
    model.sample(sampler_function("seeds_2"), sigmas[:3], NOISE, model_options={"transformer_options": repeated})
    assert {*model.calls} <= {*seen[0]["sample_sigmas"].tolist()}


@pytest.mark.parametrize(
    "sigmas",
    [
        torch.tensor([14, 6, 2, 0]),
        torch.tensor([14.0, 6.1, 2.3, 0.7, 0.1, 0.0], dtype=torch.float64),
        torch.tensor([14.0, 6.1, 2.3, 0.7, 0.1, 0.0], dtype=torch.float16),
        torch.tensor([14.0, 6.1, 2.3, 0.7, 0.1, 0.0], dtype=torch.bfloat16),
    ],
    ids=lambda sigmas: str(sigmas.dtype),
)
def test_published_levels_are_those_of_the_model_whatever_the_dtype_of_sigmas(sigmas: Tensor) -> None:
    """Rounded twice, a level would be beside itself, and its next one."""
    seen = list[Tensor]()
    model = StandIn("eps", lambda sigma, options: seen.append(options["transformer_options"]["sample_sigmas"]))
    model.sample(sampler_function("seeds_3"), sigmas, NOISE)
    assert seen[0].tolist() == sorted({*model.calls, 0.0}, reverse=True)
    assert len(model.calls) == 3 * (len(sigmas) - 1) - 2


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_sigmas_are_not_changed_and_the_next_sampler_is_not_poisoned(make: Make, kind: str) -> None:
    """ComfyUI's uni_pc writes 0.001 over the caller's last sigma, and whatever samples after it ends with noise."""
    model = make(kind)
    sigmas = levels(model)
    kept = sigmas.clone()
    alone = model.sample(sampler_function("euler"), sigmas.clone(), NOISE)
    for solver in k_diffusion.names():
        model.sample(sampler_function(solver), sigmas, NOISE)
        assert torch.equal(sigmas, kept), solver
    assert torch.equal(model.sample(sampler_function("euler"), sigmas, NOISE), alone)


@pytest.mark.parametrize("solver", k_diffusion.names())
def test_flow_models_are_recognised_and_start_at_alpha_zero(make: Make, solver: str) -> None:
    model = make("flow")
    sigmas = levels(model, 6)
    assert sigmas[0] == 1.0
    out = model.sample(sampler_function(solver), sigmas, NOISE)
    assert out.isfinite().all()
    assert model.calls[0] == 1.0 or solver == "fastsolve"  # whose first call is below the start
    if solver.endswith("cfg_pp"):
        return
    direct = fastsolve.sample(
        lambda x, t: comfy_paths.denoised(x, t, True),
        schedule="flow",
        prediction="x0",
        solver=k_diffusion._NAMES.get(solver, (solver, {}))[0],
        options=k_diffusion._NAMES.get(solver, (solver, {}))[1],
        grid=sigmas.tolist(),
        x_init=NOISE.clone(),
        seed=7,
    )
    torch.testing.assert_close(out, direct, rtol=1e-4, atol=1e-5)  # ComfyUI divides by 1 - 0 and clones


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_cfg_pp_is_the_formula(kind: str) -> None:
    model, seen = StandIn(kind), list[Tensor]()
    sigmas = levels(model)
    x = model.sampling.begin(sigmas[0], NOISE, torch.zeros(SHAPE)).double()
    for s, t in pairwise(sigmas.double()):
        a, b = (1 - s, 1 - t) if kind == "flow" else (1, 1)
        d, u = (comfy_paths.denoised(c * x, s, kind == "flow") for c in (1.0, 0.9))
        x = b * d + t / s * (x - a * u)
    other = [lambda args: seen.append(args["denoised"]) or args["denoised"]]  # of another node
    given = {"sampler_post_cfg_function": other, "transformer_options": {"sample_sigmas": sigmas}}
    out = model.sample(sampler_function("euler_cfg_pp"), sigmas, NOISE, model_options=given)
    torch.testing.assert_close(out.double(), x, rtol=1e-5, atol=1e-5)
    assert len(seen) == len(model.calls) == 8
    assert len(other) == 1
    assert "disable_cfg1_optimization" not in given


def test_cfg_pp_without_comfyui_says_what_to_use() -> None:
    with pytest.raises(
        ValueError, match=r"unconditional prediction.*there are none: use fastsolve\.sample with guidance"
    ):
        sampler_function("euler_cfg_pp")(lambda x, s: x, NOISE, torch.tensor([2.0, 1.0, 0.0]), disable=True)


@pytest.mark.parametrize("told", [0, 3])
def test_cfg_pp_takes_no_unconditional_prediction_of_another_call(told: int) -> None:
    """A guider that skips guidance in some calls tells nothing there: what it told before is no longer true."""

    class Guider(StandIn):
        def __call__(self, x: Tensor, sigma: Tensor, model_options: Options, seed: int | None) -> Tensor:
            options = model_options if len(self.calls) < told else {**model_options, "sampler_post_cfg_function": []}
            return super().__call__(x, sigma, options, seed)

    model = Guider("eps")
    with pytest.raises(ValueError, match=r"model gave none: its guider must call.*sampler_post_cfg_function"):
        model.sample(sampler_function("euler_cfg_pp"), levels(model), NOISE)
    assert len(model.calls) == told + 1


@pytest.mark.parametrize(
    ("kind", "solver"),
    [(k, s) for k in ("eps", "flow") for s in ("euler_cfg_pp", "euler_ancestral_cfg_pp")]
    + [("eps", "dpmpp_2m_cfg_pp")],
)
def test_real_cfg_pp_gives_the_same(kind: str, solver: str) -> None:
    if (path := comfy_paths.checkout()) is None:
        pytest.skip("COMFYUI_PATH is not set to a checkout of ComfyUI")
    with comfy_paths.imported(path):
        model = Real(kind)
        sigmas = levels(model) if solver != "dpmpp_2m_cfg_pp" else levels(model)[1:]
        theirs = getattr(importlib.import_module("comfy.k_diffusion.sampling"), f"sample_{solver}")
        options = {"eta": 0.0} if "ancestral" in solver else {}
        for cfg in (1.0, 3.0):
            ours = model.sample(sampler_function(solver), sigmas, NOISE, cfg=cfg, **options)
            expected = model.sample(theirs, sigmas, NOISE, cfg=cfg, **options)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-4)


# What docs/comfyui.md says of functions of the same name: where and with which options ours is ComfyUI's.
SAME = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "lcm",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "seeds_2",
    "seeds_3",
]
ASKED = {"dpmpp_sde": {"compat": "k_diffusion"}, "er_sde": {"compat": "official"}}
AS_VE = [
    "heun",
    "dpm_2",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "ddpm",
    "ipndm",
    "gradient_estimation",
    "res_multistep",
    "res_multistep_ancestral",
]
OTHER_ON_FLOW = {"euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral"}
OTHER = {"uni_pc", "uni_pc_bh2"}  # another last level, 0.001


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_real_functions_of_the_same_name_give_what_is_said(kind: str) -> None:
    """With guidance, the same noise and other options left alone; from below sigma = 1, where their first step is another."""
    if (path := comfy_paths.checkout()) is None:
        pytest.skip("COMFYUI_PATH is not set to a checkout of ComfyUI")
    flow = kind == "flow"
    same: dict[str, Options] = {**ASKED, **{name: {} for name in SAME}}
    same |= {name: {"schedule": "ve"} if flow else {} for name in AS_VE}
    same |= {name: {} for name in (["flow_heun"] if flow else OTHER_ON_FLOW)}
    with comfy_paths.imported(path):
        model, module = Real(kind), importlib.import_module("comfy.samplers")
        sigmas = levels(model)[1:]
        low, high = (float(model.sampling.percent_to_sigma(part)) for part in (0.8, 0.2))
        noisy = {"s_tmin": low / (1 - low * flow), "s_tmax": high / (1 - high * flow)}
        same |= dict.fromkeys(("sa_solver", "sa_solver_pece"), noisy)
        other = {*OTHER, *(name for name, options in same.items() if options), *(OTHER_ON_FLOW if flow else ())}

        def distance(name: str, options: Options) -> float:
            theirs = module.sampler_object(name.removeprefix("flow_")).sampler_function
            outs = []
            for function in (sampler_function(name, **options), theirs):
                free = torch.Generator().manual_seed(5)
                noise = {"noise_sampler": lambda s, t, g=free: torch.randn(SHAPE, generator=g)}
                given = noise if "noise_sampler" in inspect.signature(theirs).parameters else {}
                outs.append(model.sample(function, sigmas.clone(), NOISE, cfg=3.0, **given))
            return float((outs[0] - outs[1]).abs().max() / outs[1].abs().max())

        far = {name: distance(name, options) for name, options in same.items()}
        assert {name: value for name, value in far.items() if value > 5e-6} == {}
        assert {name for name in other if distance(name, {}) < 1e-4} == set()
        both = {*module.SAMPLER_NAMES} & {*k_diffusion.names()}
        left = {name for name in both if name.removesuffix("_gpu") not in {*far, *other}}
        assert left == {"ddim", "deis"}  # there euler; and with warnings of NumPy


@pytest.mark.parametrize("solver", ["ddpm", "res_multistep_ancestral"])
def test_real_noise_of_flow_models_is_that_of_ve(solver: str) -> None:
    """By which the mean of the data is missed; the figures are in docs/comfyui.md."""
    if (path := comfy_paths.checkout()) is None:
        pytest.skip("COMFYUI_PATH is not set to a checkout of ComfyUI")
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with comfy_paths.imported(path):
        model = Real("flow")
        theirs = getattr(importlib.import_module("comfy.k_diffusion.sampling"), f"sample_{solver}")
        for function, missed in ((theirs, True), (sampler_function(solver), False)):
            out = model.sample(function, levels(model, 60), noise, seed=3)
            assert (abs(float(out.mean()) - comfy_paths.MEAN) > 0.05) == missed


def test_an_interrupt_passes_and_leaves_nothing(make: Make) -> None:
    class InterruptError(Exception): ...

    def look(sigma: Tensor, options: Options) -> None:
        if len(model.calls) == 6:
            raise InterruptError

    model = make("eps", look)
    sigmas = levels(model)
    function = sampler_function("seeds_3")
    before = make("eps").sample(function, sigmas, NOISE)
    with pytest.raises(InterruptError):
        model.sample(function, sigmas, NOISE)
    assert len(model.calls) == 6
    assert torch.equal(make("eps").sample(function, sigmas, NOISE), before)


@pytest.mark.parametrize("solver", ["seeds_3", "euler_ancestral", "restart"])
def test_a_sample_does_not_depend_on_its_batch(make: Make, solver: str) -> None:
    model = make("eps")
    options = {"intervals": [(4, 2, 0.1, 2.0)]} if solver == "restart" else {}
    function, sigmas = sampler_function(solver, **options), levels(model)
    two = model.sample(function, sigmas, NOISE)
    one = model.sample(function, sigmas, NOISE[:1])
    assert torch.equal(two[:1], one)
    assert not torch.equal(two[:1], model.sample(function, sigmas, NOISE[:1], seed=8))


# Nodes


@pytest.fixture
def samplers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the nodes ask of ComfyUI: KSAMPLER, KSampler's lists, a module of functions."""

    @dataclass
    class KSAMPLER:
        sampler_function: Callable[..., Tensor]

    known = ["euler"]
    module = ModuleType("comfy.samplers")
    facts = {
        "KSAMPLER": KSAMPLER,
        "KSampler": type("KSampler", (), {"SAMPLERS": known, "SCHEDULERS": ["normal"]}),
        "SCHEDULER_HANDLERS": {},
        "SchedulerHandler": lambda handler, use_ms: SimpleNamespace(handler=handler, use_ms=use_ms),
    }
    for name, value in facts.items():
        setattr(module, name, value)
    for name in ("comfy", "comfy.k_diffusion", "comfy.k_diffusion.sampling"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "comfy.samplers", module)
    return module


def first(widgets: dict[str, Any]) -> dict[str, Any]:
    """What a node is given when nobody touches its widgets."""
    return {
        name: facts["default"] if facts else kind
        for name, (kind, *more) in widgets["required"].items()
        for facts in [more[0] if more else {}]
    }


@pytest.mark.parametrize("name", comfy.NODE_CLASS_MAPPINGS)
def test_nodes_are_what_comfyui_looks_for(samplers: Any, name: str) -> None:
    node = comfy.NODE_CLASS_MAPPINGS[name]
    assert name in comfy.NODE_DISPLAY_NAME_MAPPINGS
    given = first(node.INPUT_TYPES())
    for widget, (kind, *_) in node.INPUT_TYPES()["required"].items():
        assert kind in ("INT", "FLOAT", "STRING", "MODEL") or given[widget] in kind
    if "model" in given:
        given["model"] = SimpleNamespace(get_model_object=lambda _: StandIn("eps").sampling)
    made = getattr(node(), node.FUNCTION)(**given)
    assert len(made) == len(node.RETURN_TYPES) == 1
    if node.RETURN_TYPES == ("SAMPLER",):
        model = StandIn("eps")
        assert model.sample(made[0].sampler_function, levels(model, 12), NOISE).isfinite().all()


def test_the_sampler_node_passes_what_is_set(samplers: Any) -> None:
    model = StandIn("eps")
    (made,) = comfy.Sampler().build("seeds3", 0.5, 1.1, 0, '{"r1": 0.25}')
    expected = model.sample(sampler_function("seeds3", eta=0.5, s_noise=1.1, r1=0.25), levels(model), NOISE)
    assert torch.equal(model.sample(made.sampler_function, levels(model), NOISE), expected)
    (made,) = comfy.Sampler().build("deis", -1.0, -1.0, 2, "")
    expected = model.sample(sampler_function("deis", order=2), levels(model), NOISE)
    assert torch.equal(model.sample(made.sampler_function, levels(model), NOISE), expected)
    flow = StandIn("flow")
    (made,) = comfy.Sampler().build("dpmpp_2m", -1.0, -1.0, 0, '{"schedule": "ve"}')
    expected = flow.sample(sampler_function("dpmpp_2m", schedule="ve"), levels(flow), NOISE)
    out = flow.sample(made.sampler_function, levels(flow), NOISE)
    assert torch.equal(out, expected)
    assert not torch.equal(out, flow.sample(sampler_function("dpmpp_2m"), levels(flow), NOISE))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("euler", 0.5, -1.0, 0, "{}"), "sample_euler has no option 'eta'"),
        (("seeds3", -1.0, -1.0, 0, "{r1: 1}"), "options are JSON, such as"),
        (("seeds3", -1.0, -1.0, 0, "[1]"), "options are names with values"),
        (("seeds3", -1.0, -1.0, 0, '{"variante": "3b"}'), "nearest is 'variant'"),
        (("seed3", -1.0, -1.0, 0, "{}"), "nearest is 'seeds3'"),
    ],
)
def test_the_sampler_node_says_what_is_wrong(samplers: Any, given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        comfy.Sampler().build(*given)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No module of ComfyUI is loaded, also where a test has loaded the real one."""
    for name in [name for name in sys.modules if name.split(".")[0] == "comfy"]:
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def test_outside_of_comfyui_nodes_say_what_to_use(without: pytest.MonkeyPatch) -> None:
    without.setitem(sys.modules, "comfy", ModuleType("comfy"))  # of someone else
    message = r"there is no comfy\.samplers here: .* take fastsolve\.adapters\.k_diffusion\.sampler_function"
    with pytest.raises(ImportError, match=message):
        comfy.Sampler().build("seeds3", -1.0, -1.0, 0)
    with pytest.raises(ImportError, match=message):
        comfy.register()


def test_what_comfyui_lacks_is_its_own_error(without: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "samplers.py").write_text("import something_that_is_not_installed\n")
    package = ModuleType("comfy")
    package.__path__ = [str(tmp_path)]
    without.setitem(sys.modules, "comfy", package)
    with pytest.raises(ModuleNotFoundError, match="something_that_is_not_installed"):
        comfy.Sampler().build("seeds3", -1.0, -1.0, 0)


def test_every_base_of_the_restart_node_runs(samplers: Any) -> None:
    widgets = comfy.Restart.INPUT_TYPES()["required"]
    model = StandIn("eps")
    sigmas = levels(model, 12)
    for base in widgets["base"][0]:
        (made,) = comfy.Restart().build(base, 4, 2, 0.1, 2.0, 1.0)
        assert model.sample(made.sampler_function, sigmas, NOISE).isfinite().all(), base


# Sigmas


@pytest.mark.parametrize("kind", ["eps", "flow", "edm"])
def test_the_schedule_is_found_by_the_models_own_sigmas(make: Make, kind: str) -> None:
    sampling = make(kind).sampling
    law = comfy_models.schedule_of(sampling)
    table = [float(sigma) for sigma in sampling.sigmas]
    if kind == "eps":
        assert isinstance(law, schedules.VPTable)
        ratio = [law.node(t).sigma / law.node(t).alpha for t in (0.0, 500.0, 999.0)]
        assert ratio == pytest.approx([table[0], table[500], table[999]], rel=1e-6)
    elif kind == "flow":
        assert isinstance(law, schedules.Flow)
        assert law.shift == pytest.approx(3.0, rel=1e-5)
    else:
        assert isinstance(law, schedules.VE)
        assert (law.t_min, law.t_max) == (table[0], table[-1])


@pytest.mark.parametrize("kind", ["eps", "flow", "edm"])
@pytest.mark.parametrize("grid", comfy.Schedule.INPUT_TYPES()["required"]["grid"][0])
def test_every_grid_of_the_node_fits_every_model(make: Make, kind: str, grid: str) -> None:
    sampling = make(kind).sampling
    patcher = SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)
    unfit = {
        "flow": {"karras": "starts at alpha = 0", "uniform_logsnr": "starts at alpha = 0"},
        "eps": {"linear_quadratic": "is made for flow", "ays_svd": "outside the table"},
        "edm": {"linear_quadratic": "is made for flow", "ays_svd": "up to 90.0171"},
    }
    if grid in unfit[kind]:
        with pytest.raises(ValueError, match=unfit[kind][grid]):
            comfy.Schedule().sigmas(patcher, grid, 10, 1.0)
        return
    (sigmas,) = comfy.Schedule().sigmas(patcher, grid, 10, 1.0)
    assert sigmas.dtype == torch.float32
    assert len(sigmas) == 11
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0.0
    assert sigmas[0] <= sampling.sigmas[-1] * (1 + 1e-5)


def test_karras_is_the_formula_and_trailing_the_table(make: Make) -> None:
    sampling = make("eps").sampling
    low, high = (float(s) ** (1 / 7) for s in (sampling.sigmas[0], sampling.sigmas[-1]))
    expected = torch.tensor([*((high + (low - high) * i / 9) ** 7 for i in range(10)), 0.0])
    torch.testing.assert_close(comfy_models.sigmas(sampling, "karras", 10), expected, rtol=2e-6, atol=0)
    flow = make("flow").sampling
    t = torch.linspace(1.0, 0.0, 11)
    expected = 3.0 * t / (1 + 2.0 * t)
    found = comfy_models.sigmas(flow, "trailing", 10)
    assert found[0] == 1.0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)


def test_denoise_takes_the_end_of_a_longer_grid(make: Make) -> None:
    sampling = make("eps").sampling
    patcher = SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)
    (part,) = comfy.Schedule().sigmas(patcher, "karras", 6, 0.3)
    assert torch.equal(part, comfy_models.sigmas(sampling, "karras", 20)[-7:])
    assert comfy.Schedule().sigmas(patcher, "karras", 6, 0.0)[0].shape == (0,)


# Registration and installation


def test_registered_names_are_there_once(samplers: Any) -> None:
    for _ in range(2):
        comfy.register(["seeds3", "dpmpp_2m"], ["rbe"])
    assert samplers.KSampler.SAMPLERS == ["euler", "fastsolve_seeds3", "fastsolve_dpmpp_2m"]
    assert samplers.KSampler.SCHEDULERS == ["normal", "fastsolve_rbe"]
    model = StandIn("eps")
    function = sys.modules["comfy.k_diffusion.sampling"].sample_fastsolve_seeds3  # type: ignore[attr-defined]
    handler = samplers.SCHEDULER_HANDLERS["fastsolve_rbe"]
    sigmas = handler.handler(model.sampling, 10)
    assert torch.equal(sigmas, comfy_models.sigmas(model.sampling, "rbe", 10))
    assert model.sample(function, sigmas, NOISE).isfinite().all()


def test_the_real_ksampler_takes_registered_names() -> None:
    if (path := comfy_paths.checkout()) is None:
        pytest.skip("COMFYUI_PATH is not set to a checkout of ComfyUI")
    with comfy_paths.imported(path):
        comfy.register()
        comfy.register()
        model = Real("eps")
        real = importlib.import_module("comfy.samplers")
        assert real.KSampler.SAMPLERS.count("fastsolve_seeds3") == 1
        sampler = importlib.import_module("comfy.sample").sample
        conds = [[torch.zeros(1, 1, 1), {}]]
        for denoise, calls in ((1.0, 3 * 9 + 1), (0.5, 3 * 9 + 1)):
            model.calls.clear()
            with torch.inference_mode():
                out = sampler(
                    *(model.patcher, NOISE, 10, 1.0, "fastsolve_seeds3", "fastsolve_rbe", conds, conds),
                    torch.zeros(SHAPE),
                    denoise=denoise,
                    disable_pbar=True,
                    seed=3,
                )
            assert out.isfinite().all()
            assert len(model.calls) == calls


def test_installing_writes_two_lines_and_removing_takes_them_out(tmp_path: Path) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "samplers.py").touch()
    code = (
        f"import runpy, sys; sys.argv = ['comfy', {str(tmp_path)!r}]\n"
        "try: runpy.run_module('fastsolve.adapters.comfy', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not any(name.split('.')[0] == 'comfy' for name in sys.modules)"  # ComfyUI is asked for nothing
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    assert "start ComfyUI anew" in done.stdout
    assert comfy_install.main([str(tmp_path)]) == 0
    file = tmp_path / "custom_nodes" / "fastsolve" / "__init__.py"
    assert len(file.read_text().splitlines()) == 2
    names: dict[str, Any] = {}
    exec(file.read_text(), names)
    assert names["NODE_CLASS_MAPPINGS"] is comfy.NODE_CLASS_MAPPINGS
    assert names["NODE_DISPLAY_NAME_MAPPINGS"] is comfy.NODE_DISPLAY_NAME_MAPPINGS
    for _ in range(2):
        assert comfy_install.main([str(tmp_path), "--remove"]) == 0
        assert not file.parent.exists()


def test_installing_refuses_other_folders_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert comfy_install.main([str(tmp_path)]) == 1
    assert "is not a ComfyUI: give the folder that holds main.py" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "samplers.py").touch()
    other = tmp_path / "custom_nodes" / "fastsolve" / "__init__.py"
    other.parent.mkdir(parents=True)
    other.write_text("something = 1\n")
    for argv in ([str(tmp_path)], [str(tmp_path), "--remove"]):
        assert comfy_install.main(argv) == 1
        assert "is not ours" in capsys.readouterr().err
    assert other.read_text() == "something = 1\n"


def test_real_context_windows_find_every_level_of_ours() -> None:
    """ComfyUI's own look-up, which refuses a level between the sigmas; it does refuse those of ComfyUI's seeds_3."""
    if (path := comfy_paths.checkout()) is None:
        pytest.skip("COMFYUI_PATH is not set to a checkout of ComfyUI")
    with comfy_paths.imported(path):
        look_up = importlib.import_module("comfy.context_windows").IndexListContextHandler.set_step
        model = Real("eps", lambda sigma, options: look_up(SimpleNamespace(), sigma[:1], options))
        sigmas = levels(model)
        assert model.sample(sampler_function("seeds_3"), sigmas, NOISE).isfinite().all()
        theirs = importlib.import_module("comfy.k_diffusion.sampling").sample_seeds_3
        with pytest.raises(Exception, match="No sample_sigmas matched"):
            model.sample(theirs, sigmas, NOISE)
        other = Real("eps")
        ours = other.sample(sampler_function("seeds_3", eta=0.0), sigmas, NOISE)
        torch.testing.assert_close(ours, other.sample(theirs, sigmas, NOISE, eta=0.0), rtol=1e-4, atol=1e-4)
        flow = Real("flow")
        sigmas = levels(flow)[1:]  # from below 1: there the first step is another
        ours = flow.sample(sampler_function("seeds_2", eta=0.0), sigmas, NOISE)
        theirs = importlib.import_module("comfy.k_diffusion.sampling").sample_seeds_2
        torch.testing.assert_close(ours, flow.sample(theirs, sigmas, NOISE, eta=0.0), rtol=1e-4, atol=1e-4)
