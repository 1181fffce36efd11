"""Puzzles: one solution, counted clues, seeded, and splits that no symmetry can cross."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from mdmcorrect.examples.sudoku.puzzles import (
    MASK,
    Geometry,
    Split,
    augment,
    count_solutions,
    dig,
    fingerprint,
    generate,
    is_solved,
    random_grid,
    split_of,
)

BOARDS = [Geometry(2, 3), Geometry(3, 3)]
CLUES = {6: 10, 9: 30}


@pytest.mark.parametrize("geometry", BOARDS, ids=["6x6", "9x9"])
def test_generated_puzzles_have_counted_clues_and_one_solution(geometry: Geometry) -> None:
    puzzles = generate(geometry, clues=CLUES[geometry.side], count=12, split="validation", seed=3)
    assert len(puzzles) == 12
    assert ((puzzles.clues != MASK).sum(1) == CLUES[geometry.side]).all()
    assert ((puzzles.clues == MASK) | (puzzles.clues == puzzles.solutions)).all()
    assert is_solved(geometry, puzzles.solutions).all()
    assert all(count_solutions(geometry, board) == 1 for board in puzzles.clues.tolist())


def test_generation_is_seeded() -> None:
    first, again, other = (generate(BOARDS[0], clues=10, count=5, split="train", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.clues, again.clues)
    assert not torch.equal(first.clues, other.clues)


@pytest.mark.parametrize(("clues", "count", "name"), [(0, 1, "clues"), (82, 1, "clues"), (30, -1, "count")])
def test_bad_arguments_are_named(clues: int, count: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        generate(Geometry(), clues=clues, count=count, split="train", seed=0)


@pytest.mark.parametrize("geometry", BOARDS, ids=["6x6", "9x9"])
def test_symmetries_keep_solutions_fingerprint_and_split(geometry: Geometry) -> None:
    puzzles = generate(geometry, clues=CLUES[geometry.side], count=20, split="train", seed=5)
    moved = augment(puzzles, torch.Generator().manual_seed(0))
    assert is_solved(geometry, moved.solutions).all()
    assert ((moved.clues == MASK) | (moved.clues == moved.solutions)).all()
    assert not torch.equal(moved.solutions, puzzles.solutions)
    for before, after in zip(puzzles.solutions.tolist(), moved.solutions.tolist(), strict=True):
        assert fingerprint(geometry, before) == fingerprint(geometry, after)
        assert split_of(geometry, after) == "train"


def test_fingerprints_tell_unrelated_grids_apart() -> None:
    rng = random.Random(0)
    prints = {fingerprint(Geometry(), random_grid(Geometry(), rng)) for _ in range(50)}
    assert len(prints) == 50


def test_splits_share_no_fingerprint() -> None:
    def prints(split: Split) -> set[str]:
        grids = generate(BOARDS[0], clues=12, count=60, split=split, seed=0).solutions.tolist()
        return {fingerprint(BOARDS[0], grid) for grid in grids}

    train, test = prints("train"), prints("test")
    assert train
    assert test
    assert not train & test


def test_counting_stops_at_the_limit_and_sees_contradictions() -> None:
    geometry = Geometry()
    assert count_solutions(geometry, [MASK] * 81, limit=3) == 3
    assert count_solutions(geometry, [1, 1] + [MASK] * 79) == 0
    grid = random_grid(geometry, random.Random(1))
    assert count_solutions(geometry, grid) == 1


@pytest.mark.parametrize(
    ("geometry", "options", "text"),
    [
        (Geometry(), {"clues": 16}, "clues: none of 20 grids could be dug down to 16 clues"),
        (Geometry(2, 3), {"clues": 7}, "clues: none of 20 grids could be dug down to 7 clues"),
        (Geometry(1, 2), {"clues": 3, "split": "train"}, "split: none of 20 grids of this board fell into 'train'"),
        (Geometry(), {"clues": 30, "split": "holdout"}, "split must be one of train, validation, test, got 'holdout'"),
    ],
)
def test_what_cannot_be_made_is_said(geometry: Geometry, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        generate(geometry, **{"count": 1, "split": "train", "seed": 0, "attempts": 20, **options})


def test_digging_too_deep_fails_instead_of_giving_two_solutions() -> None:
    rng = random.Random(2)
    assert dig(Geometry(), random_grid(Geometry(), rng), 12, rng) is None  # fewer than 17 clues are never unique


def test_is_solved_rejects_a_swapped_pair_and_a_mask() -> None:
    grid = torch.tensor([random_grid(Geometry(), random.Random(4))])
    swapped, masked = grid.clone(), grid.clone()
    swapped[0, [0, 1]] = grid[0, [1, 0]]
    masked[0, 40] = MASK
    assert is_solved(Geometry(), torch.cat([grid, swapped, masked])).tolist() == [True, False, False]
