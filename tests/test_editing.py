"""Bounds, inpainting, overwriting and starts from data: inside the one launch per call, for every solver."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import EXECUTORS, SOLVERS
from fastsolve import Denoiser, Sampler, philox

SHAPE = (3, 8)
GRID = (0.95, 0.7, 0.45, 0.2, 0.05, 0.0)
MASK = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
IMAGE = torch.linspace(-2.0, 2.0, 24).reshape(SHAPE)


class Net(torch.nn.Module):
    """A velocity that mixes elements; keeps what it was called on."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 0.3
        self.seen: list[tuple[Tensor, float]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x.clone(), t[0].item()))
        return torch.tanh(x @ self.weight) + 0.5 * x


def sampler(net: Net, **kwargs: object) -> Sampler:
    dtype = net.weight.dtype
    denoiser = Denoiser(net, "flow", "flow", dtype=None if kwargs.get("dtype") is dtype else dtype)
    return Sampler(denoiser, SHAPE, **{"solver": "dpmpp_2m", "grid": GRID, **kwargs})


def options(solver: str) -> dict[str, object]:
    return {"options": {"intervals": [(2, 1, 0.1, 0.5)]}} if solver == "restart" else {}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_known_part_comes_out_as_it_is(solver: str) -> None:
    """Whatever the solver: data predictions of the known part never change, and every rule keeps a constant."""
    made = sampler(Net(), solver=solver, **options(solver))
    out = made(seed=5, inpaint=(MASK, IMAGE))
    kept = (MASK == 0.0).expand(SHAPE)
    torch.testing.assert_close(out[kept], IMAGE[kept], rtol=1e-5, atol=2e-5)
    assert (out[~kept] - made(seed=5)[~kept]).abs().max() > 1e-3  # the painted part knows of it


