"""Published configurations of Restart, by name: what to give `sample` or `make_plan` for a row of a table.

preset = fastsolve.restart_presets()["imagenet64_nfe99"]
fastsolve.sample(denoiser, shape, **preset.arguments())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastsolve.grids import Explicit, Grid, Karras

Interval = tuple[int, int, float, float]

PAPER = "arXiv 2306.14878"


@dataclass(frozen=True)
class Preset:
    """One published configuration.

    intervals, options: those of the solver `restart`. schedule: the one it was published for. steps: of the main grid. nfe: model calls, as
    counted. fid: as published, for the authors' models and 50,000 samples (Stable Diffusion: 5,000), or None.
    """

    name: str
    schedule: str
    grid: Grid
    steps: int
    intervals: tuple[Interval, ...]
    options: tuple[tuple[str, object], ...]
    nfe: int
    fid: float | None
    source: str

    def arguments(self) -> dict[str, object]:
        """Solver, grid, steps and options; the schedule is the model's own affair."""
        options = {**dict(self.options), "intervals": self.intervals}
        return {"solver": "restart", "grid": self.grid, "steps": self.steps, "options": options}


def restart_presets() -> dict[str, Preset]:
    """All published rows by name: cifar10_vp_nfe43, cifar10_edm_nfe43, imagenet64_nfe99, sd_w8, webui_36 and so on.

    The CIFAR-10 rows are given without churn and the ImageNet rows with the paper's (5 % inside, levels 0.01 to 1, noise 1.003): the
    authors' script churns in all of them, and which of them their figures were measured with is not certain.
    """
    rows = [*_cifar(), *_imagenet(), *_stable_diffusion(), *(webui(steps) for steps in (20, 36, 50))]
    return {preset.name: preset for preset in rows}


def _cifar() -> list[Preset]:
    edm = Karras(sigma_min=0.002, sigma_max=80.0)
    vp: list[tuple[int, float, int, Interval]] = [
        (519, 2.11, 20, (9, 30, 0.06, 0.20)),
        (115, 2.21, 18, (3, 20, 0.06, 0.30)),
        (75, 2.27, 18, (3, 10, 0.06, 0.30)),
        (55, 2.45, 18, (3, 5, 0.06, 0.30)),
        (43, 2.70, 18, (3, 2, 0.06, 0.30)),
    ]
    table = f"{PAPER}, table 3"
    rows = [
        Preset(f"cifar10_vp_nfe{nfe}", "vp", edm, steps, (interval,), (), nfe, fid, table)
        for nfe, fid, steps, interval in vp
    ]
    rows.append(Preset("cifar10_edm_nfe43", "edm", edm, 18, ((3, 2, 0.14, 0.30),), (), 43, 1.90, table))
    for nfe, fid, steps in ((27, 2.11, 8), (24, 2.15, 7), (21, 2.28, 6), (18, 2.40, 5)):
        orders = (3,) * (steps - 2) + (2, 1)  # their script lowers the order at the end of the main grid
        options = (("base", "dpm_solver_3"), ("base_options", (("orders", orders),)))
        high = 0.3 if steps == 8 else 1.0
        rows.append(
            Preset(f"cifar10_vp_dpm3_nfe{nfe}", "vp", Karras(), steps, ((3, 1, 0.06, high),), options, nfe, fid, table)
        )
    return rows


def _imagenet() -> list[Preset]:
    """Per row: NFE, FID, main steps, and (n_levels, k) of every interval from noise to data."""
    bounds = ((19.35, 40.79), (1.09, 1.92), (0.59, 1.09), (0.30, 0.59), (0.06, 0.30))
    rows: list[tuple[int, float, int, Sequence[tuple[int, int]]]] = [
        (623, 1.36, 36, [(10, 3), (10, 3), (7, 6), (7, 6), (7, 25)]),
        (535, 1.39, 36, [(6, 1), (6, 1), (7, 6), (7, 6), (7, 25)]),
        (385, 1.41, 36, [(3, 1), (6, 1), (6, 5), (6, 5), (6, 20)]),
        (203, 1.46, 36, [(4, 1), (4, 1), (4, 5), (4, 5), (6, 6)]),
        (165, 1.51, 18, [(3, 1), (4, 1), (4, 5), (4, 5), (4, 10)]),
        (99, 1.71, 18, [(3, 1), (4, 1), (4, 4), (4, 1), (4, 4)]),
        (67, 1.95, 18, [(5, 1), (5, 1), (5, 1), (0, 0), (5, 1)]),
        (39, 2.38, 14, [(3, 1), (3, 1), (0, 0), (0, 0), (3, 1)]),
    ]
    churn = (("gamma", 0.05), ("s_tmin", 0.01), ("s_tmax", 1.0), ("s_noise", 1.003))
    return [
        Preset(
            f"imagenet64_nfe{nfe}",
            "edm",
            Karras(sigma_min=0.002, sigma_max=80.0),
            steps,
            tuple((levels, k, *ends) for (levels, k), ends in zip(parts, bounds, strict=True) if k),
            churn,
            nfe,
            fid,
            f"{PAPER}, table 5",
        )
        for nfe, fid, steps, parts in rows
    ]


def _stable_diffusion() -> list[Preset]:
    """By guidance weight, 30 steps. Published as 66 calls; their code steps to index 1 by DDIM, which makes 64, and w = 2 has 62."""
    main = Explicit(tuple(float(33 * i + 1) for i in range(29, -1, -1)) + (0.0,))
    ends: dict[int, tuple[tuple[Interval, ...], int, float]] = {
        2: (((5, 2, 1.0, 9.0), (5, 2, 5.0, 10.0)), 62, 13.16),
        3: (((10, 2, 0.1, 3.0),), 64, 14.48),
        5: (((10, 2, 0.1, 2.0),), 64, 16.21),
        8: (((10, 2, 0.1, 2.0),), 64, 18.40),
    }
    inside = (("base", "ddim"), ("inner_base", "heun"), ("inner_grid", "linear"))
    return [
        Preset(
            f"sd_w{w}",
            "vp_scaled_linear",
            main,
            30,
            intervals,
            inside + ((("inner_last", "ddim"),) if w > 2 else ()),
            nfe,
            fid,
            f"{PAPER}, table 10",
        )
        for w, (intervals, nfe, fid) in ends.items()
    ]


def webui(steps: int) -> Preset:
    """What stable-diffusion-webui makes of its step count: restarts are taken out of it, so that 2 * steps - 1 calls remain.

    Below 20 steps there is no restart, and that is Heun.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int, at least 1, not {steps!r}")
    inner, k = (0, 0) if steps < 20 else (9, 1) if steps < 36 else (steps // 4, 2)
    intervals = ((inner + 1, k, 0.1, 2.0),) if k else ()
    return Preset(
        f"webui_{steps}",
        "vp_scaled_linear",
        Karras(),
        steps - inner * k,
        intervals,
        (("snap", "both"),),
        2 * steps - 1,
        None,
        "stable-diffusion-webui 598aef8, restart_sampler",
    )
