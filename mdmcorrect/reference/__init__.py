"""The truth: every operator in plain NumPy and float64, one short function each.

Nothing here is fast. Tests compare each kernel with these functions; read them to learn what an operator does. The
random bits are the kernels' own, so sampled tokens agree except where two noisy values differ by less than float32
resolves.
"""

from .attention import bidirectional_attention, bidirectional_attention_backward, visible_keys
from .loss import counted_rows, linear_cross_entropy
from .positions import admitted, best, count_positions, remask_step, select_positions
from .random import exponential, gumbel, philox4x32, random_bits, sequence_seeds, uniform
from .scoring import (
    CHUNK,
    MASS_UNIT,
    Statistics,
    dense_draw,
    draw,
    guided,
    keep_top_k,
    keep_top_p,
    proposal_logits,
    rounded,
    score_hidden_row,
    score_quality,
    score_row,
    statistics,
)

__all__ = [
    "CHUNK",
    "MASS_UNIT",
    "Statistics",
    "admitted",
    "best",
    "bidirectional_attention",
    "bidirectional_attention_backward",
    "count_positions",
    "counted_rows",
    "dense_draw",
    "draw",
    "exponential",
    "guided",
    "gumbel",
    "keep_top_k",
    "keep_top_p",
    "linear_cross_entropy",
    "philox4x32",
    "proposal_logits",
    "random_bits",
    "remask_step",
    "rounded",
    "score_hidden_row",
    "score_quality",
    "score_row",
    "select_positions",
    "sequence_seeds",
    "statistics",
    "uniform",
    "visible_keys",
]
