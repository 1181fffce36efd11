"""bidirectional_attention."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def visible_keys(
    batch: int,
    queries: int,
    keys: int,
    *,
    starts: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    q_positions: ArrayLike | None = None,
    mask: str = "full",
    hide_self: bool = False,
    block_size: int | None = None,
    shadow_of: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Which keys each query of ``ops.bidirectional_attention`` sees: bool ``[B, Sq, Sk]``."""

    def per_sequence(value: ArrayLike | None, default: int) -> NDArray[np.int64]:
        return np.broadcast_to(np.asarray(default if value is None else value, np.int64), (batch,))

    begin = np.clip(per_sequence(starts, 0), 0, keys)
    end = begin + np.clip(per_sequence(lengths, keys), 0, keys - begin)
    rows = np.broadcast_to(np.asarray(np.arange(queries) if q_positions is None else q_positions), (batch, queries))
    seen = np.zeros((batch, queries, keys), bool)
    for b, row in np.ndindex(batch, queries):
        position, first, last = int(rows[b, row]), int(begin[b]), int(end[b])
        if not first <= position < last:
            continue
        if mask == "block_causal":
            assert block_size is not None
            last = min(last, first + ((position - first) // block_size + 1) * block_size)
        shadows = last
        if mask == "shadow":
            assert block_size is not None
            shadows = max(first, last - block_size)
            last = last if position >= shadows else shadows
        seen[b, row, first:last] = True
        real = first + int(per_sequence(shadow_of, 0)[b]) + position - shadows
        if mask == "shadow" and position >= shadows and first <= real < shadows:
            seen[b, row, real] = False
        if hide_self:
            seen[b, row, position] = False
    return seen


def _probabilities(q: Array, k: Array, seen: NDArray[np.bool_], scale: float) -> tuple[Array, Array]:
    """Softmax over the visible keys, [B, H, Sq, Sk], rows of zeros where there are none; and its log-sum-exp."""
    scores = np.where(seen[:, None], scale * np.einsum("bhqd,bhkd->bhqk", q, k), -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
    total = weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return weights / np.where(total == 0.0, 1.0, total), (top + np.log(total))[..., 0]


def _per_query_head(kv: ArrayLike, heads: int) -> Array:
    array = np.asarray(kv, np.float64)
    return np.repeat(array, heads // array.shape[1], 1)


def bidirectional_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, *, scale: float | None = None, **masking
) -> tuple[Array, Array]:
    """``ops.bidirectional_attention`` with ``return_lse``: the same arguments, arrays for tensors."""
    q = np.asarray(q, np.float64)
    k, v = (_per_query_head(x, q.shape[1]) for x in (k, v))
    seen = visible_keys(len(q), q.shape[2], k.shape[2], **masking)
    p, lse = _probabilities(q, k, seen, q.shape[3] ** -0.5 if scale is None else scale)
    return np.einsum("bhqk,bhkd->bhqd", p, v), lse


def bidirectional_attention_backward(
    grad_out: ArrayLike,
    grad_lse: ArrayLike | None,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    scale: float | None = None,
    **masking,
) -> tuple[Array, Array, Array]:
    """Gradients to q, k and v. d lse / d score is the probability, so grad_lse adds to every column of its row."""
    q, do = np.asarray(q, np.float64), np.asarray(grad_out, np.float64)
    groups = np.asarray(k).shape[1]
    wide_k, wide_v = (_per_query_head(x, q.shape[1]) for x in (k, v))
    scale = q.shape[3] ** -0.5 if scale is None else scale
    p, _ = _probabilities(q, wide_k, visible_keys(len(q), q.shape[2], wide_k.shape[2], **masking), scale)
    dp = np.einsum("bhqd,bhkd->bhqk", do, wide_v)
    row = (p * dp).sum(-1) - (0.0 if grad_lse is None else np.asarray(grad_lse, np.float64))
    ds = scale * p * (dp - row[..., None])

    def summed(gradient: Array) -> Array:
        """Over the query heads that share a head."""
        batch, heads, length, width = gradient.shape
        return gradient.reshape(batch, groups, heads // groups, length, width).sum(2)

    dk, dv = np.einsum("bhqk,bhqd->bhkd", ds, q), np.einsum("bhqk,bhqd->bhkd", p, do)
    return np.einsum("bhqk,bhkd->bhqd", ds, wide_k), summed(dk), summed(dv)
