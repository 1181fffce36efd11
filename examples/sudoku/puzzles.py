"""Sudoku boards made here: random solved grids, puzzles with one solution and a counted number of clues, symmetries.

A board is a row of `side * side` tokens, read line by line: 0 is a blank (the diffusion model's mask), d the digit d.

Training and held-out puzzles never share a solution, not even up to symmetry: the split a grid belongs to is a hash of
a fingerprint that relabelling digits, permuting rows, columns, bands or stacks, and transposing leave unchanged.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["MASK", "Geometry", "Puzzles", "Split", "augment", "count_solutions", "dig", "fingerprint", "generate",
           "is_solved", "random_grid", "split_of"]  # fmt: skip

MASK = 0
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Geometry:
    """A board whose boxes are `box_height` x `box_width`; 3 x 3 is the 9x9 game, 2 x 3 the 6x6 one."""

    box_height: int = 3
    box_width: int = 3

    @property
    def side(self) -> int:
        return self.box_height * self.box_width

    @property
    def cells(self) -> int:
        return self.side * self.side

    def units(self) -> tuple[Tensor, Tensor, Tensor]:
        """The row, column and box number of every cell, three int64 tensors [cells]."""
        cell = torch.arange(self.cells)
        row, column = cell // self.side, cell % self.side
        return row, column, (row // self.box_height) * self.box_height + column // self.box_width


@dataclass
class Puzzles:
    """`clues` [N, cells] with 0 for blanks and their `solutions` [N, cells], both int64."""

    geometry: Geometry
    clues: Tensor
    solutions: Tensor

    def __len__(self) -> int:
        return self.clues.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Puzzles:
        return Puzzles(self.geometry, self.clues[index], self.solutions[index])


class _Search:
    """Depth-first search over bit masks, most constrained cell first."""

    def __init__(self, geometry: Geometry, rng: random.Random | None = None) -> None:
        row, column, box = (unit.tolist() for unit in geometry.units())
        self.where = list(zip(row, column, box, strict=True))
        self.full = (1 << geometry.side) - 1
        self.geometry, self.rng = geometry, rng

    def solutions(self, board: list[int]) -> Iterator[list[int]]:
        side, where = self.geometry.side, self.where
        rows, columns, boxes = [0] * side, [0] * side, [0] * side
        cells, blanks = list(board), []
        for cell, digit in enumerate(cells):
            if digit == MASK:
                blanks.append(cell)
                continue
            r, c, b = where[cell]
            bit = 1 << (digit - 1)
            if (rows[r] | columns[c] | boxes[b]) & bit:
                return
            rows[r], columns[c], boxes[b] = rows[r] | bit, columns[c] | bit, boxes[b] | bit

        def descend() -> Iterator[list[int]]:
            if not blanks:
                yield list(cells)
                return
            fewest, chosen, free_bits = side + 1, 0, 0
            for index, cell in enumerate(blanks):
                r, c, b = where[cell]
                free = self.full & ~(rows[r] | columns[c] | boxes[b])
                count = free.bit_count()
                if count < fewest:
                    fewest, chosen, free_bits = count, index, free
                    if count < 2:
                        break
            if fewest == 0:
                return
            cell = blanks[chosen]
            blanks[chosen] = blanks[-1]
            blanks.pop()
            r, c, b = where[cell]
            bits = [1 << digit for digit in range(side) if free_bits >> digit & 1]
            if self.rng is not None:
                self.rng.shuffle(bits)
            for bit in bits:
                rows[r], columns[c], boxes[b] = rows[r] | bit, columns[c] | bit, boxes[b] | bit
                cells[cell] = bit.bit_length()
                yield from descend()
                rows[r], columns[c], boxes[b] = rows[r] ^ bit, columns[c] ^ bit, boxes[b] ^ bit
            cells[cell] = MASK
            blanks.append(cell)
            blanks[chosen], blanks[-1] = blanks[-1], blanks[chosen]

        yield from descend()


def count_solutions(geometry: Geometry, board: list[int], limit: int = 2) -> int:
    """How many ways `board` can be completed, counting no further than `limit`."""
    found = 0
    for _ in _Search(geometry).solutions(board):
        found += 1
        if found >= limit:
            break
    return found


def random_grid(geometry: Geometry, rng: random.Random) -> list[int]:
    """A solved grid, filled in random order."""
    seeded = [MASK] * geometry.cells
    seeded[: geometry.side] = rng.sample(range(1, geometry.side + 1), geometry.side)
    return next(_Search(geometry, rng).solutions(seeded))


def dig(geometry: Geometry, grid: list[int], clues: int, rng: random.Random) -> list[int] | None:
    """Blank cells of `grid` in random order down to `clues` clues, keeping the solution unique; None if that fails.

    Cells go in runs whose length halves whenever a run would open a second solution: a dozen searches, not one a cell.
    """
    order = rng.sample(range(geometry.cells), geometry.cells)
    board, to_remove, run = list(grid), geometry.cells - clues, geometry.cells // 3
    while to_remove and order:
        attempt = order[: min(run, to_remove)]
        trial = list(board)
        for cell in attempt:
            trial[cell] = MASK
        if count_solutions(geometry, trial) == 1:
            board, order, to_remove = trial, order[len(attempt) :], to_remove - len(attempt)
        elif len(attempt) == 1:
            order = order[1:]
        else:
            run = len(attempt) // 2
    return board if to_remove == 0 else None


def fingerprint(geometry: Geometry, grid: list[int]) -> str:
    """A string that is equal for every two grids that a Sudoku symmetry maps onto each other.

    Two lines of a grid define a permutation of the digits (what stands under what). Its cycle lengths survive
    relabelling and reordering; collecting them over the pairs of lines inside a band, and between two bands, survives
    the rest.
    """
    side = geometry.side
    rows = [grid[side * r : side * (r + 1)] for r in range(side)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    prints = [_line_cycles(rows, geometry.box_height), _line_cycles(columns, geometry.box_width)]
    if geometry.box_height == geometry.box_width:  # a transposition keeps the shape of the boxes
        prints.sort()
    return repr(prints)


def _line_cycles(lines: list[list[int]], band_size: int) -> tuple[object, ...]:
    bands = [range(start, start + band_size) for start in range(0, len(lines), band_size)]

    def cycles(a: list[int], b: list[int]) -> tuple[int, ...]:
        maps_to = dict(zip(a, b, strict=True))
        lengths = []
        while maps_to:
            start, length = next(iter(maps_to)), 0
            digit = start
            while digit in maps_to:
                digit, length = maps_to.pop(digit), length + 1
            lengths.append(length)
        return tuple(sorted(lengths))

    inside = sorted(tuple(sorted(cycles(lines[i], lines[j]) for i in band for j in band if i < j)) for band in bands)
    between = sorted(
        tuple(sorted(cycles(lines[i], lines[j]) for i in one for j in other))
        for index, one in enumerate(bands)
        for other in bands[index + 1 :]
    )
    return tuple(inside), tuple(between)


def split_of(geometry: Geometry, grid: list[int]) -> Split:
    """Which split a solved grid belongs to: half of all grids train, a quarter each validate and test."""
    bucket = hashlib.sha256(fingerprint(geometry, grid).encode()).digest()[0] % 4
    return ("test", "validation", "train", "train")[bucket]  # type: ignore[return-value]


def generate(geometry: Geometry, *, clues: int, count: int, split: Split, seed: int, attempts: int = 1000) -> Puzzles:
    """`count` puzzles with exactly `clues` clues and one solution, all from `split`; equal for equal arguments.

    Args:
        attempts: grids tried in vain, one after the other, before giving up.

    Raises:
        ValueError: `clues`, `count` or `split` is out of range; or `attempts` grids in a row gave no puzzle, because
            the board has none with so few clues (9x9: fewer than 17) or hardly any, or because it has so few grids that
            none falls into `split`.
    """
    if not 0 < clues <= geometry.cells:
        raise ValueError(f"clues must lie in 1..{geometry.cells} for this board, got {clues}")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    rng = random.Random(f"{split}/{geometry.box_height}x{geometry.box_width}/{clues}/{seed}")
    boards: list[list[int]] = []
    grids: list[list[int]] = []
    elsewhere = in_vain = 0  # since the last puzzle
    while len(boards) < count:
        if elsewhere == attempts:
            raise ValueError(f"split: none of {attempts} grids of this board fell into {split!r}; take another split")
        if in_vain == attempts:
            raise ValueError(
                f"clues: none of {attempts} grids could be dug down to {clues} clues with one solution "
                f"({len(boards)} of {count} puzzles were made); ask for more clues, or allow more attempts"
            )
        grid = random_grid(geometry, rng)
        if split_of(geometry, grid) != split:
            elsewhere += 1
            continue
        elsewhere = 0
        board = dig(geometry, grid, clues, rng)
        if board is None:
            in_vain += 1
            continue
        in_vain = 0
        boards.append(board)
        grids.append(grid)
    shape = (count, geometry.cells)
    return Puzzles(geometry, torch.tensor(boards).reshape(shape).long(), torch.tensor(grids).reshape(shape).long())


def augment(puzzles: Puzzles, generator: torch.Generator) -> Puzzles:
    """Every puzzle under a random symmetry of its own: digits, bands, lines within bands, and transposition."""
    geometry, count = puzzles.geometry, len(puzzles)
    rows = _line_order(count, geometry.side, geometry.box_height, generator)
    columns = _line_order(count, geometry.side, geometry.box_width, generator)
    cell = (rows[:, :, None] * geometry.side + columns[:, None, :]).flatten(1)
    if geometry.box_height == geometry.box_width:
        transposed = (rows[:, None, :] * geometry.side + columns[:, :, None]).flatten(1)
        cell = torch.where(torch.rand(count, 1, generator=generator) < 0.5, transposed, cell)
    relabel = torch.rand(count, geometry.side, generator=generator).argsort(1) + 1
    relabel = torch.cat([torch.zeros_like(relabel[:, :1]), relabel], 1)
    return Puzzles(
        geometry,
        relabel.gather(1, puzzles.clues.gather(1, cell)),
        relabel.gather(1, puzzles.solutions.gather(1, cell)),
    )


def _line_order(count: int, side: int, band_size: int, generator: torch.Generator) -> Tensor:
    band = torch.rand(count, side // band_size, generator=generator).argsort(1)
    within = torch.rand(count, side // band_size, band_size, generator=generator).argsort(2)
    return (band[:, :, None] * band_size + within).flatten(1)


def is_solved(geometry: Geometry, boards: Tensor) -> Tensor:
    """bool [N]: whether every row, column and box of `boards` [N, cells] holds each digit once."""
    digit = torch.nn.functional.one_hot(boards, geometry.side + 1)[..., 1:]  # [N, cells, side]
    solved = torch.ones(boards.shape[0], dtype=torch.bool, device=boards.device)
    for unit in geometry.units():
        seen = torch.zeros(boards.shape[0], geometry.side, geometry.side, dtype=digit.dtype, device=boards.device)
        seen.index_add_(1, unit.to(boards.device), digit)
        solved &= (seen == 1).all(2).all(1)
    return solved
