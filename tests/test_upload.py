"""Seeds and other host values on their way to a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastsolve import philox
from fastsolve.executors.upload import Seeds, upload

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, -1, 2**63 + 7, [3, 4, 5], [2**64 - 1, 0, 2**63]])
def test_seeds_arrive_and_stay_where_they_are(device: str, seed: int | list[int]) -> None:
    seeds = Seeds(3, torch.device(device))
    place = seeds.tensor.data_ptr()
    for given in (philox.sample_seeds(1, 3), philox.sample_seeds(seed, 3)):
        seeds.set(given)
        np.testing.assert_array_equal(seeds.tensor.cpu().numpy().view(np.uint64), given)
    assert seeds.tensor.data_ptr() == place


def test_seeds_of_one_int_need_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[object] = []
    monkeypatch.setattr("fastsolve.executors.upload.upload", lambda to, values: uploads.append(values))
    seeds = Seeds(4, torch.device("cpu"))
    seeds.set(philox.sample_seeds(2**64 - 3, 4))
    assert not uploads
    seeds.set(np.arange(4, dtype=np.uint64))
    assert len(uploads) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_values_may_be_changed_at_once(device: str) -> None:
    to, values = torch.empty(1000, dtype=torch.float32, device=device), np.arange(1000, dtype=np.float64)
    upload(to, values)
    values[:] = -1.0
    assert torch.equal(to.cpu(), torch.arange(1000, dtype=torch.float32))
