"""Diffusion policies: [B, T, D] trajectories, tables of 100 steps, conditioning by overwriting, clipped samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Sampler, grids, make_plan, schedules
from fastsolve.adapters import policy

HORIZON, ACTIONS = 16, 3
SHAPE = (2, HORIZON, ACTIONS)
LEADING = grids.Spacing("leading")  # as a policy's scheduler spaces its steps


class UNet1D(torch.nn.Module):
    """The call of a policy's network: sample [B, T, D], timestep [B] or a number, global_cond [B, C], local_cond [B, T, C]."""

    def __init__(self, integer: bool = False) -> None:
        super().__init__()
        self.integer, self.told = integer, []
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.nn.Parameter(0.3 * torch.randn(ACTIONS, ACTIONS, generator=generator))
        self.along = torch.nn.Conv1d(ACTIONS, ACTIONS, 3, padding=1)
        self.steps = torch.nn.Embedding(100, ACTIONS)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
            parameter.requires_grad_(False)

    def forward(
        self, sample: Tensor, timestep: Tensor, local_cond: Tensor | None = None, global_cond: Tensor | None = None
    ) -> Tensor:
        steps = torch.as_tensor(timestep).expand(len(sample))
        self.told.append(steps.clone())
        embedded = self.steps(steps) if self.integer else torch.sin(steps.float()[:, None] / 30.0)
        out = torch.tanh(sample @ self.mix + self.along(sample.movedim(1, 2)).movedim(1, 2)) + 0.5 * sample
        out = out + 0.2 * embedded[:, None]
        if global_cond is not None:
            out = out + 0.3 * global_cond.mean(1)[:, None, None]
        return out if local_cond is None else out + local_cond.mean(2, keepdim=True)


def normals(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


OBSERVED = {"global_cond": normals(2, 7, seed=3)}


def test_the_newcomers_path() -> None:
    model = policy.wrap(UNet1D(), horizon=HORIZON, action_dim=ACTIONS)
    actions = fastsolve.sample(model, SHAPE, solver="ddim", nfe=10, clip=1.0, model_kwargs=OBSERVED)
    assert actions.shape == SHAPE
    assert actions.abs().max() <= 1.0


# Against the loops of the policies themselves, with diffusers' schedulers.


def loop(
    scheduler: object,
    steps: int,
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    known: tuple[Tensor, Tensor] | None = None,
    **step: object,
) -> Tensor:
    """A policy's conditional_sample: what is known is written in before every call, and at the end."""
    scheduler.set_timesteps(steps)
    mask, value = (
        (torch.zeros_like(x).bool(), x) if known is None else (known[0].bool().expand_as(x), known[1].expand_as(x))
    )
    for t in scheduler.timesteps:
        x = torch.where(mask, value, x)
        x = scheduler.step(model(x, t), t, x, **step).prev_sample
    return torch.where(mask, value, x)


def scheduler_of(cls: str, **config: object) -> object:
    diffusers = pytest.importorskip("diffusers", reason="the diffusers extra is not installed")
    usual = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "clip_sample": True}
    return getattr(diffusers, cls)(**{**usual, **config})


KNOWN = torch.zeros(HORIZON, ACTIONS)
KNOWN[0] = KNOWN[3, 1] = 1.0
VALUE = torch.tensor([0.3, -0.2, 0.9])


