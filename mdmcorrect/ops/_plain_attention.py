"""Attention by torch's own operations, for what the operator does not do: other masks, derivatives of derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

MASKS = ("full", "block_causal", "shadow")  # in the order of core/bidirectional_attention_params.h


def plain_attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What the operator returns, with scores ``[B, Hkv, Hq / Hkv, Sq, Sk]`` in float32, float64 where q is.

    Args:
        seen: bool ``[B, Sq, Sk]``, from :func:`visible_keys`. What nobody sees, and who sees nothing, may hold NaN.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    used = seen.any(1)[:, None, :, None]
    some = seen.any(2)[:, None, :, None]
    queries = q.to(wide).where(some, 0.0).unflatten(1, (k.shape[1], -1))
    keys, values = (x.to(wide).where(used, 0.0)[:, :, None] for x in (k, v))
    visible, empty = seen[:, None, None], ~some[:, :, None]
    # A row that sees nothing has scores 0 in between: the gradient of softmax at -inf alone is NaN.
    scores = (scale * (queries @ keys.mT)).masked_fill(~visible, -torch.inf).masked_fill(empty, 0.0)
    weights = scores.softmax(-1).masked_fill(~visible, 0.0)
    lse = scores.logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf)
    return (weights @ values).flatten(1, 2).to(q.dtype), lse.flatten(1, 2).squeeze(-1)


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

    For attention that takes a mask; the operator itself never makes this. Numbers are filled in on the device: a copy
    from the host would make it wait, and no CUDA graph could capture it.
    """

    def filled(value: int) -> Tensor:
        return torch.full((), value, dtype=torch.int64, device=device)

    def per_sequence(value: int | Tensor | None, default: int) -> Tensor:
        numbers = value.to(device) if isinstance(value, Tensor) else filled(default if value is None else value)
        return numbers.expand(batch).view(batch, 1, 1)

    key = torch.arange(keys, device=device).view(1, 1, keys)
    row = torch.arange(queries, device=device) if q_positions is None else q_positions
    row = row.expand(batch, queries).unsqueeze(-1)
    begin = per_sequence(starts, 0).clamp(0, keys)
    end = torch.minimum(begin + per_sequence(lengths, keys).clamp(0, keys), filled(keys))
    seen = (row >= begin) & (row < end) & (key >= begin) & (key < end)
    if mask == "block_causal":
        seen &= (key - begin) // block_size <= (row - begin) // block_size
    elif mask == "shadow":
        assert block_size is not None
        shadows = torch.maximum(begin, end - block_size)
        real = begin + per_sequence(shadow_of, 0) + row - shadows
        seen &= torch.where(row < shadows, key < shadows, (key != real) | (key >= shadows))
    return seen & (key != row) if hide_self else seen
