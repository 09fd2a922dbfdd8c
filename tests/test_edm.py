"""EDM and EDM2 networks by their attributes: equality with the published recurrence, rounded levels, autoguidance, seeds."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastsolve
from catalogue import SOLVERS
from fastsolve import Sampler, make_plan, schedules
from fastsolve.adapters import edm
from problems import golden_mixture

LAW = golden_mixture()
SHAPE = (3, 4, 4)


class Precond(torch.nn.Module):
    """D = c_skip x + c_out F(c_in x, c_noise, labels), F such that D is the exact denoiser of data moved by the class, if there is one."""

    def __init__(self, label_dim: int = 0, sharp: float = 1.0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.img_channels, self.img_resolution, self.label_dim = 3, 4, label_dim
        self.sigma_data, self.sigma_min, self.sigma_max = 0.42, 0.0, math.inf  # the defaults of EDMPrecond
        self.moves = torch.nn.Parameter(torch.linspace(-1.0, 1.0, max(label_dim, 1)).double())
        self.sharp, self.dtype, self.asked = sharp, dtype, []

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return torch.as_tensor(sigma)

    def F(self, y: Tensor, c_noise: Tensor, move: Tensor) -> Tensor:
        sigma = (4.0 * c_noise).exp()
        x = y * (sigma**2 + self.sigma_data**2).sqrt()
        x0 = move + self.sharp * LAW.denoise(x - move, torch.ones_like(sigma), sigma)
        skip = self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        return (x0 - skip * x) * (sigma**2 + self.sigma_data**2).sqrt() / (sigma * self.sigma_data)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **kwargs: object) -> Tensor:
        self.asked.append(sigma.double().flatten()[0].item())
        out = x.dtype if self.dtype is None else self.dtype
        labels = torch.zeros(1, max(self.label_dim, 1)) if class_labels is None else class_labels
        x, s = x.double(), sigma.double().reshape(-1, 1, 1, 1).expand(len(x), 1, 1, 1)
        move = (labels.double() @ self.moves).reshape(-1, 1, 1, 1)
        power = s**2 + self.sigma_data**2
        raw = self.F(x / power.sqrt(), s.log() / 4.0, move)
        return (self.sigma_data**2 / power * x + s * self.sigma_data / power.sqrt() * raw).to(out)


class Discrete(Precond):
    """Knows M levels only, those of improved DDPM (Karras et al. 2022, table 1), and refuses all others."""

    def __init__(self, size: int = 1000) -> None:
        super().__init__()
        u = [0.0]
        for j in range(size, 0, -1):
            a, b = (math.sin(0.5 * math.pi * i / size / 1.008) ** 2 for i in (j - 1, j))
            u.append(math.sqrt((u[-1] ** 2 + 1.0) / max(a / b, 0.001) - 1.0))
        self.register_buffer("u", torch.tensor(u[::-1], dtype=torch.float32))
        self.sigma_min, self.sigma_max = float(self.u[-2]), float(self.u[0])

    def round_sigma(self, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma)
        nearest = (sigma.double().reshape(-1, 1) - self.u.double()).abs().argmin(1)
        return self.u[nearest].reshape(sigma.shape).to(sigma.dtype)

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **kwargs: object) -> Tensor:
        assert torch.equal(self.round_sigma(sigma), sigma), f"the network does not know the level {sigma[0]}"
        return super().forward(x, sigma, class_labels)


def karras(net: Precond, steps: int) -> Tensor:
    """The levels of EDM's sampler, float64, the 0 at their end left out; rounded as it rounds them."""
    low, high = max(0.002, net.sigma_min), min(80.0, net.sigma_max)
    i = torch.arange(steps, dtype=torch.float64)
    return net.round_sigma((high ** (1 / 7) + i / (steps - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7)


def published(
    net: Precond,
    latents: Tensor,
    labels: Tensor | None = None,
    steps: int = 18,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    normals: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Algorithm 2 of the paper, in float64, with the network in its own dtype, as generate.py runs it."""
    t = torch.cat([karras(net, steps), torch.zeros(1, dtype=torch.float64)])
    x, gamma = latents.double() * t[0], min(churn / steps, math.sqrt(2.0) - 1.0)
    for i in range(steps):
        raised = net.round_sigma(t[i] * (1.0 + gamma)) if s_min <= t[i] <= s_max else t[i]
        z = normals() if normals is not None else torch.zeros_like(x)
        x_hat = x + (raised**2 - t[i] ** 2).sqrt() * s_noise * z
        slope = (x_hat - net(x_hat, raised, labels).double()) / raised
        x = x_hat + (t[i + 1] - raised) * slope
        if i < steps - 1:
            ahead = (x - net(x, t[i + 1], labels).double()) / t[i + 1]
            x = x_hat + (t[i + 1] - raised) * (0.5 * slope + 0.5 * ahead)
    return x


def latents(batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_the_newcomers_path() -> None:
    out = fastsolve.sample(edm.wrap(Precond()), (4, *SHAPE), solver="heun", steps=18)
    assert out.shape == (4, *SHAPE)
    assert out.isfinite().all()
    assert fastsolve.sample(edm.wrap(Precond())).shape == (1, *SHAPE)  # all is stated


@pytest.mark.parametrize("make", [Precond, Discrete], ids=["any level", "rounded levels"])
def test_heun_is_the_published_sampler(make: Callable[[], Precond]) -> None:
    net, z = make(), latents()
    sampler = Sampler(edm.wrap(net, dtype=None), z.shape, solver="heun", steps=18, dtype=torch.float64)
    assert sampler.plan.nfe == 35
    expected = published(net, z)
    torch.testing.assert_close(sampler(x_init=z * sampler.plan.start_std), expected, rtol=0.0, atol=1e-12)
    single = Sampler(edm.wrap(net), z.shape, solver="heun", steps=18)
    out = single(x_init=(z * single.plan.start_std).float())
    torch.testing.assert_close(out.double(), expected, rtol=0.0, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("make", [Precond, Discrete], ids=["any level", "rounded levels"])
def test_a_float64_state_over_a_float32_network(make: Callable[..., Precond]) -> None:
    """generate.py's own arithmetic: the state in float64, the network's x and D in float32."""
    net, z = make(), latents()
    net.dtype = torch.float32
    sampler = Sampler(edm.wrap(net), z.shape, solver="heun", steps=18, dtype=torch.float64)
    expected = published(lambda_float32(net), z)
    torch.testing.assert_close(sampler(x_init=z * sampler.plan.start_std), expected, rtol=0.0, atol=1e-12)


def lambda_float32(net: Precond) -> Precond:
    """The network as EDM's are: x and sigma become float32 inside."""
    plain = type(net).forward
    inside = type("Float32", (type(net),), {"forward": lambda self, x, s, c=None: plain(self, x.float(), s.float(), c)})
    net.__class__ = inside
    return net


CHURN = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}


class Stacked:
    """One generator per sample, as StackedRandomGenerator."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed % 2**32) for seed in seeds]

    def randn(self, dtype: torch.dtype) -> Tensor:
        return torch.stack([torch.randn(SHAPE, generator=g, dtype=dtype) for g in self.generators])

    def classes(self, count: int) -> Tensor:
        return torch.stack([torch.randint(count, size=(), generator=g) for g in self.generators])


@pytest.mark.parametrize("make", [Precond, Discrete], ids=["any level", "rounded levels"])
@pytest.mark.parametrize("churn", [{}, CHURN], ids=["ode", "churn"])
def test_seeds_of_generate_py_give_its_images(make: Callable[[], Precond], churn: dict[str, float]) -> None:
    net, seeds = make(), [3, 2**32 + 7]
    sampler = Sampler(
        edm.wrap(net, dtype=None), (2, *SHAPE), solver="heun", steps=18, dtype=torch.float64, options=churn
    )
    theirs = Stacked(seeds)
    start = theirs.randn(torch.float32)
    expected = published(net, start, None, 18, *churn.values(), normals=lambda: theirs.randn(torch.float64))
    given = edm.stacked_noise(sampler, seeds)
    assert (
        len(given["noise"]) == sampler.plan.draws == (sum(0.05 <= t <= 50.0 for t in karras(net, 18)) if churn else 0)
    )
    torch.testing.assert_close(sampler(**given), expected, rtol=0.0, atol=1e-12)


def test_edm2_draws_where_churn_raises_the_level_only() -> None:
    net, seeds = Precond(), [0, 1]
    sampler = Sampler(
        edm.wrap(net, dtype=None), (2, *SHAPE), solver="heun", steps=18, dtype=torch.float64, options=CHURN
    )
    theirs, levels = Stacked(seeds), karras(net, 18).tolist()
    start, left = theirs.randn(torch.float32), iter(levels)

    def normals() -> Tensor:
        return theirs.randn(torch.float64) if 0.05 <= next(left) <= 50.0 else torch.zeros(2, *SHAPE)

    expected = published(net, start, None, 18, *CHURN.values(), normals=normals)
    out = sampler(**edm.stacked_noise(sampler, seeds, every_step=False))
    torch.testing.assert_close(out, expected, rtol=0.0, atol=1e-12)
    assert (out - sampler(**edm.stacked_noise(sampler, seeds))).abs().max() > 1e-3


def test_random_classes_are_drawn_after_the_latents() -> None:
    net, seeds = Precond(label_dim=5), [4, 5, 6]
    sampler = Sampler(edm.wrap(net, dtype=None), (3, *SHAPE), solver="heun", steps=18, dtype=torch.float64)
    theirs = Stacked(seeds)
    start = theirs.randn(torch.float32)
    labels = torch.eye(5)[theirs.classes(5)]
    given = edm.stacked_noise(sampler, seeds, labels=5)
    torch.testing.assert_close(sampler(**given), published(net, start, labels), rtol=0.0, atol=1e-12)


def test_stacked_noise_of_a_solver_that_edm_does_not_have() -> None:
    sampler = Sampler(edm.wrap(Precond(), dtype=None), (1, *SHAPE), solver="seeds2", steps=4, dtype=torch.float64)
    given, theirs = edm.stacked_noise(sampler, [9]), Stacked([9])
    assert torch.equal(given["x_init"], theirs.randn(torch.float32).double() * sampler.plan.start_std)
    for z in given["noise"]:
        assert torch.equal(z, theirs.randn(torch.float64))
    with pytest.raises(ValueError, match="2 seeds for a batch of 1"):
        edm.stacked_noise(sampler, [1, 2])


def test_autoguidance_is_lerp() -> None:
    """EDM2: D = ref + guidance (D_net - D_ref), the guide called with the same labels."""
    net, gnet, z = Precond(label_dim=3), Precond(label_dim=3, sharp=0.8), latents()
    labels = torch.eye(3)[[2, 0]]

    class Lerped(Precond):
        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **kwargs: object) -> Tensor:
            return gnet(x, sigma, class_labels).lerp(net(x, sigma, class_labels), 1.7)

    guided = edm.wrap(net, guide=gnet, dtype=None)
    sampler = Sampler(guided, z.shape, solver="heun", steps=18, guidance=1.7, dtype=torch.float64)
    out = sampler(x_init=z * sampler.plan.start_std, model_kwargs={"class_labels": labels})
    torch.testing.assert_close(out, published(Lerped(3), z, labels), rtol=0.0, atol=1e-11)
    assert (out - published(net, z, labels)).abs().max() > 1e-2


def test_guidance_without_a_guide_takes_the_labels_away() -> None:
    net, z = Precond(label_dim=3), latents()
    labels = torch.eye(3)[[2, 0]]

    class Guided(Precond):
        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, **kwargs: object) -> Tensor:
            return net(x, sigma, None).lerp(net(x, sigma, class_labels), 2.0)

    sampler = Sampler(edm.wrap(net, dtype=None), z.shape, solver="heun", steps=18, guidance=2.0, dtype=torch.float64)
    out = sampler(x_init=z * sampler.plan.start_std, model_kwargs={"class_labels": labels})
    torch.testing.assert_close(out, published(Guided(3), z, labels), rtol=0.0, atol=1e-11)
    with pytest.raises(ValueError, match="guidance needs the unconditional call"):
        Sampler(edm.wrap(Precond()), solver="heun", steps=3, guidance=2.0)


def test_what_a_network_states_is_read() -> None:
    made = edm.wrap(Precond())
    assert made.schedule == schedules.EDM(0.002, 80.0, 0.42)
    assert (made.prediction.name, made.shape, made.dtype, made.nfe, made.null) == ("x0", SHAPE, torch.float32, 35, None)
    assert edm.wrap(Precond(2)).null == {"class_labels": None}
    narrow = Precond()
    narrow.sigma_min, narrow.sigma_max, narrow.img_resolution = 0.01, 50.0, [4, 6]
    assert edm.wrap(narrow).schedule == schedules.EDM(0.01, 50.0, 0.42)
    assert edm.wrap(narrow).shape == (3, 4, 6)
    assert edm.wrap(narrow, sigma_max=20.0).schedule.t_max == 20.0
    assert edm.wrap(narrow, shape=[3, 8, 8]).shape == (3, 8, 8)


class Bare(torch.nn.Module):
    """EDM2's Precond states the deviation of its data only."""

    sigma_data = 0.5

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return x / (1.0 + sigma.reshape(-1, 1) ** 2)


def test_what_a_network_does_not_state_has_defaults() -> None:
    made = edm.wrap(Bare())
    assert (made.schedule, made.shape) == (schedules.EDM(), None)
    assert fastsolve.sample(made, (2, 5), solver="dpmpp_2m", steps=8).shape == (2, 5)


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "tada"])
def test_every_call_of_every_solver_is_at_a_level_of_the_network(solver: str) -> None:
    """Grid nodes, inner nodes, churned and renoised ones; the coefficients are those of the same nodes, which a constant keeps."""
    net = Discrete()
    schedule = edm.wrap(net).schedule
    options = {"intervals": [(3, 2, 0.1, 2.0)]} if solver == "restart" else {}
    plan = make_plan(solver, schedule=schedule, steps=12, options=options)
    levels = set(net.u.tolist())
    assert {call.t for call in plan.evals} <= levels
    assert all(call.sigma == call.t for call in plan.evals)
    assert {t for t, _, _ in plan.levels} <= levels


