"""Text while it is generated: stop strings, and a callback that hands on what is settled."""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import _checks

if TYPE_CHECKING:
    from .samplers.result import StepEvent

__all__ = ["StopStrings", "Streamer"]


class StopStrings:
    """A sampler's ``stop=``: a row ends once a string stands in what it generated before its first mask.

    What comes after is left as it is, masks included; :meth:`cut` takes it off a text. Every step whose tokens are new
    is decoded on the host.

    Args:
        tokenizer: one with ``decode(ids)``.
        strings: one string, or several of which any ends a row.
        mask_id: the mask token.

    Raises:
        TypeError: ``tokenizer`` decodes nothing, or a string is none.
        ValueError: no string, or an empty one.
    """

    def __init__(self, tokenizer: Any, strings: str | Sequence[str], *, mask_id: int) -> None:
        if not callable(getattr(tokenizer, "decode", None)):
            raise TypeError(f"tokenizer: expected one with decode(ids), got {type(tokenizer).__name__}")
        self.strings = (strings,) if isinstance(strings, str) else tuple(strings)
        for string in self.strings:
            if not isinstance(string, str):
                raise TypeError(f"strings: expected texts, got {type(string).__name__}")
        if not self.strings or not all(self.strings):
            raise ValueError(f"strings: expected at least one, none of them empty, got {list(self.strings)}")
        self.tokenizer, self.mask_id = tokenizer, _checks.token_id("mask_id", mask_id)
        self._known: dict[int, tuple[list[int], bool]] = {}  # of each row what was decoded last, and the answer

    def __call__(self, tokens: Tensor, fixed: Tensor) -> Tensor:
        """bool ``[B]``: rows of ``tokens [B, L]`` that end; ``fixed`` (bool ``[B, L]``) was not generated."""
        masked = (tokens == self.mask_id) & ~fixed
        before = (masked.long().cumsum(1) == 0) & ~fixed
        ended = [
            self._ends(row, [token for token, mine in zip(ids, its, strict=True) if mine])
            for row, (ids, its) in enumerate(zip(tokens.tolist(), before.tolist(), strict=True))
        ]
        return before.new_tensor(ended)

    def _ends(self, row: int, ids: list[int]) -> bool:
        known = self._known.get(row)
        if known is None or known[0] != ids:
            text = self.tokenizer.decode(ids) if ids else ""
            known = self._known[row] = ids, any(string in text for string in self.strings)
        return known[1]

    def cut(self, text: str) -> str:
        """The text before the first of the strings."""
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(found)] if found else text


class Streamer:
    """A sampler's ``callback=`` that hands on the tokens of one row from left to right, each once, when it is settled.

    A step fills positions in any order, and a self-correcting sampler takes back what it wrote. So what is handed on is
    what lies before the first mask, of a sampler that never goes back (``revises=False``); else whole blocks, once the
    next one has begun. :meth:`end` hands on the rest, from the result::

        with Streamer(TextStreamer(tokenizer), mask_id=mask_id, block_length=32) as streamer:
            streamer.end(sampler(model, tokens, mask_id=mask_id, callback=streamer))

    Args:
        to: a streamer of transformers, with ``put(ids)`` and ``end()``, or a function of the new ids, int64 ``[n]``.
        mask_id: the mask token.
        block_length: of the sampler, counted from the first position to be generated; None where it has no blocks.
        revises: whether the sampler masks again or rewrites within a block.
        row: which row of the batch.

    Raises:
        TypeError: ``to`` is neither.
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        to: Any,
        *,
        mask_id: int,
        block_length: int | None = None,
        revises: bool = True,
        row: int = 0,
    ) -> None:
        put = getattr(to, "put", to)
        if not callable(put):
            raise TypeError(f"to: expected a streamer with put(ids) or a function of ids, got {type(to).__name__}")
        self._put: Callable[[Tensor], Any] = put
        self._close: Callable[[], Any] | None = getattr(to, "end", None)
        self.mask_id, self.row = _checks.token_id("mask_id", mask_id), _checks.integer("row", row, minimum=0)
        self.block_length = _checks.optional(_checks.at_least(1))("block_length", block_length)
        self.revises = _checks.flag("revises", revises)
        self._mine: Tensor | None = None  # columns that are generated
        self._sent = 0

    def __call__(self, event: StepEvent) -> bool:
        """Hand on what this step settled; never asks to stop."""
        if self._mine is None:
            self._mine = (event.before[self.row] == self.mask_id).nonzero().flatten()
        tokens = event.tokens[self.row, self._mine]
        masks = (tokens == self.mask_id).nonzero().flatten()
        settled = int(masks[0]) if len(masks) else len(tokens)
        if self.revises:
            settled = self._whole_blocks(tokens)
        self._send(tokens, settled)
        return False

    def _whole_blocks(self, tokens: Tensor) -> int:
        """Positions of the blocks before the last that holds a token."""
        written = (tokens != self.mask_id).nonzero().flatten()
        if self.block_length is None or not len(written):
            return 0
        return int(written[-1]) // self.block_length * self.block_length

    def _send(self, tokens: Tensor, settled: int) -> None:
        if settled > self._sent:
            self._put(tokens[self._sent : settled].cpu())
            self._sent = settled

    def end(self, result: Any) -> Any:
        """Hand on the rest of the row of a sampler's ``result``, up to a mask that was left; the result itself."""
        if self._mine is not None:
            tokens = result.tokens[self.row, self._mine]
            masks = (tokens == self.mask_id).nonzero().flatten()
            self._send(tokens, int(masks[0]) if len(masks) else len(tokens))
        return result

    def __enter__(self) -> Streamer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._close is not None:
            self._close()
