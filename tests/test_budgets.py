"""A batch whose samples have budgets of their own is the batches of each budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Denoiser

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
