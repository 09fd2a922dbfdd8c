"""Log-likelihoods against closed forms: their order, their estimator, what they are the density of, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Denoiser, grids, likelihood, philox, predictions, schedules
from fastsolve.schedules import Node
from orders import MIDDLE, slope
from problems import Gaussian, Mixture, golden_mixture, plane_mixture

PLANE = plane_mixture()
X = PLANE.draw(8, 1)
STEPS = (32, 128)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def log_density(law: Mixture | Gaussian, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    """log p of alpha data + sigma noise, in closed form."""
    x = x.flatten(1)
    if isinstance(law, Gaussian):
        var = alpha**2 * law.std**2 + sigma**2
        return (-0.5 * (x - alpha * law.mean) ** 2 / var - 0.5 * (math.tau * var).log()).sum(1)
    var = alpha**2 * law.stds**2 + sigma**2
    off = x[:, None] - alpha * law.means
    normal = -off.square().sum(-1) / (2 * var) - 0.5 * law.means.shape[1] * (math.tau * var).log()
    return (law.weights.log() + normal).logsumexp(1)


def with_start_of(law: Mixture, found: Tensor, latent: Tensor, schedule: str, first: Node) -> Tensor:
    """The log-likelihood where sampling starts from noised data, as the closed form has it, and not from noise alone."""
    std = schedules.get(schedule).start_std(first)
    noise = (-0.5 * (latent / std) ** 2 - 0.5 * math.log(math.tau * std**2)).flatten(1).sum(1)
    return found - noise + log_density(law, latent, first.alpha, first.sigma)


def error(solver: str, schedule: str, steps: int, **how: object) -> float:
    """The largest distance from the closed form in the plane."""
    first, *_, last = grids.nodes(MIDDLE, schedules.get(schedule), steps)
    found, latent = fastsolve.log_likelihood(
        PLANE.model(schedule),
        X,
        solver=solver,
        schedule=schedule,
        prediction="x0",
        grid=MIDDLE,
        steps=steps,
        exact=True,
        return_latent=True,
        **how,  # type: ignore[arg-type]
    )
    found = with_start_of(PLANE, found, latent, schedule, first)
    return float((found - log_density(PLANE, X, 1.0, last.sigma / last.alpha)).abs().max())


@pytest.mark.parametrize("schedule", ["ve", "vp", "flow"])
@pytest.mark.parametrize(
    ("solver", "order", "largest"),
    [("euler", 1, 0.1), ("ddim", 1, 0.1), ("heun", 2, 2e-3), ("dpmpp_2m", 2, 2e-3), ("unipc", 2, 2e-4)],
)
def test_it_has_the_order_of_the_solver(solver: str, order: int, largest: float, schedule: str) -> None:
    errors = [error(solver, schedule, steps) for steps in STEPS]
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.15)
    assert errors[-1] < largest


@pytest.mark.parametrize(
    ("solver", "order", "options"),
    [
        ("deis", 2, {}),
        ("dpmpp_3s", 3, {}),
        ("deis_rho_rk", 3, {}),
        ("seeds3", 3, {"eta": 0.0}),
        ("dpmpp_2m", 2, {"form": "noise"}),
    ],
)
def test_other_solvers_and_options(solver: str, order: int, options: dict[str, object]) -> None:
    errors = [error(solver, "ve", steps, options=options) for steps in STEPS]
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("schedule", ["flow", "vp_cosine"])
@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "flow_heun"])
def test_a_start_at_alpha_0_leaves_second_order(solver: str, schedule: str) -> None:
    """Where the noise is all there is, so that its density is exactly that of the start."""
    law = Gaussian(torch.tensor([0.7, -0.2]), torch.tensor([0.35, 0.8]), (2,))
    x, low, errors = law.draw(8, 2), 0.05, []
    end = schedules.get(schedule).node(low)
    assert schedules.get(schedule).node(1.0).alpha == 0.0
    for steps in STEPS:
        levels = [1.0 - (1.0 - low) * i / steps for i in range(steps)] + [low]
        model = law.model(schedule, "v")
        found = fastsolve.log_likelihood(
            model, x, solver=solver, schedule=schedule, prediction="v", grid=levels, exact=True
        )
        errors.append(float((found - log_density(law, x, 1.0, end.sigma / end.alpha)).abs().max()))
    assert slope(STEPS, errors) > 1.8
    assert errors[-1] < 4e-3


def test_two_levels_are_enough() -> None:
    law = Gaussian(0.0, 0.4)
    model = law.model("flow", "flow")
    found = fastsolve.log_likelihood(
        model, law.draw(3), schedule="flow", prediction="flow", grid=[1.0, 0.3, 0.0], exact=True
    )
    assert model.calls == 1
    # One step of DDIM in u = alpha / sigma from 7/3 to 0, y' = D, with D linear in y.
    u, var = 7 / 3, 0.16
    x = law.draw(3)
    y = (0.7 * x / 0.3)[:, 0] * (1.0 - u * var * u / (1 + var * u * u))
    moved = -u * (var * u / (1 + var * u * u))
    spread = likelihood.SPREAD**2
    known = -u * (spread * u / (1 + spread * u * u)) + 0.5 * math.log1p(spread * u * u)
    expected = -0.5 * y**2 - 0.5 * math.log(math.tau) + math.log(7 / 3) + moved - known
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mixture", "tolerance", "start"), [(PLANE, 5e-5, 0.01), (golden_mixture(), 1e-3, 0.05)])
def test_the_whole_way_of_a_schedule(mixture: Mixture, tolerance: float, start: float) -> None:
    """The density of data at the last positive level, of a start at sigma = 80, which data show through by `start` nats at most."""
    x, law = mixture.draw(4, 5), schedules.get("edm")
    how = {"schedule": "edm", "prediction": "edm", "solver": "unipc", "exact": True, "return_latent": True}
    model = mixture.model("edm", "edm")
    found, latent = fastsolve.log_likelihood(model, x, steps=150, **how)
    expected = log_density(mixture, x, 1.0, 0.002)
    right = with_start_of(mixture, found, latent, "edm", law.node(80.0))
    torch.testing.assert_close(right, expected, rtol=0.0, atol=tolerance)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=start)
    levels = grids.get("karras", law).levels(law, 150)
    assert levels[-1] == 0.0
    assert_bits_equal(fastsolve.log_likelihood(model, x, grid=levels[:-1], **how)[0], found)


def of(model: object, x: Tensor = X, **how: object) -> Tensor:
    usual = {"solver": "dpmpp_2m", "grid": [3.0, 1.5, 0.7, 0.3, 0.1, 0.0], "exact": "probes" not in how}
    if not isinstance(model, Denoiser):
        usual |= {"schedule": "ve", "prediction": "x0"}
    found = fastsolve.log_likelihood(model, x, **{**usual, **how})  # type: ignore[arg-type]
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("prediction", ["eps", "v", "flow", "score", "edm"])
def test_every_prediction_says_the_same(prediction: str) -> None:
    torch.testing.assert_close(
        of(PLANE.model("ve", prediction), prediction=prediction), of(PLANE.model("ve")), rtol=1e-10, atol=1e-10
    )


def test_an_input_that_is_scaled() -> None:
    plain = PLANE.model("ve", "edm")

    def scaled(x: Tensor, t: Tensor) -> Tensor:
        return plain(x * (t[:, None] ** 2 + 0.25).sqrt(), t)

    found = of(scaled, prediction=predictions.EDM(0.5, scaled_input=True))
    torch.testing.assert_close(found, of(PLANE.model("ve")), rtol=1e-10, atol=1e-10)


def test_random_probes_have_no_bias() -> None:
    """In the plane v' J v takes two values around the trace, so a log-likelihood takes two, each as often, around the exact one."""
    count = 400
    x, exact = X[:1].repeat(count, 1), of(PLANE.model("ve"), X[:1])
    found = of(PLANE.model("ve"), x, probes=1, seed=11)
    values = found.unique()
    (low, high) = values[0], values[-1]
    assert high - low > 0.01
    assert bool(((found - low).abs() < 1e-9).logical_or((found - high).abs() < 1e-9).all())
    torch.testing.assert_close(0.5 * (low + high), exact[0], rtol=1e-9, atol=1e-9)
    assert abs(int((found > exact).sum()) - count / 2) < 4 * math.sqrt(count) / 2


