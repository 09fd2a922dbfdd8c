"""PhysicsNeMo's predictors and noise schedulers here, and our one-step solvers in its loop; on stand-ins of its protocols."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Sampler, make_plan, schedules
from fastsolve.adapters import physicsnemo
from problems import plane_mixture

LAW = plane_mixture()


class EDM:
    """timesteps, alpha and sigma as an EDM noise scheduler's: Karras levels, then 0."""

    def timesteps(self, num_steps: int, *, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
        i = torch.arange(num_steps, dtype=dtype)
        t = (80.0 ** (1 / 7) + i / (num_steps - 1) * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
        return torch.cat([t, torch.zeros(1, dtype=dtype)])

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t


class VP(EDM):
    """alpha^2 + sigma^2 = 1, linear beta from 0.1 to 20."""

    def timesteps(self, num_steps: int, *, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
        return torch.cat([torch.linspace(1.0, 1e-3, num_steps, dtype=dtype), torch.zeros(1, dtype=dtype)])

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * (0.1 * t + 9.95 * t * t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-(0.1 * t + 9.95 * t * t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -(0.05 + 9.95 * t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return (0.05 + 9.95 * t) * self.alpha(t) ** 2 / self.sigma(t)


class Straight(EDM):
    """Flow matching."""

    def timesteps(self, num_steps: int, *, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
        return torch.linspace(1.0, 0.0, num_steps + 1, dtype=dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t


def predictor(scheduler: EDM, kind: str, x: Tensor, t: Tensor) -> Tensor:
    assert t.shape == (len(x),)  # always one time for each sample
    alpha, sigma = scheduler.alpha(t.double()).reshape(-1, 1), scheduler.sigma(t.double()).reshape(-1, 1)
    x0 = LAW.denoise(x.double(), alpha, sigma)
    eps = (x.double() - alpha * x0) / sigma
    dots = (0.0, 1.0) if type(scheduler) is EDM else (-1.0, 1.0)
    if type(scheduler) is VP:
        dots = (scheduler.alpha_dot(t.double()).reshape(-1, 1), scheduler.sigma_dot(t.double()).reshape(-1, 1))
    answers = {"x0": x0, "epsilon": eps, "score": -eps / sigma, "velocity": dots[0] * x0 + dots[1] * eps}
    return answers[kind].to(x.dtype)


def wrapped(scheduler: EDM, kind: str = "x0", **facts: object) -> fastsolve.Denoiser:
    given = {f"{kind}_predictor": lambda x, t: predictor(scheduler, kind, x, t)}
    return physicsnemo.wrap(scheduler, shape=(2,), **given, **facts)


def noise(batch: int = 4) -> Tensor:
    return torch.randn(batch, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def their_heun(scheduler: EDM, x: Tensor, steps: int) -> Tensor:
    """The ODE dx/dt by Heun's rule in t, Euler's to t = 0, as its `sample` does for an x0 predictor and alpha = 1."""
    levels = scheduler.timesteps(steps, dtype=x.dtype)

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return (x - predictor(scheduler, "x0", x, t.expand(len(x)))) / t

    for s, t in itertools.pairwise(levels):
        d = slope(x, s)
        ahead = x + (t - s) * d
        x = ahead if t == 0.0 else x + (t - s) * 0.5 * (d + slope(ahead, t))
    return x


def their_sample(xN: Tensor, noise_scheduler: EDM, num_steps: int, solver: physicsnemo.Stepper) -> Tensor:
    """The loop of its `sample` with a solver object."""
    levels, x = noise_scheduler.timesteps(num_steps, dtype=xN.dtype), xN
    for i in range(num_steps):
        x = solver.step(x, levels[i].expand(len(x)), levels[i + 1].expand(len(x)))
    return x


def test_the_newcomers_path() -> None:
    scheduler = EDM()
    model = physicsnemo.wrap(scheduler, x0_predictor=lambda x, t: predictor(scheduler, "x0", x, t), shape=(2,))
    out = fastsolve.sample(model, (4, 2), solver="dpmpp_2m", steps=12)
    assert out.isfinite().all()


def test_heun_on_their_levels_is_their_heun() -> None:
    scheduler, z = EDM(), noise()
    sampler = Sampler(
        wrapped(scheduler), z.shape, solver="heun", grid=physicsnemo.Levels(scheduler), steps=12, dtype=torch.float64
    )
    assert sampler.plan.nfe == 23  # and not 24: the last step's second call is masked away there
    torch.testing.assert_close(sampler(x_init=80.0 * z), their_heun(scheduler, 80.0 * z, 12), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("cls", [EDM, VP, Straight])
@pytest.mark.parametrize("kind", ["x0", "epsilon", "score", "velocity"])
def test_every_predictor_gives_the_same_samples(cls: type[EDM], kind: str) -> None:
    z, start = noise(), 1.0 if kind in ("x0", "velocity") else 0.99
    scheduler = cls()
    levels = [t * start for t in scheduler.timesteps(10, dtype=torch.float64).tolist()]
    run = {"solver": "dpmpp_2m", "grid": levels, "dtype": torch.float64}
    sampler = Sampler(wrapped(scheduler, kind), z.shape, **run)
    plain = Sampler(wrapped(scheduler, "x0"), z.shape, **run)
    x = z * sampler.plan.start_std
    torch.testing.assert_close(sampler(x_init=x), plain(x_init=x), rtol=0.0, atol=1e-9)


def test_laws_are_recognised() -> None:
    found = physicsnemo.schedule_of(EDM())
    assert type(found) is schedules.VE
    assert (found.t_min, found.t_max) == pytest.approx((0.002, 80.0), rel=1e-14)
    assert physicsnemo.schedule_of(Straight()) == schedules.Flow()
    law, ours = physicsnemo.schedule_of(VP()), schedules.VP()
    assert isinstance(law, physicsnemo.Law)
    for t in (1e-3, 0.02, 0.37, 0.9, 1.0):
        node = ours.node(t)
        assert law.node(t) == pytest.approx(node, rel=1e-12)
        assert law.at_lam(node.lam).t == pytest.approx(t, rel=1e-11)


class Halved(torch.nn.Module):
    """Weights in half precision under a preconditioner that computes and answers in the dtype of x, as PhysicsNeMo's do."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (predictor(EDM(), "x0", x, t) * self.gain).to(x.dtype)


def test_a_predictor_is_called_in_the_dtype_of_the_state() -> None:
    x = (80.0 * noise()).float()
    run = {"solver": "heun", "grid": [80.0, 3.0, 0.1, 0.0]}
    model = physicsnemo.wrap(EDM(), x0_predictor=Halved(), shape=(2,))
    assert_bits_equal(Sampler(model, x.shape, **run)(x_init=x), Sampler(wrapped(EDM()), x.shape, **run)(x_init=x))


def test_every_run_of_a_stepper_has_its_seed_or_a_generators_next() -> None:
    scheduler, x = EDM(), 80.0 * noise()
    for seed, same in ((7, True), (torch.Generator().manual_seed(7), False)):
        stepper = physicsnemo.Stepper(wrapped(scheduler), scheduler, 3, solver="euler_ancestral", seed=seed)
        one, two = (their_sample(x, scheduler, 3, stepper) for _ in range(2))
        assert torch.equal(one, two) == same


def test_a_noise_scheduler_needs_no_hash() -> None:
    """It may be a dataclass that can be changed: plans are cached by which one it is, and not by what it calls equal."""

    @dataclass
    class Plain(VP):
        top: float = 1.0

        def timesteps(self, num_steps: int, *, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
            return self.top * super().timesteps(num_steps, dtype=dtype)

    one, other = Plain(), Plain()
    plans = [
        make_plan("heun", schedule=physicsnemo.schedule_of(s), grid=physicsnemo.Levels(s), steps=5)
        for s in (one, one, other)
    ]
    assert one == other
    assert plans[0] is plans[1] is not plans[2]
    one.top = 0.5
    again = make_plan("heun", schedule=physicsnemo.schedule_of(one), grid=physicsnemo.Levels(one), steps=5)
    assert again.levels[0][0] == 0.5


def test_a_law_that_is_asked_takes_every_grid_and_inner_nodes() -> None:
    z = noise()
    run = {"solver": "dpmpp_3s", "grid": "karras", "steps": 6, "dtype": torch.float64}
    model = wrapped(VP())
    ours = fastsolve.Denoiser(model.model, "vp", "x0", shape=(2,))
    out = Sampler(model, z.shape, **run)(x_init=z)
    torch.testing.assert_close(out, Sampler(ours, z.shape, **run)(x_init=z), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_3s", "seeds2", "euler_ancestral"])
@pytest.mark.parametrize("cls", [EDM, Straight])
def test_steps_in_their_loop_are_the_whole_run(cls: type[EDM], solver: str) -> None:
    """Draws go on from step to step: two steps never share noise."""
    scheduler = cls()
    model = wrapped(scheduler)
    levels = [*physicsnemo.Levels(scheduler).positive(model.schedule, 8), 0.0]
    whole = Sampler(model, (4, 2), solver=solver, grid=levels, dtype=torch.float64)
    x = noise() * whole.plan.start_std
    stepper = physicsnemo.Stepper(model, scheduler, 8, solver=solver, seed=3)
    assert_bits_equal(their_sample(x, scheduler, 8, stepper), whole(x_init=x, seed=3))


def test_churn_is_that_of_the_whole() -> None:
    scheduler, options = EDM(), {"s_churn": 20.0, "s_tmin": 0.05, "s_tmax": 50.0}
    model = wrapped(scheduler)
    whole = Sampler(
        model,
        (4, 2),
        solver="heun",
        grid=[*scheduler.timesteps(8, dtype=torch.float64).tolist()],
        dtype=torch.float64,
        options=options,
    )
    stepper = physicsnemo.Stepper(model, scheduler, 8, options=options, seed=5)
    out = their_sample(noise() * 80.0, scheduler, 8, stepper)
    torch.testing.assert_close(out, whole(x_init=noise() * 80.0, seed=5), rtol=0.0, atol=1e-12)
    again = physicsnemo.Stepper(model, scheduler, 8, options=options, seed=6)
    assert (their_sample(noise() * 80.0, scheduler, 8, again) - out).abs().max() > 1e-2


def test_float32_steps_and_threads_share_a_stepper() -> None:
    scheduler = EDM()
    model = wrapped(scheduler)
    x = (80.0 * noise()).float()
    expected = their_sample(x, scheduler, 6, physicsnemo.Stepper(model, scheduler, 6, solver="seeds2"))
    stepper = physicsnemo.Stepper(model, scheduler, 6, solver="seeds2")  # has made nothing yet
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: their_sample(x, scheduler, 6, stepper), range(8)):
            assert_bits_equal(out, expected)


def test_refusals() -> None:
    scheduler = EDM()
    with pytest.raises(
        ValueError, match="give one of x0_predictor, score_predictor, epsilon_predictor, velocity_predictor, not none"
    ):
        physicsnemo.wrap(scheduler)
    with pytest.raises(ValueError, match="not x0_predictor and score_predictor"):
        physicsnemo.wrap(scheduler, x0_predictor=print, score_predictor=print)
    with pytest.raises(ValueError, match="a velocity on the path of Bare needs its alpha_dot and sigma_dot: give x0_"):
        wrapped(type("Bare", (VP,), {"alpha_dot": None})(), "velocity")
    with pytest.raises(TypeError, match="object has no timesteps and no alpha and no sigma: a law needs them"):
        physicsnemo.wrap(object(), x0_predictor=print)
    for solver in ("dpmpp_2m", "gradient_estimation"):  # the second is of first order
        with pytest.raises(
            ValueError, match=f"{solver} remembers earlier steps, and a step is all it would see: use .*heun"
        ):
            physicsnemo.Stepper(wrapped(scheduler), scheduler, 6, solver=solver)
    stepper = physicsnemo.Stepper(wrapped(scheduler), scheduler, 6)
    with pytest.raises(
        ValueError, match=r"80 to 1 is no step of these levels, whose nearest is 80 to .*same noise scheduler"
    ):
        stepper.step(80.0 * noise(), torch.full((4,), 80.0), torch.full((4,), 1.0))

    class Open(EDM):
        def timesteps(self, num_steps: int, *, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
            return super().timesteps(num_steps, dtype=dtype)[:-1]

    with pytest.raises(
        ValueError, match=r"Open\.timesteps\(6\) must be 7 levels that end in 0, not 6 that end in 0\.002"
    ):
        make_plan("heun", schedule="ve", grid=physicsnemo.Levels(Open()), steps=6)
    assert math.isfinite(stepper.step(80.0 * noise(), *(torch.full((4,), t) for t in scheduler.timesteps(6)[:2])).sum())
