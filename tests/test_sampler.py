"""A compiled sampler at work: threads, random states, who owns which tensor, odd models, dtypes and shapes."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fastsolve
from bits import assert_bits_equal
from catalogue import EXECUTORS, SOLVERS, Case, needs_native
from fastsolve import Denoiser, Sampler, executors, philox, predictions
from fastsolve.executors.run import Backend
from fastsolve.lower import lower
from fastsolve.program import START
from problems import Gaussian, plane_mixture

SHAPE = (2, 3, 5)
LOW_PRECISION = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors of a few elements: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
    """Stands for a network."""
    return 0.6 * x - 0.2 + shift


def sampler_of(model: object = net, shape: tuple[int, ...] = SHAPE, **kwargs: object) -> Sampler:
    usual = {"solver": "dpmpp_2m_sde", "steps": 4, "schedule": "vp", "prediction": "eps"}
    if isinstance(model, Denoiser):
        usual = {"solver": "dpmpp_2m_sde", "steps": 4}
    return Sampler(model, shape, **{**usual, **kwargs})


def test_eager_is_the_sum_in_order_in_float32() -> None:
    sampler = sampler_of(executor="eager", solver="seeds3")
    program, keys = lower(sampler.plan), philox.sample_seeds(3, SHAPE[0])
    table, slots = program.table.astype(np.float32), [np.float32(np.nan)] * len(program.slots)
    calls = [(), *(calls for calls, _ in program.steps)]
    for made, launch in zip(calls, program.launches, strict=True):
        for call in made:
            slots[call.raws[0]] = np.float32(0.6) * slots[call.x[0]] - np.float32(0.2) + np.float32(0.0)
        draws = [philox.normals(keys, 15, number, stream).reshape(SHAPE) for stream, number in launch.draws]
        values = [slots[slot] for slot in launch.sources] + draws
        results = []
        for row in launch.rows:
            total = table[row.offset] * values[row.terms[0]]
            for i, term in enumerate(row.terms[1:], start=1):
                total = total + table[row.offset + i] * values[term]
            results.append(total)
        for row, total in zip(launch.rows, results, strict=True):
            slots[row.out] = total
    out = [slot.kind for slot in program.slots].index("out")
    assert_bits_equal(sampler(seed=3), slots[out])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_threads_share_a_sampler(executor: str) -> None:
    meeting = threading.Barrier(4)

    def slow(x: Tensor, t: Tensor) -> Tensor:
        meeting.wait(timeout=60)  # every call is made by four runs at a time
        return net(x, t)

    sampler, alone = sampler_of(slow, executor=executor), sampler_of(executor=executor)
    results: dict[int, list[Tensor]] = {}

    def work(seed: int) -> None:
        results[seed] = [sampler(seed=seed + 100 * again) for again in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        for again, result in enumerate(results[seed]):
            assert_bits_equal(result, alone(seed=seed + 100 * again))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_global_random_states_are_left_alone(executor: str) -> None:
    def states() -> tuple[object, ...]:
        _, words, *rest = np.random.get_state()  # noqa: NPY002 (the state that must not change)
        return torch.get_rng_state().tolist(), words.tolist(), rest, random.getstate()

    torch.manual_seed(1)
    before = states()
    first = sampler_of(executor=executor)(seed=torch.Generator().manual_seed(3))
    sampler_of(executor=executor)(seed=3)
    assert states() == before
    torch.manual_seed(2)
    assert_bits_equal(sampler_of(executor=executor)(seed=torch.Generator().manual_seed(3)), first)


def test_a_generator_gives_a_seed_to_every_sample() -> None:
    sampler, generator = sampler_of(), torch.Generator().manual_seed(3)
    first, second = sampler(seed=generator), sampler(seed=generator)
    assert not (first == second).any()
    assert not (first[0] == first[1]).any()
    assert_bits_equal(sampler(seed=torch.Generator().manual_seed(3)), first)


def test_seeds_in_any_container_are_the_same() -> None:
    sampler, listed = sampler_of(), [4, -9]
    for seed in ((4, -9), torch.tensor(listed), np.array(listed), [np.int64(4), np.int32(-9)]):
        assert_bits_equal(sampler(seed=seed), sampler(seed=listed))
    for seed in (np.int64(7), torch.tensor(7), 7 + 2**64):
        assert_bits_equal(sampler(seed=seed), sampler(seed=7))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", SOLVERS)
def test_what_the_caller_gives_is_not_changed(name: str, executor: str) -> None:
    kwargs = {"shift": torch.full(SHAPE, 0.1)}
    sampler = sampler_of(solver=name, executor=executor, options=Case(name).where(eta=1.0))
    given = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(sampler.plan.draws + 1)]
    copies = [tensor.clone() for tensor in given]
    first = sampler(x_init=given[0], noise=given[1:], model_kwargs=kwargs)
    for tensor, copy in zip(given, copies, strict=True):
        assert_bits_equal(tensor, copy)
    assert list(kwargs) == ["shift"]
    assert_bits_equal(kwargs["shift"], torch.full(SHAPE, 0.1))
    assert_bits_equal(sampler(x_init=given[0], noise=lambda i: given[1 + i], model_kwargs=kwargs), first)
    strided = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in given]
    assert_bits_equal(sampler(x_init=strided[0], noise=strided[1:], model_kwargs=kwargs), first)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", SOLVERS)
def test_what_was_returned_is_the_callers(name: str, executor: str) -> None:
    sampler = sampler_of(solver=name, executor=executor)
    first = sampler(seed=1)
    copy = first.clone()
    first_storage = first.data_ptr()
    second = sampler(seed=2)
    assert_bits_equal(first, copy)
    assert second.data_ptr() != first_storage
    first.zero_()
    assert_bits_equal(sampler(seed=1), copy)


class Recorder(TorchDispatchMode):
    """Names of all operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


