"""The problems of the package: denoisers that are exact, laws that are drawn from, and errors that are as large as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import fastsolve
from fastsolve import Denoiser, predictions, schedules
from fastsolve.models import real_digits
from fastsolve.problems import Bias, Flaw, Gaussian, Kernel, Mixture, Problem, Ripple, digits_kernel, flawed
from problems import golden_mixture, plane_mixture, plane_network

POINTS = torch.tensor([[-1.0, 0.3], [0.4, 0.9], [0.5, -0.8]], dtype=torch.float64)
LAWS: dict[str, Problem] = {
    "gaussian": Gaussian(torch.tensor([0.7, -0.2]), torch.tensor([0.35, 0.05]), (2,)),
    "mixture": plane_mixture(),
    "narrow and wide": Mixture(np.array([[-0.4, 0.0], [0.4, 0.1]]), np.array([0.4, 0.6]), np.array([0.08, 0.7])),
    "kernel": Kernel(POINTS, 0.2),
}


def answered(denoiser: Denoiser, y: Tensor, s: float) -> Tensor:
    """The data prediction of a denoiser at y = x / alpha, where sigma / alpha = s."""
    law = schedules.get(denoiser.schedule)
    node = law.at_lam(-math.log(s))
    meaning = predictions.get(denoiser.prediction)
    a, b = meaning.x0(node)
    x = node.alpha * y
    return a * x + b * denoiser(meaning.input_scale(node) * x, torch.full((len(y),), node.t, dtype=torch.float64))


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("s", [0.1, 0.6, 3.0])
def test_the_denoiser_is_the_best_guess_of_what_is_drawn(name: str, s: float) -> None:
    """The error of D(x) is orthogonal to every function of x, and small changes of D make it larger."""
    clean = LAWS[name].draw(200_000, seed=1)
    x = clean + s * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    guess = LAWS[name].x0(x, s)
    for function in (torch.ones_like(x), x, x.sin(), guess, x.flip(1).cos()):
        products = ((clean - guess) * function).flatten()
        assert abs(products.mean()) < 4.0 * products.std() / math.sqrt(len(products) / 2)
    # At a few states, by the weights that all draws of the data have there: nothing of the closed form is used.
    for at, answer in zip(x[:6], guess[:6], strict=True):
        weights = (-(clean - at).square().sum(1) / (2 * s * s)).softmax(0)
        mean = weights @ clean
        error = (weights.square() @ (clean - mean).square()).sqrt()
        assert ((mean - answer).abs() < 4.0 * error + 1e-9).all()
    losses = [float((clean - c * guess - shift).square().mean()) for c, shift in ((1, 0), (1.05, 0), (1, 0.05 * s))]
    assert losses[0] == min(losses)


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
def test_the_plane_in_numpy_is_the_plane(schedule: str) -> None:
    x = 2.0 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s in (0.15, 0.6, 3.0):
        t = torch.full((50,), schedules.get(schedule).at_lam(-math.log(s)).t, dtype=torch.float64)
        expected = plane_mixture().model(schedule)(x, t)
        torch.testing.assert_close(plane_network(schedule)(x, t), expected, rtol=1e-13, atol=1e-13)


def test_a_kernel_is_a_mixture_of_its_points() -> None:
    same = Mixture(POINTS.numpy(), torch.full((3,), 1 / 3).numpy(), torch.full((3,), 0.2).numpy())
    x = 2.0 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s in (1e-3, 0.1, 1.0, 80.0):
        torch.testing.assert_close(LAWS["kernel"].x0(x, s), same.x0(x, s), rtol=1e-6, atol=1e-9)  # float32 thirds


def test_a_kernel_has_a_bandwidth() -> None:
    with pytest.raises(ValueError, match="bandwidth must be positive, not 0"):
        Kernel(POINTS, 0)


def test_the_digits_learnt_by_heart() -> None:
    images = real_digits()[0]
    law = digits_kernel()
    assert law.shape == (1, 8, 8)
    away = torch.cdist(law.draw(500).flatten(1), images.double().flatten(1)).amin(1)
    assert away.square().mean().sqrt() == pytest.approx(8 * 0.1, rel=0.05)
    near = images[:5].double() + 0.05
    torch.testing.assert_close(law.x0(near, 1e-3), near, rtol=0, atol=1e-3)
    torch.testing.assert_close(law.x0(1e4 * near, 1e4)[0], images.double().mean(0), rtol=0, atol=0.6)


@pytest.mark.parametrize("schedule", ["edm", "ve", "vp", "vp_cosine", "vp_scaled_linear", "sub_vp", "flow"])
@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "flow", "score", "edm"])
def test_denoisers_say_one_thing_in_every_schedule_and_prediction(schedule: str, prediction: str) -> None:
    denoiser = golden_mixture().denoiser(schedule, prediction)
    y = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(answered(denoiser, y, 0.8), golden_mixture().x0(y, 0.8), rtol=1e-9, atol=1e-9)


def test_a_denoiser_states_everything() -> None:
    drawn = fastsolve.sample(plane_mixture().denoiser("vp"), (64, 2), solver="dpmpp_2m", nfe=30)
    assert drawn.dtype == torch.float32
    assert drawn.std(0).tolist() == pytest.approx(plane_mixture().draw(100_000).std(0).tolist(), rel=0.25)


FLAWS = {"bias": Bias(0.03), "ripple": Ripple(0.1, seed=5), "early": Bias(0.1, above=1.0)}


@pytest.mark.parametrize("name", FLAWS)
@pytest.mark.parametrize(("schedule", "prediction"), [("edm", "edm"), ("vp", "eps"), ("flow", "flow")])
def test_an_error_is_as_large_as_it_says(name: str, schedule: str, prediction: str) -> None:
    exact, flaw = golden_mixture().denoiser(schedule, prediction), FLAWS[name]
    y = torch.randn(2000, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for s in (0.05, 1.0, 20.0):
        off = answered(flawed(exact, flaw), (1 + s) * y, s) - answered(exact, (1 + s) * y, s)
        early = s**4 / (s**4 + flaw.above**4)
        assert float(off.square().mean().sqrt()) == pytest.approx(flaw.size * s * early, rel=0.03)
        if name == "ripple":
            assert float(off.mean().abs()) < 0.2 * flaw.size * s
        else:
            torch.testing.assert_close(off, torch.full_like(off, flaw.size * s * early), rtol=1e-6, atol=1e-9)


def test_a_ripple_is_smooth_and_its_own() -> None:
    """Neighbours are wrong alike, and another seed is another field."""
    y = torch.randn(100, 48, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    s = torch.ones(100, 1, dtype=torch.float64)
    first, moved, other = Ripple(1.0)(y, s), Ripple(1.0)(y + 0.01, s), Ripple(1.0, seed=1)(y, s)
    assert float((first - moved).square().mean().sqrt()) < 0.05
    assert float((first - other).square().mean().sqrt()) > 1.0


def test_a_flawed_network_keeps_what_it_is_told() -> None:
    model = fastsolve.models.digits()
    spoilt = flawed(model, Bias(0.2))
    assert (spoilt.shape, spoilt.schedule, spoilt.prediction) == (model.shape, model.schedule, model.prediction)
    three, plain = (
        fastsolve.sample(d, (8, 1, 8, 8), solver="dpmpp_2m", nfe=12, model_kwargs={"class_labels": torch.full((8,), 3)})
        for d in (spoilt, model)
    )
    assert float((three - plain).mean()) > 0.05


def test_what_is_no_error_and_where_none_is_finite() -> None:
    with pytest.raises(TypeError, match=r"flaw must be a Bias, a Ripple or another Flaw, not 0\.1"):
        flawed(plane_mixture().denoiser(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no data prediction at alpha = 0"):
        fastsolve.sample(flawed(plane_mixture().denoiser("flow"), Bias(0.1)), (2, 2), solver="ddim", nfe=4)
    assert issubclass(Bias, Flaw)
