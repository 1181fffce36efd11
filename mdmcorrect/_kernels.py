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
