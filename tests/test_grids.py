"""Grids against the lists that published code computes, their ends, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsolve import grids, schedules
from fastsolve.grids import (
    IDDPM,
    RBE,
    Beta,
    Explicit,
    Grid,
    Karras,
    Laplace,
    LinearQuadratic,
    Published,
    RBEAtan,
    RBEReleasedGauss,
    Spacing,
    Stretched,
    TPoly,
    Uniform,
    UniformLogSNR,
    ays,
    gits,
)
from fastsolve.grids.beta import quantile
from fastsolve.grids.rule import Range
from fastsolve.schedules import (
    EDM,
    VE,
    VP,
    Flow,
    Node,
    Schedule,
    VPTable,
    dynamic_shift,
    scaled_linear,
    zero_terminal_snr,
)

PUBLISHED = json.loads(Path(__file__).with_name("grids.json").read_text())
SD = scaled_linear()
# As the libraries have it: float32 throughout, which moves the low sigmas by 1e-5.
SD32 = VPTable(np.cumprod(1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float32) ** 2, dtype=np.float32))
SD_RANGE = {"sigma_min": 0.0291675, "sigma_max": 14.614642}  # k-diffusion's for Stable Diffusion

# What is ours for each published family; final_zero=False where the list ends at its last positive level.
OURS: dict[str, tuple[Schedule, Grid]] = {
    "edm/karras": (EDM(), Karras()),
    "edm/ablation-vp": (VP(), Uniform(final_zero=False)),
    "edm/ablation-ve": (VE(), UniformLogSNR(final_zero=False)),
    "kdiff/karras/rho7.0/14.614642": (VE(), Karras(7.0, **SD_RANGE)),
    "kdiff/karras/rho3.0/14.614642": (VE(), Karras(3.0, **SD_RANGE)),
    "kdiff/karras/rho3.0/80.0": (EDM(), Karras(3.0)),
    "kdiff/exponential/80.0": (EDM(), UniformLogSNR()),
    "kdiff/exponential/14.614642": (VE(), UniformLogSNR(**SD_RANGE)),
    "kdiff/vp": (VP(), Uniform()),
    "dpmsolver/vp-linear/logSNR": (VP(), UniformLogSNR(final_zero=False)),
    "dpmsolver/vp-linear/time_uniform": (VP(), Uniform(final_zero=False)),
    "dpmsolver/vp-linear/time_quadratic": (VP(), Uniform(2.0, final_zero=False)),
    "dpmsolver/sd-discrete/time_uniform": (SD, Uniform(final_zero=False)),
    "dpmsolver/sd-discrete/time_quadratic": (SD, Uniform(2.0, final_zero=False)),
    "dpmsolver/sd-discrete/logSNR": (SD, UniformLogSNR(final_zero=False)),
    "deis/t-order2": (VP(), Uniform(2.0, final_zero=False)),
    "deis/log": (VP(), UniformLogSNR(final_zero=False)),
    "deis/rho-order7": (VP(), Karras(final_zero=False)),
    "bfl-flux/get_schedule/L256": (Flow(shift=dynamic_shift(256)), Uniform()),
    "bfl-flux/get_schedule/L1024": (Flow(shift=dynamic_shift(1024)), Uniform()),
    "bfl-flux/get_schedule/L4096": (Flow(shift=dynamic_shift(4096)), Uniform()),
    "ddim/uniform": (SD, Spacing("leading")),
    "diffusers/ddim/leading": (SD, Spacing("leading", offset=1)),
    "diffusers/ddim/trailing": (SD, Spacing("trailing")),
    "diffusers/ddim/linspace": (SD, Spacing("linspace")),
    "diffusers/dpmpp/leading": (SD, Spacing("leading_dpm", offset=1)),
    "diffusers/euler/linspace": (SD, Uniform()),
    "diffusers/dpmpp/flow-shift1.0": (Flow(t_max=0.999), Uniform()),
    "diffusers/dpmpp/flow-shift3.0": (Flow(shift=3.0, t_max=0.999), Uniform()),
    "diffusers/dpmpp/ays-sd15-timesteps": (
        SD32,
        Explicit((999.0, 850.0, 736.0, 645.0, 545.0, 455.0, 343.0, 233.0, 124.0, 24.0, -1.0)),
    ),
    "diffusers/dpmpp/linspace": (SD, Spacing("linear")),
    "diffusers/euler/leading": (SD32, Spacing("leading", offset=1)),
    "diffusers/dpmpp/trailing": (SD32, Spacing("trailing")),
    "diffusers/dpmpp/linspace/sigmas": (SD32, Spacing("linear")),
    "diffusers/dpmpp/karras": (SD32, Karras()),
    "diffusers/dpmpp/exponential": (SD32, UniformLogSNR()),
    "diffusers/edm_euler/karras": (EDM(), Karras()),
    "diffusers/flow/shift1.0-linspace1toinvN": (Flow(), Uniform()),
    "diffusers/flow/shift3.0-linspace1toinvN": (Flow(shift=3.0), Uniform()),
    "diffusers/flow/flux-dynamic-L1024": (Flow(shift=dynamic_shift(1024)), Uniform()),
    "comfy/sd/normal": (SD32, Uniform()),
    "comfy/sd/karras": (SD32, Karras()),
    "diffusers/euler/trailing": (SD32, Spacing("trailing")),
    "diffusers/euler/karras-linspace": (SD32, Karras()),
    "diffusers/euler/exponential-linspace": (SD32, UniformLogSNR()),
    "diffusers/euler/beta-linspace": (SD32, Beta(domain="sigma")),
    "diffusers/dpmpp/linspace-sigma_min": (SD32, Spacing("linear", final_zero=False)),
    "diffusers/dpmpp/beta": (SD32, Beta(domain="sigma")),
    "diffusers/dpmpp/lu": (SD32, UniformLogSNR()),
    "diffusers/flow/flux-dynamic-L256": (Flow(shift=dynamic_shift(256)), Uniform()),
    "diffusers/flow/flux-dynamic-L4096": (Flow(shift=dynamic_shift(4096)), Uniform()),
    "diffusers/flow/shift_terminal0.02-mu0.9": (Flow(shift=math.exp(0.9)), Stretched(0.02)),
    "diffusers/ays/StableDiffusionSigmas": (VE(), ays("sd15")),
    "diffusers/ays/StableDiffusionXLSigmas": (VE(), ays("sdxl")),
    "kdiff/karras/rho7.0/80.0": (EDM(), Karras()),
    "kdiff/polyexponential/rho0.5/14.614642": (VE(), UniformLogSNR(0.5, **SD_RANGE)),
    "kdiff/polyexponential/rho0.5/80.0": (EDM(), UniformLogSNR(0.5)),
    "kdiff/discrete_get_sigmas": (SD, Uniform()),
    "edm/ablation-iddpm": (VE(0.002, 81.0), IDDPM(final_zero=False)),
    "deis/t-order1": (VP(), Uniform(final_zero=False)),
    "ddim/quad": (SD, Spacing("quad")),
    "comfy/sd/simple": (SD32, Spacing("simple")),
    "comfy/sd/sgm_uniform": (SD32, Spacing("sgm_uniform")),
    "comfy/sd/ddim_uniform": (SD32, Spacing("leading", offset=1)),
    "comfy/sd/beta": (SD32, Beta()),
    "comfy/sd/kl_optimal": (SD32, RBEAtan(to_zero=False)),
    "comfy/sd/exponential": (SD32, UniformLogSNR()),
    "comfy/sd/laplace": (SD32, Laplace(final_zero=False)),
    "comfy/flux-mu1.15/simple": (Flow(shift=dynamic_shift(4096)), Uniform()),
    "comfy/flow-shift3/linear_quadratic": (Flow(shift=3.0), LinearQuadratic()),
    "comfy/flux-mu1.15/linear_quadratic": (Flow(shift=dynamic_shift(4096)), LinearQuadratic()),
    # ComfyUI puts the flow's t into the formulas for sigma.
    **{
        f"comfy/{model}/{name}": (VE(low, 1.0), rule)
        for model, low in (("flow-shift3", 0.002994011854752898), ("flux-mu1.15", 0.00031575115281157196))
        for name, rule in (
            ("karras", Karras()),
            ("exponential", UniformLogSNR()),
            ("kl_optimal", RBEAtan(to_zero=False)),
        )
    },
    "comfy/gits/coeff1.20": (VE(0.01), Published(lists=gits("sd15").lists, final_zero=False)),
    "gits-via-ld3/cifar10": (EDM(), Published(lists=gits("cifar10").lists, final_zero=False)),
    "gits-via-ld3/ffhq": (EDM(), Published(lists=gits("ffhq").lists, final_zero=False)),
    "gits-via-ld3/afhqv2": (EDM(), Published(lists=gits("afhqv2").lists, final_zero=False)),
    "rbe/atan/vp-linear/c0.5": (VP(), RBEAtan(0.5, final_zero=False)),
    "rbe/atan/vp-linear/c1.0": (VP(), RBEAtan(1.0, final_zero=False)),
    "rbe/paper-gauss/vp-linear/c0.5": (VP(), RBEReleasedGauss(0.5, final_zero=False)),
    "rbe/paper-gauss/vp-linear/c1.0": (VP(), RBEReleasedGauss(1.0, final_zero=False)),
    "rbe/spectrum-p2/vp-linear": (VP(), RBE(2, (0.1, 0.3, 1.0), kappa=1.0, final_zero=False)),
}


def family_of(entry: dict[str, Any]) -> str:
    return str(entry["id"].rpartition("/N")[0] or entry["id"])


# A table's index i is the time (i + 1) / 1000 of DPM-Solver.
CLOCK: dict[str, Callable[[float], float]] = {
    f"dpmsolver/sd-discrete/{name}": lambda t: (t + 1.0) / 1000.0 for name in ("time_uniform", "time_quadratic")
}

RULES = [
    Karras(),
    Karras(rho=3.0),
    UniformLogSNR(),
    Uniform(),
    Uniform(power=2.0),
    Spacing("linear"),
    Spacing("linspace"),
    Spacing("leading"),
    Spacing("leading_dpm", offset=1),
    Spacing("trailing"),
    Spacing("sgm_uniform"),
    Spacing("simple"),
    Beta(),
    Beta(domain="sigma"),
    Laplace(),
    RBEAtan(),
    RBEAtan(to_zero=False),
    RBE(order=1),
    RBE(order=2),
    RBEReleasedGauss(),
    TPoly(),
]
RULE_IDS = [
    "karras",
    "rho3",
    "logsnr",
    "uniform",
    "quadratic",
    "linear",
    "linspace",
    "leading",
    "leading_dpm",
    "trailing",
    "sgm",
    "simple",
]
RULE_IDS += ["beta", "beta-sigma", "laplace", "rbe_atan", "kl_optimal", "rbe1", "rbe2", "released-gauss", "tpoly"]
ZERO_SNR = VPTable(zero_terminal_snr(SD.alphas_cumprod))
LAWS: list[Schedule] = [
    VP(),
    SD,
    ZERO_SNR,
    VE(),
    EDM(),
    Flow(),
    Flow(shift=3.0),
    *map(schedules.get, ("vp_cosine", "sub_vp")),
]
LAW_IDS = ["vp", "sd", "zero-snr", "ve", "edm", "flow", "flow3", "cosine", "sub_vp"]


def without_final_zero(rule: Grid) -> Grid:
    return type(rule)(**{**vars(rule), "final_zero": False})


def fits(rule: Grid, law: Schedule) -> bool:
    """A grid in sigma / alpha needs a finite top."""
    needs = isinstance(rule, Karras | UniformLogSNR) or (isinstance(rule, Beta) and rule.domain == "sigma")
    return not needs or law.node(law.t_max).alpha > 0.0


PAIRS = [
    pytest.param(rule, law, id=f"{rule_id}-{law_id}")
    for rule, rule_id in zip(RULES, RULE_IDS, strict=True)
    for law, law_id in zip(LAWS, LAW_IDS, strict=True)
    if fits(rule, law)
]


def clocks(rule: Grid, law: Schedule, steps: int) -> list[float]:
    return [node.t for node in grids.nodes(rule, law, steps)]


@pytest.mark.parametrize("entry", PUBLISHED["ours"], ids=lambda entry: entry["id"])
def test_published_levels(entry: dict[str, Any]) -> None:
    family = family_of(entry)
    law, rule = OURS[family]
    values = entry["values"]
    steps = len(values) if entry["reads"] == "index" else len(values) - 1
    levels = grids.nodes(rule, law, steps)
    if entry["reads"] == "sigma":
        got = [node.sigma / node.alpha for node in levels]
    elif entry["reads"] == "lam":
        got = [node.lam for node in levels]
    else:
        got = [CLOCK.get(family, float)(node.t) for node in levels]
    if entry["reads"] == "index":
        assert got == [*values, -1.0]
    else:
        # The rounding of float32 sources, their table's included: a product of 1000 factors.
        assert got == pytest.approx(values, rel=5e-6 if "float32" in entry else 1e-12, abs=0.0)


def test_every_published_family_is_compared() -> None:
    assert {family_of(entry) for entry in PUBLISHED["ours"]} == set(OURS)


def leading_ends(n: int) -> dict[str, float]:
    """sigma_min and sigma_max of the indices that `leading` with offset 1 leaves of Stable Diffusion's table."""
    low, high = SD32.node(1.0), SD32.node(1.0 + (n - 1) * (1000 // n))
    return {"sigma_min": low.sigma / low.alpha, "sigma_max": high.sigma / high.alpha}


def of_flow_table(indices: Sequence[float], shift: float, size: int) -> list[float]:
    """ComfyUI's flow levels are a table: t = 1/size, 2/size ... 1, shifted."""
    return [*(Flow(shift=shift).warp((i + 1.0) / size) for i in indices), 0.0]


def twice_shifted(n: int, shift: float, size: int, count: int) -> list[float]:
    """The first n of `count` even levels down to the already shifted 1/size, shifted again."""
    law = Flow(shift=shift, t_min=Flow(shift=shift).warp(1.0 / size))
    even = clocks(Uniform(final_zero=False), law, count - 1) if count > 1 else [1.0]
    return [*even[:n], 0.0]


def clamped_laplace(n: int, low: float) -> list[float]:
    x = np.linspace(0.0, 1.0, n)
    off = 0.5 * np.sign(0.5 - x) * np.log(1.0 - 2.0 * np.abs(0.5 - x) + 1e-5)
    return [float(v) for v in np.clip(np.exp(-off), low, 1.0)]


def comfy_flow(shift: float, size: int) -> dict[str, Callable[[int], list[float]]]:
    def beta(n: int) -> list[float]:
        rounded = [round(quantile(1.0 - i / n, 0.6, 0.6) * (size - 1)) for i in range(n)]
        return of_flow_table(sorted(set(rounded), reverse=True), shift, size)

    return {
        "simple": lambda n: of_flow_table([size - 1 - int(i * (size / n)) for i in range(n)], shift, size),
        "normal": lambda n: twice_shifted(n, shift, size, n),
        "sgm_uniform": lambda n: twice_shifted(n, shift, size, n + 1),
        "ddim_uniform": lambda n: of_flow_table(range(1, size, size // n)[::-1], shift, size),
        "beta": beta,
        "laplace": lambda n: clamped_laplace(n, Flow(shift=shift).warp(1.0 / size)),
    }


# Published lists that no grid of ours gives, by the rule behind each, so that it is known what is not ours; why:
#   ddim/linspace of one step: it starts at index 0, at clean data; ours starts at the top
#   euler/*-leading: the range of indices that `leading` left, so that terminal SNR is lost; ours is the table's (sigma_max says otherwise)
#   flow/shift*, comfy flow normal and sgm_uniform: the shift is applied again to the shifted end; ours is applied once
#   comfy flow simple and beta: rounded to 1/1000 or 1/10000 of the clock; ours are not (and ComfyUI's beta drops steps that coincide)
#   comfy ddim_uniform: T // n need not divide T, which gives n + 1 steps, and the top is left out; ours has n
#   comfy laplace: repeats the levels that it clamps, has no 0, and takes the flow's t for sigma
#   comfy/sd/linear_quadratic: a rule for flow matching, scaled by the sigma_max of Stable Diffusion; ours refuses other schedules
#   ays timesteps: the nearest indices of ays_sd15 and ays_sdxl, whose levels are not rounded
# Not here: gits-via-ld3/sd15 (another run of GITS than ComfyUI's list, which is ours), gits/dp (its costs were not published; `test_gits`
# has runs of the same function on costs that are), ots (`test_ots`), rbe-released (`test_rbe`), alphas_cumprod (`test_schedules`).
OTHERS: dict[str, Callable[[int], list[float]]] = {
    "diffusers/ddim/linspace": lambda n: [0.0],
    "diffusers/euler/karras-leading": lambda n: sigmas(Karras(**leading_ends(n)), SD32, n),
    "diffusers/euler/exponential-leading": lambda n: sigmas(UniformLogSNR(**leading_ends(n)), SD32, n),
    "diffusers/euler/beta-leading": lambda n: sigmas(Beta(domain="sigma", **leading_ends(n)), SD32, n),
    "diffusers/flow/shift1.0": lambda n: twice_shifted(n, 1.0, 1000, n),
    "diffusers/flow/shift3.0": lambda n: twice_shifted(n, 3.0, 1000, n),
    "comfy/sd/ddim_uniform": lambda n: sigmas(Explicit((*range(1, 1000, 1000 // n)[::-1], -1.0)), SD32, None),
    "comfy/sd/linear_quadratic": lambda n: [
        SD32.node(999.0).sigma / SD32.node(999.0).alpha * t for t in clocks(LinearQuadratic(), Flow(), n)
    ],
    **{f"comfy/flow-shift3/{name}": rule for name, rule in comfy_flow(3.0, 1000).items()},
    **{f"comfy/flux-mu1.15/{name}": rule for name, rule in comfy_flow(math.exp(1.15), 10000).items()},
    "diffusers/ays/StableDiffusionTimesteps": lambda n: [float(round(t)) for t in clocks(ays("sd15"), SD, 10)[:-1]],
    "diffusers/ays/StableDiffusionXLTimesteps": lambda n: [float(round(t)) for t in clocks(ays("sdxl"), SD, 10)[:-1]],
}


def sigmas(rule: Grid, law: Schedule, steps: int | None) -> list[float]:
    count = len(rule.values) - 1 if isinstance(rule, Explicit) else steps
    return [node.sigma / node.alpha for node in grids.nodes(rule, law, count or 1)]


@pytest.mark.parametrize("entry", PUBLISHED["others"], ids=lambda entry: entry["id"])
def test_the_rule_of_published_lists_that_are_not_ours(entry: dict[str, Any]) -> None:
    n = int(entry["id"].rpartition("/N")[2]) if "/N" in entry["id"] else 10
    got = OTHERS[family_of(entry)](n)
    if entry["reads"] == "index":
        assert got == pytest.approx(entry["values"], abs=1.0 if "ays" in entry["id"] else 0.0)
    else:
        assert got == pytest.approx(entry["values"], rel=1e-5, abs=1e-9)


def test_every_other_rule_is_published() -> None:
    assert {family_of(entry) for entry in PUBLISHED["others"]} | {"comfy/flux-mu1.15/simple"} == set(OTHERS)


def test_other_conventions_of_the_same_word_are_not_ours() -> None:
    """DDIM's and DPM-Solver's `leading` and `linspace` in diffusers are two rules each, and Euler's linspace is not rounded."""
    for one, other, off in (
        ("leading", "leading_dpm", 20.0),
        ("linear", "linspace", 100.0),
        ("sgm_uniform", "linspace", 100.0),
    ):
        apart = [abs(a - b) for a, b in zip(clocks(Spacing(one), SD, 6), clocks(Spacing(other), SD, 6), strict=True)]
        assert max(apart) > off
    ours = clocks(Uniform(), SD, 6)
    assert ours != clocks(Spacing("linspace"), SD, 6)
    assert ours == pytest.approx(clocks(Spacing("linspace"), SD, 6), abs=0.5)


@pytest.mark.parametrize(("rule", "law"), PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37])
def test_steps_count_and_the_last_level_is_clean(rule: Grid, law: Schedule, steps: int) -> None:
    levels = clocks(rule, law, steps)
    assert len(levels) == steps + 1
    assert all(a > b for a, b in pairwise(levels))
    assert levels[-1] == law.t_clean
    assert grids.nodes(rule, law, steps)[-1] == Node(law.t_clean, 1.0, 0.0, math.inf)
    assert grids.nodes(rule, law, steps)[-2].sigma > 0.0


@pytest.mark.parametrize(("rule", "law"), PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_without_final_zero_the_same_count_ends_at_a_positive_level(rule: Grid, law: Schedule, steps: int) -> None:
    levels = clocks(without_final_zero(rule), law, steps)
    assert len(levels) == steps + 1
    assert all(a > b for a, b in pairwise(levels))
    assert law.node(levels[-1]).sigma > 0.0
    shifted = not isinstance(rule, Range) or rule == Beta()  # rules of the clock, not of sigma
    assert levels[-1] == pytest.approx(law.warp(law.t_min) if shifted else law.t_min, rel=1e-14)


@pytest.mark.parametrize(("rule", "law"), PAIRS)
def test_the_first_level_is_the_top_of_the_schedule(rule: Grid, law: Schedule) -> None:
    """Exactly, so that terminal SNR is kept; only both `leading` start below it, which is their known fault."""
    first = clocks(rule, law, 7)[0]
    if isinstance(rule, Spacing) and rule.kind.startswith("leading"):
        assert first < 0.96 * law.t_max
    else:
        assert first == law.t_max


@pytest.mark.parametrize("power", [2.0, 3.0, 0.7])
def test_powers_of_the_clock_keep_both_ends(power: float) -> None:
    """However their roots are rounded: sqrt(2) squared is not 2."""
    for size in range(2, 60):
        law = VPTable(np.linspace(0.99, 0.01, size))
        assert clocks(Uniform(power), law, 1)[0] == size - 1.0
        law = VE(0.001 * size, float(size))
        levels = clocks(Uniform(power, final_zero=False), law, 3)
        assert (levels[0], levels[-1]) == (float(size), 0.001 * size)


def test_one_step_goes_from_the_top_to_clean_data() -> None:
    for law in LAWS:
        assert clocks(Uniform(), law, 1) == [law.t_max, law.t_clean]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("linear", [1.0, 0.75025, 0.5005, 0.25075]), ("trailing", [1.0, 0.75025, 0.5005, 0.25075])]
    + [("leading", [0.75025, 0.5005, 0.25075, 0.001]), ("leading_dpm", [0.8002, 0.6004, 0.4006, 0.2008])]
    + [("linspace", [1.0, 0.667, 0.334, 0.001])],
)
def test_spacing_takes_the_same_fractions_of_a_continuous_clock(kind: str, shown: list[float]) -> None:
    assert clocks(Spacing(kind), VP(), 4) == pytest.approx([*shown, 0.0], rel=1e-14)


def test_spacing_may_use_every_index_of_a_table() -> None:
    everything = [float(i) for i in range(999, -1, -1)]
    assert clocks(Spacing("trailing"), SD, 1000) == [*everything, -1.0]
    assert clocks(Spacing("leading"), SD, 1000) == [*everything, -1.0]
    assert clocks(Spacing("linspace"), SD, 1000) == [*everything, -1.0]
    for kind in ("linear", "leading_dpm"):
        assert clocks(Spacing(kind), SD, 999) == [*everything[:-1], -1.0]  # index 0 is never called


@pytest.mark.parametrize("shift", [0.1, 0.3, 1.0, 3.0, 7.0])
def test_a_shift_keeps_the_ends_of_flow(shift: float) -> None:
    """Exactly: 0.1 / (1 - 0.9) is more than 1."""
    for steps in (1, 2, 3, 10):
        levels = clocks(Uniform(), Flow(shift=shift), steps)
        assert (levels[0], levels[-1]) == (1.0, 0.0)
    shorter = clocks(Uniform(), Flow(shift=shift, t_max=0.9), 4)
    assert shorter[0] == pytest.approx(0.9 * shift / (0.1 + 0.9 * shift), rel=1e-14)
    assert shorter[0] == grids.nodes(Uniform(), Flow(shift=shift, t_max=0.9), 4)[0].sigma


def test_rounding_is_that_of_the_published_codes() -> None:
    """999 / 30 * 15 is 499.49999999999994 and 1000 - 6 * 1000 / 499 ends where arange says, however it should be."""
    assert clocks(Spacing("linear"), SD, 30)[15] == 499.0
    trailing = np.arange(1000, 0, -1000 / 499).round() - 1
    assert len(trailing) == 500  # theirs has a step too many, at index -1
    assert clocks(Spacing("trailing"), SD, 499) == trailing.tolist()


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("linear", 1000), ("leading_dpm", 1000), ("leading", 1001), ("linspace", 1001), ("trailing", 1001)],
)
def test_more_levels_than_a_table_has_are_refused(kind: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"^{steps} levels do not fit a table of 1000$"):
        grids.nodes(Spacing(kind), SD, steps)


def test_an_offset_that_leaves_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="level 1000 is outside the schedule 'vp_table'"):
        grids.nodes(Spacing("leading", offset=1), SD, 1000)


def test_sigmas_are_in_units_of_the_data() -> None:
    """On VP, sigma_min and sigma_max mean sigma / alpha, as in k-diffusion."""
    for rule in (Karras(sigma_min=0.05, sigma_max=10.0), UniformLogSNR(sigma_min=0.05, sigma_max=10.0)):
        levels = grids.nodes(rule, VP(), 5)
        rho = [node.sigma / node.alpha for node in levels[:-1]]
        assert (rho[0], rho[-1]) == pytest.approx((10.0, 0.05), rel=1e-13)


def test_karras_is_uniform_in_the_root_and_logsnr_in_lam() -> None:
    roots = [t ** (1.0 / 5.0) for t in clocks(Karras(rho=5.0), EDM(), 8)[:-1]]
    assert np.diff(roots) == pytest.approx((roots[-1] - roots[0]) / 7.0, rel=1e-12)
    lams = [node.lam for node in grids.nodes(UniformLogSNR(), SD, 8)[:-1]]
    assert np.diff(lams) == pytest.approx((lams[-1] - lams[0]) / 7.0, rel=1e-12)


@pytest.mark.parametrize("rule", [Karras(), UniformLogSNR()], ids=["karras", "logsnr"])
@pytest.mark.parametrize("law", [Flow(), schedules.get("vp_cosine"), VPTable((0.9, 0.5, 0.0))], ids=lambda s: s.name)
def test_grids_in_sigma_need_a_top_where_alpha_is_zero(rule: Grid, law: Schedule) -> None:
    with pytest.raises(ValueError) as error:
        grids.nodes(rule, law, 3)
    text = f"grid '{rule.name}' needs sigma_max on '{law.name}', which starts at alpha = 0"
    assert str(error.value) == text
    first = grids.nodes(type(rule)(sigma_max=20.0), law, 1)[0]
    assert first.sigma / first.alpha == pytest.approx(20.0, rel=1e-12)


def test_sigma_max_may_be_the_schedules_own() -> None:
    """However its quotient is rounded."""
    for beta_max in np.linspace(5.0, 30.0, 101):
        law = VP(beta_max=float(beta_max))
        top = law.node(1.0)
        assert clocks(Karras(sigma_max=top.sigma / top.alpha), law, 3)[0] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("law", [SD, VP()], ids=["sd", "vp"])
def test_sigma_max_beyond_the_schedule_is_refused(law: Schedule) -> None:
    with pytest.raises(ValueError, match="is outside the"):
        grids.nodes(Karras(sigma_max=1000.0), law, 3)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("rule", "parameter"),
    [(Karras, "rho"), (Karras, "sigma_min"), (Karras, "sigma_max"), (UniformLogSNR, "sigma_min")]
    + [(UniformLogSNR, "sigma_max"), (Uniform, "power")],
)
def test_bad_parameters_are_refused(rule: Callable[..., Grid], parameter: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{parameter} of grid '.*' must be positive and finite, not {value}$"):
        rule(**{parameter: value})


def test_bad_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^spacing kind must be linear, .*, simple or quad, not 'middle'$"):
        Spacing("middle")


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_tpoly_is_even_in_a_root_of_the_time_of_two_variables(power: float) -> None:
    """t of sigma = (1 - t)^2 / (t sqrt(t^2 + 4)), found on a fine grid of t."""
    times = np.linspace(1e-6, 1.0, 2_000_001)[:-1]
    sigma = (1.0 - times) ** 2 / (times * np.sqrt(times**2 + 4.0))
    walked = [node.sigma for node in grids.nodes(TPoly(power), EDM(0.01, 50.0), 9)[:-1]]
    roots = np.interp(-np.log(walked), -np.log(sigma), times) ** (1.0 / power)
    assert np.diff(roots) == pytest.approx((roots[-1] - roots[0]) / 8.0, rel=1e-4)


def test_flow_shift_moves_every_level() -> None:
    shifted, plain = clocks(Uniform(), Flow(shift=3.0), 4), clocks(Uniform(), Flow(), 4)
    assert plain == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert shifted == pytest.approx([3.0 * u / (1.0 + 2.0 * u) for u in plain], rel=1e-15)


@pytest.mark.parametrize(
    ("values", "law", "text"),
    [
        ([1.0, 0.5, 0.5, 0.1], VP(), "levels must decrease, but level 2 is 0.5 after 0.5"),
        ([1.0, 0.2, 0.5], VP(), "levels must decrease, but level 2 is 0.5 after 0.2"),
        ([1.0, math.nan, 0.1], VP(), "level 1 of the grid is nan: levels must be finite"),
        ([math.inf, 1.0], EDM(), "level 0 of the grid is inf: levels must be finite"),
        ([1.2, 0.5], VP(), "level 1.2 is outside the schedule 'vp', whose clock runs from 0 to 1"),
        ([0.5, -0.5], Flow(), "level -0.5 is outside the schedule 'flow', whose clock runs from 0 to 1"),
        ([10.0, -0.5], SD, "level -0.5 of a table: below index 0 there is only -1, clean data"),
        ([1.0], VP(), "a grid needs at least two levels, a start and an end, not [1.0]"),
        ([], VP(), "a grid needs at least two levels, a start and an end, not []"),
    ],
)
def test_bad_levels_are_refused(values: list[float], law: Schedule, text: str) -> None:
    with pytest.raises(ValueError) as error:
        grids.nodes(grids.get(values, law), law, len(values) - 1)
    assert str(error.value) == text


@pytest.mark.parametrize("steps", [0, -3])
def test_a_grid_has_a_step(steps: int) -> None:
    with pytest.raises(ValueError, match=f"^a grid needs at least one step, not {steps}$"):
        grids.nodes(Uniform(), VP(), steps)


@pytest.mark.parametrize(
    "values", [(14.0, 3.0, 0.0), [14, 3, 0], np.array([14.0, 3.0, 0.0])], ids=["tuple", "ints", "np"]
)
def test_explicit_levels_are_walked_as_given(values: Sequence[float]) -> None:
    rule = grids.get(values, EDM())
    assert rule == Explicit((14.0, 3.0, 0.0))
    assert [node.sigma for node in grids.nodes(rule, EDM(), 2)] == [14.0, 3.0, 0.0]


def test_explicit_levels_may_end_above_zero() -> None:
    assert clocks(Explicit((0.9, 0.1)), VP(), 1) == [0.9, 0.1]
    assert clocks(Explicit((999.0, 0.5, -1.0)), SD, 2) == [999.0, 0.5, -1.0]


def test_explicit_levels_bring_their_own_count() -> None:
    with pytest.raises(ValueError, match=r"^the grid given has 2 steps, not 5: leave steps out$"):
        grids.nodes(Explicit((1.0, 0.5, 0.0)), VP(), 5)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("karras", Karras(7.0)),
        ("uniform", Uniform()),
        ("quadratic", Uniform(2.0)),
        ("uniform_logsnr", UniformLogSNR()),
        ("exponential", UniformLogSNR()),
        ("linear", Spacing("linear")),
        ("leading", Spacing("leading")),
        ("trailing", Spacing("trailing")),
    ],
)
def test_names(name: str, rule: Grid) -> None:
    assert grids.get(name, VP()) == rule


@pytest.mark.parametrize(
    ("law", "rule"),
    [
        (VE(), Karras()),
        (VE(0.01, 1.0), Karras()),
        (EDM(), Karras()),
        (SD, Spacing("trailing")),
        (VPTable((0.9, 0.5)), Spacing("trailing")),
        (VP(), RBE()),
        (VP(t_max=0.9), RBE()),
        (schedules.get("sub_vp"), RBE()),
        (schedules.get("vp_cosine"), RBE()),
        (Flow(), Uniform()),
        (Flow(t_max=0.98), Uniform()),
    ],
)
def test_the_schedule_chooses_where_none_is_given(law: Schedule, rule: Grid) -> None:
    assert grids.get(None, law) == rule


def test_readme_names_every_grid() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert [name for name in grids._NAMED if not name.startswith(("ays_", "gits_")) and f"`{name}`" not in readme] == []


def test_objects_pass_through() -> None:
    mine = Karras(rho=5.0)
    assert grids.get(mine, VP()) is mine


@pytest.mark.parametrize(("name", "near"), [("karas", "karras"), ("logsnr", "uniform_logsnr"), ("trail", "trailing")])
def test_unknown_name_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError) as error:
        grids.get(name, VP())
    known = "karras, uniform, quadratic, uniform_logsnr, exponential, "
    assert str(error.value).startswith(f"unknown grid '{name}': known are {known}")
    assert str(error.value).endswith(f", or clock values; nearest is '{near}'")


