"""The text of a token id, and how it is shown: nothing in it can steer a terminal or a page."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from .run import Run

# A Hugging Face tokenizer or another with decode([id]); a function of an id; texts by id.
Texts: TypeAlias = Any

_SIGNS = {"\n": "⏎", "\t": "⇥"}
_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji
_MOST = 200  # characters of one token


def visible(text: str) -> str:
    """``text`` with every character that is not seen, or that moves others, replaced by one or some that are seen.

    Line breaks and tabs become signs, other controls their code, as do bidirectional controls and halves of
    surrogate pairs. Spaces, and joiners within words, stay.
    """
    if len(text) > _MOST:
        text = text[:_MOST] + "…"
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    kind = unicodedata.category(character)
    if character in _JOINERS or kind not in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"):
        return character
    if character < "\x80" or kind == "Cc":
        return f"\\x{ord(character):02x}"
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def texts_of(run: Run, tokenizer: Texts = None) -> dict[int, str] | None:
    """The text of every id that a run names, by a tokenizer or as saved with the run; None if there is neither.

    Raises:
        TypeError: ``tokenizer`` is none that is understood.
    """
    if tokenizer is None:
        return run.texts
    say = reader(tokenizer)
    return {token: say(token) for token in sorted(_named(run))}


def _named(run: Run) -> set[int]:
    found = {run.mask_id}
    for row in run.rows:
        found.update(row.tokens)
        for frame in row.frames:
            found.update(token for _, token, _ in frame.changes)
            found.update(token for pairs in frame.candidates.values() for token, _ in pairs)
    return {token for token in found if token >= 0}


def reader(tokenizer: Texts) -> Callable[[int], str]:
    """From an id to its text as it stands within a sentence, with the space before it.

    Raises:
        TypeError: something else than a tokenizer, a function, a mapping or a sequence of texts.
    """
    if isinstance(tokenizer, Mapping):
        return lambda token: str(tokenizer.get(token, f"⟨{token}⟩"))
    if isinstance(tokenizer, Sequence):
        return lambda token: str(tokenizer[token]) if token < len(tokenizer) else f"⟨{token}⟩"
    if callable(getattr(tokenizer, "decode", None)):
        return _Decoded(tokenizer)
    if callable(tokenizer):
        return lambda token: str(tokenizer(token))
    raise TypeError(
        f"tokenizer: expected one with decode([id]), a function of an id, or texts by id, "
        f"got {type(tokenizer).__name__}"
    )


class _Decoded:
    """A tokenizer's tokens one by one.

    Alone, a token often loses the space before it, so it is decoded behind an anchor, whose text is taken off again. A
    part of a character, which decodes to U+FFFD, is called by the tokenizer's own name for it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.anchor, self.text = self._anchored()

    def __call__(self, token: int) -> str:
        name = self._name(token)
        special = getattr(self.tokenizer, "all_special_ids", ())
        if name is not None and token in special:
            return name
        whole = self._decode([*self.anchor, token])
        text = whole[len(self.text) :] if whole.startswith(self.text) else self._decode([token])
        if "\ufffd" in text and name is not None:
            return name
        return text if text or name is None else name

    def _anchored(self) -> tuple[list[int], str]:
        try:
            ids = list(self.tokenizer.encode("a", add_special_tokens=False))
        except (AttributeError, TypeError):
            return [], ""
        return (ids, self._decode(ids)) if _are_ids(ids) else ([], "")

    def _decode(self, ids: list[int]) -> str:
        try:
            return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        except TypeError:
            return str(self.tokenizer.decode(ids))

    def _name(self, token: int) -> str | None:
        names = getattr(self.tokenizer, "convert_ids_to_tokens", None)
        name = names(token) if callable(names) else None
        return name if isinstance(name, str) else None


def _are_ids(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def shown(texts: Mapping[int, str] | None, token: int) -> str:
    """What stands for a token: its visible text, or its number where it has none."""
    if texts is None:
        return str(token)
    text = texts.get(token)
    return visible(text) if text else f"⟨{token}⟩"
