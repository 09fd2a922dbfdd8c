"""Every solver with its default options, and the variants that a paper tells apart; a solver added later is here by itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

import fastsolve
from fastsolve import solvers
from fastsolve.solvers import Solver

# Schedules by name with levels inside them, for plans that need an eps or a score: alpha > 0 everywhere.
LEVELS: dict[str, tuple[float, ...]] = {
    "ve": (20.0, 6.0, 2.0, 0.7, 0.2, 0.0),
    "edm": (40.0, 9.0, 2.5, 0.8, 0.1, 0.0),
    "vp": (1.0, 0.8, 0.55, 0.3, 0.1, 0.0),
    "vp_cosine": (0.97, 0.8, 0.55, 0.3, 0.1, 0.0),
    "sub_vp": (1.0, 0.8, 0.55, 0.3, 0.1, 0.0),
    "flow": (0.98, 0.8, 0.55, 0.3, 0.1, 0.0),
    "vp_scaled_linear": (999.0, 700.0, 400.0, 150.5, 20.0, -1.0),
}
needs_native = pytest.mark.skipif(
    importlib.util.find_spec("fastsolve._C") is None, reason="installed without the native module"
)
EXECUTORS = ["eager", pytest.param("native", marks=needs_native)]
PREDICTIONS = ("x0", "eps", "v", "flow", "score", "edm")


@dataclass(frozen=True)
class Case:
    """A solver with options."""

    solver: str
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def fact(self) -> Solver:
        """What the solver declares."""
        return solvers.get(self.solver)

    def where(self, **options: object) -> dict[str, object]:
        """The case's options, and of those given the ones that the solver has."""
        return {**self.options, **{k: v for k, v in options.items() if k in self.fact.options}}

    def __str__(self) -> str:
        return "-".join(
            [self.solver, *(f"{k}={v:.3g}" if isinstance(v, float) else str(v) for k, v in self.options.items())]
        )


# Solvers whose premises the common tests do not meet, and where theirs are: ddpm takes VP schedules only, and refuses the rest
# (test_single_step); the state of tada has several variables (test_tada).
OWN_TESTS = {"ddpm", "tada"}
SOLVERS = [name for name in fastsolve.list_solvers() if name not in OWN_TESTS]

NO_LIMIT = {"lcm"}  # renoises in every step: with an ordinary denoiser it converges to nothing
# Their path without noise is not that of the reverse SDE; their marginals are right to the order that they declare.
RENOISING = {"ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "sa_solver"}
IN_THE_CLOCK = {"deis", "deis_tab"}  # interpolate in t, so two clocks of one path differ
OWN_ENDS = {"fastsolve"}  # its first call is below the start, and its last step extrapolates
ONE_CALL_MORE = {"pndm"}  # its first step takes two calls
# Runge and Kutta's steps in sigma / alpha explode from almost infinity, where the first step from infinity itself is Euler's;
# exp_heun_2_x0 and flow_sde have another limit there.
NO_START_BELOW = {"heun", "restart", "dpm_solver_2", "dpm_solver_3", "dpm_2_ancestral", "deis_rho_rk", "pndm"} | {
    "exp_heun_2_x0",
    "flow_sde",
}

CASES = [
    *(Case(name) for name in SOLVERS),
    *(Case(name, {"variant": "heun"}) for name in ("dpmpp_2m", "dpmpp_2m_sde")),
    *(Case(name, {"form": "noise"}) for name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc", "sa_solver")),
    *(Case(name, {"form": form}) for name in ("seeds1", "seeds2", "seeds3") for form in ("noise", "edm")),
    Case("seeds2", {"variant": "phi_2"}),
    Case("seeds2", {"r": 0.8}),
    Case("seeds2", {"r": 1.0, "variant": "phi_2"}),
    Case("seeds2", {"r": 0.3, "form": "noise", "variant": "phi_2"}),
    Case("seeds2", {"r": 0.7, "form": "edm"}),
    Case("seeds3", {"r1": 0.2}),
    Case("seeds3", {"variant": "3b"}),
    Case("seeds3", {"variant": "3b", "r1": 0.5}),
    Case("seeds3", {"variant": "3b", "form": "noise"}),
    Case("seeds3", {"variant": "3b", "form": "edm"}),
]
