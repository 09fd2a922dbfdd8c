"""A run with its model as one graph: replayed with new numbers, never stale. On a GPU these are CUDA graphs, elsewhere emulated ones."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from catalogue import SOLVERS, needs_native
from emulated_graph import EmulatedRecorder, Recorded
from fastsolve import Denoiser, Sampler, executors
from fastsolve.executors.graph import Graph
from fastsolve.executors.watch import Watch

SHAPE = (2, 3, 5)


@dataclass
class Place:
    """Where the tests run, and every graph that was recorded there."""

    device: str
    recorded: list[Graph]

    def sampler(
        self, model: Callable[..., Tensor] | Denoiser, shape: tuple[int, ...] = SHAPE, **kwargs: object
    ) -> Sampler:
        usual: dict[str, object] = {"solver": "dpmpp_2m_sde", "steps": 4, "device": self.device}
        if not isinstance(model, Denoiser):
            usual |= {"schedule": "vp", "prediction": "eps"}
        return Sampler(model, shape, **{**usual, **kwargs})  # type: ignore[arg-type]

    def tensor(self, *values: float) -> Tensor:
        return torch.tensor(values, device=self.device)


@pytest.fixture(params=[pytest.param("cpu", marks=needs_native), pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    recorded: list[Graph] = []
    if request.param == "cpu":
        made = executors.backend
        monkeypatch.setattr(executors, "_no_graph", lambda name, setting: None)
        monkeypatch.setattr(executors, "CudaRecorder", EmulatedRecorder)
        monkeypatch.setattr(executors, "backend", lambda *args: Recorded(made(*args), args[-1]))
    cls = executors.CudaRecorder
    record = cls.record

    def counted(self: object, parts: Sequence[Callable[[], object]]) -> list[Graph]:
        made = record(self, parts)
        recorded.extend(made)
        return made

    monkeypatch.setattr(cls, "record", counted)
    return Place(request.param, recorded)


class Net(torch.nn.Module):
    """A small network with a parameter, a buffer and a submodule; a record of its calls."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((5,), 0.6, device=device))
        self.register_buffer("shift", torch.full((5,), -0.2, device=device))
        self.inner = torch.nn.Linear(5, 5, device=device)
        with torch.no_grad():
            self.inner.weight.copy_(torch.eye(5) * 0.5)
            self.inner.bias.fill_(0.125)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, gain: float = 1.0) -> Tensor:
        self.calls += 1
        out = self.inner(x) * self.scale + self.shift + t[:, None, None] * 0.25
        return out * gain if y is None else out * gain + y[:, None, None]


def by_launches(place: Place, model: Callable[..., Tensor], **kwargs: object) -> Callable[..., Tensor]:
    return place.sampler(model, graph="off", **kwargs)


@pytest.mark.parametrize("solver", SOLVERS)
def test_replay_is_the_run(place: Place, solver: str) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, solver=solver), by_launches(place, net, solver=solver)
    for seed in (3, 4, 5, 6):
        assert_bits_equal(sampler(seed=seed), plain(seed=seed))
    assert len(place.recorded) == 1
    calls = net.calls
    sampler(seed=7)
    assert net.calls == calls  # one launch, and no Python of the model


def test_first_call_warms_up_and_the_second_records(place: Place) -> None:
    sampler = place.sampler(Net(place.device))
    assert "one launch per sample, captured in the second call" in str(sampler)
    sampler()
    assert not place.recorded
    sampler()
    assert len(place.recorded) == 1
    assert "one launch per sample (1 captured)" in str(sampler)


def test_required_graph_is_recorded_in_the_first_call(place: Place) -> None:
    net = Net(place.device)
    sampler = place.sampler(net, graph="require")
    assert_bits_equal(sampler(seed=2), by_launches(place, net)(seed=2))
    assert len(place.recorded) == 1


def test_every_sample_has_its_seed(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, graph="require"), by_launches(place, net)
    for seed in (3, [5, -1], torch.tensor([2**62, 7]), [7, 2**63 + 7]):
        assert_bits_equal(sampler(seed=seed), plain(seed=seed))


def test_start_and_noise_of_the_caller(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, graph="require"), by_launches(place, net)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(SHAPE, generator=generator).to(place.device)
        noise = [torch.randn(SHAPE, generator=generator).to(place.device) for _ in range(sampler.plan.draws)]
        assert_bits_equal(sampler(x_init=start, noise=noise), plain(x_init=start, noise=noise))
        assert_bits_equal(sampler(x_init=start, seed=seed), plain(x_init=start, seed=seed))
    assert len(place.recorded) == 2


