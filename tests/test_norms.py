"""Guidance in one launch (kernels/norms.py) against plain torch: errors, bits, whole runs; interpreted where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bits import assert_bits_equal
from fastsolve import APG, Denoiser, Guidance, Sampler, functions

norms = pytest.importorskip("fastsolve.kernels.norms")
tiles = pytest.importorskip("fastsolve.kernels.tiles")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LEVEL = (0.5, 0.5, 0.5)  # which none of them reads
# a and b of the prediction, the scale, and what else a function takes.
CASES = {
    "rescale": ("rescale", (0.9, -0.7, 4.0, 0.7)),
    "rescale, all": ("rescale", (1.0, -1.0, 1.5, 1.0)),
    "apg": ("apg", (0.9, -0.7, 4.0, 0.2, 0.0, 0.0)),
    "apg, short": ("apg", (0.0, 1.0, 7.5, -0.5, 0.8, 0.0)),
    "apg, long": ("apg", (0.0, 1.0, 7.5, 0.0, 1e9, 0.0)),
    "apg with momentum": ("apg_momentum", (0.9, -0.7, 4.0, 0.2, 5.0, -0.5)),
}
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
# Batch, size, and type of the raw outputs. 20000 elements take several turns, 4096 are read in vectors where there is a GPU.
SHAPES = [(batch, size, dtype) for batch in (1, 3) for size in (1, 63, 4099) for dtype in (F32, BF16)]
SHAPES += [(3, 63, F16), (1, 20000, BF16), (3, 4096, BF16)]


def tensors(name: str, batch: int, size: int, dtype: torch.dtype, mean: float, skew: int = 0) -> list[Tensor]:
    """The state, both raw outputs, and for momentum a sum of differences; each starts `skew` elements into its memory."""
    generator = torch.Generator().manual_seed(size)
    x, one, other, average = (torch.randn(8, size, generator=generator)[:batch] for _ in range(4))
    raws = [one + mean, 0.8 * (one + mean) + 0.3 * other]
    made = [x, *(raw.to(dtype) for raw in raws), *([average] if name == "apg_momentum" else [])]
    placed = []
    for t in made:
        whole = torch.empty(t.numel() + skew, dtype=t.dtype, device=DEVICE)
        placed.append(whole[skew:].view(t.shape).copy_(t))
    return placed


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).abs().max())


def in_float64(case: str, given: list[Tensor]) -> Tensor:
    name, numbers = CASES[case]
    return functions.PLAIN[name](*(t.double() for t in given), LEVEL, *numbers)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize(("batch", "size", "dtype"), SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_errors_are_at_most_twice_those_of_plain_torch(
    case: str, batch: int, size: int, dtype: torch.dtype, mean: float
) -> None:
    name, numbers = CASES[case]
    if size == 1 and name == "rescale":
        pytest.skip("a single element has no deviation")
    given = tensors(name, batch, size, dtype, mean)
    got, exact = functions.LAUNCHED[name](*given, LEVEL, *numbers), in_float64(case, given)
    assert got.dtype == F32
    bound = 2 * error(functions.PLAIN[name](*given, LEVEL, *numbers), exact)
    if size == 1:  # plain torch divides an element by its own norm, which is exact
        bound += 2**-22 * abs(numbers[2]) * float(max(t.abs().max() for t in given))
    assert error(got, exact) <= bound


@pytest.mark.filterwarnings("ignore")  # torch's and NumPy's, of the division
def test_a_prediction_of_zero_has_no_direction() -> None:
    zero, one = torch.zeros(2, 5, device=DEVICE), torch.ones(2, 5, device=DEVICE)
    for way in (functions.PLAIN, functions.LAUNCHED):
        got = way["apg"](zero, zero, -one, LEVEL, 0.0, 1.0, 3.0, 0.2, 0.0, 0.0)
        assert_bits_equal(got, 2.0 * one)


@pytest.mark.filterwarnings("ignore:std\\(\\)", "ignore:invalid value encountered")
def test_a_single_element_rescaled_is_no_number_in_either_way() -> None:
    given = tensors("rescale", 3, 1, F32, 0.0)
    for way in (functions.PLAIN, functions.LAUNCHED):
        assert way["rescale"](*given, LEVEL, 1.0, 1.0, 4.0, 0.7).isnan().all()


@pytest.mark.parametrize("case", CASES)
def test_tensors_may_start_anywhere(case: str) -> None:
    name, numbers = CASES[case]
    for size in (4096, 4099):
        given = tensors(name, 3, size, BF16, 0.0, skew=1)
        exact = in_float64(case, given)
        bound = 2 * error(functions.PLAIN[name](*given, LEVEL, *numbers), exact)
        assert error(functions.LAUNCHED[name](*given, LEVEL, *numbers), exact) <= bound


@pytest.mark.parametrize("size", [63, 20000])
@pytest.mark.parametrize("case", CASES)
def test_a_sample_has_its_bits_in_every_batch(case: str, size: int) -> None:
    name, numbers = CASES[case]
    alone, together = (
        functions.LAUNCHED[name](*tensors(name, batch, size, BF16, 1.0), LEVEL, *numbers) for batch in (1, 7)
    )
    assert_bits_equal(alone, together[:1])


def test_a_large_mean_hides_no_deviation() -> None:
    """Sums of squares less the square of a sum would keep no digit of these."""
    x, one, other = torch.zeros(1, 20000), torch.full((1, 20000), 4096.0), torch.full((1, 20000), 4096.0)
    one[0, ::2] += 0.25
    other[0, ::2] += 0.125
    got = norms.rescale(*(t.to(DEVICE) for t in (x, one, other)), 0.0, 1.0, 3.0, 1.0)
    guided = other + 3.0 * (one - other)  # exact, with deviations twice as large
    torch.testing.assert_close(got.cpu(), guided / 2, rtol=1e-6, atol=0.0)


def net(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Products and sums only, and an output that guidance changes in direction."""
    return x * 0.625 - x.flip(-1) * y.to(x.dtype) + 0.25 * y.to(x.dtype)


