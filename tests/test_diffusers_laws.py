"""Configs of diffusers' schedulers, read as laws: levels, clock and scale of the built-in, and refusals that say what to write."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

diffusers = pytest.importorskip("diffusers")

from fastsolve.adapters.diffusers import laws  # noqa: E402  # after the library is found
from fastsolve.adapters.diffusers.laws import law_of  # noqa: E402  # after the library is found

# NumPy's, about the library's own code.
pytestmark = pytest.mark.filterwarnings("ignore:.*__array:DeprecationWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS = 10
SPACINGS = ("linspace", "leading", "trailing")
SIGMAS: tuple[dict[str, bool], ...] = (
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True},
)
# The scheduler that a solver's name means, and what it knows of SIGMAS.
MEANT = {
    "ddim": ("DDIMScheduler", 1),
    "ddpm": ("DDPMScheduler", 1),
    "euler": ("EulerDiscreteScheduler", 4),
    "heun": ("HeunDiscreteScheduler", 4),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", 5),
    "unipc": ("UniPCMultistepScheduler", 4),
    "deis": ("DEISMultistepScheduler", 4),
}


def array(values: Any) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def step_times(scheduler: Any) -> npt.NDArray[np.float64]:
    """timesteps without the stages between."""
    times = array(scheduler.timesteps)
    return np.concatenate([times[:1], times[1::2]]) if scheduler.order == 2 else times


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("solver", "sigmas"),
    [(solver, sigmas) for solver, (_, known) in MEANT.items() for sigmas in SIGMAS[:known]],
    ids=lambda value: value if isinstance(value, str) else "".join(value) or "plain",
)
def test_levels_of_a_table_are_those_of_the_scheduler_that_the_name_means(
    solver: str, spacing: str, sigmas: dict[str, bool]
) -> None:
    name = MEANT[solver][0]
    theirs = getattr(diffusers, name)(**SD, timestep_spacing=spacing, steps_offset=int(spacing == "leading"), **sigmas)
    theirs.set_timesteps(STEPS)
    law = law_of(theirs.config, solver)
    levels = law.levels(STEPS)
    # Karras, exponential, beta: the multistep schedulers tell the network whole numbers, while they step by what is not rounded.
    whole = 1.0 if sigmas and theirs.order == 1 and name != "EulerDiscreteScheduler" else 2e-3
    assert array([law.time(t) for t in levels[:-1]]) == pytest.approx(step_times(theirs), abs=whole)
    if theirs.order == 1 and hasattr(theirs, "sigmas"):
        nodes = [law.schedule.node(t) for t in levels]
        mine = array([node.sigma / node.alpha for node in nodes])
        assert mine[:-1] == pytest.approx(array(theirs.sigmas)[:-1], rel=2e-5)
        if mine[-1] or not sigmas:  # where DEIS would repeat its last level, ours goes on to 0
            assert mine[-1] == pytest.approx(float(theirs.sigmas[-1]), rel=2e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_first_noise_is_scaled_as_eulers(spacing: str) -> None:
    theirs = diffusers.EulerDiscreteScheduler(**SD, timestep_spacing=spacing)
    theirs.set_timesteps(STEPS)
    law = law_of(theirs.config, "euler")
    first = law.levels(STEPS)[0]
    scale = float(theirs.init_noise_sigma) * law.schedule.node(first).alpha  # theirs is a state of alpha = 1
    assert law.start_scale(first) == pytest.approx(scale, rel=1e-5)
    assert law_of(theirs.config, "dpmpp_2m").start_scale(first) == 1.0


FLOWS: tuple[dict[str, Any], ...] = (
    {},
    {"shift": 3.0},
    {"shift": 3.0, "shift_terminal": 0.1},
    {"shift": 3.0, "use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"invert_sigmas": True},
)


@pytest.mark.parametrize("given", [False, True], ids=["default", "sigmas"])
@pytest.mark.parametrize("config", FLOWS, ids=str)
def test_flow_levels_with_compat_are_flow_match_eulers(config: dict[str, Any], given: bool) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    asked = {"sigmas": list(np.linspace(1.0, 0.1, STEPS))} if given else {}
    theirs.set_timesteps(STEPS, **asked)
    law = law_of(theirs.config, compat=True)
    levels = law.levels(STEPS, **asked)
    assert array([law.time(t) for t in levels[:-1]]) == pytest.approx(array(theirs.timesteps), abs=3e-4)
    sigmas = 1.0 - array(theirs.sigmas) if config.get("invert_sigmas") else array(theirs.sigmas)
    assert array(levels) == pytest.approx(sigmas, abs=1e-6)


def test_flow_levels_are_shifted_once() -> None:
    law = law_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    once = 3.0 * 1e-3 / (1.0 + 2.0 * 1e-3)
    assert law.levels(4)[-2:] == pytest.approx((once, 0.0), rel=1e-12)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_mu_is_the_log_of_the_shift(kind: str) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    sigmas = list(np.linspace(1.0, 0.1, STEPS))
    theirs.set_timesteps(sigmas=sigmas, mu=0.8)
    law = law_of(theirs.config)
    assert array(law.levels(sigmas=sigmas, mu=0.8)) == pytest.approx(array(theirs.sigmas), abs=1e-6)
    with pytest.raises(ValueError, match=r"needs mu in set_timesteps"):
        law.levels(STEPS)


@pytest.mark.parametrize(
    ("solver", "name"), [("unipc", "UniPCMultistepScheduler"), ("dpmpp_2m", "DPMSolverMultistepScheduler")]
)
def test_flow_levels_of_schedulers_with_betas(solver: str, name: str) -> None:
    theirs = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    theirs.set_timesteps(STEPS)
    assert array(law_of(theirs.config, solver).levels(STEPS)) == pytest.approx(array(theirs.sigmas), abs=2e-6)


def test_karras_levels_of_a_flow_model_lie_in_its_ratio_of_noise() -> None:
    config = {"use_flow_sigmas": True, "use_karras_sigmas": True, "prediction_type": "flow_prediction"}
    theirs = diffusers.UniPCMultistepScheduler(**config, sigma_min=0.01, sigma_max=200.0)
    theirs.set_timesteps(STEPS)
    assert array(law_of(theirs.config, "unipc").levels(STEPS)) == pytest.approx(array(theirs.sigmas), abs=1e-6)


@pytest.mark.parametrize("kind", ["karras", "exponential"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_levels_of_edm(name: str, kind: str) -> None:
    theirs = getattr(diffusers, name)(sigma_schedule=kind)
    theirs.set_timesteps(STEPS)
    law = law_of(theirs.config)
    levels = law.levels(STEPS)
    assert array(levels) == pytest.approx(array(theirs.sigmas), rel=1e-6)
    assert array([law.time(t) for t in levels[:-1]]) == pytest.approx(array(theirs.timesteps), abs=1e-6)
    assert law.start_scale(levels[0]) == pytest.approx(float(theirs.init_noise_sigma))


def test_levels_of_stable_video_diffusion() -> None:
    config = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    theirs = diffusers.EulerDiscreteScheduler(**config, sigma_min=0.002, sigma_max=700.0)
    theirs.set_timesteps(STEPS)
    law = law_of(theirs.config, "euler")
    assert law.family == "ve"
    assert array([law.time(t) for t in law.levels(STEPS)[:-1]]) == pytest.approx(array(theirs.timesteps), abs=1e-6)


def test_a_cosine_table_is_cut_where_the_config_says() -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    theirs.set_timesteps(STEPS)
    law = law_of(theirs.config)
    assert array(law.levels(STEPS)[:-1]) == pytest.approx(array(theirs.timesteps))


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_levels_of_a_consistency_model(steps: int) -> None:
    theirs = diffusers.LCMScheduler()
    theirs.set_timesteps(steps)
    assert array(law_of(theirs.config, "lcm").levels(steps)[:-1]) == pytest.approx(array(theirs.timesteps))


def test_steps_may_be_an_int_of_numpy() -> None:
    assert law_of(SD).levels(np.int64(STEPS)) == law_of(SD).levels(STEPS)


def test_zero_terminal_snr_is_exact() -> None:
    config = {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    law = law_of(diffusers.EulerDiscreteScheduler(**config).config, "euler")
    first, second = (law.schedule.node(t) for t in law.levels(STEPS)[:2])
    assert (first.alpha, first.sigma) == (0.0, 1.0)
    theirs = diffusers.EulerDiscreteScheduler(**config)
    theirs.set_timesteps(STEPS)
    assert second.sigma / second.alpha == pytest.approx(float(theirs.sigmas[1]), rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("size", [10, 100, 1000])
def test_tables_are_those_of_the_betas(kind: str, size: int) -> None:
    theirs = diffusers.DDPMScheduler(num_train_timesteps=size, beta_schedule=kind)
    assert array(law_of(theirs.config).schedule.alphas_cumprod) == pytest.approx(array(theirs.alphas_cumprod), rel=3e-5)


def test_every_scheduler_of_the_library_is_known() -> None:
    """By class, where it is no table of betas, or its steps are a model's own."""
    named = {*laws._FLOW, *laws._VE, *laws._ELSEWHERE}
    classes = {name: kind for name in dir(diffusers) if isinstance(kind := getattr(diffusers, name), type)}
    schedulers = {name for name in classes if name.endswith("Scheduler")}
    assert named <= schedulers
    for name in schedulers - named:
        assert name.startswith(("CosineDPM", "DPMSolverSDE", "LMS")) or "beta_start" in (
            inspect.signature(classes[name].__init__).parameters
        ), name


