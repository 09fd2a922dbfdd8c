"""Log-probabilities of transitions: against the papers' formulas, the joint density, finite differences, and real runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastsolve
from catalogue import LEVELS
from fastsolve import Denoiser, Plan, Transitions, philox, predictions, schedules
from fastsolve.logprob import along, logprob
from fastsolve.transitions import path
from moments import MEAN, STD, propagate
from paths import normals, walk
from problems import Gaussian

A = 0.7  # Flow-GRPO's noise level; our eta is its square over 2
TIMES = (1.0, 0.85, 0.6, 0.4, 0.2, 0.0)


class Net(nn.Module):
    """A small smooth network in x and t, with a condition."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.inner, self.outer = nn.Linear(6, 7, dtype=dtype), nn.Linear(7, 6, dtype=dtype)

    def forward(self, x: Tensor, t: Tensor, label: float = 0.0) -> Tensor:
        hidden = self.inner(x.flatten(1)) + torch.cos(t)[:, None].to(x.dtype) + label
        return self.outer(torch.tanh(hidden)).view_as(x)


SHAPE = (3, 2, 3)


def recorded(
    plan: Plan, denoiser: Denoiser, dtype: torch.dtype = torch.float64, branches: Sequence[dict[str, object]] = ({},)
) -> tuple[list[Tensor], list[list[Tensor]]]:
    start = plan.start_std * normals(*SHAPE, seed=1, dtype=dtype)
    with torch.no_grad():
        return walk(denoiser, plan, start, list(normals(plan.draws, *SHAPE, seed=2, dtype=dtype)), branches)