def test_inpainting_is_that_of_diffusers_pipelines() -> None:
    """After every step the known part is the image at the level of the next call, with the noise of the start."""
    net, plain = Net(), Net()
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    got = sampler(net, solver="flow_euler")(x_init=0.05 * IMAGE + 0.95 * z, inpaint=(MASK, IMAGE))
    x = 0.05 * IMAGE + 0.95 * z
    for s, t in itertools.pairwise(GRID):
        x = x + (t - s) * plain(x, torch.full((3,), s))
        x = MASK * x + (1.0 - MASK) * ((1.0 - t) * IMAGE + t * z)
    torch.testing.assert_close(got, x, rtol=1e-5, atol=1e-5)
    for (ours, _), (theirs, _) in zip(net.seen, plain.seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_soft_mask_mixes_data_predictions(executor: str) -> None:
    soft = torch.linspace(0.0, 1.0, 8)
    got = sampler(Net(), executor=executor)(seed=4, inpaint=(soft, IMAGE))
    mixed = sampler(Net(), executor=executor, x0_hook=lambda d, node: soft * d + (1.0 - soft) * IMAGE)(seed=4)
    torch.testing.assert_close(got, mixed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "seeds3", "heun", "sa_solver", "tada"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_overwritten_is_what_the_model_sees(solver: str, executor: str, dtype: torch.dtype) -> None:
    net, seen = Net(dtype), list[Tensor]()
    keep = torch.tensor([True, False, False, True, False, False, False, False])
    made = sampler(net, solver=solver, executor=executor)
    for step in made.iterate(seed=5, at="call", overwrite=(keep, IMAGE)):
        assert_bits_equal(step.x0[:, keep], IMAGE[:, keep])
        seen.append(step.x.to(dtype))
    for x, (told, _) in zip(seen, net.seen, strict=True):
        assert_bits_equal(x, told)
    early = made(seed=5, overwrite=(keep, IMAGE), callback=lambda step: step.index < 2)
    assert_bits_equal(early[:, keep], IMAGE[:, keep])
    net.seen.clear()
    out = made(seed=5, overwrite=(keep, IMAGE))
    assert_bits_equal(out[:, keep], IMAGE[:, keep])
    assert len(net.seen) >= 5
    for x, _ in net.seen:
        assert_bits_equal(x[:, keep], IMAGE[:, keep].to(dtype))


@pytest.mark.parametrize("way", ["inpaint", "overwrite"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_masked_out_may_be_missing(way: str, executor: str) -> None:
    hidden = (1.0 if way == "inpaint" else 0.0) == MASK
    made = sampler(Net(), executor=executor)
    outs = [made(seed=4, **{way: (MASK, IMAGE.masked_fill(hidden, v))}) for v in (math.nan, math.inf, 1.0)]
    for out in outs[:2]:
        assert_bits_equal(out, outs[2])


def test_overwriting_is_that_of_diffusion_policies() -> None:
    """trajectory[mask] = value before every call and at the end; a step of DDIM between."""
    keep = torch.tensor([True, False, False, True, False, False, False, False]).expand(SHAPE)
    x = z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    got = sampler(Net(), solver="ddim")(x_init=z, overwrite=(keep, IMAGE))
    net = Net()
    for s, t in itertools.pairwise(GRID):
        x = torch.where(keep, IMAGE, x)
        d = x - s * net(x, torch.full((3,), s))
        x = (t / s) * x + ((1.0 - t) - (1.0 - s) * t / s) * d
    torch.testing.assert_close(got, torch.where(keep, IMAGE, x), rtol=1e-5, atol=1e-5)


def test_a_scaled_input_is_overwritten_at_its_scale() -> None:
    seen: list[Tensor] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.clone())
        return 0.3 * x

    prediction = fastsolve.predictions.EDM(0.5, scaled_input=True)
    made = Sampler(Denoiser(net, "edm", prediction), SHAPE, solver="dpmpp_2m", steps=4)
    made(overwrite=(1.0 - MASK, IMAGE))
    for x, call in zip(seen, made.plan.evals, strict=True):
        torch.testing.assert_close(x[:, MASK == 0], call.scale * IMAGE[:, MASK == 0], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_clipping_is_a_function_of_data_predictions(solver: str, executor: str) -> None:
    """Inside the launch it is what a hook gives, at one launch per call instead of two."""
    fused = sampler(Net(), solver=solver, executor=executor, clip=(-0.4, 0.7), **options(solver))
    hooked = sampler(
        Net(), solver=solver, executor=executor, x0_hook=lambda d, node: d.clamp(-0.4, 0.7), **options(solver)
    )
    out = fused(seed=6)
    torch.testing.assert_close(out, hooked(seed=6), rtol=1e-4, atol=1e-4)
    assert fused.plan.launches == fused.plan.nfe
    assert hooked.plan.launches == 2 * hooked.plan.nfe
    assert (out - sampler(Net(), solver=solver, executor=executor, **options(solver))(seed=6)).abs().max() > 1e-2


def test_a_bound_on_one_side() -> None:
    one = sampler(Net(), clip=(-math.inf, 0.3))(seed=1)
    torch.testing.assert_close(
        one, sampler(Net(), x0_hook=lambda d, node: d.clamp(max=0.3))(seed=1), rtol=1e-5, atol=1e-5
    )


def test_clipping_inside_inpainting_under_guidance() -> None:
    """All of it at once is still one launch per call, and what the functions say one after the other."""
    net = Net()
    denoiser = Denoiser(lambda x, t, y=0.0: net(x, t) + y, "flow", "flow", null={"y": 0.3})
    asked: dict[str, object] = {"solver": "dpmpp_2m", "grid": GRID, "guidance": 2.0}
    fused = Sampler(denoiser, SHAPE, clip=0.5, **asked)
    by_hand = Sampler(
        denoiser, SHAPE, x0_hook=lambda d, node: MASK * d.clamp(-0.5, 0.5) + (1.0 - MASK) * IMAGE, **asked
    )
    torch.testing.assert_close(fused(seed=2, inpaint=(MASK, IMAGE)), by_hand(seed=2), rtol=1e-5, atol=1e-5)
    assert fused.plan.launches == fused.plan.nfe == 5


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "seeds2"])
def test_what_is_done_to_predictions_is_seen(solver: str) -> None:
    made = sampler(Net(), solver=solver, clip=0.4)
    for step in made.iterate(seed=1, at="call", inpaint=(MASK, IMAGE)):
        assert_bits_equal(step.x0[:, MASK == 0], IMAGE[:, MASK == 0])
        assert step.x0[:, MASK == 1].abs().max() <= 0.4


@pytest.mark.parametrize("executor", EXECUTORS)
def test_noise_is_added_to_data(executor: str) -> None:
    """The start's own stream: alpha x0 + sigma z, and from there the same run, with the same noise of steps."""
    made = sampler(Net(), solver="seeds2", executor=executor)
    seeds = philox.sample_seeds(9, 3)
    z = torch.from_numpy(philox.normals(seeds, 8, 0, philox.START_STREAM)).reshape(SHAPE)
    start = torch.tensor(0.05, dtype=torch.float32) * IMAGE + torch.tensor(0.95, dtype=torch.float32) * z
    assert_bits_equal(made(seed=9, x0_init=IMAGE), made(seed=9, x_init=start))


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: sampler(Net(), clip=0.0), "increasing pair"),
    (lambda: sampler(Net(), clip=(1.0, -1.0)), "increasing pair"),
    (lambda: sampler(Net(), clip="1"), "bound c"),
    (lambda: sampler(Net())(inpaint=MASK), "pair of tensors"),
    (lambda: sampler(Net())(inpaint=(MASK, 1.0)), r"inpaint\[1\] must be a tensor"),
    (lambda: sampler(Net())(inpaint=(MASK[:3], IMAGE)), r"inpaint\[0\] is \[3\], which cannot be broadcast"),
    (lambda: sampler(Net())(inpaint=(MASK, IMAGE), overwrite=(MASK, IMAGE)), "give one of them"),
    (lambda: sampler(Net())(x_init=IMAGE, x0_init=IMAGE), "give one of them"),
    (lambda: sampler(Net())(x0_init=IMAGE[:2]), "x0_init is"),
    (lambda: sampler(Net(), solver="tada")(x0_init=IMAGE), "give x_init"),
    (lambda: sampler(Net(), x0_hook=3), "int is not callable"),
    (lambda: sampler(Net(), x0_hook=lambda d, node: d[:1])(), "function 'x0' at t = 0.95 returned"),
    (lambda: sampler(Net(), x0_hook=lambda d, node: None)(), "NoneType, not a tensor"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_refuses(given: Callable[[], object], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        given()


def test_a_hook_may_work_in_place_but_not_return_the_same_tensor_twice() -> None:
    def in_place(d: Tensor, node: object) -> Tensor:
        return d.clamp_(-0.4, 0.7)

    want = sampler(Net(), x0_hook=lambda d, node: d.clamp(-0.4, 0.7))(seed=1)
    assert_bits_equal(sampler(Net(), x0_hook=in_place)(seed=1), want)
    own = torch.empty(SHAPE)
    with pytest.raises(ValueError, match="earlier output"):
        sampler(Net(), x0_hook=lambda d, node: own.copy_(d))(seed=1)


def test_dynamic_thresholding_is_that_of_imagen() -> None:
    d = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.2])[:, None, None]
    got = fastsolve.dynamic_threshold(0.9)(d.clone(), None)  # type: ignore[arg-type]
    cut = torch.quantile(d.abs().flatten(1), 0.9, dim=1).clamp(min=1.0)[:, None, None]
    torch.testing.assert_close(got, d.clamp(-cut, cut) / cut)
    assert_bits_equal(got[1], d[1])
    assert got[0].abs().max() == 1.0
    assert float(cut[0]) > 1.5
    least = fastsolve.dynamic_threshold(0.9, 1.5)(d.clone(), None)  # type: ignore[arg-type]
    torch.testing.assert_close(least[0], d[0].clamp(-1.5, 1.5) / 1.5)


def test_dynamic_thresholding_of_scalars() -> None:
    got = fastsolve.dynamic_threshold(0.9)(torch.tensor([3.0, -0.2]), None)  # type: ignore[arg-type]
    torch.testing.assert_close(got, torch.tensor([1.0, -0.2]))
