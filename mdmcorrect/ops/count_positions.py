"""count_positions: how many positions of each row a rule on the scores admits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdmcorrect import _checks, _constants
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._differentiation import detached

# The order of core/count_positions_params.h.
RULES = ("threshold", "strict_threshold", "factor", "entropy_bound", "cumulative", "cut_off")
_NATIVE = torch.ops.mdmcorrect.count_positions.default


def count_positions(
    scores: Tensor,
    rule: str,
    bound: float | Tensor,
    *,
    eligible: Tensor | None = None,
    at_least: int = 0,
) -> Tensor:
    """How many positions of each row may be decided at once, where the scores say so.

    With x_(1), x_(2), ... the scores of a row's eligible positions in the order named, the rules count

    ==================== ======================================================================================
    ``threshold``        scores >= bound (Fast-dLLM, arXiv 2505.22618, section 3.3)
    ``strict_threshold`` scores > bound (LLaDA2, sglang)
    ``factor``           descending, up to the first with x_(n) < 1 - bound / (n + 1) (Fast-dLLM, section 3.3)
    ``entropy_bound``    ascending, up to the first with x_(1) + ... + x_(n-1) > bound: the sum of the entropies
                         admitted, less the largest, stays within the bound (arXiv 2505.24857, section 4)
    ``cumulative``       ascending, up to the first with x_(1) + ... + x_(n) > bound
    ``cut_off``          scores below x_(bound + 1), ascending: ``bound`` of them, fewer where ties straddle the cut
                         (P2, MaskGIT: sort, look up, compare strictly)
    ==================== ======================================================================================

    The positions counted are the best ones of the order, so that :func:`select_positions` with this count, or
    :func:`remask_step`, takes them. Nothing is read back to the host.

    Args:
        scores: ``[B, L]`` float32, bfloat16 or float16; any strides. A NaN score takes its position out.
        rule: one of the names above.
        bound: a number, or floating point ``[]`` or ``[B]``. A threshold is rounded to the scores' dtype, as torch does
            when it compares a tensor with a number; everything else is computed in float64.
        eligible: bool ``[B, L]``; only positions where it is true take part. Default: all.
        at_least: the count is at least this, as far as there are positions; 1 keeps a sampler going.

    Returns:
        int64 ``[B]``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an unknown rule, a negative ``at_least``, a shape or device that does not match ``scores``.
        RuntimeError: a CUDA tensor, but a library without a CUDA kernel for this op.

    Example:
        >>> confidence = torch.tensor([[0.99, 0.6, 0.95, 0.2]])
        >>> count_positions(confidence, "threshold", 0.9), count_positions(confidence, "factor", 1.0)
        (tensor([2]), tensor([2]))
    """
    shape = arguments.require_matrix("scores", scores)
    arguments.require_kernel("count_positions", scores)
    arguments.require_dtype("scores", scores, *arguments.SCORE_DTYPES)
    _checks.choice("rule", rule, *RULES)
    at_least = arguments.integer("at_least", at_least, minimum=0)
    if eligible is not None:
        arguments.require_mask("eligible", eligible, shape, scores, "scores")
    limit = _bound(bound, shape[0], scores)
    return detached(_NATIVE, scores, RULES.index(rule), limit, eligible, at_least)


def _bound(bound: object, batch: int, scores: Tensor) -> Tensor:
    """float64 ``[]`` or ``[B]``."""
    if not isinstance(bound, Tensor):
        bound = _checks.plain_number("bound", bound, "a number or a floating-point tensor")
    if isinstance(bound, (int, float)) and not isinstance(bound, bool):
        if math.isnan(bound):
            raise ValueError("bound: expected a number, got nan")
        return _constants.number(float(bound), torch.float64, scores)
    if not isinstance(bound, Tensor) or not bound.is_floating_point():
        got = bound.dtype if isinstance(bound, Tensor) else type(bound).__name__
        raise TypeError(f"bound: expected a number or a floating-point tensor, got {got}")
    if bound.dim() != 0 and tuple(bound.shape) != (batch,):
        raise ValueError(f"bound: expected shape [] or [{batch}], one per row, got {list(bound.shape)}")
    arguments.require_device("bound", bound, scores, "scores")
    return bound.double()


@torch.library.register_fake("mdmcorrect::count_positions")
def _fake(scores: Tensor, rule: int, bound: Tensor, eligible: Tensor | None, at_least: int) -> Tensor:
    return torch.empty(scores.shape[:1], dtype=torch.int64, device=scores.device)
