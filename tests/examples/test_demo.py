"""The demonstration runs on small models trained here, and on the shipped checkpoints."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mdmcorrect.cli import main
from mdmcorrect.examples.sudoku import demo
from mdmcorrect.examples.sudoku.arms import ARMS, load_settings, settings_of
from mdmcorrect.examples.sudoku.board import draw_board, legend
from mdmcorrect.examples.sudoku.checkpoints import SHIPPED, build, read_provenance, save_checkpoint
from mdmcorrect.examples.sudoku.model import SudokuConfig
from mdmcorrect.examples.sudoku.puzzles import MASK, Geometry, generate
from mdmcorrect.examples.sudoku.solve import BoardModel, solve

SHIPPED_NAMES = ("prism", "proseco")


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = SudokuConfig(2, 3, width=16, layers=1, loops=1)
    for name in ("prism", "proseco", "longer"):
        save_checkpoint(tmp_path / f"{name}.safetensors", build(config, quality=name == "prism"), {})
    return tmp_path


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.name}-{arm.order}")
def test_every_arm_fills_boards_within_its_calls(arm, untrained: Path) -> None:  # type: ignore[no-untyped-def]
    puzzles = generate(Geometry(2, 3), clues=12, count=3, split="test", seed=0)
    for settings in arm.grid:
        result = solve(BoardModel(untrained / f"{arm.checkpoint}.safetensors"), puzzles, arm.make(8, settings))
        assert (result.boards != MASK).all()
        assert ((result.boards == puzzles.clues) | (puzzles.clues == MASK)).all()
        assert ((result.nfe > 0) & (result.nfe <= 8)).all()


def test_results_do_not_depend_on_the_batch(untrained: Path) -> None:
    puzzles = generate(Geometry(2, 3), clues=12, count=6, split="test", seed=0)
    logits = torch.randn(36, 7, generator=torch.Generator().manual_seed(1))
    sampler = ARMS[1].make(6, {"temperature": 1.0, "remask_count": 2})

    def model(tokens: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:  # logits that no batch can change
        return logits.expand(len(tokens), -1, -1) + tokens.unsqueeze(-1) * 0.25

    whole, single = (solve(model, puzzles, sampler, seed=3, batch=size) for size in (6, 1))
    assert torch.equal(whole.boards, single.boards)


def test_demo_draws_a_table_and_a_picture(untrained: Path, tmp_path: Path) -> None:
    puzzles = generate(demo.SMALL, clues=12, count=2, split="test", seed=0)
    console = Console(file=io.StringIO(), width=120)
    found = demo.compare(puzzles, untrained, calls=(4,), order="random", console=console)
    demo.show_puzzle(found, puzzles, untrained, console=console, delay=0)
    console.print(demo.results_table(found, puzzles, "random"))
    demo.plot(found, tmp_path / "out" / "plot.png", title="test")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "prism/PRISM" in text
    assert "without correction" in text
    assert (tmp_path / "out" / "plot.png").stat().st_size > 5000


def test_board_drawing_marks_right_and_wrong_cells() -> None:
    puzzle = generate(demo.SMALL, clues=12, count=1, split="test", seed=0)
    board = puzzle.solutions[0].clone()
    wrong = int((puzzle.clues[0] == MASK).nonzero()[0])
    board[wrong] = board[wrong] % 6 + 1
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    console.print(draw_board(demo.SMALL, board, puzzle.clues[0] != MASK, puzzle.solutions[0]), legend())
    assert console.file.getvalue().count("\x1b[31m") == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_shipped_checkpoints_solve_held_out_puzzles(name: str) -> None:
    puzzles = generate(Geometry(), clues=30, count=20, split="test", seed=9)
    arm = next(arm for arm in ARMS if arm.checkpoint == name and arm.order == "max_probability")
    result = solve(BoardModel(SHIPPED / f"{name}.safetensors"), puzzles, arm.make(24, arm.grid[0]))
    assert result.rate > 0.5  # an untrained model solves none
    assert "mdmcorrect.examples.sudoku.train" in read_provenance(SHIPPED / f"{name}.safetensors")["command"]


def test_shipped_settings_name_every_arm() -> None:
    chosen = load_settings(SHIPPED)
    for arm in ARMS:
        assert settings_of(chosen, arm, 24) in arm.grid
        assert arm.order in chosen[arm.name]


def test_command_line_refuses_no_puzzles(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="--puzzles"):
        main(["demo", "--puzzles", "0"])
