"""linear_cross_entropy: cross-entropy from hidden states and the output layer's weight, without logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from mdmcorrect import _checks
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._differentiation import Formula, differentiable
from mdmcorrect.ops._scoring import Ids, id_list

_DTYPES = (*arguments.SCORE_DTYPES, torch.float64)


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = ...,
    token_weight: Tensor | None = ...,
    suppress: Ids | None = ...,
    ignore_index: int = ...,
    row_index: Tensor | None = ...,
    reduction: str = ...,
    label_smoothing: float = ...,
    softcap: float | None = ...,
    return_correct: Literal[False] = ...,
) -> Tensor: ...


@overload
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = ...,
    token_weight: Tensor | None = ...,
    suppress: Ids | None = ...,
    ignore_index: int = ...,
    row_index: Tensor | None = ...,
    reduction: str = ...,
    label_smoothing: float = ...,
    softcap: float | None = ...,
    return_correct: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    token_weight: Tensor | None = None,
    suppress: Ids | None = None,
    ignore_index: int = -100,
    row_index: Tensor | None = None,
    reduction: str = "sum",
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    return_correct: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``-log softmax(hidden @ weight.T + bias)[targets]`` of the rows that count, times their weights.

    The logits never exist as a tensor: forward and backward make them slice by slice, in float32. Rows that do not
    count are never multiplied, which is most of the work where a masked diffusion model is scored at its masks. (On a
    GPU the host does not know which they are: there all rows are multiplied that ``row_index`` names.) The backward
    gives exactly the gradients that are asked for, of ``hidden``, ``weight``, ``bias`` and ``token_weight``; beside
    them it holds a few times the memory of the rows that count and about 1500 logits of each (on a GPU 2048 to 16384),
    whatever the vocabulary. For given inputs results are the same for any number of threads, and right for logits of
    any finite size. Derivatives beyond the first, backward or forward, are right too; they come from torch's
    operations, which hold logits ``[N, V]``.

    Args:
        hidden: ``[..., D]`` float32, bfloat16 or float16 (float64 for gradient checks, on the CPU).
        weight: ``[V, D]`` of the same dtype; copied if its last dimension is not contiguous.
        targets: int64 ``[...]``. A target outside the vocabulary other than ``ignore_index`` makes its loss and the
            gradients that it reaches NaN.
        bias: floating point ``[V]``.
        token_weight: floating point ``[...]``, such as a diffusion loss's w(t); what it holds where a row does not
            count is not used.
        suppress: ids of probability 0, such as the mask token (SUBS, arXiv 2406.07524, section 3.2.3). An int, ints or
            int64 ``[n]``. A suppressed target has infinite loss.
        ignore_index: rows with this target do not count.
        row_index: int64 ``[R]``: only these rows, numbered over ``hidden``'s leading dimensions flattened, may count;
            numbers outside, such as -1 as padding, name none, a row named twice counts once.
        reduction: "sum"; "mean", over the rows that count, whatever their weights, 0 if there are none; or "none",
            ``[...]`` with 0 where a row does not count, which takes any upstream gradient.
        label_smoothing: share of the loss, in [0, 1], that is the mean of ``-log softmax`` over all ids that are not
            suppressed, as that of ``torch.nn.functional.cross_entropy`` is over all ids: a row's loss is
            ``(1 - s) (-log p[target]) + s mean(-log p)``. A logit of -inf then makes it infinite.
        softcap: logits become ``softcap * tanh(logit / softcap)``, bias included, before anything else (Gemma 2,
            arXiv 2408.00118, section 2). A number in [1e-30, 1e30]; None leaves them as they are.
        return_correct: also return bool ``[...]``: the row counts and no logit exceeds its target's.

    Returns:
        The loss, float32 (float64 for float64), and with ``return_correct`` a pair.

    Under autocast ``hidden`` and ``weight`` are cast to its dtype, as ``torch.nn.functional.linear`` casts them; bias,
    weights and all sums stay float32. Where bfloat16 is multiplied in pairs (AVX512_BF16) subnormal numbers count as 0.
    A row whose logits hold NaN or +inf, or all of whose logits are -inf, has loss NaN.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape, device, id or reduction that does not fit.
        RuntimeError: a CUDA tensor, but a library without this kernel for CUDA.

    Example:
        >>> hidden, weight = torch.eye(2), torch.eye(2)
        >>> linear_cross_entropy(hidden, weight, torch.tensor([0, -100]), token_weight=torch.tensor([2.0, 2.0]))
        tensor(0.6265)
    """
    hidden, weight = _cast_for_autocast(hidden, weight)
    lead = _check(hidden, weight, targets, bias, token_weight, row_index)
    _checks.choice("reduction", reduction, "sum", "mean", "none")
    return_correct = _checks.flag("return_correct", return_correct)
    smoothing = arguments.number("label_smoothing", label_smoothing, 0.0, 1.0)
    cap = 0.0 if softcap is None else arguments.number("softcap", softcap, 1e-30, 1e30)
    vocab, width = weight.shape
    value_dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    losses, _, correct, counted = _losses(
        _last_contiguous(hidden.reshape(-1, width)),
        _last_contiguous(weight),
        targets.reshape(-1),
        None if bias is None else bias.to(value_dtype).contiguous(),
        id_list("suppress", suppress, vocab, hidden),
        row_index,
        arguments.integer("ignore_index", ignore_index),
        smoothing,
        cap,
    )
    if token_weight is not None:
        losses = losses * token_weight.reshape(-1).to(value_dtype).where(counted, 0)
    if reduction == "none":
        loss = losses.reshape(lead)
    elif reduction == "sum":
        loss = losses.sum()
    else:
        loss = losses.sum() / counted.sum().clamp(min=1)
    return (loss, correct.reshape(lead)) if return_correct else loss