def test_state_of_several_variables(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, solver="tada", graph="require"), by_launches(place, net, solver="tada")
    for seed in range(3):
        start = torch.randn((len(sampler.plan.start), *SHAPE), generator=torch.Generator().manual_seed(seed)).to(
            place.device
        )
        assert_bits_equal(sampler(x_init=start), plain(x_init=start))
        assert_bits_equal(sampler(seed=seed), plain(seed=seed))


def test_result_belongs_to_the_caller(place: Place) -> None:
    sampler = place.sampler(Net(place.device), graph="require")
    first = [sampler(seed=1) for _ in range(3)]
    kept = first[2].clone()
    first[1].zero_()
    assert_bits_equal(sampler(seed=1), kept)
    sampler(seed=2)
    assert_bits_equal(first[2], kept)


def test_new_conditioning_is_copied(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, graph="require"), by_launches(place, net)
    for value in (0.0, 1.0, -2.0):
        kwargs = {"y": place.tensor(value, 3.0)}
        assert_bits_equal(sampler(model_kwargs=kwargs), plain(model_kwargs=kwargs))
    kwargs["y"].fill_(9.0)
    assert_bits_equal(sampler(model_kwargs=kwargs), plain(model_kwargs=kwargs))
    assert len(place.recorded) == 1


def test_other_arguments_are_another_graph(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, graph="require"), by_launches(place, net)
    asked: list[dict[str, object]] = [
        {},
        {"gain": 2.0},
        {"gain": 3.0},
        {"y": place.tensor(1.0, 2.0)},
        {"y": place.tensor(1.0)},
        {"y": place.tensor(1.0, 2.0).double().float()[:1].expand(2)},
    ]
    for kwargs in asked * 2:
        assert_bits_equal(sampler(model_kwargs=kwargs), plain(model_kwargs=kwargs))
    assert len(place.recorded) == len(asked)


def test_numbers_are_told_apart_by_all_they_are(place: Place) -> None:
    def model(x: Tensor, t: Tensor, gain: float) -> Tensor:
        return x * math.copysign(0.5, gain)

    sampler, plain = place.sampler(model, graph="require"), by_launches(place, model)
    for text in ("0.0", "-0.0", "nan") * 2:
        assert_bits_equal(sampler(model_kwargs={"gain": float(text)}), plain(model_kwargs={"gain": float(text)}))
    assert len(place.recorded) == 3


def nested(x: Tensor, t: Tensor, c: dict[str, list[Tensor]] | None = None) -> Tensor:
    return x * 0.5 if c is None else x * c["weights"][1]


def test_nested_arguments_are_followed(place: Place) -> None:
    sampler, plain = place.sampler(nested, graph="require"), by_launches(place, nested)
    for value in (0.25, 0.5):
        kwargs = {"c": {"weights": [place.tensor(9.0), place.tensor(value)]}}
        assert_bits_equal(sampler(model_kwargs=kwargs), plain(model_kwargs=kwargs))
    assert len(place.recorded) == 1


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, device="meta"), torch.eye(2).to_sparse(), object(), {1, 2}],
    ids=["elsewhere", "sparse", "object", "set"],
)
def test_arguments_that_a_graph_cannot_follow(place: Place, value: object) -> None:
    def model(x: Tensor, t: Tensor, extra: object = None) -> Tensor:
        return x * 0.5

    sampler = place.sampler(model)
    for _ in range(3):
        assert_bits_equal(sampler(model_kwargs={"extra": value}), by_launches(place, model)())
    assert not place.recorded
    assert "model_kwargs['extra']" in str(sampler)
    with pytest.raises(RuntimeError, match=r"model_kwargs\['extra'\]"):
        place.sampler(model, graph="require")(model_kwargs={"extra": value})


def guided(place: Place) -> Denoiser:
    return Denoiser(Net(place.device), "vp", "eps", device=place.device, null={"y": place.tensor(0.0, 0.0)})


