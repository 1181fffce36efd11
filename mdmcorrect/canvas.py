"""The canvas a sampler fills: prompts and templates laid out as one rectangle of tokens, and cut out of it again.

Token ids only; a tokenizer stays with the caller. Random draws are addressed by the position counted from a row's first
real token, so neither the side nor the amount of padding changes what is drawn.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mdmcorrect import _checks

Ids: TypeAlias = "Sequence[int] | np.ndarray[Any, Any] | Tensor"
Prompts: TypeAlias = "Sequence[Ids] | np.ndarray[Any, Any] | Tensor | Mapping[str, Any]"
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
        prompts: Prompts,
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
            prompts: one sequence of token ids per prompt, of any lengths, empty ones too; or what a tokenizer returns
                for several texts, whose ``input_ids`` are taken, less what its ``attention_mask`` calls padding. Masks
                inside a prompt are filled as well.
            mask_id: the mask token.
            new_tokens: masks after each prompt, one number or one per prompt; None fills each row up to ``length``.
            length: L; None takes the longest row's.
            pad_id: fills shorter rows; needed only if there are any.
            padding: "left" lets all rows end together, "right" begin together.
            num_return_sequences: rows per prompt, next to each other, each with draws of its own.
            device: where the tensors lie.

        Raises:
            TypeError: ids that are not integers, such as text.
            ValueError: a prompt that does not fit ``length`` with its new tokens, neither ``new_tokens`` nor
                ``length``, no ``pad_id`` though rows differ, no prompts, or a negative number or id.
        """
        rows = token_rows("prompts", prompts)
        mask_id = _checks.token_id("mask_id", mask_id)
        length = None if length is None else _checks.integer("length", length, minimum=0)
        if new_tokens is None:
            if length is None:
                raise ValueError("new_tokens, length: expected at least one of them, got neither")
            fresh = [length - len(row) for row in rows]
        elif not isinstance(new_tokens, Sequence) and not getattr(new_tokens, "ndim", 0):
            fresh = [_checks.integer("new_tokens", new_tokens)] * len(rows)
        else:
            fresh = list(_checks.several(_checks.integer)("new_tokens", new_tokens))
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
        templates: Prompts,
        *,
        mask_id: int,
        length: int | None = None,
        pad_id: int | None = None,
        padding: str = "left",
        num_return_sequences: int = 1,
        device: torch.device | str | None = None,
    ) -> Canvas:
        """Templates whose masks, wherever they stand, are to be filled; arguments as for :meth:`from_prompts`."""
        rows = token_rows("templates", templates)
        mask_id = _checks.token_id("mask_id", mask_id)
        length = None if length is None else _checks.integer("length", length, minimum=0)
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
        _checks.choice("padding", padding, *_PADDING)
        num_return_sequences = _checks.integer("num_return_sequences", num_return_sequences, minimum=1)
        pad_id = None if pad_id is None else _checks.token_id("pad_id", pad_id)
        like = {"dtype": torch.int64, "device": rows[0].device}
        lengths = torch.tensor([len(row) for row in rows], **like)
        width = int(lengths.max()) if length is None else length
        if pad_id is None:
            if bool((lengths != width).any()):
                raise ValueError(f"pad_id: rows of {lengths.tolist()} tokens need padding to {width}; expected its id")
            pad_id = 0
        column = torch.arange(width, device=rows[0].device)
        first = (width - lengths if padding == "left" else torch.zeros_like(lengths))[:, None]
        real = (column >= first) & (column < first + lengths[:, None])
        tokens = torch.full((len(rows), width), pad_id, **like)
        tokens[real] = torch.cat(rows)
        tensors = {
            "tokens": tokens,
            "fixed": (tokens != mask_id) | ~real,
            "attention_mask": real,
            "positions": (column - first).clamp(min=0),
            "lengths": lengths,
            "prompt_lengths": torch.tensor(starts, **like),
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

    def sequences(self, tokens: Tensor | None = None, eos_id: int | Sequence[int] | None = None) -> list[Tensor]:
        """The real tokens of each row, without padding, cut before the first generated end of sequence.

        Args:
            tokens: int64 ``[B, L]``, such as a result's; default the canvas itself.
            eos_id: one, or several, of which any cuts; a fixed one does not. None cuts nothing.

        Raises:
            TypeError: ``tokens`` is no tensor.
            ValueError: ``tokens`` of another shape.
        """
        tokens = self.tokens if tokens is None else tokens
        if not isinstance(tokens, Tensor):
            raise TypeError(f"tokens: expected a tensor, such as a result's tokens, got {type(tokens).__name__}")
        ids = _checks.token_ids("eos_id", eos_id)
        if tokens.shape != self.tokens.shape:
            raise ValueError(f"tokens: expected {list(self.tokens.shape)} like the canvas, got {list(tokens.shape)}")
        rows = []
        for row, fixed, real in zip(tokens, self.fixed, self.attention_mask, strict=True):
            ends = torch.isin(row, torch.tensor(ids, dtype=row.dtype, device=row.device)) & ~fixed
            rows.append(row[real & (ends.long().cumsum(0) == 0)])
        return rows

    def completions(self, tokens: Tensor | None = None, eos_id: int | Sequence[int] | None = None) -> list[Tensor]:
        """As :meth:`sequences`, without the prompt: for a template, what comes from its first mask on."""
        starts = self.prompt_lengths.tolist()
        return [row[start:] for row, start in zip(self.sequences(tokens, eos_id), starts, strict=True)]


def token_rows(name: str, prompts: Prompts) -> list[Tensor]:
    """Each prompt's ids, of whatever a tokenizer hands over."""
    if isinstance(prompts, (str, bytes)):
        raise TypeError(f"{name}: expected token ids of several prompts, got text; encode it with a tokenizer first")
    if isinstance(prompts, Mapping):
        if "input_ids" not in prompts:
            raise TypeError(f"{name}: expected token ids, or a mapping with input_ids, got one with {list(prompts)}")
        rows = token_rows(name, prompts["input_ids"])
        real = prompts.get("attention_mask")
        if real is None:
            return rows
        return [row[_ids(name, mask) != 0] for row, mask in zip(rows, real, strict=True)]
    if not isinstance(prompts, (Sequence, np.ndarray, Tensor)):
        raise TypeError(f"{name}: expected one sequence of ids per prompt, got {type(prompts).__name__}")
    return [_ids(f"{name}[{n}]", prompt) for n, prompt in enumerate(prompts)]


def _ids(name: str, ids: Any) -> Tensor:
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"{name}: expected token ids, got text {ids!r}; encode it with a tokenizer first")
    if isinstance(ids, np.ndarray) and ids.dtype != object:
        ids = torch.from_numpy(np.ascontiguousarray(ids))
    if not isinstance(ids, (Tensor, Sequence, np.ndarray)):
        raise TypeError(f"{name}: expected a sequence of ids, got {type(ids).__name__}: one such sequence per prompt")
    row = ids if isinstance(ids, Tensor) else _tensor(name, list(ids))
    if row.dtype == torch.bool or row.is_floating_point() or row.is_complex():
        raise TypeError(f"{name}: expected integer token ids, got {row.dtype}")
    if row.ndim != 1:
        raise ValueError(f"{name}: expected a sequence of ids [n], got {list(row.shape)}")
    row = row.to(device="cpu", dtype=torch.int64)
    if bool((row < 0).any()):
        raise ValueError(f"{name}: expected ids >= 0, got {int(row.min())}")
    return row


def _tensor(name: str, ids: list[Any]) -> Tensor:
    """A list of ids as a tensor, of the dtype its elements have: int64 where it is empty."""
    try:
        return torch.tensor(ids, dtype=None if ids else torch.int64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        kinds = sorted({type(each).__name__ for each in ids})
        raise TypeError(f"{name}: expected integer token ids, got elements of type {', '.join(kinds)}") from None
