"""How dLLM calls models: those whose blocks see only themselves and earlier ones, masked ones, guided ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adapters import Guided
from ..model import Output, Request, Window
from . import _common as common


class BlockCausal:
    """LLaDA2.x: the canvas up to the block's end, with a mask that is added to attention scores (0 or -inf)."""

    reads_windows = True

    def __init__(self, model: Callable[..., Any], size: int) -> None:
        self.model, self.size, self.__name__ = model, size, type(model).__name__

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        window = common_window(request, tokens)
        block = torch.arange(window.stop, device=tokens.device) // self.size
        allowed = block[:, None] >= block
        mask = torch.zeros(allowed.shape, dtype=torch.bfloat16, device=tokens.device)
        mask = mask.masked_fill(~allowed, -torch.inf)[None, None]
        positions = torch.arange(window.stop, device=tokens.device)[None]
        answer = self.model(tokens[:, : window.stop], attention_mask=mask, position_ids=positions)
        return Output(logits=answer.logits[:, window.start :], start=window.start)


class Staircase:
    """BD3LM: a cache of everything before the block, made when it is entered, and the block against it.

    What is padding, too, is read when a block is entered, and holds until the next: a token generated since then is
    seen, whatever its id.

    Args:
        model: takes ``attention_mask`` bool ``[B, 1, Q, K]``, ``position_ids``, ``past_key_values``, ``use_cache``.
        size: columns of a block.
        pad_id: padding, which neither sees nor is seen.
        guidance, keep: classifier-free guidance against a prefix whose given tokens, but those in ``keep``, are masks.
        right_shift: logits describe the next token; a block's first comes from the prefix's last.

    Attributes:
        stops: last column and one of the block of each step so far.
    """

    reads_windows = True

    def __init__(
        self,
        model: Callable[..., Any],
        size: int,
        pad_id: int,
        *,
        guidance: float = 0.0,
        keep: tuple[int, ...] = (),
        right_shift: bool = False,
    ) -> None:
        self.model, self.size, self.pad_id, self.__name__ = model, size, pad_id, type(model).__name__
        self.guidance, self.keep, self.right_shift = guidance, keep, right_shift
        self.stops: list[int] = []
        self._prefixes: list[tuple[Any, Tensor]] = []
        self._seen: tuple[Tensor, Tensor] | None = None

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        window = common_window(request, tokens)
        tokens = tokens[:, : window.stop]
        self.stops.append(window.stop)
        entered = window.step == 0
        if entered or self._seen is None:
            self._seen = self._staircase(tokens)
        mask, positions = self._seen
        if entered:
            self._prefixes = [
                self._prefix(variant[:, : window.start], mask, positions) for variant in self._variants(tokens, request)
            ]
        inside = slice(window.start, window.stop)
        logits = []
        for past, last in self._prefixes:
            answer = self.model(
                tokens[:, inside],
                attention_mask=mask[:, :, inside],
                position_ids=positions[:, inside],
                past_key_values=copy.deepcopy(past),
                use_cache=False,
            )
            logits.append(torch.cat([last, answer.logits[:, :-1]], 1) if self.right_shift else answer.logits)
        return Output(
            logits=logits[0],
            uncond_logits=logits[1] if self.guidance > 0 else None,
            guidance=self.guidance,
            start=window.start,
            forwards=len(logits) * (1 + entered),
        )

    def _variants(self, tokens: Tensor, request: Request) -> list[Tensor]:
        """The canvas, and with guidance the one without what was given."""
        if not self.guidance > 0:
            return [tokens]
        assert request.fixed is not None
        given = request.fixed[:, : tokens.shape[1]] & (tokens != self.pad_id)
        given &= ~torch.isin(tokens, tokens.new_tensor(self.keep))
        return [tokens, torch.where(given, request.mask_id, tokens)]

    def _prefix(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> tuple[Any, Tensor]:
        width = tokens.shape[1]
        answer = self.model(
            tokens, attention_mask=mask[:, :, :width, :width], position_ids=positions[:, :width], use_cache=True
        )
        return answer.past_key_values, answer.logits[:, -1:]

    def _staircase(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Who sees whom, bool ``[B, 1, T, T]``, and positions counted over real tokens, ``[B, T]``."""
        real = tokens != self.pad_id
        block = torch.arange(tokens.shape[1], device=tokens.device) // self.size
        sees = (block[:, None] >= block) & real[:, None, :, None] & real[:, None, None, :]
        return sees, (real.long().cumsum(1) - 1) * real


def common_window(request: Request, tokens: Tensor) -> Window:
    """The block that all rows are in; the whole canvas for a last forward that fills what remains."""
    assert request.windows is not None
    window = request.windows[0]
    if any(other.columns != window.columns for other in request.windows):
        raise ValueError(f"model: expected all rows in one block, got {[w.columns for w in request.windows]}")
    if window.start == window.stop:
        return Window(window.row, window.index, 0, 0, tokens.shape[1])
    return window


class Masked(common.HuggingFace):
    """As the original, hands the model an attention mask whether or not there is padding."""

    def __call__(self, tokens: Tensor, request: Any) -> Any:
        if request.attention_mask is None:
            request = replace(request, attention_mask=torch.ones_like(tokens, dtype=torch.bool))
        return super().__call__(tokens, request)


class PaddingKept:
    """A guided model whose unconditional half keeps the padding as it is, too, where models that see it can tell."""

    def __init__(self, model: Guided) -> None:
        self.model, self.__name__ = model, model.__name__

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        if request.fixed is not None and request.attention_mask is not None:
            request = replace(request, fixed=request.fixed & request.attention_mask.bool())
        return self.model(tokens, request)
