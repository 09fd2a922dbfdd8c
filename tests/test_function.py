"""Programs as functions: the eager executor's bits, gradients against finite differences, and what checkpoints keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import fastsolve
from bits import assert_bits_equal
from catalogue import OWN_TESTS, SOLVERS
from fastsolve import Denoiser, Sampler, arguments
from fastsolve.executors.function import function
from fastsolve.executors.run import Setting, Work
from fastsolve.lower import lower
from fastsolve.program import Call, Launch, Mid, Program, Row, Slot, stacked

SHAPE = (2, 3)
DOUBLE = {"dtype": torch.float64, "executor": "eager"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(x: Tensor, t: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Products and sums, each rounded alike by every executor; not linear."""
    return 0.6 * x - 0.2 * x * x + shift


def differentiable(sampler: Sampler, *, checkpoint: bool = False, **given: object) -> Tensor:
    return sampler(grad="checkpoint" if checkpoint else True, **{"seed": 3, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("solver", [*SOLVERS, *sorted(OWN_TESTS)])
def test_the_bits_of_the_eager_executor(solver: str, checkpoint: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        sampler = Sampler(
            net, SHAPE, solver=solver, schedule="vp", prediction="v", steps=4, dtype=dtype, executor="eager"
        )
        assert_bits_equal(differentiable(sampler, checkpoint=checkpoint), sampler(seed=3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reuses_output", [False, True])
def test_a_model_of_low_precision_with_guidance(dtype: torch.dtype, reuses_output: bool) -> None:
    buffer = torch.empty(SHAPE, dtype=dtype)

    def model(x: Tensor, t: Tensor, shift: float) -> Tensor:
        assert x.dtype == dtype
        raw = net(x, t, shift)
        return buffer.copy_(raw) if reuses_output else raw

    denoiser = Denoiser(model, "edm", "edm", dtype=dtype, null={"shift": -0.3}, reuses_output=reuses_output)
    sampler = Sampler(denoiser, SHAPE, solver="dpmpp_2m_sde", steps=4, guidance=2.5, executor="eager")
    with torch.no_grad():
        made = differentiable(sampler, model_kwargs={"shift": 0.5})
    assert_bits_equal(made, sampler(seed=3, model_kwargs={"shift": 0.5}))


def test_noise_of_the_caller() -> None:
    sampler = Sampler(net, SHAPE, solver="seeds2", schedule="vp", prediction="v", steps=3, executor="eager")
    given = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(sampler.plan.draws)]
    noise = [z.clone().requires_grad_() for z in given]
    out = differentiable(sampler, noise=noise.__getitem__)
    assert_bits_equal(out, sampler(seed=3, noise=given))
    out.sum().backward()
    assert all(z.grad is not None and z.grad.abs().min() > 0.0 for z in noise)


class Small(torch.nn.Module):
    """Two layers, smooth, with a condition; what stands for a network is float64."""

    def __init__(self, width: int = 5, layers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.into = torch.nn.Linear(4, width, dtype=torch.float64)
        self.middle = torch.nn.ModuleList(torch.nn.Linear(width, width, dtype=torch.float64) for _ in range(layers - 1))
        self.out = torch.nn.Linear(width, 3, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        h = torch.tanh(self.into(torch.cat([x, t[:, None]], 1)) + condition)
        for layer in self.middle:
            h = torch.tanh(layer(h))
        return self.out(h)


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "ddim": ("ddim", {}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "heun": ("heun", {}),
    "unipc": ("unipc", {}),
    "seeds3": ("seeds3", {}),
    "restart": ("restart", {"intervals": [(3, 1, 0.5, 2.0)]}),
    "tada": ("tada", {"n_variables": 2}),
}


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case: str, checkpoint: bool) -> None:
    """Of the start, the condition and a weight of the model; noise fixed by the seed."""
    solver, options = CASES[case]
    model = Small()
    grid = [3.0, 1.5, 0.7, 0.2, 0.0] if solver == "restart" else [3.0, 1.0, 0.3, 0.0]
    sampler = Sampler(model, SHAPE, solver=solver, schedule="ve", prediction="x0", grid=grid, options=options, **DOUBLE)
    count = len(sampler.plan.start)
    x_init = torch.randn([count] * (count > 1) + list(SHAPE), dtype=torch.float64, requires_grad=True)
    condition = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def sampled(x_init: Tensor, condition: Tensor, weight: Tensor) -> Tensor:
        def model_of(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
            return torch.func.functional_call(model, {"into.weight": weight}, (x, t, condition))

        with_weight = Sampler(
            model_of, SHAPE, solver=solver, schedule="ve", prediction="x0", grid=grid, options=options, **DOUBLE
        )
        return differentiable(with_weight, x_init=x_init, model_kwargs={"condition": condition}, checkpoint=checkpoint)

    weight = model.into.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(sampled, (x_init, condition, weight), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("solver", ["dpmpp_3m_sde", "seeds3"])
def test_checkpoints_change_no_bit(solver: str) -> None:
    model = Small()
    sampler = Sampler(model, SHAPE, solver=solver, schedule="ve", prediction="x0", steps=4, **DOUBLE)
    found = []
    for checkpoint in (False, True):
        model.zero_grad()
        condition = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
        out = differentiable(sampler, model_kwargs={"condition": condition}, checkpoint=checkpoint)
        out.square().sum().backward()
        found.append([out, condition.grad, *(p.grad for p in model.parameters())])
    for plain, again in zip(*found, strict=True):
        assert_bits_equal(again, plain)


def kept(steps: int, checkpoint: bool, layers: int) -> int:
    """Elements that a run saves for the way back."""
    model = Small(50, layers)
    sampler = Sampler(model, SHAPE, solver="dpmpp_2m", schedule="ve", prediction="x0", steps=steps, **DOUBLE)
    ours = {p.data_ptr() for p in model.parameters()}
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(0 if tensor.data_ptr() in ours else tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        differentiable(
            sampler, model_kwargs={"condition": torch.zeros(2, 50, dtype=torch.float64)}, checkpoint=checkpoint
        )
    return sum(sizes)


def test_checkpoints_keep_a_step_by_its_state() -> None:
    """A step of it reads the state and one kept prediction at most, whatever the model is made of."""
    for layers in (1, 4):
        saved = [kept(steps, True, layers) for steps in (4, 5, 6, 12)]
        a_step = np.diff(saved[:3])
        assert a_step[0] == a_step[1] == (saved[3] - saved[2]) / 6
        assert 0 < a_step[0] <= 2 * 2 * 3
    without = kept(6, False, 4) - kept(5, False, 4)
    assert without >= 4 * 2 * 50, "the activations of a call, where there are no checkpoints"


def test_checkpoints_hold_the_activations_of_one_step_at_a_time() -> None:
    events: list[str] = []
    made = 0

    def model(x: Tensor, t: Tensor) -> Tensor:
        nonlocal made
        made += 1
        events.append(f"call at {t[0]:g}")
        raw = torch.tanh(x)
        if raw.requires_grad:
            raw.register_hook(lambda grad, at=f"back at {t[0]:g}": events.append(at))
        return raw

    levels = [3.0, 1.0, 0.3, 0.1]
    sampler = Sampler(model, SHAPE, solver="euler", schedule="ve", prediction="x0", grid=[*levels, 0.0], **DOUBLE)
    x_init = torch.ones(SHAPE, dtype=torch.float64, requires_grad=True)
    out = differentiable(sampler, x_init=x_init, checkpoint=True)
    assert made == sampler.plan.nfe == 4
    events.clear()
    out.sum().backward()
    assert made == 2 * sampler.plan.nfe
    assert events == [f"{what} at {t:g}" for t in reversed(levels) for what in ("call", "back")]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_hook_may_work_in_place(checkpoint: bool) -> None:
    found = []
    for hook in (lambda d, node: d * 0.5 + 0.1, lambda d, node: d.mul_(0.5).add_(0.1)):
        asked = {"solver": "dpmpp_2m", "schedule": "ve", "prediction": "x0", "steps": 4, **DOUBLE}
        sampler = Sampler(lambda x, t: torch.tanh(x), SHAPE, x0_hook=hook, **asked)
        x_init = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).view(SHAPE).requires_grad_()
        out = differentiable(sampler, x_init=x_init, checkpoint=checkpoint)
        assert_bits_equal(out, sampler(x_init=x_init.detach()))
        out.sum().backward()
        found.append(x_init.grad)
    assert_bits_equal(*found)


def test_random_layers_of_a_model_are_the_same_on_the_way_back() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 3)).double()
    sampler = Sampler(lambda x, t: model(x), SHAPE, schedule="ve", prediction="x0", steps=3, **DOUBLE)
    found = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        x_init = torch.ones(SHAPE, dtype=torch.float64, requires_grad=True)
        differentiable(sampler, x_init=x_init, checkpoint=checkpoint).sum().backward()
        found.append(x_init.grad)
    assert_bits_equal(found[1], found[0])


def test_guidance_calls_each_model_where_a_call_has_both_outputs() -> None:
    told = []

    def model(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        told.append(label)
        return label * x

    none = torch.tensor(0.2, dtype=torch.float64)
    denoiser = Denoiser(model, "ve", "x0", null={"label": none})
    sampler = Sampler(denoiser, SHAPE, solver="euler", grid=[2.0, 1.0, 0.5, 0.0], guidance=3.0, **DOUBLE)
    label = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    differentiable(sampler, model_kwargs={"label": label}).sum().backward()
    assert [given.item() for given in told] == [0.7, 0.2] * 3
    assert label.grad is not None
    first = lower(sampler.plan)
    fewer = tuple(
        ((Call(calls[0].x, calls[0].raws[:1], calls[0].t),), only_first(launch, calls[0].raws[1]))
        if i == 1
        else (calls, launch)
        for i, (calls, launch) in enumerate(first.steps)
    )
    told.clear()
    models = [lambda x, t: model(x, t, label), lambda x, t: model(x, t, none)]
    keys = arguments.keys(0, 2)
    function(replace(first, steps=fewer), sampler.setting, Work(models), keys)
    assert [given.item() for given in told] == [0.7, 0.2, 0.7, 0.7, 0.2]


def only_first(launch: Launch, slot: int) -> Launch:
    """The launch without the term of a source."""
    gone = launch.sources.index(slot)
    rows = tuple(Row(row.out, tuple(t - (t > gone) for t in row.terms if t != gone), row.offset) for row in launch.rows)
    assert all(row.terms[-1] == gone for row in launch.rows)
    return replace(launch, sources=launch.sources[:gone] + launch.sources[gone + 1 :], rows=rows)


def test_every_sample_goes_by_its_own_numbers() -> None:
    plans = [
        fastsolve.make_plan("dpmpp_2m_sde", schedule="ve", grid=grid, options={"s_noise": s})
        for grid, s in (((3.0, 1.0, 0.2, 0.0), 1.0), ((8.0, 2.0, 0.1, 0.0), 0.5))
    ]
    both = stacked([lower(plan) for plan in plans])
    told: list[list[float]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return net(x, t)

    for dtype in (torch.float32, torch.float64):
        setting = Setting(SHAPE, torch.device("cpu"), dtype, dtype, dtype, dtype, False)
        told.clear()
        out = function(both, setting, Work([model]), arguments.keys([5, 6], 2), True)
        assert told == [[3.0, 8.0], [1.0, 2.0], [torch.tensor(0.2, dtype=dtype), torch.tensor(0.1, dtype=dtype)]]
        for i, plan in enumerate(plans):
            alone = replace(setting, shape=(1, 3))
            assert_bits_equal(out[i : i + 1], function(lower(plan), alone, Work([net]), arguments.keys([5 + i], 1)))


@pytest.mark.parametrize("by_sample", [False, True])
def test_values_in_the_middle(by_sample: bool) -> None:
    """out = 2 mid' + 0.5 raw, mid' = clip(-1 blend, lo, hi), blend of (x + raw) and c k by the mask m."""
    slots = tuple(Slot(kind) for kind in ("start", "start", "start", "state", "raw", "out"))
    x, m, k, state, raw, out = range(6)
    blend = Mid("blend", (0, 1), 0, mask=2, known=3)  # x, raw; 1, 1, c
    clip = Mid("clip", (4,), 3)  # the blend; -1, lo, hi
    opening = Launch((x,), (), (Row(state, (0,), 8),))
    launch = Launch((state, raw, m, k), (), (Row(out, (5, 1), 6),), (blend, clip))
    table = np.array([1.0, 1.0, 1.5, -1.0, -0.4, 0.3, 2.0, 0.5, 1.0])
    tables = np.stack([table, table * [1, 1, 0.5, 1, 2, 0.5, 1, 1, 1]])
    step = ((Call((state,), (raw,), 1.0),), launch)
    program = Program(slots, opening, (step,), tables if by_sample else table, np.array([1.0]), 0)
    setting = Setting((2, 4), torch.device("cpu"), *[torch.float64] * 4, False)
    given = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given[1] = torch.tensor([0.0, 1.0, 0.3, 0.0], dtype=torch.float64)
    given[0, :, 3] = torch.nan
    given.requires_grad_()

    def sampled(given: Tensor, checkpoint: bool = False) -> Tensor:
        models = [lambda x, t: 0.5 * x]
        return function(program, setting, Work(models, list(given)), arguments.keys(0, 2), checkpoint)

    expected = np.empty((2, 4))
    for i, (c, lo, hi) in enumerate(zip(*(tables if by_sample else tables[[0, 0]]).T[[2, 4, 5]], strict=True)):
        for j, (x0, mask, known) in enumerate(zip(*given.detach().numpy()[:, i], strict=True)):
            mixed = (1.0 - mask) * (x0 + 0.5 * x0) + mask * (c * known)
            expected[i, j] = 2.0 * (np.nan if np.isnan(mixed) else min(max(-mixed, lo), hi)) + 0.5 * (0.5 * x0)
    clipped = np.isin(expected - 0.25 * given.detach().numpy()[0], 2.0 * tables[:, 4:6])
    assert clipped.any()
    assert not clipped.all()
    np.testing.assert_array_equal(sampled(given).detach().numpy(), expected)
    finite = given.detach()[..., :3].clone().requires_grad_()
    setting = replace(setting, shape=(2, 3))
    assert torch.autograd.gradcheck(sampled, (finite,))


def test_inputs_that_cannot_work() -> None:
    def sampler_of(model: Callable[..., object], **how: object) -> Sampler:
        return Sampler(model, SHAPE, schedule="ve", prediction="x0", steps=2, solver="euler", **how)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=r"model call 1 of 2 .* changed its input in place"):
        differentiable(sampler_of(lambda x, t: x.mul_(2.0)))
    with pytest.raises(TypeError, match=r"model call 1 of 2 \(t = 100\) returned NoneType"):
        differentiable(sampler_of(lambda x, t: None))
    with pytest.raises(
        ValueError, match=r"returned torch\.float32 \(2, 2\) on cpu; expected is torch\.float32 \(2, 3\)"
    ):
        differentiable(sampler_of(lambda x, t: x[:, :2]))
    with pytest.raises(ValueError, match=r"returned torch\.float64"):
        differentiable(sampler_of(lambda x, t: x.double()))
    with pytest.raises(ValueError, match=r"model call 2 of 2 .* NaN"):
        differentiable(sampler_of(lambda x, t: x / (t[:, None] - 0.02), check_finite=True))
    for refused in ({"callback": print}, {"return_logprob": True}):
        with pytest.raises(ValueError, match="grad=True goes without"):
            sampler_of(net)(grad=True, **refused)
    with pytest.raises(ValueError, match="'checkpoint', not 'x'"):
        sampler_of(net)(grad="x")
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        differentiable(sampler_of(net))


def test_a_model_that_scales_its_t_and_a_bar_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    told, moved = [], []

    class Bar:
        def update(self) -> None:
            moved.append(0)

    monkeypatch.setattr(arguments, "progress_bar", lambda total, name: contextlib.nullcontext(Bar()))

    def model(x: Tensor, t: Tensor) -> Tensor:
        told.append(float(t[0]))
        t.mul_(1000.0)
        return net(x, t)

    sampler = Sampler(model, SHAPE, solver="heun", schedule="ve", prediction="x0", grid=[2.0, 1.0, 0.5], **DOUBLE)
    for checkpoint in (False, True):
        told.clear()
        x_init = torch.ones(SHAPE, dtype=torch.float64, requires_grad=True)
        differentiable(sampler, x_init=x_init, checkpoint=checkpoint, progress=True).sum().backward()
        assert told[:4] == [2.0, 1.0, 1.0, 0.5]
    assert len(moved) == 8, "calls made again move no bar"


@pytest.mark.parametrize("checkpoint", [False, True])
def test_every_control(checkpoint: bool) -> None:
    """Masks, functions, doubled batches, clips: the eager executor's bits, and gradients against finite differences."""
    hook = lambda x0, node: x0 / (1.0 + 0.1 * x0 * x0)  # noqa: E731
    mask = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)
    image = torch.ones(SHAPE, dtype=torch.float64)
    shift, null = torch.zeros(2, 1, dtype=torch.float64), torch.full((2, 1), -0.3, dtype=torch.float64)
    plain = {"inpaint": (mask, image)}
    ways: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"clip": 1.5}, plain),
        ({"scale": 2.0}, plain),
        ({"x0_hook": hook}, plain),
        ({"guidance": fastsolve.Guidance(2.0, rescale=0.5)}, {"overwrite": (mask, image)}),
        ({"guidance": fastsolve.Guidance(2.0, interval=(0.5, 1.5))}, plain),
        ({"guidance": fastsolve.Guidance(2.0, apg=fastsolve.APG(0.3, -0.2, 1.0))}, {}),
    ]
    for made, given in ways:
        denoiser = Denoiser(net, "ve", "x0", null={"shift": null}, doubles="scale" in made)
        made = {"guidance": made["scale"]} if "scale" in made else made
        sampler = Sampler(denoiser, SHAPE, solver="dpmpp_2m", grid=[3.0, 1.0, 0.3, 0.0], **made, **DOUBLE)  # type: ignore[arg-type]
        x_init = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        given = {**given, "model_kwargs": {"shift": shift}}
        out = differentiable(sampler, x_init=x_init, checkpoint=checkpoint, **given)
        assert_bits_equal(out, sampler(seed=3, x_init=x_init, **given))
        sampled = lambda x: differentiable(sampler, x_init=x, checkpoint=checkpoint, **given)  # noqa: B023, E731
        assert torch.autograd.gradcheck(sampled, (x_init.requires_grad_(),), atol=1e-6)
