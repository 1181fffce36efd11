"""Inputs of attention for the harness, and what tests compare with: the float64 reference, the plain expression."""

from __future__ import annotations

import numpy as np
import torch
from harness import BFloat16, bfloat16, widen

from mdmcorrect import reference

TYPES = {"bfloat16": bfloat16, "float16": np.float16}
WIDTHS = (32, 64, 96, 128, 192, 256)  # that have a kernel of their own
MASKINGS = {
    "full": {},
    "hide_self": {"hide_self": True},
    "blocks of 5": {"mask": "block_causal", "block_size": 5},
    "blocks of 64, hide_self": {"mask": "block_causal", "block_size": 64, "hide_self": True},
    "shadow": {"mask": "shadow", "block_size": 20, "shadow_of": np.array([2, 0, 30])},
}


def heads(batch, length, width, dtype="bfloat16", *, q_heads=2, kv_heads=1, seed=0, spread=1.0):
    """q, k, v as views of one fused projection [B, S, (Hq + 2 Hkv) D]."""
    random = np.random.default_rng(seed)
    fused = spread * random.standard_normal((batch, length, q_heads + 2 * kv_heads, width))
    rows = TYPES[dtype](fused).swapaxes(1, 2)
    return rows[:, :q_heads], rows[:, q_heads:-kv_heads], rows[:, -kv_heads:]


def ragged(length: int) -> dict:
    """Three sequences in a canvas: padded on both sides, whole, and empty."""
    return {"starts": np.array([3, 0, 5]), "lengths": np.array([max(0, length - 9), length, 0])}


def tensor(values: np.ndarray) -> torch.Tensor:
    if isinstance(values, BFloat16):
        return torch.from_numpy(np.ascontiguousarray(values).view(np.ndarray).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(values))


def expected(q, k, v, **masking):
    return reference.bidirectional_attention(widen(q), widen(k), widen(v), **masking)


def plain_probabilities(q: torch.Tensor, k: torch.Tensor, *, scale=None, **masking):
    """Masked scores and their softmax, zeros where nothing is visible, as a user writes them without a fused kernel."""
    wide_k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    seen = torch.from_numpy(reference.visible_keys(len(q), q.shape[2], k.shape[2], **masking))[:, None]
    scores = (q @ wide_k.mT * (q.shape[3] ** -0.5 if scale is None else scale)).masked_fill(~seen, -torch.inf)
    probabilities = scores.masked_fill(~seen.any(-1, keepdim=True), 0.0).softmax(-1).masked_fill(~seen, 0.0)
    return scores, probabilities


def plain(q, k, v, **masking) -> torch.Tensor:
    """Plain attention in the arrays' own dtype."""
    _, probabilities = plain_probabilities(tensor(q), tensor(k), **masking)
    return probabilities @ tensor(v).repeat_interleave(q.shape[1] // k.shape[1], 1)


def rounding(values: np.ndarray, exact: np.ndarray) -> float:
    """Half a unit in the last place of the largest value, in the type of `values`."""
    digits = 8 if isinstance(values, BFloat16) else 11
    return 2.0 ** (np.floor(np.log2(max(np.abs(exact).max(initial=0.0), 1e-30))) - digits)
