"""Predictions: what a network would answer for a known (x0, eps) gives that x0 back, on every schedule."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from fastsolve import predictions, schedules
from fastsolve.predictions import EDM, X0, Eps, Flow, Prediction, Score, V
from fastsolve.schedules import Node, VPTable

SIGMA_DATA = 0.7


def edm_raw(node: Node, x0: float, eps: float) -> float:
    """Karras et al. 2022, equation 7 solved for F: D = c_skip x' + c_out F, where x' = x / alpha has noise s = sigma / alpha."""
    s, d = node.sigma / node.alpha, SIGMA_DATA
    c_skip = d**2 / (s**2 + d**2)
    c_out = s * d / math.sqrt(s**2 + d**2)
    return (x0 - c_skip * (x0 + s * eps)) / c_out


RAW: dict[str, tuple[Prediction, Callable[[Node, float, float], float]]] = {
    "x0": (X0(), lambda node, x0, eps: x0),
    "eps": (Eps(), lambda node, x0, eps: eps),
    "v": (V(), lambda node, x0, eps: node.alpha * eps - node.sigma * x0),
    "flow": (Flow(), lambda node, x0, eps: eps - x0),
    "score": (Score(), lambda node, x0, eps: -eps / node.sigma),
    "edm": (EDM(SIGMA_DATA), edm_raw),
}
SCHEDULES = ["vp", "vp_cosine", "vp_scaled_linear", "sub_vp", "ve", "edm", "flow"]
ZERO_SNR = [schedules.get("vp_cosine"), schedules.get("flow"), VPTable((0.9, 0.5, 0.0))]


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_raw_output_gives_x0_back(name: str, schedule: str) -> None:
    prediction, raw_of = RAW[name]
    law, rng = schedules.get(schedule), random.Random(f"{name} {schedule}")
    low = max(law.t_min, 1e-4 * law.t_max)
    for t in [low, *(low * (0.999 * law.t_max / low) ** rng.random() for _ in range(50))]:
        node, x0, eps = law.node(t), rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)
        a, b = prediction.x0(node)
        x, raw = node.alpha * x0 + node.sigma * eps, raw_of(node, x0, eps)
        # Near pure noise x0 is a small difference of large terms, whatever the arithmetic.
        assert abs(a * x + b * raw - x0) <= 1e-12 * (1.0 + abs(a * x) / 1000.0)


@pytest.mark.parametrize("name", ["x0", "v", "flow", "edm"])
@pytest.mark.parametrize("law", ZERO_SNR, ids=lambda law: law.name)
def test_alpha_zero_is_fine_where_the_output_knows_x0(name: str, law: schedules.Schedule) -> None:
    """At alpha = 0 the state is sigma * eps, sigma = 1, and v = -x0, flow = eps - x0, F = x0 / sigma_data."""
    x0, eps = 0.3, -1.7
    raw = {"x0": x0, "v": -x0, "flow": eps - x0, "edm": x0 / SIGMA_DATA}[name]
    a, b = RAW[name][0].x0(law.node(law.t_max))
    assert a * eps + b * raw == pytest.approx(x0, rel=1e-14)


@pytest.mark.parametrize("name", ["eps", "score"])
@pytest.mark.parametrize("law", ZERO_SNR, ids=lambda law: law.name)
def test_alpha_zero_is_refused_where_the_output_says_nothing(name: str, law: schedules.Schedule) -> None:
    with pytest.raises(ValueError) as error:
        RAW[name][0].x0(law.node(law.t_max))
    assert str(error.value) == (
        f"{name}-prediction says nothing about x0 at alpha = 0 (t = {law.t_max:g}, zero terminal SNR): "
        "use a model with x0, v or flow prediction, or start the grid below that level"
    )


@pytest.mark.parametrize("name", ["eps", "v", "flow", "score", "edm"])
@pytest.mark.parametrize("schedule", ["vp", "flow", "edm"])
def test_clean_data_is_its_own_prediction(name: str, schedule: str) -> None:
    law = schedules.get(schedule)
    a, b = RAW[name][0].x0(law.node(law.t_clean))
    assert a == pytest.approx(1.0, rel=1e-15)
    assert b == 0.0


@pytest.mark.parametrize("sigma", [0.002, 0.5, 3.0, 80.0])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_has_karras_c_skip_c_out_and_c_in(sigma: float, sigma_data: float) -> None:
    """Karras et al. 2022, table 1, column "Ours"."""
    node, total = schedules.get("edm").node(sigma), sigma**2 + sigma_data**2
    c_skip, c_out, c_in = sigma_data**2 / total, sigma * sigma_data / math.sqrt(total), 1.0 / math.sqrt(total)
    prediction = EDM(sigma_data, scaled_input=True)
    assert prediction.x0(node) == pytest.approx((c_skip, c_out), rel=1e-14)
    assert prediction.input_scale(node) == pytest.approx(c_in, rel=1e-14)


def test_edm_sees_the_state_in_units_of_the_data() -> None:
    """On a law with alpha < 1 the network is EDM's at s = sigma / alpha, and its input is c_in(s) x / alpha."""
    node, d = schedules.get("vp").node(0.6), 0.5
    s = node.sigma / node.alpha
    assert EDM(d).x0(node)[0] * node.alpha == pytest.approx(d**2 / (s**2 + d**2), rel=1e-14)
    assert EDM(d).x0(node)[1] == pytest.approx(s * d / math.sqrt(s**2 + d**2), rel=1e-14)
    assert EDM(d, scaled_input=True).input_scale(node) * node.alpha == pytest.approx(1 / math.hypot(s, d), rel=1e-14)


@pytest.mark.parametrize("name", RAW)
def test_the_state_goes_in_unscaled_unless_asked_for(name: str) -> None:
    assert RAW[name][0].input_scale(schedules.get("edm").node(3.0)) == 1.0


@pytest.mark.parametrize("name", RAW)
def test_names(name: str) -> None:
    kind = type(RAW[name][0])
    assert predictions.get(name) == kind()
    assert kind.name == name


def test_edm_by_name_takes_the_sigma_data_it_is_told() -> None:
    assert predictions.get("edm") == EDM(0.5)
    assert predictions.get("edm", sigma_data=1.0) == EDM(1.0)
    assert predictions.get("v", sigma_data=1.0) == V()


def test_objects_pass_through() -> None:
    mine = EDM(0.7, scaled_input=True)
    assert predictions.get(mine, sigma_data=0.5) is mine


@pytest.mark.parametrize(("name", "near"), [("epsilon", "eps"), ("x_0", "x0"), ("vv", "v"), ("flows", "flow")])
def test_unknown_name_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError) as error:
        predictions.get(name)
    text = f"unknown prediction '{name}': known are x0, eps, v, flow, score, edm; nearest is '{near}'"
    assert str(error.value) == text


@pytest.mark.parametrize("given", [None, ["eps"], 3])
def test_what_is_no_prediction_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=f"^prediction must be a name or a Prediction, not {type(given).__name__}$"):
        predictions.get(given)


@pytest.mark.parametrize("sigma_data", [0.0, -0.5, math.nan, math.inf])
def test_bad_sigma_data_is_refused(sigma_data: float) -> None:
    with pytest.raises(ValueError, match=f"sigma_data must be positive and finite, not {sigma_data}"):
        EDM(sigma_data)
