"""A batch whose samples have budgets of their own is the batches of each budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import EXECUTORS
from fastsolve import Denoiser, Sampler

N = 6


class Net(torch.nn.Module):
    """A network with a condition; keeps the batches it was called on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0.4 * torch.randn(N, N, generator=torch.Generator().manual_seed(0))
        self.calls: list[int] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor, more: dict[str, Tensor]) -> Tensor:
        self.calls.append(len(x))
        assert len(y) == len(more["a"]) == len(x)
        return torch.tanh(x @ self.weight) * 0.5 + y + more["a"]


@pytest.mark.parametrize("name", ["steps", "nfe"])
def test_each_sample_is_that_of_a_batch_of_its_budget(name: str) -> None:
    net = Net()
    y, more = torch.linspace(-1, 1, 5 * N).reshape(5, N), {"a": torch.randn(5, N)}
    denoiser = Denoiser(net, "flow", "flow", shape=(N,), null={"y": torch.zeros(5, N)})
    given = {
        "solver": "dpmpp_2m_sde",
        "seed": 3,
        "guidance": [1.0, 2.0, 3.0, 4.0, 5.0],
        "x0_init": -y,
        "grid": "uniform",
    }
    given |= {"model_kwargs": {"y": y, "more": more}, "inpaint": (torch.tensor([1.0] * 4 + [0.0] * 2), y)}
    budgets = [4, 9, 4, 6, 9]
    out = fastsolve.sample(denoiser, (5, N), executor="eager", **{name: budgets}, **given)
    calls = list(net.calls)
    for budget in (4, 6, 9):
        whole = fastsolve.sample(denoiser, (5, N), executor="eager", **{name: budget}, **given)
        for i in range(5):
            if budgets[i] == budget:
                torch.testing.assert_close(out[i], whole[i], rtol=1e-5, atol=1e-5)
    assert sum(calls) == 2 * sum(budgets)  # nobody waits for another
    assert set(calls) == {2, 1}


@pytest.mark.parametrize("kind", ["inpaint", "overwrite"])
def test_a_mask_as_long_as_the_batch_is_one_for_all(kind: str) -> None:
    """[3] broadcasts to the last dimension of [3, 3], in a part of the batch as in the whole."""

    def sampled(steps: object) -> Tensor:
        pair = torch.tensor([0.3, 0.0, 1.0]), torch.tensor([5.0, 6.0, 7.0])
        asked = {"schedule": "flow", "prediction": "flow", "solver": "ddim", "seed": [1, 2, 3], "executor": "eager"}
        return fastsolve.sample(lambda x, t: 0.5 * x, (3, 3), steps=steps, **{kind: pair}, **asked)

    mixed = sampled([3, 4, 4])
    for i, steps in enumerate((3, 4, 4)):
        assert_bits_equal(mixed[i], sampled(steps)[i])


def test_seeds_of_each_sample_go_with_it() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x

    asked = {"schedule": "flow", "prediction": "flow", "solver": "seeds2", "seed": [7, 8, 9]}
    mixed = fastsolve.sample(net, (3, N), steps=[4, 6, 4], **asked)
    for steps, places in ((4, [0, 2]), (6, [1])):
        assert_bits_equal(mixed[places], fastsolve.sample(net, (3, N), steps=steps, **asked)[places])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": [3, 4]}, "2 entries, one per sample"),
        ({"steps": [3, 4, 5], "callback": print}, "callback cannot go with steps"),
        ({"nfe": [3, 4, 5], "x_init": torch.zeros(3, N)}, "x_init cannot go with nfe"),
        ({"nfe": [3, 4, 0]}, "at least 1"),
    ],
)
def test_refuses(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fastsolve.sample(lambda x, t: x, (3, N), schedule="flow", prediction="flow", solver="ddim", **given)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds3", "heun", "unipc"])
def test_every_sample_has_its_levels(solver: str, executor: str) -> None:
    """Grids of equal length: each sample is that of its own grid, and the model is told the level of each."""
    grids = [(0.95, 0.7, 0.45, 0.2, 0.0), (0.8, 0.5, 0.3, 0.1, 0.0), (0.95, 0.5, 0.4, 0.05, 0.0)]
    told: list[Tensor] = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.clone())
        return torch.sin(x) + t[:, None]

    def sampler(grid: object) -> Sampler:
        return Sampler(net, (3, N), schedule="flow", prediction="flow", solver=solver, executor=executor, grid=grid)

    mixed = sampler(grids)
    out = mixed(seed=4)
    levels = list(told)
    assert [t.tolist() for t in levels] == [
        pytest.approx([plan.evals[i].t for plan in mixed.plans]) for i in range(mixed.plan.nfe)
    ]
    for i, grid in enumerate(grids):
        assert_bits_equal(out[i], sampler([grid] * 3)(seed=4)[i])
        torch.testing.assert_close(out[i], sampler(grid)(seed=4)[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([(0.9, 0.5, 0.0), (0.9, 0.0), (0.9, 0.5, 0.0)], "differ in numbers only"),
        ([(0.9, 0.5, 0.0)] * 2, "one per sample, and the batch is 3"),
    ],
)
def test_grids_that_cannot_be_one_batch_are_refused(grid: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampler(lambda x, t: x, (3, N), schedule="flow", prediction="flow", solver="ddim", grid=grid)
