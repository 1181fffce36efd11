"""Which positions: select_positions, count_positions, remask_step."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..purpose import Purpose
from .random import gumbel, random_bits

Array = NDArray[np.float64]


def best(key: Array, k: int, taking_part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The k largest keys of a row ``[L]`` among those taking part, ties to the lowest index; NaN takes no part."""
    taking_part = taking_part & ~np.isnan(key)
    order = [i for i in np.lexsort((np.arange(len(key)), -key)) if taking_part[i]]
    chosen = np.zeros(len(key), bool)
    chosen[order[: max(int(k), 0)]] = True
    return chosen


def select_positions(
    scores: ArrayLike,
    k: ArrayLike,
    *,
    eligible: ArrayLike | None = None,
    temperature: float = 0.0,
    positions: ArrayLike | None = None,
    largest: bool = True,
    seed: ArrayLike = 0,
    step: ArrayLike = 0,
    call: int = 0,
) -> NDArray[np.bool_]:
    """``ops.select_positions``. ``seed`` is ``[B]``, the sequences' own seeds, or one for all."""
    with np.errstate(invalid="ignore"):  # a signalling NaN among the scores
        key = np.array(scores, np.float64) * (1.0 if largest else -1.0)
    batch, length = key.shape
    if temperature > 0:
        grid = np.broadcast_to(np.arange(length) if positions is None else np.asarray(positions), key.shape)
        seeds, steps = (np.broadcast_to(np.asarray(value), batch)[:, None] for value in (seed, step))
        key = key / temperature + gumbel(random_bits(seeds, 0, grid, steps, Purpose.POSITION, call))
    open_ = np.ones(key.shape, bool) if eligible is None else np.asarray(eligible, bool)
    counts = np.broadcast_to(np.asarray(k), batch)
    return np.array([best(key[b], counts[b], open_[b]) for b in range(batch)], bool).reshape(key.shape)


def count_positions(
    scores: ArrayLike, rule: str, bound: ArrayLike, *, eligible: ArrayLike | None = None, at_least: int = 0
) -> NDArray[np.int64]:
    """``ops.count_positions``; ``bound`` as rounded to the scores' dtype where it is a threshold."""
    x = np.array(scores, np.float64)
    open_ = ~np.isnan(x) if eligible is None else ~np.isnan(x) & np.asarray(eligible, bool)
    bounds = np.broadcast_to(np.asarray(bound, np.float64), len(x))
    counts = [
        max(admitted(np.sort(x[b][open_[b]]), rule, float(bounds[b])), min(at_least, int(open_[b].sum())))
        for b in range(len(x))
    ]
    return np.array(counts, np.int64)


def admitted(ascending: Array, rule: str, bound: float) -> int:
    """How many of one row's sorted scores a rule of ``count_positions`` admits."""
    n = np.arange(1, len(ascending) + 1)
    with np.errstate(invalid="ignore"):  # inf - inf in a running sum
        total = np.cumsum(ascending)
    if rule == "threshold":
        return int((ascending >= bound).sum())
    if rule == "strict_threshold":
        return int((ascending > bound).sum())
    if rule == "cut_off":
        if bound >= len(ascending):
            return len(ascending)
        return int((ascending < ascending[int(bound)]).sum()) if bound > 0 else 0
    if rule == "factor":
        held = ascending[::-1] >= 1 - bound / (n + 1)
    else:
        before = np.concatenate([[0.0], total])[: len(n)]
        held = (before if rule == "entropy_bound" else total) <= bound
    return int(np.cumprod(held).sum())


def remask_step(
    tokens: ArrayLike,
    proposals: ArrayLike,
    *,
    unmask_score: ArrayLike | None = None,
    keep_score: ArrayLike | None = None,
    unmask_count: ArrayLike | None = None,
    remask_count: ArrayLike | None = None,
    mask_id: int,
    fixed: ArrayLike | None = None,
    eligible: ArrayLike | None = None,
    refill: str = "if_short",
    keep_count: ArrayLike | None = None,
    commit: ArrayLike | None = None,
    remask: ArrayLike | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """``ops.remask_step``: the same arguments, arrays for tensors."""
    tokens, proposals = np.asarray(tokens, np.int64), np.asarray(proposals, np.int64)
    batch = len(tokens)
    open_ = np.ones(tokens.shape, bool) if eligible is None else np.asarray(eligible, bool).copy()
    if fixed is not None:
        open_ &= ~np.asarray(fixed, bool)
    masked = tokens == mask_id
    can_commit = open_ & masked & (proposals >= 0) & (proposals != mask_id)
    can_remask = open_ & ~masked

    def row(count: ArrayLike | None, b: int) -> int:
        return 0 if count is None else max(int(np.broadcast_to(np.asarray(count), batch)[b]), 0)

    def score(value: ArrayLike | None) -> Array:
        return np.full(tokens.shape, np.nan) if value is None else np.array(value, np.float64)

    committed, remasked = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    up, down = score(unmask_score), score(keep_score)
    for b in range(batch):
        if keep_count is not None:
            pool: Array = np.where(masked[b], up[b], down[b])
            ranked = (can_commit[b] | can_remask[b]) & ~np.isnan(pool)
            kept = best(pool, row(keep_count, b), ranked)
            committed[b], remasked[b] = kept & masked[b], ranked & ~kept & ~masked[b]
            continue
        short = 0
        if commit is not None:
            committed[b] = np.asarray(commit, bool)[b] & can_commit[b]
        else:
            committed[b] = best(up[b], row(unmask_count, b), can_commit[b])
            short = row(unmask_count, b) - int(committed[b].sum())
        if remask is not None:
            remasked[b] = np.asarray(remask, bool)[b] & can_remask[b]
        elif remask_count is not None:
            count = min(row(remask_count, b), int((can_remask[b] & ~np.isnan(down[b])).sum()))
            remasked[b] = best(-down[b], count - short if refill == "if_short" else count, can_remask[b])
    new = np.where(committed, proposals, np.where(remasked, mask_id, tokens))
    return new, committed, remasked


# ------------------------------------------------------------------------------------------------ linear_cross_entropy
