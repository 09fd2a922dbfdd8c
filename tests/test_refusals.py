"""Bad input is refused with a sentence: what was given, what is allowed, the nearest match; and before the model is called."""

from __future__ import annotations

import builtins
import math
import re
import sys
from collections.abc import Callable
from types import EllipsisType

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from catalogue import EXECUTORS
from fastsolve import Denoiser, Sampler, executors, grids, predictions, schedules

NAN, INF = math.nan, math.inf
SHAPE = (2, 3)
LEFT_OUT = ...


class Model:
    """Counts its calls."""

    def __init__(self, answer: Callable[[Tensor, Tensor], object] = lambda x, t: 0.5 * x) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> object:
        self.calls += 1
        return self.answer(x, t)


def run(model: object, sampler: dict[str, object], call: dict[str, object]) -> Tensor:
    usual: dict[str, object] = {"shape": SHAPE, "solver": "ddim", "steps": 3}
    if not isinstance(model, Denoiser):
        usual |= {"schedule": "vp", "prediction": "eps"}
    chosen = {k: v for k, v in {**usual, **sampler}.items() if not isinstance(v, EllipsisType)}
    return Sampler(model, **chosen)(**call)


def refused(kind: type[Exception], message: str, call: dict[str, object] | None = None, **sampler: object) -> None:
    """A run of a counting model with one bad argument raises `kind` with `message`, before any call."""
    model = Model()
    with pytest.raises(kind, match=message):
        run(model, sampler, call or {})
    assert model.calls == 0


def zeros(*shape: int, **kwargs: object) -> Tensor:
    return torch.zeros(shape, **kwargs)


def test_good_input_is_not_refused() -> None:
    model = Model()
    assert run(model, {}, {}).shape == SHAPE
    assert model.calls == 3


