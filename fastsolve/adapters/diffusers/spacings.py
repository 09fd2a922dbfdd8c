"""How diffusers' schedulers space their levels, as grids: what is already there, respaced in sigma, and lists that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastsolve import grids
from fastsolve.grids import Grid, Spacing, Uniform
from fastsolve.schedules import VE, Flow, Schedule, VPTable

RESPACED: dict[str, Grid] = {
    "use_karras_sigmas": grids.Karras(),
    "use_exponential_sigmas": grids.UniformLogSNR(),
    "use_beta_sigmas": grids.Beta(domain="sigma"),
    "use_lu_lambdas": grids.UniformLogSNR(),  # uniform in lambda: the same levels
}

# The rule of a name differs from class to class.
SPACINGS: dict[str, dict[str, Grid]] = {
    "ddim": {"linspace": Spacing("linspace"), "leading": Spacing("leading"), "trailing": Spacing("trailing")},
    "euler": {"linspace": Uniform(), "leading": Spacing("leading"), "trailing": Spacing("trailing")},
    "dpm": {"linspace": Spacing("linear"), "leading": Spacing("leading_dpm"), "trailing": Spacing("trailing")},
}


@dataclass(frozen=True)
class Given(Grid):
    """Positive levels that the caller gives, sigma of diffusers: sigma / alpha on a table, t on others; flow schedules shift them."""

    sigmas: tuple[float, ...]
    final_zero: ClassVar[bool] = True  # type: ignore[misc]
    name: ClassVar[str] = "given"

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        if not isinstance(schedule, VPTable):
            return [schedule.warp(s) for s in self.sigmas]
        top = schedule.lams[-1]
        lams = [-math.log(s) for s in self.sigmas]
        # Published lists are rounded: just above the top of the table is the top.
        return [schedule.at_lam(top if top - 1e-3 < lam < top else lam).t for lam in lams]


@dataclass(frozen=True)
class Respaced(Grid):
    """The levels of `rule` between the ends of `base`, in sigma of diffusers: sigma / alpha on a table, t in flow matching."""

    rule: Grid
    base: Grid
    final_zero: ClassVar[bool] = True  # type: ignore[misc]
    name: ClassVar[str] = "respaced"

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        ends = self.base.positive(schedule, count)
        if count == 1:
            return ends
        if isinstance(schedule, Flow):
            return self.rule.positive(VE(ends[-1], ends[0]), count)
        first, last = schedule.node(ends[0]), schedule.node(ends[-1])
        if not first.alpha:
            raise ValueError(
                "Karras, exponential, beta and lambda levels need a finite sigma at the start, and with rescale_betas_zero_snr "
                'it is infinite: leave that spacing out, and take timestep_spacing="trailing"'
            )
        sigmas = self.rule.positive(VE(last.sigma / last.alpha, first.sigma / first.alpha), count)
        return [ends[0], *(schedule.at_lam(-math.log(s)).t for s in sigmas[1:-1]), ends[-1]]


@dataclass(frozen=True)
class Cut(Grid):
    """A rule of a table that knows its first `size` entries only (lambda_min_clipped)."""

    rule: Grid
    size: int
    final_zero: ClassVar[bool] = True  # type: ignore[misc]
    name: ClassVar[str] = "cut"

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        assert isinstance(schedule, VPTable)
        return self.rule.positive(VPTable(schedule.alphas_cumprod[: self.size]), count)


@dataclass(frozen=True)
class Distilled(Grid):
    """The levels a latent consistency model was distilled at, `size` of them, evenly picked (LCMScheduler)."""

    size: int = 50
    final_zero: ClassVar[bool] = True  # type: ignore[misc]
    name: ClassVar[str] = "distilled"

    def positive(self, schedule: Schedule, count: int) -> list[float]:
        assert isinstance(schedule, VPTable)
        total = len(schedule.alphas_cumprod)
        if not count <= self.size <= total:
            raise ValueError(
                f"steps <= original_inference_steps <= num_train_timesteps is needed, not {count}, {self.size}, {total}"
            )
        known = [(total // self.size) * (i + 1) - 1.0 for i in range(self.size)][::-1]
        return [known[int(i)] for i in np.floor(np.linspace(0, self.size, count, endpoint=False))]


def only_one(config: Mapping[str, object]) -> str | None:
    """The spacing in sigma that a config asks for. Raises ValueError for several."""
    asked = [name for name in RESPACED if config.get(name)]
    if len(asked) > 1:
        raise ValueError(f"only one of {', '.join(RESPACED)} can be True, not {' and '.join(asked)}")
    return asked[0] if asked else None


def spacing(config: Mapping[str, object], like: str, usual: str, schedule: VPTable) -> Grid:
    """The levels of a table, by the rules of "ddim", "euler" or "dpm": timestep_spacing with steps_offset, or a spacing in sigma."""
    rules = SPACINGS[like]
    name = config.get("timestep_spacing") or usual
    if name not in rules:
        raise ValueError(f"timestep_spacing must be one of {', '.join(map(repr, rules))}, not {name!r}")
    rule = rules[str(name)]
    if name == "leading":
        offset = int(config.get("steps_offset") or 0)  # type: ignore[call-overload]
        rule = Spacing("leading_dpm" if like == "dpm" else "leading", offset)
    least = config.get("lambda_min_clipped")
    size = sum(lam >= float(least) for lam in schedule.lams) if least is not None else len(schedule.lams)  # type: ignore[arg-type]
    if like == "dpm" and size < len(schedule.lams):
        if name == "trailing":
            raise ValueError("lambda_min_clipped goes with timestep_spacing 'linspace' or 'leading', not 'trailing'")
        rule = Cut(rule, size)
    if config.get("interpolation_type") == "log_linear":
        raise ValueError(
            'interpolation_type must be "linear"; for levels uniform in log sigma: use_exponential_sigmas=True'
        )
    respaced = only_one(config)
    # Euler's kin respace between the levels of the spacing, the others over the whole table.
    return rule if respaced is None else Respaced(RESPACED[respaced], rule if like == "euler" else Uniform())