def _cast_for_autocast(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    device = arguments.require_tensor("hidden", hidden).device.type
    arguments.require_tensor("weight", weight)
    if not torch.is_autocast_enabled(device) or torch.float64 in (hidden.dtype, weight.dtype):
        return hidden, weight
    dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype)


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    token_weight: Tensor | None,
    row_index: Tensor | None,
) -> torch.Size:
    """The leading dimensions of hidden, everything else held against them."""
    arguments.require_kernel("linear_cross_entropy", hidden)
    arguments.require_dtype("hidden", hidden, *_DTYPES)
    if hidden.dim() < 1 or hidden.shape[-1] < 1:
        raise ValueError(f"hidden: expected shape [..., D] with D >= 1, got {list(hidden.shape)}")
    lead, width = hidden.shape[:-1], hidden.shape[-1]
    if weight.dim() != 2 or weight.shape[0] < 1 or weight.shape[1] != width:
        raise ValueError(f"weight: expected shape [V, {width}] with V >= 1, got {list(weight.shape)}")
    if weight.dtype != hidden.dtype:
        raise TypeError(f"weight: expected {hidden.dtype} as hidden has it, got {weight.dtype}")
    arguments.require_device("weight", weight, hidden, "hidden")
    arguments.require_like("targets", targets, tuple(lead), hidden, "hidden (without D)")
    arguments.require_dtype("targets", targets, torch.int64)
    if bias is not None:
        arguments.require_like("bias", bias, (weight.shape[0],), hidden, "weight (without D)")
        arguments.require_dtype("bias", bias, *_DTYPES)
    if token_weight is not None:
        arguments.require_like("token_weight", token_weight, tuple(lead), hidden, "hidden (without D)")
        arguments.require_dtype("token_weight", token_weight, *_DTYPES)
    if row_index is not None:
        arguments.require_row_index(row_index, hidden, "hidden")
    return lead


def _last_contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


