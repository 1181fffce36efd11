"""score_hidden: score_tokens from hidden states and the output layer, without the logits between them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mdmcorrect import _native, rng
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops import _scoring as scoring
from mdmcorrect.ops._differentiation import constant, detached
from mdmcorrect.ops._scoring import Ids, TokenScores

_native.load()
_NATIVE = torch.ops.mdmcorrect.score_hidden.default


def score_hidden(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    row_index: Tensor | None = None,
    tokens: Tensor | None = None,
    positions: Tensor | None = None,
    temperature: float | Tensor = 0.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    top_p_rule: str = "inclusive",
    filter_order: str = "top_k_first",
    suppress: Ids | None = None,
    forbid: Ids | None = None,
    law: str = "raw",
    confidence_dtype: torch.dtype | None = None,
    want: Iterable[str] | None = None,
    seed: rng.Seed = 0,
    step: int | Tensor = 0,
    call: int | Tensor = 0,
) -> TokenScores:
    """:func:`score_tokens` of ``hidden @ weight.T + bias`` without those logits.

    Up to 512 rows are multiplied by 2048 rows of ``weight`` at a time; the product, a million logits at most, is scored
    while it is in cache and then overwritten. Rows that ``row_index`` leaves out are not multiplied. With ``top_k`` or
    ``top_p`` a row is needed whole, so only as many rows as make 16 MB of logits (at least one) are done at a time, and
    ``weight`` is read once for each such group. On CUDA a block of logits is 8 million, made by cuBLAS; with filters,
    256 MB of them.

    The logits are what ``torch.nn.functional.linear`` gives: sums in float32, rounded once to the dtype of ``hidden``.
    Given the same logits scores and draws are those of score_tokens to the last bit; sums may run in another order than
    torch's, which can move a logit by one rounding. (Where the machine multiplies pairs of bfloat16, AVX512_BF16, it
    takes subnormal numbers as 0.)

    Args:
        hidden: ``[..., L, D]`` float32, bfloat16 or float16, the last dimension contiguous, other strides free. L is
            the position, the dimensions before it are the sequence.
        weight: ``[V, D]``, same dtype: the output layer, or the tied embedding.
        bias: ``[V]``, same dtype.
        row_index: int64 ``[R]``: the rows to score, b * L + l for position l of sequence b. An index that is no row,
            such as -1, is padding. A row left out gets -1 and NaN. Default: every row.
        tokens, positions, temperature, top_k, top_p, top_p_rule, filter_order, suppress, forbid, law, confidence_dtype,
            want, seed, step, call: as in :func:`score_tokens`, for logits ``[..., L, V]``.

    Under ``torch.autocast`` the product is taken in autocast's dtype, as linear would; ``weight`` is then converted a
    block at a time.

    Returns:
        :class:`TokenScores`, each ``[..., L]``. They are constants: none carries a gradient.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape, device, layout, number or name that does not fit.
        RuntimeError: a CUDA tensor, but a library without this kernel for CUDA.

    Example:
        >>> hidden, weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0], [1.0, 2.0]])
        >>> score_hidden(hidden, weight).token
        tensor([0, 1])
    """
    grid = _as_grid(hidden)
    arguments.require_kernel("score_hidden", grid)
    arguments.require_kernel("score_tokens", grid)  # scores whole rows where there are filters
    dtype = _product_dtype(grid)
    _check_layer(grid, weight, bias)
    vocab = weight.shape[0]
    lead, (batch, length, _) = hidden.shape[:-1], grid.shape
    logits_shape = "hidden (without D)"
    if row_index is not None:
        arguments.require_row_index(row_index, grid, "hidden")
    if tokens is not None:
        arguments.require_like("tokens", tokens, lead, grid, logits_shape, torch.int64)
        tokens = tokens if len(lead) == 2 else tokens.reshape(batch, length)
    if positions is not None:
        arguments.require_positions(positions, lead, grid, logits_shape)
        positions = positions if positions.dim() <= 2 else positions.reshape(batch, length)
    arguments.require_one_call(call)
    options = scoring.score_options(
        grid,
        lead,
        vocab,
        tokens is not None,
        want=want,
        suppress=suppress,
        forbid=forbid,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        top_p_rule=top_p_rule,
        filter_order=filter_order,
        law=law,
        confidence_dtype=confidence_dtype,
    )
    ids, stats = detached(
        _NATIVE,
        grid if grid.dtype == dtype else grid.to(dtype),
        constant(weight),
        None if bias is None else constant(bias).to(dtype),
        row_index,
        options.want,
        options.temperature,
        tokens,
        positions,
        options.top_k,
        options.top_p,
        options.top_p_inclusive,
        options.top_p_first,
        options.suppress,
        options.forbid,
        options.proposal_law,
        options.confidence_dtype,
        arguments.row_seeds(seed, batch, grid, draws=options.draws),
        arguments.row_integers("step", step, batch, grid),
        arguments.row_integers("call", call, batch, grid),
    )
    return scoring.named_scores(options, ids, stats, lead)


def _as_grid(hidden: object) -> Tensor:
    """Hidden states as [B, L, D], without gradient."""
    tensor = constant(arguments.require_tensor("hidden", hidden))
    if tensor.dim() < 2:
        raise ValueError(f"hidden: expected shape [..., L, D], got {list(tensor.shape)}")
    arguments.require_dtype("hidden", tensor, *arguments.SCORE_DTYPES)
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"hidden: expected the last dimension to be contiguous, got strides {tuple(tensor.stride())} "
            f"for shape {list(tensor.shape)}; call .contiguous() first"
        )
    return tensor[None] if tensor.dim() == 2 else tensor.flatten(0, -3)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _check_layer(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Holds the output layer against the hidden states."""
    autocast = torch.is_autocast_enabled(hidden.device.type)
    for name, tensor in {"weight": weight, "bias": bias}.items():
        if name == "bias" and tensor is None:
            continue
        tensor = arguments.require_tensor(name, tensor)
        arguments.require_dtype(name, tensor, *(arguments.SCORE_DTYPES if autocast else (hidden.dtype,)))
        arguments.require_device(name, tensor, hidden, "hidden")
    size = hidden.shape[-1]
    if weight.dim() != 2 or weight.shape[0] < 1 or weight.shape[1] != size:
        raise ValueError(f"weight: expected shape [V, {size}] with V >= 1, got {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape [{weight.shape[0]}], got {list(bias.shape)}")


@torch.library.register_fake("mdmcorrect::score_hidden")
def _fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    row_index: Tensor | None,
    want: int,
    temperature: Tensor,
    tokens: Tensor | None,
    positions: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    top_p_inclusive: bool,
    top_p_first: bool,
    suppress: Tensor | None,
    forbid: Tensor | None,
    proposal_law: bool,
    confidence_dtype: torch.dtype,
    seed: Tensor,
    step: Tensor,
    call: Tensor,
) -> tuple[Tensor, Tensor]:
    return scoring.fake_scores(want, hidden.shape[0], hidden.shape[1], hidden.device)