@pytest.mark.parametrize("known", [None, (KNOWN, VALUE)], ids=["plain", "overwritten"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_is_the_policys_loop(prediction: str, known: tuple[Tensor, Tensor] | None) -> None:
    net, scheduler = UNet1D(), scheduler_of("DDIMScheduler", prediction_type=prediction)
    model = policy.wrap(net, scheduler, horizon=HORIZON, action_dim=ACTIONS, nfe=10)
    sampler = Sampler(model, SHAPE, solver="ddim", grid=LEADING, clip=1.0)
    assert sampler.plan.nfe == 10
    x = normals(*SHAPE)
    out = sampler(x_init=x, model_kwargs=OBSERVED, overwrite=known)
    expected = loop(scheduler, 10, lambda x, t: net(x, t, **OBSERVED), x, known, use_clipped_model_output=True)
    torch.testing.assert_close(out, expected, rtol=0.0, atol=2e-5)
    if known is not None:
        assert torch.equal(out[:, 0], VALUE.expand(2, 3))


def test_diffusers_keeps_the_noise_of_what_it_has_clipped() -> None:
    """Without use_clipped_model_output its DDIM goes on with a noise that no longer belongs to the clipped data."""
    net, scheduler = UNet1D(), scheduler_of("DDIMScheduler")
    model = policy.wrap(net, scheduler, horizon=HORIZON, action_dim=ACTIONS)
    out = Sampler(model, SHAPE, solver="ddim", grid=LEADING, steps=10, clip=1.0)(x_init=normals(*SHAPE))
    theirs = loop(scheduler, 10, net, normals(*SHAPE))
    assert (out - theirs).abs().max() > 0.1


def test_ddpm_is_the_policys_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    net, scheduler = UNet1D(), scheduler_of("DDPMScheduler", variance_type="fixed_small")
    model = policy.wrap(net, scheduler, horizon=HORIZON, action_dim=ACTIONS)
    sampler = Sampler(model, SHAPE, solver="ddpm", grid=LEADING, steps=100, clip=1.0)
    assert (sampler.plan.nfe, sampler.plan.draws) == (100, 99)
    x, draws = normals(*SHAPE), [normals(*SHAPE, seed=100 + i) for i in range(99)]
    left = iter(draws)
    import diffusers.schedulers.scheduling_ddpm as module

    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(left))
    out = sampler(x_init=x, model_kwargs=OBSERVED, noise=draws, overwrite=(KNOWN, VALUE))
    expected = loop(scheduler, 100, lambda x, t: net(x, t, **OBSERVED), x, (KNOWN, VALUE))
    torch.testing.assert_close(out, expected, rtol=0.0, atol=2e-5)
    assert next(left, None) is None


def test_the_table_is_that_of_diffusers_but_for_its_rounding() -> None:
    theirs = scheduler_of("DDPMScheduler").alphas_cumprod.double()
    ours = torch.tensor(schedules.squared_cosine(100).alphas_cumprod, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0.0)
    assert policy.wrap(UNet1D(), horizon=2, action_dim=3).schedule == schedules.squared_cosine(100)
    bar = math.cos(0.5 * math.pi * (50 / 100 + 0.008) / 1.008) ** 2 / math.cos(0.5 * math.pi * 0.008 / 1.008) ** 2
    assert ours[49].item() == pytest.approx(bar, rel=1e-12)  # equation 17, where no beta is capped


def test_the_network_sees_what_is_known_at_every_call() -> None:
    net, seen = UNet1D(), []

    def model(x: Tensor, t: Tensor, **kwargs: Tensor) -> Tensor:
        seen.append(x[:, 0].clone())
        return net(x, t, **kwargs)

    made = policy.wrap(model, horizon=HORIZON, action_dim=ACTIONS)
    Sampler(made, SHAPE, solver="ddim", grid=LEADING, steps=8)(overwrite=(KNOWN, VALUE), model_kwargs=OBSERVED)
    assert len(seen) == 8
    assert all(torch.equal(x, VALUE.expand(2, 3)) for x in seen)


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver_2", "seeds3", "dpmpp_sde"])
def test_whole_steps_are_told_and_computed_with(solver: str) -> None:
    """Inner nodes too: the index that an embedding is asked for is the level of the coefficients."""
    net = UNet1D(integer=True)
    model = policy.wrap(net, horizon=HORIZON, action_dim=ACTIONS, whole_steps=True)
    sampler = Sampler(model, SHAPE, solver=solver, steps=8, clip=1.0)
    assert sampler().isfinite().all()
    assert [t.dtype for t in net.told] == [torch.int64] * sampler.plan.nfe
    assert [t[0].item() for t in net.told] == [call.t for call in sampler.plan.evals]
    table = schedules.squared_cosine(100)
    assert all(call.alpha == table.node(call.t).alpha for call in sampler.plan.evals)


def test_whole_steps_of_integer_levels_change_nothing() -> None:
    model = policy.wrap(UNet1D(), horizon=HORIZON, action_dim=ACTIONS)
    whole = policy.wrap(UNet1D(), horizon=HORIZON, action_dim=ACTIONS, whole_steps=True)
    run = {"solver": "dpmpp_2m", "grid": LEADING, "steps": 10}
    assert_bits_equal(Sampler(model, SHAPE, **run)(seed=4), Sampler(whole, SHAPE, **run)(seed=4))
    with pytest.raises(ValueError, match=r"are both .* of the levels that the model knows: take fewer steps"):
        make_plan("ddim", schedule=whole.schedule, grid="karras", steps=60)


def test_local_conditioning_and_robots_of_their_own_seed() -> None:
    """One batch of two robots is two batches of one: seeds and conditions go with the sample."""
    model = policy.wrap(UNet1D(), horizon=HORIZON, action_dim=ACTIONS, nfe=8)
    local = normals(2, HORIZON, 5, seed=9)
    given = {"solver": "ddim", "grid": LEADING}
    both = Sampler(model, SHAPE, **given)(seed=[7, 8], model_kwargs={**OBSERVED, "local_cond": local})
    for i in range(2):
        conditions = {"global_cond": OBSERVED["global_cond"][i : i + 1], "local_cond": local[i : i + 1]}
        alone = Sampler(model, (1, HORIZON, ACTIONS), **given)(seed=[7 + i], model_kwargs=conditions)
        torch.testing.assert_close(alone[0], both[i], rtol=0.0, atol=1e-5)


def test_refusals() -> None:
    net, sizes = UNet1D(), {"horizon": HORIZON, "action_dim": ACTIONS}
    with pytest.raises(
        ValueError, match="101 inference steps are more than the 100 of training: give nfe of at most 100"
    ):
        policy.wrap(net, nfe=101, **sizes)
    for grid in (LEADING, "trailing", None):
        with pytest.raises(ValueError, match="101 levels do not fit a table of 100"):
            Sampler(policy.wrap(net, **sizes), SHAPE, solver="ddim", grid=grid, steps=101)
    with pytest.raises(ValueError, match="prediction must be 'epsilon', 'sample', 'v_prediction', not 'eps'"):
        policy.wrap(net, prediction="eps", **sizes)
    with pytest.raises(TypeError, match=r"scheduler \(dict\) has no alphas_cumprod and no config"):
        policy.wrap(net, {"num_train_timesteps": 100}, **sizes)
    for given in ({"prediction": "sample"}, {"train_steps": 50}):
        with pytest.raises(
            ValueError, match="train_steps and prediction are read from the scheduler: give it, or them"
        ):
            policy.wrap(net, object(), **given, **sizes)
    with pytest.raises(ValueError, match="a table needs at least two steps, not 1"):
        policy.wrap(net, train_steps=1, **sizes)
    with pytest.raises(ValueError, match=r"shape must be \(B, 16, 3\)"):
        Sampler(policy.wrap(net, **sizes), (2, ACTIONS, HORIZON), solver="ddim", steps=3)
