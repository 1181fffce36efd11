"""Keys and values kept between the forwards of a block (Fast-dLLM, arXiv 2505.22618), of any kind of cache.

What is kept belongs to one run and to the rows that computed it. Caches that grow in place, as those of transformers
do, are cut back after every use; a model sees what it kept as it was.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .model import Caller, Output, Request, Window, listed_windows, model_name, read_output

_NAMES = ("past_key_values", "cache")  # transformers renames the first to the second


@dataclass
class Kept:
    """What rows, in this order, computed when they entered a block.

    Attributes:
        rows: their :attr:`Window.name`.
        index: of the block.
        past: keys and values of these rows, in any supported form.
    """

    rows: list[tuple[int, int]]
    index: int
    past: Any

    def of(self, rows: list[tuple[int, int]]) -> Any:
        """What is kept of these rows; of some of them a copy."""
        return self.past if rows == self.rows else selected(self.past, [self.rows.index(row) for row in rows])


class PrefixCache:
    """Keys and values of everything before the block, computed when the block is entered (Fast-dLLM, arXiv 2505.22618).

    A block's first forward reads the whole canvas; the others read from the block's first column on, against the cache.
    All rows must be in the same columns: ``Blocks(length, by="column", together=True)``. A run that goes on from a
    state computes the cache anew, from the canvas as it then is.

    Args:
        model: takes ``(tokens, use_cache=True)`` and ``(tokens, past_key_values=..., use_cache=True)`` and returns
            ``logits`` and ``past_key_values``: a sequence of layers ``(keys, values)``, positions in the last dimension
            but one, or an object that can be cut: transformers' caches, or one with ``crop(length)``. The argument and
            the answer may be called ``cache`` instead. With padding, positions or a condition it gets these too:
            ``attention_mask [b, L]`` of the whole canvas, ``position_ids`` of the tokens.

    Raises:
        TypeError: the model takes no cache.
    """

    reads_windows = True
    _takes: tuple[str, ...] = ("use_cache",)

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.__name__ = model, model_name(model)
        self._call = Caller(model)
        accepts = self._call.accepts
        self._argument = "cache" if "cache" in accepts.names and "past_key_values" not in accepts.names else _NAMES[0]
        for name in (*self._takes, self._argument):
            if not accepts.takes(name):
                raise TypeError(f"model: expected {self.__name__} to keep keys and values, but it takes no {name!r}")

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        windows = _in_one_block(listed_windows(request, type(self).__name__))
        window = windows[0]
        if window.start == window.stop:  # nothing is left to decode: the last forward, which fills what remains
            return read_output(self._call(tokens, request), self.model)
        kept: dict[tuple[int, int], Kept] = request.run.setdefault(self, {})
        if window.step == 0:
            for each in windows:
                kept.pop(each.name, None)
        groups: dict[int, list[int]] = {}  # of rows that computed theirs together; 0 of those that have none
        for n, each in enumerate(windows):
            entry = kept.get(each.name)
            groups.setdefault(0 if entry is None or entry.index != each.index else id(entry), []).append(n)
        if len(groups) == 1:
            return self._answer(tokens, request, windows, kept, 0 not in groups)
        answers = []
        for group, rows in groups.items():
            index = torch.tensor(rows, dtype=torch.int64, device=tokens.device)
            part = _rows_of(request, index, rows)
            some = [windows[n] for n in rows]
            answers.append((index, self._answer(tokens.index_select(0, index), part, some, kept, group != 0)))
        return _merged(answers, window.start)

    def _answer(
        self, tokens: Tensor, request: Request, windows: list[Window], kept: dict[tuple[int, int], Kept], known: bool
    ) -> Output:
        """The answer for rows that have nothing kept, or (``known``) that computed what is kept together."""
        names, window = [each.name for each in windows], windows[0]
        if known:
            return self._reuse(tokens, request, window, kept[names[0]].of(names))
        answer = self._call(tokens, request, use_cache=True)
        entry = Kept(names, window.index, self._cut(self._past_in(answer), window, tokens.shape[1]))
        kept.update(dict.fromkeys(names, entry))
        return read_output(answer, self.model)

    def _past_in(self, answer: Any) -> Any:
        read = answer.get if isinstance(answer, Mapping) else lambda name: getattr(answer, name, None)
        past = read(self._argument)
        if past is None:
            past = read(next(name for name in _NAMES if name != self._argument))
        if past is None:
            raise TypeError(
                f"model: expected {self.__name__} to return {self._argument} when called with use_cache=True, got "
                f"{type(answer).__name__} without it"
            )
        return past

    def _cut(self, past: Any, window: Window, length: int) -> Any:
        return cropped(past, window.start, length)

    def _reuse(self, tokens: Tensor, request: Request, window: Window, past: Any) -> Output:
        columns = slice(window.start, tokens.shape[1])
        output = self._read(tokens, request, columns, past)
        cropped(past, window.start)  # if it has grown
        return output

    def _read(self, tokens: Tensor, request: Request, columns: slice, past: Any, **more: Any) -> Output:
        """The answer for some columns, against what is kept."""
        here = replace(request, position_ids=request.position_ids[:, columns])
        given = list(past) if isinstance(past, list) else past  # a model may write into the list
        answer = self._call(tokens[:, columns], here, use_cache=True, **{self._argument: given}, **more)
        return replace(read_output(answer, self.model), start=columns.start)


class DualCache(PrefixCache):
    """As :class:`PrefixCache`, with the positions after the block cached too, as they were when it was entered.

    Args:
        model: as there; ``(tokens, past_key_values=..., use_cache=True, replace_position=...)`` replaces the cached
            columns where the bool ``[b, L]`` is true by those of ``tokens``.
    """

    _takes = ("use_cache", "replace_position")

    def _cut(self, past: Any, window: Window, length: int) -> Any:
        return cropped(past, length, length)

    def _reuse(self, tokens: Tensor, request: Request, window: Window, past: Any) -> Output:
        replaced = torch.zeros_like(tokens, dtype=torch.bool)
        replaced[:, window.start : window.stop] = True
        output = self._read(tokens, request, slice(window.start, window.stop), past, replace_position=replaced)
        if (held := _held(past)) not in (None, tokens.shape[1]):
            raise ValueError(
                f"model: expected {self.__name__} to replace columns of what is cached, got a {type(past).__name__} of "
                f"{held} positions instead of {tokens.shape[1]}"
            )
        return output


def _in_one_block(windows: Sequence[Window]) -> list[Window]:
    first = windows[0]
    if any(window.columns != first.columns or window.step != first.step for window in windows):
        raise ValueError(
            f"cache: expected all rows in one block, got {sorted({w.columns for w in windows})}; "
            "decode with Blocks(length, by='column', together=True) and prompts of one length"
        )
    return list(windows)


def cropped(past: Any, length: int, full: int | None = None) -> Any:
    """The first ``length`` positions of a cache; one that is no sequence of layers is cut itself.

    Args:
        past: layers ``(keys, values)``, or an object with ``crop``. One that also has ``get_seq_length``, as those of
            transformers, is told how many to drop, as a negative number; another the length to keep.
        length: positions to keep.
        full: positions it must hold before.

    Raises:
        TypeError: another kind of object.
        ValueError: it held something before the run, or cannot be cut.
    """
    name = type(past).__name__
    if isinstance(past, (list, tuple)):
        return [tuple(part[..., :length, :] for part in layer) for layer in past]
    if not hasattr(past, "crop"):
        raise TypeError(f"cache: expected layers (keys, values) or an object with crop(length), got {name}")
    held = _held(past)
    if held is not None and full is not None and held != full:
        raise ValueError(f"cache: expected a {name} of the {full} positions of the canvas, got one of {held}")
    if held is not None and held <= length:
        return past
    try:
        past.crop(length if held is None else length - held)
    except Exception as error:
        raise ValueError(f"cache: a {name} cannot be cut to its first {length} positions: {error}") from error
    if held is not None and (left := _held(past)) != length:
        raise ValueError(f"cache: a {name} of {held} positions was to be cut to {length}, and holds {left}")
    return past


def selected(past: Any, rows: list[int]) -> Any:
    """Rows of a cache, apart from it.

    Raises:
        TypeError: an object of which no rows can be taken.
    """

    def index(part: Tensor) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=part.device)

    if isinstance(past, (list, tuple)):
        return [tuple(part.index_select(0, index(part)) for part in layer) for layer in past]
    take = next((name for name in ("reorder_cache", "batch_select_indices") if hasattr(past, name)), None)
    if take is None:
        raise TypeError(
            f"cache: some rows have ended, and a {type(past).__name__} has neither reorder_cache(rows) nor "
            f"batch_select_indices(rows) to go on with the others"
        )
    part = copy.deepcopy(past)
    getattr(part, take)(torch.tensor(rows, dtype=torch.int64, device="cpu"))
    return part


def _held(past: Any) -> int | None:
    """Positions in a cache, as far as it says."""
    return int(past.get_seq_length()) if hasattr(past, "get_seq_length") else None


def _rows_of(request: Request, index: Tensor, rows: list[int]) -> Request:
    """The request of some rows."""
    batch = len(request.batch)

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.index_select(0, index) if value.ndim and len(value) == batch else value
        if isinstance(value, Mapping):
            return {name: take(part) for name, part in value.items()}
        return tuple(take(part) for part in value) if isinstance(value, (list, tuple)) else value

    tensors = ("batch", "wanted", "time", "step", "position_ids", "attention_mask", "condition", "fixed")
    assert request.windows is not None
    windows = tuple(request.windows[n] for n in rows)
    return replace(request, **{name: take(getattr(request, name)) for name in tensors}, windows=windows)


def _merged(answers: Sequence[tuple[Tensor, Output]], start: int) -> Output:
    """Answers for some rows each, as one for all, of the columns that every one has from ``start`` on."""
    order = torch.cat([index for index, _ in answers]).argsort()
    width = min(output.logits.shape[1] - (start - (output.start or 0)) for _, output in answers)

    def whole(name: str) -> Tensor | None:
        parts = [(getattr(output, name), start - (output.start or 0)) for _, output in answers]
        if any(part is None for part, _ in parts):
            return None
        return torch.cat([part[:, first : first + width] for part, first in parts]).index_select(0, order)

    logits = whole("logits")
    assert logits is not None
    return Output(logits=logits, quality=whole("quality"), start=start)
