"""Attention on the harness, with the arguments of mdmcorrect.reference, NumPy arrays in and out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from device_ops import integers
from harness import BFloat16, Simt, Traffic, float_type

MASKS = ("full", "block_causal", "shadow")  # in the order of core/bidirectional_attention_params.h


def empty_heads(like: np.ndarray, heads: int, length: int) -> np.ndarray:
    """[B, heads, length, D] in the memory order of [B, length, heads, D], in the type of `like`."""
    memory = np.zeros((like.shape[0], length, heads, like.shape[3]), like.dtype)
    return (memory.view(BFloat16) if isinstance(like, BFloat16) else memory).swapaxes(1, 2)


def _attention_fields(
    q,
    k,
    v,
    *,
    starts=None,
    lengths=None,
    q_positions=None,
    mask="full",
    hide_self=False,
    block_size=None,
    shadow_of=None,
    scale=None,
) -> dict:
    batch, heads, queries, width = q.shape
    grid = None if q_positions is None else np.broadcast_to(np.asarray(q_positions, np.int64), (batch, queries))
    return {
        "batch": batch,
        "heads": heads,
        "kv_heads": k.shape[1],
        "queries": queries,
        "keys": k.shape[2],
        "width": width,
        "type": float_type(q),
        "q": q,
        "k": k,
        "v": v,
        "starts": integers(starts),
        "lengths": integers(lengths),
        "positions": grid,
        "mask": MASKS.index(mask),
        "hide_self": hide_self,
        "block_size": block_size or 0,
        "shadow_of": integers(shadow_of),
        "scale": width**-0.5 if scale is None else scale,
    }


class Forward(NamedTuple):
    out: np.ndarray
    lse: np.ndarray
    maximum: np.ndarray
    log_sum: np.ndarray
    traffic: dict[str, Traffic]


def bidirectional_attention(simt: Simt, q, k, v, **masking) -> Forward:
    """q, k, v: float16 or BFloat16 [B, H, S, D] with a contiguous last dimension."""
    out = empty_heads(q, q.shape[1], q.shape[2])
    rows = {name: np.empty(q.shape[:3], np.float32) for name in ("lse", "maximum", "log_sum")}
    traffic = simt.launch("bidirectional_attention", **_attention_fields(q, k, v, **masking), out=out, **rows)
    return Forward(out, **rows, traffic=traffic)


def bidirectional_attention_backward(
    simt: Simt, grad_out, grad_lse, q, k, v, forward: Forward, **masking
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, Traffic]]:
    """Gradients to q, k and v from what bidirectional_attention returned."""
    grads = tuple(empty_heads(x, x.shape[1], x.shape[2]) for x in (q, k, v))
    traffic = simt.launch(
        "bidirectional_attention_backward",
        forward=_attention_fields(q, k, v, **masking),
        out=forward.out,
        maximum=forward.maximum,
        log_sum=forward.log_sum,
        grad_out=grad_out,
        grad_lse=grad_lse,
        **dict(zip(("grad_q", "grad_k", "grad_v"), grads, strict=True)),
    )
    return grads, traffic
