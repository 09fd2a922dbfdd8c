"""Runs that are seen: callbacks, waiting, early ends; nothing of it changes a bit of the result."""

from __future__ import annotations

import dataclasses
import gc
import math
import weakref

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import EXECUTORS
from fastsolve import Denoiser, Sampler, Step, make_plan, solvers
from fastsolve.draft import Draft
from fastsolve.forms import Form
from fastsolve.schedules import Node

SOLVERS = [
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "heun",
    "seeds3",
    "sa_solver",
    "unipc",
    "tada",
    "restart",
    "euler_cfg_pp",
]
SHAPE = (3, 2, 5)


class Net(torch.nn.Module):
    """A network that keeps what it was called on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, float]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x.clone(), t[0].item()))
        return torch.sin(x) * 0.5 + t[:, None, None]


def sampler(net: torch.nn.Module, **kwargs: object) -> Sampler:
    denoiser = Denoiser(net, "vp", "eps", **{k: kwargs.pop(k) for k in ("dtype", "reuses_output") if k in kwargs})
    return Sampler(denoiser, SHAPE, **{"solver": "dpmpp_2m", "steps": 6, **kwargs})


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_seen_is_what_the_model_saw_and_said(solver: str, executor: str) -> None:
    net, plain = Net(), Net()
    made, steps = sampler(net, solver=solver, executor=executor), list[Step]()
    got = made(
        seed=4, at="call", callback=lambda step: steps.append(step._replace(x=step.x.clone(), x0=step.x0.clone()))
    )
    assert_bits_equal(got, sampler(plain, solver=solver, executor=executor)(seed=4))
    assert [step.index for step in steps] == list(range(made.plan.nfe))
    for step, (x, t), call in zip(steps, net.seen, made.plan.evals, strict=True):
        assert_bits_equal(step.x, x)
        assert step.node.t == pytest.approx(t)
        assert step.node == (call.t, call.alpha, call.sigma, pytest.approx(math.log(call.alpha / call.sigma)))
        raw = torch.sin(x) * 0.5 + t
        torch.testing.assert_close(step.x0, call.a * x + call.b[0] * raw, rtol=1e-4, atol=1e-4 * abs(call.a))
        assert step.sampler is made


@pytest.mark.parametrize("solver", SOLVERS)
def test_waiting_changes_no_bit(solver: str) -> None:
    """Two runs of one sampler that wait for each other, and a whole one between."""
    made = sampler(Net(), solver=solver)
    want = [made(seed=seed) for seed in (1, 2)]
    runs = [made.iterate(seed=seed, at="call") for seed in (1, 2)]
    for _ in range(made.plan.nfe - 1):
        for run in runs:
            next(run)
        assert_bits_equal(made(seed=1), want[0])
    for run, whole in zip(runs, want, strict=True):
        assert_bits_equal(run.finish(), whole)
        assert_bits_equal(run.finish(), whole)


def test_steps_are_the_levels_of_the_grid() -> None:
    for solver, calls in (("ddim", 6), ("heun", 11), ("seeds3", 16), ("restart", None)):
        made = sampler(Net(), solver=solver)
        steps = made.iterate().kept()
        assert [step.index for step in steps] == list(range(len(steps)))
        if calls is not None:
            assert made.plan.nfe == calls
            assert [step.node.t for step in steps] == [t for t, _, _ in made.plan.levels[:-1]]
    heun = make_plan("heun", schedule="vp", steps=3)
    assert heun.steps == (0, 2, 4)


def test_calls_with_one_launch_after_them_are_all_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def text(draft: Draft, grid: tuple[Node, ...]) -> Form:
        """Two predictions of one state."""
        d = [draft.denoised(node, draft.start) for node in grid[:2]]
        return grid[-1].alpha * (0.5 * d[0] + 0.5 * d[1]) + grid[-1].sigma * draft.start

    monkeypatch.setitem(solvers._registry, "both", dataclasses.replace(solvers.get("ddim"), name="both", text=text))
    net = Net()
    made = sampler(net, solver="both", grid=(1.0, 0.5, 0.0), steps=None)
    steps = made.iterate(seed=1, at="call").kept()
    assert [(step.index, step.node.t) for step in steps] == [(0, 1.0), (1, 0.5)]
    for step, (x, t), call in zip(steps, net.seen, made.plan.evals, strict=True):
        assert_bits_equal(step.x, x)
        raw = torch.sin(x) * 0.5 + t
        torch.testing.assert_close(step.x0, call.a * x + call.b[0] * raw, rtol=1e-4, atol=1e-4 * abs(call.a))
    assert_bits_equal(made.iterate(seed=1, at="call").finish(), made(seed=1))


def test_chosen_calls_are_seen() -> None:
    assert [step.index for step in sampler(Net()).iterate(at=[4, 1]).kept()] == [1, 4]


def test_a_run_ends_early_with_what_was_seen() -> None:
    net = Net()
    made, steps = sampler(net), list[Step]()

    def callback(step: Step) -> bool:
        steps.append(step._replace(x0=step.x0.clone()))
        return step.index < 2

    assert_bits_equal(made(seed=3, callback=callback), steps[2].x0)
    assert len(net.seen) == len(steps) == 3
    assert_bits_equal(made(seed=3), sampler(Net())(seed=3))


def test_an_error_of_a_callback_leaves_nothing_behind() -> None:
    made = sampler(Net(), solver="seeds3")
    want = made(seed=3)

    def callback(step: Step) -> None:
        raise KeyError("enough")

    for _ in range(2):
        with pytest.raises(KeyError, match="enough"):
            made(seed=9, callback=callback)
        assert_bits_equal(made(seed=3), want)
    assert sum(map(len, made._pool._runs.values())) == 2  # one for each way to look


def test_a_run_that_is_dropped_gives_its_buffers_back() -> None:
    made = sampler(Net())
    run = made.iterate(seed=1)
    first = next(run)
    held = weakref.ref(first.x)
    del run, first
    gc.collect()
    assert held() is not None  # on the shelf, for the next run
    again = made.iterate(seed=1)
    assert next(again).x is held()
    again.close()
    with pytest.raises(RuntimeError, match="no result"):
        again.finish()


def test_nothing_is_held_for_those_who_do_not_look() -> None:
    made = sampler(Net(), solver="seeds3")
    made(seed=1)
    made.iterate(seed=1, at="call").finish()
    quiet, seen = (made.program("", False, "", calls) for calls in ((), tuple(range(made.plan.nfe))))
    assert sum(slot.kind == "state" for slot in quiet.slots) < sum(slot.kind == "state" for slot in seen.slots)
    assert len(quiet.launches) == len(seen.launches)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_and_modes_of_the_caller_stay(executor: str) -> None:
    made = sampler(Net(), executor=executor)
    for _ in made.iterate():
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        kept = made.iterate(seed=1)
        next(kept)
        assert torch.is_inference_mode_enabled()
    assert_bits_equal(kept.finish(), made(seed=1))


def test_a_bar_and_a_callback_together(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    seen = list[int]()
    sampler(Net())(callback=lambda step: seen.append(step.index), progress=True)
    assert seen == list(range(6))
    assert "6/6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"at": "steps"}, "'step', at 'call'"),
        ({"at": [6]}, "between 0 and 5"),
        ({"at": [-1]}, "between 0 and 5"),
        ({"at": [1.0]}, "between 0 and 5"),
        ({"at": [True]}, "between 0 and 5"),
        ({"at": 3}, "between 0 and 5"),
        ({"at": None}, "between 0 and 5"),
        ({"sed": 1}, "nearest is 'seed'"),
    ],
)
def test_refuses_before_the_model_is_called(given: dict[str, object], said: str) -> None:
    net = Net()
    with pytest.raises((ValueError, TypeError), match=said):
        sampler(net).iterate(**given)
    assert not net.seen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"callback": 3}, "int is not callable"),
        ({"callback": print, "return_logprob": True}, "goes without callback"),
    ],
)
def test_refuses_a_callback_before_the_model_is_called(given: dict[str, object], said: str) -> None:
    net = Net()
    with pytest.raises((ValueError, TypeError), match=said):
        sampler(net, solver="ddim", options={"eta": 1.0})(**given)
    assert not net.seen


def test_sample_takes_a_callback() -> None:
    seen = list[int]()
    net = Net()
    denoiser = Denoiser(net, "vp", "eps", shape=SHAPE[1:])
    out = fastsolve.sample(
        denoiser, SHAPE, solver="dpmpp_2m", steps=6, at="call", callback=lambda s: seen.append(s.index)
    )
    assert seen == list(range(6))
    assert_bits_equal(out, fastsolve.sample(denoiser, SHAPE, solver="dpmpp_2m", steps=6))
