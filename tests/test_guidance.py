"""Guidance: what it computes, how often it calls which network, and what it costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import EXECUTORS
from fastsolve import APG, Denoiser, Guidance, Sampler, functions, make_plan

B, N = 3, 6
GRID = (0.9, 0.6, 0.3, 0.1, 0.0)
F64 = torch.float64


class Net(torch.nn.Module):
    """A network with a condition; `calls` holds the batch sizes it was called on, and how often each y came."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = (0.4 * torch.randn(N, N, generator=generator, dtype=F64)).to(dtype)
        self.calls: list[int] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, more: dict[str, Tensor] | None = None) -> Tensor:
        self.calls.append(len(x))
        assert t.shape == (len(x),)
        out = torch.tanh(x @ self.weight + t[:, None])
        return out + sum((v for v in (y, *(more or {}).values()) if v is not None), torch.zeros((), dtype=x.dtype))


def condition(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.linspace(-1.0, 1.0, B * N, dtype=dtype).reshape(B, N)


def sampler(
    net: Callable[..., Tensor], guidance: object, dtype: torch.dtype = torch.float32, **kwargs: object
) -> Sampler:
    of_denoiser = {k: kwargs.pop(k) for k in ("doubles", "guide", "null", "prediction", "output_dtype") if k in kwargs}
    null = of_denoiser.pop("null", {"y": torch.zeros(B, N, dtype=dtype)})
    denoiser = Denoiser(net, "flow", **{"prediction": "flow", "null": null, "shape": (N,), **of_denoiser})
    return Sampler(denoiser, (B, N), grid=GRID, guidance=guidance, dtype=dtype, **{"solver": "ddim", **kwargs})


def by_hand(step: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Tensor:
    """DDIM on flow, in float64: step gives the data prediction from x, both raw outputs and t."""
    net, y = Net(dtype=F64), condition(F64)
    x = torch.randn(B, N, dtype=F64, generator=torch.Generator().manual_seed(1))
    for s, t in itertools.pairwise(GRID):
        clock = torch.full((B,), s, dtype=F64)
        d = step(x, net(x, clock, y), net(x, clock, torch.zeros_like(y)), s)
        x = (t / s) * x + ((1.0 - t) - (1.0 - s) * t / s) * d
    return x


def ours(guidance: object, **kwargs: object) -> Tensor:
    x = torch.randn(B, N, dtype=F64, generator=torch.Generator().manual_seed(1))
    made = sampler(Net(dtype=F64), guidance, F64, executor="eager", **kwargs)
    return made(x_init=x, model_kwargs={"y": condition(F64)})


def test_a_function_of_the_level_gives_the_scale() -> None:
    want = by_hand(lambda x, c, u, t: x - t * (u + (1.0 + 4.0 * t) * (c - u)))
    torch.testing.assert_close(ours(Guidance(lambda node: 1.0 + 4.0 * node.t)), want, rtol=1e-12, atol=1e-13)


def test_outside_its_interval_guidance_calls_once() -> None:
    want = by_hand(lambda x, c, u, t: x - t * (u + 3.0 * (c - u) if 0.3 <= t <= 0.6 else c))
    guidance = Guidance(3.0, interval=(0.3, 0.6))
    torch.testing.assert_close(ours(guidance), want, rtol=1e-12, atol=1e-13)
    net = Net()
    made = sampler(net, guidance)
    made(model_kwargs={"y": condition()})
    assert (made.plan.nfe, made.plan.forwards, len(net.calls), made.plan.launches) == (4, 6, 6, 4)
    assert [len(call.b) for call in made.plan.evals] == [1, 2, 2, 1]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "seeds3", "heun", "unipc", "restart", "tada"])
@pytest.mark.parametrize("guidance", [2.5, Guidance(2.5, interval=(0.2, 0.7)), Guidance(2.5, rescale=0.5)], ids=str)
def test_one_call_on_a_doubled_batch_is_two_calls(solver: str, executor: str, guidance: object) -> None:
    """The same bits, with conditions inside dicts, and a null condition of one sample for all."""
    once, twice = Net(), Net()
    null = {"y": torch.zeros(1, N), "more": {"a": torch.full((1, N), 0.25)}}
    kwargs = {"y": condition(), "more": {"a": condition().flip(0)}}
    results = [
        sampler(net, guidance, executor=executor, solver=solver, doubles=doubles, null=null)(
            seed=3, model_kwargs=kwargs
        )
        for net, doubles in ((once, True), (twice, False))
    ]
    assert_bits_equal(*results)
    assert 2 * B in once.calls
    assert set(twice.calls) == {B}
    assert sum(once.calls) == sum(twice.calls)


