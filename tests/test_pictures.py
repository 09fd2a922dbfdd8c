"""Pictures: what they show is right, and what cannot be drawn is refused. The numbers are checked, not the look."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import fastsolve
import moments
from fastsolve import Plan, Sampler, Step, make_plan, pictures
from fastsolve.grids import Karras, UniformLogSNR
from problems import Gaussian

NO_END = Karras(final_zero=False)  # exact samplers have the last level's own variance there
SOLVERS = fastsolve.list_solvers()


def plan_of(solver: str, schedule: str = "vp", **kwargs: object) -> Plan:
    return make_plan(solver, **{"schedule": schedule, "nfe": 14, **kwargs})


@pytest.mark.parametrize("solver", SOLVERS)
def test_budget_is_the_variance_that_forward_propagation_finds(solver: str) -> None:
    plan = plan_of(solver)
    budget = pictures.noise_budget(plan, moments.STD)
    _, variance = moments.moments(plan)
    assert budget.total == pytest.approx(variance, rel=1e-11)
    assert len(budget.draws) == len(budget.at) == plan.draws
    assert all(part >= 0.0 for part in (budget.start, *budget.draws))
    assert budget.target == pytest.approx(moments.STD**2)  # the grid ends in clean data


EXACT_SDES = [
    ("seeds1", {}),
    ("seeds2", {}),
    ("seeds3", {}),
    ("ddim", {"eta": 1.0}),
    ("dpmpp_2m_sde", {}),
    ("sa_solver", {}),
]


@pytest.mark.parametrize(("solver", "options"), EXACT_SDES)
def test_budget_of_an_exact_sde_solver_sums_to_the_target(solver: str, options: dict[str, object]) -> None:
    # A model that always answers 0 is one that these solvers integrate exactly, in any number of steps.
    plan = make_plan(solver, schedule="edm", grid=NO_END, steps=5, options=options)
    budget = pictures.noise_budget(plan, std=0.0)
    assert budget.target == pytest.approx(0.002**2)
    assert budget.total == pytest.approx(budget.target, rel=1e-9)


def test_without_noise_the_start_gives_everything() -> None:
    budget = pictures.noise_budget(plan_of("dpmpp_2m"))
    assert budget.draws == budget.at == ()
    assert budget.total == budget.start > 0.0


def test_draws_are_told_where_they_are_used_first() -> None:
    plan = make_plan("euler_ancestral", schedule="edm", grid=[80.0, 10.0, 1.0, 0.0])
    assert pictures.noise_budget(plan).at == (80.0, 10.0)


def erring(std: float, schedule: str, at: int) -> Callable[..., Tensor]:
    """The exact denoiser of N(0, std^2), with an error of 1 in call `at`."""
    model, calls = Gaussian(0.0, std).model(schedule), iter(range(1000))

    def answer(x: Tensor, t: Tensor, **_: object) -> Tensor:
        return model(x, t) + (next(calls) == at)

    return answer


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "seeds3", "unipc", "restart", "tada"])
@pytest.mark.parametrize("std", [0.3, 1.0])
def test_gains_are_what_a_run_makes_of_errors(solver: str, std: float) -> None:
    options = {"intervals": [(3, 1, 0.06, 0.6)]} if solver == "restart" else {}
    ways = {"solver": solver, "nfe": 12, "options": options, "executor": "eager", "dtype": torch.float64}

    def result(at: int) -> float:
        sampler = Sampler(erring(std, "edm", at), (1, 1), schedule="edm", prediction="x0", **ways)
        return sampler(seed=3).item()

    plan = make_plan(solver, schedule="edm", nfe=12, options=options)
    expected = [abs(result(k) - result(-1)) for k in range(plan.nfe)]
    assert pictures.gains(plan, std) == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_gains_of_a_plan_that_reads_raw_outputs() -> None:
    plan = make_plan("euler_cfg_pp", schedule="edm", prediction="eps", steps=4, guidance=0.6)
    assert plan.takes_raw
    plain = make_plan("euler", schedule="edm", steps=4)  # with equal branches, CFG++ is Euler's method
    assert pictures.gains(plan, 0.4) == pytest.approx(pictures.gains(plain, 0.4), rel=1e-9)


@pytest.mark.parametrize(("solver", "ratio"), [("ddim", 2.0), ("dpmpp_2m", 4.0), ("euler_ancestral", 2.0)])
def test_errors_fall_with_the_order(solver: str, ratio: float) -> None:
    grid = UniformLogSNR(final_zero=False)
    curves = pictures.gaussian_errors([solver], [128, 256], schedule="edm", grid=grid, stds=(0.2, 1.0))
    (_, first), (_, second) = curves[solver]
    assert first / second == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize("solver", ["ddim", "seeds2"])
def test_errors_are_distances_of_standard_deviations(solver: str) -> None:
    plan = make_plan(solver, schedule="vp", nfe=9)
    _, alpha, sigma = plan.levels[0]
    _, variance = moments.moments(plan, moments.marginal(alpha, sigma))
    curves = pictures.gaussian_errors([solver], [9], schedule="vp", stds=[moments.STD])
    assert curves == {solver: [(plan.nfe, pytest.approx(abs(math.sqrt(variance) - moments.STD), rel=1e-9))]}


def test_budgets_that_buy_the_same_plan_are_one_point() -> None:
    assert len(pictures.gaussian_errors(["seeds3"], [6, 7, 9], schedule="edm")["seeds3"]) < 3


# Figures


def lines(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_ydata() for line in figure.axes[0].lines if line.get_label()[0] != "_"}


def test_grids_show_twice_lam() -> None:
    figure = pictures.plot_grids({"a": "karras", "mine": [80.0, 2.0, 0.5]}, schedule="edm", steps=6)
    shown, edm = lines(figure), fastsolve.schedules.get("edm")
    nodes = fastsolve.grids.nodes(Karras(), edm, 6)
    np.testing.assert_allclose(shown["a"][:-1], [2.0 * node.lam for node in nodes[:-1]])
    assert math.isnan(shown["a"][-1])  # clean data, on a line of its own
    assert any(text.get_text() == "clean data" for text in figure.axes[0].texts)
    np.testing.assert_allclose(shown["mine"], [-2.0 * math.log(s) for s in (80.0, 2.0, 0.5)])


def test_both_ends_of_a_flow_are_shown() -> None:
    figure = pictures.plot_grids(["uniform"], schedule="flow", steps=4)
    assert {text.get_text() for text in figure.axes[0].texts} == {"clean data", "pure noise"}
    whole = next(line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == 5)
    assert np.isfinite(whole).all()
    assert (np.diff(whole) > 0).all()


def test_heat_map_has_the_coefficients() -> None:
    plan = make_plan("seeds2", schedule="edm", steps=3)
    heat = pictures.plot_plan(plan).axes[0]
    cells = np.ma.filled(heat.images[0].get_array(), np.nan)
    columns = [label.get_text() for label in heat.get_xticklabels()]
    rows = list(plan.rows())
    assert [label.get_text() for label in heat.get_yticklabels()] == [row.out for row in rows]
    for row, line in zip(rows, cells, strict=True):
        assert {c: v for c, v in zip(columns, line, strict=True) if not math.isnan(v)} == dict(row.terms)
    assert [c[0] for c in columns] == sorted((c[0] for c in columns), key="xdz".index)


def test_stability_has_the_gains() -> None:
    plans = [plan_of("ddim"), plan_of("seeds3")]
    shown = lines(pictures.plot_stability(plans, std=0.3))
    for plan, (label, values) in zip(plans, shown.items(), strict=True):
        gains = pictures.gains(plan, 0.3)
        np.testing.assert_array_equal(values, gains)
        assert label == f"{plan.solver}, {plan.nfe} calls: sum {sum(gains):.3g}"


def test_budget_bars_stand_on_each_other() -> None:
    plan = plan_of("seeds3")
    budget = pictures.noise_budget(plan)
    bars = pictures.plot_noise_budget(plan).axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx(
        [p / budget.target for p in (budget.start, *budget.draws)]
    )
    tops = [bar.get_y() + bar.get_height() for bar in bars]
    assert [bar.get_y() for bar in bars[1:]] == pytest.approx(tops[:-1])
    assert tops[-1] == pytest.approx(budget.total / budget.target)


def test_errors_are_drawn_by_their_calls() -> None:
    figure = pictures.plot_errors({"mine": [(20, 0.01), (10, 0.2)]}, error="FID", title="a title")
    axes = figure.axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[10.0, 0.2], [20.0, 0.01]]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylabel(), axes.get_title()) == (
        "log",
        "log",
        "FID",
        "a title",
    )


EVERY = {
    "grids": lambda: pictures.plot_grids(["karras", "rbe"], schedule="vp", steps=8),
    "plan": lambda: pictures.plot_plan(plan_of("seeds3", nfe=40)),
    "guided": lambda: pictures.plot_plan(make_plan("unipc", schedule="flow", prediction="flow", guidance=4.0, steps=6)),
    "with a function": lambda: pictures.plot_plan(make_plan("ddim", schedule="vp", hooked=True, steps=3)),
    "tada": lambda: pictures.plot_plan(plan_of("tada")),
    "stability": lambda: pictures.plot_stability(plan_of("heun")),
    "budget": lambda: pictures.plot_noise_budget(plan_of("restart", options={"intervals": [(3, 2, 0.06, 0.3)]})),
    "errors": lambda: pictures.plot_errors(pictures.gaussian_errors(["ddim", "unipc"], [6, 12], schedule="vp")),
    "sheet": lambda: pictures.contact_sheet(torch.zeros(5, 3, 4, 6), labels=range(5)),
}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_every_picture_can_be_written(make: Callable[[], Figure], tmp_path: Path) -> None:
    pictures.save(make(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert len(set(image.convert("L").tobytes())) > 1
    pictures.save(make(), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text("utf-8")


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_can_be_drawn(solver: str) -> None:
    plan = plan_of(solver)
    assert len(pictures.plot_plan(plan).axes) == 3  # with the colour bar
    assert len(lines(pictures.plot_stability(plan))) == 1


# Images


def test_sheet_shows_bytes_of_the_range() -> None:
    images = torch.tensor([[[[-1.0, 0.0], [1.0, 1.2]]], [[[0.5, 0.5], [-0.5, -1.5]]]])
    figure = pictures.contact_sheet(images, columns=2)
    first, second = (axes.images[0].get_array()[..., 0].tolist() for axes in figure.axes)
    assert first == [[0, 128], [255, 255]]
    assert second == [[191, 191], [64, 0]]


def test_sheet_is_laid_out() -> None:
    figure = pictures.contact_sheet(torch.zeros(7, 4, 4), columns=3, labels="abcdefg")
    assert [len(axes.images) for axes in figure.axes] == [1] * 7 + [0] * 2
    assert [axes.get_title() for axes in figure.axes][:7] == list("abcdefg")
    colours = torch.zeros(1, 3, 2, 2)
    colours[:, 1] = 1.0
    shown = pictures.contact_sheet(colours, low=0.0).axes[0].images[0].get_array()
    assert shown[0, 0].tolist() == [0, 255, 0]


def steps(calls: int = 5, shape: tuple[int, ...] = (2, 1, 4, 4)) -> tuple[list[Step], Tensor]:
    sampler = Sampler(Gaussian(0.1, 0.4).model("vp"), shape, solver="ddim", steps=calls, schedule="vp", prediction="x0")
    run = sampler.iterate(seed=1)
    kept = run.kept()
    return kept, run.finish()


def test_trajectory_shows_x_and_x0_of_chosen_steps() -> None:
    kept, _ = steps(9)
    figure = pictures.trajectory(kept, sample=1, columns=3)
    above, below = figure.axes[:3], figure.axes[3:]
    for axes_x, axes_x0, step in zip(above, below, [kept[0], kept[4], kept[8]], strict=True):
        level = math.hypot(step.node.alpha, step.node.sigma)
        for axes, values in ((axes_x, step.x[1, 0] / level), (axes_x0, step.x0[1, 0])):
            expected = (127.5 * (values + 1.0)).clamp(0, 255).round()
            assert torch.equal(torch.tensor(axes.images[0].get_array()[..., 0]).float(), expected)
        assert axes_x.get_title() == f"t = {step.node.t:.3g}"
    assert [above[0].get_ylabel(), below[0].get_ylabel()] == ["x", "x0"]


def test_latents_are_decoded() -> None:
    kept, _ = steps(3, (1, 4, 4, 4))
    with pytest.raises(ValueError, match="decode latents first; a trajectory takes decode="):
        pictures.trajectory(kept)
    figure = pictures.trajectory(kept, decode=lambda z: z[:, :3].repeat_interleave(2, dim=-1))
    assert figure.axes[0].images[0].get_array().shape == (4, 8, 3)


def test_animation_has_a_frame_for_each_step(tmp_path: Path) -> None:
    kept, out = steps(6)
    out_file = tmp_path / "a.gif"
    pictures.animate(kept, out_file, sample=1, ms=40)
    with Image.open(out_file) as gif:
        assert gif.n_frames == 6
        times = []
        for i in range(6):
            gif.seek(i)
            times.append(gif.info["duration"])
        assert times == [40] * 5 + [400]
        last = np.asarray(gif.convert("L"), dtype=float)
    assert last.shape == (160 + 16, 2 * 160 + 6)
    x0 = last[16:, 166:].reshape(4, 40, 4, 40)
    expected = (127.5 * (out[1, 0] + 1.0)).clamp(0, 255).numpy()  # ends in clean data: the last x0 is the sample
    np.testing.assert_allclose(x0[:, 20, :, 20], expected, atol=1.0)
    assert (x0 == x0[:, :1, :, :1]).all()  # enlarged, not smoothed


# What cannot be drawn

UNFINISHED = dataclasses.replace(make_plan("ddim", schedule="vp", steps=3), levels=())
BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "clip": (lambda: pictures.gains(plan_of("ddim", clip=1.0)), ValueError, "a plan with clip is not linear"),
    "function": (lambda: pictures.gains(plan_of("ddim", hooked=True)), ValueError, "the function 'x0' is not linear"),
    "std": (lambda: pictures.gains(plan_of("ddim"), -1.0), ValueError, "std must be .* at least 0, not -1.0"),
    "no plan": (lambda: pictures.gains("ddim"), TypeError, "made by make_plan"),
    "no plan to draw": (lambda: pictures.plot_plan("ddim"), TypeError, "or is sampler.plan; this is str"),
    "inverse": (
        lambda: pictures.noise_budget(make_plan("ddim", schedule="vp", steps=3, inverse=True)),
        ValueError,
        "an inverse starts from data",
    ),
    "no levels": (lambda: pictures.noise_budget(UNFINISHED), ValueError, "without levels"),
    "no variance": (lambda: pictures.plot_noise_budget(plan_of("ddpm"), std=0.0), ValueError, "give std > 0"),
    "one name": (lambda: pictures.gaussian_errors("ddim", [5], schedule="vp"), TypeError, "a list of names"),
    "unknown solver": (lambda: pictures.gaussian_errors(["ddin"], [5], schedule="vp"), ValueError, "nearest is 'ddim'"),
    "no plans": (lambda: pictures.plot_stability([]), ValueError, "no plan to draw"),
    "no grids": (lambda: pictures.plot_grids([], schedule="vp", steps=3), TypeError, "a list or dict of grids"),
    "one grid": (lambda: pictures.plot_grids("rbe", schedule="vp", steps=3), TypeError, "a list or dict of grids"),
    "no steps": (lambda: pictures.plot_grids(["rbe"], schedule="vp"), ValueError, "steps is the number of steps"),
    "no curves": (lambda: pictures.plot_errors({}), ValueError, "each needs a point"),
    "error 0": (lambda: pictures.plot_errors({"a": [(5, 0.0)]}), ValueError, r"not \(5, 0.0\)"),
    "rank": (lambda: pictures.contact_sheet(torch.zeros(4, 4)), ValueError, r"not \[4, 4\]"),
    "channels": (lambda: pictures.contact_sheet(torch.zeros(2, 4, 8, 8)), ValueError, r"not \[2, 4, 8, 8\]; decode"),
    "no images": (lambda: pictures.contact_sheet(torch.zeros(0, 1, 8, 8)), ValueError, r"not \[0, 1, 8, 8\]"),
    "nan": (lambda: pictures.contact_sheet(torch.full((1, 2, 2), math.nan)), ValueError, "NaN or infinite"),
    "range": (lambda: pictures.contact_sheet(torch.full((1, 2, 2), 200)), ValueError, "from 200 to 200: give low and"),
    "low and high": (lambda: pictures.contact_sheet(torch.zeros(1, 2, 2), low=1.0), ValueError, "low must be less"),
    "no tensor": (lambda: pictures.contact_sheet([[0.0]]), TypeError, "are a tensor .* not list"),
    "columns": (
        lambda: pictures.contact_sheet(torch.zeros(1, 2, 2), columns=0),
        ValueError,
        "columns must be .* not 0",
    ),
    "labels": (lambda: pictures.contact_sheet(torch.zeros(2, 2, 2), labels="a"), ValueError, "each of 2 images, not 1"),
    "no steps to show": (lambda: pictures.trajectory([]), ValueError, "needs steps"),
    "no Step": (lambda: pictures.trajectory([torch.zeros(2)]), TypeError, "a list of Step"),
    "sample": (lambda: pictures.trajectory(steps()[0], sample=2), ValueError, "one of 0 to 1, not 2"),
    "ending": (lambda: pictures.animate(steps()[0], "a.png"), ValueError, r"a.png must be a .gif"),
    "ms": (lambda: pictures.animate(steps()[0], "a.gif", ms=5), ValueError, "at least 20, not 5"),
    "frames": (lambda: pictures.animate([], "a.gif"), ValueError, "a list of Step"),
    "folder": (lambda: pictures.save(Figure(), "nowhere/a.png"), ValueError, "there is no folder nowhere"),
    "no ending": (lambda: pictures.save(Figure(), "a"), ValueError, "no ending of a picture, such as .png"),
    "not to be saved": (lambda: pictures.savable("a.exe"), ValueError, "a.exe has no ending of a picture"),
}


@pytest.mark.parametrize(("call", "error", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_told(call: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install fastsolve\[demo\]"):
        pictures.plot_plan(plan_of("ddim"))


def test_missing_pillow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install fastsolve\[demo\]"):
        pictures.animate(steps()[0], tmp_path / "a.gif")


def test_matplotlib_is_imported_when_something_is_drawn_and_pyplot_never() -> None:
    code = (
        "import io, sys, fastsolve, fastsolve.cli\n"
        "assert not {'matplotlib', 'PIL', 'tqdm.auto', 'sklearn', 'diffusers'} & set(sys.modules)\n"
        "fastsolve.pictures.plot_plan(fastsolve.make_plan('ddim', schedule='vp', steps=3)).savefig(io.BytesIO())\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(fastsolve.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)
