"""What the drop-ins share: how deviations from an original are named, arguments, Hugging Face models."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _checks
from ..model import Output, Request, read_output
from ..samplers import SampleResult

UPSTREAM = "upstream"


def check_quirks(quirks: str | Collection[str], known: Collection[str]) -> frozenset[str]:
    """The quirks asked for: names of an original's defects to be kept; "upstream" is all that there are.

    Raises:
        ValueError: a name this function does not have.
    """
    if not isinstance(quirks, Collection):
        raise TypeError(f"quirks: expected some of {sorted(known)} or 'upstream', got {quirks!r}")
    asked = {quirks} if isinstance(quirks, str) else set(quirks)
    if UPSTREAM in asked:
        return frozenset(known)
    if unknown := asked - set(known):
        raise ValueError(f"quirks: expected some of {sorted(known)} or 'upstream', got {sorted(unknown)}")
    return frozenset(asked)


def check_ties(ties: str) -> str:
    return _checks.choice("ties", ties, "lowest", "torch")


def completed(result: SampleResult) -> SampleResult:
    """``result``, of a run that was not cut short: an original returns tokens alone, and with masks among them its
    caller could not tell.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    return result


def lengths(**values: Any) -> tuple[int, ...]:
    """The values, named, as ints of at least 1."""
    return tuple(_checks.integer(name, value, minimum=1) for name, value in values.items())


def token_ids(name: str, value: Any) -> Tensor:
    """``value`` as int64 ``[B, P]``: a tensor, a NumPy array, or lists of one length.

    Raises:
        TypeError, ValueError: it holds no integers, or has another shape.
    """
    if not isinstance(value, (Tensor, str, bytes)) and (
        hasattr(value, "__array__") or isinstance(value, (list, tuple))
    ):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: expected token ids [B, P], got rows that do not make a tensor") from None
        value = value.long() if value.numel() == 0 else value
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected token ids [B, P], got {type(value).__name__}")
    if value.ndim != 2:
        raise ValueError(f"{name}: expected token ids [B, P], got {list(value.shape)}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected token ids, got {value.dtype}")
    return value.long()


def append_masks(prompt: Tensor, count: int, mask_id: int) -> Tensor:
    """``[B, P + count]``: the prompt and ``count`` masks."""
    return F.pad(token_ids("prompt", prompt), (0, count), value=mask_id)


def extend_mask(attention_mask: Tensor | None, prompt: Tensor, count: int) -> Tensor | None:
    """The mask of the prompt, with ones for what is generated."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"attention_mask: expected {list(prompt.shape)}, got {type(attention_mask).__name__}")
    if attention_mask.shape != prompt.shape:
        raise ValueError(f"attention_mask: expected {list(prompt.shape)}, got {list(attention_mask.shape)}")
    return F.pad(attention_mask.bool(), (0, count), value=True)


def check_divides(name: str, value: int, divisor_name: str, divisor: int) -> int:
    """``value // divisor``.

    Raises:
        ValueError: it leaves a remainder.
    """
    if divisor < 1 or value % divisor:
        raise ValueError(f"{name}: expected a multiple of {divisor_name} = {divisor}, got {value}")
    return value // divisor


class HuggingFace:
    """A model called as the originals call it, ``model(tokens[, attention_mask=...])``, the mask as int64."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.__name__ = model, getattr(model, "__name__", type(model).__name__)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        if request.attention_mask is None:
            return read_output(self.model(tokens), self.model)
        return read_output(self.model(tokens, attention_mask=request.attention_mask.long()), self.model)
