"""Texts that a command line or a JSONL file gives, and their token ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._told import UserError

FIELDS = ("prompt", "text", "messages", "tokens")


@dataclass(frozen=True)
class Prompt:
    """One question. ``given``: a text, token ids, or the messages of a chat. ``name``: its own ``id``, if any."""

    given: Any
    name: Any = None

    @property
    def is_ids(self) -> bool:
        return isinstance(self.given, list) and all(type(each) is int for each in self.given)


def prompts_of(texts: Sequence[str], file: Path | None) -> list[Prompt]:
    """Those of the command line, then those of the file, ``-`` for standard input.

    Raises:
        UserError: there are none, or a line is none.
    """
    found = [Prompt(text) for text in texts]
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {error}") from error
        lines = text.split("\n")  # a text may hold other line breaks
        found += [_prompt(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError("there are no prompts: give --prompt or --prompts")
    return found


def _prompt(file: Path, number: int, line: str) -> Prompt:
    expected = f"a JSON string, or an object with one of {', '.join(FIELDS)}"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number}: expected {expected}, got {error}") from None
    if isinstance(value, str):
        return Prompt(value)
    given = [value[name] for name in FIELDS if name in value] if isinstance(value, dict) else []
    if len(given) != 1:
        raise UserError(f"{file}, line {number}: expected {expected}, got {line.strip()[:80]}")
    prompt = Prompt(given[0], value.get("id"))
    chat = isinstance(given[0], list) and all(isinstance(each, dict) for each in given[0])
    if not (isinstance(given[0], str) or prompt.is_ids or chat):
        raise UserError(f"{file}, line {number}: expected text, token ids or messages, got {line.strip()[:80]}")
    return prompt


def ids_of(prompt: Prompt, tokenizer: Any, *, chat: bool = False, special: bool = True) -> list[int]:
    """The prompt's token ids.

    Args:
        prompt: of which ids are taken as they are.
        tokenizer: for texts; for chats one with a template.
        chat: take a text for a user's message.
        special: add what the tokenizer puts around a text.

    Raises:
        UserError: text, and no tokenizer; a chat, and no template.
    """
    if prompt.is_ids:
        return list(prompt.given)
    if tokenizer is None:
        raise UserError("the prompts are text and the model has no tokenizer: give --tokenizer, or token ids")
    given = prompt.given
    if chat and isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, str):
        if not hasattr(tokenizer, "apply_chat_template"):
            raise UserError("the tokenizer knows no chats; give the prompts as text")
        try:
            given = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever a template raises
            raise UserError(f"the tokenizer's chat template: {error}") from error
        special = False  # the template has them
    try:
        ids = tokenizer.encode(given, add_special_tokens=special)
    except TypeError:
        ids = tokenizer.encode(given)
    return [int(token) for token in getattr(ids, "ids", ids)]


def text_of(ids: Sequence[int], tokenizer: Any) -> str | None:
    """What ids say, without special tokens; None where there is no tokenizer."""
    if tokenizer is None:
        return None
    try:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))
    except TypeError:
        return str(tokenizer.decode(list(ids)))