@pytest.mark.parametrize("given", [5, [1.0, "a"], [[1.0]], [1.0, None], {"a": 1}.items()], ids=str)
def test_what_is_no_grid_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match=r"^grid must be a name, a grid or a sequence of clock values, not "):
        grids.get(given, VP())


@pytest.mark.parametrize("entry", PUBLISHED["interpolated"], ids=lambda entry: entry["id"])
def test_ays_interpolates_as_its_authors_advise(entry: dict[str, Any]) -> None:
    """ComfyUI's own constants give its lists; the paper's, which are ours, differ by their third decimal."""
    ten = PUBLISHED["interpolated"][1]
    steps = len(entry["values"]) - 1
    if "sd15" in entry["id"]:
        theirs = Published(lists=((*ten["values"][:-1], 0.0291671582),))
        got = [node.sigma for node in grids.nodes(theirs, VE(0.001, 100.0), steps)]
        assert got == pytest.approx(
            entry["values"], rel=1e-6
        )  # their eleventh constant is not among the numbers published here
    ours = [node.sigma for node in grids.nodes(ays(entry["id"].split("/")[2]), VE(0.001, 100.0), steps)]
    assert ours == pytest.approx(entry["values"], rel=0.012)
    assert ours != pytest.approx(entry["values"], rel=1e-4)


