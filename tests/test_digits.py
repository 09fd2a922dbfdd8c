"""The packaged digits model: states all a sampler needs, denoises digits it never saw, and draws the digit it is asked for."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from sklearn.svm import SVC

import fastsolve
from fastsolve import schedules
from fastsolve.models import (
    EARLY,
    NULL_CLASS,
    SIGMA_DATA,
    WEIGHTS,
    digits,
    digits_early,
    real_digits,
    split_digits,
)
from fastsolve.models.digits_net import DigitsNet
from fastsolve.models.train_digits import losses_per_level

# Measured with the shipped weights, plus about 5 %.
BOUNDS = {0.01: 0.62, 0.03: 0.54, 0.1: 0.435, 0.3: 0.282, 1.0: 0.243, 3.0: 0.316, 10.0: 0.335}


def network() -> DigitsNet:
    net = digits().model
    assert isinstance(net, DigitsNet)
    return net


def test_real_digits_are_scaled_and_split_for_good() -> None:
    images, _ = real_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert [images.min(), images.max()] == [-1, 1]
    assert images.std().item() == pytest.approx(SIGMA_DATA, abs=0.005)
    train, _, held, held_labels = split_digits()
    assert [len(train), len(held)] == [1500, 297]
    assert set(held_labels.bincount().tolist()) <= set(range(28, 32))
    assert torch.equal(torch.cat([train, held]).sum(0), images.sum(0))


def test_weights_are_small() -> None:
    assert max(path.stat().st_size for path in (WEIGHTS, EARLY)) <= 2_000_000


def test_the_denoiser_states_everything() -> None:
    model = digits()
    assert model.shape == (1, 8, 8)
    assert model.dtype == torch.float32
    assert fastsolve.sample(model).shape == (1, 1, 8, 8)
    net = network()
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


def test_no_label_is_the_null_class_and_labels_matter() -> None:
    net, x, sigma = network(), real_digits()[0][:4], torch.full((4,), 2.0)
    bare = net(x, sigma)
    assert bare.isfinite().all()
    torch.testing.assert_close(bare, net(x, sigma, torch.full((4,), NULL_CLASS)), rtol=0, atol=0)
    assert (net(x, sigma, torch.full((4,), 3)) - bare).abs().max() > 0.05


def test_held_out_loss() -> None:
    _, _, images, labels = split_digits()
    losses = losses_per_level(network(), images, labels, repeats=2)
    assert {s: loss for s, loss in losses.items() if loss > BOUNDS[s]} == {}


def test_the_early_network_is_worse_at_every_level_and_no_ruin() -> None:
    _, _, images, labels = split_digits()
    early = digits_early().model
    assert isinstance(early, DigitsNet)
    losses, trained = (losses_per_level(net, images, labels, repeats=2) for net in (early, network()))
    assert all(1.03 * trained[s] < losses[s] < 0.9 for s in losses)


@pytest.mark.parametrize("schedule", ["vp", "vp_scaled_linear", "flow"])
def test_the_network_in_another_clock_walks_the_same_path(schedule: str) -> None:
    """ddim between the same levels of sigma / alpha, from the same noise: scaled by alpha, it is the same."""
    law, own = schedules.get(schedule), digits()
    labels = {"class_labels": torch.arange(4)}
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = [14.0, 6.0, 3.0, 1.0, 0.3, 0.1, 0.03]
    nodes = [law.at_lam(-math.log(s)) for s in sigmas]
    here = fastsolve.sample(
        own, x_init=14.0 * noise, solver="ddim", grid=[n.sigma / n.alpha for n in nodes], model_kwargs=labels
    )
    there = fastsolve.sample(
        digits(schedule=schedule),
        x_init=14.0 * nodes[0].alpha * noise,
        solver="ddim",
        grid=[n.t for n in nodes],
        model_kwargs=labels,
    )
    torch.testing.assert_close(there / nodes[-1].alpha, here, rtol=0, atol=1e-4)


def test_pure_noise_is_a_level_of_the_network_too() -> None:
    drawn = fastsolve.sample(digits(schedule="flow"), (50, 1, 8, 8), solver="dpmpp_2m", nfe=20)
    assert drawn.mean().item() == pytest.approx(real_digits()[0].mean().item(), abs=0.06)
    assert drawn.std().item() == pytest.approx(SIGMA_DATA, abs=0.06)


def test_a_classifier_reads_the_digits_that_were_asked_for() -> None:
    images, labels, _, _ = split_digits()
    reader = SVC(gamma=0.064).fit(images.flatten(1).numpy(), labels.numpy())
    asked = torch.arange(200) % 10
    drawn = fastsolve.sample(digits(), (200, 1, 8, 8), seed=0, model_kwargs={"class_labels": asked})
    assert reader.score(drawn.flatten(1).numpy(), asked.numpy()) > 0.9


def test_missing_safetensors_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"fastsolve\[models\]"):
        digits()


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"fastsolve\[demo\]"):
        real_digits()
