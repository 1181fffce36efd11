"""linear_cross_entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def counted_rows(targets: ArrayLike, ignore_index: int, row_index: ArrayLike | None) -> NDArray[np.bool_]:
    """Rows ``[N]`` whose target is not ``ignore_index`` and, if it is given, that ``row_index`` names."""
    counted = np.asarray(targets) != ignore_index
    if row_index is not None:
        counted &= np.isin(np.arange(len(counted)), np.asarray(row_index))
    return counted


def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    suppress: ArrayLike = (),
    ignore_index: int = -100,
    row_index: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    grad_losses: ArrayLike | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Losses ``[N]`` of ``ops.linear_cross_entropy`` and, for the upstream gradient ``grad_losses [N]`` (default ones),
    the gradients of hidden ``[N, D]``, weight ``[V, D]`` and bias ``[V]``."""
    h, w = np.asarray(hidden, np.float64), np.asarray(weight, np.float64)
    counted = counted_rows(targets, ignore_index, row_index)
    upstream = np.ones(len(h)) if grad_losses is None else np.asarray(grad_losses, np.float64)
    target = np.asarray(targets)[counted]
    logits = h[counted] @ w.T + (0.0 if bias is None else np.asarray(bias, np.float64))
    slope = np.ones_like(logits)
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
        slope = 1.0 - (logits / softcap) ** 2
    ids = np.asarray(suppress, np.int64)
    kept = np.setdiff1d(np.arange(len(w)), ids)
    logits[:, ids] = -np.inf
    behind = logits - logits.max(1, keepdims=True, initial=-np.inf)  # first: beside large logits the rest is nothing
    logprob = behind - np.logaddexp.reduce(behind, axis=1, keepdims=True)
    losses, rows = np.zeros(len(h)), np.arange(len(target))
    losses[counted] = -(1.0 - label_smoothing) * logprob[rows, target] if label_smoothing < 1.0 else 0.0
    gradient = np.exp(logprob)
    gradient[rows, target] -= 1.0 - label_smoothing
    if label_smoothing:
        losses[counted] -= label_smoothing * logprob[:, kept].mean(1)
        gradient -= label_smoothing / len(kept)
    gradient *= slope * upstream[counted, None]
    gradient[:, ids] = 0.0
    grad_hidden = np.zeros_like(h)
    grad_hidden[counted] = gradient @ w
    return losses, grad_hidden, gradient.T @ h[counted], gradient.sum(0)