def test_published_ends_are_the_schedules_own() -> None:
    levels = clocks(ays("sd15"), SD, 10)
    assert (levels[0], levels[-1]) == (999.0, -1.0)  # 14.615 is above the table's 14.6146
    assert clocks(Published(lists=ays("svd").lists, final_zero=False), VE(0.002, 700.0), 25)[-1] == 0.002


@pytest.mark.parametrize("entry", PUBLISHED["zero_snr"], ids=lambda entry: entry["id"])
def test_zero_terminal_snr_is_exact(entry: dict[str, Any]) -> None:
    """Where diffusers has 2^-24, sigma = 4096, ours is 0."""
    table = zero_terminal_snr(SD32.alphas_cumprod)
    assert (table[0], table[-1]) == (SD32.alphas_cumprod[0], 0.0)
    levels = grids.nodes(Spacing("trailing"), VPTable(table), len(entry["values"]) - 1)
    assert (levels[0].alpha, levels[0].sigma, levels[0].lam) == (0.0, 1.0, -math.inf)
    assert entry["values"][0] == pytest.approx(4096.0, rel=1e-6)
    assert [n.sigma / n.alpha for n in levels[1:]] == pytest.approx(
        entry["values"][1:], rel=1e-4
    )  # float32: 1 - a near 1


