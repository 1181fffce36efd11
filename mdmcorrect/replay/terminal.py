"""A run as lines of a terminal: each step's tokens, with what it changed marked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from .. import _checks
from .run import Frame, Row, Run
from .tokens import Texts, shown, texts_of

_MASK = "▁"
_MARKS = {"filled": "[]", "returned": "[]", "mended": "{}", "rewritten": "<>", "masked": "~~", "other": "??"}
_COLOURS = {"filled": "36", "returned": "36", "mended": "1;32", "rewritten": "35", "masked": "9;31", "other": "33"}
_FIXED = "2"
_LEGEND = {"filled": "filled", "mended": "mended", "rewritten": "rewritten", "masked": "masked again"}


def text(
    run: Run,
    tokenizer: Texts = None,
    *,
    row: int | None = None,
    columns: int | None = None,
    every: int = 1,
    colour: bool = False,
) -> str:
    """Step by step: how many forwards were used, what changed, and the tokens.

    Control characters in tokens are shown by signs, so that printing this does nothing but print.

    Args:
        run: what to show.
        tokenizer: as of :func:`mdmcorrect.replay.page.to_html`.
        row: which, by its number in the batch; None for the first.
        columns: tokens per line, such as a Sudoku's nine; None for running text.
        every: show each so many steps; the last is always shown.
        colour: mark by a terminal's colours instead of by brackets.

    Raises:
        ValueError: there is no such row, or a number is out of range.
    """
    every = _checks.integer("every", every, minimum=1)
    columns = None if columns is None else _checks.integer("columns", columns, minimum=1)
    chosen = _row(run, row)
    texts = texts_of(run, tokenizer)
    legend = " ".join(_marked(name, kind, colour) for kind, name in _LEGEND.items())
    lines = [f"{run.method or 'sampler'}, row {chosen.index}, {run.stopped}. {legend} {_MASK} masked"]
    canvases = list(chosen.canvases())
    show = partial(_canvas, chosen, mask_id=run.mask_id, texts=texts, columns=columns, colour=colour)
    for number, frame in enumerate(chosen.frames):
        last = number == len(chosen.frames) - 1
        if number % every and not last:
            continue
        lines.append(f"step {frame.step + 1}, NFE {frame.nfe}: {_counted(frame)}")
        lines.append(show(canvases[number], canvases[number + 1], frame))
    return "\n".join(lines) + "\n"


def _row(run: Run, row: int | None) -> Row:
    if not run.rows:
        raise ValueError("row: the run has none")
    for each in run.rows:
        if row is None or each.index == row:
            return each
    raise ValueError(f"row: expected one of {[each.index for each in run.rows]}, got {row!r}")


def _counted(frame: Frame) -> str:
    kinds = [kind for _, _, kind in frame.changes]
    names = {kind: kind for kind in kinds} | {"masked": "masked again", "returned": "filled as before"}
    return ", ".join(f"{kinds.count(kind)} {names[kind]}" for kind in dict.fromkeys(kinds)) or "nothing changed"


def _canvas(
    row: Row,
    before: list[int],
    after: list[int],
    frame: Frame,
    *,
    mask_id: int,
    texts: Mapping[int, str] | None,
    columns: int | None,
    colour: bool,
) -> str:
    kinds = {place: kind for place, _, kind in frame.changes}
    cells = []
    for place, token in enumerate(after):
        kind = kinds.get(place)
        old = before[place] if kind == "masked" and before[place] != mask_id else token
        masked = old == mask_id and not row.fixed[place]
        label = _MASK if masked else shown(texts, old)
        if kind is not None and not masked:
            label = _marked(label, kind, colour)
        elif row.fixed[place] and colour:
            label = f"\x1b[{_FIXED}m{label}\x1b[0m"
        cells.append((label, 1 if masked else len(shown(texts, old))))
    if columns is None:
        return ("" if texts is not None else " ").join(label for label, _ in cells)
    wide = max((width for _, width in cells), default=0) + (0 if colour else 2)
    padded = [label + " " * (wide - (width if colour else len(label))) for label, width in cells]
    return "\n".join(" ".join(padded[n : n + columns]).rstrip() for n in range(0, len(padded), columns))


def _marked(label: str, kind: str, colour: bool) -> str:
    if colour:
        return f"\x1b[{_COLOURS[kind]}m{label}\x1b[0m"
    marks, blank = _MARKS[kind], " " if label.startswith(" ") else ""
    return f"{blank}{marks[0]}{label.removeprefix(' ')}{marks[1]}"
