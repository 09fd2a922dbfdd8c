"""Schedules against their published formulas in 50 digits, their inverses, and their ends."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest

from fastsolve import schedules
from fastsolve.schedules import (
    EDM,
    VE,
    VP,
    Flow,
    Node,
    Schedule,
    SubVP,
    VPCosine,
    VPTable,
    dynamic_shift,
    scaled_linear,
)

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
NAMES = ["vp", "vp_cosine", "vp_scaled_linear", "sub_vp", "ve", "edm", "flow"]


def cos(x: Decimal) -> Decimal:
    return sum(((-1) ** j * x ** (2 * j) / math.factorial(2 * j) for j in range(40)), Decimal(0))


def vp(t: Decimal, low: float = 0.1, high: float = 20.0) -> tuple[Decimal, Decimal]:
    """Song et al. 2020, equation 33: B = t^2 (beta_max - beta_min) / 2 + t beta_min."""
    b = t * t * (Decimal(high) - Decimal(low)) / 2 + t * Decimal(low)
    return (-b / 2).exp(), (1 - (-b).exp()).sqrt()


def sub_vp(t: Decimal) -> tuple[Decimal, Decimal]:
    alpha, sigma = vp(t)
    return alpha, sigma**2


def vp_cosine(t: Decimal, s: float = 0.008) -> tuple[Decimal, Decimal]:
    """Nichol & Dhariwal 2021, equation 17: f(t)/f(0), f = cos^2((t + s)/(1 + s) pi/2)."""
    theta = [(u + Decimal(s)) / (1 + Decimal(s)) * PI / 2 for u in (t, Decimal(0))]
    alpha = cos(theta[0]) / cos(theta[1])
    return alpha, (1 - alpha**2).sqrt()


LAWS: list[tuple[Schedule, Callable[[Decimal], tuple[Decimal, Decimal]]]] = [
    (VP(), vp),
    (VP(beta_min=0.3, beta_max=12.0), lambda t: vp(t, 0.3, 12.0)),
    (SubVP(), sub_vp),
    (VPCosine(), vp_cosine),
    (VPCosine(s=0.02), lambda t: vp_cosine(t, 0.02)),
    (VE(), lambda t: (Decimal(1), t)),
    (EDM(), lambda t: (Decimal(1), t)),
    (Flow(), lambda t: (1 - t, t)),
    (Flow(shift=3.0), lambda t: (1 - t, t)),  # shift moves grids, not the law
]
LAW_IDS = [f"{schedule.name}{i}" for i, (schedule, _) in enumerate(LAWS)]
CONTINUOUS = [schedule for schedule, _ in LAWS]
TABLES = [
    scaled_linear(),
    VPTable((0.9, 0.5, 0.1)),
    VPTable((0.9, 0.5, 0.0)),
    VPTable((0.999, 0.4)),
]
EVERY = CONTINUOUS + TABLES
EVERY_IDS = LAW_IDS + ["sd", "table", "zero_snr", "two"]


def clocks(schedule: Schedule, count: int = 200) -> list[float]:
    """Both ends of the range, and clock values in between, spaced uniformly, geometrically, and geometrically from the top."""
    rng = random.Random(7)
    low, high = schedule.t_min, schedule.t_max
    inside = [rng.uniform(low, high) for _ in range(count)]
    if low > 0.0:
        inside += [low * (high / low) ** rng.random() for _ in range(count)]
    inside += [high - (high - low) * 10 ** rng.uniform(-7.0, 0.0) for _ in range(count)]
    return [low, *inside, high]


@pytest.mark.parametrize(("schedule", "formula"), LAWS, ids=LAW_IDS)
@pytest.mark.parametrize("t", [1e-12, 1e-6, 1e-3, 0.01, 0.2, 0.5, 0.77, 0.99, 1.0 - 1e-6, 1.0 - 1e-12])
def test_law_is_its_formula_to_the_last_digits(
    schedule: Schedule, formula: Callable[[Decimal], tuple[Decimal, Decimal]], t: float
) -> None:
    with localcontext() as context:
        context.prec = 60
        alpha, sigma = formula(Decimal(t))
        lam = float((alpha / sigma).ln())
    node = schedule.node(t)
    assert node.t == t
    assert node.alpha == pytest.approx(float(alpha), rel=4e-15, abs=0.0)
    assert node.sigma == pytest.approx(float(sigma), rel=4e-15, abs=0.0)
    assert node.lam == pytest.approx(lam, rel=4e-15, abs=4e-15)


@pytest.mark.parametrize("schedule", EVERY, ids=EVERY_IDS)
def test_lam_is_the_log_of_alpha_over_sigma_and_decreases(schedule: Schedule) -> None:
    nodes = [schedule.node(t) for t in sorted(set(clocks(schedule)))]
    for node in nodes:
        expected = math.log(node.alpha / node.sigma) if node.alpha else -math.inf
        assert node.lam == pytest.approx(expected, rel=1e-14, abs=1e-14)
    assert all(a.lam > b.lam for a, b in pairwise(nodes))


@pytest.mark.parametrize("schedule", EVERY, ids=EVERY_IDS)
def test_at_lam_is_the_inverse_of_the_law_both_ends_included(schedule: Schedule) -> None:
    for t in clocks(schedule):
        assert schedule.at_lam(schedule.node(t).lam).t == pytest.approx(t, rel=1e-12, abs=1e-12 * schedule.t_max)


@pytest.mark.parametrize("kind", [VP, SubVP])
def test_rounding_does_not_push_the_top_out_of_the_range(kind: type[VP | SubVP]) -> None:
    rng = random.Random(0)
    for _ in range(300):
        schedule = kind(beta_min=rng.uniform(0.01, 1.0), beta_max=rng.uniform(5.0, 30.0))
        top = schedule.node(1.0)
        assert schedule.at_lam(top.lam).t == pytest.approx(1.0, rel=1e-12)
        with pytest.raises(ValueError, match="is outside the schedule"):
            schedule.at_lam(top.lam - 1e-9)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=LAW_IDS)
def test_clock_keeps_its_digits_near_clean_data(schedule: Schedule) -> None:
    for t in (1e-10, 1e-7, 1e-4):
        assert schedule.clock(schedule.node(t).lam) == pytest.approx(t, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("schedule", EVERY, ids=EVERY_IDS)
def test_at_lam_is_a_node_of_the_law(schedule: Schedule) -> None:
    for t in clocks(schedule, 20)[1:-1]:
        lam = schedule.node(t).lam
        node = schedule.at_lam(lam)
        assert node == schedule.node(node.t)
        # A clock value is rounded, which moves lam by |dlam/dt| ulp(t): much only where t crowds against alpha = 0.
        neighbour = schedule.node(t * (1.0 - 1e-12)).lam
        assert abs(node.lam - lam) <= 1e-12 + abs(neighbour - lam)


@pytest.mark.parametrize("schedule", EVERY, ids=EVERY_IDS)
def test_clean_end_is_a_node(schedule: Schedule) -> None:
    clean = Node(schedule.t_clean, 1.0, 0.0, math.inf)
    assert schedule.node(schedule.t_clean) == clean
    assert schedule.at_lam(math.inf) == clean


@pytest.mark.parametrize("schedule", [VPCosine(), Flow(), VPTable((0.9, 0.5, 0.0))], ids=lambda s: s.name)
def test_zero_terminal_snr_is_a_node(schedule: Schedule) -> None:
    end = schedule.node(schedule.t_max)
    assert end == schedule.at_lam(-math.inf)
    assert (end.alpha, end.lam) == (0.0, -math.inf)
    assert end.sigma == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE(), Flow(t_max=0.9), scaled_linear()], ids=lambda s: s.name)
def test_alpha_zero_is_refused_where_there_is_none(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=f"alpha = 0 is not a level of the schedule '{schedule.name}'"):
        schedule.at_lam(-math.inf)


@pytest.mark.parametrize(
    ("schedule", "t", "text"),
    [
        (VP(), 1.5, "level 1.5 is outside the schedule 'vp', whose clock runs from 0 to 1"),
        (VP(), -0.1, "level -0.1 is outside the schedule 'vp', whose clock runs from 0 to 1"),
        (VP(), math.nan, "level nan is outside the schedule 'vp', whose clock runs from 0 to 1"),
        (Flow(), 1.0000001, "level 1 is outside the schedule 'flow', whose clock runs from 0 to 1"),
        (VE(), -1.0, "level -1 is outside the schedule 've', whose clock runs from 0 to inf"),
        (EDM(), math.inf, "level inf is outside the schedule 'edm', whose clock runs from 0 to inf"),
        (scaled_linear(), 1000.0, "level 1000 is outside the schedule 'vp_table', whose clock runs from -1 to 999"),
        (scaled_linear(), -1.5, "level -1.5 is outside the schedule 'vp_table', whose clock runs from -1 to 999"),
        (scaled_linear(), -0.5, "level -0.5 of a table: below index 0 there is only -1, clean data"),
    ],
)
def test_levels_outside_are_refused(schedule: Schedule, t: float, text: str) -> None:
    with pytest.raises(ValueError) as error:
        schedule.node(t)
    assert str(error.value) == text


@pytest.mark.parametrize("lam", [-2.7, 3.6, math.nan])
def test_lams_outside_a_table_are_refused(lam: float) -> None:
    with pytest.raises(ValueError) as error:
        scaled_linear().at_lam(lam)
    assert str(error.value) == f"log(alpha / sigma) = {lam:g} is outside the table, which has -2.68202 to 3.53471"


@pytest.mark.parametrize("schedule", [SubVP(), VPCosine(), VE()], ids=lambda s: s.name)
def test_lams_that_overflow_are_refused(schedule: Schedule) -> None:
    with pytest.raises(ValueError, match=rf"= -800 is beyond every level of the schedule '{schedule.name}'"):
        schedule.at_lam(-800.0)


def test_any_positive_sigma_is_a_level_of_ve() -> None:
    assert VE().node(1e4) == Node(1e4, 1.0, 1e4, pytest.approx(-math.log(1e4), rel=1e-15))


@pytest.mark.parametrize(
    ("name", "made"),
    [("vp", VP()), ("vp_cosine", VPCosine()), ("sub_vp", SubVP()), ("ve", VE()), ("edm", EDM()), ("flow", Flow())],
)
def test_names_carry_published_constants(name: str, made: Schedule) -> None:
    assert schedules.get(name) == made
    assert schedules.get(name) is schedules.get(name)
    assert schedules.get(name).name == name


def test_ranges_are_the_published_ones() -> None:
    """Song et al. 2020 (VE 0.02 to 100 as in EDM's table 1), Karras et al. 2022 (0.002 to 80, sigma_data 0.5)."""
    assert (VE().t_min, VE().t_max) == (0.02, 100.0)
    assert (EDM().t_min, EDM().t_max, EDM().sigma_data) == (0.002, 80.0, 0.5)
    assert (VP().t_min, VP().t_max) == (1e-3, 1.0)
    assert (scaled_linear().t_min, scaled_linear().t_max, scaled_linear().t_clean) == (0.0, 999.0, -1.0)


def test_objects_pass_through() -> None:
    mine = VP(beta_max=12.0)
    assert schedules.get(mine) is mine


@pytest.mark.parametrize(("name", "near"), [("vpp", "vp"), ("cosine", "vp_cosine"), ("flux", "flow")])
def test_unknown_name_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError) as error:
        schedules.get(name)
    assert str(error.value) == f"unknown schedule '{name}': known are {', '.join(NAMES)}; nearest is '{near}'"