TRAPS = {entry["id"]: entry["values"] for part in ("ours", "others") for entry in PUBLISHED[part]}


def test_flow_shift_is_applied_once() -> None:
    """FlowMatchEuler without given sigmas, and ComfyUI's "normal", shift the already shifted low end again."""
    ours = clocks(grids.get("normal", Flow(shift=3.0)), Flow(shift=3.0), 6)
    assert ours[-3:-1] == pytest.approx([0.6, 0.375], rel=1e-14)
    for theirs in (TRAPS["diffusers/flow/shift3.0/N6"], TRAPS["comfy/flow-shift3/normal/N6"]):
        assert theirs[-2] < 0.01


def test_ddim_uniform_has_the_steps_asked_for() -> None:
    assert len(TRAPS["comfy/sd/ddim_uniform/N15"]) == 17
    assert len(clocks(grids.get("ddim_uniform", SD), SD, 15)) == 16


def test_laplace_does_not_repeat_levels_and_ends_at_zero() -> None:
    assert TRAPS["comfy/flow-shift3/laplace/N15"][:3] == [1.0, 1.0, 1.0]
    assert TRAPS["comfy/flow-shift3/laplace/N15"][-1] > 0.0
    for law in (VE(0.003, 1.0), SD, EDM(), Flow()):
        for steps in (1, 2, 3, 15, 500, 1000):
            levels = clocks(Laplace(), law, steps)
            assert all(a > b for a, b in pairwise(levels))
            assert levels[-1] == law.t_clean


