"""The pilot of `rbe`: where the trajectories of a model bend, and how much of an error survives to the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastsolve.calibrate.field import Field, field_of, lam_range, noise
from fastsolve.denoiser import Denoiser
from fastsolve.grids import RBEPilot
from fastsolve.schedules import Node


def _norm(x: Tensor) -> float:
    """Root of the mean over samples of the squared 2-norm."""
    return math.sqrt(float(x.double().square().sum()) / len(x))


def rbe_pilot(
    denoiser: Denoiser,
    shape: Sequence[int] | None = None,
    *,
    trajectories: int = 8,
    levels: int = 40,
    probes: int = 4,
    sigma_max: float | None = None,
    seed: int = 0,
    guidance: float | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
    path: str | Path | None = None,
) -> RBEPilot:
    """Measure where a model's trajectories bend, and return the grid that spreads the solver's backward error evenly.

    shape: of one sample, [*shape]; by default the Denoiser's. trajectories x levels calls of the model for one sample each (320; 4 x 24
    come within 2 to 7 %), followed by DPM-Solver++(2M) on levels even in lam. probes: random directions carried back along them by
    vector-Jacobian products, which measure how much of an error survives; 0 needs no gradients. sigma_max: where a schedule that starts
    at alpha = 0 is entered (sigma / alpha). dtype: of the state. path: JSON file that keeps the result, read instead if it is there
    (ValueError if it was measured with another guidance).

    Use: `grid = rbe_pilot(model); fastsolve.sample(model, solver="ddim", grid=grid, steps=8)`; the grid asks the solver's order.
    """
    if path is not None and Path(path).exists():
        return RBEPilot.load(path, guidance)
    field = field_of(denoiser, model_kwargs, guidance)
    if levels < 4 or probes < 0:
        raise ValueError(f"a pilot needs at least 4 levels and 0 probes, not {levels} and {probes}")
    law = field.schedule
    high, low = lam_range(law, sigma_max)
    lams = [high + (low - high) * j / (levels - 1) for j in range(levels)]
    nodes = [law.at_lam(lam) for lam in lams]
    nodes[-1] = law.node(law.t_min)
    y = noise(denoiser, shape, trajectories, seed, dtype) * (law.start_std(nodes[0]) / nodes[0].alpha)
    states, first, second = _follow(field, nodes, y)
    gain = _gain(field, nodes, states, probes, seed) if probes else []
    pilot = RBEPilot(tuple(lams), tuple(first), tuple(second), tuple(gain))
    if path is not None:
        pilot.save(path, guidance)
    return pilot


@torch.no_grad()
def _follow(field: Field, nodes: Sequence[Node], y: Tensor) -> tuple[list[Tensor], list[float], list[float]]:
    """Exponential AB2 in y = x / alpha; its states, and the rms of |D'| and |5/12 D'' + 1/12 D'| by central differences."""
    h = nodes[1].lam - nodes[0].lam
    states, first, second = [y], [], []
    window: list[Tensor] = []
    for j, node in enumerate(nodes):
        window = [*window[-2:], field.x0(node.alpha * states[-1], [node] * len(y))]
        if len(window) == 3:
            slope, bend = (window[2] - window[0]) / (2.0 * h), (window[2] - 2.0 * window[1] + window[0]) / h**2
            first.append(_norm(slope))
            second.append(_norm(5.0 / 12.0 * bend + slope / 12.0))
        if j + 1 < len(nodes):
            guess = window[-1] if j == 0 else 1.5 * window[-1] - 0.5 * window[-2]
            states.append(math.exp(-h) * states[-1] - math.expm1(-h) * guess)
    return states, [first[0], *first, first[-1]], [second[0], *second, second[-1]]


def _gain(field: Field, nodes: Sequence[Node], states: Sequence[Tensor], probes: int, seed: int) -> list[float]:
    """rms over probes of what the flow makes, from each level to the end, of an error: w <- e^-h w + (1 - e^-h) J_D^T w, backwards."""
    h, y = nodes[1].lam - nodes[0].lam, states[-1]
    probe = torch.randn(probes, *y.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    carried = list(probe.to(y.device, y.dtype).unbind(0))
    start = math.sqrt(sum(float(w.double().square().sum()) for w in carried))
    gain = [1.0]
    for node, state in zip(reversed(nodes[:-1]), reversed(states[:-1]), strict=True):
        with torch.enable_grad():
            inside = state.detach().requires_grad_()
            out = field.x0(node.alpha * inside, [node] * len(y))
            pulled = [
                torch.autograd.grad(out, inside, w, retain_graph=k + 1 < probes)[0] for k, w in enumerate(carried)
            ]
        carried = [math.exp(-h) * w - math.expm1(-h) * p for w, p in zip(carried, pulled, strict=True)]
        gain.append(math.sqrt(sum(float(w.double().square().sum()) for w in carried)) / start)
    return gain[::-1]