def test_inner_nodes_that_are_rounded_cost_less_than_the_method() -> None:
    """Two- and three-stage solvers ask at the rounded inner node, with its own coefficients where they read the node's."""
    net, z = Discrete(), latents(4)
    plain = Precond()
    plain.sigma_min = net.sigma_min

    def run(model: Precond, solver: str, steps: int = 18) -> Tensor:
        options = {"eta": 0.0} if solver.startswith("seeds") else {}
        sampler = Sampler(
            edm.wrap(model, dtype=None), z.shape, solver=solver, steps=steps, dtype=torch.float64, options=options
        )
        return sampler(x_init=z * sampler.plan.start_std)

    exact = run(plain, "dpm_solver_3", 150)
    for solver in ("dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_3s", "deis_rho_rk", "seeds2", "seeds3"):
        rounded, free = ((run(model, solver) - exact).square().mean().sqrt().item() for model in (net, plain))
        assert rounded < 1.5 * free, solver


def test_levels_that_fall_together_are_refused() -> None:
    schedule = edm.wrap(net := Discrete()).schedule
    assert len(make_plan("heun", schedule=schedule, steps=56).levels) == 57
    both = r"levels [\d.]+ and [\d.]+ are both [\d.]+ of the levels that the model knows: take fewer steps"
    with pytest.raises(ValueError, match=both):
        make_plan("heun", schedule=schedule, steps=256)
    with pytest.raises(ValueError, match=r"levels 80\.1 and 80 are both 80\.2"):
        make_plan("heun", schedule=schedule, grid=[80.1, 80.0, 1.0, 0.0])
    every = make_plan("heun", schedule=schedule, grid="iddpm", steps=256)
    assert {t for t, _, _ in every.levels} <= set(net.u.tolist())


