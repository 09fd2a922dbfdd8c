"""Pictures of grids, plans, errors and samples; by matplotlib, which is imported when one is drawn (fastsolve[demo]).

A function takes plans, grids or tensors and returns a matplotlib Figure that belongs to the caller: nothing of pyplot's is touched, so
it works on a server and in threads. `save(figure, path)` writes it. What is computed for a picture can be had without one: `gains`,
`noise_budget`, `gaussian_errors`.
"""

from fastsolve.pictures.canvas import savable as savable, save as save
from fastsolve.pictures.gaussian import (
    Budget as Budget,
    gains as gains,
    gaussian_errors as gaussian_errors,
    noise_budget as noise_budget,
)
from fastsolve.pictures.images import contact_sheet as contact_sheet, trajectory as trajectory
from fastsolve.pictures.levels import plot_grids as plot_grids
from fastsolve.pictures.motion import animate as animate
from fastsolve.pictures.plans import (
    plot_errors as plot_errors,
    plot_noise_budget as plot_noise_budget,
    plot_plan as plot_plan,
    plot_stability as plot_stability,
)
