"""select_positions: exactly k positions per row, by rank or by Gumbel top-k."""

from __future__ import annotations

import torch
from torch import Tensor

from mdmcorrect import _checks, rng
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._differentiation import detached

_NATIVE = torch.ops.mdmcorrect.select_positions.default


def select_positions(
    scores: Tensor,
    k: int | Tensor,
    *,
    eligible: Tensor | None = None,
    temperature: float = 0.0,
    positions: Tensor | None = None,
    largest: bool = True,
    seed: rng.Seed = 0,
    step: int | Tensor = 0,
    call: int | Tensor = 0,
) -> Tensor:
    """Mark exactly ``min(k[b], eligible positions of row b)`` positions in every row.

    At ``temperature=0`` these are the best scores, ties going to the lowest index. At ``temperature > 0`` they are a
    draw without replacement from ``softmax(scores / temperature)`` over the eligible positions (of ``-scores`` with
    ``largest=False``): position i gets the key ``scores[i] / temperature + Gumbel(seed, position, step, call)`` and the
    k largest keys win, which is the Plackett-Luce law (Kool, van Hoof and Welling, arXiv 1903.06059, section 2). One
    noise number belongs to each position, so the draw is the same for any batch, padding, device and thread count.

    Nothing is read back to the host, and nothing depends on values for its shape.

    Args:
        scores: ``[B, L]`` float32, bfloat16 or float16; any strides. A NaN score takes its position out, as if it were
            not eligible. -inf ranks last but counts as eligible, +inf ranks first; -0 equals +0.
        k: how many, an int or int64 ``[]`` or ``[B]``. More than there are takes all; a negative number in a tensor
            none.
        eligible: bool ``[B, L]``; only positions where it is true may be chosen. Default: all.
        temperature: 0 for the best, else the temperature of the draw; finite.
        positions: int64 ``[L]`` or ``[B, L]``: the numbers the noise belongs to, where padding or slicing moved them.
            Default: 0, 1, ..., L - 1. Unused at temperature 0.
        largest: whether high scores are good. False ranks the lowest first.
        seed: int64 ``[B]``, one per sequence; or an int, a ``torch.Generator``, or None for torch's default one, from
            which each row gets its own (:func:`mdmcorrect.rng.sequence_seeds`); None is refused while a graph is made.
            As ``step`` and ``call``, unused at temperature 0.
        step: sampling step, an int or int64 ``[]`` or ``[B]``.
        call: tells calls within one step apart, an int or int64 ``[]``; modulo 2^16.

    Returns:
        bool ``[B, L]``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape or device that does not match ``scores``, a negative int ``k``, a temperature that is
            negative or not finite.
        RuntimeError: a CUDA tensor, but a library built without CUDA.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9, 0.9, 0.4]])
        >>> select_positions(scores, 2)
        tensor([[False,  True,  True, False]])
        >>> select_positions(scores, 1, eligible=scores < 0.9)
        tensor([[False, False, False,  True]])
    """
    shape = arguments.require_matrix("scores", scores)
    arguments.require_kernel("select_positions", scores)
    arguments.require_dtype("scores", scores, *arguments.SCORE_DTYPES)
    batch = shape[0]
    counts = arguments.row_integers("k", k, batch, scores, minimum=0)
    if eligible is not None:
        arguments.require_mask("eligible", eligible, shape, scores, "scores")
    temperature = _checks.temperature("temperature", arguments.no_tensor("temperature", temperature, "a number"))
    _checks.flag("largest", largest)
    if positions is not None:
        arguments.require_positions(positions, shape, scores, "scores")
    arguments.require_one_call(call)
    seeds = arguments.row_seeds(seed, batch, scores, draws=temperature != 0)
    steps = arguments.row_integers("step", step, batch, scores)
    call = arguments.row_integers("call", call, batch, scores)
    return detached(
        _NATIVE,
        scores,
        counts,
        eligible,
        temperature,
        positions,
        largest,
        seeds,
        steps,
        call,
    )


@torch.library.register_fake("mdmcorrect::select_positions")
def _fake(
    scores: Tensor,
    k: Tensor,
    eligible: Tensor | None,
    temperature: float,
    positions: Tensor | None,
    largest: bool,
    seed: Tensor,
    step: Tensor,
    call: Tensor,
) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
