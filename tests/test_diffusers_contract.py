"""The drop-in schedulers and what pipelines rely on: diffusers' common checks, in our own words, and a run's equality with `sample`."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")

import fastsolve  # noqa: E402  # after the library is found
import moments  # noqa: E402
from fastsolve import solvers  # noqa: E402
from fastsolve.adapters.diffusers import FastSolveFlowScheduler, FastSolveScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")

VP = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EDM = {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
SHAPE, STEPS = (2, 4, 8, 8), 6

MADE: dict[str, Callable[..., Any]] = {
    **{
        f"vp {solver}": functools.partial(FastSolveScheduler, solver=solver, **VP)
        for solver in ("dpmpp_2m", "ddim", "euler", "heun", "seeds3", "dpmpp_2m_sde")
    },
    **{
        f"edm {solver}": functools.partial(FastSolveScheduler, solver=solver, **EDM)
        for solver in ("euler", "heun", "seeds2")
    },
    **{
        f"flow {solver}": functools.partial(FastSolveFlowScheduler, solver=solver, shift=3.0)
        for solver in ("flow_euler", "dpmpp_2m", "flow_heun", "seeds3", "flow_sde")
    },
}
every = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


def model(x: Tensor, t: Tensor | float) -> Tensor:
    """A smooth network of x and of what it is told."""
    mixed = torch.tanh(x.double()).roll(1, dims=1)
    return (0.6 * mixed + float(t) / 2000 * x.double()).to(x.dtype)


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def loop(scheduler: Any, x: Tensor, times: Any = None, **kwargs: Any) -> Tensor:
    """What a pipeline does between its levels and its decoder."""
    for t in scheduler.timesteps if times is None else times:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, **kwargs, return_dict=False)[0]
    return x


def run(scheduler: Any, x: Tensor, steps: int | None = STEPS, seed: int = 3, **asked: Any) -> Tensor:
    scheduler.set_timesteps(steps, **asked)
    return loop(scheduler, x * scheduler.init_noise_sigma, generator=torch.Generator().manual_seed(seed))


# The common checks.


@every
def test_a_saved_scheduler_steps_alike_and_has_the_same_config(made: Callable[..., Any], tmp_path: Path) -> None:
    scheduler = made(options={"s_noise": 0.5}) if "sde" in str(made) else made()
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    config = dict(scheduler.config)
    del config["_use_default_values"]
    assert dict(again.config) == config
    assert torch.equal(run(again, noise()), run(scheduler, noise()))


@pytest.mark.parametrize("made", [MADE["vp seeds3"], MADE["flow seeds3"]], ids=["vp", "flow"])
def test_a_config_survives_every_compatible_class(made: Callable[..., Any]) -> None:
    scheduler = made()
    names = [kind for kind in scheduler.compatibles if kind.__module__.startswith("diffusers.schedulers")]
    assert names
    for other in names:
        back = type(scheduler).from_config(other.from_config(scheduler.config).config)
        assert {key: back.config[key] for key in scheduler.config} == dict(scheduler.config), other
    assert torch.equal(run(back, noise()), run(scheduler, noise()))


@every
def test_outputs_keep_the_shape_and_a_tuple_says_the_same(made: Callable[..., Any]) -> None:
    scheduler, x = made(), noise()
    scheduler.set_timesteps(STEPS)
    first, second = scheduler.timesteps[:2]
    told = scheduler.step(0.1 * x, first, x, generator=torch.Generator().manual_seed(1))
    assert isinstance(told, diffusers.utils.BaseOutput)
    assert scheduler.step(0.1 * x, second, told.prev_sample).prev_sample.shape == x.shape
    scheduler.set_timesteps(STEPS)
    (plain,) = scheduler.step(0.1 * x, first, x, generator=torch.Generator().manual_seed(1), return_dict=False)
    assert torch.equal(plain, told.prev_sample)


@every
def test_the_public_members_are_there(made: Callable[..., Any]) -> None:
    scheduler, x = made(), noise()
    assert scheduler.scale_model_input(x, 0.0).shape == x.shape  # before set_timesteps, too
    assert scheduler.init_noise_sigma > 0.0
    assert len(scheduler) == len(scheduler.timesteps) == 1000
    assert len(scheduler.sigmas) == 1001
    assert scheduler.order == solvers.get(scheduler.config.solver).stages
    assert "kwargs" not in inspect.signature(type(scheduler).__init__).parameters
    assert not type(scheduler)._deprecated_kwargs
    for name in ("timesteps", "sigmas", "mu", "device"):
        assert name in inspect.signature(scheduler.set_timesteps).parameters
    assert "eta" not in inspect.signature(scheduler.step).parameters
    assert (scheduler.step_index, scheduler.begin_index, scheduler.num_inference_steps) == (None, None, None)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_noise_is_added_at_one_timestep_or_at_each_samples(made: Callable[..., Any], dtype: torch.dtype) -> None:
    scheduler = made()
    scheduler.set_timesteps(STEPS)
    x, z, times = noise(1, dtype=dtype), noise(2, dtype=dtype), scheduler.timesteps[[1, 4]]
    both = scheduler.add_noise(x, z, times)
    assert both.dtype == dtype
    for i in range(2):
        assert torch.equal(scheduler.add_noise(x[i : i + 1], z[i : i + 1], times[i : i + 1])[0], both[i])
    if isinstance(scheduler, FastSolveFlowScheduler):
        assert torch.equal(scheduler.scale_noise(x, times, z), both)
    node = scheduler._layout.nodes[4]
    expected = node.alpha * x[1].double() + node.sigma * z[1].double()
    torch.testing.assert_close(
        both[1].double(), expected, rtol=1e-2, atol=4e-2 * node.sigma if dtype != torch.float32 else 1e-5
    )


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_adds_noise_and_takes_velocities_as_the_built_in(name: str, dtype: torch.dtype) -> None:
    theirs = getattr(diffusers, name)(**VP)
    ours = FastSolveScheduler.from_config(theirs.config)
    x, z, times = noise(1, dtype=dtype), noise(2, dtype=dtype), torch.tensor([3, 871])
    exact = {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps * 4}
    torch.testing.assert_close(ours.add_noise(x, z, times), theirs.add_noise(x, z, times), **exact)
    expected = theirs.get_velocity(x, z, times)
    torch.testing.assert_close(ours.get_velocity(x, z, times), expected, **exact)
    ours.set_timesteps(STEPS)
    ours.set_begin_index(0)  # a run that stands elsewhere has no part in it
    torch.testing.assert_close(ours.get_velocity(x, z, times), expected, **exact)


def test_trained_betas_are_a_table() -> None:
    scheduler = FastSolveScheduler(trained_betas=np.array([0.1, 0.3]))
    assert scheduler.alphas_cumprod.tolist() == pytest.approx([0.9, 0.63])
    assert scheduler.betas.tolist() == pytest.approx([0.1, 0.3])


# A run is `fastsolve.sample`'s.


# Those whose steps are not alike, or read what a pipeline does not hand in: each is refused below.
ELSEWHERE = {"euler_cfg_pp", "dpmpp_2m_cfg_pp", "tada", "pndm", "fastsolve"}
ALIKE = [(name, flow) for name in fastsolve.list_solvers() for flow in (False, True) if name not in ELSEWHERE]
ALIKE.remove(("ddpm", True))  # a step of VP alone


@pytest.mark.parametrize(("solver", "flow"), ALIKE, ids=[f"{name} {'flow' if flow else 'vp'}" for name, flow in ALIKE])
def test_a_loop_of_steps_is_the_run_of_a_sampler(solver: str, flow: bool) -> None:
    kind = FastSolveFlowScheduler(solver=solver, shift=2.0) if flow else FastSolveScheduler(solver=solver, **VP)
    kind.set_timesteps(STEPS)
    law, levels, x = kind._law, kind._layout.levels, noise()
    asked = {"schedule": law.schedule, "grid": levels, "prediction": law.prediction, "solver": solver, "clip": law.clip}
    calls: list[float] = []

    def told(x: Tensor, t: Tensor) -> Tensor:
        calls.append(law.time(float(t[0])))
        return model(x, calls[-1])

    seeds = torch.randint(-(2**63), 2**63 - 1, (2,), generator=torch.Generator().manual_seed(5))
    expected = fastsolve.sample(told, x.shape, x_init=x, seed=seeds, **asked)
    found = loop(kind, x, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    assert kind.timesteps.tolist()[kind._layout.idle :] == pytest.approx(calls, rel=1e-6)


# Laws that no pipeline of the tests has: a built-in, its config, the solver that computes the same.
SVD = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True, "sigma_max": 700.0}
ZERO = {**VP, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
LAWS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "video": ("EulerDiscreteScheduler", {"sigma_min": 0.002, **SVD}, "euler", {}),
    "video, leading": (
        "EulerDiscreteScheduler",
        {"sigma_min": 0.002, "timestep_spacing": "leading", **SVD},
        "euler",
        {},
    ),
    "edm": ("EDMEulerScheduler", {}, "euler", {}),
    "edm v": ("EDMEulerScheduler", {"prediction_type": "v_prediction"}, "euler", {}),
    "edm dpm": ("EDMDPMSolverMultistepScheduler", {"sigma_schedule": "exponential"}, "dpmpp_2m", {}),
    "zero snr": ("DDIMScheduler", {"clip_sample": False, **ZERO}, "ddim", {}),
    "lcm": ("LCMScheduler", VP, "lcm", {"s_noise": 0.0}),
    "to the table": (
        "DPMSolverMultistepScheduler",
        {"final_sigmas_type": "sigma_min", **VP},
        "dpmpp_2m",
        {"lower_order_final": True},
    ),
}


@pytest.mark.parametrize(("name", "config", "solver", "options"), LAWS.values(), ids=LAWS)
def test_a_run_is_the_built_ins(
    name: str, config: dict[str, Any], solver: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = getattr(diffusers, name)(**config)
    if solver == "lcm":  # ours has its noise turned off
        monkeypatch.setattr(sys.modules[type(theirs).__module__], "randn_tensor", lambda shape, **_: torch.zeros(shape))
    expected = run(theirs, noise(), 5)  # DDIMScheduler goes down by whole 1000 / steps
    ours = FastSolveScheduler.from_config(theirs.config, solver=solver, options=options)
    torch.testing.assert_close(run(ours, noise(), 5), expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@every
def test_each_step_has_order_timesteps_and_the_last_one(made: Callable[..., Any]) -> None:
    scheduler = made()
    scheduler.set_timesteps(STEPS)
    order, levels = scheduler.order, scheduler._layout.levels
    assert len(scheduler.timesteps) == order * (STEPS - 1) + 1
    assert scheduler.num_inference_steps == STEPS
    starts = scheduler.timesteps[::order].tolist()
    assert starts == pytest.approx([scheduler._law.time(t) for t in levels[:-1]], rel=1e-6)
    assert len(scheduler.sigmas) == len(scheduler.timesteps) + 1
    assert scheduler.sigmas[-1] == 0.0
    assert scheduler.timesteps.dtype == torch.float32


@every
@pytest.mark.parametrize("first", [0, 1, 3, STEPS - 1])
def test_a_start_in_the_middle_is_the_plans(made: Callable[..., Any], first: int) -> None:
    scheduler, x = made(), noise()
    scheduler.set_timesteps(STEPS)
    law, levels = scheduler._law, scheduler._layout.levels
    scheduler.set_begin_index(first * scheduler.order)
    begun = scheduler.add_noise(x, noise(7), scheduler.timesteps[:1])  # of whatever timestep: the beginning is known
    node = law.schedule.node(levels[first])
    torch.testing.assert_close(begun, node.alpha * x + node.sigma * noise(7))
    seeds = torch.randint(-(2**63), 2**63 - 1, (2,), generator=torch.Generator().manual_seed(5))
    network = fastsolve.Denoiser(lambda x, t: model(x, law.time(float(t[0]))), law.schedule, law.prediction)
    asked = {"grid": levels, "solver": scheduler.config.solver, "clip": law.clip, "start": first or None}
    expected = fastsolve.sample(network, x_init=begun, seed=seeds, **asked)
    times = scheduler.timesteps[first * scheduler.order :]
    found = loop(scheduler, begun, times, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    assert scheduler.step_index == len(scheduler.timesteps)


@every
def test_noise_is_added_at_the_level_of_the_next_model_call(made: Callable[..., Any]) -> None:
    scheduler, x = made(), noise()
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(0)
    nodes = scheduler._layout.nodes
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(0.1 * x, t, x, return_dict=False)[0]
        assert scheduler.step_index == i + 1
        torch.testing.assert_close(
            scheduler.add_noise(noise(1), noise(2), t[None]),
            nodes[i + 1].alpha * noise(1) + nodes[i + 1].sigma * noise(2),
        )


@every
def test_custom_timesteps_and_sigmas_of_both_lengths_are_the_default_run(made: Callable[..., Any]) -> None:
    scheduler = made()
    expected = run(scheduler, noise())
    starts = [scheduler._law.time(t) for t in scheduler._layout.levels[:-1]]
    asked = [{"timesteps": starts}, {"timesteps": torch.tensor(starts, dtype=torch.float64)}]
    if not isinstance(scheduler, FastSolveFlowScheduler):  # flow models are given sigmas before the shift
        sigmas = [*(n.sigma / n.alpha for n in map(scheduler._law.schedule.node, scheduler._layout.levels[:-1])), 0.0]
        asked += [{"sigmas": sigmas}, {"sigmas": sigmas[:-1]}, {"sigmas": np.array(sigmas)}]
    for given in asked:
        before = copy.deepcopy(given)
        found = run(scheduler, noise(), None, **given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        for name in given:
            assert list(map(float, given[name])) == list(map(float, before[name]))


def test_flow_sigmas_are_shifted_once_in_both_lengths() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = FastSolveFlowScheduler.from_config(theirs.config, solver="flow_euler")
    sigmas = np.linspace(1.0, 1 / STEPS, STEPS)
    theirs.set_timesteps(sigmas=sigmas)
    for given in (sigmas, [*sigmas, 0.0], torch.tensor(sigmas)):
        ours.set_timesteps(sigmas=given)
        torch.testing.assert_close(ours.timesteps, theirs.timesteps)
        torch.testing.assert_close(ours.sigmas, theirs.sigmas)
    ours.set_timesteps(sigmas=sigmas, mu=0.7)  # Flux' pipelines give mu to every scheduler
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)


def test_timesteps_beside_sigmas_are_what_the_network_is_told() -> None:
    scheduler = FastSolveFlowScheduler(solver="flow_heun", use_dynamic_shifting=True, time_shift_type="linear")
    times = [1000.0, 700.0, 400.0, 100.0]
    scheduler.set_timesteps(timesteps=times, sigmas=[t / 1000 for t in times], mu=2.0)
    assert scheduler.timesteps.tolist() == pytest.approx([1000.0, 700.0, 700.0, 400.0, 400.0, 100.0, 100.0])
    assert scheduler.sigmas[0] == 1.0
    assert float(scheduler.sigmas[1]) == pytest.approx(2 * 0.7 / (0.3 + 2 * 0.7))


# Sweeps: any config steps through to finite numbers.


@pytest.mark.parametrize("size", [10, 100, 1000])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "seeds2"])
def test_tables_and_predictions_step_through(size: int, kind: str, prediction: str, solver: str) -> None:
    config = {"num_train_timesteps": size, "beta_schedule": kind, "prediction_type": prediction}
    result = run(FastSolveScheduler(solver=solver, **config), noise(), 5)
    assert torch.isfinite(result).all()
    if kind != "squaredcos_cap_v2":  # whose first alpha is 5e-5: it makes much of a network that was not trained
        assert 0.01 < float(result.std()) < 100.0


@pytest.mark.parametrize(
    "spacing", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"]
)
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "seeds3"])
def test_spacings_in_sigma_step_through(spacing: str, solver: str) -> None:
    scheduler = FastSolveScheduler(solver=solver, **VP, **{spacing: True})
    assert torch.isfinite(run(scheduler, noise())).all()


@pytest.mark.parametrize(
    "made", [MADE["vp seeds3"], MADE["edm heun"], MADE["flow dpmpp_2m"]], ids=["vp", "edm", "flow"]
)
@pytest.mark.parametrize("grid", ["rbe_atan", "uniform", [0.9, 0.5, 0.2, 0.0]], ids=str)
def test_grids_of_ours_by_name_or_clock_values(made: Callable[..., Any], grid: Any) -> None:
    scheduler = made(grid=grid)
    result = run(scheduler, noise(), 3)
    assert torch.isfinite(result).all()
    levels = scheduler._layout.levels
    assert list(levels) == grid if isinstance(grid, list) else len(levels) == 4
    assert type(scheduler).from_config(scheduler.config).config.grid == grid


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_and_the_state_does_not_lose_it(made: Callable[..., Any], dtype: torch.dtype) -> None:
    scheduler, x = made(), noise(dtype=dtype)
    found = run(scheduler, x)
    assert found.dtype == dtype
    full = run(scheduler, x.float())
    # One rounding of each model output and input; a state rounded at each of 16 calls would add up to more.
    bound = 8 * torch.finfo(dtype).eps * float(full.abs().max()) * max(1.0, scheduler.init_noise_sigma**0.5)
    assert float((found.float() - full).abs().max()) < bound


@pytest.mark.parametrize("solver", ["ddim", "euler", "dpmpp_2m", "seeds3", "heun"])
def test_zero_terminal_snr_is_stepped_from_exactly(solver: str) -> None:
    config = {**VP, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    scheduler = FastSolveScheduler(solver=solver, **config)
    scheduler.set_timesteps(STEPS)
    assert scheduler.sigmas[0] == float("inf")
    assert scheduler.init_noise_sigma == 1.0
    assert len(scheduler.timesteps) == scheduler.order * (STEPS - 1) + 1
    assert torch.isfinite(run(scheduler, noise())).all()
    with pytest.raises(ValueError, match=r"eps-prediction says nothing about x0 at alpha = 0"):
        FastSolveScheduler(solver=solver, **{**config, "prediction_type": "epsilon"}).set_timesteps(STEPS)


def test_clipping_is_the_configs() -> None:
    assert FastSolveScheduler(solver="ddim")._law.clip == 1.0  # as DDIMScheduler
    assert FastSolveScheduler(solver="dpmpp_2m")._law.clip is None
    scheduler = FastSolveScheduler(solver="dpmpp_2m", clip_sample=True, clip_sample_range=0.3)
    assert float(run(scheduler, noise()).abs().max()) == pytest.approx(0.3)


def test_a_learned_variance_is_left_out() -> None:
    plain, learned = FastSolveScheduler(**VP), FastSolveScheduler(variance_type="learned_range", **VP)
    for scheduler in (plain, learned):
        scheduler.set_timesteps(STEPS)
    x = noise()
    (expected,) = plain.step(0.1 * x, 999, x, return_dict=False)
    (found,) = learned.step(torch.cat([0.1 * x, x], 1), 999, x, return_dict=False)
    assert torch.equal(found, expected)


# Where a run begins, and what it leaves alone.


@every
@pytest.mark.parametrize("kind", [int, float, torch.tensor])
def test_a_timestep_off_the_schedule_means_the_nearest_step(made: Callable[..., Any], kind: Callable[..., Any]) -> None:
    scheduler, x = made(), noise()
    for step in range(STEPS):
        scheduler.set_timesteps(STEPS)
        t = float(scheduler.timesteps[step * scheduler.order])
        off = t + (1e-3 if kind is not int else 0.0)
        scheduler.step(0.1 * x, kind(off), x)
        nearest = min(
            range(STEPS), key=lambda k: abs(float(scheduler.timesteps[k * scheduler.order]) - float(kind(off)))
        )
        assert scheduler.step_index == nearest * scheduler.order + 1


@every
def test_a_run_that_is_over_begins_again(made: Callable[..., Any]) -> None:
    scheduler = made()
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(0)
    x = noise() * scheduler.init_noise_sigma
    first = loop(scheduler, x, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loop(scheduler, x, generator=torch.Generator().manual_seed(1)), first)


@every
def test_a_step_asks_no_device_for_a_number(made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made()
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(0)
    times, x = list(scheduler.timesteps), noise()
    outputs = [noise(i) for i in range(len(times))]

    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("a synchronisation")

    if scheduler._layout.plan(0).draws:  # whose seeds are numbers, which the first call needs
        for t, output in zip(times[: scheduler._layout.idle + 1], outputs, strict=False):
            x = scheduler.step(output, t, x, return_dict=False)[0]
    done = scheduler.step_index or 0
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "nonzero", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu"):
            patch.setattr(Tensor, name, refused)
        for t, output in zip(times[done:], outputs[done:], strict=True):
            scheduler.scale_model_input(x, t)
            x = scheduler.step(output, t, x, return_dict=False)[0]
    assert torch.isfinite(x).all()


@every
def test_inputs_are_left_alone_and_outputs_are_new(made: Callable[..., Any]) -> None:
    scheduler, x = made(), noise()
    scheduler.set_timesteps(STEPS)
    seen: list[tuple[Tensor, Tensor]] = []
    for t in scheduler.timesteps:
        output = model(x, t)
        seen += [(x, x.clone()), (output, output.clone())]
        x = scheduler.step(output, t, x, return_dict=False)[0]
    seen.append((x, x.clone()))
    loop(scheduler, noise(9))
    assert all(torch.equal(tensor, copied) for tensor, copied in seen)


@every
def test_torchs_own_state_is_left_alone_where_a_generator_is_given(made: Callable[..., Any]) -> None:
    before = torch.random.get_rng_state()
    run(made(), noise())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "seeds3", "euler_ancestral", "er_sde"])
def test_seeds_come_from_the_generator_or_torchs_own(solver: str) -> None:
    scheduler = FastSolveScheduler(solver=solver, **VP)
    assert torch.equal(run(scheduler, noise(), seed=1), run(scheduler, noise(), seed=1))
    assert not torch.equal(run(scheduler, noise(), seed=1), run(scheduler, noise(), seed=2))
    with torch.random.fork_rng():
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            scheduler.set_timesteps(STEPS)
            results.append(loop(scheduler, noise()))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    scheduler = FastSolveScheduler(solver="seeds2", **VP)
    x = noise(0, (3, 4, 8, 8))
    scheduler.set_timesteps(STEPS)
    three = loop(scheduler, x, generator=[torch.Generator().manual_seed(i) for i in range(3)])
    scheduler.set_timesteps(STEPS)
    one = loop(scheduler, x[2:], generator=[torch.Generator().manual_seed(2)])
    torch.testing.assert_close(one[0], three[2])


def test_noise_of_the_steps_is_not_that_of_the_start() -> None:
    scheduler = FastSolveScheduler(solver="euler_ancestral", **VP)
    shape = (1, 4, 64, 64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    scheduler.set_timesteps(STEPS)
    one = scheduler.step(torch.zeros(shape), 999, torch.zeros(shape), generator=generator).prev_sample
    assert float(one.std()) > 0.1
    correlation = float(torch.corrcoef(torch.stack([x.flatten(), one.flatten()]))[0, 1])
    assert abs(correlation) < 5 / x.numel() ** 0.5


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "seeds3", "euler_ancestral", "er_sde"])
def test_moments_of_a_gaussian_are_the_plans(solver: str) -> None:
    """The exact network of Gaussian data; mean and variance of the result are known without a sample."""
    scheduler = FastSolveScheduler(solver=solver, **VP)
    scheduler.set_timesteps(20)
    x = noise(0, (4, 4, 64, 64))
    mean, variance = moments.moments(scheduler._layout.plan(0), (0.0, 1.0))
    for i, t in enumerate(scheduler.timesteps):
        node = scheduler._layout.nodes[i]
        center, std = moments.marginal(node.alpha, node.sigma)
        eps = node.sigma * (x - center) / std**2
        x = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    error = 5 / x.numel() ** 0.5
    assert float(x.mean()) == pytest.approx(mean, abs=error * variance**0.5)
    assert float(x.var()) == pytest.approx(variance, rel=2**0.5 * error)


# Several threads, copies.


@pytest.mark.parametrize("shared", [False, True], ids=["levels of their own", "levels laid once"])
@every
def test_threads_share_a_scheduler(made: Callable[..., Any], shared: bool) -> None:
    scheduler = made()
    expected = [run(made(), noise(i), STEPS if shared else 4 + i, seed=i) for i in range(4)]
    scheduler.set_timesteps(STEPS)

    def one(i: int) -> Tensor:
        if not shared:
            scheduler.set_timesteps(4 + i)
        return loop(scheduler, noise(i) * scheduler.init_noise_sigma, generator=torch.Generator().manual_seed(i))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(4)))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


COPIED = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"]
)


@every
@COPIED
@pytest.mark.parametrize("done", [0, 1, 4])
def test_copies_stand_where_the_run_stands_and_go_their_own_way(
    made: Callable[..., Any], copied: Callable[[Any], Any], done: int
) -> None:
    scheduler = made()
    expected = run(scheduler, noise())
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(0)
    times, seeds = scheduler.timesteps, torch.Generator().manual_seed(3)
    x = loop(scheduler, noise() * scheduler.init_noise_sigma, times[:done], generator=seeds)
    other = copied(scheduler)
    assert (other.begin_index, other.step_index) == (0, scheduler.step_index)
    assert torch.equal(other.timesteps, times)
    scheduler.step(noise(), times[done], noise(), generator=torch.Generator())
    assert torch.equal(loop(other, x, times[done:], generator=seeds), expected)


@COPIED
def test_copies_of_the_attributes_take_turns(copied: Callable[[Any], Any]) -> None:
    """As pipelines do that step several views of an image with one scheduler."""
    scheduler = FastSolveScheduler(**VP)
    expected = [run(scheduler, noise(i)) for i in range(2)]
    scheduler.set_timesteps(STEPS)
    states, views = [copied(scheduler.__dict__) for _ in range(2)], [noise(i) for i in range(2)]
    for t in scheduler.timesteps:
        for i in range(2):
            scheduler.__dict__.update(states[i])
            views[i] = loop(scheduler, views[i], [t])
            states[i] = copied(scheduler.__dict__)
    assert all(torch.equal(*pair) for pair in zip(views, expected, strict=True))


def test_a_thread_that_lays_no_levels_takes_the_latest_and_ends_what_it_began() -> None:
    scheduler, x = FastSolveScheduler(**VP), noise()
    expected = [run(FastSolveScheduler(**VP), x, steps) for steps in (4, 7)]
    with ThreadPoolExecutor(1) as pool:
        scheduler.set_timesteps(4)
        times = scheduler.timesteps
        begun = pool.submit(loop, scheduler, x, times[:2]).result()
        scheduler.set_timesteps(7)
        assert pool.submit(lambda: scheduler.num_inference_steps).result() == 4
        assert torch.equal(pool.submit(loop, scheduler, begun, times[2:]).result(), expected[0])
        assert pool.submit(lambda: scheduler.num_inference_steps).result() == 7
        assert torch.equal(pool.submit(loop, scheduler, x).result(), expected[1])


# Refusals.


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("restart", {"intervals": [[3, 2, 0.5, 3.0]]}),
        ("tada", None),
        ("euler_cfg_pp", None),
        ("dpmpp_2m_cfg_pp", None),
        ("pndm", None),
        ("dpmpp_2s", {"orders": [2, 1, 2, 1]}),
    ],
)
def test_solvers_that_do_not_fit_a_loop_of_steps_are_sent_elsewhere(
    solver: str, options: dict[str, Any] | None
) -> None:
    with pytest.raises(ValueError, match=r"fastsolve\.accelerate\(pipe, solver="):
        FastSolveScheduler(solver=solver, options=options, **VP)


def test_noise_before_the_first_call_is_sent_elsewhere() -> None:
    with pytest.raises(
        ValueError, match=r"noise is added at the first level.*fastsolve\.accelerate\(pipe, solver='heun'"
    ):
        FastSolveScheduler(solver="heun", options={"s_churn": 5.0}, **EDM)
    run(
        FastSolveScheduler(solver="heun", options={"s_churn": 5.0}, **VP), noise()
    )  # a table has no level above its first


def test_names_and_options_are_checked_when_a_scheduler_is_made() -> None:
    with pytest.raises(ValueError, match="unknown solver 'seeds9'; nearest is 'seeds"):
        FastSolveScheduler(solver="seeds9")
    with pytest.raises(ValueError, match="seeds3 has no option 'etta'; nearest is 'eta'"):
        FastSolveScheduler(solver="seeds3", options={"etta": 0.5})
    with pytest.raises(ValueError, match=r"unknown grid 'karas': .*nearest is 'karras'"):
        FastSolveScheduler(grid="karas")


def test_a_config_of_the_other_family_is_refused() -> None:
    flow, noisy = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), diffusers.DDIMScheduler(**VP)
    with pytest.raises(ValueError, match=r"write FastSolveFlowScheduler\.from_config"):
        FastSolveScheduler.from_config(flow.config)
    for config in (noisy.config, diffusers.UnCLIPScheduler().config):
        with pytest.raises(ValueError, match=r"write FastSolveScheduler\.from_config"):
            FastSolveFlowScheduler.from_config(config)
    with pytest.raises(ValueError, match=r"write FastSolveFlowScheduler\.from_config"):
        FastSolveScheduler.from_config(FastSolveFlowScheduler(shift=3.0).config)
    with pytest.raises(ValueError, match=r"write FastSolveScheduler\.from_config"):
        FastSolveFlowScheduler.from_config(FastSolveScheduler(**VP).config)
    with pytest.raises(ValueError, match=r"write FastSolveScheduler\.from_config"):
        FastSolveFlowScheduler.from_config(diffusers.EDMEulerScheduler().config)
    wan = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match=r"write FastSolveFlowScheduler\.from_config"):
        FastSolveScheduler.from_config(wan.config)
    assert FastSolveFlowScheduler.from_config(wan.config).config.use_flow_sigmas


@pytest.mark.parametrize("name", ["LTXEulerAncestralRFScheduler", "IPNDMScheduler", "CogVideoXDPMScheduler"])
def test_a_config_that_does_not_say_its_betas_is_refused_even_where_it_names_no_class(name: str) -> None:
    config = getattr(diffusers, name)().config
    assert "_class_name" not in config
    with pytest.raises(ValueError, match=r"has no betas|keep that scheduler"):
        FastSolveScheduler.from_config(config)


def test_steps_out_of_place_are_refused() -> None:
    scheduler, x = FastSolveScheduler(solver="seeds3", **VP), noise()
    with pytest.raises(ValueError, match=r"call set_timesteps\(num_inference_steps\) first"):
        scheduler.step(x, 1, x)
    scheduler.set_timesteps(STEPS)
    with pytest.raises(ValueError, match="at a multiple of 3 model calls, not with call 4"):
        scheduler.set_begin_index(4)
    with pytest.raises(ValueError, match="3 generators are given for 2 samples"):
        scheduler.step(x, 999, x, generator=[torch.Generator()] * 3)
    scheduler.set_begin_index(99)
    with pytest.raises(ValueError, match="a run of 16 model calls cannot begin with call 99"):
        scheduler.step(x, 1, x)
    with pytest.raises(ValueError, match="not 3 and 2"):
        FastSolveFlowScheduler().set_timesteps(timesteps=[900.0, 500.0, 100.0], sigmas=[0.9, 0.5])


def test_nothing_is_said_while_it_runs(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    diffusers.utils.logging.enable_propagation()
    try:
        for made in MADE.values():
            run(made(), noise())
    finally:
        diffusers.utils.logging.disable_propagation()
    assert not caplog.records
    assert not recwarn.list


def test_each_model_call_of_a_flow_model_moves_the_state_and_the_last_level_is_clean() -> None:
    for solver in ("deis", "sa_solver", "unipc", "dpmpp_2m"):
        scheduler = FastSolveFlowScheduler(solver=solver)
        scheduler.set_timesteps(4)
        assert scheduler.sigmas[-1] == 0.0
        x = noise()
        for t in scheduler.timesteps:
            after = scheduler.step(model(x, t), t, x, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
            assert float((after - x).abs().max()) > 1e-5
            x = after