def test_distinct_levels_are_the_walk_of_edm_with_its_idle_steps() -> None:
    net, z = Discrete(), latents(1)
    levels = karras(net, 80).tolist()
    distinct = sorted(set(levels), reverse=True)
    assert len(distinct) < 80
    sampler = Sampler(edm.wrap(net, dtype=None), z.shape, solver="heun", grid=[*distinct, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sampler(x_init=z * levels[0]), published(net, z, steps=80), rtol=0.0, atol=1e-11)
    assert len(make_plan("heun", schedule=edm.wrap(net).schedule, steps=60).levels) == 61
    with pytest.raises(ValueError, match="of the levels that the model knows"):
        make_plan("heun", schedule=edm.wrap(net).schedule, steps=61)


@pytest.mark.parametrize("solver", ["dpm_solver_3", "dpmpp_3s"])
def test_an_inner_node_that_is_rounded_to_the_end_of_its_step_is_told(solver: str) -> None:
    net = Discrete()
    with pytest.raises(ValueError, match=r"a node inside a step may be rounded to its end: take fewer steps"):
        make_plan(solver, schedule=edm.wrap(net).schedule, steps=40)


def test_a_cached_plan_does_not_keep_a_network() -> None:
    net = Discrete()
    make_plan("heun", schedule=edm.wrap(net).schedule, steps=9)
    schedule, gone = edm.wrap(net).schedule, weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="the network whose levels this schedule has is gone"):
        make_plan("heun", schedule=schedule, steps=10)


