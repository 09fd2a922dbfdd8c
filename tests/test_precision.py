"""Low precision: what a half-precision model is told and given, and where it fails by its own fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastsolve
from catalogue import EXECUTORS
from fastsolve import Denoiser, grids, predictions, schedules
from problems import Gaussian

HALVES = [torch.bfloat16, torch.float16]
FAR = {"edm": schedules.EDM(), "ve to 4096": schedules.VE(sigma_min=0.02, sigma_max=4096.0)}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_half_precision_model_is_told_its_timesteps_in_float32(dtype: torch.dtype, executor: str) -> None:
    levels = (999.0, 750.0, 749.5, 333.25, 1.0, -1.0)
    told: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype is dtype
        told.append(t.clone())
        return 0.5 * x

    denoiser = Denoiser(model, "vp_scaled_linear", "v", dtype=dtype)
    fastsolve.sample(denoiser, (2, 3), solver="dpmpp_2m_sde", grid=levels, executor=executor)
    assert all(t.dtype is torch.float32 for t in told)
    assert [t.tolist() for t in told] == [[level] * 2 for level in levels[:-1]]
    assert torch.tensor(750.0).to(torch.bfloat16).item() == 752.0  # the trap that this is about


def scaled(law: schedules.VE, seen: list[Tensor], shape: tuple[int, ...] = (5,)) -> Denoiser:
    """A float16 network inside EDM's preconditioning, of Gaussian data, given c_in x; computed from what float16 left of it."""
    outer = Gaussian(shape=shape).model(law, "edm")

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.clone())
        scale = (t.double() ** 2 + 0.25).sqrt().view(-1, *[1] * (x.dim() - 1))
        return outer(x.double() * scale, t).to(x.dtype)

    return Denoiser(network, law, predictions.EDM(0.5, scaled_input=True), dtype=torch.float16)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", ["seeds3", "heun", "dpmpp_2m", "ddim"])
@pytest.mark.parametrize("name", FAR)
def test_the_scaled_input_keeps_float16_from_overflow(name: str, solver: str, executor: str) -> None:
    law, seen = FAR[name], list[Tensor]()
    options = {"check_finite": True, "solver": solver, "grid": grids.Karras(), "steps": 12, "seed": 3}
    half = fastsolve.sample(scaled(law, seen), (64, 5), executor=executor, **options)
    assert max(float(x.abs().max()) for x in seen) < 6.0
    exact = fastsolve.sample(
        Denoiser(Gaussian().model(law), law, "x0"), (64, 5), dtype=torch.float64, executor="eager", **options
    )
    # A network's rounding, 2^-11 of an output of about 1, scaled by sigma_data, in each of some calls that count.
    assert float((half - exact).abs().max()) < 4 * 2.0**-11


def test_without_it_float16_overflows_and_the_call_is_named() -> None:
    law = schedules.VE(sigma_max=2.0**15)
    model = Denoiser(Gaussian().model(law, "x0"), law, "x0", dtype=torch.float16)
    far = {"solver": "ddim", "grid": grids.Karras(), "steps": 4, "check_finite": True}
    with pytest.raises(ValueError, match=r"model call 1 of 4 \(t = 32768\) returned NaN or infinite values"):
        fastsolve.sample(model, (64, 50), **far)
    seen: list[Tensor] = []
    assert fastsolve.sample(scaled(law, seen), (64, 5), **far).isfinite().all()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", ["ddim", "seeds3", "unipc"])
def test_float32_holds_a_start_at_sigma_4096(solver: str, executor: str) -> None:
    law = FAR["ve to 4096"]
    given = {"solver": solver, "grid": grids.Karras(), "steps": 12, "seed": 3}
    model = Denoiser(Gaussian().model(law, "edm"), law, "edm")
    single = fastsolve.sample(model, (64, 5), executor=executor, **given)
    other = Denoiser(Gaussian().model(law), law, "x0")
    exact = fastsolve.sample(other, (64, 5), dtype=torch.float64, executor="eager", **given)
    assert float((single - exact).abs().max()) < 2e-5


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("wrong", [2, 5, 8])
def test_a_nan_is_named_with_its_call_in_any_stage_and_branch(wrong: int, executor: str) -> None:
    made: list[float] = []

    def model(x: Tensor, t: Tensor, shift: float = 0.1) -> Tensor:
        made.append(float(t[0]))
        return torch.full_like(x, float("nan")) if len(made) == wrong else 0.5 * x + shift

    guided = Denoiser(
        model, "vp", "eps", null={"shift": 0.0}
    )  # heun: 5 calls, each of a conditional and an unconditional
    with pytest.raises(ValueError) as error:
        fastsolve.sample(guided, (2, 3), solver="heun", steps=3, guidance=2.0, check_finite=True, executor=executor)
    call = (wrong + 1) // 2
    assert str(error.value) == f"model call {call} of 5 (t = {made[-1]:g}) returned NaN or infinite values"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_nobody_looks_for_nan_unasked(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[None] = []
    isfinite = Tensor.isfinite
    monkeypatch.setattr(Tensor, "isfinite", lambda x: (looked.append(None), isfinite(x))[1])
    for check, calls in ((False, 0), (True, 4)):
        model = Denoiser(lambda x, t: 0.5 * x, "vp", "eps")
        fastsolve.sample(model, (2, 3), solver="ddim", steps=4, check_finite=check, executor=executor)
        assert len(looked) == calls