@needs_native
@pytest.mark.parametrize("prediction", ["x0", "eps", predictions.EDM(scaled_input=True)], ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_native_runs_no_torch_operation_between_calls(name: str, prediction: object) -> None:
    recorder = Recorder()
    at: list[int] = []

    def prepared(x: Tensor, t: Tensor) -> Tensor:
        at.append(len(recorder.ops))
        return outputs[len(at) - 1]

    sampler = sampler_of(
        prepared, solver=name, prediction=prediction, executor="native", options=Case(name).where(eta=1.0)
    )
    outputs = [torch.full(SHAPE, 0.1) for _ in range(2 * sampler.plan.nfe)]
    with recorder:
        sampler(seed=1)
        start = len(recorder.ops)
        sampler(seed=2)
    assert len(at) == 2 * sampler.plan.nfe
    assert recorder.ops[at[0] : start] == []
    # A second run takes the buffers of the first: before its first call it makes the result's tensor and nothing else.
    opening = [op for op in recorder.ops[start:] if "fill" not in op]
    assert opening == ["aten.empty.memory_format"]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", SOLVERS)
def test_one_launch_for_each_call_and_one_before(name: str, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    make = executors.backend

    def counting(*args: object) -> Backend:
        backend = make(*args)
        launch = backend.launch
        backend.launch = lambda index: (events.append(index), launch(index))  # type: ignore[method-assign, assignment]
        return backend

    def model(x: Tensor, t: Tensor) -> Tensor:
        events.append("call")
        return net(x, t)

    monkeypatch.setattr(executors, "backend", counting)
    sampler = sampler_of(model, solver=name, executor=executor)
    sampler()
    expected: list[object] = [0]
    for index in range(1, sampler.plan.nfe + 1):
        expected += ["call", index]
    assert events == expected


# Models that return their output in a way of their own; all mean 0.6 x - 0.2.
ODD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "transposed": lambda x, t: net(x, t).transpose(1, 2).contiguous().transpose(1, 2),
    "a part of something larger": lambda x, t: torch.stack([net(x, t), x], dim=-1)[..., 0],
    "on a tape": lambda x, t: net(x, t).requires_grad_(),
    "a parameter": lambda x, t: torch.nn.Parameter(net(x, t)),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", ODD)
def test_layout_of_the_output_does_not_matter(name: str, executor: str) -> None:
    result = sampler_of(ODD[name], executor=executor)(seed=1)
    assert_bits_equal(result, sampler_of(executor=executor)(seed=1))
    assert not result.requires_grad


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_model_may_return_its_input(name: str, executor: str, dtype: torch.dtype | None) -> None:
    returned, copied = (
        sampler_of(Denoiser(model, "vp", "v", dtype=dtype), solver=name, executor=executor)(seed=1)
        for model in (lambda x, t: x, lambda x, t: x.clone())
    )
    assert_bits_equal(returned, copied)


class Reusing:
    """Writes every output into the same tensor."""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        self.buffer = torch.empty(shape)

    def __call__(self, x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        return self.buffer.copy_(net(x, t, shift))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_reused_output_that_is_still_needed_is_refused(executor: str) -> None:
    with pytest.raises(ValueError, match=r"model call 2 of 4 .*Denoiser\(\.\.\., reuses_output=True\)"):
        sampler_of(Reusing(), executor=executor)()


@pytest.mark.parametrize("guidance", [None, 3.0])
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_reused_output_is_right_where_it_is_stated(name: str, executor: str, guidance: float | None) -> None:
    reusing, plain = (
        Denoiser(model, "vp", "eps", null={"shift": 0.3}, reuses_output=reused)
        for model, reused in ((Reusing(), True), (net, False))
    )
    result = sampler_of(reusing, solver=name, executor=executor, guidance=guidance)(seed=1)
    expected = sampler_of(plain, solver=name, executor=executor, guidance=guidance)(seed=1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_a_model_may_write_to_two_buffers_in_turn() -> None:
    models, calls = [Reusing(), Reusing()], iter(range(100))
    result = sampler_of(lambda x, t: models[next(calls) % 2](x, t), solver="dpmpp_2m", steps=8)(seed=1)
    assert_bits_equal(result, sampler_of(solver="dpmpp_2m", steps=8)(seed=1))


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_model_that_writes_its_input_is_refused(executor: str, outside: Callable[[], object]) -> None:
    calls = iter(range(100))

    def model(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t) if next(calls) < 2 else x.mul_(0.6) - 0.2

    sampler = sampler_of(model, executor=executor)
    with outside(), pytest.raises(ValueError, match=r"model call 3 of 4 \(t = 0\.\d+\) changed its input in place"):
        sampler()
    assert_bits_equal(sampler_of(executor=executor)(seed=1), sampler_of(executor=executor)(seed=1))


def timed(x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
    return net(x, t, shift) * (0.5 * t).view(-1, 1, 1)


def writing_time(x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
    return net(x, t, shift) * t.mul_(0.5).view(-1, 1, 1)


@pytest.mark.parametrize("guidance", [None, 2.0], ids=["plain", "guided"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_model_that_scales_its_time_in_place_is_told_right_every_time(executor: str, guidance: float | None) -> None:
    writing, reading = (
        sampler_of(Denoiser(model, "vp", "eps", null={"shift": 0.3}), executor=executor, guidance=guidance)
        for model in (writing_time, timed)
    )
    for seed in range(3):
        assert_bits_equal(writing(seed=seed), reading(seed=seed))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_model_that_writes_its_time_and_raises_spoils_no_other_run(executor: str) -> None:
    failing = [True]

    def model(x: Tensor, t: Tensor) -> Tensor:
        raw = writing_time(x, t)
        if failing:
            raise KeyError("after the write")
        return raw

    sampler = sampler_of(model, executor=executor)
    with pytest.raises(KeyError, match="after the write"):
        sampler(seed=1)
    failing.clear()
    assert_bits_equal(sampler(seed=1), sampler_of(timed, executor=executor)(seed=1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_exception_in_the_model_leaves_the_sampler_usable(executor: str) -> None:
    failing = [True]

    def model(x: Tensor, t: Tensor) -> Tensor:
        if failing and t[0] < 0.6:
            raise KeyError("in the model")
        return net(x, t)

    sampler = sampler_of(model, executor=executor)
    for _ in range(2):
        with pytest.raises(KeyError, match="in the model"):
            sampler(seed=1)
    failing.clear()
    assert_bits_equal(sampler(seed=1), sampler_of(executor=executor)(seed=1))


@pytest.mark.parametrize("executor", [*EXECUTORS, "fused"])
def test_inference_mode_changes_nothing(executor: str) -> None:
    outside = sampler_of(executor=executor)
    expected = outside(seed=1)
    with torch.inference_mode():
        assert_bits_equal(outside(seed=1), expected)
        inside = sampler_of(executor=executor)
        assert_bits_equal(inside(seed=1), expected)
    assert_bits_equal(inside(seed=1), expected)
    assert_bits_equal(outside(seed=1), expected)


@needs_native
@pytest.mark.parametrize("output", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_low_precision_models_have_the_same_bits(name: str, dtype: torch.dtype, output: torch.dtype | None) -> None:
    seen: set[torch.dtype] = set()

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.update((x.dtype, t.dtype))
        return net(x, t).to(output or dtype)

    denoiser = Denoiser(model, "edm", predictions.EDM(0.5, scaled_input=True), dtype=dtype, output_dtype=output)
    eager, native = (sampler_of(denoiser, solver=name, executor=executor)(seed=1) for executor in ("eager", "native"))
    assert seen == {dtype, torch.float32}
    assert native.dtype == torch.float32
    assert_bits_equal(native, eager)


@pytest.mark.parametrize(("state", "model"), [(torch.float64, torch.float32), (torch.float32, torch.float64)], ids=str)
def test_state_and_model_may_differ_in_precision(state: torch.dtype, model: torch.dtype) -> None:
    seen: set[torch.dtype] = set()

    def wide(x: Tensor, t: Tensor) -> Tensor:
        seen.update((x.dtype, t.dtype))
        return net(x, t)

    mixed = sampler_of(Denoiser(wide, "vp", "eps", dtype=model), dtype=state, executor="eager")(seed=1)
    assert (mixed.dtype, seen) == (state, {model})
    torch.testing.assert_close(mixed.float(), sampler_of()(seed=1), rtol=1e-4, atol=1e-4)


def test_low_precision_costs_the_precision_of_the_model_alone() -> None:
    exact = Gaussian().model("edm", "x0")
    half = Denoiser(exact, "edm", "x0", dtype=torch.bfloat16)
    difference = (
        sampler_of(half, solver="ddim", steps=10)()
        - sampler_of(Denoiser(exact, "edm", "x0"), solver="ddim", steps=10)()
    )
    assert 0.0 < difference.abs().max() < 0.02


@pytest.mark.parametrize("name", SOLVERS)
def test_a_model_that_scales_its_input_itself_is_the_same_model(name: str) -> None:
    outer = plane_mixture().model("edm", "edm")

    def inner(x: Tensor, t: Tensor) -> Tensor:
        return outer(x * (t**2 + 0.25).sqrt().view(-1, 1), t)

    results = [
        fastsolve.sample(
            Denoiser(model, "edm", predictions.EDM(0.5, scaled_input=scaled)),
            (3, 2),
            solver=name,
            steps=5,
            dtype=torch.float64,
            executor="eager",
        )
        for model, scaled in ((outer, False), (inner, True))
    ]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1), (2, 0 + 1, 1, 1, 1, 7), (5, 16), (1, 3, 8, 8)], ids=str)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_any_shape(executor: str, shape: tuple[int, ...]) -> None:
    result = sampler_of(shape=shape, executor=executor)(seed=list(range(shape[0])))
    assert result.shape == shape
    assert result.is_contiguous()
    assert result.isfinite().all()
    alone = sampler_of(shape=(1, *shape[1:]), executor=executor)(seed=[shape[0] - 1])
    assert_bits_equal(result[-1:], alone)


def test_the_model_is_told_the_levels_and_gets_its_arguments() -> None:
    seen: list[tuple[Tensor, object]] = []

    def model(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        seen.append((t.clone(), kwargs))
        return net(x, t)

    sampler = sampler_of(model)
    sampler(model_kwargs={"label": 3})
    for (t, kwargs), call in zip(seen, sampler.plan.evals, strict=True):
        assert_bits_equal(t, torch.full((SHAPE[0],), call.t, dtype=torch.float32))
        assert kwargs == {"label": 3}


def test_guidance_calls_with_and_without_the_condition() -> None:
    seen: list[object] = []

    def model(x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        seen.append(kwargs)
        return net(x, t)

    denoiser = Denoiser(model, "vp", "eps", null={"label": None})
    sampler_of(denoiser, steps=2, guidance=2.0)(model_kwargs={"label": 3, "size": 8})
    assert seen == [{"label": 3, "size": 8}, {"label": None, "size": 8}] * 2


def test_a_denoiser_states_what_is_not_said() -> None:
    denoiser = Denoiser(net, "vp", "eps", shape=(3, 5), nfe=6)
    result = fastsolve.sample(denoiser, solver="seeds2", seed=1)
    spelled = fastsolve.sample(net, (1, 3, 5), solver="seeds2", nfe=6, schedule="vp", prediction="eps", seed=1)
    assert_bits_equal(result, spelled)
    given = fastsolve.sample(Denoiser(net, "vp", "eps"), steps=3, x_init=torch.ones(SHAPE))
    assert given.shape == SHAPE


def test_a_module_runs_without_a_tape() -> None:
    layer = torch.nn.Linear(5, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(0.6 * torch.eye(5))
    result = sampler_of(lambda x, t: layer(x) - 0.2)()
    assert not result.requires_grad
    torch.testing.assert_close(result, sampler_of()(), rtol=1e-4, atol=1e-4)


@needs_native
def test_auto_takes_native_where_it_can_and_says_why() -> None:
    assert "executor native (fits cpu and torch.float32)" in str(sampler_of())
    assert "executor eager (native computes in float32 and the state is torch.float64)" in str(
        sampler_of(dtype=torch.float64)
    )
    assert "executor eager (asked for)" in str(sampler_of(executor="eager"))
    sampler = sampler_of()
    assert str(sampler).startswith("[2, 3, 5] torch.float32 on cpu")
    assert str(sampler.plan) in str(sampler)


def test_progress_shows_a_bar_over_the_calls(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    sampler = sampler_of(solver="heun")
    quiet = sampler(seed=1)
    assert capfd.readouterr().err == ""
    assert_bits_equal(sampler(seed=1, progress=True), quiet)
    shown = capfd.readouterr().err
    assert "heun" in shown
    assert "7/7" in shown


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_keeps_nothing_of_the_models_and_the_callers(executor: str) -> None:
    outputs: list[weakref.ref[Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        raw = net(x, t)
        outputs.append(weakref.ref(raw))
        return raw

    sampler = sampler_of(model, executor=executor)
    start = torch.ones(SHAPE)
    result = sampler(x_init=start)
    held = [weakref.ref(start), weakref.ref(result)]
    del start, result
    gc.collect()
    assert [ref for ref in outputs + held if ref() is not None] == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_sampler_frees_its_memory(executor: str) -> None:
    buffers: list[weakref.ref[Tensor]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        buffers.append(weakref.ref(x))
        return net(x, t)

    sampler = sampler_of(model, executor=executor)
    sampler()
    assert any(ref() is not None for ref in buffers)
    del sampler
    gc.collect()
    assert [ref for ref in buffers if ref() is not None] == []


def test_the_start_is_noise_of_the_documented_stream() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x.clone())
        return net(x, t)

    sampler = sampler_of(model, schedule="ve")
    sampler(seed=5)
    noise = philox.normals(philox.sample_seeds(5, SHAPE[0]), 15, 0, START).reshape(SHAPE)
    assert_bits_equal(seen[0], np.float32(sampler.plan.start_std) * noise)


def test_beside_x_init_the_shape_of_a_sample_will_do() -> None:
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    options = {"solver": "ddim", "schedule": "ve", "prediction": "x0", "grid": [3.0, 1.0, 0.0], "x_init": x}
    runs = [fastsolve.sample(lambda x, t: 0.5 * x, shape, **options) for shape in ((4, 3, 5), (3, 5), None)]
    assert_bits_equal(runs[1], runs[0])
    assert_bits_equal(runs[2], runs[0])