@torch.library.register_fake("mdmcorrect::linear_cross_entropy")
def _fake(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    suppress: Tensor | None,
    row_index: Tensor | None,
    ignore_index: int,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    rows = hidden.shape[0]
    losses, normaliser = (hidden.new_empty(shape, dtype=dtype) for shape in ((rows,), (2, rows)))
    correct, counted = (hidden.new_empty((rows,), dtype=torch.bool) for _ in range(2))
    return losses, normaliser, correct, counted


@torch.library.register_fake("mdmcorrect::linear_cross_entropy_backward")
def _fake_backward(
    grad_losses: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    suppress: Tensor | None,
    row_index: Tensor | None,
    ignore_index: int,
    normaliser: Tensor,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    like_bias = hidden if bias is None else bias
    return (
        hidden.new_empty(hidden.shape if needs_hidden else (0,)),
        weight.new_empty(weight.shape if needs_weight else (0,)),
        like_bias.new_empty(like_bias.shape if needs_bias else (0,)),
    )


def _plain(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    suppress: Tensor | None,
    row_index: Tensor | None,
    ignore_index: int,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
) -> tuple[Tensor, None, Tensor, Tensor]:
    """The results by torch's own operations, which make the logits [N, V]."""
    (rows, _), vocab = hidden.shape, weight.shape[0]
    wide = torch.promote_types(hidden.dtype, torch.float32)
    counted = targets != ignore_index
    if row_index is not None:
        counted = counted & _named(row_index, rows)
    logits = hidden.to(wide).where(counted[:, None], 0.0) @ weight.to(wide).T
    if bias is not None:
        logits = logits + bias
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    kept = torch.ones(vocab, dtype=torch.bool, device=hidden.device)
    if suppress is not None:
        kept = ~_named(suppress, vocab)
        logits = logits.masked_fill(~kept, -torch.inf)
    known = (targets >= 0) & (targets < vocab)
    target = logits.gather(1, targets.where(known, 0)[:, None])[:, 0]
    normaliser = logits.logsumexp(-1)
    losses = normaliser - target
    if label_smoothing:
        mean = logits.where(kept, 0.0).sum(-1) / kept.sum()
        smoothed = label_smoothing * (normaliser - mean)
        losses = (1.0 - label_smoothing) * losses + smoothed if label_smoothing < 1.0 else smoothed
    valid = torch.where(known | ~counted, 1.0, torch.nan).to(wide)  # as a factor, for it makes gradients NaN too
    top = logits.detach().amax(-1)
    correct = counted & known & (target.detach() >= top) & top.isfinite()
    return (losses * valid).where(counted, 0.0), None, correct, counted


def _named(numbers: Tensor, count: int) -> Tensor:
    """bool ``[count]``: which of 0 to count - 1 are among the numbers."""
    named = torch.zeros(count + 1, dtype=torch.bool, device=numbers.device)
    return named.index_fill(0, numbers.where((numbers >= 0) & (numbers < count), count), True)[:-1]


def _native(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mdmcorrect.linear_cross_entropy(
        _last_contiguous(hidden), _last_contiguous(weight), targets, bias, *options
    )


def _backward(
    gradients: Sequence[Tensor | None], inputs: tuple[Any, ...], results: tuple[Tensor, ...], needs: Sequence[bool]
) -> Sequence[Tensor]:
    hidden, weight, targets, bias, *which, label_smoothing, softcap = inputs
    losses, normaliser, _, _ = results
    upstream = torch.zeros_like(losses) if gradients[0] is None else gradients[0]
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mdmcorrect.linear_cross_entropy_backward(
        upstream,
        _last_contiguous(hidden),
        _last_contiguous(weight),
        targets,
        bias,
        *which,
        normaliser,
        *needs,
        label_smoothing,
        softcap,
    )


_losses = differentiable(Formula("linear_cross_entropy", _native, _plain, _backward, inputs=(0, 1, 3), outputs=1))
