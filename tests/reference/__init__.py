"""The five papers as plain NumPy loops in float64, written from their formulas: what the engine must agree with.

Nothing here knows the package: no form, no plan, no quadrature and no schedule of fastsolve. A sampler is a function
`f(model, x, levels, ..., path)`: model(x, t) is the data prediction, x the state at the first of the decreasing clock values
`levels`, and `path` the law of the noise (`paths.py`). Speed and generality are no aim; to be read beside the paper is.
"""
