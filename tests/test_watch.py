"""What a watch of a model sees: what a graph captured now would not follow."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from fastsolve.executors.watch import Watch


class Subclass(torch.nn.Parameter):
    pass


def pair() -> TwoTensor:
    return TwoTensor(torch.rand(5), torch.rand(5))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(5, 5))
        self.special = Subclass(torch.rand(5))
        self.register_buffer("pair", pair())
        self.register_buffer("sparse", torch.eye(5).to_sparse())
        self.register_buffer("rows", torch.eye(5).to_sparse_csr())
        self.table = torch.rand(5)
        self.inner = torch.nn.Linear(5, 5)
        self.inner.table = torch.rand(5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * 0.5


CHANGES: dict[str, Callable[[Net], object]] = {
    "fewer elements of the same memory": lambda net: setattr(net.weight, "data", net.weight.data[:1]),
    "other strides in the same memory": lambda net: setattr(net.weight, "data", net.weight.data.t()),
    "the memory of a class of its own": lambda net: setattr(net.special, "data", net.special.data + 1),
    "what is inside a tensor": lambda net: setattr(net.pair, "a", torch.rand(5)),
    "all that is inside a tensor": lambda net: torch.utils.swap_tensors(net.pair, pair()),
    "a sparse tensor in place": lambda net: net.sparse.copy_(torch.ones(5, 5).to_sparse()),
    "a tensor that is no buffer": lambda net: setattr(net, "table", net.table + 1),
    "one of a submodule": lambda net: setattr(net.inner, "table", net.inner.table + 1),
    "its memory": lambda net: setattr(net.table, "data", net.table.data + 1),
    "training mode": lambda net: net.train(False),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_change_is_seen(change: str) -> None:
    net = Net()
    watch = Watch(net)
    assert watch.holds()
    CHANGES[change](net)
    assert not watch.holds()
    assert Watch(net).holds()


def test_a_module_that_its_first_call_completes() -> None:
    net = torch.nn.LazyLinear(5)
    before = Watch(net)
    assert before.holds()
    net(torch.zeros(2, 3))
    assert not before.holds()


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_of_torchscript(how: str) -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 5, bias=False))
    net = torch.jit.script(inner) if how == "script" else torch.jit.trace(inner, torch.zeros(2, 5))
    watch = Watch(net)
    gc.collect()
    assert watch.holds()
    with torch.no_grad():
        next(net.parameters()).add_(1.0)
    assert watch.holds()
    next(net.parameters()).data = torch.zeros(5, 5)
    assert not watch.holds()
    watch = Watch(net)
    net.train(False)
    assert not watch.holds()


SCALE = 0.5


def test_variables_of_inner_functions_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        return sum(SCALE * part for part in x)  # type: ignore[return-value]

    watch = Watch(model)
    monkeypatch.setitem(globals(), "SCALE", 0.25)
    assert not watch.holds()


class Owner:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return x * 0.5


@pytest.mark.parametrize("how", ["list", "dict", "attribute"])
def test_modules_are_found(how: str) -> None:
    net = Net()
    listed, named = [0.5, net], {"net": net}
    models: dict[str, Callable[..., Tensor]] = {
        "list": lambda x, t: listed[1](x, t),  # type: ignore[operator]
        "dict": lambda x, t: named["net"](x, t),
        "attribute": Owner(nets=(net,)),
    }
    watch = Watch(models[how])
    assert watch.holds()
    net.weight.data = net.weight.data + 1
    assert not watch.holds()
    watch = Watch(models[how])
    listed[1] = named["net"] = Net()
    assert watch.holds() == (how == "attribute")


def patched() -> Net:
    """As hooks of other libraries do."""
    net, forward = Net(), Net.forward
    net.forward = lambda x, t: forward(net, x, t) * 0.5  # type: ignore[method-assign]
    return net


class Policy:
    def __init__(self) -> None:
        self.net, self.call = torch.zeros(5), self.denoise

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return x * 0.5

    __call__ = denoise


def counting() -> Callable[..., Tensor]:
    def model(x: Tensor, t: Tensor) -> Tensor:
        model.calls += 1  # type: ignore[attr-defined]
        return x * 0.5

    model.calls = 0  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize("make", [Net, patched, Policy, counting])
def test_a_watch_does_not_hold_the_model(make: Callable[[], object]) -> None:
    model = make()
    watch, gone = Watch(model), weakref.ref(model)
    assert watch.holds()
    del model
    gc.collect()
    assert gone() is None