GUIDANCES = {
    "rescale": Guidance(3.0, rescale=0.7),
    "apg": Guidance(3.0, apg=APG(0.2)),
    "apg with momentum and a threshold": Guidance(3.0, apg=APG(0.0, -0.5, 2.0)),
    "rescale in an interval": Guidance(3.0, interval=(0.3, 0.7), rescale=0.7),
}


def sampler(guidance: Guidance, executor: str, model: Callable[..., Tensor] = net, **kwargs: object) -> Sampler:
    of_denoiser = {k: kwargs.pop(k) for k in ("dtype", "doubles") if k in kwargs}
    denoiser = Denoiser(
        model, "flow", "flow", null={"y": torch.zeros(3, 1, device=DEVICE)}, device=DEVICE, **of_denoiser
    )
    usual = {"solver": "dpmpp_2m", "steps": 4, "guidance": guidance, "dtype": kwargs.pop("state", F32)}
    return Sampler(denoiser, (3, 63), executor=executor, **{**usual, **kwargs})


CONDITION = {"model_kwargs": {"y": torch.full((3, 1), 0.5, device=DEVICE)}}


@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds2"])
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_run_is_that_of_plain_torch(guidance: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    launched = norms._launched
    monkeypatch.setattr(norms, "_launched", lambda *given: calls.append(1) or launched(*given))
    made = sampler(GUIDANCES[guidance], "fused", solver=solver)
    got = made(seed=3, **CONDITION)
    assert len(calls) == sum(len(call.b) > 1 for call in made.plan.evals)
    plain = sampler(GUIDANCES[guidance], "eager", solver=solver)(seed=3, **CONDITION)
    exact = sampler(GUIDANCES[guidance], "eager", solver=solver, state=torch.float64)(seed=3, **CONDITION)
    assert len(calls) == sum(len(call.b) > 1 for call in made.plan.evals)  # of eager there are none
    assert error(got, exact) <= 2 * error(plain, exact)


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_doubled_batch_of_bfloat16_has_the_bits_of_two_calls(guidance: str) -> None:
    results = [
        sampler(GUIDANCES[guidance], "fused", dtype=BF16, doubles=doubles)(seed=3, **CONDITION)
        for doubles in (True, False)
    ]
    assert_bits_equal(*results)


def test_a_sample_too_large_for_one_program_goes_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LARGEST_SAMPLE", 62)
    for guidance in GUIDANCES.values():
        results = [sampler(guidance, executor)(seed=3, **CONDITION) for executor in ("fused", "eager")]
        assert_bits_equal(*results)


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_differentiable_run_is_that_of_eager(guidance: str) -> None:
    """Its bits, and gradients: a launch has none."""
    results = []
    for executor in ("fused", "eager"):
        x = torch.linspace(-1.0, 1.0, 3 * 63, device=DEVICE).view(3, 63).requires_grad_()
        out = sampler(GUIDANCES[guidance], executor)(x_init=x, grad=True, **CONDITION)
        (slope,) = torch.autograd.grad(out.square().sum(), x)
        results.append((out.detach(), slope))
    assert float(results[0][1].abs().sum()) > 0
    for got, want in zip(*results, strict=True):
        assert_bits_equal(got, want)