def test_what_a_model_was_trained_on_is_kept_where_it_is_a_default() -> None:
    law = law_of(diffusers.HeunDiscreteScheduler().config, "dpmpp_2m")
    table = np.cumprod(1.0 - np.linspace(0.00085, 0.012, 1000))
    assert array(law.schedule.alphas_cumprod) == pytest.approx(table)


def test_published_sigmas_are_taken_in_both_lengths() -> None:
    law = law_of(SD, "euler")
    published = diffusers.schedulers.AysSchedules["StableDiffusionSigmas"]
    levels = law.levels(sigmas=published)
    assert levels == law.levels(sigmas=published[:-1])
    assert levels[0] == 999.0  # 14.615 is the table's 14.6146, rounded
    assert levels[-1] == -1.0
    theirs = diffusers.EulerDiscreteScheduler(**SD)
    theirs.set_timesteps(sigmas=published)
    assert array(levels[:-1]) == pytest.approx(array(theirs.timesteps), abs=1e-3)


def test_a_step_that_would_go_nowhere_goes_on_to_clean_data() -> None:
    theirs = diffusers.EulerDiscreteScheduler(**SD, final_sigmas_type="sigma_min")
    theirs.set_timesteps(STEPS)
    assert theirs.sigmas[-1] == theirs.sigmas[-2]  # their last model call changes nothing
    levels = law_of(theirs.config, "euler").levels(STEPS)
    assert levels[-2:] == (0.0, -1.0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another's key": ({**SD, "snr_shift_scale": 3.0}, "CogVideoXDDIMScheduler is not a law .* keep that scheduler"),
    "class": ({"_class_name": "SCMScheduler"}, "SCMScheduler is not a law .* keep that scheduler"),
    "betas": ({"beta_schedule": "laplace"}, "beta_schedule must be 'linear'.*not 'laplace'.*trained_betas"),
    "prediction": ({"prediction_type": "score"}, "prediction_type must be one of 'epsilon', 'sample'.*not 'score'"),
    "spacing": ({"timestep_spacing": "cosine"}, "timestep_spacing must be one of 'linspace'.*not 'cosine'"),
    "end": ({"final_sigmas_type": "one"}, "final_sigmas_type must be one of 'zero', 'sigma_min', not 'one'"),
    "two spacings": ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of .*not use_karras_sigmas and"),
    "thresholding": ({"thresholding": True}, "thresholding=False, or run fastsolve.sample.*dynamic_threshold"),
    "interpolation": ({"interpolation_type": "log_linear"}, "use_exponential_sigmas=True"),
    "flow with eps": ({"shift": 3.0, "prediction_type": "epsilon"}, "flow models predict a velocity"),
    "stochastic flow": ({"shift": 3.0, "stochastic_sampling": True}, 'take solver="flow_sde"'),
    "shift type": ({"shift": 3.0, "time_shift_type": "cubic"}, "time_shift_type must be one of"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_there_is_refused_with_what_to_write(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law_of(config)


ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "num_inference_steps must be a positive int, or timesteps or sigmas"),
    "no steps": ({"steps": 0}, "num_inference_steps must be a positive int"),
    "another number": ({"steps": 3, "sigmas": [3.0, 2.0]}, "num_inference_steps is 3, and 2 levels are given"),
    "rising": ({"sigmas": [2.0, 3.0]}, "sigmas must decrease, but entry 1 is 3 after 2"),
    "stages": ({"timesteps": [900.0, 500.0, 500.0]}, "timesteps must decrease.*not the stages between"),
    "not finite": ({"sigmas": [float("nan")]}, "sigmas must be finite numbers"),
    "below": ({"sigmas": [3.0, -1.0]}, "sigmas must be positive"),
    "none": ({"sigmas": [0.0]}, "sigmas must be positive, but for one 0 after the last, and one at least"),
    "True steps": ({"steps": True}, "num_inference_steps must be a positive int"),
    "too high": ({"sigmas": [200.0, 1.0]}, "outside the table"),
    "outside": ({"timesteps": [1200.0, 1.0]}, "level 1200 is outside the schedule"),
    "mu": ({"steps": 3, "mu": 0.5}, "mu=0.5 shifts flow-matching levels"),
}


@pytest.mark.parametrize(("asked", "message"), ASKED.values(), ids=ASKED)
def test_levels_that_do_not_fit_are_refused(asked: dict[str, Any], message: str) -> None:
    law = law_of(SD)
    with pytest.raises(ValueError, match=message):
        [law.schedule.node(t) for t in law.levels(**asked)]
