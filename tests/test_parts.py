"""Parts of a grid: which levels are walked, what they cost, and that two parts one after the other are the whole."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import fastsolve
from bits import assert_bits_equal
from fastsolve import Plan, grids, make_plan, schedules
from problems import plane_mixture

SINGLE_STEP = ["ddim", "heun", "dpm_solver_3", "flow_heun", "seeds2", "seeds3", "euler_ancestral"]


def plan(solver: str = "ddim", **kwargs: object) -> Plan:
    return make_plan(solver, **{"schedule": "vp", **kwargs})


def levels(steps: int) -> list[float]:
    return [node.t for node in grids.nodes(grids.get(None, schedules.get("vp")), schedules.get("vp"), steps)]


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (None, None), (3, None), (None, 4), (2, 7), (9, 10), (0, 1)])
def test_a_part_calls_the_model_at_its_levels(start: int | None, stop: int | None) -> None:
    walked = levels(10)[start or 0 : 10 if stop is None else stop]
    assert [call.t for call in plan(steps=10, start=start, stop=stop).evals] == walked


def test_the_whole_is_the_plan_of_old() -> None:
    assert plan(steps=10, start=0, stop=10) == plan(steps=10) == plan(steps=10, strength=1.0)


def test_a_part_of_explicit_levels() -> None:
    assert [call.t for call in plan(grid=(0.9, 0.6, 0.3, 0.1), start=1).evals] == [0.6, 0.3]


OF_THE_WHOLE = [
    *(("ddim", {"eta": 1.0, "window": window}) for window in ((0, 1), (0, 5), (2, 6), (4, 5))),
    ("euler_ancestral", {"window": (1, 3)}),
    *((name, {"s_churn": 2.0}) for name in ("euler", "heun", "dpm_solver_2", "seeds2", "dpmpp_2s")),
]


@pytest.mark.parametrize(("solver", "options"), [*((name, {}) for name in SINGLE_STEP), *OF_THE_WHOLE], ids=str)
@pytest.mark.parametrize("cut", [1, 4])
def test_two_parts_are_the_whole(solver: str, options: dict[str, object], cut: int) -> None:
    """The second part draws on where the first has stopped: the same bits, with noise as without."""
    law, x = schedules.get("edm"), 80.0 * torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    nodes = grids.nodes(grids.get(None, law), law, 6)
    model = plane_mixture().model("edm")

    def walked(x: torch.Tensor, **part: object) -> torch.Tensor:
        asked = {"schedule": law, "prediction": "x0", "steps": 6, "options": options, **part}
        return fastsolve.sample(model, solver=solver, x_init=x, seed=5, **asked)

    middle = walked(x, stop=cut)
    assert_bits_equal(walked(middle, start=cut), walked(x))
    first = make_plan(solver, schedule=law, steps=6, start=cut).evals[0]
    assert (first.alpha, first.sigma) == (nodes[cut].alpha, nodes[cut].sigma)


def test_a_part_draws_on_whatever_the_part_before_it_cannot_do() -> None:
    """Restarts that lie in the part alone, and a model that could not have begun at alpha = 0."""
    below = {"intervals": [(3, 2, 0.05, 0.3)]}
    made = make_plan("restart", schedule="edm", steps=18, start=9, options=below)
    assert (made.first_draw, made.draws) == (0, 2)
    above = {"intervals": [(3, 2, 5.0, 20.0), *below["intervals"]], "s_churn": 10.0}
    whole, first = (make_plan("restart", schedule="edm", steps=18, stop=stop, options=above) for stop in (None, 17))
    assert whole.draws > 4
    assert first.first_draw == whole.first_draw == 0
    table = schedules.VPTable(schedules.zero_terminal_snr(schedules.scaled_linear().alphas_cumprod))
    made = make_plan("ddim", schedule=table, prediction="eps", steps=20, start=1, options={"eta": 1.0})
    assert (made.first_draw, made.draws) == (1, 18)


def test_a_window_counts_the_steps_of_the_whole_grid() -> None:
    def noisy(window: tuple[int, int], **part: object) -> list[bool]:
        made = plan("flow_sde", steps=10, options={"window": window}, **part)
        return [any(name[0] == "z" for name, _ in row.terms) for op in made.ops[1::2] for row in op.rows]

    whole = noisy((3, 6))
    assert whole == [3 <= i < 6 for i in range(10)]
    for part in ({"start": 2}, {"start": 4}, {"start": 7}, {"stop": 2}, {"stop": 5}, {"start": 4, "stop": 5}):
        assert noisy((3, 6), **part) == whole[part.get("start", 0) : part.get("stop")]
    with pytest.raises(ValueError, match=r"0 <= first < last <= 10, the steps, not \(3, 11\)"):
        noisy((3, 11), start=4)
    made = plan(steps=10, inverse=True, options={"eta": 0.0, "window": (0, 10)})
    assert made == plan(steps=10, inverse=True, options={"eta": 0.0})


def get_timesteps() -> Callable[..., tuple[Tensor, int]]:
    """That of diffusers' StableDiffusionImg2ImgPipeline, read from its file: to import it takes transformers."""
    diffusers = pytest.importorskip("diffusers")
    file = Path(diffusers.__file__).parent / "pipelines/stable_diffusion/pipeline_stable_diffusion_img2img.py"
    found = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if getattr(n, "name", "") == "get_timesteps"]
    made: dict[str, Callable[..., tuple[Tensor, int]]] = {}
    exec(compile(ast.Module(found, []), str(file), "exec"), made)
    return made["get_timesteps"]


