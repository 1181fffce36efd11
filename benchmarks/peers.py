"""What else does an operator's work on a device: torch's attention by its backends, and packages that are installed.

Optional peers are tried once and left out, with a warning, where they do not run: a backend that has no kernel for a
device, a package of another version.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Run = Callable[[], object]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""FlexAttention's: whether sequence b, head h lets query q see key k."""

BACKENDS = {
    "FA2": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def running(runs: dict[str, Run]) -> dict[str, Run]:
    """Those that run."""
    kept = {}
    for name, run in runs.items():
        try:
            run()
        except Exception as error:
            warnings.warn(f"left out: {name}: {' '.join(str(error).split())[:200]}", stacklevel=2)
        else:
            kept[name] = run
    return kept


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, name: str = "SDPA", **options: Any) -> dict[str, Run]:
    """torch's attention as it chooses for itself and, on CUDA, by each backend, forward."""

    def attend() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **options)

    def by(backend: SDPBackend) -> Run:
        def run() -> Tensor:
            with sdpa_kernel(backend):
                return attend()

        return run

    if q.device.type != "cuda":
        return {name: attend}
    return {name: attend, **running({f"{name} {title}": by(backend) for title, backend in BACKENDS.items()})}


def trained(runs: dict[str, Run], grad: Tensor) -> dict[str, Run]:
    """Forward and backward of each."""

    def train(run: Run) -> Run:
        return lambda: run().backward(grad)  # type: ignore[attr-defined]

    return {name: train(run) for name, run in runs.items()}


def flex(q: Tensor, k: Tensor, v: Tensor, mask: MaskMod) -> dict[str, Run]:
    """FlexAttention, which leaves out the blocks that a mask leaves out, compiled; on CUDA alone."""
    if q.device.type != "cuda":
        return {}
    return running({"FlexAttention": flex_attention(q, k, v, mask, compiled=True)})


def flex_attention(q: Tensor, k: Tensor, v: Tensor, mask: MaskMod, *, compiled: bool) -> Run:
    module = importlib.import_module("torch.nn.attention.flex_attention")
    blocks = module.create_block_mask(mask, q.shape[0], None, q.shape[2], k.shape[2], device=str(q.device))
    attend = torch.compile(module.flex_attention) if compiled else module.flex_attention
    return lambda: attend(q, k, v, block_mask=blocks)


def block_causal(size: int) -> MaskMod:
    return lambda b, h, query, key: key // size <= query // size


def padded(lengths: Tensor) -> MaskMod:
    return lambda b, h, query, key: (key < lengths[b]) & (query < lengths[b])


def flash_attention_3(q: Tensor, k: Tensor, v: Tensor, *, length: int | None = None) -> dict[str, Run]:
    """FlashAttention-3 (package flash_attn_interface); with `length` of each sequence's first tokens, packed."""
    package = _installed("flash_attn_interface", q.device)
    if package is None:
        return {}
    first = q.shape[2] if length is None else length
    packed = [x[:, :, :first].transpose(1, 2).contiguous() for x in (q, k, v)]
    if length is None:
        return running({"FA3": lambda: package.flash_attn_func(*packed)})
    ends = torch.arange(0, len(q) * first + 1, first, dtype=torch.int32, device=q.device)
    flat = [x.flatten(0, 1) for x in packed]
    return running({"FA3 varlen": lambda: package.flash_attn_varlen_func(*flat, ends, ends, first, first)})


def losses(device: torch.device) -> dict[str, Loss]:
    """Cross entropies of an output layer that make no logits, summed: Liger's and Apple's."""
    found: dict[str, Loss] = {}
    liger = _installed("liger_kernel.transformers.functional", device)
    if liger is not None:
        found["Liger"] = lambda h, w, t: liger.liger_fused_linear_cross_entropy(h, w, t, reduction="sum")
    apple = _installed("cut_cross_entropy", device)
    if apple is not None:
        found["cut cross-entropy"] = lambda h, w, t: apple.linear_cross_entropy(h, w, t, reduction="sum")
    return found


def _installed(name: str, device: torch.device) -> Any:
    """A package of CUDA kernels, or None."""
    if device.type != "cuda":
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
