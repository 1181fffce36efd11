"""The truth: every operator in plain NumPy and float64, one short function each.

Nothing here is fast. Tests compare each kernel with these functions; read them to learn what an operator does. The
random bits are the kernels' own, so sampled tokens agree except where two noisy values differ by less than float32
resolves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .reference_attention import bidirectional_attention as bidirectional_attention
from .reference_attention import bidirectional_attention_backward as bidirectional_attention_backward
from .reference_attention import visible_keys as visible_keys
from .rng import Purpose

Array = NDArray[np.float64]

CHUNK = 512  # ids per chunk of the vocabulary
MASS_UNIT = 2.0**40  # nucleus masses are integers: the most likely token's probability is 2^40


# ---------------------------------------------------------------------------------------------------------- randomness


def philox4x32(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint64]:
    """Philox4x32-10: counter words ``[..., 4]`` and key words ``[..., 2]``, each in [0, 2^32), to four words."""
    word = np.uint64(0xFFFFFFFF)
    c, k = np.asarray(counter, np.uint64), np.asarray(key, np.uint64)
    x0, x1, x2, x3 = (c[..., i] for i in range(4))
    k0, k1 = k[..., 0], k[..., 1]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        x0, x1, x2, x3 = (p1 >> np.uint64(32)) ^ x1 ^ k0, p1 & word, (p0 >> np.uint64(32)) ^ x3 ^ k1, p0 & word
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & word, (k1 + np.uint64(0xBB67AE85)) & word
    return np.stack(np.broadcast_arrays(x0, x1, x2, x3), -1)


def random_bits(seed, index, position, step, purpose: int, call=0) -> NDArray[np.uint64]:
    """64 bits of the draw ``(seed; index, position, step, purpose << 16 | call)``; arguments broadcast."""

    def words(value) -> NDArray[np.uint64]:
        return np.asarray(value).astype(np.int64).astype(np.uint64)

    low, stream = np.uint64(0xFFFFFFFF), words(int(purpose) << 16) | (words(call) & np.uint64(0xFFFF))
    seed, *counter = np.broadcast_arrays(words(seed), words(index), words(position), words(step), stream)
    out = philox4x32(np.stack([word & low for word in counter], -1), np.stack([seed & low, seed >> np.uint64(32)], -1))
    return out[..., 0] << np.uint64(32) | out[..., 1]


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """``min((r + 1/2) 2^-64, 1 - 2^-24)`` in float32."""
    return np.minimum(bits.astype(np.float32) * np.float32(2.0**-64) + np.float32(2.0**-65), np.float32(1 - 2.0**-24))


def exponential(bits: NDArray[np.uint64]) -> Array:
    """Standard exponential variates ``-log(1 - u)``."""
    return -np.log1p(-uniform(bits).astype(np.float64))


def gumbel(bits: NDArray[np.uint64]) -> Array:
    """Standard Gumbel variates ``-log(E)``."""
    return -np.log(exponential(bits))


def sequence_seeds(seed: int, batch: int) -> NDArray[np.int64]:
    """Seeds of the sequences 0 to ``batch`` - 1 that an int ``seed`` stands for."""
    b = np.arange(batch, dtype=np.int64)
    return random_bits(np.int64((seed + 2**63) % 2**64 - 2**63), b, b >> 32, 0, Purpose.SEED).astype(np.int64)


# -------------------------------------------------------------------------------------------------------- score_tokens


@dataclass(frozen=True)
class Statistics:
    """Statistics of one categorical distribution given by unnormalised logs."""

    argmax: int
    max_logprob: float
    second_logprob: float
    entropy: float
    margin: float
    logsumexp: float


def statistics(x: Array) -> Statistics:
    """Statistics of softmax(x); NaN and +inf give NaN and argmax -1, all -inf gives logsumexp -inf and argmax -1."""
    nan = float("nan")
    if np.isnan(x).any() or (x == np.inf).any():
        return Statistics(-1, nan, nan, nan, nan, nan)
    if (x == -np.inf).all():
        return Statistics(-1, nan, nan, nan, nan, -np.inf)
    top = x.max()
    lse = top + np.log(np.exp(x - top).sum())
    logprob = x - lse
    p = np.exp(logprob)
    largest = np.sort(np.append(logprob, -np.inf))[::-1]
    entropy = -(p[p > 0] * logprob[p > 0]).sum()
    return Statistics(int(x.argmax()), largest[0], largest[1], entropy, np.exp(largest[0]) - np.exp(largest[1]), lse)


def keep_top_k(x: Array, k: int) -> NDArray[np.bool_]:
    """The k largest values and all that equal the k-th; -inf is never kept."""
    kth = np.sort(x)[::-1][min(max(k, 1), len(x)) - 1]
    return (x >= kth) & (x > -np.inf)


def keep_top_p(x: Array, p: float, rule: str) -> NDArray[np.bool_]:
    """The nucleus of softmax(x): the shortest prefix, in order of falling value then rising id, that ``rule`` allows.

    inclusive: a token stays if what precedes it has mass at most p (it keeps the token that crosses p);
    exclusive: a token stays if the mass up to and with it is at most p. The first token always stays.
    """
    if p >= 1.0:
        return x > -np.inf
    mass = np.trunc(np.exp(x - x.max()) * MASS_UNIT).astype(np.int64)
    order = np.lexsort((np.arange(len(x)), -x))
    up_to = np.cumsum(mass[order])
    before = up_to - mass[order]
    limit = int(p * float(mass.sum()))
    prefix = (before if rule == "inclusive" else up_to) <= limit
    prefix[0] = True
    kept = np.zeros(len(x), bool)
    kept[order] = prefix
    return kept & (x > -np.inf)


def proposal_logits(
    x: Array, temperature: float, top_k: int | None, top_p: float | None, rule: str, filter_order: str
) -> Array:
    """Logits after temperature (0 counts as 1) and filters, what is dropped at -inf."""
    y = x / temperature if temperature > 0 else x.copy()
    if not np.isfinite(y).any():
        return y
    kept_k = keep_top_k(y, top_k) if top_k is not None else np.ones(len(y), bool)
    if top_p is None:
        kept = kept_k
    elif filter_order == "top_k_first":
        kept = keep_top_p(np.where(kept_k, y, -np.inf), top_p, rule)
    else:
        kept = keep_top_p(y, top_p, rule) & kept_k
    return np.where(kept, y, -np.inf)


def draw(y: Array, seed: int, position: int, step: int, call: int) -> int:
    """One exact draw from softmax(y): a Gumbel race between chunks, then an exponential race inside the winner.

    The largest noisy value of a chunk is one Gumbel at the chunk's log-sum-exp; which id attains it is independent of
    that value. So one number per chunk picks the chunk, and one per id of the winning chunk picks the token.
    """
    chunks = -(-len(y) // CHUNK)
    padded = np.full(chunks * CHUNK, -np.inf)
    padded[: len(y)] = y - y.max()
    grouped = padded.reshape(chunks, CHUNK)
    with np.errstate(divide="ignore"):
        log_mass = np.log(np.exp(grouped).sum(1))
    noise = gumbel(random_bits(seed, np.arange(chunks), position, step, Purpose.CHUNK, call))
    winner = int((log_mass + noise).argmax())
    ids = winner * CHUNK + np.arange(CHUNK)
    noise = gumbel(random_bits(seed, ids, position, step, Purpose.TOKEN, call))
    return int(ids[(grouped[winner] + noise).argmax()])


def score_row(
    logits: ArrayLike,
    *,
    token: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    top_p_rule: str = "inclusive",
    filter_order: str = "top_k_first",
    suppress: ArrayLike = (),
    forbid: ArrayLike = (),
    law: str = "raw",
    input: str = "logits",
    seed: int = 0,
    position: int = 0,
    step: int = 0,
    call: int = 0,
) -> dict[str, float]:
    """``ops.score_tokens`` of one row ``[V]``: every output by name. ``seed`` is the sequence's own seed."""
    x = np.array(logits, np.float64)
    if input == "probs":
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.log(x)
    x[np.asarray(suppress, np.int64)] = -np.inf
    raw = statistics(x)
    y = x.copy()
    y[np.asarray(forbid, np.int64)] = -np.inf
    nan = float("nan")
    if np.isnan(raw.logsumexp):
        y = np.full(len(x), nan)
    else:
        y = proposal_logits(y, temperature, top_k, top_p, top_p_rule, filter_order)
    proposal = statistics(y)
    chosen = proposal.argmax if temperature <= 0 or proposal.argmax < 0 else draw(y, seed, position, step, call)
    law_x, law_stats = (x, raw) if law == "raw" else (y, proposal)

    def logprob(values: Array, stats: Statistics, index: int | None) -> float:
        known = index is not None and 0 <= index < len(values) and np.isfinite(stats.logsumexp)
        return float(values[index] - stats.logsumexp) if known else nan

    return {
        "token": chosen,
        "argmax": law_stats.argmax,
        "logprob": logprob(x, raw, chosen),
        "proposal_logprob": logprob(y, proposal, chosen),
        "current_logprob": logprob(law_x, law_stats, token),
        "max_logprob": law_stats.max_logprob,
        "second_logprob": law_stats.second_logprob,
        "entropy": law_stats.entropy,
        "margin": law_stats.margin,
        "logsumexp": law_stats.logsumexp,
        "confidence": float(np.exp(logprob(law_x, law_stats, chosen))),
    }


