"""Shared by the tests of linear_cross_entropy: inputs, and how near gradients must be."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..comparison import expect_near

# Of the largest gradient: the rounding of the result, and in bfloat16 of the logits' gradient as well.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def problem(n: int, d: int, v: int, dtype: torch.dtype, counted: float = 0.6) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and weights whose logits have spread 3, and targets of which a share counts."""
    generator = torch.Generator().manual_seed(n + d + v)
    hidden = torch.randn(n, d, generator=generator, dtype=torch.float64)
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64) * 3 / d**0.5
    targets = torch.randint(0, v, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) >= counted] = -100
    return hidden.to(dtype), weight.to(dtype), targets


def assert_near(
    actual: Tensor, expected: np.ndarray, tolerance: float, name: str = "gradient", terms: float = 0.0
) -> None:
    """Within ``tolerance`` times the largest value expected, which may have dimensions of 1 beside the shape, or times
    the largest of the ``terms`` that were added up, where these cancel: each was rounded by itself."""
    scale = max(float(np.abs(expected).max(initial=0.0)), terms, 1e-30)
    expect_near(name, actual, expected.reshape(actual.shape), atol=tolerance * scale)