def test_their_mean_is_the_exact_value_in_many_dimensions() -> None:
    mixture, count = golden_mixture(), 300
    x = mixture.draw(1, 3)
    how = {"solver": "heun", "grid": [20.0, 3.0, 1.0, 0.4, 0.15, 0.05]}
    exact = of(mixture.model("ve"), x, **how)
    spread = []
    for probes in (1, 4):
        found = of(mixture.model("ve"), x.repeat(count, 1, 1, 1), probes=probes, seed=2, **how)
        spread.append(float(found.std()))
        assert spread[-1] > 0.1
        assert abs(float(found.mean() - exact)) < 4 * spread[-1] / math.sqrt(count)
    assert spread[0] / spread[1] == pytest.approx(2.0, rel=0.2)


def test_probes_are_independent_of_the_noise_of_the_same_seed() -> None:
    """They would be biased for samples made with that seed."""
    setting = fastsolve.Sampler(PLANE.model("ve"), (1, 4096), schedule="ve", prediction="x0", steps=1).setting
    keys = philox.sample_seeds(4, 1)
    signs = likelihood._signs(setting, keys, 2)
    noise = [torch.from_numpy(philox.normals(keys, 4096, 0, stream)).sign() for stream in (0, 1)]
    for one, other in combinations([*(v * math.sqrt(2.0) for v in signs), *noise], 2):
        assert abs(float((one * other).sum())) < 4 * math.sqrt(4096)
    torch.testing.assert_close(sum(v.square() for v in signs), torch.ones(1, 4096))


