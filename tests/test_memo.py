"""Samplers that `sample` keeps beside their model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Denoiser, Draft, Form, Sampler, api, memo, solvers

SHAPE = (2, 5)


def half(x: Tensor, t: Tensor) -> Tensor:
    return x * 0.5


def ask(model: Callable[..., Tensor] | Denoiser, **kwargs: object) -> Tensor:
    usual: dict[str, object] = {"solver": "ddim", "steps": 3}
    if not isinstance(model, Denoiser):
        usual |= {"schedule": "vp", "prediction": "eps"}
    return fastsolve.sample(model, SHAPE, **{**usual, **kwargs})  # type: ignore[arg-type]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Sampler]:
    """The samplers that are made while a test runs."""
    samplers: list[Sampler] = []

    class Counted(Sampler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            samplers.append(self)

    monkeypatch.setattr(api, "Sampler", Counted)
    monkeypatch.setattr(api, "_memo", memo.Memo())
    return samplers


class Model(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * 0.5

    def other(self, x: Tensor, t: Tensor) -> Tensor:
        return x * 0.25


class Equal:
    """All of them are equal and have no hash: what decides is which one it is."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return x * self.factor

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def test_same_question_makes_one_sampler(made: list[Sampler]) -> None:
    for grid in ([0.9, 0.5, 0.0], (0.9, 0.5, 0.0)):
        for seed in range(2):
            ask(half, steps=None, grid=grid, options={"eta": 0.5}, seed=seed)
    assert len(made) == 1


@pytest.mark.parametrize(
    "change",
    [{"steps": 4}, {"solver": "euler"}, {"grid": "karras"}, {"options": {"eta": 1.0}}, {"dtype": torch.float64}]
    + [{"schedule": "ve"}, {"prediction": "x0"}, {"executor": "eager"}, {"graph": "off"}, {"check_finite": True}],
    ids=str,
)
def test_another_question_makes_another(made: list[Sampler], change: dict[str, object]) -> None:
    ask(half)
    changed = ask(half, **change)
    assert len(made) == 2
    usual: dict[str, object] = {"solver": "ddim", "steps": 3, "schedule": "vp", "prediction": "eps"}
    assert_bits_equal(changed, Sampler(half, SHAPE, **{**usual, **change})())  # type: ignore[arg-type]


def test_another_shape_makes_another(made: list[Sampler]) -> None:
    for shape in ((2, 5), (3, 5), [3, 5]):
        fastsolve.sample(half, shape, solver="ddim", steps=3, schedule="vp", prediction="eps")
    assert len(made) == 2


def test_samplers_go_with_their_model(made: list[Sampler]) -> None:
    module, denoiser = Model(), Denoiser(Model(), "vp", "eps")
    for model in (module, module.forward, denoiser):
        ask(model)
        ask(model)
    assert len(made) == 3
    gone = [weakref.ref(module), weakref.ref(denoiser), *map(weakref.ref, made)]
    made.clear()
    del module, denoiser, model
    gc.collect()
    assert [reference() for reference in gone] == [None] * 5


def test_methods_of_one_object_are_told_apart(made: list[Sampler]) -> None:
    model = Model()
    for _ in range(2):
        assert not torch.equal(ask(model.forward), ask(model.other))
    assert len(made) == 2


def test_models_are_told_apart_by_identity(made: list[Sampler]) -> None:
    models = [Equal(0.5), Equal(0.25)]
    for _ in range(2):
        assert not torch.equal(ask(models[0]), ask(models[1]))
    assert len(made) == 2


def test_the_least_recently_used_goes_first(made: list[Sampler]) -> None:
    model = Model()
    for steps in (1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 1):
        ask(model, steps=steps)
    assert len(made) == 9
    ask(model, steps=2)
    assert len(made) == 10


def test_a_name_that_got_another_text_is_another_question(made: list[Sampler], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_registry", dict(solvers._registry))
    for factor in (1.0, 2.0):

        def text(draft: Draft, grid: object, *, factor: float = factor) -> Form:
            """Scales once (nobody, never)."""
            return factor * draft.denoised(grid[0], draft.start)  # type: ignore[index]

        fastsolve.solver("scales", order=1, source="a test")(text)
        result = ask(half, solver="scales", prediction="x0")
        assert_bits_equal(result, factor * ask(half, solver="scales", prediction="x0", options={"factor": 1.0}))


def test_what_cannot_be_kept_is_sampled_all_the_same(made: list[Sampler]) -> None:
    class Slotted:
        __slots__ = ()

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return x * 0.5

    model = Slotted()
    assert_bits_equal(ask(model), ask(model))
    assert len(made) == 2


def test_a_module_that_moved_or_changed_is_asked_anew(made: list[Sampler]) -> None:
    linear = torch.nn.Linear(5, 5)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return linear(x)  # type: ignore[no-any-return]

    before = ask(model)
    with torch.no_grad():
        linear.weight.mul_(0.5)
    assert not torch.equal(ask(model), before)
    linear = torch.nn.Linear(5, 5)
    assert_bits_equal(ask(model), ask(lambda x, t: linear(x)))
