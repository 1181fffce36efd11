"""What properties draw their cases from: dtypes, scales, layouts in memory."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
LAYOUTS = st.sampled_from(["contiguous", "every other row", "a window", "misaligned", "transposed"])
SEEDS = st.integers(0, 2**32)


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32)).to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values [..., L, D] elsewhere in memory, the last dimension contiguous; NaN or junk around them."""
    junk = torch.nan if x.is_floating_point() else 1
    if layout == "every other row":
        wide = x.new_full((*x.shape[:-2], 2 * x.shape[-2], x.shape[-1]), junk)
        wide[..., ::2, :] = x
        return wide[..., ::2, :]
    if layout == "a window":
        wide = x.new_full((*x.shape[:-2], x.shape[-2] + 3, x.shape[-1] + 5), junk)
        wide[..., 2:-1, 3:-2] = x
        return wide[..., 2:-1, 3:-2]
    if layout == "misaligned":
        flat = x.new_full((x.numel() + 1,), junk)
        flat[1:] = x.reshape(-1)
        return flat[1:].view(x.shape)
    if layout == "transposed" and x.dim() > 2:
        return x.transpose(0, -2).contiguous().transpose(0, -2)
    return x.contiguous()


def same_bits(one: Tensor, other: Tensor, name: str) -> None:
    assert one.shape == other.shape, name
    assert one.dtype == other.dtype, name
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=name)
