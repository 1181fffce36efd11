"""``attn_implementation="mdmcorrect"``: Hugging Face models attend by :func:`~mdmcorrect.ops.bidirectional_attention`.

    from mdmcorrect.integrations.transformers import register

    register()
    model = AutoModelForMaskedLM.from_pretrained(name, attn_implementation="mdmcorrect")

The padding mask ``[B, S]`` that such a model takes becomes a start and a length per sequence: padding is skipped, on
the left and on the right, and no mask of every query and key is made. A decoder attends in both directions, as LLaDA
and Dream do, with ``is_causal=False`` in its config. Needs transformers: ``pip install 'mdmcorrect[transformers]'``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    prepare_padding_mask,
    sdpa_mask,
)
from transformers.utils.import_utils import is_tracing

from mdmcorrect.ops import attention_backend

NAME = "mdmcorrect"
# Keywords with which some models ask their attention for something else.
OTHER_KINDS = {
    "position_bias": "bias",
    "softcap": "capped scores",
    "s_aux": "sinks",
    "sinks": "sinks",
    "cu_seq_lens_q": "packed sequences",
    "cache": "paged cache",
    "output_attentions": "weights to return",
}
CAUSAL = (
    f'attn_implementation="{NAME}" attends in both directions, and this model is causal: set is_causal=False in its '
    "config if it was trained to see what follows, as LLaDA and Dream were; use another implementation if not"
)


def register(*, batch_invariant: bool = False) -> None:
    """Make ``attn_implementation="mdmcorrect"`` known to transformers, for every model that uses its interface.

    Args:
        batch_invariant: attend by our kernel also where no row is padded and torch's attention is taken to be the
            faster one (:func:`~mdmcorrect.ops.attention_backend`), so that a row has the same bits in any batch.
    """
    attend = functools.partial(attention_forward, batch_invariant=True) if batch_invariant else attention_forward
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, padding_runs)


def padding_runs(
    *,
    kv_length: int,
    mask_function: Callable[..., Any],
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_bidirectional_skip: bool = False,
    **others: Any,
) -> Tensor | None:
    """What an ``AttentionMaskInterface`` gives the layers of a model, made once per forward.

    None without padding; int64 ``[B, 1, 2]``, where each sequence starts and how long it is; or, for patterns that are
    not of this form, such as sliding windows or padding amid a sequence, the bool ``[B, 1, Sq, Sk]`` that torch's
    attention then takes. To tell, one number is read from the device, except where a graph is being traced: there,
    padding amid a sequence fails an assertion when the graph runs.

    Raises:
        ValueError: a causal model.
    """
    if mask_function is causal_mask_function:
        raise ValueError(CAUSAL)
    local = local_size is not None and kv_length >= local_size
    plain = mask_function is bidirectional_mask_function or local_size is not None
    if plain and not local and allow_is_bidirectional_skip:
        padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
        if padding is None:
            return None
        real = padding[:, kv_offset : kv_offset + kv_length]
        if is_tracing(real):
            return asserted_runs(real)
        runs, whole = _runs(real)
        if whole:
            return runs
    return sdpa_mask(
        kv_length=kv_length,
        mask_function=mask_function,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        **{**others, "allow_is_causal_skip": False},
    )


def _runs(real: Tensor) -> tuple[Tensor, Tensor]:
    """The runs ``[B, 1, 2]`` of true values in bool ``[B, S]``, and whether each row has no more than one."""
    starts, lengths = real.int().argmax(-1), real.sum(-1)
    column = torch.arange(real.shape[1], device=real.device)
    inside = (column >= starts[:, None]) & (column < (starts + lengths)[:, None])
    return torch.stack([starts, lengths], -1)[:, None], (real == inside).all()


@torch.library.custom_op("mdmcorrect::asserted_runs", mutates_args=())  # an exception in fused code ends the process
def asserted_runs(real: Tensor) -> Tensor:
    runs, whole = _runs(real)
    torch._assert_async(whole, "attention_mask: expected padding at the ends only, in a graph that was traced")
    return runs


@asserted_runs.register_fake
def _(real: Tensor) -> Tensor:
    return real.new_empty((real.shape[0], 1, 2), dtype=torch.int64)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    *,
    batch_invariant: bool = False,
    **options: Any,
) -> tuple[Tensor, None]:
    """What an ``AttentionInterface`` calls: ``query [B, Hq, Sq, D]``, ``key, value [B, Hkv, Sk, D]`` to
    ``[B, Sq, Hq, D]``, and no weights.

    By :func:`~mdmcorrect.ops.attention_backend`, so by torch's attention where it says so in the log, as for a mask of
    every query and key. Padding's own rows are 0 in self-attention.

    Raises:
        ValueError: a causal layer, dropout, a sliding window that the mask does not hold, or an option for another kind
            of attention (``OTHER_KINDS``).
    """
    layer = type(module).__name__
    if dropout:
        raise ValueError(
            f'dropout: attn_implementation="{NAME}" has none, got {dropout} from {layer}; set the attention dropout in '
            "the model's config to 0"
        )
    for option, meaning in OTHER_KINDS.items():
        if options.get(option) is not None and options[option] is not False:
            raise ValueError(f'{option}: attn_implementation="{NAME}" has no {meaning}, which {layer} asks for')
    if attention_mask is not None and attention_mask.dim() == 4:
        attend = attention_backend(query, key, value, attn_mask=attention_mask)
        return attend(query, key, value, scale=scaling, attn_mask=attention_mask).transpose(1, 2), None
    if attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ValueError(f"{layer}: {CAUSAL}")
    if sliding_window is not None and key.shape[2] > sliding_window:
        raise ValueError(f"sliding_window: {layer} asks for one of {sliding_window}, and its mask does not hold it")
    masking = _masking(module, query, key, attention_mask)
    attend = attention_backend(query, key, value, batch_invariant=batch_invariant)
    return attend(query, key, value, scale=scaling, **masking).transpose(1, 2), None


def _masking(module: nn.Module, query: Tensor, key: Tensor, runs: Tensor | None) -> dict[str, Tensor]:
    """The operator's arguments that say which keys are seen."""
    masking = {}
    if runs is not None:
        if runs.dim() != 3 or runs.shape[2] != 2:
            raise ValueError(
                f"attention_mask: expected [B, 1, 2], as padding_runs makes it, or [B, 1, Sq, Sk], got "
                f"{list(runs.shape)}"
            )
        masking = {"starts": runs[:, 0, 0], "lengths": runs[:, 0, 1]}
    config = getattr(module, "config", None)
    crosses = getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False)
    if crosses or query.shape[2] != key.shape[2]:  # queries that are no rows of key: any real position will do
        batch, _, rows, _ = query.shape
        first = masking["starts"] if masking else query.new_zeros(batch, dtype=torch.int64)
        masking["q_positions"] = first[:, None].expand(batch, rows)
    return masking
