"""Checks and conversions of arguments that the operators share.

Errors name the argument, say what came and what was expected. Values of tensors are never looked at: on a device that
would cost a synchronisation, under ``torch.compile`` a graph break.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdmcorrect import _checks, _constants, rng
from mdmcorrect._kernels import require_kernel as require_kernel

SCORE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def integer(name: str, value: object, **rule: Any) -> int:
    """:func:`mdmcorrect._checks.integer`, but no tensor."""
    return _checks.integer(name, no_tensor(name, value, "an int"), **rule)


def number(name: str, value: object, low: float, high: float) -> float:
    """:func:`mdmcorrect._checks.number`, but no tensor."""
    value = no_tensor(name, value, "a number")
    return _checks.number(name, value, low=low, high=high, expected=f"a number in [{low:g}, {high:g}]")


def no_tensor(name: str, value: object, expected: str) -> object:
    """``value``, which may be no tensor: to read it would make the host wait for the device."""
    if isinstance(value, Tensor):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    return value


def require_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    return value


def require_matrix(name: str, value: object) -> tuple[int, int]:
    """Shape (B, L) of a tensor that must have two dimensions."""
    tensor = require_tensor(name, value)
    if tensor.dim() != 2:
        raise ValueError(f"{name}: expected shape [B, L], got {list(tensor.shape)}")
    return tensor.shape[0], tensor.shape[1]


def require_like(
    name: str, value: object, shape: tuple[int, ...], like: Tensor, like_name: str, *dtypes: torch.dtype
) -> None:
    """Shape, device and, where some are named, dtype of an argument that must match the operator's first tensor."""
    if isinstance(value, Tensor) and value.shape == shape and value.device == like.device and value.dtype in dtypes:
        return
    tensor = require_tensor(name, value)
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)} as {like_name} has it, got {list(tensor.shape)}")
    require_device(name, tensor, like, like_name)
    if dtypes:
        require_dtype(name, tensor, *dtypes)


def require_device(name: str, tensor: Tensor, like: Tensor, like_name: str) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected device {like.device} as {like_name} has it, got {tensor.device}")


def require_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: expected dtype {expected}, got {str(tensor.dtype).removeprefix('torch.')}")


def require_scores(name: str, value: object, shape: tuple[int, ...], like: Tensor, like_name: str) -> None:
    require_like(name, value, shape, like, like_name, *SCORE_DTYPES)


def require_mask(name: str, value: object, shape: tuple[int, ...], like: Tensor, like_name: str) -> None:
    require_like(name, value, shape, like, like_name, torch.bool)


def row_integers(name: str, value: object, batch: int, like: Tensor, *, minimum: int | None = None) -> Tensor:
    """An int, or int64 ``[]`` or ``[B]``, as an int64 tensor on the device of ``like``, which nobody may write into.

    ``minimum`` is held against a Python int only; what a tensor holds is clamped by the kernels.
    """
    if not isinstance(value, Tensor):
        value = _checks.integer(name, value, minimum=minimum, expected="an int or an int64 tensor")
        return _constants.number(value, torch.int64, like)
    shared = value.dim() == 0
    if shared and value.dtype == torch.int64 and value.device == like.device:
        return value
    require_dtype(name, value, torch.int64)
    if not shared and tuple(value.shape) != (batch,):
        raise ValueError(f"{name}: expected shape [] or [{batch}], one per row, got {list(value.shape)}")
    if value.device == like.device:
        return value
    if shared:
        return value.to(like.device)
    require_device(name, value, like, "the scores")
    return value


def require_one_call(call: object) -> None:
    """call: an int or int64 ``[]``, one for all rows."""
    if isinstance(call, Tensor) and call.dim() != 0:
        raise ValueError(f"call: expected an int or int64 [], got shape {list(call.shape)}")


def row_seeds(seed: rng.Seed, batch: int, like: Tensor, *, draws: bool) -> Tensor:
    """int64 ``[B]``, one per row, or ``[]``, from which the kernel derives the rows' own; on ``like``'s device.

    ``draws``: whether anything will be drawn; if not, not from a generator either.
    """
    if type(seed) is int:
        return _constants.number(rng.wrapped(seed), torch.int64, like)
    if isinstance(seed, Tensor) and seed.dtype == torch.int64 and seed.shape == (batch,) and seed.device == like.device:
        return seed if seed.is_contiguous() else seed.contiguous()
    seeds = rng.seed_tensor(seed, batch, device=like.device, draws=draws)
    return seeds if seeds.is_contiguous() else seeds.contiguous()


def require_positions(value: object, shape: tuple[int, ...], like: Tensor, like_name: str) -> None:
    """positions: int64 ``[L]`` or ``[..., L]``, the shape."""
    tensor = require_tensor("positions", value)
    require_dtype("positions", tensor, torch.int64)
    if tensor.shape != shape[-1:] and tensor.shape != shape:
        raise ValueError(f"positions: expected shape [{shape[-1]}] or {list(shape)}, got {list(tensor.shape)}")
    require_device("positions", tensor, like, like_name)


def require_row_index(value: object, like: Tensor, like_name: str) -> None:
    """row_index: int64 ``[R]``; what it holds is never looked at."""
    tensor = require_tensor("row_index", value)
    require_dtype("row_index", tensor, torch.int64)
    if tensor.dim() != 1:
        raise ValueError(f"row_index: expected shape [R], got {list(tensor.shape)}")
    require_device("row_index", tensor, like, like_name)