def test_a_doubled_batch_in_bfloat16_is_cast_in_the_same_launch() -> None:
    seen: list[Tensor] = []

    def net(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        assert (x.dtype, t.dtype, t.shape) == (torch.bfloat16, torch.float32, (2 * B,))
        seen.append(x.clone())
        return x * 0.5 + y

    denoiser = Denoiser(
        net, "flow", "flow", dtype=torch.bfloat16, null={"y": torch.zeros(B, N).bfloat16()}, doubles=True
    )
    made = Sampler(denoiser, (B, N), solver="dpmpp_2m", grid=GRID, guidance=2.0)
    made(model_kwargs={"y": condition().bfloat16()})
    assert made.plan.launches == len(seen) == 4
    assert all(torch.equal(x[:B], x[B:]) for x in seen)


def test_another_network_guides() -> None:
    weak = Net(1, F64)
    x = torch.randn(B, N, dtype=F64, generator=torch.Generator().manual_seed(1))
    got = sampler(Net(dtype=F64), 2.0, F64, executor="eager", null=None, guide=weak)(x_init=x)
    net = Net(dtype=F64)
    for s, t in itertools.pairwise(GRID):
        clock = torch.full((B,), s, dtype=F64)
        d = x - s * (2.0 * net(x, clock) - weak(x, clock))
        x = (t / s) * x + ((1.0 - t) - (1.0 - s) * t / s) * d
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-13)


def test_a_network_that_counts_no_parts_guides() -> None:
    class Empty(torch.nn.ModuleList):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 0.25 * x

    weak = Empty()
    assert not weak
    got, want = (sampler(Net(), 2.0, null=None, guide=guide)() for guide in (weak, lambda x, t: 0.25 * x))
    assert_bits_equal(got, want)


def test_negative_conditioning_comes_with_the_call() -> None:
    net = Net()
    made = sampler(net, 2.0, null={})
    given = {"y": condition()}
    with pytest.raises(ValueError, match="negative_kwargs"):
        made(model_kwargs=given)
    assert not net.calls
    want = sampler(Net(), 2.0, null={"y": -condition()})(model_kwargs=given)
    assert_bits_equal(made(model_kwargs=given, negative_kwargs={"y": -condition()}), want)


@pytest.mark.parametrize("guidance", [1.0, Guidance(3.0, interval=(2.0, 3.0))], ids=str)
def test_guidance_that_asks_one_branch_alone_takes_negative_conditions(guidance: float | Guidance) -> None:
    net = Net()
    given = {"model_kwargs": {"y": condition()}}
    got = sampler(net, guidance)(negative_kwargs={"y": -condition()}, **given)
    assert_bits_equal(got, sampler(Net(), None)(**given))
    assert len(net.calls) == 4
    denoiser = Denoiser(Net(), "flow", "flow", shape=(N,), null={"y": torch.zeros(B, N)})
    fastsolve.sample(denoiser, (B, N), solver="ddim", steps=[3, 4, 3], guidance=guidance, **given)


def test_rescaled_guidance_is_that_of_its_paper() -> None:
    """Lin et al. 2023, equations 15 and 16, as diffusers' rescale_noise_cfg has them: of the raw outputs."""

    def step(x: Tensor, c: Tensor, u: Tensor, t: float) -> Tensor:
        guided = u + 4.0 * (c - u)
        brought_back = guided * c.std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True)
        return x - t * (0.7 * brought_back + 0.3 * guided)

    torch.testing.assert_close(ours(Guidance(4.0, rescale=0.7)), by_hand(step), rtol=1e-12, atol=1e-13)


def test_rescale_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers.guiders.guider_utils")

    def step(x: Tensor, c: Tensor, u: Tensor, t: float) -> Tensor:
        return x - t * diffusers.rescale_noise_cfg(u + 4.0 * (c - u), c, guidance_rescale=0.7)

    torch.testing.assert_close(ours(Guidance(4.0, rescale=0.7)), by_hand(step), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, -0.5])
@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_projected_guidance_is_that_of_its_paper(momentum: float, threshold: float) -> None:
    """Sadat et al. 2024, algorithm 1, written out."""
    average = torch.zeros(B, N, dtype=F64)

    def step(x: Tensor, c: Tensor, u: Tensor, t: float) -> Tensor:
        nonlocal average
        one, other = x - t * c, x - t * u
        average = difference = (one - other) + momentum * average
        if threshold:
            difference = difference * (threshold / difference.norm(dim=1, keepdim=True)).clamp(max=1.0)
        along = one / one.norm(dim=1, keepdim=True)
        parallel = (difference * along).sum(dim=1, keepdim=True) * along
        return one + 3.0 * (difference - parallel + 0.2 * parallel)

    got = ours(Guidance(4.0, apg=APG(0.2, momentum, threshold)))
    torch.testing.assert_close(got, by_hand(step), rtol=1e-12, atol=1e-13)


