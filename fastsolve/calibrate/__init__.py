"""Step grids calibrated on a model: the pilot of `rbe`, and the rule that the authors of RBE released.

Both follow a few trajectories of the model, with the arguments and the guidance that it will be sampled with, and need gradients
through it (the pilot only for its gain). What comes back are ordinary grids, for any number of later runs.
"""

from fastsolve.calibrate.pilot import rbe_pilot as rbe_pilot
from fastsolve.calibrate.released import rbe_released as rbe_released
