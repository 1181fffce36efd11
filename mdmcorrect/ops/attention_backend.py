"""attention_backend: which attention runs a shape, ours or torch's scaled_dot_product_attention, and why."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect import _tuned
from mdmcorrect._kernels import has_kernel
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._plain_attention import visible_keys
from mdmcorrect.ops.bidirectional_attention import WIDTHS, bidirectional_attention

logger = logging.getLogger(__name__)
WIDEST_CUDA_BACKWARD = 128
# Compute capabilities, by their major number, whose torch has attention made for them (cuDNN) and ours has not.
AHEAD = (9, 10)


@dataclass(frozen=True)
class AttentionBackend:
    """A choice by :func:`attention_backend`; calling it attends."""

    name: str
    """ "mdmcorrect" or "sdpa"."""
    reason: str
    """One sentence."""
    dense: str = ""
    """Why a call without any masking goes to torch's attention all the same; empty: it does not."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        attn_mask: Tensor | None = None,
        **masking: Any,
    ) -> Tensor:
        """``[B, Hq, Sq, D]``: :func:`~mdmcorrect.ops.bidirectional_attention` of the same arguments, by either backend.

        With "mdmcorrect" and a reason in ``dense``, a call without masking goes to torch's. Only whether arguments are
        given counts, never what a tensor holds.

        "sdpa" makes a boolean ``[B, 1, Sq, Sk]`` of the masking, so padding costs as much there as tokens do, or takes
        ``attn_mask``, boolean or additive, as it is.

        Raises:
            ValueError: ``return_lse``, which torch's attention cannot do; ``attn_mask`` with other masking or with the
                choice "mdmcorrect"; or what the operator refuses.
        """
        if masking.pop("return_lse", False):
            raise ValueError("return_lse: call bidirectional_attention itself; torch's attention does not return it")
        if attn_mask is not None and (masking or self.name == "mdmcorrect"):
            raise ValueError("attn_mask: expected no other masking, and a choice that attention_backend made with it")
        groups = q.shape[1] != k.shape[1]
        if self.dense and q.shape[2] == k.shape[2] and not _is_masked(masking):
            return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=groups)
        if self.name == "mdmcorrect":
            return bidirectional_attention(q, k, v, scale=scale, **masking)
        if not masking:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=scale, enable_gqa=groups)
        seen = visible_keys(q.shape[0], q.shape[2], k.shape[2], device=q.device, **masking).unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=groups)
        # Some of torch's kernels give NaN to rows that see nothing.
        return out.masked_fill(seen.any(-1, keepdim=True).logical_not(), 0.0)


def attention_backend(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None = None, batch_invariant: bool = False
) -> AttentionBackend:
    """Choose how to attend from ``q [B, Hq, Sq, D]`` to ``k, v [B, Hkv, Sk, D]``, without looking at their values.

    Our operator wherever it has a kernel for their width, dtype and device, and for gradients if they are needed, and
    is not the slower one; docs/attention.md has the measurements on the CPU. Otherwise torch's, and then the reason is
    logged, once, as a warning of the logger ``mdmcorrect.ops.attention_backend``.

    Calls without masking are a case of their own: on sm_90 and sm_100 torch's attention is taken to be ahead for them,
    until ``mdmcorrect tune`` has measured it. Its bits may depend on the batch, and a padded row's are those of our
    kernel. ``batch_invariant`` keeps ours for every call.

    Args:
        q, k, v: what will be attended to; only shapes, dtypes, device and whether they require gradients count.
        attn_mask: a mask of every query and key, as torch's attention takes it. Ours has no such argument.
        batch_invariant: a row's bits have to be the same in any batch and under any padding. Where there is no kernel
            of ours for it, torch's attention runs even so.

    Example:
        >>> q = k = v = torch.ones(1, 2, 5, 64)
        >>> attend = attention_backend(q, k, v)
        >>> attend.name
        'mdmcorrect'
        >>> attend(q, k, v, lengths=3).shape
        torch.Size([1, 2, 5, 64])
    """
    obstacle = _obstacle(q, k, v, attn_mask)
    if obstacle is not None:
        _say(obstacle)
        return AttentionBackend("sdpa", obstacle)
    kernel = f"{_name(q.dtype)} heads of {q.shape[-1]} on {q.device.type}"
    dense = "" if batch_invariant else _dense(q.device.type, q.device.index, _name(q.dtype), q.shape[-1])
    return AttentionBackend("mdmcorrect", f"there is a kernel for {kernel}", dense)


def _is_masked(masking: dict[str, Any]) -> bool:
    for value in masking.values():
        if value is not None and value is not False and (isinstance(value, Tensor) or value != "full"):
            return True
    return False


def _obstacle(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> str | None:
    """Why torch's attention has to do it, or does it sooner."""
    kind, width = q.device.type, q.shape[-1]
    if attn_mask is not None:
        return "it was given a mask of every query and key"
    if kind not in ("cpu", "cuda") or not has_kernel("bidirectional_attention", q):
        return f"this build has no kernel for {kind} tensors"
    if kind == "cpu" and q.dtype == torch.float64:
        return "ours of float64 is for gradient checks only"
    if q.dtype not in (arguments.SCORE_DTYPES if kind == "cpu" else (torch.bfloat16, torch.float16)):
        return f"there is no kernel for {_name(q.dtype)} on {kind}"
    if width not in WIDTHS:
        return f"there is no kernel for heads {width} wide on {kind}"
    if v.shape != k.shape:
        return f"heads of values are {v.shape[-1]} wide, those of keys {width}"
    if kind == "cuda" and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        if not has_kernel("bidirectional_attention_backward", q):
            return f"there is no backward kernel on {kind}"
        if width > WIDEST_CUDA_BACKWARD:
            return f"there is no backward kernel for heads {width} wide on {kind}"
    if kind == "cpu" and k.shape[2] == 1:
        return "it is the faster one for a single key"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dense(kind: str, index: int | None, dtype: str, width: int) -> str:
    """Why torch's attention runs calls without masking, or nothing."""
    measured = _tuned.dense_attention(kind, index, dtype, width)
    if measured is not None:
        name = _tuned.processor() if kind == "cpu" else torch.cuda.get_device_name(index)
        return f"mdmcorrect tune found torch's attention ahead on this {name}" if measured == "sdpa" else ""
    if kind != "cuda":
        return ""
    major, minor = _capability(index)
    if major in AHEAD and dtype in ("bfloat16", "float16"):
        return f"torch's attention is taken to be ahead on sm_{major}{minor}, which nobody has measured"
    return ""


@functools.cache
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index) if torch.cuda.is_available() else (0, 0)


def _say(reason: str) -> None:
    _say_once(reason)


# They run while a graph is compiled, in which nothing could be logged, read or asked of a driver. This is what
# torch.compiler.assume_constant_result does, once it has imported Dynamo and SymPy, which takes as long as torch.
_say._dynamo_marked_constant = True  # type: ignore[attr-defined]
_dense._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _say_once(reason: str) -> None:
    logger.warning("attention runs as torch's scaled_dot_product_attention: %s", reason)