def test_karras_starts_at_the_schedules_top_whatever_the_spacing() -> None:
    assert TRAPS["diffusers/euler/karras-leading/N10"][0] < 9.0
    assert clocks(Karras(), SD, 10)[0] == 999.0


def test_beta_is_the_good_one_and_loses_no_step() -> None:
    assert clocks(grids.get("beta", SD), SD, 10) != clocks(Beta(domain="sigma"), SD, 10)
    assert TRAPS["diffusers/dpmpp/beta/N10"][1] > 13.0 > SD.node(clocks(Beta(), SD, 10)[1]).sigma
    for steps in (1, 2, 200, 500, 1000):
        levels = clocks(Beta(), SD, steps)
        assert len(levels) == steps + 1
        assert levels[0] == 999.0


@pytest.mark.parametrize("steps", [1, 2, 17, 400, 1000])
@pytest.mark.parametrize(
    "rule", [RBEAtan(), RBE(order=1), RBE(order=2), TPoly(), RBEAtan(to_zero=False)], ids=lambda r: r.name
)
def test_levels_stay_within_what_the_model_knows(rule: Grid, steps: int) -> None:
    for law in LAWS:
        levels = clocks(rule, law, steps)
        assert len(levels) == steps + 1
        assert all(a > b for a, b in pairwise(levels))
        assert levels[-2] >= law.t_min


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Beta(domain="u"), "domain of grid 'beta' must be t or sigma, not 'u'"),
        (lambda: Beta(sigma_max=3.0), "sigma_min and sigma_max of grid 'beta' belong to domain 'sigma'"),
        (lambda: Beta(a=0.0), "a of grid 'beta' must be positive and finite, not 0.0"),
        (lambda: RBE(order=3), "order of grid 'rbe' must be 1 or 2, or None for the solver's, not 3"),
        (lambda: RBE(c=()), "c of grid 'rbe' must be at least one standard deviation"),
        (lambda: RBE(c=(0.1, -1.0)), "c[1] of grid 'rbe' must be positive and finite, not -1.0"),
        (lambda: RBE(kappa=2.0), "kappa of grid 'rbe' must be between 0 and 1, not 2.0"),
        (lambda: RBEAtan(c=0.0), "c of grid 'rbe_atan' must be positive and finite, not 0.0"),
        (lambda: Laplace(mu=math.inf), "mu of grid 'laplace' must be finite, not inf"),
        (lambda: LinearQuadratic(1.0), "threshold of grid 'linear_quadratic' must be between 0 and 1, not 1.0"),
        (lambda: Stretched(1.5), "terminal of grid 'stretched' must be between 0 and 1, not 1.5"),
        (lambda: Published(()), "grid 'published' needs at least one list of two or more levels"),
        (lambda: ays("sd3"), "AYS published no list for 'sd3', only for sd15, sdxl, deepfloyd, svd"),
        (lambda: clocks(Spacing("quad"), SD, 40), "40 levels of 'quad' repeat indices of a table of 1000"),
        (lambda: clocks(LinearQuadratic(), VP(), 5), "grid 'linear_quadratic' is made for flow matching, not for 'vp'"),
        (lambda: clocks(Stretched(), VP(), 5), "grid 'stretched' is made for flow matching, not for 'vp'"),
        (lambda: clocks(Karras(sigma_min=90.0), EDM(), 5), "grid 'karras' needs sigma_min < sigma_max, not 90 and 80"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == text
