"""bidirectional_attention: softmax attention over whole sequences, recomputed every step, without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from mdmcorrect import _checks
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._differentiation import Formula, differentiable
from mdmcorrect.ops._plain_attention import MASKS, plain_attention, visible_keys

WIDTHS = tuple(range(32, 257, 32))
DTYPES = (*arguments.SCORE_DTYPES, torch.float64)


@overload
def bidirectional_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    starts: int | Tensor | None = None,
    lengths: int | Tensor | None = None,
    q_positions: Tensor | None = None,
    mask: str = "full",
    hide_self: bool = False,
    block_size: int | None = None,
    shadow_of: int | Tensor | None = None,
    scale: float | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...


@overload
def bidirectional_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    starts: int | Tensor | None = None,
    lengths: int | Tensor | None = None,
    q_positions: Tensor | None = None,
    mask: str = "full",
    hide_self: bool = False,
    block_size: int | None = None,
    shadow_of: int | Tensor | None = None,
    scale: float | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def bidirectional_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    starts: int | Tensor | None = None,
    lengths: int | Tensor | None = None,
    q_positions: Tensor | None = None,
    mask: str = "full",
    hide_self: bool = False,
    block_size: int | None = None,
    shadow_of: int | Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of a masked diffusion model: both directions, no cache, padding skipped, only the rows asked for.

    ``softmax(scale * q @ k.mT) @ v`` over the keys each query sees, by the online softmax of FlashAttention (arXiv
    2205.14135): nothing of size Sq x Sk is made. Keys outside a sequence are never read and cost nothing, nor do
    queries there. A row's result is bit-equal in any batch, padding, choice of rows and number of threads.

    Sequence b is the positions ``starts[b], ..., starts[b] + lengths[b] - 1`` of k and v; the rest is padding.

    Args:
        q: ``[B, Hq, Sq, D]`` float32, bfloat16 or float16 (on the CPU also float64, slowly, for gradient checks); D a
            multiple of 32, at most 256. Strides are free but for the last dimension, which is copied if it is not
            contiguous: slices of a fused projection need no copy.
        k, v: ``[B, Hkv, Sk, D]`` of the same dtype, Hkv dividing Hq: query head h reads head ``h // (Hq // Hkv)``.
        starts: where each sequence begins (left padding), an int or int64 ``[]`` or ``[B]``. Default: 0.
        lengths: how long it is, an int or int64 ``[]`` or ``[B]``. Default: up to Sk.
        q_positions: int64 ``[Sq]`` or ``[B, Sq]``: the position in k of each row of q, for steps that need some rows
            only; a row at a position outside its sequence, such as -1, gets 0. Default: 0 to Sq - 1, and Sq is Sk.
        mask: "full": every query sees its whole sequence. "block_causal": it sees its own block of ``block_size`` and
            those before it, counted from ``starts`` (BD3LM, arXiv 2503.09573, at sampling time; LLaDA2). "shadow": the
            last ``block_size`` positions of each sequence are shadows (WINO, arXiv 2507.18578, section 4.2): they see
            one another and every real position but the one they stand for, and real positions do not see them.
            BD3LM's doubled training mask is not among these.
        hide_self: a query does not see the key at its own position. Not with "shadow".
        block_size: size of a block, or number of shadows.
        shadow_of: for "shadow": the real position that the first shadow stands for, counted from ``starts``; the i-th
            shadow stands for the i-th from there. An int or int64 ``[]`` or ``[B]``.
        scale: a positive number. Default: ``D ** -0.5``.
        return_lse: also return the log-sum-exp of each row's scaled scores. Gradients flow through it.

    Every derivative that torch can take is right, of any order, backward and forward; ``vmap`` works. First derivatives
    come from a kernel that holds nothing of size Sq x Sk; the others from torch's operations, which do.

    Returns:
        ``[B, Hq, Sq, D]`` in the dtype of q, laid out in memory as ``[B, Sq, Hq, D]``, so that merging the heads is a
        view; with ``return_lse`` also float32 (or float64) ``[B, Hq, Sq]``. A row that sees nothing gets 0, and -inf as
        log-sum-exp. NaN and +inf scores give NaN; scores of any finite size are right, and a product of q and k beyond
        the largest float is infinite. Sums are float32. Processors with AVX512_BF16 multiply bfloat16 pairs with
        subnormal numbers taken as zero.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape, device, number or combination that does not fit.
        RuntimeError: a CUDA tensor that is not bfloat16 or float16, or in a build without CUDA kernels.

    Example:
        >>> q = k = v = torch.eye(32)[None, None, :2]
        >>> bidirectional_attention(q, k, v, hide_self=True)[0, 0, :, :2]
        tensor([[0., 1.],
                [1., 0.]])
    """
    q, k, v = _same_dtype(q, k, v)
    arguments.require_kernel("bidirectional_attention", q)
    _require_shapes(q, k, v)
    batch, _, queries, width = q.shape
    if q_positions is not None:
        _require_q_positions(q_positions, batch, queries, q)
    elif queries != k.shape[2]:
        raise ValueError(
            f"q_positions: needed to say where the {queries} rows of q stand among the {k.shape[2]} positions of k"
        )
    hide_self, return_lse = _checks.flag("hide_self", hide_self), _checks.flag("return_lse", return_lse)
    kind, block = _mask_numbers(mask, hide_self, block_size, shadow_of)
    if scale is None:
        scale = width**-0.5
    else:
        scale = _checks.positive("scale", arguments.no_tensor("scale", scale, "a positive number"))

    def integers(name: str, value: int | Tensor | None) -> Tensor | None:
        return None if value is None else arguments.row_integers(name, value, batch, q)

    out, lse, _ = _attend(
        q,
        k,
        v,
        integers("starts", starts),
        integers("lengths", lengths),
        q_positions,
        kind,
        hide_self,
        block,
        integers("shadow_of", shadow_of),
        float(scale),
    )
    return (out, lse) if return_lse else out


