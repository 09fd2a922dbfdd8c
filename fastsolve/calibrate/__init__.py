"""Step grids calibrated on a model: the pilot of `rbe`, the rule that the authors of RBE released, and GITS.

All follow a few trajectories of the model, with the arguments and the guidance that it will be sampled with; the first two need gradients
through it (the pilot only for its gain). What comes back are ordinary grids, for any number of later runs.
"""

from fastsolve.calibrate.pilot import rbe_pilot as rbe_pilot
from fastsolve.calibrate.released import rbe_released as rbe_released
from fastsolve.calibrate.teacher import gits as gits
