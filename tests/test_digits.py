"""The packaged digits model: states all a sampler needs, denoises digits it never saw, and draws the digit it is asked for."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.svm import SVC

import fastsolve
from fastsolve.models import NULL_CLASS, SIGMA_DATA, WEIGHTS, digits, real_digits, split_digits
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
    assert WEIGHTS.stat().st_size <= 2_000_000


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