@pytest.mark.parametrize("steps", [4, 20, 50, 100])
def test_strength_is_that_of_diffusers(steps: int) -> None:
    theirs, pipeline = get_timesteps(), SimpleNamespace(scheduler=pytest.importorskip("diffusers").DDIMScheduler())
    pipeline.scheduler.set_timesteps(steps)
    law = schedules.VPTable(pipeline.scheduler.alphas_cumprod.double().tolist())
    for strength in (0.05, 0.1, 0.29, 0.3, 0.5, 0.58, 0.75, 0.99, 1.0):
        timesteps, count = theirs(pipeline, steps, strength, "cpu")
        if not count:
            with pytest.raises(ValueError, match=f"strength {strength:g} of {steps} steps is none: take 0.* or more"):
                plan(steps=steps, strength=strength)
            continue
        grid = grids.Spacing("leading")  # of that scheduler
        made = make_plan("ddim", schedule=law, grid=grid, steps=steps, strength=strength)
        assert [call.t for call in made.evals] == timesteps.tolist()


@pytest.mark.parametrize(("solver", "stages"), [("ddim", 1), ("dpmpp_2m", 1), ("heun", 2), ("dpm_solver_3", 3)])
@pytest.mark.parametrize("part", [{"start": 3}, {"strength": 0.5}, {"strength": 0.3}], ids=str)
def test_a_budget_is_for_the_calls_that_are_made(solver: str, stages: int, part: dict[str, float]) -> None:
    for nfe in (1, 5, 6, 12):
        made = plan(solver, nfe=nfe, **part)
        steps = (nfe - 1) // stages + 1  # the last, to clean data, is one call
        assert made.nfe == stages * (steps - 1) + 1 <= nfe
        whole = steps + 3 if "start" in part else next(n for n in range(99) if int(n * part["strength"]) == steps)
        assert made == plan(solver, steps=whole, **part)


def test_a_grid_is_judged_by_the_part_that_is_walked() -> None:
    with pytest.warns(UserWarning, match="its step from t = 0.201 to 0.001 is too long"):
        make_plan("dpmpp_2m", schedule=schedules.VP(beta_max=20.5), grid="uniform", steps=6)
    make_plan(
        "dpmpp_2m", schedule=schedules.VP(beta_max=20.7), grid="uniform", steps=6, stop=4
    )  # a warning is an error


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"start": -1}, "0 <= start < stop <= 10 is needed on this grid, not -1 and 10"),
        ({"start": 10}, "0 <= start < stop <= 10 is needed on this grid, not 10 and 10"),
        ({"stop": 11}, "0 <= start < stop <= 10 is needed on this grid, not 0 and 11"),
        ({"stop": 0}, "0 <= start < stop <= 10 is needed on this grid, not 0 and 0"),
        ({"start": 5, "stop": 3}, "0 <= start < stop <= 10 is needed on this grid, not 5 and 3"),
        ({"strength": 0.5, "stop": 4}, "0 <= start < stop <= 10 is needed on this grid, not 5 and 4"),
        ({"strength": 0.0}, r"strength must lie in \(0, 1\], not 0\.0"),
        ({"strength": 1.01}, r"strength must lie in \(0, 1\], not 1\.01"),
        ({"strength": float("nan")}, r"strength must lie in \(0, 1\], not nan"),
        ({"strength": 0.09}, r"strength 0\.09 of 10 steps is none: take 0\.1 or more, or more steps"),
        ({"strength": 0.5, "start": 3}, "give one of start and strength, not both"),
        ({"steps": None, "nfe": 10, "stop": 3}, "nfe leaves their number open: give steps instead"),
    ],
    ids=str,
)
def test_a_part_that_is_not_there_is_refused(part: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**{"steps": 10, **part})


@pytest.mark.parametrize(
    "part", [{"start": 1.0}, {"stop": "3"}, {"start": True}, {"strength": "0.5"}, {"strength": True}]
)
def test_a_part_of_another_type_is_refused(part: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(part))} must be a"):
        plan(steps=10, **part)
