"""Numbers of a schedule on the device, made once and not in every step."""

from __future__ import annotations

import mdmcorrect._requires_torch

import functools
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_MOST = 16


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keeps the last tables that ``make(*key, device)`` made, whose keys can be hashed.

    ``make`` copies nothing from the host, so a CUDA graph may capture it. Such a graph owns what it makes, and fills it
    at each replay: that is not kept. What was kept before and a graph reads is never let go.
    """
    recent: dict[tuple[Hashable, ...], Tensor] = {}
    read_by_graphs: dict[tuple[Hashable, ...], Tensor] = {}

    @functools.wraps(make)
    def table(*key: Hashable) -> Tensor:
        if torch.compiler.is_compiling():
            return make(*key)
        found = read_by_graphs.get(key, recent.get(key))
        capturing = _capturing(key[-1])
        if found is None:
            found = make(*key)
            if not capturing and type(found) is Tensor:  # not one that a mode made up
                recent[key] = found
                if len(recent) > _MOST:
                    recent.pop(next(iter(recent)), None)
        elif capturing:
            read_by_graphs[key] = found
        return found

    return table


def _capturing(device: object) -> bool:
    assert isinstance(device, torch.device)
    return device.type == "cuda" and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@kept
def device_table(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values on the device, ``[n]``."""
    if not values:
        return torch.empty(0, dtype=dtype, device=device)
    return torch.cat([torch.full((1,), value, dtype=dtype, device=device) for value in values])
