"""A plan run by somebody else's loop: the same as a sampler's run, with states that the loop may change on its way."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastsolve
from fastsolve import Plan, Stepper, Stepping, philox
from fastsolve.plan import Eval

SHAPE = (2, 3, 5)


def net(x: Tensor) -> Tensor:
    return torch.tanh(0.7 * x.double()).to(x.dtype)


def can_wait(name: str, **kwargs: object) -> Plan | None:
    try:
        plan = fastsolve.make_plan(name, **{"schedule": "vp_scaled_linear", "prediction": "eps", "steps": 6} | kwargs)
        Stepper(plan, SHAPE)
    except ValueError:
        return None
    return plan


PLANS = {name: plan for name in fastsolve.list_solvers() if (plan := can_wait(name)) is not None}


def test_all_but_those_that_cannot_wait() -> None:
    assert set(fastsolve.list_solvers()) - {*PLANS} == {"tada", "fastsolve"}


def read(plan: Plan, x: Tensor, seed: int, edit: dict[int, float]) -> Tensor:
    """The plan word by word in float64; before the output of call k is used, its state is multiplied by edit[k]."""
    keys = philox.sample_seeds(seed, len(x))
    size = x[0].numel()
    values: dict[str, Tensor] = {"x0": x.double()}
    number = 0
    for op in plan.ops:
        if isinstance(op, Eval):
            raw = net((op.scale * values[op.x]).float()).double()
            values[op.x] = values[op.x] * edit.get(number, 1.0)
            values[op.d] = op.a * values[op.x] + op.b[0] * raw
            if op.clip is not None:
                values[op.d] = values[op.d].clamp(*op.clip)
            number += 1
            continue
        made = {}
        for row in op.rows:
            for name, _ in row.terms:
                if name[0] == "z" and name not in values:
                    z = philox.normals(keys, size, plan.first_draw + int(name[1:]))
                    values[name] = torch.from_numpy(z).double().reshape(x.shape)
            made[row.out] = sum(c * values[name] for name, c in row.terms)
        values |= made
    return values[plan.out]


def walk(stepper: Stepper, x: Tensor, seed: int = 3, edit: dict[int, float] | None = None) -> Tensor:
    run = stepper.begin(seed)
    for k in range(stepper.plan.nfe):
        raw = net(run.input(x))
        if edit and k in edit:
            x = x * edit[k]
        x = run.step(raw, x)
    return x


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("executor", ["native", "eager"])
def test_as_a_samplers_run(name: str, executor: str) -> None:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    ours = walk(Stepper(PLANS[name], SHAPE, executor=executor), x)
    torch.testing.assert_close(ours.double(), read(PLANS[name], x, 3, {}), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", PLANS)
def test_a_state_that_the_loop_changes_is_the_state(name: str) -> None:
    plan = PLANS[name]
    edit = {0: 0.9, 2: 1.3, plan.nfe // 2: 0.7}
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    ours = walk(Stepper(plan, SHAPE), x, edit=edit)
    torch.testing.assert_close(ours.double(), read(plan, x, 3, edit), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", PLANS)
def test_between_the_steps_the_state_stays_in_full_precision(name: str) -> None:
    """A loop that only hands on what it was given loses nothing to its half precision, but in what the model sees and says."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).bfloat16()
    ours = walk(Stepper(PLANS[name], SHAPE, dtype=torch.bfloat16), x)
    denoiser = fastsolve.Denoiser(
        lambda x, t: net(x), schedule="vp_scaled_linear", prediction="eps", dtype=torch.bfloat16
    )
    plan = PLANS[name]
    sampler = fastsolve.Sampler(denoiser, SHAPE, solver=name, steps=6)
    assert sampler.plan.nfe == plan.nfe
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, sampler(x_init=x.float(), seed=3).bfloat16(), rtol=2e-2, atol=2e-2)


def test_a_state_given_back_changed_in_place_is_read_anew() -> None:
    plan = PLANS["dpmpp_2m"]
    for dtype, close in ((torch.float32, 1e-5), (torch.bfloat16, 4e-2)):
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
        run = Stepper(plan, SHAPE, dtype=dtype).begin(0)
        y = x
        for k in range(plan.nfe):
            raw = net(y)
            if k == 3:
                y.mul_(1.5)
            y = run.step(raw, y)
        expected = read(plan, x, 0, {3: 1.5}).to(dtype)
        torch.testing.assert_close(y, expected, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_state_given_back_in_other_memory_is_read_there(dtype: torch.dtype) -> None:
    plan, x = PLANS["dpmpp_2m"], torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1)).to(dtype)

    def walked(change: Callable[[Tensor], object]) -> Tensor:
        run, y = Stepper(plan, x.shape, dtype=dtype).begin(0), x
        for k in range(plan.nfe):
            raw = net(y)
            if k == 3:
                change(y)
            y = run.step(raw, y)
        return y

    def assigned(y: Tensor) -> None:
        y.data = y.data.flip(0)

    expected = walked(lambda y: y.copy_(y.flip(0)))
    assert torch.equal(walked(assigned), expected)
    assert torch.equal(walked(lambda y: y.set_(y.flip(0))), expected)
    turned = walked(lambda y: y.copy_(y.mT.clone()))
    assert not torch.equal(turned, expected)
    assert torch.equal(walked(lambda y: y.transpose_(1, 2)), turned)