def test_new_coefficients_and_levels_need_no_new_graph(place: Place) -> None:
    denoiser = guided(place)
    kwargs = {"y": place.tensor(1.0, -1.0)}
    changes: list[dict[str, object]] = [
        {"guidance": 2.0},
        {"guidance": 7.5},
        {"guidance": 7.5, "options": {"eta": 0.5, "s_noise": 0.9}},
        {"guidance": 3.0, "grid": "quadratic"},
        {"guidance": 3.0, "grid": [0.9, 0.5, 0.25, 0.125, 0.0], "steps": None},
    ]
    first: Sampler | None = None
    for change in changes * 2:
        sampler = place.sampler(denoiser, graph="require", **change)
        first = first or sampler
        sampler.share(first)
        plain = by_launches(place, denoiser, **change)  # type: ignore[arg-type]
        assert_bits_equal(sampler(seed=1, model_kwargs=kwargs), plain(seed=1, model_kwargs=kwargs))
    assert len(place.recorded) == 1


def test_nothing_is_shared_with_another_model(place: Place) -> None:
    nets = [Net(place.device), Net(place.device).eval()]
    with torch.no_grad():
        nets[1].scale.fill_(0.25)
    samplers = [place.sampler(net, graph="require") for net in nets]
    samplers[1].share(samplers[0])
    for net, sampler in zip(nets, samplers, strict=True):
        assert_bits_equal(sampler(seed=1), by_launches(place, net)(seed=1))
        assert_bits_equal(sampler(seed=2), by_launches(place, net)(seed=2))
    methods = [place.sampler(nets[0].forward, graph="require") for _ in range(2)]
    methods[1].share(methods[0])
    assert methods[1]._pool is methods[0]._pool


def test_what_cannot_be_captured_is_not_remembered_without_end(place: Place) -> None:
    def model(x: Tensor, t: Tensor, y: Tensor | None = None, gain: float = 1.0) -> Tensor:
        assert y is not None
        return x * y.add_(gain)[0]

    sampler = place.sampler(model, solver="ddim", steps=1)
    for gain in range(40):
        sampler(model_kwargs={"y": place.tensor(1.0, 2.0), "gain": float(gain)})
    assert len(sampler._pool._hindrances) <= 16


def test_sample_shares_a_graph_among_questions(place: Place) -> None:
    denoiser = guided(place)

    def ask(**kwargs: object) -> Tensor:
        y = {"y": place.tensor(1.0, -1.0)}
        return fastsolve.sample(denoiser, SHAPE, solver="seeds2", steps=3, model_kwargs=y, **kwargs)  # type: ignore[arg-type]

    for guidance in (2.0, 3.0, 4.0, 2.0):
        for eta in (1.0, 0.5):
            options = {"eta": eta}
            got = ask(guidance=guidance, options=options)
            assert_bits_equal(got, ask(guidance=guidance, options=options, graph="off"))
    assert len(place.recorded) == 1


def test_a_new_grid_of_another_length_is_another_graph(place: Place) -> None:
    net = Net(place.device)
    for steps in (3, 4, 3, 4):
        got = [
            fastsolve.sample(net, SHAPE, solver="seeds3", schedule="vp", prediction="eps", steps=steps, seed=s)
            for s in (1, 2, 3)
        ]
        assert_bits_equal(got[2], place.sampler(net, solver="seeds3", steps=steps, graph="off")(seed=3))
    assert len(place.recorded) == 2