@pytest.mark.parametrize("given", [[0.9, 0.5], None, np.array([0.9, 0.5])], ids=["list", "None", "array"])
def test_what_is_no_schedule_is_refused(given: object) -> None:
    with pytest.raises(TypeError) as error:
        schedules.get(given)
    text = f"schedule must be a name or a Schedule, not {type(given).__name__}"
    assert str(error.value) == f"{text}; a table of alphas_cumprod is VPTable(table)"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_bad_sigma_ranges_are_refused(low: float, high: float) -> None:
    for kind in (VE, EDM):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max is needed, not"):
            kind(sigma_min=low, sigma_max=high)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_bad_shifts_are_refused(shift: float) -> None:
    with pytest.raises(ValueError, match=f"shift must be positive and finite, not {shift}"):
        Flow(shift=shift)


@pytest.mark.parametrize("schedule", [VP(), VE(), scaled_linear()], ids=lambda s: s.name)
def test_only_flow_warps(schedule: Schedule) -> None:
    assert schedule.warp(0.37) == 0.37


@pytest.mark.parametrize("u", [0.05, 0.5, 0.9])
def test_flow_shift_multiplies_sigma_over_alpha(u: float) -> None:
    flow = Flow(shift=3.0)
    node, plain = flow.node(flow.warp(u)), flow.node(u)
    assert node.t == pytest.approx(3.0 * u / (1.0 + 2.0 * u), rel=1e-15)
    assert node.sigma / node.alpha == pytest.approx(3.0 * plain.sigma / plain.alpha, rel=1e-14)
    assert (flow.warp(0.0), flow.warp(1.0)) == (0.0, 1.0)
    assert Flow().warp(u) == u


