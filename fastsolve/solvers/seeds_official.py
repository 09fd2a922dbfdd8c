"""What the published SEEDS code (nfsrules/SEEDS, October 2023) computes where it departs from the method; for `compat="official"`.

With h the step in lambda, c2 and c3 the nodes, span(p, q) = sqrt(|e^{-2ph} - e^{-2qh}|) in data form, e^{+2..} in noise form:

- SEEDS-2: n_t = sigma_t (span(c2, 1) z1 + span(0, c2) z2), the two spans swapped. Right only for c2 = 1/2; otherwise the noise of stage
  and step are wrongly correlated and the weak order falls to 1.
- SEEDS-3, both forms: likewise n_3 = sigma_3 (span(c2, c3) z1 + span(0, c2) z2), n_t with span(0, c2) on z3: right at thirds only.
- SEEDS-3, data form: the weight of stage 3 takes phi at c2 h without the factor 2: order 1 instead of 3.
- SEEDS-3, noise form: n_3 is scaled by sigma_t instead of sigma_3, and z1, z2 change places in n_t.
"""

from __future__ import annotations

import math

from fastsolve.forms import Form
from fastsolve.schedules import Node
from fastsolve.solvers import one_of
from fastsolve.solvers.seeds_forms import Data, Noise, Parametrisation


def checked(compat: str | None, p: Parametrisation, default_nodes: bool) -> bool:
    """Whether the published behaviour is asked for. Raises ValueError where there is none to reproduce."""
    if compat is None:
        return False
    one_of("compat", compat, ("official",))
    if p.eta != 1.0:
        raise ValueError(f"compat='official' exists for eta = 1 only, not {p.eta}")
    if not isinstance(p, Data | Noise):
        if not default_nodes:
            raise ValueError("compat='official' in EDM form exists at the default nodes only")
        return False  # there the published code is right
    return True


def _span(p: Parametrisation, h: float, low: float, high: float) -> float:
    k = -2.0 * h if isinstance(p, Data) else 2.0 * h
    return math.sqrt(abs(math.expm1(k * high) - math.expm1(k * low)))


def noise_2(p: Parametrisation, s: Node, t: Node, c2: float, z: tuple[Form, Form]) -> Form:
    """The noise of a SEEDS-2 step."""
    h = t.lam - s.lam
    return t.sigma * (_span(p, h, c2, 1.0) * z[0] + _span(p, h, 0.0, c2) * z[1])


def noises_3(
    p: Parametrisation, s: Node, v: Node, t: Node, c: tuple[float, float], z: tuple[Form, Form, Form]
) -> tuple[Form, Form]:
    """The noise of stage 3 and of the whole step of SEEDS-3."""
    h = t.lam - s.lam
    first, middle, last = _span(p, h, 0.0, c[0]), _span(p, h, *c), _span(p, h, c[1], 1.0)
    stage = middle * z[0] + first * z[1]
    if isinstance(p, Data):
        return v.sigma * stage, t.sigma * (last * z[0] + middle * z[1] + first * z[2])
    return t.sigma * stage, t.sigma * (middle * z[0] + last * z[1] + first * z[2])


def weight_3(p: Parametrisation, s: Node, v: Node, t: Node, c: tuple[float, float]) -> float:
    """The weight of M_2 in stage 3 of SEEDS-3."""
    if isinstance(p, Noise):
        return c[1] / c[0] * p.weight(2, s, v)
    x = c[0] * (t.lam - s.lam)
    return v.alpha * c[1] / c[0] * (1.0 + math.expm1(-2.0 * x) / x)
