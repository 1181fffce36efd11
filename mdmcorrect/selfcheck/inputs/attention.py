"""Shared by the tests of bidirectional_attention: inputs, masks to try, and the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdmcorrect import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [1, 7, 63, 64, 65, 127, 500]

# Ragged sequences for B = 3: padding on both sides, none, and a whole sequence of it.
STARTS, SIZES = [3, 0, 5], [-9, -1, 0]


def ragged(length: int) -> dict[str, Tensor]:
    """starts and lengths of three sequences in a canvas: padded on both sides, padded by one, empty."""
    lengths = [max(0, length + size) for size in SIZES]
    lengths[2] = 0
    return {"starts": torch.tensor(STARTS), "lengths": torch.tensor(lengths)}


MASKINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "hide self": {"hide_self": True},
    "blocks of 5": {"mask": "block_causal", "block_size": 5},
    "blocks of 64, hide self": {"mask": "block_causal", "block_size": 64, "hide_self": True},
    "shadow": {"mask": "shadow", "block_size": 4, "shadow_of": 2},
    "shadow, one each": {"mask": "shadow", "block_size": 32, "shadow_of": torch.tensor([0, 7, 1])},
}


def heads(batch: int, length: int, width: int, dtype=torch.float32, *, q_heads=4, kv_heads=2, seed=0, spread=1.0):
    """q, k, v as views of one fused projection [B, S, (Hq + 2 Hkv) D]."""
    generator = torch.Generator().manual_seed(seed)
    fused = spread * torch.randn(batch, length, q_heads + 2 * kv_heads, width, generator=generator)
    q, k, v = fused.to(dtype).transpose(1, 2).split([q_heads, kv_heads, kv_heads], 1)
    return q, k, v


def arrays(masking: dict) -> dict:
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in masking.items()}


def expected(q: Tensor, k: Tensor, v: Tensor, **masking) -> tuple[Tensor, Tensor]:
    out, lse = reference.bidirectional_attention(
        q.double().numpy(), k.double().numpy(), v.double().numpy(), **arrays(masking)
    )
    return torch.from_numpy(out), torch.from_numpy(lse)


def plain(q: Tensor, k: Tensor, v: Tensor, **masking) -> Tensor:
    """The expression a user writes without a fused kernel, in the tensors' own dtype."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scale = masking.pop("scale", None) or q.shape[3] ** -0.5
    seen = reference.visible_keys(len(q), q.shape[2], k.shape[2], **arrays(masking))
    scores = (scale * (q @ k.mT)).masked_fill(~torch.from_numpy(seen)[:, None], float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0) @ v


def error(value: Tensor, exact: Tensor) -> float:
    """Largest absolute error, over tensors of any dtype."""
    return float((value.double() - exact).abs().max()) if exact.numel() else 0.0


def spacing(dtype: torch.dtype, exact: Tensor) -> float:
    """One unit in the last place of the largest value."""
    top = float(exact.abs().max()) if exact.numel() else 0.0
    return torch.finfo(dtype).eps * 2.0 ** np.floor(np.log2(max(top, 1e-30)))