def score_hidden_row(hidden: ArrayLike, weight: ArrayLike, bias: ArrayLike = 0.0, **options) -> dict[str, float]:
    """``ops.score_hidden`` of one row ``[D]``: :func:`score_row` of its logits, which are not rounded here."""
    logits = np.asarray(weight, np.float64) @ np.asarray(hidden, np.float64) + np.asarray(bias, np.float64)
    return score_row(logits, **options)


def score_quality(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: float = 0.0,
    *,
    norm: str | None = "layer",
    norm_weight: ArrayLike = 1.0,
    norm_bias: ArrayLike = 0.0,
    shift: ArrayLike = 0.0,
    scale: ArrayLike = 0.0,
    eps: float = 1e-5,
) -> Array:
    """``ops.score_quality`` of hidden states ``[..., D]``; shift and scale are of a shape that broadcasts to theirs."""
    x = np.asarray(hidden, np.float64)
    if norm == "layer":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    elif norm == "rms":
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    x = x * np.asarray(norm_weight, np.float64) + np.asarray(norm_bias, np.float64)
    x = x * (1 + np.asarray(scale, np.float64)) + np.asarray(shift, np.float64)
    return 1 / (1 + np.exp(-(x @ np.asarray(weight, np.float64) + bias)))


# ---------------------------------------------------------------------------------------- select_positions, remask_step


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
    grad_losses: ArrayLike | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Losses ``[N]`` of ``ops.linear_cross_entropy`` and, for the upstream gradient ``grad_losses [N]`` (default ones),
    the gradients of hidden ``[N, D]``, weight ``[V, D]`` and bias ``[V]``."""
    h, w = np.asarray(hidden, np.float64), np.asarray(weight, np.float64)
    counted = counted_rows(targets, ignore_index, row_index)
    upstream = np.ones(len(h)) if grad_losses is None else np.asarray(grad_losses, np.float64)
    target = np.asarray(targets)[counted]
    logits = h[counted] @ w.T + (0.0 if bias is None else np.asarray(bias, np.float64))
    logits[:, np.asarray(suppress, np.int64)] = -np.inf
    logprob = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    losses = np.zeros(len(h))
    losses[counted] = -logprob[np.arange(len(target)), target]
    gradient = np.exp(logprob)
    gradient[np.arange(len(target)), target] -= 1.0
    gradient *= upstream[counted, None]
    gradient[:, np.asarray(suppress, np.int64)] = 0.0
    grad_hidden = np.zeros_like(h)
    grad_hidden[counted] = gradient @ w
    return losses, grad_hidden, gradient.T @ h[counted], gradient.sum(0)