def test_projected_guidance_with_all_of_the_parallel_part_is_plain() -> None:
    torch.testing.assert_close(ours(Guidance(4.0, apg=APG(1.0))), ours(4.0), rtol=1e-12, atol=1e-13)


def test_projected_guidance_of_a_prediction_that_is_zero_is_finite() -> None:
    zero, level = torch.zeros(2, 3), (0.5, 0.5, 0.5)
    got = functions.apg(zero, zero, -torch.ones(2, 3), level, 0.0, 1.0, 3.0, 0.0, 0.0, 0.0)
    assert_bits_equal(got, torch.full((2, 3), 2.0))


def test_a_sample_of_one_number_is_projected_by_itself() -> None:
    one, difference = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 1.0, -0.25])
    level = (0.5, 0.5, 0.5)
    got = functions.apg(one, one, one - difference, level, 0.0, 1.0, 3.0, 0.25, 0.0, 0.0)
    torch.testing.assert_close(got, one + 2.0 * 0.25 * difference)  # all of it is parallel


def test_cfg_pp_takes_its_noise_from_the_unconditional_prediction() -> None:
    """Chung et al. 2024, algorithm 1."""
    net, y = Net(dtype=F64), condition(F64)
    x = torch.randn(B, N, dtype=F64, generator=torch.Generator().manual_seed(1))
    for s, t in itertools.pairwise(GRID):
        clock = torch.full((B,), s, dtype=F64)
        one, other = (x - s * net(x, clock, v) for v in (y, torch.zeros_like(y)))
        eps = (x - (1.0 - s) * other) / s
        x = (1.0 - t) * (other + 0.6 * (one - other)) + t * eps
    torch.testing.assert_close(ours(0.6, solver="euler_cfg_pp"), x, rtol=1e-12, atol=1e-13)


def test_cfg_pp_outside_its_interval_is_the_conditional_solver() -> None:
    """A scale of 1 is the most there is of CFG++, and not none: the noise outside is that of the conditional prediction."""
    net, y = Net(dtype=F64), condition(F64)
    x = torch.randn(B, N, dtype=F64, generator=torch.Generator().manual_seed(1))
    for s, t in itertools.pairwise(GRID):
        clock = torch.full((B,), s, dtype=F64)
        one, other = (x - s * net(x, clock, v) for v in (y, torch.zeros_like(y)))
        d, base = (other + 0.6 * (one - other), other) if 0.3 <= s <= 0.6 else (one, one)
        x = (1.0 - t) * d + t * (x - (1.0 - s) * base) / s
    guidance = Guidance(0.6, interval=(0.3, 0.6))
    torch.testing.assert_close(ours(guidance, solver="euler_cfg_pp"), x, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours([guidance] * B, solver="euler_cfg_pp"), x, rtol=1e-12, atol=1e-13)
    assert sampler(Net(), guidance, solver="euler_cfg_pp").plan.forwards == 6
    assert sampler(Net(), 1.0, solver="euler_cfg_pp").plan.forwards == 8


def test_multistep_cfg_pp_is_comfyuis() -> None:
    """sample_dpmpp_2m_cfg_pp, written for x / alpha and sigma / alpha."""
    net, y = Net(dtype=F64), condition(F64)
    x = torch.randn(B, N, dtype=F64, generator=torch.Generator().manual_seed(1))
    before, h_before = None, 0.0
    for s, t in itertools.pairwise(GRID):
        clock = torch.full((B,), s, dtype=F64)
        one, other = (x - s * net(x, clock, v) for v in (y, torch.zeros_like(y)))
        d = other + 0.6 * (one - other)
        if t == 0.0:
            x = d
            continue
        h = math.log((1 - t) / t) - math.log((1 - s) / s)
        mixed = -math.exp(-h) * other
        if before is not None:
            mixed = mixed - math.expm1(-h) / (2.0 * h_before / h) * (d - before)
        x, before, h_before = (1 - t) * (d + mixed + math.exp(-h) * x / (1 - s)), other, h
    torch.testing.assert_close(ours(0.6, solver="dpmpp_2m_cfg_pp"), x, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("solver", "base"), [("euler_cfg_pp", "ddim"), ("dpmpp_2m_cfg_pp", "dpmpp_2m")])
def test_cfg_pp_without_guidance_is_its_base(solver: str, base: str) -> None:
    results = [sampler(Net(), None, solver=name)(model_kwargs={"y": condition()}) for name in (solver, base)]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds2", "dpmpp_2m_cfg_pp"])
