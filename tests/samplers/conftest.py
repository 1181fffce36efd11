"""Runs without a seed draw one from torch's generator: each test of samplers starts it anew."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _the_same_generator():
    torch.manual_seed(0)