def test_the_schedule_of_a_network_without_rounding_shares_plans() -> None:
    first = make_plan("heun", schedule=edm.wrap(Precond()).schedule, steps=5)
    assert make_plan("heun", schedule=edm.wrap(Precond()).schedule, steps=5) is first


class Refines(Precond):
    """PhysicsNeMo's super-resolution networks: the level is the third argument, and the channels are those that come out."""

    def __init__(self) -> None:
        super().__init__()
        self.img_in_channels, self.img_out_channels, self.img_channels = 1, 3, 99

    def forward(self, x: Tensor, img_lr: Tensor, sigma: Tensor, force_fp32: bool = False) -> Tensor:
        return super().forward(x - img_lr, sigma) + img_lr


def test_a_network_whose_level_comes_later_is_given_it_by_name() -> None:
    low, z = torch.full((2, 1, 4, 4), 0.75), latents()
    made = edm.wrap(Refines(), guide=Refines(), dtype=None)
    assert made.shape == SHAPE
    sampler = Sampler(made, z.shape, solver="heun", steps=18, guidance=2.0, dtype=torch.float64)
    out = sampler(x_init=z * 80.0 + 0.75, model_kwargs={"img_lr": low})
    torch.testing.assert_close(out - 0.75, published(Precond(), z), rtol=0.0, atol=1e-10)


class Unknown(torch.nn.Module):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x


def refusals() -> Iterator[tuple[str, object, dict[str, object], type[Exception], str]]:
    yield "a path", "net.pkl", {}, TypeError, "loads no pickles, docs/edm.md says how to convert one"
    yield (
        "a checkpoint",
        {"ema": Precond(), "training_set_kwargs": {}},
        {},
        TypeError,
        r"give the network in it, net\['ema'\]",
    )
    yield "an inner network", Unknown(), {}, ValueError, "give the preconditioned network"
    yield "a guide of another kind", Precond(), {"guide": Unknown()}, ValueError, "guide .Unknown. has none of"
    yield (
        "no level left",
        Precond(),
        {"sigma_min": 90.0},
        ValueError,
        "no level is left between sigma_min and sigma_max",
    )
    yield "an infinite range", Precond(), {"sigma_max": math.inf}, ValueError, "no level is left"


@pytest.mark.parametrize(
    ("net", "options", "kind", "message"), [r[1:] for r in refusals()], ids=[r[0] for r in refusals()]
)
def test_refusals(net: object, options: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        edm.wrap(net, **options)
