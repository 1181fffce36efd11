"""Whether an operator has a kernel for a tensor's device."""

from __future__ import annotations

import mdmcorrect._requires_torch

import functools

import torch
from torch import Tensor

from mdmcorrect import _native, jit

CUDA_OPS = frozenset(_native.build_info()["cuda_ops"])  # looked up once: not inside a graph that is being compiled


def has_kernel(op: str, tensor: Tensor) -> bool:
    """Whether there is one, or could be compiled."""
    kind = tensor.device.type
    return kind in ("cpu", "meta") or (kind == "cuda" and (op in CUDA_OPS or jit.available(op)))


def preload(device: torch.device | int | str | None = None) -> None:
    """See :func:`mdmcorrect.preload`."""
    wanted = torch.device("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)
    if wanted.type != "cuda":
        raise ValueError(f"device: expected a CUDA device, got {wanted}")
    ops = _native.build_info()["ops"]
    missing = [op for op in ops if not (op in CUDA_OPS or (op in jit.cuda_ops() and jit.has_compiler()))]
    if missing:
        raise RuntimeError(
            f"preload: this build of mdmcorrect has no CUDA kernels for {', '.join(missing)}; see `mdmcorrect doctor` "
            "for how to get them."
        )
    found = torch.cuda.device_count()
    if (wanted.index or 0) >= found:
        raise RuntimeError(f"preload: expected a CUDA device, got {wanted}, and torch finds {found or 'none'}")
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    jit.load(device=index)
    for op in ops:
        torch.ops.mdmcorrect.load_cuda_kernels(op, index)


def require_kernel(op: str, tensor: Tensor) -> None:
    """An answer in one sentence where the dispatcher would give a page. Compiles a missing CUDA kernel if it can."""
    kind = tensor.device.type
    if kind in ("cpu", "meta") or (kind == "cuda" and op in CUDA_OPS):
        return
    if kind == "cuda":
        if torch.compiler.is_compiling():  # the operator itself answers, if its kernels are not loaded by then
            return
        _load(op, tensor.device)
        return
    raise RuntimeError(f"{op}: expected tensors on cpu or cuda, got {tensor.device}.")


@functools.cache
def _load(op: str, device: torch.device) -> None:
    """Once for each device: what there is to find out takes longer than a small kernel."""
    if not jit.available(op):
        raise RuntimeError(
            f"{op}: got a tensor on {device}, but this build of mdmcorrect has no CUDA kernel for it: move the tensors "
            "to the CPU, or see `mdmcorrect doctor` for how to get CUDA kernels."
        )
    jit.load([op], device=device)
