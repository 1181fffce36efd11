"""What a caller hands on to a model: a tensor, or a mapping or sequence that holds some."""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

_T = TypeVar("_T")


def take_rows(condition: _T, batch: int, take: Callable[[Tensor], Tensor]) -> _T | Any:
    """A caller's condition for some rows: tensors in it with a leading dimension of ``batch`` are cut by ``take``."""
    if isinstance(condition, Tensor):
        return take(condition) if condition.ndim and condition.shape[0] == batch else condition
    if isinstance(condition, Mapping):
        return {name: take_rows(value, batch, take) for name, value in condition.items()}
    if isinstance(condition, (list, tuple)):
        return tuple(take_rows(value, batch, take) for value in condition)
    return condition
