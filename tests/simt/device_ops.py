"""The operators on the harness, with the arguments of mdmcorrect.reference, NumPy arrays in and out."""

from __future__ import annotations

import numpy as np
from harness import Simt, Traffic


def _counts(value, dtype=np.int64) -> np.ndarray | None:
    return None if value is None else np.asarray(value, dtype)


def select_positions(
    simt: Simt, scores, k, *, eligible=None, temperature=0.0, positions=None, largest=True, seed=0, step=0, call=0
) -> tuple[np.ndarray, dict[str, Traffic]]:
    """seed: [B], each sequence's own, or one for all."""
    batch, length = scores.shape
    grid = None if positions is None else np.broadcast_to(np.asarray(positions, np.int64), (batch, length))
    selected = np.empty((batch, length), np.uint8)
    traffic = simt.launch(
        "select_positions",
        batch=batch,
        length=length,
        scores=scores,
        eligible=eligible,
        positions=grid,
        k=_counts(k),
        seed=_counts(seed),
        step=_counts(step),
        call=_counts(call),
        temperature=temperature,
        largest=largest,
        selected=selected,
    )
    return selected.astype(bool), traffic


def remask_step(
    simt: Simt,
    tokens,
    proposals,
    *,
    mask_id,
    refill="if_short",
    unmask_count=None,
    remask_count=None,
    keep_count=None,
    **grids,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, Traffic]]:
    batch, length = tokens.shape
    out_tokens = np.empty((batch, length), np.int64)
    committed, remasked = np.empty((batch, length), np.uint8), np.empty((batch, length), np.uint8)
    traffic = simt.launch(
        "remask_step",
        batch=batch,
        length=length,
        mask_id=mask_id,
        tokens=tokens,
        proposals=proposals,
        unmask_count=_counts(unmask_count),
        remask_count=_counts(remask_count),
        keep_count=_counts(keep_count),
        refill_if_short=refill == "if_short",
        out_tokens=out_tokens,
        out_committed=committed,
        out_remasked=remasked,
        **grids,
    )
    return (out_tokens, committed.astype(bool), remasked.astype(bool)), traffic
