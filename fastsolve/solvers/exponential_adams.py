"""The Adams step of exponential integrators, in lambda: what all multistep samplers in data form share, and those in noise form."""

from __future__ import annotations

from collections.abc import Sequence

from fastsolve.forms import Form
from fastsolve.integrals import exponential_weights
from fastsolve.schedules import Node
from fastsolve.solvers.seeds_forms import Data, Noise

Output = tuple[Node, Form]  # a node and the model's output M there


def adams_step(p: Data | Noise, x: Form, s: Node, t: Node, outputs: Sequence[Output], rule: str = "exact") -> Form:
    """From x at s to t with the polynomial in lambda through the outputs, of which the first is at s; noise is left to the caller.

    rule: of two outputs, "exact", or with the first moment of the exponential over the step replaced: "bh1" by h^2 / 2, "bh2"
    by h / 2 times the zeroth. An output at alpha = 0 lies infinitely far back in lambda, where it has no weight among others.
    """
    h, weights = t.lam - s.lam, [0.0]
    if len(outputs) == 2 and (rule == "bh2" or (rule == "bh1" and s.alpha > 0.0)):
        reach = 1.0 if outputs[1][0] == t else h / (outputs[1][0].lam - s.lam)
        weights = [0.0, 0.5 * reach * (p.factor(t) * h if rule == "bh1" else p.weight(1, s, t))]
    elif len(outputs) > 1:
        outputs = [output for output in outputs if output[0].alpha > 0.0]
        if len(outputs) > 1:
            exact = exponential_weights(s.lam, t.lam, [node.lam for node, _ in outputs], p.rate)
            weights = [p.factor(t) * w for w in exact]
    base = outputs[0][1]
    new = p.constant(x, base, s, t)
    for c, (_, m) in zip(weights[1:], outputs[1:], strict=True):
        new = new + c * (m - base)
    return new