CHANGES: dict[str, Callable[[Net], object]] = {
    "a parameter's memory": lambda net: setattr(net.scale, "data", net.scale.data * 2),
    "a parameter": lambda net: setattr(net, "scale", torch.nn.Parameter(net.scale.detach() * 2)),
    "a buffer": lambda net: setattr(net, "shift", net.shift * 2),
    "a submodule": lambda net: setattr(net, "inner", torch.nn.Linear(5, 5, bias=False, device=net.scale.device)),
    "a parameter of a submodule": lambda net: setattr(net.inner, "bias", None),
    "a submodule more": lambda net: net.inner.add_module("new", torch.nn.Identity()),
    "training mode": lambda net: net.inner.eval(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_replaced_parts_of_a_model_are_noticed(place: Place, change: str) -> None:
    net = Net(place.device)
    sampler = place.sampler(net)
    for _ in range(3):
        sampler(seed=1)
    assert len(place.recorded) == 1
    CHANGES[change](net)
    for _ in range(3):
        assert_bits_equal(sampler(seed=1), by_launches(place, net)(seed=1))
    assert len(place.recorded) == 2


def test_weights_changed_in_place_are_followed(place: Place) -> None:
    net = Net(place.device)
    sampler = place.sampler(net, graph="require")
    before = sampler(seed=1)
    with torch.no_grad():
        net.scale.mul_(0.5)
        net.load_state_dict({**net.state_dict(), "inner.bias": torch.ones(5)})
    after = sampler(seed=1)
    assert not torch.equal(before, after)
    assert_bits_equal(after, by_launches(place, net)(seed=1))
    assert len(place.recorded) == 1


WEIGHT = 0.5


def of_a_global(x: Tensor, t: Tensor) -> Tensor:
    return x * WEIGHT


class Policy:
    """A model that is no module and holds one."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.denoise(x, t)


def test_outer_variables_are_followed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = 0.25

    def of_a_closure(x: Tensor, t: Tensor) -> Tensor:
        return x * weight

    for model in (of_a_global, of_a_closure, functools.partial(of_a_closure)):
        sampler = place.sampler(model, graph="require")
        before = sampler(seed=1)
        weight, _ = weight + 0.125, monkeypatch.setitem(globals(), "WEIGHT", WEIGHT + 0.125)
        after = sampler(seed=1)
        assert not torch.equal(before, after)
        assert_bits_equal(after, by_launches(place, model)(seed=1))


@pytest.mark.parametrize("how", ["method", "object", "partial", "closure", "wrapped"])
def test_modules_behind_other_callables_are_watched(place: Place, how: str) -> None:
    net = Net(place.device)
    policy = Policy(net)
    models: dict[str, Callable[..., Tensor]] = {
        "method": policy.denoise,
        "object": policy,
        "partial": functools.partial(net, gain=2.0),
        "closure": lambda x, t: net(x, t),
        "wrapped": functools.wraps(net.forward)(torch.no_grad()(lambda *args: net(*args))),
    }
    sampler = place.sampler(models[how], graph="require")
    sampler(seed=1)
    net.scale.data = net.scale.data * 2
    assert_bits_equal(sampler(seed=1), by_launches(place, models[how])(seed=1))
    policy.net = Net(place.device)
    assert_bits_equal(sampler(seed=1), by_launches(place, models[how])(seed=1))


def test_compiled_modules_are_watched() -> None:
    net = Net("cpu")
    compiled = torch.compile(net, backend="eager")
    watch = Watch(compiled)
    assert watch.holds()
    net.inner.eval()
    assert not watch.holds()
    watch = Watch(compiled)
    net.scale.data = net.scale.data * 2
    assert not watch.holds()


def synchronises(x: Tensor, t: Tensor) -> Tensor:
    return x * 0.5 if float(t[0]) > 0.5 else x * 0.25


class Reassigns(Net):
    """Puts a new buffer in place of its own in every call."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, gain: float = 1.0) -> Tensor:
        self.shift = self.shift + 0.0
        return super().forward(x, t)


def writes_time(x: Tensor, t: Tensor) -> Tensor:
    t.mul_(2.0)
    return x * 0.5


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda device: synchronises, "not permitted"),
        (lambda device: writes_time, "writes into its t"),
        (Reassigns, "replaces"),
    ],
    ids=["synchronises", "writes its t", "replaces a buffer"],
)
def test_what_cannot_be_captured_runs_launch_by_launch(
    place: Place, model: Callable[[str], Callable[..., Tensor]], reason: str
) -> None:
    net = model(place.device)
    sampler, plain = place.sampler(net), by_launches(place, net)
    for seed in range(4):
        assert_bits_equal(sampler(seed=seed), plain(seed=seed))
    assert reason in str(sampler)
    assert "launch by launch" in str(sampler)
    with pytest.raises(RuntimeError, match=reason):
        place.sampler(net, graph="require")()


def test_the_reason_is_no_error_that_the_caller_handles(place: Place) -> None:
    sampler = place.sampler(synchronises)
    try:
        raise KeyError("of the caller")
    except KeyError:
        for _ in range(2):
            sampler()
    assert "not permitted" in str(sampler)


def test_a_model_that_writes_its_arguments_is_not_captured(place: Place) -> None:
    def counts(x: Tensor, t: Tensor, seen: Tensor | None = None) -> Tensor:
        assert seen is not None
        seen.add_(1.0)
        return x * 0.5

    sampler, seen = place.sampler(counts), place.tensor(0.0)
    for _ in range(3):
        sampler(model_kwargs={"seen": seen})
    assert seen.item() == 3 * sampler.plan.nfe
    assert "model_kwargs" in str(sampler)


