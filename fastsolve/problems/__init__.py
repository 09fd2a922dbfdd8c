"""Problems whose truth is known: laws of data with exact denoisers, and errors of a chosen kind and size to spoil a denoiser with.

`Mixture(...).denoiser("vp")`, `digits_kernel().denoiser("edm")`: what a perfectly trained network would be. `flawed(denoiser, Bias(0.03))`:
what an imperfect one is. `fastsolve.models` has trained networks, one of them stopped early.
"""

from fastsolve.problems.flaws import Bias as Bias, Flaw as Flaw, Ripple as Ripple, flawed as flawed
from fastsolve.problems.gaussian import Gaussian as Gaussian
from fastsolve.problems.kernel import Kernel as Kernel, digits_kernel as digits_kernel
from fastsolve.problems.law import Model as Model, Problem as Problem
from fastsolve.problems.mixture import Mixture as Mixture, golden_mixture as golden_mixture