def _same_dtype(q: object, k: object, v: object) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors in one dtype (under autocast, its own, but for float64), with contiguous last dimensions."""
    tensors = [arguments.require_tensor(name, value) for name, value in (("q", q), ("k", k), ("v", v))]
    kind = tensors[0].device.type
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        tensors = [t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]
    for name, tensor in zip("qkv", tensors, strict=True):
        arguments.require_dtype(name, tensor, *DTYPES)
        arguments.require_dtype(name, tensor, tensors[0].dtype)
    first, second, third = (t if t.dim() == 0 or t.stride(-1) == 1 else t.contiguous() for t in tensors)
    return first, second, third


def _require_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.dim() != 4 or q.shape[-1] not in WIDTHS:
        raise ValueError(f"q: expected shape [B, Hq, Sq, D] with D a multiple of 32, at most 256, got {list(q.shape)}")
    batch, heads, _, width = q.shape
    if k.dim() != 4 or k.shape[0] != batch or k.shape[3] != width or k.shape[1] == 0 or heads % k.shape[1] != 0:
        raise ValueError(
            f"k: expected shape [{batch}, Hkv, Sk, {width}] with Hkv dividing {heads}, got {list(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(f"v: expected shape {list(k.shape)} as k has it, got {list(v.shape)}")
    arguments.require_device("k", k, q, "q")
    arguments.require_device("v", v, q, "q")


def _require_q_positions(value: object, batch: int, queries: int, q: Tensor) -> None:
    positions = arguments.require_tensor("q_positions", value)
    arguments.require_dtype("q_positions", positions, torch.int64)
    if tuple(positions.shape) not in ((queries,), (batch, queries)):
        raise ValueError(
            f"q_positions: expected shape [{queries}] or [{batch}, {queries}], got {list(positions.shape)}"
        )
    arguments.require_device("q_positions", positions, q, "q")


def _mask_numbers(mask: str, hide_self: bool, block_size: int | None, shadow_of: object) -> tuple[int, int]:
    """Number of the mask and size of its blocks, 0 if it has none."""
    _checks.choice("mask", mask, *MASKS)
    if hide_self and mask == "shadow":
        raise ValueError(
            'hide_self: expected False with mask="shadow", where a shadow sees itself but not its token, got True'
        )
    if (mask == "shadow") != (shadow_of is not None):
        expected = "it" if mask == "shadow" else "None"
        got = "None" if shadow_of is None else type(shadow_of).__name__
        raise ValueError(f"shadow_of: expected {expected} with mask={mask!r}, got {got}")
    block = 0 if block_size is None else arguments.integer("block_size", block_size, minimum=1)
    if (mask == "full") != (block_size is None):
        expected = "None" if mask == "full" else "an int"
        raise ValueError(f"block_size: expected {expected} with mask={mask!r}, got {block_size}")
    return MASKS.index(mask), block


@torch.library.register_fake("mdmcorrect::bidirectional_attention")
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    q_positions: Tensor | None,
    mask: int,
    hide_self: bool,
    block_size: int,
    shadow_of: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, queries, width = q.shape
    out = q.new_empty((batch, queries, heads, width)).transpose(1, 2)
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse, normaliser = (q.new_empty((*parts, batch, heads, queries), dtype=lse_dtype) for parts in ((), (2,)))
    return out, lse, normaliser


@torch.library.register_fake("mdmcorrect::bidirectional_attention_backward")
def _fake_backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    def like(tensor: Tensor) -> Tensor:
        batch, heads, length, width = tensor.shape
        return tensor.new_empty((batch, length, heads, width)).transpose(1, 2)

    return like(q), like(k), like(v)


def _plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor | None,
    lengths: Tensor | None,
    q_positions: Tensor | None,
    mask: int,
    hide_self: bool,
    block_size: int,
    shadow_of: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, None]:
    seen = visible_keys(
        q.shape[0],
        q.shape[2],
        k.shape[2],
        device=q.device,
        starts=starts,
        lengths=lengths,
        q_positions=q_positions,
        mask=MASKS[mask],
        hide_self=hide_self,
        block_size=block_size,
        shadow_of=shadow_of,
    )
    return *plain_attention(q, k, v, seen, scale), None


def _native(q: Tensor, k: Tensor, v: Tensor, *masking: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.mdmcorrect.bidirectional_attention(*_rows(q, k, v), *masking)


def _backward(
    gradients: Sequence[Tensor | None], inputs: tuple[Any, ...], results: tuple[Tensor, ...], _: Sequence[bool]
) -> Sequence[Tensor]:
    q, k, v, *masking = inputs
    out, _, normaliser = results
    grad_out, grad_lse = gradients
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    arguments.require_kernel("bidirectional_attention_backward", q)
    return torch.ops.mdmcorrect.bidirectional_attention_backward(
        *_rows(grad_out),
        None if grad_lse is None else grad_lse.contiguous(),
        *_rows(q, k, v, out),
        normaliser.contiguous(),
        *masking,
    )


def _rows(*tensors: Tensor) -> list[Tensor]:
    """With contiguous last dimensions, as the kernels read them."""
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


_attend = differentiable(Formula("bidirectional_attention", _native, _plain, _backward, inputs=(0, 1, 2), outputs=2))