def counts_in_a_dict(x: Tensor, t: Tensor, c: dict[str, Tensor | int]) -> Tensor:
    c["n"] = c.get("n", 0) + 1
    return x * c["n"]


def replaces_in_a_dict(x: Tensor, t: Tensor, c: dict[str, Tensor | int]) -> Tensor:
    c["h"] = c["h"] * 0.5
    return x * c["h"]


@pytest.mark.parametrize("model", [counts_in_a_dict, replaces_in_a_dict])
def test_a_model_that_writes_into_a_dict_of_its_arguments_is_not_captured(
    place: Place, model: Callable[..., Tensor]
) -> None:
    sampler, plain = place.sampler(model), by_launches(place, model)
    for _ in range(3):
        got, want = (run(model_kwargs={"c": {"h": place.tensor(0.5)}}) for run in (sampler, plain))
        assert_bits_equal(got, want)
    assert "model_kwargs" in str(sampler)


def test_an_error_of_the_model_is_its_own(place: Place) -> None:
    broken = True

    def model(x: Tensor, t: Tensor) -> Tensor:
        if broken:
            raise KeyError("of the model")
        return x * 0.5

    sampler = place.sampler(model)
    with pytest.raises(KeyError, match="of the model"):
        sampler()
    broken = False
    for seed in range(3):
        assert_bits_equal(sampler(seed=seed), by_launches(place, model)(seed=seed))
    assert len(place.recorded) == 1


def test_a_bar_and_a_look_at_every_output_need_launches(place: Place) -> None:
    net = Net(place.device)
    sampler = place.sampler(net)
    for _ in range(3):
        sampler(progress=True)
    assert not place.recorded
    with pytest.raises(RuntimeError, match="no bar"):
        place.sampler(net, graph="require")(progress=True)
    with pytest.raises(RuntimeError, match="no output is looked at"):
        place.sampler(net, graph="require", check_finite=True)()


def test_the_reason_is_that_of_the_last_call(place: Place) -> None:
    sampler = place.sampler(Net(place.device))
    sampler(progress=True)
    assert "launch by launch (a graph makes all calls at once" in str(sampler)
    sampler()
    assert "captured in the second call" in str(sampler)
    sampler()
    sampler(progress=True)
    assert "(1 captured), the last launch by launch (a graph makes all calls at once" in str(sampler)
    sampler()
    assert "launch by launch" not in str(sampler)


def test_autocast_is_part_of_the_question(place: Place) -> None:
    net = Net(place.device)
    denoiser = Denoiser(lambda x, t: net(x, t).float(), "vp", "eps", device=place.device)
    sampler, plain = place.sampler(denoiser), by_launches(place, denoiser)
    for _ in range(3):
        with torch.autocast(place.device, torch.bfloat16):
            rough = sampler(seed=1)
            assert_bits_equal(rough, plain(seed=1))
        exact = sampler(seed=1)
        assert_bits_equal(exact, plain(seed=1))
        assert not torch.equal(rough, exact)
    assert len(place.recorded) == 2


def test_inference_mode_at_any_call(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net), by_launches(place, net)
    kwargs = {"y": place.tensor(1.0, 2.0)}
    for inference in (True, False, True, False, False):
        with torch.inference_mode(inference):
            assert_bits_equal(sampler(seed=1, model_kwargs=kwargs), plain(seed=1, model_kwargs=kwargs))


def test_low_precision_model(place: Place) -> None:
    denoiser = Denoiser(lambda x, t: x * 0.5, "vp", "eps", device=place.device, dtype=torch.bfloat16)
    sampler, plain = place.sampler(denoiser, graph="require"), by_launches(place, denoiser)
    for seed in range(3):
        assert_bits_equal(sampler(seed=seed), plain(seed=seed))


def test_a_model_that_replays_its_own_graphs_is_not_captured() -> None:
    denoiser = Denoiser(lambda x, t: x * 0.5, "vp", "eps", reuses_output=True)
    setting = dataclasses.replace(Sampler(denoiser, SHAPE, steps=3).setting, device=torch.device("cuda"))
    assert "graphs of its own" in (executors._no_graph("fused", setting) or "")
    assert executors._no_graph("fused", dataclasses.replace(setting, reuses_output=False)) is None
    assert "eager" in (executors._no_graph("eager", dataclasses.replace(setting, reuses_output=False)) or "")