def test_every_sample_has_its_scale(solver: str, executor: str) -> None:
    scales: list[float | Guidance] = [1.0, 4.0, Guidance(2.0, interval=(0.2, 0.7))]
    y = condition()
    got = sampler(Net(), scales, solver=solver, executor=executor)(seed=[5, 6, 7], model_kwargs={"y": y})
    for i, scale in enumerate(scales):
        alone = sampler(Net(), [scale] * B, solver=solver, executor=executor)
        assert_bits_equal(got[i], alone(seed=[5, 6, 7], model_kwargs={"y": y})[i])
        together = sampler(Net(), scale, solver=solver, executor=executor)
        torch.testing.assert_close(got[i], together(seed=[5, 6, 7], model_kwargs={"y": y})[i], rtol=1e-5, atol=1e-5)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Guidance(math.nan), "finite scale"),
    (lambda: Guidance(2.0, interval=(0.7, 0.2)), r"\(low, high\)"),
    (lambda: Guidance(2.0, interval=0.5), r"\(low, high\)"),
    (lambda: Guidance(2.0, rescale=1.5), r"in \[0, 1\]"),
    (lambda: Guidance(2.0, rescale="a"), r"in \[0, 1\]"),
    (lambda: Guidance(2.0, apg=0.5), "must be an APG"),
    (lambda: Guidance(2.0, rescale=0.5, apg=APG()), "not both"),
    (lambda: APG(norm_threshold=-1.0), "at least 0"),
    (lambda: make_plan("ddim", schedule="flow", steps=3, guidance=Guidance(lambda node: math.inf)), "finite scale"),
    (lambda: sampler(Net(), 2.0, null=None), "null"),
    (lambda: sampler(Net(), [1.0, 2.0]), "one per sample, and the batch is 3"),
    (lambda: sampler(Net(), 2.0, guide=Net(), doubles=True), "give one of them"),
    (lambda: sampler(Net(), None)(negative_kwargs={"y": condition()}), "without guidance"),
    (lambda: sampler(Net(), 2.0)(negative={"y": 1}), "nearest is 'negative_kwargs'"),
    (
        lambda: sampler(Net(), 2.0, doubles=True, null={"y": torch.zeros(2, N)})(model_kwargs={"y": condition()}),
        "doubled batch",
    ),
    (
        lambda: sampler(Net(), 2.0, doubles=True, null={"y": torch.zeros(1, 1)})(model_kwargs={"y": condition()}),
        r"y cannot be joined.*float32 \[3, 6\] with condition and torch.float32 \[1, 1\] without",
    ),
    (
        lambda: sampler(Net(), 2.0, doubles=True)(model_kwargs={"y": condition().double()}),
        "y cannot be joined",
    ),
    (
        lambda: sampler(Net(), 2.0, doubles=True, null={"y": np.zeros(3)})(model_kwargs={"y": np.ones(3)}),
        "y cannot be joined",
    ),
    (lambda: sampler(Net(), [Guidance(2.0, rescale=0.5), 2.0, 2.0]), "differ in numbers only"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_refuses(given: Callable[[], object], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        given()


def test_norms_of_scalars_are_of_each_sample() -> None:
    """Of one number all of a difference is parallel, and no deviation is known."""
    denoiser = Denoiser(lambda x, t, y=0.0: torch.tanh(x) + y, "flow", "flow", null={"y": 0.3})
    asked = {"solver": "ddim", "grid": GRID, "guidance": Guidance(3.0, apg=APG(0.2, -0.5, 0.1)), "executor": "eager"}
    whole = fastsolve.sample(denoiser, (3,), seed=[5, 6, 7], **asked)
    for i in range(3):
        assert_bits_equal(fastsolve.sample(denoiser, (1,), seed=[5 + i], **asked), whole[i : i + 1])
        column = fastsolve.sample(denoiser, (1, 1), seed=[5 + i], **asked)
        assert_bits_equal(column[0], whole[i : i + 1])
    for shape in ((3,), (3, 1)):
        with pytest.raises(ValueError, match="samples of two elements or more"):
            fastsolve.sample(denoiser, shape, **{**asked, "guidance": Guidance(3.0, rescale=0.5)})


def test_sample_takes_guidance() -> None:
    denoiser = Denoiser(Net(), "flow", "flow", shape=(N,), null={"y": torch.zeros(B, N)})
    asked = {
        "grid": GRID,
        "solver": "ddim",
        "guidance": Guidance(3.0, interval=[0.3, 0.6]),
        "model_kwargs": {"y": condition()},
    }
    got = fastsolve.sample(denoiser, (B, N), **asked)
    assert_bits_equal(got, sampler(Net(), Guidance(3.0, interval=(0.3, 0.6)))(model_kwargs={"y": condition()}))
