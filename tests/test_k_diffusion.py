"""Sampling functions with k-diffusion's contract: results against published trajectories and the library, and the contract itself."""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import inspect
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import fastsolve
from fastsolve import philox
from fastsolve.adapters import k_diffusion, k_steps
from fastsolve.adapters.k_diffusion import names, sampler_function
from problems import golden_mixture
from test_golden import CASES, TOLERANCE, arrays

SHAPE = (2, 3, 4, 4)
SIGMAS = torch.tensor([14.0, 6.0, 2.0, 0.7, 0.2, 0.0])
X = 14.0 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
PLAIN = [name for name in names() if not name.endswith("cfg_pp")]  # those need a model of ComfyUI (test_comfy)
OURS = {*names()} & {*fastsolve.list_solvers()} - {*k_diffusion._NAMES}
STOCHASTIC = ["euler_ancestral", "seeds_3", "dpmpp_2m_sde", "dpmpp_sde", "lcm", "er_sde"]


def model(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
    """The denoiser of N(0.3, 0.5^2)."""
    level = sigma.reshape(-1, *[1] * (x.dim() - 1))
    return 0.3 + 0.25 / (0.25 + level**2) * (x - 0.3)


def each(draws: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    left = iter(draws)
    return lambda sigma, sigma_next: next(left)


# Results

WALKED = ("peer_kdiff", "seeds_comfy", "restart_webui")
GOLDEN = [name for name, case in CASES.items() if name.startswith(WALKED) and case["solver"] in OURS]


def golden_distance(name: str, **options: object) -> float:
    case = CASES[name]
    tensors = arrays(case["family"])
    x_init, draws, final = (tensors[f"{name}.{key}"] for key in ("x_init", "draws", "final"))
    mixture = golden_mixture().model(case["schedule"])
    function = sampler_function(case["solver"], schedule=case["schedule"], **{**case["options"], **options})
    sigmas = torch.tensor(case["grid"], dtype=torch.float64)
    out = function(mixture, x_init, sigmas, noise_sampler=each(draws), disable=True)
    assert out.dtype == torch.float64
    assert mixture.calls == case["nfe"]
    return float((out - final).abs().max() / final.abs().max())


@pytest.mark.parametrize("name", [name for name in GOLDEN if CASES[name]["expect"] == "agree"])
def test_published_trajectories_are_walked_again(name: str) -> None:
    assert golden_distance(name) <= CASES[name].get("tolerance", TOLERANCE)


def test_the_goldens_are_many_and_of_both_schedules() -> None:
    agree = [CASES[name]["schedule"] for name in GOLDEN if CASES[name]["expect"] == "agree"]
    assert agree.count("ve") > 25
    assert agree.count("flow") > 12


@pytest.mark.parametrize("name", [name for name in GOLDEN if CASES[name]["expect"] == "official"])
def test_published_errors_come_on_request_only(name: str) -> None:
    assert golden_distance(name) > 1e-6
    assert golden_distance(name, compat="official") <= CASES[name].get("tolerance", TOLERANCE)


def test_euler_and_heun_are_the_formulas() -> None:
    x, sigmas = X.double(), SIGMAS.double()
    euler = heun = x
    for s, t in pairwise(sigmas):
        euler = euler + (euler - model(euler, s)) / s * (t - s)
        slope = (heun - model(heun, s)) / s
        ahead = heun + slope * (t - s)
        heun = ahead if t == 0 else heun + (slope + (ahead - model(ahead, t)) / t) / 2 * (t - s)
    torch.testing.assert_close(k_diffusion.sample_euler(model, x, sigmas, disable=True), euler, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(k_diffusion.sample_heun(model, x, sigmas, disable=True), heun, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def sampling() -> Iterator[Any]:
    """k_diffusion.sampling without what its package imports beside it."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        pytest.skip("k-diffusion is not installed: pip install --no-deps k-diffusion torchsde torchdiffeq trampoline")
    for name in ("torchdiffeq", "torchsde", "scipy", "tqdm"):
        pytest.importorskip(name, reason=f"k-diffusion's sampling needs {name}")
    with pytest.MonkeyPatch.context() as patch:
        package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
        package.__path__ = list(found.submodule_search_locations or ())
        utils.append_dims = lambda x, n: x.reshape(x.shape + (1,) * (n - x.dim()))  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "k_diffusion", package)
        patch.setitem(sys.modules, "k_diffusion.utils", utils)
        yield importlib.import_module("k_diffusion.sampling")
        sys.modules.pop("k_diffusion.sampling")


THEIRS: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("euler", {}, {}),
    ("euler", {"s_churn": 2.0, "s_noise": 1.1, "s_tmin": 0.5, "s_tmax": 10.0}, {}),
    ("heun", {}, {}),
    ("dpm_2", {}, {}),
    ("lms", {}, {"compat": "official"}),
    ("dpmpp_2m", {}, {}),
    ("euler_ancestral", {"eta": 0.7, "s_noise": 1.1}, {}),
    ("dpm_2_ancestral", {"eta": 0.7}, {}),
    ("dpmpp_2s_ancestral", {"eta": 0.7, "s_noise": 1.1}, {}),
    ("dpmpp_sde", {"eta": 0.7, "r": 0.4}, {"compat": "k_diffusion"}),
    ("dpmpp_2m_sde", {"eta": 0.7, "solver_type": "heun"}, {}),
    ("dpmpp_2m_sde", {"s_noise": 1.1}, {}),
    ("dpmpp_3m_sde", {"eta": 0.7}, {}),
]


@pytest.mark.parametrize(("name", "shared", "ours"), THEIRS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_k_diffusion_gives_the_same(
    sampling: Any, name: str, shared: dict[str, Any], ours: dict[str, Any], monkeypatch: Any
) -> None:
    """In float64, with the same noise in the order in which they ask; callbacks included."""
    sigmas, x = SIGMAS.double(), X.double()
    draws = torch.randn(40, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    function, seen = getattr(sampling, f"sample_{name}"), ([], [])
    takes = "noise_sampler" in inspect.signature(function).parameters
    churned, gamma_is_positive = iter(draws), []
    sigma_hats = [s for s in SIGMAS[:-1].tolist() if shared.get("s_tmin", 0) <= s <= shared.get("s_tmax", math.inf)]
    order = iter(range(len(SIGMAS)))

    def churn(x: Tensor) -> Tensor:  # they draw in every step, and use it where churn is
        used = "s_churn" in shared and SIGMAS[next(order)].item() in sigma_hats
        gamma_is_positive.append(used)
        return next(churned) if used else torch.zeros_like(x)

    monkeypatch.setattr(sampling.torch, "randn_like", churn)
    given = {"noise_sampler": each(draws)} if takes else {}
    theirs = function(model, x, sigmas, callback=lambda d: seen[0].append(d), disable=True, **shared, **given)
    monkeypatch.undo()
    mine = sampler_function(name)
    out = mine(model, x, sigmas, callback=seen[1].append, disable=True, noise_sampler=each(draws), **shared, **ours)
    torch.testing.assert_close(out, theirs, rtol=1e-6, atol=1e-6)
    assert float((out - theirs).abs().max()) < 1e-6
    assert len(seen[0]) == len(seen[1]) == 5
    for a, b in zip(*seen, strict=True):
        assert a.keys() == b.keys()
        assert a["i"] == b["i"]
        for key in ("x", "sigma", "sigma_hat", "denoised"):
            torch.testing.assert_close(b[key], torch.as_tensor(a[key]), rtol=1e-6, atol=1e-6)


def test_a_brownian_path_of_k_diffusion_gives_their_result(sampling: Any) -> None:
    """Its increments are asked over the same intervals, so the same picture comes for the same seed."""
    pytest.importorskip("torchsde")
    x, sigmas = X.double(), SIGMAS.double()
    make = functools.partial(sampling.BrownianTreeNoiseSampler, x, 0.1, 15.0, seed=3)
    for name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "euler_ancestral", "dpmpp_2s_ancestral"):
        theirs = getattr(sampling, f"sample_{name}")(model, x, sigmas, noise_sampler=make(), disable=True)
        ours = sampler_function(name)(model, x, sigmas, noise_sampler=make(), disable=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    asked = []
    sampler_function("seeds_3")(
        model, x, sigmas, disable=True, noise_sampler=lambda s, t: asked.append(make()(s, t)) or asked[-1]
    )
    flat = torch.stack(asked).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert float(correlation.abs().max()) < 6 / math.sqrt(flat.shape[1])  # the three draws of a step are independent


# The contract


@pytest.mark.parametrize("name", PLAIN)
def test_every_name_is_a_function_that_samples(name: str) -> None:
    function = getattr(k_diffusion, f"sample_{name}")
    sigmas, x, kept = SIGMAS.clone(), X.clone(), []
    out = function(model, x, sigmas, {"seed": 5}, kept.append, True)
    assert out.shape == X.shape
    assert out.dtype == X.dtype
    assert out.isfinite().all()
    assert torch.equal(sigmas, SIGMAS)
    assert torch.equal(x, X)
    assert not out.requires_grad
    assert [d["i"] for d in kept] == [0, 1, 2, 3, 4]
    assert all(d.keys() == {"x", "i", "sigma", "sigma_hat", "denoised"} for d in kept)
    assert [float(d["sigma"]) for d in kept] == SIGMAS[:-1].tolist()
    for d in kept:  # the state that the model was called on, not yet updated, and not written again
        torch.testing.assert_close(model(d["x"], d["sigma_hat"]), d["denoised"], rtol=0, atol=0)
    assert torch.equal(kept[0]["x"], X)


def test_churn_shows_in_sigma_hat() -> None:
    kept: list[dict[str, Any]] = []
    k_diffusion.sample_euler(model, X, SIGMAS, {"seed": 1}, kept.append, True, s_churn=2.0, s_tmax=7.0)
    rise = [float(d["sigma_hat"] / d["sigma"]) for d in kept]
    assert rise == pytest.approx([1.0, 1.4, 1.4, 1.4, 1.4], rel=1e-6)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("sigmas", [[], [3.0]])
def test_no_step_gives_x(name: str, sigmas: list[float]) -> None:
    def never(*args: object, **kwargs: object) -> Tensor:
        raise AssertionError("called")

    assert sampler_function(name)(never, X, torch.tensor(sigmas), callback=never, disable=True) is X


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([2.0, 3.0, 0.0], r"sigmas must decrease, but sigmas\[1\] is 3 after 2, from noise to data.*fastsolve.invert"),
        ([2.0, 1.0, 1.0, 0.0], r"sigmas\[2\] is 1 after 1: drop repeated ones"),
        ([2.0, math.nan, 0.0], r"sigmas\[1\] is nan"),
        ([math.inf, 1.0, 0.0], "must be finite"),
        ([2.0, 1.0, -1.0], "outside the schedule 've'"),
        ([[2.0, 1.0]], "sigmas must be a row of levels"),
    ],
)
def test_bad_sigmas_are_refused_before_the_first_call(sigmas: Any, message: str) -> None:
    def never(*args: object) -> Tensor:
        raise AssertionError("called")

    with pytest.raises(ValueError, match=message):
        k_diffusion.sample_euler(never, X, torch.tensor(sigmas), disable=True)


def test_flow_levels_above_one_are_refused() -> None:
    message = r"flow model lie in \[0, 1\], and these begin at 14: make them from this model's own schedule"
    with pytest.raises(ValueError, match=message):
        sampler_function("euler", schedule="flow")(model, X, SIGMAS, disable=True)


def test_x_must_be_a_floating_tensor() -> None:
    with pytest.raises(TypeError, match=r"floating tensor \[B, \.\.\.\], not torch.int64"):
        k_diffusion.sample_euler(model, X.long(), SIGMAS)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 7), (1, 3, 2, 4, 4)])
def test_any_rank(shape: tuple[int, ...]) -> None:
    x = 14.0 * torch.randn(shape, generator=torch.Generator().manual_seed(2))
    out = k_diffusion.sample_dpmpp_2m(model, x, SIGMAS, disable=True)
    flat = k_diffusion.sample_dpmpp_2m(model, x.reshape(-1, 1), SIGMAS, disable=True)
    torch.testing.assert_close(out.flatten(), flat.flatten(), rtol=1e-6, atol=1e-6)
    turned = k_diffusion.sample_dpmpp_2m(model, x.t().contiguous().t() if x.dim() == 2 else x, SIGMAS, disable=True)
    assert torch.equal(out, turned)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wide", [False, True])
def test_half_x(dtype: torch.dtype, wide: bool) -> None:
    """The model sees x in its dtype and sigma in float32, may answer in half or float32, and the state is not rounded in between."""
    seen = set()

    def half(x: Tensor, sigma: Tensor) -> Tensor:
        seen.add((x.dtype, sigma.dtype))
        out = model(x.float(), sigma)
        return out if wide else out.to(dtype)

    sigmas = torch.cat([torch.logspace(1.1, -1, 40), torch.zeros(1)])
    out = k_diffusion.sample_euler(half, X.to(dtype), sigmas, disable=True)
    assert out.dtype == dtype
    assert seen == {(dtype, torch.float32)}
    rounded = k_diffusion.sample_euler(
        lambda x, s: half(x.to(dtype), s).float(), X.to(dtype).float(), sigmas, disable=True
    )
    torch.testing.assert_close(out, rounded.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "seeds_3", "uni_pc", "dpmpp_3m_sde"])
def test_a_model_may_return_the_same_storage_in_every_call(name: str) -> None:
    """A compiled one does, one that skips calls, and one that knows its image."""
    out = torch.empty(SHAPE)

    def reusing(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        return out.copy_(model(x, sigma))

    function = sampler_function(name)
    expected = function(model, X, SIGMAS, {"seed": 1}, disable=True)
    assert torch.equal(function(reusing, X, SIGMAS, {"seed": 1}, disable=True), expected)
    image = torch.full(SHAPE, 0.25)
    known = function(lambda x, sigma, **kwargs: image, X, SIGMAS, {"seed": 1}, disable=True)
    torch.testing.assert_close(known, image)
    assert (image == 0.25).all()


def test_no_gradient_is_kept() -> None:
    scale = torch.ones((), requires_grad=True)
    out = k_diffusion.sample_euler(lambda x, s: model(x, s) * scale, X.clone().requires_grad_(), SIGMAS, disable=True)
    assert not out.requires_grad


def test_a_last_level_above_zero_is_an_end() -> None:
    out = k_diffusion.sample_euler(model, X, SIGMAS[:-1], disable=True)
    x = X.double()
    for s, t in zip(SIGMAS[:-2].double(), SIGMAS[1:-1].double(), strict=True):
        x = x + (x - model(x, s)) / s * (t - s)
    torch.testing.assert_close(out.double(), x, rtol=1e-6, atol=1e-6)
    first = k_diffusion.sample_seeds_3(model, X, SIGMAS[:3], {"seed": 1}, disable=True)
    assert k_diffusion.sample_seeds_3(model, first, SIGMAS[2:], {"seed": 1}, disable=True).isfinite().all()


def test_extra_args_reach_the_model_as_they_are() -> None:
    seen: list[dict[str, object]] = []

    def told(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        seen.append(kwargs)
        return model(x, sigma)

    cond, extra = object(), {"cond": object(), "seed": 3}
    extra["cond"] = cond
    k_diffusion.sample_seeds_3(told, X, SIGMAS, extra, disable=True)
    assert all(kwargs == {"cond": cond, "seed": 3} for kwargs in seen)
    assert extra == {"cond": cond, "seed": 3}


def test_an_exception_of_model_or_callback_passes_and_leaves_nothing() -> None:
    class StopError(Exception): ...

    class Net:
        calls = 0

        def __call__(self, x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
            self.calls += 1
            if self.calls == 5:
                raise StopError
            return model(x, sigma)

    def stop(d: dict[str, Any]) -> None:
        if d["i"] == 2:
            raise StopError

    function = sampler_function("seeds_3")
    before = function(model, X, SIGMAS, {"seed": 1}, disable=True)
    net = Net()
    gone = weakref.ref(net)
    for _ in range(2):
        net.calls = 0
        with pytest.raises(StopError):
            function(net, X, SIGMAS, {"seed": 1}, disable=True)
    with pytest.raises(StopError):
        function(model, X, SIGMAS, {"seed": 1}, stop, True)
    del net
    gc.collect()
    assert gone() is None
    assert torch.equal(function(model, X, SIGMAS, {"seed": 1}, disable=True), before)


def test_nothing_of_the_caller_is_kept_after_a_run() -> None:
    class Net:
        def __call__(self, x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
            return model(x, sigma)

    net, x = Net(), X.clone()
    gone = weakref.ref(net), weakref.ref(x)
    k_diffusion.sample_dpmpp_2m(net, x, SIGMAS, {"cond": net}, disable=True)
    del net, x
    gc.collect()
    assert [g() for g in gone] == [None, None]


def test_threads_do_not_meet() -> None:
    """Four runs go call by call together, so that anything they shared would be overwritten."""
    function, out, together = sampler_function("seeds_3"), dict[int, Tensor](), threading.Barrier(4, timeout=60)
    expected = [function(model, X, SIGMAS, {"seed": i}, disable=True) for i in range(4)]

    def waiting(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        together.wait()
        return model(x, sigma)

    def work(i: int) -> None:
        for _ in range(2):
            out[i] = function(waiting, X, SIGMAS, {"seed": i}, disable=True)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out[i], expected[i]) for i in range(4))


# Noise


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_goes_by_seed_and_index(name: str) -> None:
    function = sampler_function(name)
    state = torch.get_rng_state()
    one = function(model, X, SIGMAS, {"seed": 9}, disable=True)
    assert torch.equal(one, function(model, X, SIGMAS, {"seed": 9}, disable=True))
    assert torch.equal(one[:1], function(model, X[:1], SIGMAS, {"seed": 9}, disable=True))
    assert not torch.equal(one, function(model, X, SIGMAS, {"seed": 10}, disable=True))
    same = function(model, X[:1].expand(2, -1, -1, -1), SIGMAS, {"seed": 9}, disable=True)
    assert not torch.equal(same[0], same[1])
    assert torch.equal(state, torch.get_rng_state())


def test_noise_without_a_seed_is_torchs_generators() -> None:
    function = sampler_function("euler_ancestral")
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append([function(model, X, SIGMAS, disable=True) for _ in range(2)])
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])
    state = torch.get_rng_state()
    k_diffusion.sample_euler(model, X, SIGMAS, disable=True)  # draws nothing
    function(model, X, SIGMAS, disable=True, noise_sampler=lambda s, t: torch.zeros(SHAPE))
    assert torch.equal(state, torch.get_rng_state())


def test_step_noise_is_not_the_initial_noise() -> None:
    """Seeds are often shared: x comes from torch.Generator(seed), or from our own start stream."""
    size, seed = 4 * 64 * 64, 7
    shape = (1, 4, 64, 64)
    initial = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    ours = torch.from_numpy(philox.normals(philox.sample_seeds(seed, 1), size, 0, philox.START_STREAM)).reshape(shape)
    zero = sampler_function("lcm")(
        lambda x, s, **kw: torch.zeros_like(x), torch.zeros(shape), SIGMAS[:2], {"seed": seed}, disable=True
    )
    step = zero / SIGMAS[1]
    assert step.std() == pytest.approx(1.0, abs=0.02)
    for other in (initial, ours):
        assert abs(float(torch.corrcoef(torch.stack([step.flatten(), other.flatten()]))[0, 1])) < 5 / math.sqrt(size)


def test_a_noise_sampler_is_asked_over_the_parts_of_a_step() -> None:
    asked: list[tuple[Tensor, Tensor]] = []

    def sampler(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append((sigma, sigma_next))
        return torch.zeros(SHAPE)

    for name in ("euler_ancestral", "dpmpp_2m_sde", "dpm_2_ancestral", "dpmpp_2s_ancestral", "er_sde"):
        asked.clear()
        sampler_function(name)(model, X, SIGMAS, noise_sampler=sampler, disable=True)
        assert [(float(s), float(t)) for s, t in asked] == list(
            zip(SIGMAS[:-2].tolist(), SIGMAS[1:-1].tolist(), strict=True)
        ), name
    assert all(s.dim() == 0 and s.dtype == SIGMAS.dtype for pair in asked for s in pair)
    asked.clear()
    k_diffusion.sample_seeds_3(model, X, SIGMAS, noise_sampler=sampler, disable=True)
    ends = [float(asked[0][0]), *(float(t) for _, t in asked)]
    assert [float(s) for s, _ in asked] == ends[:-1]  # one after the other, without gaps
    expected = [SIGMAS[0].item()]
    for s, t in zip(SIGMAS[:-2].double().tolist(), SIGMAS[1:-1].double().tolist(), strict=True):
        expected += [s ** (2 / 3) * t ** (1 / 3), s ** (1 / 3) * t ** (2 / 3), t]
    assert ends == pytest.approx(expected, rel=1e-6)


def test_the_draws_of_a_noise_sampler_are_the_solvers() -> None:
    draws = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(6))
    expected = fastsolve.sample(
        model,
        solver="seeds3",
        schedule="ve",
        prediction="x0",
        grid=SIGMAS.tolist(),
        x_init=X.clone(),
        noise=list(draws[:12]),
    )
    out = k_diffusion.sample_seeds_3(model, X, SIGMAS, noise_sampler=each(draws), disable=True)
    assert torch.equal(out, expected)


def test_a_path_cannot_be_the_noise_of_restarts() -> None:
    function = sampler_function("restart", intervals=[(3, 2, 0.2, 2.0)])

    def path(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(1e4 * sigma + 1e8 * sigma_next))
        return torch.randn(SHAPE, generator=generator)

    with pytest.raises(ValueError, match=r"same noise twice for \(0\.2, 2\).*leave noise_sampler out"):
        function(model, X, SIGMAS, noise_sampler=path, disable=True)
    free = torch.Generator().manual_seed(1)
    assert function(model, X, SIGMAS, noise_sampler=lambda s, t: torch.randn(SHAPE, generator=free)).isfinite().all()


# Steps and levels


def test_restart_calls_back_more_often_within_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm.auto

    bars: list[Any] = []

    class Bar:
        def __init__(self, total: int, disable: bool | None) -> None:
            self.total, self.disable, self.n, self.ticks = total, disable, 0, list[int]()
            bars.append(self)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None: ...

        def update(self, n: int) -> None:
            assert n >= 0
            self.n += n
            self.ticks.append(self.n)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    kept: list[int] = []
    sigmas = torch.cat([torch.logspace(1.1, -1, 12), torch.zeros(1)])
    function = sampler_function("restart", intervals=[(5, 3, 0.2, 2.0), (3, 1, 1.0, 5.0)])
    for disable in (None, False):
        kept.clear()
        function(model, X, sigmas, {"seed": 1}, lambda d: kept.append(d["i"]), disable)
        assert kept == sorted(kept)
        assert {*kept} == {*range(12)}
        assert len(kept) > 20
        assert bars[-1].disable is disable
        assert bars[-1].total == bars[-1].n == 12
    function(model, X, sigmas, {"seed": 1}, None, True)
    assert len(bars) == 2


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("schedule", ["ve", "flow"])
def test_steps_levels_and_draws_of_every_plan(name: str, schedule: str) -> None:
    grid = SIGMAS.tolist() if schedule == "ve" else [1.0, 0.8, 0.5, 0.3, 0.1, 0.0]
    options = {"intervals": [(3, 2, 0.2, 1.0)], "s_churn": 1.0} if name == "restart" else {}
    plan = fastsolve.make_plan(name, schedule=schedule, grid=grid, options=options)
    told = k_steps.told(plan, False)
    assert {*told.levels} >= {*grid} | {call.t for call in plan.evals}
    assert [*told.levels] == sorted({*told.levels}, reverse=True)
    assert len(told.draws) == plan.draws
    assert all(s != t and s > 0 and t >= 0 for s, t in told.draws)
    assert [i for i, _ in told.steps.values()] == sorted(i for i, _ in told.steps.values())
    assert {i for i, _ in told.steps.values()} == {0, 1, 2, 3, 4}


# Names and options


@pytest.mark.parametrize(
    ("name", "near"),
    [("seed3", "seeds3"), ("dpmpp2m", "dpmpp_2m"), ("euler_a", "euler"), ("dpmpp_2m_sde_cpu", "dpmpp_2m_sde_gpu")],
)
def test_an_unknown_name_says_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown solver '{name}'; nearest is '{near}'"):
        sampler_function(name)
    with pytest.raises(AttributeError, match=f"nearest is '{near}'"):
        getattr(k_diffusion, f"sample_{name}")
    with pytest.raises(ImportError, match=f"sample_{name}"):
        exec(f"from fastsolve.adapters.k_diffusion import sample_{name}")


def test_what_does_not_fit_says_why() -> None:
    with pytest.raises(ValueError, match=r"tada is no sampling function: its state .* use fastsolve\.sample"):
        sampler_function("tada")


def test_names_must_be_names_and_other_attributes_are_none() -> None:
    with pytest.raises(TypeError, match="a solver is a name of"):
        sampler_function(3)  # type: ignore[arg-type]
    assert not hasattr(k_diffusion, "something")
    assert {"sample_euler", "sample_seeds_3", "sampler_function"} <= {*dir(k_diffusion)}


def test_an_unknown_option_says_the_nearest() -> None:
    message = r"sample_seeds_3 has no option 'etta'; nearest is 'eta'; it has .*s_noise"
    with pytest.raises(ValueError, match=message):
        sampler_function("seeds_3", etta=0.5)
    with pytest.raises(ValueError, match=message):
        k_diffusion.sample_seeds_3(model, X, SIGMAS, etta=0.5)
    with pytest.raises(ValueError, match="option eta of seeds3 must be at least 0"):
        k_diffusion.sample_seeds_3(model, X, SIGMAS, eta=-1.0, disable=True)


@pytest.mark.parametrize(
    ("name", "given", "solver", "options"),
    [
        ("ipndm", {"max_order": 2}, "ipndm", {"order": 2}),
        ("deis", {"max_order": 2}, "deis", {"order": 2}),
        ("dpmpp_2m_sde", {"solver_type": "heun"}, "dpmpp_2m_sde", {"variant": "heun"}),
        ("dpmpp_2m_sde_heun_gpu", {}, "dpmpp_2m_sde", {"variant": "heun"}),
        ("seeds_3", {"r_1": 0.25, "r_2": 0.5}, "seeds3", {"r1": 0.25, "r2": 0.5}),
        ("gradient_estimation", {"ge_gamma": 1.5}, "gradient_estimation", {"gamma": 1.5}),
        ("er_sde", {"max_stage": 2}, "er_sde", {"stages": 2}),
        ("sa_solver", {"predictor_order": 2, "use_pece": True}, "sa_solver", {"order": 2, "pece": True}),
        ("uni_pc", {}, "unipc", {"variant": "bh1"}),
        ("ddpm", {}, "ddim", {"eta": 1.0}),
        ("res_multistep_ancestral", {}, "res_multistep", {"eta": 1.0}),
    ],
)
def test_other_libraries_names_of_solvers_and_options(
    name: str, given: dict[str, Any], solver: str, options: dict[str, Any]
) -> None:
    expected = fastsolve.sample(
        model,
        solver=solver,
        options=options,
        schedule="ve",
        prediction="x0",
        grid=SIGMAS.tolist(),
        x_init=X.clone(),
        seed=2,
    )
    assert torch.equal(sampler_function(name, **given)(model, X, SIGMAS, {"seed": 2}, disable=True), expected)
    assert torch.equal(sampler_function(name)(model, X, SIGMAS, {"seed": 2}, disable=True, **given), expected)


def test_the_signature_shows_the_contract_and_the_options() -> None:
    """webui and others look there for what they may give."""
    function = sampler_function("seeds_3", eta=0.5)
    assert function.__name__ == "sample_seeds_3"
    parameters = inspect.signature(function).parameters
    assert [*parameters][:6] == ["model", "x", "sigmas", "extra_args", "callback", "disable"]
    assert {"noise_sampler", "s_noise", "r1"} < {*parameters}
    assert parameters["eta"].default == 0.5
    assert "SEEDS-3" in (function.__doc__ or "")


def test_a_schedule_given_is_taken() -> None:
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])

    def flow(x: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        t = sigma.reshape(-1, 1, 1, 1)
        return 0.3 + (1 - t) * 0.25 / ((1 - t) ** 2 * 0.25 + t**2) * (x - (1 - t) * 0.3)

    out = sampler_function("dpmpp_2m", schedule="flow")(flow, X / 14, sigmas, disable=True)
    expected = fastsolve.sample(
        flow, solver="dpmpp_2m", schedule="flow", prediction="x0", grid=sigmas.tolist(), x_init=X / 14
    )
    assert torch.equal(out, expected)


def test_large_buffers_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(fastsolve.Sampler, "close", lambda self: closed.append(self))
    k_diffusion.sample_euler(model, X, SIGMAS, disable=True)
    assert not closed
    k_diffusion.sample_euler(model, torch.zeros(1, 2**18 + 1), SIGMAS, disable=True)
    assert len(closed) == 1