@pytest.mark.parametrize("name", PLANS)
def test_a_buffer_that_holds_every_state_in_turn(name: str) -> None:
    """What later steps read of an earlier state is not what the loop has written into its buffer since."""
    stepper = Stepper(PLANS[name], SHAPE)
    buffer = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    expected, run = walk(stepper, buffer.clone()), stepper.begin(3)
    for _ in range(stepper.plan.nfe):
        buffer.copy_(run.step(net(buffer), buffer))
    assert torch.equal(buffer, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("executor", ["eager", "native", "fused"])
def test_inference_mode_changes_nothing(executor: str, dtype: torch.dtype) -> None:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
    outside, plan = Stepper(PLANS["seeds2"], SHAPE, dtype=dtype, executor=executor), PLANS["seeds2"]
    expected = walk(outside, x)
    with torch.inference_mode():
        inside = Stepper(plan, SHAPE, dtype=dtype, executor=executor)
        assert torch.equal(walk(inside, x), expected)
        assert torch.equal(walk(outside, x), expected)
        run, y = outside.begin(3), x
        for k in range(plan.nfe):
            raw = net(y)
            y = run.step(raw, y.mul_(1.5) if k == 3 else y)  # seen in this mode, too
        assert not torch.equal(y, expected)
    assert torch.equal(walk(inside, x), expected)  # other seeds are written where the mode's were


@pytest.mark.parametrize("name", ["heun", "seeds2", "dpmpp_2m"])
def test_inputs_of_edm_are_scaled(name: str) -> None:
    plan = fastsolve.make_plan(name, schedule="edm", prediction="edm", steps=5)
    denoiser = fastsolve.Denoiser(lambda x, t: net(x), schedule="edm", prediction="edm")
    x = 80.0 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    sampled = fastsolve.sample(denoiser, SHAPE, solver=name, steps=5, x_init=x, seed=3)
    torch.testing.assert_close(walk(Stepper(plan, SHAPE), x), sampled, rtol=1e-4, atol=1e-4)


def test_the_data_prediction() -> None:
    plan = PLANS["euler"]
    run, x = Stepper(plan, SHAPE).begin(0), torch.randn(SHAPE)
    call = plan.evals[0]
    torch.testing.assert_close(run.x0(net(x), x), (x - call.sigma * net(x)) / call.alpha, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_grid_goes_on_with_the_noise_of_the_whole() -> None:
    whole = fastsolve.make_plan("euler_ancestral", schedule="edm", steps=6)
    part = fastsolve.make_plan("euler_ancestral", schedule="edm", steps=6, start=2)
    stepper, x = Stepper(whole, SHAPE), 80.0 * torch.randn(SHAPE)
    run = stepper.begin(3)
    states = [x]
    for _ in range(whole.nfe):
        states.append(run.step(net(states[-1]), states[-1]))
    later = Stepper(part, SHAPE).begin(3)
    y = states[2]
    for _ in range(part.nfe):
        y = later.step(net(y), y)
    assert torch.equal(y, states[-1])


def test_runs_at_the_same_time() -> None:
    stepper, x = Stepper(PLANS["seeds2"], SHAPE), torch.randn(SHAPE)
    alone = [walk(stepper, x, seed) for seed in range(4)]
    together: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        for _ in range(20):
            together[seed] = walk(stepper, x, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[seed], alone[seed]) for seed in range(4))
    a, b = stepper.begin(0), stepper.begin(1)  # in turns
    xa = xb = x
    for _ in range(stepper.plan.nfe):
        xa, xb = a.step(net(xa), xa), b.step(net(xb), xb)
    assert torch.equal(xa, alone[0])
    assert torch.equal(xb, alone[1])


def test_inputs_are_not_written_and_results_are_new() -> None:
    stepper, x = Stepper(PLANS["heun"], SHAPE), torch.randn(SHAPE)
    run, before, states = stepper.begin(0), x.clone(), [x]
    kept = []
    for _ in range(stepper.plan.nfe):
        raw = net(states[-1])
        kept.append((raw, raw.clone()))
        states.append(run.step(raw, states[-1]))
        kept.append((states[-1], states[-1].clone()))
    assert torch.equal(x, before)
    assert all(torch.equal(now, then) for now, then in kept)
    assert len({state.data_ptr() for state in states}) == len(states)


def test_strides_and_dtypes_of_a_loops_own() -> None:
    plan, x = PLANS["dpmpp_2m"], torch.randn(SHAPE)
    plain = walk(Stepper(plan, SHAPE), x)
    run, y = Stepper(plan, SHAPE).begin(3), x.double()  # a state of another dtype
    for _ in range(plan.nfe):
        raw = net(y.float()).permute(1, 2, 0).contiguous().permute(2, 0, 1)
        assert not raw.is_contiguous()
        y = run.step(raw, y.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    plan = PLANS["dpmpp_2m"]
    stepper, x = Stepper(plan, SHAPE), torch.randn(SHAPE)
    run = stepper.begin(0)
    with pytest.raises(ValueError, match=r"the model's output is torch.float32 \[2, 3, 4\] on cpu; needed is"):
        run.step(x[..., :4], x)
    with pytest.raises(ValueError, match=r"the model's output is torch.float64 .*; needed is torch.float32"):
        run.step(x.double(), x)
    with pytest.raises(ValueError, match=r"the state is torch.float32 \[1, 3, 5\]"):
        run.step(x, x[:1])
    with pytest.raises(ValueError, match="no gradients"):
        run.step(x.clone().requires_grad_(), x)
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"the model's output is torch.float32 \[2, 3, 1\]"):
            run.step(x[..., :1].clone().requires_grad_(), x)
        run.step(x.clone().requires_grad_(), x)
    for _ in range(plan.nfe - 1):
        run.step(x, x)
    for call in (lambda: run.step(x, x), lambda: run.input(x), lambda: run.x0(x, x)):
        with pytest.raises(ValueError, match="all 6 model calls of this run are made: begin another"):
            call()
    with pytest.raises(ValueError, match="has 2 variables"):
        Stepper(fastsolve.make_plan("tada", schedule="vp", steps=4), SHAPE)
    with pytest.raises(ValueError, match="is guided"):
        Stepper(fastsolve.make_plan("ddim", schedule="vp", steps=4, guidance=2.0), SHAPE)
    with pytest.raises(ValueError, match="calls functions"):
        Stepper(fastsolve.make_plan("ddim", schedule="vp", steps=4, hooked=True), SHAPE)
    with pytest.raises(ValueError, match="changes the state before the first model call"):
        Stepper(fastsolve.make_plan("heun", schedule="edm", steps=4, options={"s_churn": 10.0}), SHAPE)
    with pytest.raises(ValueError, match=r"a floating type, not torch\.int64"):
        Stepper(plan, SHAPE, dtype=torch.int64)
    with pytest.raises(ValueError, match="device nowhere"):
        Stepper(plan, SHAPE, device="nowhere")


def test_float64_runs_in_float64() -> None:
    plan = PLANS["unipc"]
    x = torch.randn(SHAPE, dtype=torch.float64)
    stepper = Stepper(plan, SHAPE, dtype=torch.float64)
    assert stepper.executor.name == "eager"
    run, y = stepper.begin(0), x
    values = {"x0": x}
    for op in plan.ops:
        if isinstance(op, Eval):
            values[op.d] = op.a * values[op.x] + op.b[0] * net(values[op.x])
        else:
            values |= {row.out: sum(c * values[name] for name, c in row.terms) for row in op.rows}
    for _ in range(plan.nfe):
        y = run.step(net(y), y)
    torch.testing.assert_close(y, values[plan.out], rtol=1e-12, atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    stepper, x = Stepper(PLANS["ddpm"], SHAPE), torch.randn(SHAPE)
    run, y = stepper.begin([7, 8]), x
    alone, z = Stepper(PLANS["ddpm"], (1, *SHAPE[1:])).begin([8]), x[1:]
    for _ in range(stepper.plan.nfe):
        y, z = run.step(net(y), y), alone.step(net(z), z)
    assert torch.equal(y[1:], z)
    assert not torch.equal(y[0], y[1])


@pytest.mark.parametrize("name", ["dpmpp_3m", "seeds3", "unipc"])
@pytest.mark.parametrize("executor", ["native", "eager"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"])
def test_a_copy_in_the_middle_goes_on_with_the_same_bits(
    name: str, executor: str, copied: Callable[[Stepping], Stepping]
) -> None:
    stepper, x = Stepper(PLANS[name], SHAPE, executor=executor), torch.randn(SHAPE)
    expected = walk(stepper, x)
    run = stepper.begin(3)
    for _ in range(4):
        x = run.step(net(x), x)
    other = copied(run)
    run.step(torch.randn(SHAPE), torch.randn(SHAPE))
    for _ in range(4, stepper.plan.nfe):
        x = other.step(net(x), x)
    assert torch.equal(x, expected)


def test_a_deep_copy_takes_the_state_in_full_precision_too() -> None:
    stepper = Stepper(PLANS["dpmpp_2m"], SHAPE, dtype=torch.bfloat16)
    x = torch.randn(SHAPE).bfloat16()
    run = stepper.begin()
    x = run.step(net(x), x)
    assert torch.equal(copy.deepcopy(run).step(net(x), x), run.step(net(x), x))