def test_dynamic_shift_is_exponential_in_the_number_of_tokens() -> None:
    """Flux: mu 0.5 at 256 tokens, 0.63 at 1024, 1.15 at 4096."""
    for tokens, mu in ((256, 0.5), (1024, 0.63), (4096, 1.15)):
        assert dynamic_shift(tokens) == pytest.approx(math.exp(mu), rel=1e-14)
    assert dynamic_shift(300, low=(100, 0.2), high=(500, 1.0)) == pytest.approx(math.exp(0.6), rel=1e-14)


@pytest.mark.parametrize(
    ("schedule", "std"),
    [(VP(), 1.0), (VPCosine(), 1.0), (scaled_linear(), 1.0), (VE(), 100.0), (EDM(), 80.0), (Flow(), 1.0)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_sampling_starts_from_noise_of_the_training_law(schedule: Schedule, std: float) -> None:
    assert schedule.start_std(schedule.node(schedule.t_max)) == pytest.approx(std, rel=1e-15)


def test_start_below_the_top_follows_the_law() -> None:
    assert VP().start_std(VP().node(0.3)) == pytest.approx(1.0, rel=1e-15)
    assert Flow().start_std(Flow().node(0.3)) == 0.3
    assert VE().start_std(VE().node(0.3)) == 0.3
    node = SubVP().node(0.3)
    assert SubVP().start_std(node) == pytest.approx(math.sqrt(node.alpha**2 + node.sigma**2), rel=1e-15)


@pytest.mark.parametrize(
    ("index", "published"),
    [
        (0, 0.9991499781608582),
        (1, 0.9982960224151611),
        (99, 0.8954624533653259),
        (499, 0.27766942977905273),
        (899, 0.014298668131232262),
        (998, 0.004716695751994848),
        (999, 0.00466009508818388),
    ],
)
def test_scaled_linear_is_stable_diffusions_table(index: int, published: float) -> None:
    """diffusers 0.42.1, DDIMScheduler.alphas_cumprod, a float32 product of up to 1000 factors."""
    assert schedules.get("vp_scaled_linear").node(index).alpha ** 2 == pytest.approx(published, rel=2e-6)


def test_scaled_linear_is_exact_where_it_can_be() -> None:
    table = scaled_linear(0.001, 0.04, 3).alphas_cumprod
    middle = ((math.sqrt(0.001) + math.sqrt(0.04)) / 2.0) ** 2
    assert table == pytest.approx([0.999, 0.999 * (1.0 - middle), 0.999 * (1.0 - middle) * 0.96], rel=1e-15)
    assert len(scaled_linear().alphas_cumprod) == 1000


@pytest.mark.parametrize("table", TABLES, ids=EVERY_IDS[-4:])
def test_table_entries_are_alpha_squared(table: VPTable) -> None:
    for i, a in enumerate(table.alphas_cumprod):
        node = table.node(i)
        assert node.alpha**2 == pytest.approx(a, rel=1e-14, abs=0.0)
        assert node.sigma**2 == pytest.approx(1.0 - a, rel=1e-14, abs=0.0)


def test_table_is_linear_in_lam_between_entries() -> None:
    table = scaled_linear()
    for i in (0, 41, 998):
        low, high = table.node(i), table.node(i + 1)
        node = table.node(i + 0.25)
        assert node.lam == pytest.approx(0.75 * low.lam + 0.25 * high.lam, rel=1e-14)
        assert node.alpha**2 + node.sigma**2 == pytest.approx(1.0, rel=1e-15)


def test_table_is_linear_in_alpha_next_to_a_zero() -> None:
    table = VPTable((0.9, 0.5, 0.0))
    node = table.node(1.75)
    assert node.alpha == pytest.approx(0.25 * math.sqrt(0.5), rel=1e-15)
    assert node.sigma == pytest.approx(math.sqrt(1.0 - 0.5 / 16.0), rel=1e-15)
    assert table.node(1.0 - 1e-9).alpha == pytest.approx(table.node(1.0 + 1e-9).alpha, rel=1e-8)
    assert table.clock(table.node(2.0 - 1e-9).lam) == pytest.approx(2.0 - 1e-9, abs=1e-15)


def test_stable_diffusions_table_with_zero_terminal_snr() -> None:
    """Lin et al. 2023, algorithm 1: sqrt(alphas_cumprod) shifted to 0 at the end and scaled to keep its first entry."""
    root = np.sqrt(np.array(scaled_linear().alphas_cumprod))
    rescaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    table = VPTable(rescaled)
    assert table.node(0).alpha == pytest.approx(root[0], rel=1e-14)
    assert table.node(500).alpha == pytest.approx((root[500] - root[-1]) * root[0] / (root[0] - root[-1]), rel=1e-14)
    assert table.node(999) == Node(999.0, 0.0, 1.0, -math.inf)
    nodes = [table.node(t) for t in np.linspace(0.0, 999.0, 3333)]
    assert all(a.lam > b.lam and a.alpha > b.alpha for a, b in pairwise(nodes))


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ((), ""),
        ((0.5,), ""),
        ((0.9, 0.95), ": entry 1 is 0.95"),
        ((0.9, 0.5, 0.5), ": entry 2 is 0.5"),
        ((1.0, 0.5), ": entry 0 is 1.0"),
        ((1.2, 0.5), ": entry 0 is 1.2"),
        ((0.9, 0.0, 0.0), ": entry 1 is 0.0"),
        ((0.9, 0.5, -0.1), ": entry 2 is -0.1"),
        ((0.9, math.nan, 0.1), ": entry 1 is nan"),
    ],
)
def test_bad_tables_are_refused(table: Sequence[float], where: str) -> None:
    with pytest.raises(ValueError) as error:
        VPTable(table)
    text = "alphas_cumprod must be at least two numbers that decrease within (0, 1), the last may be 0"
    assert str(error.value) == text + where


def test_table_takes_any_sequence() -> None:
    values = (0.9, 0.5, 0.1)
    for given in (list(values), np.array(values), values):
        assert VPTable(given) == VPTable(values)
        assert VPTable(given).alphas_cumprod == values


def test_equal_schedules_are_equal_and_hash_alike() -> None:
    assert VPTable([0.9, 0.5]) == VPTable((0.9, 0.5))
    assert hash(VPTable([0.9, 0.5])) == hash(VPTable((0.9, 0.5)))
    assert VPTable((0.9, 0.5)) != VPTable((0.9, 0.4))
    assert VP() == VP(beta_min=0.1)
    assert hash(VP()) == hash(VP(beta_min=0.1))
    assert VP() != VP(beta_min=0.2)
    assert VE(0.002, 80.0) != EDM()
    assert VP() != SubVP()
    assert Flow() != Flow(shift=3.0)
    assert len({scaled_linear(), scaled_linear(), VP(), VP(), SubVP()}) == 3


@pytest.mark.parametrize("schedule", EVERY, ids=EVERY_IDS)
def test_schedules_are_values(schedule: Schedule) -> None:
    with pytest.raises(AttributeError):
        schedule.t_min = 0.5
