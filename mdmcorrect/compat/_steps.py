"""One step on a block's logits, as engines with a loop of their own want it."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ._rounded import HALF


def propose(
    logits: Tensor,
    rows: Tensor,
    *,
    mask_id: int | None = None,
    temperature: float = 0.0,
    confidence_dtype: torch.dtype | None = None,
    want: tuple[str, ...] = (),
    seed: int | Tensor | torch.Generator | None = None,
    step: int = 0,
) -> ops.TokenScores:
    """Proposals (never the mask) and confidences, at temperature 1, of ``logits [B, L, V]`` where ``rows`` is true."""
    half = logits.dtype in (torch.bfloat16, torch.float16)
    logits = logits if half else logits.float()
    return ops.score_tokens(
        logits if logits.stride(-1) == 1 else logits.contiguous(),
        rows=rows,
        temperature=temperature,
        forbid=None if mask_id is None or mask_id >= logits.shape[-1] else mask_id,
        confidence_dtype=confidence_dtype if half else None,
        want=["token", "confidence", *want],
        seed=seed,
        step=step,
    )


def best_of(confidence: Tensor, count: Tensor, eligible: Tensor) -> Tensor:
    """bool ``[B, L]``: the ``count`` most confident of the eligible positions, ties to the lowest index."""
    return ops.select_positions(confidence, count, eligible=eligible)


def above(confidence: Tensor, threshold: float, eligible: Tensor, at_least: int = 1) -> Tensor:
    """bool ``[B, L]``: eligible positions more confident than ``threshold``, and the ``at_least`` best if fewer are."""
    count = ops.count_positions(confidence, "strict_threshold", threshold, eligible=eligible, at_least=at_least)
    return best_of(confidence, count, eligible)


def entropies(logits: Tensor) -> Tensor:
    """Entropies ``[B, L]``; in half precision of terms rounded one by one, as ``torch.distributions`` sums them."""
    if logits.dtype not in HALF:
        exact = ops.score_tokens(logits.float(), want=["entropy"]).entropy
        assert exact is not None
        return exact
    logprob = (logits - logits.logsumexp(-1, keepdim=True)).clamp(min=torch.finfo(logits.dtype).min)
    return -(logprob * logprob.softmax(-1)).sum(-1)
