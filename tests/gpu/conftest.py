"""The devices that the cases run on: the CPU in every run, so that the tests themselves are known to work, and CUDA."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS / "ops", TESTS / "samplers", TESTS.parent / "benchmarks"):  # helpers the cases share
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    return torch.device(request.param, 0) if request.param == "cuda" else torch.device("cpu")


@pytest.fixture
def elsewhere(device) -> torch.device:
    """A second device, which is not the current one; the CPU has no other."""
    if device.type == "cpu":
        return device
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    return torch.device("cuda", 1)
