"""attention_backend: which attention runs a shape, ours or torch's scaled_dot_product_attention, and why."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops.bidirectional_attention import WIDTHS, bidirectional_attention

logger = logging.getLogger(__name__)
CUDA_WIDTHS = (32, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class AttentionBackend:
    """A choice by :func:`attention_backend`; calling it attends."""

    name: str
    """ "mdmcorrect" or "sdpa"."""
    reason: str
    """One sentence."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **masking: Any) -> Tensor:
        """``[B, Hq, Sq, D]``: :func:`~mdmcorrect.ops.bidirectional_attention` of the same arguments, by either backend.

        "sdpa" makes a boolean ``[B, 1, Sq, Sk]`` of the masking, so padding costs as much there as tokens do.

        Raises:
            ValueError: ``return_lse``, which torch's attention cannot do, or what the operator refuses.
        """
        if masking.pop("return_lse", False):
            raise ValueError("return_lse: call bidirectional_attention itself; torch's attention does not return it")
        if self.name == "mdmcorrect":
            return bidirectional_attention(q, k, v, scale=scale, **masking)
        groups = q.shape[1] != k.shape[1]
        if not masking:
            return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=groups)
        seen = visible_keys(q.shape[0], q.shape[2], k.shape[2], device=q.device, **masking)[:, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=groups)
        return out.masked_fill(~seen.any(-1, keepdim=True), 0.0)  # some of torch's kernels give such rows NaN


def attention_backend(q: Tensor, k: Tensor) -> AttentionBackend:
    """Choose how to attend from ``q [B, Hq, Sq, D]`` to ``k [B, Hkv, Sk, D]``, without looking at their values.

    Our operator wherever it has a kernel for their width, dtype and device, and for gradients if they are needed;
    docs/attention.md has the measurements on the CPU. Otherwise torch's, and then the reason is logged, once, as a
    warning of the logger ``mdmcorrect.ops.attention_backend``.

    Example:
        >>> attend = attention_backend(torch.ones(1, 2, 5, 64), torch.ones(1, 2, 5, 64))
        >>> attend.name
        'mdmcorrect'
        >>> attend(torch.ones(1, 2, 5, 64), torch.ones(1, 2, 5, 64), torch.ones(1, 2, 5, 64), lengths=3).shape
        torch.Size([1, 2, 5, 64])
    """
    kind, width = q.device.type, q.shape[-1]
    dtype = str(q.dtype).removeprefix("torch.")
    if kind != "cpu" and "bidirectional_attention" not in arguments.CUDA_OPS:
        return _fallback(f"this build has no kernel for {kind} tensors")
    if q.dtype not in (arguments.SCORE_DTYPES if kind == "cpu" else (torch.bfloat16, torch.float16)):
        return _fallback(f"there is no kernel for {dtype} on {kind}")
    if width not in (WIDTHS if kind == "cpu" else CUDA_WIDTHS):
        return _fallback(f"there is no kernel for heads {width} wide on {kind}")
    needs_gradients = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    if kind != "cpu" and needs_gradients and "bidirectional_attention_backward" not in arguments.CUDA_OPS:
        return _fallback(f"there is no backward kernel on {kind}")
    return AttentionBackend("mdmcorrect", f"there is a kernel for {dtype} heads of {width} on {kind}")


@functools.cache
def _fallback(reason: str) -> AttentionBackend:
    """Torch's attention; being cached, it logs each reason once."""
    logger.warning("attention runs as torch's scaled_dot_product_attention: %s", reason)
    return AttentionBackend("sdpa", reason)


def visible_keys(
    batch: int,
    queries: int,
    keys: int,
    *,
    device: torch.device | str = "cpu",
    starts: int | Tensor | None = None,
    lengths: int | Tensor | None = None,
    q_positions: Tensor | None = None,
    mask: str = "full",
    hide_self: bool = False,
    block_size: int | None = None,
    shadow_of: int | Tensor | None = None,
) -> Tensor:
    """Which keys each query of :func:`~mdmcorrect.ops.bidirectional_attention` sees: bool ``[B, Sq, Sk]``.

    For attention that takes a mask; the operator itself never makes this.
    """

    def per_sequence(value: int | Tensor | None, default: int) -> Tensor:
        numbers = torch.as_tensor(default if value is None else value, device=device)
        return numbers.expand(batch)[:, None, None]

    key = torch.arange(keys, device=device)[None, None]
    row = torch.arange(queries, device=device) if q_positions is None else q_positions
    row = row.expand(batch, queries)[..., None]
    begin = per_sequence(starts, 0).clamp(0, keys)
    end = torch.minimum(begin + per_sequence(lengths, keys).clamp(0, keys), torch.tensor(keys, device=device))
    seen = (row >= begin) & (row < end) & (key >= begin) & (key < end)
    if mask == "block_causal":
        seen &= (key - begin) // block_size <= (row - begin) // block_size
    elif mask == "shadow":
        assert block_size is not None
        shadows = torch.maximum(begin, end - block_size)
        real = begin + per_sequence(shadow_of, 0) + row - shadows
        seen &= torch.where(row < shadows, key < shadows, (key != real) | (key >= shadows))
    return seen & (key != row) if hide_self else seen
