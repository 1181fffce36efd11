"""Plain numbers as the small tensors that operators take, made once and kept.

On a GPU making one is a launch of its own, on the CPU an operator of its own; a step takes several. What is kept goes
into operators that only read it and is never returned, so that nobody can write into it. It is kept for one device and
one stream: a tensor filled on another stream might be read before it is filled. Where a graph is made
(``torch.compile``, a CUDA graph, a trace) or tensors are not what they seem (fake ones, subclasses, ``torch.func``),
each call makes its own.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

KEPT_AT_MOST = 1024  # tensors; then all are dropped
LONGEST = 8192  # elements of one that is kept

Place: TypeAlias = tuple[torch.device, int]

_kept: dict[tuple[object, ...], Tensor] = {}
_transforms, _traced = torch._C._are_functorch_transforms_active, torch._C._get_tracing_state
_modes = torch._C._len_torch_dispatch_stack
_function_modes, _profiled = torch._C._len_torch_function_stack, torch.autograd._profiler_enabled
_DISGUISES = tuple(getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL"))


def place_of(like: Tensor) -> Place | None:
    """Device and stream that a tensor next to ``like`` may be kept for; None where each call has to make its own."""
    if torch.compiler.is_compiling() or (type(like) is not Tensor and type(like) is not torch.nn.Parameter):
        return None
    if _transforms() or _traced() is not None:
        return None
    if _modes() and any(torch._C._get_dispatch_mode(key) is not None for key in _DISGUISES):
        return None
    return (like.device, 0) if not like.is_cuda else _current_place(like.device)


def unwatched(like: Tensor) -> bool:
    """Whether nobody sees the operators on tensors next to ``like``: no graph, mode, transform or profiler."""
    kind = type(like)
    if (kind is not Tensor and kind is not torch.nn.Parameter) or torch.compiler.is_compiling():
        return False
    return not (_modes() or _function_modes() or _transforms() or _profiled() or _traced() is not None)


def _current_place(device: torch.device) -> Place | None:
    """A CUDA device and its current stream, unless that is recorded into a graph, whose tensors have to stay."""
    if torch.cuda.is_current_stream_capturing():
        return None
    return device, torch.cuda.current_stream(device).cuda_stream


def number(value: float, dtype: torch.dtype, like: Tensor) -> Tensor:
    """``[]`` on the device of ``like``. Only for operators that do not write into it."""
    place = place_of(like)
    if place is None:
        return torch.full((), value, dtype=dtype, device=like.device)
    # 0.0 and -0.0 are one key: no operator tells them apart.
    return _keep((value, dtype, place), lambda: torch.full((), value, dtype=dtype, device=like.device))


def count_up(length: int, like: Tensor) -> Tensor:
    """int64 ``[length]``: 0, 1, 2, ... on the device of ``like``. Only for operators that do not write into it."""

    def make() -> Tensor:
        return torch.arange(length, dtype=torch.int64, device=like.device)

    place = place_of(like)
    return make() if place is None or length > LONGEST else _keep(("count_up", length, place), make)


def integers(values: tuple[int, ...], like: Tensor) -> Tensor:
    """int64 ``[n]`` on the device of ``like``. Only for operators that do not write into it."""

    def make() -> Tensor:
        if like.device.type == "cpu" or not values:
            return torch.tensor(values, dtype=torch.int64, device=like.device)
        # A copy from the host would make it wait for the device, and no CUDA graph could capture it.
        return torch.cat([torch.full((1,), value, dtype=torch.int64, device=like.device) for value in values])

    place = place_of(like)
    return make() if place is None or len(values) > LONGEST else _keep(("integers", values, place), make)


def keep(kept: dict[Any, Any], key: object, value: object, at_most: int) -> None:
    """Keep what a call has made, unless a mode of torch's dispatcher may have made it something else."""
    if _modes():
        return
    if len(kept) >= at_most:
        kept.clear()
    kept[key] = value


def _keep(key: tuple[object, ...], make: Callable[[], Tensor]) -> Tensor:
    tensor = _kept.get(key)
    if tensor is None:
        with torch.inference_mode(False):  # one made in inference mode could not be used where gradients are recorded
            tensor = make()
        keep(_kept, key, tensor, KEPT_AT_MOST)
    return tensor