@pytest.mark.parametrize(
    ("argument", "given", "nearest"),
    [
        ("solver", "sedes3", "seeds3"),
        ("solver", "dpm_2m", "dpmpp_2m"),
        ("grid", "karas", "karras"),
        ("schedule", "vp_cosin", "vp_cosine"),
        ("prediction", "esp", "eps"),
        ("prediction", "epsilon", "eps"),
        ("prediction", "v_prediction", "v"),
        ("executor", "nativ", "native"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(argument: str, given: str, nearest: str) -> None:
    refused(ValueError, rf"unknown {argument} '{given}'.*nearest is '{nearest}'", **{argument: given})


def test_none_is_an_option_where_it_is_the_default() -> None:
    asked = {"schedule": "edm", "steps": 3}
    plain = fastsolve.make_plan("er_sde", **asked)
    assert fastsolve.make_plan("er_sde", **asked, options={"eta": None}).ops == plain.ops
    with pytest.raises(TypeError, match="eta of ddim must be a number, not None"):
        fastsolve.make_plan("ddim", **asked, options={"eta": None})


def test_an_unknown_option_is_answered_with_the_nearest_and_all() -> None:
    message = r"seeds2 has no option 'snoise'; nearest is 's_noise'; it has compat, denoise_final, eta, form, r,"
    refused(ValueError, message, solver="seeds2", options={"snoise": 1.0})


NUMBER = "option eta of seeds3 must be a number"


@pytest.mark.parametrize(
    ("solver", "options", "kind", "message"),
    [
        ("seeds3", {"eta": -0.1}, ValueError, r"option eta of seeds3 must be at least 0, not -0\.1"),
        ("seeds3", {"eta": NAN}, ValueError, "option eta of seeds3 must be at least 0, not nan"),
        ("seeds3", {"eta": INF}, ValueError, "eta must be at least 0 and finite, not inf"),
        ("seeds3", {"eta": "1"}, TypeError, f"{NUMBER}, not '1'"),
        ("seeds3", {"eta": True}, TypeError, f"{NUMBER}, not True"),
        ("seeds3", {"eta": None}, TypeError, f"{NUMBER}, not None"),
        ("ddim", {"eta": -1}, ValueError, "option eta of ddim must be at least 0, not -1"),
        ("seeds3", {"s_noise": -1.0}, ValueError, "option s_noise of seeds3 must be at least 0"),
        ("heun", {"s_churn": -1.0}, ValueError, "option s_churn of heun must be at least 0"),
        ("heun", {"s_tmin": NAN}, ValueError, "option s_tmin of heun"),
        ("heun", {"s_churn": 1.0, "s_noise": INF}, ValueError, "heun on vp, after .* a coefficient is inf"),
        ("seeds2", {"r": 0.0}, ValueError, r"r must lie in \(0, 1\], not 0"),
        ("seeds2", {"r": 1.5}, ValueError, r"r must lie in \(0, 1\], not 1\.5"),
        ("seeds2", {"r": NAN}, ValueError, "r .*not nan"),
        ("seeds3", {"r1": 0.7}, ValueError, r"0 < r1 < r2 <= 1 is needed, not r1 = 0\.7, r2 = 0\.6667?"),
        ("seeds3", {"r1": 0.0}, ValueError, "0 < r1 < r2 <= 1 is needed, not r1 = 0"),
        ("seeds3", {"r2": 1.1}, ValueError, r"0 < r1 < r2 <= 1 is needed, not .*r2 = 1\.1"),
        ("seeds2", {"variant": "phi_3"}, ValueError, "variant must be one of 'phi_1', 'phi_2'.*not 'phi_3'"),
        ("seeds3", {"variant": "phi_1"}, ValueError, "variant must be one of '3a', '3b', not 'phi_1'"),
        (
            "dpmpp_2m",
            {"variant": "mid"},
            ValueError,
            "variant must be one of 'midpoint', 'heun', not 'mid'; nearest is 'midpoint'",
        ),
        ("seeds1", {"form": "dat"}, ValueError, "form must be one of 'data',.* not 'dat'; nearest is 'data'"),
        ("seeds1", {"form": "edm", "eta": 0.5}, ValueError, r"EDM form have eta 0 or 1, not 0\.5"),
        ("seeds2", {"compat": "offical"}, ValueError, "compat must be .*'official', not 'offical'"),
        ("seeds2", {"compat": "official", "eta": 0.5}, ValueError, r"exists for eta = 1 only, not 0\.5"),
        ("seeds3", {"compat": "official", "form": "edm", "r1": 0.2}, ValueError, "at the default nodes only"),
        ("dpmpp_2m", {"lower_order_final": 1}, TypeError, "must be True or False, not 1"),
        ("ddim", {"denoise_final": "yes"}, TypeError, "must be True or False, not 'yes'"),
    ],
)
def test_a_bad_option_is_refused(solver: str, options: dict[str, object], kind: type[Exception], message: str) -> None:
    refused(kind, message, solver=solver, options=options)


@pytest.mark.parametrize("sigma_data", [-1.0, 0.0, NAN, INF, "a"])
def test_a_bad_sigma_data_is_refused(sigma_data: object) -> None:
    model = Model()
    with pytest.raises((ValueError, TypeError), match=r"sigma_data.*positive"):
        run(model, {"solver": "seeds1", "options": {"form": "edm", "sigma_data": sigma_data}}, {})
    assert model.calls == 0
    if not isinstance(sigma_data, str):
        with pytest.raises(ValueError, match="sigma_data must be positive"):
            predictions.EDM(sigma_data)


OPEN = grids.Uniform(final_zero=False)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"steps": LEFT_OUT}, ValueError, "one of steps and nfe, not neither"),
        ({"nfe": 7}, ValueError, r"one of steps and nfe, not both \(steps=3, nfe=7\)"),
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
        ({"steps": -2}, ValueError, "steps must be at least 1, not -2"),
        ({"steps": 2.0}, TypeError, r"steps must be an int, not 2\.0"),
        ({"steps": "3"}, TypeError, "steps must be an int, not '3'"),
        ({"steps": True}, TypeError, "steps must be an int, not True"),
        ({"steps": LEFT_OUT, "nfe": 0}, ValueError, "nfe must be at least 1, not 0"),
        ({"steps": LEFT_OUT, "nfe": -1}, ValueError, "nfe must be at least 1, not -1"),
        ({"steps": LEFT_OUT, "nfe": 4.5}, TypeError, r"nfe must be an int, not 4\.5"),
        (
            {"steps": LEFT_OUT, "nfe": 2, "solver": "seeds3", "grid": OPEN},
            ValueError,
            "budget of 2 model calls is too small for seeds3: its least is 3",
        ),
        ({"grid": (1.0, 0.5)}, ValueError, "the grid given has 1 steps, not 3: leave steps out"),
        ({"grid": (1.0, 0.5), "steps": LEFT_OUT, "nfe": 1}, ValueError, "leave nfe out"),
        ({"schedule": "vp_scaled_linear", "steps": 1001}, ValueError, "1001 levels do not fit a table of 1000"),
    ],
    ids=str,
)
def test_a_bad_number_of_steps_is_refused(given: dict[str, object], kind: type[Exception], message: str) -> None:
    refused(kind, message, **given)


