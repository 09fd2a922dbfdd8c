"""A batch whose samples have budgets of their own, against all of them at the largest: `python -m benchmarks.budgets`, one thread.

The digits network, 8 samples. "grouped" is what `sample(..., steps=[...])` does: those of the same budget are one batch. "padded" makes
every sample walk the longest grid, as one batch. The right number of steps costs the model's time in proportion; small batches may cost
more for each sample.
"""

from __future__ import annotations

import torch

import fastsolve
from benchmarks.measure import Report, quantiles

BUDGETS = {
    "all alike": [16] * 8,
    "two": [8] * 4 + [24] * 4,
    "mixed": [4, 8, 8, 12, 20, 20, 20, 32],
    "all different": [4, 8, 12, 16, 20, 24, 28, 32],
}


def main() -> None:
    torch.set_num_threads(1)
    model, labels, report = fastsolve.models.digits(), torch.arange(8), Report("budgets")

    def grouped(budgets: list[int]) -> torch.Tensor:
        return fastsolve.sample(
            model, (8, 1, 8, 8), solver="dpmpp_2m", steps=budgets, seed=3, model_kwargs={"class_labels": labels}
        )

    def padded(budgets: list[int]) -> torch.Tensor:
        steps = max(budgets)
        return fastsolve.sample(
            model, (8, 1, 8, 8), solver="dpmpp_2m", steps=steps, seed=3, model_kwargs={"class_labels": labels}
        )

    for name, budgets in BUDGETS.items():
        longest = [i for i, own in enumerate(budgets) if own == max(budgets)]
        torch.testing.assert_close(grouped(budgets)[longest], padded(budgets)[longest], rtol=1e-3, atol=1e-3)
        providers = [(way.__name__, lambda way=way, budgets=budgets: way(budgets)) for way in (grouped, padded)]
        spent = f"{name} ({sum(budgets)} of {8 * max(budgets)})"
        report.add(spent, quantiles(providers, 7, 1))
    report.write()


if __name__ == "__main__":
    main()