def test_samples_do_not_depend_on_their_batch() -> None:
    mixture = golden_mixture()
    x = mixture.draw(3, 3)
    together = of(mixture.model("ve"), x, probes=2, seed=[5, 6, 7])
    assert_bits_equal(of(mixture.model("ve"), x, probes=2, seed=[5, 6, 7]), together)
    for i in range(3):
        alone = of(mixture.model("ve"), x[i : i + 1], probes=2, seed=5 + i)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-12, atol=1e-12)
    assert bool((of(mixture.model("ve"), x, probes=2, seed=8) != together).all())


def test_guidance_and_arguments_of_the_model() -> None:
    """The density of what guided sampling samples: that of the combined model, called twice."""
    narrow, wide = Gaussian(0.5, 0.3, (2,)).model("ve"), Gaussian(-0.2, 0.9, (2,)).model("ve")

    def model(x: Tensor, t: Tensor, label: str) -> Tensor:
        return (narrow if label == "narrow" else wide)(x, t)

    denoiser = Denoiser(model, "ve", "x0", null={"label": "wide"})
    found = of(denoiser, guidance=1.5, model_kwargs={"label": "narrow"})
    assert (narrow.calls, wide.calls) == (4, 4)
    expected = of(lambda x, t: 1.5 * narrow(x, t) - 0.5 * wide(x, t))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of(denoiser, model_kwargs={"label": "wide"}), of(wide), rtol=0.0, atol=0.0)
    given = {"model_kwargs": {"label": "narrow"}, "negative_kwargs": {"label": "wide"}}
    negative = of(Denoiser(model, "ve", "x0", null={}), guidance=1.5, **given)
    torch.testing.assert_close(negative, found, rtol=0.0, atol=0.0)
    between = fastsolve.Guidance(lambda node: 1.0 + node.t, interval=(0.3, 0.7))

    def combined(x: Tensor, t: Tensor) -> Tensor:
        w = 1.0 + t[0].item() if 0.3 <= t[0].item() <= 0.7 else 1.0
        return w * narrow(x, t) + (1.0 - w) * wide(x, t)

    scheduled = of(denoiser, guidance=between, model_kwargs={"label": "narrow"})
    torch.testing.assert_close(scheduled, of(combined), rtol=1e-12, atol=1e-12)


def test_what_is_left_behind() -> None:
    """No gradient, no change of the model or of x; callable in every mode of autograd; half of the digits for float32."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    denoiser = Denoiser(lambda x, t: model(x), "ve", "x0", dtype=torch.float32)
    x = X.clone().requires_grad_()
    found = of(denoiser, x)
    assert not found.requires_grad
    assert found.dtype == torch.float64
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert_bits_equal(of(denoiser, X.clone()), found)
    for single in (of(denoiser, X.float()), of(denoiser, X, dtype=torch.float32)):
        torch.testing.assert_close(single, found, rtol=1e-5, atol=1e-5)


def test_shapes() -> None:
    """Scalars, and the latent as the plan's noise: walked back by the sampler, in small steps, it is x again."""
    law = Gaussian(0.3, 0.5, ())
    x = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    assert of(lambda x, t: law.denoise(x, torch.ones_like(x), t), x).shape == (5,)
    mixture = golden_mixture()
    x = mixture.draw(2, 3)
    how = {"schedule": "vp", "prediction": "v", "solver": "dpmpp_3s", "grid": MIDDLE, "steps": 100}
    found, latent = fastsolve.log_likelihood(mixture.model("vp", "v"), x, return_latent=True, **how)
    assert found.shape == (2,)
    assert latent.shape == x.shape
    end = grids.nodes(MIDDLE, schedules.get("vp"), 100)[-1]
    back = fastsolve.sample(mixture.model("vp", "v"), x_init=latent, dtype=torch.float64, **how)
    torch.testing.assert_close(back, end.alpha * x, rtol=0.0, atol=1e-4)


