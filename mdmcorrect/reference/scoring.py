"""score_tokens, score_hidden, score_quality: a row at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..purpose import Purpose
from .random import gumbel, random_bits

Array = NDArray[np.float64]

CHUNK = 512  # ids per chunk of the vocabulary
MASS_UNIT = 2.0**40  # nucleus masses are integers: the most likely token's probability is 2^40


@dataclass(frozen=True)
class Statistics:
    """Statistics of one categorical distribution given by unnormalised logs."""

    argmax: int
    max_logprob: float
    second_logprob: float
    entropy: float
    margin: float
    logsumexp: float
    top: float
    """The largest log. Probabilities are relative to it: added to a large one, log_sum would be lost."""
    log_sum: float
    """logsumexp - top."""

    def logprob(self, x: float) -> float:
        return (x - self.top) - self.log_sum


def statistics(x: Array) -> Statistics:
    """Statistics of softmax(x); NaN and +inf give NaN and argmax -1, all -inf gives logsumexp -inf and argmax -1."""
    nan = float("nan")
    if np.isnan(x).any() or (x == np.inf).any():
        return Statistics(-1, nan, nan, nan, nan, nan, nan, nan)
    if (x == -np.inf).all():
        return Statistics(-1, nan, nan, nan, nan, -np.inf, nan, nan)
    top = x.max()
    log_sum = np.log(np.exp(x - top).sum())
    logprob = (x - top) - log_sum
    p = np.exp(logprob)
    largest = np.sort(np.append(logprob, -np.inf))[::-1]
    entropy = -(p[p > 0] * logprob[p > 0]).sum()
    margin = np.exp(largest[0]) - np.exp(largest[1])
    return Statistics(int(x.argmax()), largest[0], largest[1], entropy, margin, top + log_sum, top, log_sum)


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


def dense_draw(y: Array, seed: int, position: int, step: int, call: int) -> tuple[int, float]:
    """The largest of ``y`` with one Gumbel added to each value, and its log-probability under softmax of those sums."""
    noised = (y - y.max()) + gumbel(random_bits(seed, np.arange(len(y)), position, step, Purpose.DENSE, call))
    return int(noised.argmax()), statistics(noised).max_logprob


def rounded(x: ArrayLike, dtype: str) -> NDArray[np.float32]:
    """float32 values rounded to nearest even to ``dtype``: float32, bfloat16 or float16."""
    values = np.asarray(x, np.float32)
    if dtype == "bfloat16":
        word = values.view(np.uint32)
        return ((word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
            np.float32
        )
    return values.astype(np.float16).astype(np.float32) if dtype == "float16" else values


def guided(cond: ArrayLike, uncond: ArrayLike, guidance: float, dtype: str = "float32") -> NDArray[np.float32]:
    """Logits under classifier-free guidance, ``u + (guidance + 1) (c - u)``, each operation rounded to ``dtype``.

    Where c and u are equal they stay as they are, at -inf too.
    """
    c, u = np.asarray(cond, np.float32), np.asarray(uncond, np.float32)
    if guidance == 0:
        return c
    with np.errstate(over="ignore", invalid="ignore"):
        mixed = rounded(u + rounded(np.float32(guidance + 1) * rounded(c - u, dtype), dtype), dtype)
    return np.where(c == u, c, mixed)


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
    noise: str = "lazy",
    seed: int = 0,
    position: int = 0,
    step: int = 0,
    call: int = 0,
) -> dict[str, float]:
    """``ops.score_tokens`` of one row ``[V]``: every output by name. ``seed`` is the sequence's own seed.

    ``noised_logprob`` means something with ``noise="dense"`` only.
    """
    x = np.array(logits, np.float64)
    if input == "probs":
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.log(np.where(x < 0, 0.0, x))
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
    chosen, noised = proposal.argmax, proposal.max_logprob
    if temperature > 0 and chosen >= 0:
        if noise == "lazy":
            chosen = draw(y, seed, position, step, call)
        else:
            chosen, noised = dense_draw(y, seed, position, step, call)
    law_x, law_stats = (x, raw) if law == "raw" else (y, proposal)

    def logprob(values: Array, stats: Statistics, index: int | None) -> float:
        if index is None or not 0 <= index < len(values) or not np.isfinite(stats.logsumexp):
            return nan
        return float(stats.logprob(values[index]))

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
        "noised_logprob": noised,
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