@pytest.mark.parametrize(
    ("schedule", "levels", "message"),
    [
        ("vp", (1.0, 0.5, 0.7), r"levels must decrease, but level 2 is 0\.7 after 0\.5"),
        ("vp", (1.0, 1.0, 0.0), "levels must decrease, but level 1 is 1 after 1"),
        ("vp", (1.0, NAN, 0.0), "level 1 of the grid is nan: levels must be finite"),
        ("ve", (INF, 1.0, 0.0), "level 0 of the grid is inf: levels must be finite"),
        ("vp", (1.5, 0.5), r"1\.5 is outside the schedule 'vp', whose clock runs from 0 to 1"),
        ("ve", (5.0, -0.1), r"-0\.1 is outside the schedule 've'"),
        ("vp_scaled_linear", (1000.0, 0.0), "1000 is outside the schedule 'vp_table', whose clock runs from -1 to 999"),
        ("vp_scaled_linear", (500.0, -0.5), r"-0\.5.*below index 0 there is only -1, clean data"),
        ("vp", (0.0, -1.0), "the grid starts at 0, clean data, where there is nothing to sample"),
        ("vp_scaled_linear", (-1.0, -2.0), "the grid starts at -1, clean data"),
        ("vp", (1.0,), r"at least two levels, a start and an end, not \[1\.0\]"),
        ("vp", (), r"at least two levels, a start and an end, not \[\]"),
    ],
    ids=str,
)
def test_bad_levels_are_refused(schedule: str, levels: tuple[float, ...], message: str) -> None:
    refused(ValueError, message, schedule=schedule, grid=levels, steps=LEFT_OUT)


@pytest.mark.parametrize("grid", [3, 0.5, ("a", "b"), [[1.0, 0.5], 0.0]], ids=str)
def test_what_is_no_grid_is_refused(grid: object) -> None:
    refused(TypeError, "grid must be a name, a grid or a sequence of clock values", grid=grid, steps=LEFT_OUT)


@pytest.mark.parametrize("name", ["karras", "uniform_logsnr"])
def test_a_grid_of_noise_levels_needs_a_start_above_alpha_0(name: str) -> None:
    message = f"grid '{name}' needs sigma_max on 'flow', which starts at alpha = 0"
    refused(ValueError, message, schedule="flow", prediction="flow", grid=name)


@pytest.mark.parametrize(
    ("schedule", "prediction"), [("flow", "eps"), ("vp_cosine", "score"), ("flow", predictions.Eps())], ids=str
)
def test_a_prediction_that_says_nothing_at_alpha_0_is_refused(schedule: str, prediction: object) -> None:
    message = "prediction says nothing about x0 at alpha = 0 .*use a model with x0, v or flow prediction"
    refused(ValueError, message, schedule=schedule, prediction=prediction)


@pytest.mark.parametrize("form", ["noise", "edm"])
def test_a_form_that_says_nothing_at_alpha_0_is_refused(form: str) -> None:
    message = "cannot start at alpha = 0: use form='data', or start the grid below that level"
    refused(ValueError, message, solver="seeds1", schedule="flow", prediction="v", options={"form": form})


@pytest.mark.parametrize("left_out", ["schedule", "prediction"])
def test_a_bare_callable_needs_schedule_and_prediction(left_out: str) -> None:
    refused(ValueError, "a bare callable needs schedule and prediction", **{left_out: None})


@pytest.mark.parametrize("model", [5, "a name", None])
def test_what_cannot_be_called_is_refused(model: object) -> None:
    with pytest.raises(TypeError, match=rf"{type(model).__name__} is not callable"):
        run(model, {}, {})