def test_threads_have_graphs_of_their_own(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net), by_launches(place, net)
    expected = [plain(seed=seed) for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(8):
            if not torch.equal(sampler(seed=seed), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    if place.device == "cpu":  # the tape of the emulation is one for the process
        for seed in range(4):
            work(seed)
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_close_gives_back_and_a_later_call_works(place: Place) -> None:
    net = Net(place.device)
    sampler = place.sampler(net, graph="require")
    before = sampler(seed=1)
    resets: list[Graph] = []
    graph = weakref.ref(place.recorded[0])
    sampler.close()
    if place.device == "cpu":
        assert place.recorded[0].tape is None  # type: ignore[attr-defined]
    place.recorded.clear()
    gc.collect()
    assert not resets
    if place.device == "cuda":
        assert graph() is None
    assert_bits_equal(sampler(seed=1), before)
    assert len(place.recorded) == 1


def test_what_is_closed_is_in_no_other_hands(place: Place) -> None:
    sampler = place.sampler(Net(place.device), graph="require")
    sampler()
    (shelf,) = sampler._pool._graphs.values()  # a call of another thread may have it in hand
    sampler.close()
    assert not shelf


def test_sample_keeps_samplers_while_the_model_lives(place: Place) -> None:
    net = Net(place.device)

    def ask(model: Callable[..., Tensor]) -> Tensor:
        return fastsolve.sample(model, SHAPE, solver="seeds3", schedule="vp", prediction="eps", steps=3, seed=1)

    for model in (net, net.forward):
        before = len(place.recorded)
        results = [ask(model) for _ in range(4)]
        assert len(place.recorded) == before + 1
        assert_bits_equal(results[3], place.sampler(net, solver="seeds3", steps=3, graph="off")(seed=1))
    gone, graphs = weakref.ref(net), [weakref.ref(graph) for graph in place.recorded]
    place.recorded.clear()
    del net, model, results
    gc.collect()
    assert gone() is None
    if place.device == "cuda":
        assert all(graph() is None for graph in graphs)


def test_graph_must_be_a_known_word() -> None:
    with pytest.raises(ValueError, match="'auto', 'require', 'off', not 'always'"):
        Sampler(of_a_global, SHAPE, steps=3, schedule="vp", prediction="eps", graph="always")


def test_a_cpu_has_no_graphs() -> None:
    sampler = Sampler(of_a_global, SHAPE, steps=3, schedule="vp", prediction="eps", device="cpu")
    assert "launch by launch (CUDA graphs need a GPU, and the device is cpu)" in str(sampler)
    with pytest.raises(ValueError, match="CUDA graphs need a GPU"):
        Sampler(of_a_global, SHAPE, steps=3, schedule="vp", prediction="eps", device="cpu", graph="require")


# Controls under a graph


@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds3", "heun", "restart", "tada"])
def test_a_callback_splits_the_graph_where_it_looks(place: Place, solver: str) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net, solver=solver), by_launches(place, net, solver=solver)
    looked = len(sampler.plan.steps)
    for seed in (1, 2, 3, 4):
        want, steps = [step.x0.clone() for step in plain.iterate(seed=seed)], []
        calls = net.calls
        out = sampler(seed=seed, callback=lambda step, to=steps: to.append(step.x0.clone()))
        assert net.calls == (calls if seed > 2 else calls + sampler.plan.nfe)  # the first warms up, the second records
        assert_bits_equal(out, plain(seed=seed))
        for ours, theirs in zip(steps, want, strict=True):
            assert_bits_equal(ours, theirs)
    assert looked <= len(place.recorded) <= looked + 1
    assert f"(1 captured, split into up to {len(place.recorded)} where it is looked at)" in str(sampler)
    assert_bits_equal(sampler(seed=1), plain(seed=1))  # whole, and another graph


def test_a_callback_ends_a_graph_early(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net), by_launches(place, net)
    for seed in (1, 2, 3, 4):
        want = plain(seed=seed, callback=lambda step: step.index < 2)
        assert_bits_equal(sampler(seed=seed, callback=lambda step: step.index < 2), want)
    assert_bits_equal(sampler(seed=5, callback=lambda step: None), plain(seed=5))


def test_graphs_that_wait_do_not_meet(place: Place) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net), by_launches(place, net)
    for _ in range(3):
        runs = [sampler.iterate(seed=seed) for seed in (1, 2)]
        for _ in range(3):
            for run in runs:
                next(run)
        for seed, run in zip((1, 2), runs, strict=True):
            assert_bits_equal(run.finish(), plain(seed=seed))


