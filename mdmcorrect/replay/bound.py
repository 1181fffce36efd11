"""A run made small enough for a page: candidates first, then whole steps are left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

from .run import Frame, Row, Run


def bounded(run: Run, most: int, measure: Callable[[Run], int]) -> tuple[Run, list[str]]:
    """The run as it fits ``most`` bytes, and in words what that cost.

    Args:
        run: the whole run.
        most: bytes.
        measure: how many bytes a run takes.

    Raises:
        ValueError: not even its beginning and its end fit.
    """
    size = 0
    for shorter, left_out in _shorter(run):
        size = measure(shorter)
        if size <= most:
            return shorter, left_out
    raise ValueError(
        f"max_bytes: expected room for the first and last canvas, {size} bytes, got {most}; show fewer rows"
    )


def _shorter(run: Run) -> Iterator[tuple[Run, list[str]]]:
    """The run, then ever less of it."""
    yield run, []
    written = _each_frame(run, _only_written)
    said = ["candidates only where a step wrote"]
    yield written, said
    bare = _each_frame(run, lambda frame: replace(frame, candidates={}))
    longest = max((len(row.frames) for row in run.rows), default=0)
    every = 2
    while every < 2 * longest:
        some = [f"{every} steps in one", *said]
        yield _each_row(written, every), some
        every *= 2
    said = ["no candidates"]
    yield bare, said
    every = 2
    while every < 2 * longest:
        yield _each_row(bare, every), [f"{every} steps in one", *said]
        every *= 2
    silent = _each_frame(bare, lambda frame: replace(frame, scores={}))
    yield _each_row(silent, max(longest, 1)), ["only the first and the last canvas, without scores"]


def _only_written(frame: Frame) -> Frame:
    places = {place for place, _, _ in frame.changes}
    return replace(frame, candidates={place: pairs for place, pairs in frame.candidates.items() if place in places})


def _each_frame(run: Run, change: Callable[[Frame], Frame]) -> Run:
    return replace(run, rows=[replace(row, frames=[change(frame) for frame in row.frames]) for row in run.rows])


def _each_row(run: Run, every: int) -> Run:
    return replace(run, rows=[thinned(row, every) for row in run.rows])


def thinned(row: Row, every: int) -> Row:
    """The row with every so many steps made one: what they changed in the end, and the scores of the last."""
    frames = [_merged(row.frames[first : first + every]) for first in range(0, len(row.frames), every)]
    return replace(row, frames=frames)


def _merged(frames: list[Frame]) -> Frame:
    changes = {place: (place, token, kind) for frame in frames for place, token, kind in frame.changes}
    candidates = {place: pairs for frame in frames for place, pairs in frame.candidates.items()}
    kept = {place: candidates[place] for place in changes if place in candidates}
    merged = sum(frame.merged for frame in frames)
    return replace(frames[-1], changes=[changes[place] for place in sorted(changes)], candidates=kept, merged=merged)


def as_json(run: Run) -> str:
    """The run's numbers as they stand in a page: no character in them ends a script."""
    text = json.dumps(run.values(), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
