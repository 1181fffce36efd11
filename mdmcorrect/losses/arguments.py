"""Checks of arguments that the losses share: each is taken, or answered by one sentence that names it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..ops._arguments import require_tensor as tensor

IGNORED = -100  # what Hugging Face's collators write where a label is not to be learnt


def check_generator(generator: Any) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")


def with_values(name: str, value: Any) -> Tensor:
    """A tensor that is not on the meta device."""
    if tensor(name, value).is_meta:
        raise ValueError(f"{name}: expected a tensor with values, got one on the meta device")
    return value


def tokens_like(name: str, value: Any, x0: Tensor) -> Tensor:
    """int64 of x0's shape, on its device."""
    if tensor(name, value).shape != x0.shape:
        raise ValueError(f"{name}: expected the shape of x0, {tuple(x0.shape)}, got {tuple(value.shape)}")
    if value.dtype != torch.int64:
        raise TypeError(f"{name}: expected int64 token ids, got {value.dtype}")
    if value.device != x0.device:
        raise ValueError(f"{name}: expected it on {x0.device} as x0 is, got {value.device}")
    return value


def divisor(name: str, value: Any, like: Tensor) -> Tensor | float:
    """A count for a whole accumulated batch: a number, or a tensor of one on ``like``'s device; 0 becomes 1."""
    if not isinstance(value, Tensor):
        return _checks.weight(name, value) or 1.0
    if value.numel() != 1 or value.dtype == torch.bool or value.is_complex():
        raise ValueError(f"{name}: expected one number, got {value.dtype} {list(value.shape)}")
    count = value.detach().reshape(()).to(like)
    return count.masked_fill(count == 0, 1)


def uniforms(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """float32 uniforms of the shape of ``like`` on its device; they are drawn on the generator's."""
    device = like.device if generator is None else generator.device
    return torch.rand(like.shape, generator=generator, dtype=torch.float32, device=device).to(like.device)
