"""The canvas a sampler fills: prompts and templates laid out as one rectangle of tokens, and cut out of it again.

Token ids only; a tokenizer stays with the caller. Random draws are addressed by the position counted from a row's first
real token, so neither the side nor the amount of padding changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Ids: TypeAlias = "Sequence[int] | Tensor"
_PADDING = ("left", "right")


@dataclass(frozen=True)
class Canvas:
    """B rows of L tokens, made by :meth:`from_prompts` or :meth:`infill`.

    Attributes:
        tokens: int64 ``[B, L]``, with masks to be filled.
        fixed: bool ``[B, L]``, prompt, given tokens and padding.
        attention_mask: bool ``[B, L]``, False on padding.
        positions: int64 ``[B, L]``, counted from the row's first real token; 0 on padding before it.
        lengths: int64 ``[B]``, real tokens of each row.
        prompt_lengths: int64 ``[B]``, those before the part that is to be generated.
        mask_id: the mask token.
        num_return_sequences: rows per prompt; row b belongs to prompt ``b // num_return_sequences``.
    """

    tokens: Tensor
    fixed: Tensor
    attention_mask: Tensor
    positions: Tensor
    lengths: Tensor
    prompt_lengths: Tensor
    mask_id: int
    num_return_sequences: int = 1

    @classmethod
    def from_prompts(
        cls,
        prompts: Sequence[Ids],
        *,
        mask_id: int,
        new_tokens: int | Sequence[int] | None = None,
        length: int | None = None,
        pad_id: int | None = None,
        padding: str = "left",
        num_return_sequences: int = 1,
        device: torch.device | str | None = None,
    ) -> Canvas:
        """Prompts, each followed by masks.

        Args:
            prompts: one sequence of token ids per prompt, of any lengths, empty ones too. Masks inside a prompt are
                filled as well.
            mask_id: the mask token.
            new_tokens: masks after each prompt, one number or one per prompt; None fills each row up to ``length``.
            length: L; None takes the longest row's.
            pad_id: fills shorter rows; needed only if there are any.
            padding: "left" lets all rows end together, "right" begin together.
            num_return_sequences: rows per prompt, next to each other, each with draws of its own.
            device: where the tensors lie.

        Raises:
            TypeError: ids that are not integers.
            ValueError: a prompt that does not fit ``length`` with its new tokens, neither ``new_tokens`` nor
                ``length``, no ``pad_id`` though rows differ, no prompts, or a negative number or id.
        """
        rows = [_ids(f"prompts[{n}]", prompt) for n, prompt in enumerate(prompts)]
        if new_tokens is None:
            if length is None:
                raise ValueError("new_tokens, length: expected at least one of them, got neither")
            fresh = [length - len(row) for row in rows]
        elif isinstance(new_tokens, int):
            fresh = [new_tokens] * len(rows)
        else:
            fresh = list(new_tokens)
            if len(fresh) != len(rows):
                raise ValueError(f"new_tokens: expected one number per prompt ({len(rows)}), got {len(fresh)}")
        for n, (row, count) in enumerate(zip(rows, fresh, strict=True)):
            if length is not None and len(row) + max(count, 0) > length:
                raise ValueError(
                    f"prompts[{n}]: {len(row)} tokens"
                    + (f" and {count} new ones" if new_tokens is not None else "")
                    + f" do not fit a canvas of length {length}"
                )
            if count < 0:
                raise ValueError(f"new_tokens: expected numbers >= 0, got {count}")
        filled = [torch.cat([row, row.new_full((count,), mask_id)]) for row, count in zip(rows, fresh, strict=True)]
        starts = [len(row) for row in rows]
        return cls._lay_out(filled, starts, mask_id, length, pad_id, padding, num_return_sequences, device)

    @classmethod
    def infill(
        cls,
        templates: Sequence[Ids],
        *,
        mask_id: int,
        length: int | None = None,
        pad_id: int | None = None,
        padding: str = "left",
        num_return_sequences: int = 1,
        device: torch.device | str | None = None,
    ) -> Canvas:
        """Templates whose masks, wherever they stand, are to be filled; arguments as for :meth:`from_prompts`."""
        rows = [_ids(f"templates[{n}]", template) for n, template in enumerate(templates)]
        for n, row in enumerate(rows):
            if length is not None and len(row) > length:
                raise ValueError(f"templates[{n}]: {len(row)} tokens do not fit a canvas of length {length}")
        starts = [int((row != mask_id).long().cumprod(0).sum()) for row in rows]
        return cls._lay_out(rows, starts, mask_id, length, pad_id, padding, num_return_sequences, device)

    @classmethod
    def _lay_out(
        cls,
        rows: list[Tensor],
        starts: list[int],
        mask_id: int,
        length: int | None,
        pad_id: int | None,
        padding: str,
        num_return_sequences: int,
        device: torch.device | str | None,
    ) -> Canvas:
        if not rows:
            raise ValueError("prompts: expected at least one, got none")
        if isinstance(mask_id, bool) or not isinstance(mask_id, int) or mask_id < 0:
            raise ValueError(f"mask_id: expected an id >= 0, got {mask_id!r}")
        if padding not in _PADDING:
            raise ValueError(f"padding: expected 'left' or 'right', got {padding!r}")
        if num_return_sequences < 1:
            raise ValueError(f"num_return_sequences: expected at least 1, got {num_return_sequences}")
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max()) if length is None else length
        if pad_id is None:
            if bool((lengths != width).any()):
                raise ValueError(f"pad_id: rows of {lengths.tolist()} tokens need padding to {width}; expected its id")
            pad_id = 0
        column = torch.arange(width)
        first = (width - lengths if padding == "left" else torch.zeros_like(lengths))[:, None]
        real = (column >= first) & (column < first + lengths[:, None])
        tokens = torch.full((len(rows), width), pad_id)
        tokens[real] = torch.cat(rows)
        tensors = {
            "tokens": tokens,
            "fixed": (tokens != mask_id) | ~real,
            "attention_mask": real,
            "positions": (column - first).clamp(min=0),
            "lengths": lengths,
            "prompt_lengths": torch.tensor(starts),
        }
        repeated = {
            name: value.repeat_interleave(num_return_sequences, dim=0).to(device) for name, value in tensors.items()
        }
        return cls(**repeated, mask_id=mask_id, num_return_sequences=num_return_sequences)

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a sampler: ``sampler(model, **canvas.inputs())``."""
        return {
            "tokens": self.tokens,
            "mask_id": self.mask_id,
            "fixed": self.fixed,
            "attention_mask": self.attention_mask,
            "positions": self.positions,
        }

    def sequences(self, tokens: Tensor | None = None, eos_id: int | None = None) -> list[Tensor]:
        """The real tokens of each row, without padding, cut before the first generated end of sequence.

        Args:
            tokens: int64 ``[B, L]``, such as a result's; default the canvas itself.
            eos_id: a fixed one does not cut; None cuts nothing.

        Raises:
            ValueError: ``tokens`` of another shape.
        """
        tokens = self.tokens if tokens is None else tokens
        if tokens.shape != self.tokens.shape:
            raise ValueError(f"tokens: expected {list(self.tokens.shape)} like the canvas, got {list(tokens.shape)}")
        rows = []
        for row, fixed, real in zip(tokens, self.fixed, self.attention_mask, strict=True):
            ends = (row == eos_id) & ~fixed if eos_id is not None else torch.zeros_like(fixed)
            rows.append(row[real & (ends.long().cumsum(0) == 0)])
        return rows

    def completions(self, tokens: Tensor | None = None, eos_id: int | None = None) -> list[Tensor]:
        """As :meth:`sequences`, without the prompt: for a template, what comes from its first mask on."""
        starts = self.prompt_lengths.tolist()
        return [row[start:] for row, start in zip(self.sequences(tokens, eos_id), starts, strict=True)]


def _ids(name: str, ids: Ids) -> Tensor:
    row = ids if isinstance(ids, Tensor) else torch.tensor(list(ids), dtype=None if len(ids) else torch.int64)
    if row.dtype == torch.bool or row.is_floating_point() or row.is_complex():
        raise TypeError(f"{name}: expected integer token ids, got {row.dtype}")
    if row.ndim != 1:
        raise ValueError(f"{name}: expected a sequence of ids [n], got {list(row.shape)}")
    row = row.to(device="cpu", dtype=torch.int64)
    if bool((row < 0).any()):
        raise ValueError(f"{name}: expected ids >= 0, got {int(row.min())}")
    return row
