"""What `benchmarks.quality` runs: solvers with options, grids, problems and budgets; and how one case is measured."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

import fastsolve
from benchmarks import metrics
from fastsolve import Denoiser, Plan, calibrate, grids, models, schedules
from fastsolve.problems import Bias, Gaussian, Ripple, digits_kernel, flawed, golden_mixture

TOP = 150.0  # sigma / alpha where those grids start that cannot at alpha = 0


@dataclass(frozen=True)
class Way:
    """A solver with options, under the name that tables give it."""

    name: str
    solver: str
    options: Mapping[str, object] = field(default_factory=dict)


def _ways() -> Iterator[Way]:
    yield from (Way(name, name) for name in fastsolve.list_solvers() if name != "restart")  # of itself it is its base
    yield Way("deis, order 1", "deis", {"order": 1})
    yield Way("deis, order 2", "deis", {"order": 2})
    yield Way("unipc, order 2", "unipc", {"order": 2})
    yield Way("dpmpp_3m, exact", "dpmpp_3m", {"variant": "exact"})
    yield Way("dpmpp_2m_sde, heun", "dpmpp_2m_sde", {"variant": "heun"})
    yield Way("tada, order 3", "tada", {"order": 3})
    yield Way("tada, last_var 16", "tada", {"last_var": 16.0})
    yield Way("seeds2, phi_2", "seeds2", {"variant": "phi_2"})
    yield Way("seeds3, eta 0.5", "seeds3", {"eta": 0.5})
    yield Way("seeds3, noise", "seeds3", {"form": "noise"})
    yield Way("seeds3, official", "seeds3", {"compat": "official"})
    for churn in (5.0, 10.0, 20.0, 40.0):
        yield Way(f"heun, churn {churn:g}", "heun", {"s_churn": churn, "s_tmin": 0.05, "s_tmax": 50.0})
    # As many settings of Restart as of churn; (levels, k, lowest and highest sigma / alpha), the first two published.
    parts = {
        "narrow": (3, 2, 0.06, 0.30),
        "wide": (7, 2, 0.02, 1.09),
        "high": (8, 2, 0.06, 2.0),
        "often": (7, 5, 0.02, 0.59),
    }
    yield from (Way(f"restart, {name}", "restart", {"intervals": (part,)}) for name, part in parts.items())


DATA = "the data"  # as many samples of the truth: what no solver can beat but by luck
WAYS = {way.name: way for way in _ways()}
GRIDS = {
    "edm": ("karras", "rbe", "uniform_logsnr", "tpoly", "ots"),
    "vp": ("rbe", "karras", "uniform_logsnr", "uniform", "quadratic", "ots"),
    "flow": ("uniform", "rbe", "tpoly"),
}
OWN_GRID = {"fastsolve": "few"}  # beside those of the schedule, the one that it was made with
PROBES = (36, 100)  # many enough that no order is still warming up, and no churn at its cap in both
USUAL = {"edm": "karras", "vp": "rbe", "flow": "uniform"}  # the default of each schedule


@dataclass(frozen=True)
class Size:
    """How much is measured. groups: seeds, of `many` samples of a mixture, `images` digits or `paths` each."""

    exact: tuple[int, ...] = (4, 5, 6, 8, 10, 12, 16, 20, 36, 60, 100)
    budgets: tuple[int, ...] = (5, 8, 12, 20, 36, 60, 100)
    images_at: tuple[int, ...] = (5, 8, 12, 20, 36)
    groups: int = 16
    many: int = 128
    images: int = 24
    paths: int = 4
    ways: tuple[str, ...] = tuple(WAYS)
    only_usual: bool = False


FULL = Size()
SOME = (
    "ddim",
    "dpmpp_2m",
    "unipc",
    "deis",
    "heun",
    "seeds3",
    "dpmpp_2m_sde",
    "sa_solver",
    "restart, narrow",
    "heun, churn 10",
)
QUICK = Size((8, 20, 50), (8, 20), (8, 20), 4, 250, 64, 8, SOME, only_usual=True)


@dataclass(frozen=True)
class Case:
    """One row to come: its key is all of it."""

    question: str
    problem: str
    schedule: str
    way: str
    grid: str
    nfe: int

    @property
    def key(self) -> str:
        return " | ".join(map(str, asdict(self).values()))


QUESTIONS = {
    "gaussian": "Exact W2 to Gaussian data, with a perfect model and with two wrong ones",
    "path": "Distance from the exact end of each path, perfect models",
    "law": "Energy distance to a mixture of five Gaussians, with a perfect model and with three wrong ones",
    "digits": "Frechet distance to real digits: the exact denoiser, the trained network, and one stopped early",
}
# Schedule and problem. A flaw is infinite at alpha = 0, where flow matching starts.
PLACES = {
    "gaussian": tuple(itertools.product(("edm", "vp", "flow"), ("axes",))),
    "path": tuple(itertools.product(("edm", "vp", "flow"), ("mixture", "images"))),
    "law": (
        *itertools.product(("edm",), ("perfect", "bias", "ripple", "early")),
        *itertools.product(("vp",), ("perfect", "bias")),
        ("flow", "perfect"),
    ),
    "digits": tuple(itertools.product(("edm",), ("exact", "trained", "early"))),
}
KEPT = {("law", ""): 2, ("digits", ""): 2, ("digits", "early"): 1}  # of the grids; elsewhere all
FLAWS = {"perfect": None, "bias": Bias(0.03), "ripple": Ripple(0.1, seed=77), "early": Bias(0.1, above=1.0)}


def cases(question: str, size: Size) -> Iterator[Case]:
    """All cases of a question, cheap ones first."""
    places, budgets = PLACES[question], {"law": size.budgets, "digits": size.images_at}.get(question, size.exact)
    if question in ("law", "digits"):
        yield from (Case(question, problem, law, DATA, "-", 0) for law, problem in places)
    for nfe, (law, problem) in itertools.product(sorted(budgets), places):
        ways = [
            way for way in size.ways if way not in twins(law) and (question != "path" or _walks_the_flow(WAYS[way]))
        ]
        layouts = (
            (USUAL[law],) if size.only_usual else GRIDS[law][: KEPT.get((question, problem), KEPT.get((question, "")))]
        )
        for way in ways:
            own = [grid for grid in (OWN_GRID.get(way),) if grid and grid not in layouts]
            yield from (Case(question, problem, law, way, grid, nfe) for grid in (*layouts, *own))


def _walks_the_flow(way: Way) -> bool:
    """Whether its paths are those of the probability flow: no noise, and one variable."""
    noisy = fastsolve.solvers.get(way.solver).stochastic or way.solver == "restart" or way.options.get("s_churn")
    return not noisy and way.solver != "tada"


CALIBRATED = ("rbe_pilot", "rbe_released")  # grids that come of the model of a case
APART = 31  # the seed that calibrates, which is none of those that judge


def denoiser_of(question: str, problem: str, schedule: str) -> Denoiser:
    """The model of a case whose samples are drawn."""
    if question == "digits":
        return _network(problem, schedule)
    model = _walked(problem if question == "path" else "mixture", schedule)
    flaw = FLAWS[problem] if question == "law" else None
    return model if flaw is None else flawed(model, flaw)


@functools.lru_cache(maxsize=64)
def _calibrated(question: str, problem: str, schedule: str, grid: str, steps: int) -> grids.Grid:
    """The grid that a few paths of the model give. Raises ValueError where the released rule finds none of so many steps."""
    model = denoiser_of(question, problem, schedule)

    def classes(count: int) -> dict[str, Tensor] | None:
        return {"class_labels": torch.arange(count) % 10} if question == "digits" and problem != "exact" else None

    if grid == "rbe_pilot":
        return calibrate.rbe_pilot(model, seed=APART, model_kwargs=classes(8))
    return calibrate.rbe_released(model, steps, seed=APART, model_kwargs=classes(64))


def layout(case: Case) -> grids.Grid:
    """The grid, started at TOP where it cannot start at alpha = 0."""
    law, name = schedules.get(case.schedule), case.grid
    if name in CALIBRATED:
        steps = case.nfe if name == "rbe_released" else 0  # the pilot is one for all budgets
        return _calibrated(case.question, case.problem, case.schedule, name, steps)
    grid = grids.get(name, law)
    if law.node(law.t_max).alpha == 0.0 and isinstance(grid, grids.Karras | grids.UniformLogSNR):
        return type(grid)(sigma_max=TOP)
    return grid


def walk(case: Case) -> dict[str, object]:
    """Grid and budget of a case; explicit levels are a budget themselves."""
    grid = layout(case)
    return {"grid": grid, "nfe": None if isinstance(grid, grids.Explicit) else case.nfe}


def plan_of(case: Case) -> Plan:
    """The plan of a case that is not DATA, for a model that predicts data. Raises ValueError where there is none."""
    way, law = WAYS[case.way], schedules.get(case.schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a grid is far off is what is measured
        return fastsolve.make_plan(way.solver, schedule=law, options=way.options, **walk(case))  # type: ignore[arg-type]


Figures = dict[str, list[float]]


def measure(case: Case, size: Size) -> Figures:
    """The figures of a case: one exact figure, a figure and its error, or one of each seed; see MEASURES."""
    return MEASURES[case.question](case, size)


AXES = Gaussian(torch.zeros(16), torch.logspace(math.log10(0.02), math.log10(0.5), 16, dtype=torch.float64), (16,))


def _gaussian(case: Case, size: Size) -> Figures:
    plan, exact = plan_of(case), AXES.denoiser(case.schedule)
    starts_at_noise = schedules.get(case.schedule).node(plan.levels[0][0]).alpha == 0.0
    return {
        name: [metrics.gaussian_w2(*metrics.moments(plan, exact if flaw is None else flawed(exact, flaw)), AXES)]
        for name, flaw in FLAWS.items()
        if flaw is None or not (isinstance(flaw, Ripple) or starts_at_noise)
    }


def _sampler(case: Case, denoiser: Denoiser, batch: int, dtype: torch.dtype) -> fastsolve.Sampler:
    way = WAYS[case.way]
    assert denoiser.shape is not None
    how = {"solver": way.solver, "options": way.options, **walk(case)}
    where = {"dtype": dtype, "executor": "eager" if dtype == torch.float64 else "auto"}
    return fastsolve.Sampler(denoiser, (batch, *denoiser.shape), **how, **where)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=4)
def _walked(problem: str, schedule: str) -> Denoiser:
    return (golden_mixture() if problem == "mixture" else digits_kernel()).denoiser(schedule)


@functools.lru_cache(maxsize=64)
def _end(problem: str, schedule: str, batch: int, first: float) -> Tensor:
    """The exact ends of paths that start at one level: DPM-Solver-3 in 900 calls, right to 1e-7 where 450 are right to 1e-6."""
    denoiser, law = _walked(problem, schedule), schedules.get(schedule)
    start = law.node(first)
    top = min(math.exp(-start.lam), TOP)
    fine = grids.nodes(grids.UniformLogSNR(sigma_max=top), law, 300)
    levels = [first, *(n.t for n in fine[0 if start.alpha == 0.0 else 1 :])]
    assert denoiser.shape is not None
    how = {"solver": "dpm_solver_3", "grid": levels, "dtype": torch.float64, "executor": "eager"}
    return fastsolve.sample(denoiser, x_init=_begin(problem, schedule, batch, first), **how)  # type: ignore[arg-type]


def _begin(problem: str, schedule: str, batch: int, first: float) -> Tensor:
    denoiser, law = _walked(problem, schedule), schedules.get(schedule)
    assert denoiser.shape is not None
    noise = torch.randn(batch, *denoiser.shape, generator=torch.Generator().manual_seed(777), dtype=torch.float64)
    return law.start_std(law.node(first)) * noise


def _path(case: Case, size: Size) -> Figures:
    sampler = _sampler(case, _walked(case.problem, case.schedule), size.groups * size.paths, torch.float64)
    return path_figures(sampler, case.problem, case.schedule, size)


def path_figures(sampler: fastsolve.Sampler, problem: str, schedule: str, size: Size) -> Figures:
    """How far a sampler of size.groups * size.paths paths ends from where they end exactly."""
    asked = (problem, schedule, size.groups * size.paths, sampler.plan.levels[0][0])
    apart = sampler(x_init=_begin(*asked)) - _end(*asked)
    logs = apart.flatten(1).square().mean(1).clamp(min=1e-30).log() / 2.0
    return {
        "distance": metrics.left_out(apart.split(size.paths), metrics.root_mean_square),
        # Of each path by itself, so that the few that end in another mode do not decide alone.
        "typical": [float(part.mean()) for part in logs.split(size.paths)],
    }


def _law(case: Case, size: Size) -> Figures:
    law, flaw = golden_mixture(), FLAWS[case.problem]
    exact, batch = law.denoiser(case.schedule), size.groups * size.many
    if case.way == DATA:
        drawn = law.draw(batch, seed=1)
    else:
        drawn = _sampler(case, exact if flaw is None else flawed(exact, flaw), batch, torch.float32)(seed=1)
    pairs = [(x, law.draw(2 * size.many, seed=500 + k)) for k, x in enumerate(drawn.split(size.many))]
    return {
        "energy": [metrics.energy_distance(x, y) for x, y in pairs],
        "sliced": [metrics.sliced_wasserstein(x, y[: size.many]) for x, y in pairs],
    }


@functools.cache
def _network(problem: str, schedule: str) -> Denoiser:
    if problem == "exact":
        return digits_kernel().denoiser(schedule)
    made = {"trained": models.digits, "early": models.digits_early}[problem]
    return made() if schedule == "edm" else made(schedule=schedule)


class _Truth:
    """Real digits, a classifier of the training images, what it says of all real ones, and how well those are covered."""

    def __init__(self) -> None:
        self.reader = metrics.Reader(*models.split_digits()[:2])
        self.images, self.labels = models.real_digits()
        self.features = self.reader.features(self.images)
        self.coverage = metrics.Coverage(self.features)


_truth = functools.cache(_Truth)


def _digits(case: Case, size: Size) -> Figures:
    real = _truth()
    batch = size.groups * size.images
    asked = torch.arange(batch) % 10
    if case.way == DATA:
        chosen = torch.randperm(len(real.images), generator=torch.Generator().manual_seed(1))[:batch]
        drawn, asked = real.images[chosen], real.labels[chosen]
        if case.problem == "exact":
            drawn = digits_kernel().draw(batch, seed=1)
    else:
        conditional = {} if case.problem == "exact" else {"class_labels": asked}
        drawn = _sampler(case, _network(case.problem, case.schedule), batch, torch.float32)(
            seed=1, model_kwargs=conditional
        )
    parts = real.reader.features(drawn).split(size.images)
    found = {
        "frechet": metrics.left_out(parts, lambda x: metrics.frechet(x, real.features)),
        "coverage": metrics.left_out(parts, real.coverage),
    }
    if case.problem != "exact":  # which is not told a class
        groups = zip(drawn.split(size.images), asked.split(size.images), strict=True)
        found["accuracy"] = [real.reader.accuracy(x, mine) for x, mine in groups]
    return found


MEASURES: dict[str, Callable[[Case, Size], Figures]] = {
    "gaussian": _gaussian,
    "path": _path,
    "law": _law,
    "digits": _digits,
}
# What a figure's list is: "exact", one; "seeds", one of each; "logs", one logarithm of each; "jackknife", of all and without each in turn.
KINDS = {
    **dict.fromkeys(("perfect", "bias", "early"), "exact"),
    **dict.fromkeys(("energy", "sliced", "accuracy"), "seeds"),
    **dict.fromkeys(("distance", "frechet", "coverage"), "jackknife"),
    "typical": "logs",  # the geometric mean over paths
}


def estimate(figure: str, values: Sequence[float]) -> metrics.Estimate:
    """A figure with its standard error."""
    match KINDS[figure]:
        case "exact":
            return metrics.Estimate(values[0], 0.0)
        case "seeds":
            return metrics.over_seeds(values)
        case "logs":
            mean, error = metrics.over_seeds(values)
            return metrics.Estimate(math.exp(mean), math.exp(mean) * error)
    return metrics.jackknife(values)


def difference(figure: str, first: Sequence[float], second: Sequence[float]) -> metrics.Estimate:
    """first - second (of logarithms where those are kept) of solvers that started from the same seeds: the error is of what differs."""
    apart = [a - b for a, b in zip(first, second, strict=True)]
    return metrics.over_seeds(apart) if KINDS[figure] == "logs" else estimate(figure, apart)


def spelled(plan: Plan) -> str:
    """A plan by its coefficients to nine digits: solvers that coincide are the same."""
    return repr([_rounded(op) for op in plan.ops])


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.9g}"
    return [_rounded(v) for v in value] if isinstance(value, tuple) else value


@functools.cache
def twins(schedule: str) -> dict[str, str]:
    """Ways whose plans of PROBES calls are those of an earlier way, and which one that is: one solver under two names."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for name in WAYS:
        probes = [Case("", "", schedule, name, USUAL[schedule], nfe) for nfe in PROBES]
        try:
            known = first.setdefault("".join(spelled(plan_of(probe)) for probe in probes), name)
        except ValueError:  # not on this schedule
            continue
        if known != name:
            same[name] = known
    return same
