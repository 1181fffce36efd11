"""The survey of samplers: every one fills boards, its points are kept and drawn, its intervals are Wilson's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdmcorrect.cli import main
from mdmcorrect.examples.sudoku import comparison
from mdmcorrect.examples.sudoku.checkpoints import build, save_checkpoint
from mdmcorrect.examples.sudoku.model import SudokuConfig
from mdmcorrect.examples.sudoku.puzzles import MASK, Geometry, generate
from mdmcorrect.examples.sudoku.solve import BoardModel, solve


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained")
    for name in ("prism", "proseco"):
        config = SudokuConfig(2, 3, width=16, layers=1, loops=1)
        save_checkpoint(folder / f"{name}.safetensors", build(config, quality=name == "prism"), {})
    return folder


ADAPTIVE = ("Fast-dLLM", "entropy-bounded", "LLaDA2.1 (edits)", "T2M (remasks)", "WINO")
PUZZLES = generate(Geometry(2, 3), clues=12, count=3, split="test", seed=0)


@pytest.mark.parametrize("method", comparison.METHODS, ids=lambda method: method.name)
def test_every_sampler_fills_boards_within_its_budget(method: comparison.Method, untrained: Path) -> None:
    model = BoardModel(untrained / f"{method.checkpoint}.safetensors")
    result = solve(method.adapter(model), PUZZLES, method.make(8, 0.5, model))
    assert (result.boards != MASK).all()
    assert ((result.boards == PUZZLES.clues) | (PUZZLES.clues == MASK)).all()
    adaptive = method.free or method.name in ADAPTIVE
    most = 120 if adaptive else 9  # one more than the budget removes noise
    assert ((result.nfe > 0) & (result.nfe <= most)).all()


def test_points_are_told_kept_and_drawn(untrained: Path, tmp_path: Path) -> None:
    told: list[comparison.Point] = []
    points = comparison.compare(PUZZLES, calls=[6, 4], only="p2", checkpoints=untrained, told=told.append)
    assert [(point.name, point.calls) for point in points] == [
        (name, calls) for name in ("P2", "P2, eta 2", "P2 (planner)", "P2+") for calls in (4, 6)
    ]
    assert told == points
    comparison.write_points(points, tmp_path / "points.json")
    assert comparison.read_points(tmp_path / "points.json") == points
    comparison.picture(points, tmp_path / "points.png")
    assert (tmp_path / "points.png").stat().st_size > 10_000
    free = comparison.compare(PUZZLES, calls=[4, 6], only="first-hitting", checkpoints=untrained)
    assert [point.nfe for point in free] == [24.0]


def test_intervals() -> None:
    assert comparison.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert comparison.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert comparison.wilson(10, 10)[1] == 1.0


def test_the_table_has_a_line_per_sampler_and_columns_per_budget() -> None:
    def point(name: str, family: str, calls: int, solved: int) -> comparison.Point:
        return comparison.Point(name, family, calls, solved, 10, calls - 0.5, 1.0)

    points = [point("A", "one", 4, 5), point("A", "one", 8, 10), point("B", "two", 4, 0)]
    assert comparison.markdown(points).splitlines() == [
        "| sampler | calls | solved of 10 | calls | solved of 10 |",
        "|---|---|---|---|---|",
        "| *one* | | | | |",
        "| A | 3.5 | 0.50 [0.24, 0.76] | 7.5 | 1.00 [0.72, 1.00] |",
        "| *two* | | | | |",
        "| B | 3.5 | 0.00 [0.00, 0.28] | | |",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--puzzles", "2", "--calls", "4", "--only", "MaskGIT", "--markdown", str(tmp_path / "c.md")]
    assert main([*arguments, "--picture", str(tmp_path / "c.png"), "--json", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert "MaskGIT" in printed
    assert "2 held-out puzzles" in printed
    assert (tmp_path / "c.png").exists()
    (point,) = comparison.read_points(tmp_path / "c.json")
    assert (tmp_path / "c.md").read_text() == comparison.markdown([point])
    with pytest.raises(SystemExit, match="--only: no sampler's name holds 'nobody'"):
        main(["compare", "--puzzles", "1", "--only", "nobody"])
    with pytest.raises(SystemExit, match="--puzzles, --calls: expected at least 1 and at least 4 each"):
        main(["compare", "--puzzles", "1", "--calls", "2"])
