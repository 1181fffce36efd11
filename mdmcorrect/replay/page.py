"""One page that plays a run: nothing is fetched, every token is text and never markup."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

from .. import _checks
from .bound import as_json, bounded
from .run import Run
from .tokens import Texts, shown, texts_of

MAX_BYTES = 8 << 20
MAX_ROWS = 8
VIEWS = ("text", "grid", "sudoku", "smiles")


def to_html(
    run: Run,
    tokenizer: Texts = None,
    *,
    view: str = "text",
    columns: int | None = None,
    boxes: tuple[int, int] | None = None,
    rows: Sequence[int] | None = None,
    title: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> str:
    """A whole HTML document, for a file or a notebook's frame.

    Args:
        run: what to show.
        tokenizer: what gives an id its text: one with ``decode([id])``, a function of an id, or texts by id; None takes
            the texts saved with the run, or else the numbers.
        view: "text"; "grid", of ``columns``; "sudoku", a square grid with boxes; "smiles", text, and the molecule drawn
            by RDKit where that is installed and the row is one.
        columns: of a grid; default a square's.
        boxes: height and width of a sudoku's boxes; default those of a board of that size.
        rows: which of the run's rows, by their number in the batch; None for the first eight.
        title: of the page; default the method.
        max_bytes: the run's share of the page is kept below: candidates are left out, then steps are put together, and
            the page says so. The page itself adds some 25 kB.

    Raises:
        TypeError, ValueError: an argument of the wrong type or value, a row of another length than a grid's, or a run
            of which not even two canvases fit.
    """
    _checks.choice("view", view, *VIEWS)
    max_bytes = _checks.integer("max_bytes", max_bytes, minimum=1)
    notes = []
    if rows is None:
        if len(run.rows) > MAX_ROWS:
            notes.append(f"The first {MAX_ROWS} of {len(run.rows)} rows are shown.")
        run = replace(run, rows=run.rows[:MAX_ROWS])
    else:
        run = replace(run, rows=_chosen(run, rows))
    if not run.rows:
        raise ValueError("rows: expected at least one, got none")
    grid = _grid(run, view, columns, boxes)
    texts = texts_of(run, tokenizer)
    labels = {} if texts is None else {token: shown(texts, token) for token in texts}
    breaks = [] if texts is None else [token for token, text in texts.items() if "\n" in text]
    run = replace(run, texts=None)
    extra = {
        "view": view,
        "columns": grid[0],
        "boxes": grid[1:],
        "named": texts is not None,
        "texts": labels,
        "breaks": breaks,
    }
    said = len(_json(extra))
    small, left_out = bounded(run, max_bytes - said, lambda some: len(as_json(some)))
    pictures, molecules = _molecules(small, texts, max_bytes - said - len(as_json(small)), draw=view == "smiles")
    told = _json({**extra, "pictures": pictures, "molecules": molecules})
    if left_out:
        notes.append(f"Shortened to fit {max_bytes} bytes: {', '.join(left_out)}.")
    if view == "smiles" and not pictures:
        notes.append("No molecule is drawn: RDKit is not installed, or no row was one.")
    name = f"{run.method or 'A sampler'}: a run, step by step" if title is None else title
    parts = {
        "TITLE": html.escape(_printable(name)),
        "NOTES": "".join(f"<p>{html.escape(_printable(note))}</p>" for note in notes),
        "STYLE": _asset("page.css"),
        "RUN": as_json(small),
        "EXTRA": told,
        "SCRIPT": _asset("page.js"),
    }
    page = _asset("page.html").split("{{")
    return page[0] + "".join(parts[name] + rest for name, rest in (part.split("}}", 1) for part in page[1:]))


def _chosen(run: Run, rows: Sequence[int]) -> list[Any]:
    kept = {row.index: row for row in run.rows}
    for row in rows:
        if row not in kept:
            raise ValueError(f"rows: expected some of {sorted(kept)}, got {row!r}")
    return [kept[row] for row in rows]


def _grid(run: Run, view: str, columns: int | None, boxes: tuple[int, int] | None) -> tuple[int, int, int]:
    """Columns, and height and width of boxes; 0 where there are none."""
    if view not in ("grid", "sudoku"):
        for name, value in (("columns", columns), ("boxes", boxes)):
            if value is not None:
                raise ValueError(f'{name}: expected with view="grid" or "sudoku" only, got view={view!r}')
        return 0, 0, 0
    if boxes is not None and view != "sudoku":
        raise ValueError('boxes: expected with view="sudoku" only')
    length = max(len(row.tokens) for row in run.rows)
    wide = math.isqrt(length) if columns is None else _checks.integer("columns", columns, minimum=1)
    for row in run.rows:
        square = wide * wide == len(row.tokens) or (view == "grid" and columns is not None)
        if not square:
            raise ValueError(
                f"columns: row {row.index} has {len(row.tokens)} positions, which are no square"
                + ("" if view == "sudoku" else "; say how many columns the grid has")
            )
    if view == "grid":
        return wide, 0, 0
    high = max(side for side in range(1, math.isqrt(wide) + 1) if wide % side == 0)
    height, width = (high, wide // high) if boxes is None else _checks.several(_checks.at_least(1))("boxes", boxes)
    if height * width != wide:
        raise ValueError(f"boxes: expected height times width {wide}, got {height} times {width}")
    return wide, height, width


def _molecules(
    run: Run, texts: Mapping[int, str] | None, room: int, *, draw: bool
) -> tuple[list[str], list[list[int]]]:
    """Pictures within ``room`` bytes, last canvases first, and which of them each canvas of each row has; -1: none."""
    if texts is None or not draw:
        return [], []
    from .molecules import picture_of

    pictures: dict[str, int] = {}
    drawn = []
    for row in run.rows:
        found = []
        for canvas in reversed(list(row.canvases())):
            whole = "".join(texts.get(token, "") for token in canvas) if run.mask_id not in canvas else ""
            picture = picture_of(whole) if whole else ""
            if picture and picture not in pictures and len(picture) + 3 <= room:
                room -= len(picture) + 3
                pictures[picture] = len(pictures)
            found.append(pictures.get(picture, -1))
        drawn.append(found[::-1])
    return list(pictures), drawn if pictures else []


def _json(values: Any) -> str:
    text = json.dumps(values, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