def test_a_budget_is_kept() -> None:
    for schedule, solver in (("flow", "heun"), ("edm", "heun"), ("flow", "dpmpp_2m"), ("vp", "dpmpp_3s")):
        model = PLANE.model(schedule, "v")
        how = {"schedule": schedule, "prediction": "v", "solver": solver}
        fastsolve.log_likelihood(model, X, nfe=20, **how)
        assert 16 <= model.calls <= 20
        stated = PLANE.model(schedule, "v")
        fastsolve.log_likelihood(Denoiser(stated, schedule, "v", nfe=20), X, solver=solver)
        assert stated.calls == model.calls


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"solver": "seeds3"}, r"seeds3 draws noise, .* \(heun, .* options=\{'eta': 0.0\}"),
        ({"solver": "ddim", "options": {"eta": 1.0}}, "ddim draws noise"),
        ({"solver": "tada"}, "the state of tada has several variables"),
        ({"solver": "hein"}, "unknown solver 'hein'; nearest is"),
        ({"probes": 0}, "probes must be a positive int"),
        ({"probes": True}, "probes must be a positive int"),
        ({"probes": 2, "exact": True}, "left out with exact=True"),
        ({"grid": [1.0, 0.0]}, "1 level above 0, and a likelihood needs two"),
        ({"steps": 3}, "5 steps, not 3"),
        ({"guidance": 2.0}, "guidance needs the unconditional call"),
        ({"x": X.to(torch.bfloat16)}, r"float32 or torch\.float64, not torch\.bfloat16"),
        ({"dtype": torch.float16}, r"float32 or torch\.float64, not torch\.float16"),
        ({"model_kwargs": [1]}, "model_kwargs must be a dict"),
        ({"seed": [1, 2]}, "seed has 2 entries for a batch of 8"),
    ],
)
def test_refusals_before_the_model_is_called(how: dict[str, object], text: str) -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("called")

    with pytest.raises((ValueError, TypeError), match=text):
        of(never, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["euler_cfg_pp", "dpmpp_2m_cfg_pp"])
def test_cfg_pp_has_a_likelihood_without_guidance_alone(solver: str) -> None:
    denoiser = Denoiser(lambda x, t, shift=0.0: PLANE.model("ve")(x, t) + shift, "ve", "x0", null={"shift": 0.1})
    base = {"euler_cfg_pp": "ddim", "dpmpp_2m_cfg_pp": "dpmpp_2m"}[solver]
    torch.testing.assert_close(of(denoiser, solver=solver), of(denoiser, solver=base), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=f"guided steps of {solver} are those of no ODE"):
        of(denoiser, solver=solver, guidance=0.6)


def test_refusals_of_x_and_of_models() -> None:
    with pytest.raises(TypeError, match=r"x must be a floating tensor \[B, \*sample\], not torch.uint8"):
        of(PLANE.model("ve"), X.to(torch.uint8))
    with pytest.raises(TypeError, match="x must be a floating tensor"):
        of(PLANE.model("ve"), X.tolist())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples of shape"):
        of(Denoiser(PLANE.model("ve"), "ve", "x0", shape=(3,)))
    with pytest.raises(ValueError, match=r"eps-prediction says nothing about x0 at alpha = 0"):
        of(PLANE.model("flow", "eps"), schedule="flow", prediction="eps", grid=[1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"the model at t = 0.1 lets no gradient pass"):
        of(torch.no_grad()(PLANE.model("ve", "eps")), prediction="eps")
    with pytest.raises(ValueError, match=r"the model at t = 0.1 returned \[8, 1\]"):
        of(lambda x, t: x[:, :1])
    with pytest.raises(ValueError, match="returned NoneType"):
        of(lambda x, t: None)