@pytest.mark.parametrize(("argument", "given"), [("schedule", ["vp"]), ("schedule", 3), ("prediction", 3)])
def test_another_type_than_a_name_is_refused(argument: str, given: object) -> None:
    refused(
        TypeError,
        rf"{argument} must be a name or a {argument.title()}, not {type(given).__name__}",
        **{argument: given},
    )


@pytest.mark.parametrize("shape", [(), (2, -1), (0, 3)], ids=str)
def test_an_empty_shape_is_refused(shape: tuple[int, ...]) -> None:
    refused(ValueError, rf"shape must be positive ints, the batch first, not {re.escape(str(shape))}", shape=shape)


@pytest.mark.parametrize("shape", [5, (2, 3.0), (True, 3), "ab", (2, None)], ids=str)
def test_what_is_no_shape_is_refused(shape: object) -> None:
    refused(TypeError, rf"shape must be ints, the batch first, not {re.escape(repr(shape))}", shape=shape)


def test_a_shape_is_needed_where_nothing_states_one() -> None:
    refused(ValueError, r"shape is needed, \[B, \*sample\]", shape=LEFT_OUT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, "float32", None], ids=str)
def test_a_state_of_another_dtype_is_refused(dtype: object) -> None:
    refused(
        ValueError, rf"state's dtype must be torch\.float32 or torch\.float64, not {dtype}; a model may", dtype=dtype
    )


