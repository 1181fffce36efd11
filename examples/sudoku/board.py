"""Draw a board in the terminal: givens bold, generated digits coloured by quality, what a step changed marked."""

from __future__ import annotations

import math

from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mdmcorrect.samplers.result import StepEvent

from .puzzles import MASK, Geometry

__all__ = ["draw_board", "draw_step", "legend"]

_GIVEN, _NEW, _TAKEN_BACK = Style(bold=True), Style(color="cyan"), Style(color="red", reverse=True)
_REWRITTEN = Style(underline=True, color="yellow")


def _shade(quality: float) -> Style:
    return Style(color="white", bgcolor=f"rgb({int(200 * (1 - quality))},{int(130 * quality)},40)")


def legend() -> Text:
    """One line that explains the colours."""
    scale = [(f" {share:.1f} ", _shade(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    marks = [("given", _GIVEN), ("new", _NEW), ("taken back", _TAKEN_BACK), ("rewritten", _REWRITTEN)]
    return Text.assemble("quality ", *scale, *[part for mark in marks for part in ("   ", mark)])


def draw_step(geometry: Geometry, event: StepEvent, given: Tensor, row: int = 0) -> Table:
    """The board of one sequence after a step. Cells the step took back still show the digit they lose.

    Args:
        given: bool [cells], the puzzle's clues.
    """
    before, quality = event.before[row], event.scores.get("quality")
    digits, styles = [], []
    for cell in range(geometry.cells):
        digit, style = int(event.tokens[row, cell]), Style()
        if given[cell]:
            style = _GIVEN
        elif event.remasked[row, cell]:
            digit, style = int(before[cell]), _TAKEN_BACK
        elif event.committed[row, cell]:
            style = _NEW
        elif event.corrected[row, cell]:
            style = _REWRITTEN
        elif digit != MASK and quality is not None and not math.isnan(float(quality[row, cell])):
            style = _shade(float(quality[row, cell]))
        digits.append(digit)
        styles.append(style)
    return _grid(geometry, digits, styles)


def draw_board(geometry: Geometry, tokens: Tensor, given: Tensor, solution: Tensor) -> Table:
    """A finished board [cells]: givens bold, right digits green, wrong ones red."""
    styles = [
        _GIVEN if given[cell] else Style(color="green" if tokens[cell] == solution[cell] else "red")
        for cell in range(geometry.cells)
    ]
    return _grid(geometry, tokens.tolist(), styles)


def _grid(geometry: Geometry, digits: list[int], styles: list[Style]) -> Table:
    table = Table.grid(padding=0)
    for line in range(geometry.side):
        if line and line % geometry.box_height == 0:
            table.add_row("")
        text = Text()
        for column in range(geometry.side):
            if column and column % geometry.box_width == 0:
                text.append("  ")
            cell = line * geometry.side + column
            text.append(f" {digits[cell] if digits[cell] != MASK else '·'} ", styles[cell])
        table.add_row(text)
    return table
