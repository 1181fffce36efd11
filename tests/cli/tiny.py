"""A model and a tokenizer small enough to be made where they are needed, for commands that are told ``tiny:pair``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mdmcorrect.model import Output

LETTERS = "abcdefghijklmnop "
MASK, EOS = len(LETTERS), len(LETTERS) + 1


class Tokenizer:
    """A token a letter."""

    mask_token_id, eos_token_id = MASK, EOS
    all_special_ids = (MASK, EOS)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [LETTERS.index(letter) for letter in text]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(LETTERS[n] if n < MASK else "" if skip_special_tokens else "?" for n in ids)


def model(tokens: torch.Tensor, attention_mask: torch.Tensor | None = None, position_ids: Any = None) -> Output:
    """Logits and quality of the row's real tokens alone; ``TINY_DIES`` names a file whose count of calls ends it."""
    counter = os.environ.get("TINY_DIES")
    if counter:
        left = int(Path(counter).read_text()) - 1
        Path(counter).write_text(str(left))
        if left < 0:
            os._exit(9)  # as a kill does: nothing is cleaned up
    real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
    place = torch.arange(tokens.shape[1]).expand_as(tokens) if position_ids is None else position_ids
    told = ((tokens * 31 + 7) * (place + 3) * real).sum(1, keepdim=True) + place * 17
    logits = (told[..., None] * 7 + torch.arange(EOS + 1) * 13) % 101 / 12
    return Output(logits=logits.float(), quality=((tokens + told) % 10 + 0.5) / 11)


def pair() -> tuple[Any, Tokenizer]:
    return model, Tokenizer()


def blind() -> tuple[Any, Tokenizer]:
    """Without quality."""
    return (lambda tokens: model(tokens).logits), Tokenizer()


def fails() -> Any:
    raise RuntimeError("no weights here")


def three() -> Any:
    return 1, 2, 3
