"""Adapters make models and loops of other libraries ours. Each module needs its library, which this package does not import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastsolve.grids import Grid

if TYPE_CHECKING:
    from fastsolve.adapters.diffusers.pipelines import Accelerated


def accelerate(
    pipe: Any,
    solver: str = "dpmpp_2m",
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: str | Grid | Sequence[float] | None = None,
    options: Mapping[str, object] | None = None,
    executor: str = "auto",
    graph: str = "auto",
) -> Accelerated:
    """A pipeline of diffusers whose denoising loop is one run of a `Sampler`: called as `pipe` is, which stays as it was.

        fast = fastsolve.accelerate(pipe, solver="seeds3")
        image = fast(prompt, num_inference_steps=10).images[0]

    Every solver of the catalogue runs, those with steps of several or varying calls (Restart) and several variables (TADA) too, and on
    a GPU the whole loop becomes one CUDA graph in the second call of a shape. solver, grid, options, executor and graph are those of
    `fastsolve.sample`; grid is by default that of the pipeline's scheduler. steps: instead of num_inference_steps. nfe: as many steps as
    whole runs of the grid make that many calls of the network.

    The pipeline's own code runs with a scheduler and a network that stand in: every step but the last one gives back random latents,
    which shows conditions, guidance (rescaled or not) and times, and that the loop is one of ours; the last one runs the sampler. The first
    call of a shape asks the network once more, for the shape of its output. Noise of the solver is seeded from the pipeline's `generator`,
    one per sample or one for all, else from torch's global one. callback_on_step_end sees the latents after each step, and may set
    `pipe._interrupt`. The samplers live beside the network, as those of `fastsolve.sample`.

    Raises TypeError for what is no pipeline, and ValueError for a loop that is none of ours (a ControlNet, inpainting by a network of
    four channels, perturbed attention, ...) and names what to do instead; ImportError where diffusers is missing.
    """
    try:
        from fastsolve.adapters.diffusers.pipelines import Accelerated
    except ImportError as error:
        if (error.name or "").split(".")[0] != "diffusers":
            raise
        raise ImportError('fastsolve.accelerate needs diffusers: pip install "fastsolve[diffusers]"') from error
    asked = {
        "solver": solver,
        "steps": steps,
        "nfe": nfe,
        "grid": grid,
        "options": options,
        "executor": executor,
        "graph": graph,
    }
    return Accelerated(pipe, asked)