CONTROLS: dict[str, dict[str, object]] = {
    "interval": {"guidance": fastsolve.Guidance(3.0, interval=(0.2, 0.7))},
    "rescale": {"guidance": fastsolve.Guidance(3.0, rescale=0.7)},
    "apg": {"guidance": fastsolve.Guidance(3.0, apg=fastsolve.APG(0.2, -0.5, 1.0))},
    "each its scale": {"guidance": [1.0, 3.0]},
    "clip": {"clip": 0.5},
    "hook": {"x0_hook": lambda d, node: d.clamp(-0.5, 0.5) * node.alpha},
}


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("control", CONTROLS)
def test_controls_are_part_of_the_graph(place: Place, control: str, doubles: bool) -> None:
    net, (a, b) = Net(place.device), (place.tensor(0.5, -0.5), place.tensor(0.0))
    denoiser = Denoiser(net, "vp", "eps", null={"y": b.expand(2)}, doubles=doubles)
    sampler, plain = (place.sampler(denoiser, graph=graph, **CONTROLS[control]) for graph in ("auto", "off"))
    for seed in (1, 2, 3):
        y = a * seed
        assert_bits_equal(sampler(seed=seed, model_kwargs={"y": y}), plain(seed=seed, model_kwargs={"y": y}))
    assert len(place.recorded) == 1
    calls = net.calls
    sampler(seed=4, model_kwargs={"y": a})
    assert net.calls == calls


@pytest.mark.parametrize("way", ["inpaint", "overwrite"])
def test_masks_and_images_are_copied_into_the_graph(place: Place, way: str) -> None:
    net = Net(place.device)
    sampler, plain = place.sampler(net), by_launches(place, net)
    for seed in (1, 2, 3):
        mask = (torch.arange(5, device=place.device) < seed).float()
        given = {way: (mask, torch.full(SHAPE, float(seed), device=place.device))}
        assert_bits_equal(sampler(seed=seed, **given), plain(seed=seed, **given))
        x0 = torch.full(SHAPE, 0.25 * seed, device=place.device)
        assert_bits_equal(sampler(seed=seed, x0_init=x0, **given), plain(seed=seed, x0_init=x0, **given))
    assert len(place.recorded) == 2


def test_what_a_hook_reads_is_watched(place: Place) -> None:
    bound = place.tensor(0.5)

    def hook(d: Tensor, node: object) -> Tensor:
        return torch.minimum(d, bound)

    net = Net(place.device)
    sampler = place.sampler(net, x0_hook=hook)
    for seed in (1, 2, 3):
        sampler(seed=seed)
    bound = place.tensor(0.1)  # another tensor
    assert_bits_equal(sampler(seed=4), by_launches(place, net, x0_hook=hook)(seed=4))


def test_the_second_network_of_a_guided_call_is_watched(place: Place) -> None:
    net, weak = Net(place.device), Net(place.device)
    denoiser = Denoiser(net, "vp", "eps", guide=weak)
    sampler, plain = (place.sampler(denoiser, graph=graph, guidance=2.0) for graph in ("auto", "off"))
    for seed in (1, 2, 3):
        assert_bits_equal(sampler(seed=seed), plain(seed=seed))
    weak.scale = torch.nn.Parameter(weak.scale.detach() * 0.5)
    assert_bits_equal(sampler(seed=4), plain(seed=4))
    assert len(place.recorded) == 1


def counts(x: Tensor, t: Tensor, seen: dict[str, object]) -> Tensor:
    seen["n"].add_(1.0)  # type: ignore[attr-defined]
    return x * 0.5


def keeps(x: Tensor, t: Tensor, seen: dict[str, object]) -> Tensor:
    seen["kept"] = object()
    return x * 0.5


@pytest.mark.parametrize("model", [counts, keeps])
def test_a_model_that_cannot_be_captured_is_seen_once(place: Place, model: Callable[..., Tensor]) -> None:
    """What the warm-up has shown is not shown again."""
    sampler, steps = place.sampler(model), []
    sampler(callback=lambda step: steps.append(step.index), model_kwargs={"seen": {"n": place.tensor(0.0)}})
    assert steps == list(range(4))