def density(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Flow-GRPO's and DDPO's log_prob: the mean over all but the batch."""
    log_p = -((x - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))
    return log_p.mean(dim=(1, 2))


def grpo(net: Net, x: Tensor, k: int) -> tuple[Tensor, float]:
    """Mean and deviation of a step of Flow-GRPO (arXiv 2505.05470, equation 9); at t = 1 their code takes sigma from the next level."""
    t, dt = TIMES[k], TIMES[k + 1] - TIMES[k]
    sigma = A * math.sqrt(t / (1.0 - (TIMES[1] if t == 1.0 else t)))
    v = net(x, torch.full((len(x),), t, dtype=x.dtype))
    return x + (v + sigma**2 / (2 * t) * (x + (1 - t) * v)) * dt, sigma * math.sqrt(-dt)


def flow_plan(**options: object) -> Plan:
    return fastsolve.make_plan(
        "flow_sde", schedule="flow", grid=TIMES, prediction="flow", options={"eta": A * A / 2, **options}
    )


def test_is_flow_grpo() -> None:
    net, plan = Net(), flow_plan()
    denoiser = Denoiser(net, "flow", "flow")
    states, _ = recorded(plan, denoiser)
    found = along(denoiser, plan, states)
    assert isinstance(found, Transitions)
    assert len(found) == 4
    assert [(law.index, law.reason) for law in found.skipped] == [(4, "it has no noise")]
    for k in range(4):
        mean, std = grpo(net, states[k], k)
        torch.testing.assert_close(found.mean[k], mean, rtol=1e-10, atol=1e-10)
        assert found.std[k].item() == pytest.approx(std, rel=1e-12)
        torch.testing.assert_close(found.logprob[k] / 6, density(states[k + 1], mean, std), rtol=1e-10, atol=1e-10)
        assert found.stored(k)[2] == found.laws[k].index == k
        again = logprob(denoiser, plan, states[k], states[k + 1], k)
        torch.testing.assert_close(again, found.logprob[k], rtol=0, atol=0)


def test_is_ddpo() -> None:
    """DDIM with eta = 1 on Stable Diffusion's table, by DDIM's equation 12 in alphas_cumprod (arXiv 2305.13301)."""
    net, grid = Net(), (801.0, 601.0, 401.0, 201.0, 1.0)
    law = schedules.get("vp_scaled_linear")
    plan = fastsolve.make_plan("ddim", schedule=law, grid=grid, prediction="eps", options={"eta": 1.0})
    denoiser = Denoiser(net, law, "eps")
    states, _ = recorded(plan, denoiser)
    found = along(denoiser, plan, states)
    assert len(found) == 4
    for k in range(4):
        x, (a, b) = states[k], (law.node(t).alpha ** 2 for t in grid[k : k + 2])
        eps = net(x, torch.full((len(x),), grid[k], dtype=x.dtype))
        std = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        clean = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        mean = math.sqrt(b) * clean + math.sqrt(1 - b - std**2) * eps
        torch.testing.assert_close(found.mean[k], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.logprob[k] / 6, density(states[k + 1], mean, std), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", predictions.EDM(scaled_input=True)], ids=lambda p: str(p)[:3])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("ddim", {"eta": 1.0}),
        ("flow_sde", {}),
        ("dpmpp_2m_sde", {}),
        ("dpmpp_sde", {}),
        ("seeds2", {"form": "noise"}),
        ("seeds3", {}),
        ("sa_solver", {}),
        ("er_sde", {}),
        ("restart", {"intervals": [(3, 1, 0.5, 3.0)], "base": "seeds2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sum_is_the_joint_density_of_the_path(solver: str, options: dict[str, object], prediction: object) -> None:
    """All states of Gaussian data are jointly normal: log p(y_1 ... y_m | y_0) from their covariance, by its factor."""
    plan = fastsolve.make_plan(solver, schedule="edm", grid=LEVELS["edm"][1:], prediction=prediction, options=options)
    name = prediction if isinstance(prediction, str) else "edm"
    model = Gaussian(MEAN, STD).model("edm", name)
    if name == "edm":
        inner = model
        model = lambda x, t: inner(x / plan.evals[[e.t for e in plan.evals].index(t[0].item())].scale, t)  # noqa: E731
    denoiser = Denoiser(model, "edm", prediction)
    states, _ = recorded(plan, denoiser)
    found = along(denoiser, plan, states)

    known, names = propagate(plan), path(plan).states
    used = [0, *(law.index + 1 for law in found.laws)]
    mean, factor = np.split(np.array([known[names[i]] for i in used]), [1], axis=1)
    off = np.stack([states[i].numpy().reshape(-1) for i in used]) - mean

    def joint(count: int) -> float:
        left, size, _ = np.linalg.svd(factor[:count], full_matrices=False)
        white = (left.T @ off[:count]) / size[:, None]
        return -0.5 * float((white**2).sum()) - off.shape[1] * float(
            np.log(size).sum() + 0.5 * count * np.log(2 * np.pi)
        )

    assert found.logprob.sum().item() == pytest.approx(joint(len(used)) - joint(1), rel=1e-9)


def weighted(log_p: Tensor) -> Tensor:
    return (log_p * torch.linspace(0.5, 2.0, len(log_p), dtype=log_p.dtype)).sum()


@pytest.mark.parametrize(
    ("solver", "step", "calls"), [("flow_sde", 1, 1), ("dpmpp_2m_sde", 2, 2), ("seeds3", 2, 3), ("seeds2", 2, 1)]
)
def test_gradient_by_finite_differences(solver: str, step: int, calls: int) -> None:
    net = Net()
    denoiser = Denoiser(net, "flow", "flow")
    plan = fastsolve.make_plan(solver, schedule="flow", grid=LEVELS["flow"], prediction="flow")
    states, _ = recorded(plan, denoiser)
    law = path(plan).transitions[step]
    assert len(law.calls) == calls
    prev = [states[i].clone().requires_grad_() for i in law.reads]
    next = states[step + 1].clone().requires_grad_()

    def value() -> Tensor:
        return weighted(logprob(denoiser, plan, prev, next, step))

    inputs = [*net.parameters(), *prev, next]
    gradients = torch.autograd.grad(value(), inputs)
    h = 1e-5
    for x, gradient in zip(inputs, gradients, strict=True):
        flat = x.data.view(-1)
        for i in range(0, flat.numel(), 3):
            with torch.no_grad():
                old = flat[i].item()
                flat[i] = old + h
                up = value()
                flat[i] = old - h
                down = value()
                flat[i] = old
            expected = (up - down).item() / (2 * h)
            assert gradient.view(-1)[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_gradient_is_that_of_flow_grpos_formula() -> None:
    net, plan = Net(), flow_plan()
    denoiser = Denoiser(net, "flow", "flow")
    states, _ = recorded(plan, denoiser)
    mean, std = grpo(net, states[2], 2)
    expected = torch.autograd.grad(6 * weighted(density(states[3], mean, std)), list(net.parameters()))
    found = torch.autograd.grad(weighted(logprob(denoiser, plan, states[2], states[3], 2)), list(net.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_guidance_calls_both_branches_with_their_arguments() -> None:
    net, w = Net(), 2.5
    plan = fastsolve.make_plan("euler_ancestral", schedule="ve", grid=(3.0, 1.0, 0.2), prediction="eps", guidance=w)
    denoiser = Denoiser(net, "ve", "eps", null={"label": -1.0})
    states, _ = recorded(plan, denoiser, branches=[{"label": 0.7}, {"label": -1.0}])
    t = torch.full((3,), 3.0, dtype=torch.float64)
    eps = net(states[0], t, label=-1.0) + w * (net(states[0], t, label=0.7) - net(states[0], t, label=-1.0))
    # Down from 3 to sigma_down by Euler, up to 1 by fresh noise (k-diffusion)
    up = math.sqrt(1.0 * (9.0 - 1.0) / 9.0)
    mean = states[0] + (math.sqrt(1.0 - up**2) - 3.0) * eps
    found = logprob(denoiser, plan, states[0], states[1], 0, model_kwargs={"label": 0.7})
    torch.testing.assert_close(found / 6, density(states[1], mean, up), rtol=1e-10, atol=1e-10)
    assert torch.autograd.grad(found.sum(), net.inner.bias)[0].abs().max() > 1e-3


class Recorder:
    """A model that keeps copies of what it is called on, and how often."""

    def __init__(self, model: Callable[..., Tensor]) -> None:
        self.model, self.inputs, self.outputs = model, list[Tensor](), list[list[Tensor]]()

    def __call__(self, x: Tensor, t: Tensor, **kwargs: object) -> Tensor:
        self.inputs.append(x.clone())
        self.outputs.append([self.model(x, t, **kwargs)])
        return self.outputs[-1][0]


@pytest.mark.parametrize("solver", ["flow_sde", "seeds3", "dpmpp_2m_sde"])
def test_along_a_real_run_the_innovations_are_its_draws(solver: str) -> None:
    """The states of a real run, whose draws are known: (y - mean) / std gives them back."""
    recorder = Recorder(Net(torch.float32))
    denoiser = Denoiser(recorder, "flow", "flow", shape=(2, 3))
    options = {"eta": 0.245} if solver == "flow_sde" else {}
    sampler = fastsolve.Sampler(denoiser, SHAPE, solver=solver, grid=TIMES, options=options, executor="eager")
    with torch.no_grad():
        x = sampler(seed=11)
    states, plan = [*recorder.inputs, x], sampler.plan
    found = along(denoiser, plan, states)
    seeds = philox.sample_seeds(11, 3)
    draws = [torch.from_numpy(philox.normals(seeds, 6, k)).view(SHAPE) for k in range(plan.draws)]
    for k, law in enumerate(found.laws):
        innovation = (found.states[law.index + 1] - found.mean[k]) / found.std[k]
        torch.testing.assert_close(innovation, draws[k], rtol=0, atol=2e-4)
        size = 6 * (math.log(law.std) + 0.5 * math.log(2 * math.pi))
        expected = -0.5 * draws[k].square().sum((1, 2)) - size
        torch.testing.assert_close(found.logprob[k], expected, rtol=0, atol=5e-3)
    assert found.logprob.dtype == torch.float32
    made = len(recorder.inputs)
    again, given = sampler(seed=11, return_logprob=True)  # its own states and predictions: the model is not asked again
    assert len(recorder.inputs) == made + plan.nfe
    assert torch.equal(again, x)
    assert torch.equal(given.states, found.states)
    torch.testing.assert_close(given.mean, found.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given.logprob, found.logprob, rtol=0, atol=5e-3)
    for k in range(len(given)):
        torch.testing.assert_close(sampler.logprob(*given.stored(k)), given.logprob[k], rtol=0, atol=5e-3)


@pytest.mark.parametrize("solver", ["flow_sde", "seeds3"])
def test_the_ratio_is_1_at_unchanged_weights_of_a_bfloat16_model(solver: str) -> None:
    net = Net(torch.bfloat16)
    seen = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype))
        return net(x, t)

    denoiser = Denoiser(model, "flow", "flow", dtype=torch.bfloat16)
    plan = fastsolve.make_plan(solver, schedule="flow", grid=TIMES, prediction="flow")
    states, _ = recorded(plan, denoiser, torch.float32)
    old = along(denoiser, plan, states)
    assert set(seen) >= {(torch.bfloat16, torch.float32)}
    assert old.mean.dtype == old.logprob.dtype == old.states.dtype == torch.float32
    for k in range(len(old)):
        new = logprob(denoiser, plan, *old.stored(k))
        assert torch.equal((new - old.logprob[k]).exp(), torch.ones(3))
        assert torch.autograd.grad(new.sum(), net.outer.bias)[0].abs().max() > 0
    with torch.no_grad():
        net.outer.bias += 0.1
    assert not torch.equal(logprob(denoiser, plan, *old.stored(1)), old.logprob[1])


def test_float64_states_tell_small_changes_of_long_sums_apart() -> None:
    """A change of the model that moves log p by less than float32 resolves of the sum."""
    shape, plan = (1, 40000), flow_plan()
    scale = torch.tensor(0.5, requires_grad=True)
    denoiser = Denoiser(lambda x, t: scale * x, "flow", "flow", dtype=torch.float32)
    x, y = normals(*shape, seed=3), normals(*shape, seed=4)
    first = logprob(denoiser, plan, x, y, 2)
    (slope,) = torch.autograd.grad(first.sum(), scale)
    change = 1e-3 / slope.item()
    with torch.no_grad():
        scale += change
        made = scale.double().item() - 0.5  # what float32 kept of it
    second = logprob(denoiser, plan, x, y, 2)
    assert first.dtype == torch.float64
    assert torch.finfo(torch.float32).eps * first.abs().item() > 1e-3
    assert (second - first).item() == pytest.approx(slope.item() * made, rel=0.01)


def test_only_what_is_needed_is_called() -> None:
    recorder = Recorder(Net())
    denoiser = Denoiser(recorder, "flow", "flow")
    plan = flow_plan(window=(1, 3))
    states, _ = recorded(plan, denoiser)
    recorder.inputs.clear()
    found = along(denoiser, plan, states)
    assert [law.index for law in found.laws] == [1, 2]
    assert len(recorder.inputs) == 2
    ode = along(denoiser, flow_plan(eta=0.0), states)
    assert (len(ode), len(ode.skipped), ode.mean.shape, ode.logprob.shape) == (0, 5, (0, *SHAPE), (0, 3))
    assert len(recorder.inputs) == 2
    shared = fastsolve.make_plan("seeds3", schedule="flow", grid=TIMES, prediction="flow")
    states, _ = recorded(shared, denoiser)
    recorder.inputs.clear()
    along(denoiser, shared, states)
    assert len(recorder.inputs) == shared.nfe - 1  # the last step has no noise


def test_stored_states_are_the_callers() -> None:
    def model(x: Tensor, t: Tensor) -> Tensor:
        t.fill_(0.0)
        return x.mul_(0.5)

    plan = flow_plan()
    denoiser = Denoiser(model, "flow", "flow")
    x, y = normals(*SHAPE, seed=3), normals(*SHAPE, seed=4)
    before = x.clone()
    first = logprob(denoiser, plan, x, y, 1)
    assert torch.equal(x, before)
    assert torch.equal(logprob(denoiser, plan, x, y, 1), first)


def test_what_does_not_fit_is_refused() -> None:
    denoiser, plan = Denoiser(Net(), "flow", "flow"), flow_plan()
    states, _ = recorded(plan, denoiser)
    with pytest.raises(ValueError, match="a path of this plan has 6 states, not 5"):
        along(denoiser, plan, states[:-1])
    with pytest.raises(ValueError, match="there are predictions of 4 model calls, and the plan makes 5"):
        along(denoiser, plan, states, predictions=states[:4])
    with pytest.raises(TypeError, match=r"states must be float32 \(or float64\) tensors.*not torch.bfloat16"):
        along(denoiser, plan, [x.bfloat16() for x in states])
    with pytest.raises(ValueError, match="transition 4 of flow_sde has no density: it has no noise"):
        logprob(denoiser, plan, states[4], states[5], 4)
    with pytest.raises(ValueError, match="step must be 0 to 4, the transitions of this plan, not 5"):
        logprob(denoiser, plan, states[4], states[5], 5)
    with pytest.raises(ValueError, match=r"transition 1 of flow_sde reads the states \(1,\): prev holds 2"):
        logprob(denoiser, plan, states[:2], states[2], 1)
    with pytest.raises(ValueError, match=r"next and prev must be of one shape .*\[\[2, 2, 3\], \[3, 2, 3\]\]"):
        logprob(denoiser, plan, states[1], states[2][:2], 1)
    with pytest.raises(ValueError, match="must be of one shape"):
        logprob(denoiser, plan, states[1].float(), states[2], 1)
    with pytest.raises(ValueError, match=r"the model returned \[3, 6\] for a state \[3, 2, 3\]"):
        logprob(Denoiser(lambda x, t: x.flatten(1), "flow", "flow"), plan, states[1], states[2], 1)
    with pytest.raises(TypeError, match="model_kwargs must be a dict"):
        logprob(denoiser, plan, states[1], states[2], 1, model_kwargs=[1])


def test_clip_and_guidance_of_the_run_are_those_of_its_laws() -> None:
    """Through the sampler: cut predictions, guidance in an interval, negative arguments; and what has no law is refused."""
    net = Net(torch.float32)
    denoiser = Denoiser(lambda x, t, y=0.0: net(x, t) + y, "flow", "flow", null={}, shape=(2, 3))
    guidance = fastsolve.Guidance(2.0, interval=(0.3, 0.8))
    asked = {"solver": "flow_sde", "grid": TIMES, "executor": "eager"}
    sampler = fastsolve.Sampler(denoiser, SHAPE, guidance=guidance, **asked)
    conditions = {"model_kwargs": {"y": 0.1}, "negative_kwargs": {"y": -0.2}}
    _, found = sampler(seed=3, return_logprob=True, **conditions)
    for k in range(len(found)):
        torch.testing.assert_close(sampler.logprob(*found.stored(k), **conditions), found.logprob[k], rtol=0, atol=5e-3)
    with pytest.raises(ValueError, match="goes without callback"):
        sampler(seed=3, return_logprob=True, callback=print, **conditions)
    hooked = fastsolve.Sampler(denoiser, SHAPE, x0_hook=lambda d, node: d, **asked)
    with pytest.raises(ValueError, match="not part of a transition's law"):
        hooked(seed=3, return_logprob=True)
    for blend in ("overwrite", "inpaint"):
        with pytest.raises(ValueError, match=f"what is known to {blend} is not part of a transition's law"):
            sampler(seed=3, return_logprob=True, **{blend: (torch.ones(3), torch.ones(3))})
    several = fastsolve.Sampler(denoiser, SHAPE, guidance=[1.5, 2.0, 4.0], **asked)
    for call in (
        lambda: several(return_logprob=True, **conditions),
        lambda: several.logprob(*found.stored(0), **conditions),
    ):
        with pytest.raises(ValueError, match="plans of their own have no common transitions"):
            call()
    pp = fastsolve.Sampler(denoiser, SHAPE, **{**asked, "solver": "euler_cfg_pp"}, guidance=0.6, options={"eta": 1.0})
    with pytest.raises(ValueError, match="euler_cfg_pp takes the unconditional prediction by itself"):
        pp(return_logprob=True, **conditions)
    ve = Denoiser(lambda x, t: 0.5 * x, "ve", "x0")
    churned = fastsolve.Sampler(ve, SHAPE, solver="euler", grid=[10.0, 5.0, 1.0, 0.0], options={"s_churn": 2.0})
    with pytest.raises(ValueError, match="churn"):
        churned(seed=3, return_logprob=True)


def test_cut_predictions_have_laws_of_their_own() -> None:
    net = Net(torch.float32)
    sampler = fastsolve.Sampler(
        Denoiser(net, "flow", "flow", shape=(2, 3)), SHAPE, solver="flow_sde", grid=TIMES, clip=0.3, executor="eager"
    )
    _, found = sampler(seed=3, return_logprob=True)
    for k in range(len(found)):
        torch.testing.assert_close(sampler.logprob(*found.stored(k)), found.logprob[k], rtol=0, atol=5e-3)


def test_samples_may_be_numbers() -> None:
    made = [
        fastsolve.Sampler(
            lambda x, t: 0.5 * x, shape, solver="flow_sde", schedule="flow", prediction="flow", grid=TIMES
        )
        for shape in ((3,), (3, 1))
    ]
    (x, found), (column, expected) = (sampler(seed=3, return_logprob=True) for sampler in made)
    torch.testing.assert_close(x, column[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(found.logprob, expected.logprob)
    torch.testing.assert_close(made[0].logprob(*found.stored(1)), expected.logprob[1])