@pytest.mark.parametrize(
    ("x_init", "given"),
    [
        (zeros(2, 4), "float32 [2, 4] on cpu"),
        (zeros(3, 3), "float32 [3, 3] on cpu"),
        (zeros(3), "float32 [3] on cpu"),
        (zeros(2, 3, dtype=torch.float64), "float64 [2, 3] on cpu"),
        (zeros(2, 3, dtype=torch.bfloat16), "bfloat16 [2, 3] on cpu"),
        (zeros(2, 3, device="meta"), "float32 [2, 3] on meta"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_refused(x_init: Tensor, given: str) -> None:
    needed = re.escape(f"torch.{given}; needed is torch.float32 [2, 3] on cpu")
    refused(ValueError, f"x_init is {needed}", {"x_init": x_init})
    refused(ValueError, f"noise 1 is {needed}", {"noise": [zeros(2, 3), x_init]}, options={"eta": 1.0})


@pytest.mark.parametrize("given", [[[0.0] * 3] * 2, np.zeros(SHAPE, np.float32)], ids=["list", "ndarray"])
def test_what_is_no_tensor_is_refused(given: object) -> None:
    name = type(given).__name__
    refused(TypeError, f"x_init must be a tensor, not {name}", {"x_init": given})
    refused(TypeError, f"noise 0 must be a tensor, not {name}", {"noise": [given] * 2}, options={"eta": 1.0})
    refused(TypeError, "noise 0 must be a tensor, not NoneType", {"noise": lambda _: None}, options={"eta": 1.0})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_noise_of_the_wrong_count_is_refused(count: int) -> None:
    message = f"noise has {count} tensors, and the plan draws 2"
    refused(ValueError, message, {"noise": [zeros(*SHAPE)] * count}, options={"eta": 1.0})


@pytest.mark.parametrize(
    ("seed", "kind", "message"),
    [
        (1.5, TypeError, "seed must be an int or one int per sample, not float"),
        ("a", TypeError, "seed must be an int or one int per sample, not str"),
        (None, TypeError, "seed must be an int or one int per sample, not NoneType"),
        (True, TypeError, "seed must be an int or one int per sample, not bool"),
        ([1, 2.5], TypeError, "one int per sample, not float"),
        ([[1, 2], [3, 4]], TypeError, "one int per sample, not list"),
        ([1], ValueError, "seed has 1 entries for a batch of 2: give one int, or one per sample"),
        ((1, 2, 3), ValueError, "seed has 3 entries for a batch of 2"),
        (torch.tensor([1, 2, 3]), ValueError, "seed has 3 entries for a batch of 2"),
        (torch.tensor([1.0, 2.0]), TypeError, r"a seed tensor must hold ints, \[B\], not torch\.float32 \[2\]"),
        (torch.tensor([[1, 2]]), TypeError, r"a seed tensor must hold ints, \[B\], not torch\.int64 \[1, 2\]"),
        (torch.tensor([True, False]), TypeError, "not bool"),
        (np.array([1.5, 2.0]), TypeError, "one int per sample, not float64"),
    ],
    ids=str,
)
def test_bad_seeds_are_refused(seed: object, kind: type[Exception], message: str) -> None:
    refused(kind, message, {"seed": seed})


def test_guidance_needs_an_unconditional_call() -> None:
    refused(ValueError, "guidance needs the unconditional call: give a Denoiser whose null holds", guidance=2.0)


@pytest.mark.parametrize("guidance", [NAN, INF, -INF])
def test_guidance_must_be_finite(guidance: float) -> None:
    model = Model()
    with pytest.raises(ValueError, match=f"guidance must be a finite scale, not {guidance}"):
        run(Denoiser(model, "vp", "eps", null={}), {"guidance": guidance}, {})
    assert model.calls == 0


def test_what_the_denoiser_states_cannot_be_denied() -> None:
    model = Model()
    with pytest.raises(ValueError, match=r"the Denoiser states Eps\(\), not the prediction 'v' given beside it"):
        run(Denoiser(model, "vp", "eps"), {"prediction": "v"}, {})
    with pytest.raises(ValueError, match=r"the model makes samples of shape \(4,\): .* not \(2, 3\)"):
        run(Denoiser(model, "vp", "eps", shape=(4,)), {}, {})
    with pytest.raises(ValueError, match=r"the Denoiser states VP\(.*\), not the schedule 've' given beside it"):
        run(Denoiser(model, "vp", "eps"), {"schedule": "ve"}, {})
    assert model.calls == 0


WRONG: list[tuple[Callable[[Tensor, Tensor], object], type[Exception], str]] = [
    (
        lambda x, t: x[:1],
        ValueError,
        r"returned torch\.float32 \(1, 3\) on cpu; expected is torch\.float32 \(2, 3\) on cpu",
    ),
    (lambda x, t: x[..., None], ValueError, r"returned torch\.float32 \(2, 3, 1\) on cpu; expected"),
    (
        lambda x, t: x.double(),
        ValueError,
        r"returned torch\.float64 .*\(a Denoiser states dtype, output_dtype, device\)",
    ),
    (lambda x, t: x.bfloat16(), ValueError, r"returned torch\.bfloat16 \(2, 3\)"),
    (lambda x, t: x.to("meta"), ValueError, r"returned .* on meta; expected is .* on cpu"),
    (lambda x, t: (x, t), TypeError, "returned tuple, not a tensor"),
    (lambda x, t: None, TypeError, "returned NoneType, not a tensor"),
    (lambda x, t: x.numpy(), TypeError, "returned ndarray, not a tensor"),
]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("answer", "kind", "message"), WRONG)
def test_a_wrong_output_is_refused_at_its_call(
    answer: Callable[[Tensor, Tensor], object], kind: type[Exception], message: str, executor: str
) -> None:
    model = Model(lambda x, t: 0.5 * x if model.calls < 2 else answer(x, t))
    with pytest.raises(kind, match=rf"^model call 2 of 3 \(t = 0\.5005\) {message}"):
        run(model, {"executor": executor, "grid": "uniform"}, {})
    assert model.calls == 2


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_nan_is_named_on_request_and_passes_through_otherwise(number: float, executor: str) -> None:
    def spoil(x: Tensor, t: Tensor) -> Tensor:
        raw = 0.5 * x
        raw[1, 2] = number if model.calls == 2 else raw[1, 2]
        return raw

    model = Model(spoil)
    with pytest.raises(ValueError, match=r"model call 2 of 3 \(t = 0\.5005\) returned NaN or infinite values"):
        run(model, {"check_finite": True, "executor": executor, "grid": "uniform"}, {})
    model.calls = 0
    result = run(model, {"executor": executor}, {})
    assert result.isfinite().tolist() == [[True] * 3, [True, True, False]]


def test_coefficients_beyond_float32_are_refused() -> None:
    wide = {"schedule": "ve", "prediction": "x0", "grid": (1e39, 1.0, 0.0), "steps": LEFT_OUT}
    refused(ValueError, r"a coefficient of this plan is 1e\+39, beyond float32: use dtype=torch\.float64", **wide)
    assert run(Model(), {**wide, "dtype": torch.float64, "executor": "eager"}, {}).isfinite().all()


def test_native_says_why_it_cannot() -> None:
    message = r"executor 'native' cannot run this: native computes in float32 and the state is torch\.float64"
    refused(ValueError, message, executor="native", dtype=torch.float64)
    model = Model()
    with pytest.raises(ValueError, match=r"float32, bfloat16 and float16, and the model has torch\.float64"):
        run(Denoiser(model, "vp", "eps", dtype=torch.float64), {"executor": "native"}, {})
    assert model.calls == 0


def test_a_missing_native_module_is_named_and_auto_takes_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastsolve._C", None)
    monkeypatch.delattr(fastsolve, "_C", raising=False)
    refused(
        ValueError,
        "executor 'native' cannot run this: .*FASTSOLVE_NATIVE|executor 'native' .*not built",
        executor="native",
    )
    sampler = Sampler(Model(), SHAPE, solver="ddim", steps=2, schedule="vp", prediction="eps")
    assert sampler.executor.name == "eager"


def test_fused_says_that_it_needs_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = pytest.importorskip("fastsolve.kernels.tiles")
    monkeypatch.setattr(tiles, "INTERPRETING", False)
    refused(
        ValueError, r"fused runs on a GPU; on a CPU only in Triton's interpreter \(TRITON_INTERPRET=1", executor="fused"
    )


def test_fused_says_that_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda name: None)
    refused(ValueError, "fused needs Triton, which is not installed", executor="fused")


def test_a_bar_without_tqdm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without_tqdm(name: str, *args: object) -> object:
        if name.startswith("tqdm"):
            raise ImportError(name)
        return find(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    refused(ImportError, r"progress=True needs tqdm: pip install fastsolve\[progress\]", {"progress": True})


# What an argument of a wrong kind must be answered with: its name, and not what Python says about it deep inside.
NAMED: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("solver", {"solver": ["ddim"]}, {}),
    ("variant", {"solver": "seeds2", "options": {"variant": ["2a"]}}, {}),
    ("form", {"solver": "seeds2", "options": {"form": ["data"]}}, {}),
    ("options", {"options": 5}, {}),
    ("options", {"options": [("eta", 1.0)]}, {}),
    ("option", {"options": {1: 2}}, {}),
    ("device", {"device": "bogus"}, {}),
    ("device", {"device": "meta"}, {}),
    ("noise", {"options": {"eta": 1.0}}, {"noise": 5}),
    ("model_kwargs", {}, {"model_kwargs": 5}),
]


@pytest.mark.parametrize(("argument", "sampler", "call"), NAMED, ids=str)
def test_an_argument_of_another_kind_is_named(argument: str, sampler: dict, call: dict) -> None:
    model = Model()
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b.*\b(must|cannot|is|no)\b"):
        run(model, sampler, call)
    assert model.calls == 0


def test_guidance_of_another_kind_is_named() -> None:
    with pytest.raises((ValueError, TypeError), match="guidance must be"):
        fastsolve.make_plan("ddim", schedule="vp", steps=2, guidance="a")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named() -> None:
    refused(ValueError, "device.*cuda", device="cuda")


def test_sample_names_an_x_init_that_is_no_tensor() -> None:
    model = Model()
    with pytest.raises(TypeError, match="x_init must be a tensor, not list"):
        fastsolve.sample(model, SHAPE, solver="ddim", steps=2, schedule="vp", prediction="eps", x_init=[1.0])
    assert model.calls == 0


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("shape", (2, -3)),
        ("shape", 5),
        ("nfe", 0),
        ("nfe", "a"),
        ("null", 5),
        ("dtype", "bf16"),
        ("dtype", torch.int32),
    ],
)
def test_what_a_denoiser_states_is_checked_when_it_is_stated(argument: str, given: object) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"{argument}.* must "):
        Denoiser(Model(), "vp", "eps", **{argument: given})


@pytest.mark.parametrize("name", ["heunn", "ddimm"])
def test_cite_answers_an_unknown_name_with_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown solver '{name}'; nearest is '{name[:-1]}'"):
        fastsolve.cite(name)


def test_the_schedule_of_a_table_must_be_a_table() -> None:
    with pytest.raises(
        ValueError, match=r"alphas_cumprod must be at least two numbers that decrease .*entry 1 is 0\.9"
    ):
        schedules.VPTable((0.5, 0.9))
