"""The training loop resumes to the same weights; checkpoints keep model, head and provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mdmcorrect.examples.sudoku.checkpoints import build, load_checkpoint, read_provenance, save_checkpoint
from mdmcorrect.examples.sudoku.model import SudokuConfig, SudokuTransformer
from mdmcorrect.examples.sudoku.puzzles import Geometry, Puzzles, generate
from mdmcorrect.examples.sudoku.train import LOSSES, main, run
from mdmcorrect.examples.sudoku.training import Schedule, step_generator, train

CONFIG = SudokuConfig(2, 3, width=16, heads=4, layers=1, loops=2)


@pytest.fixture(scope="module")
def puzzles() -> Puzzles:
    return generate(Geometry(2, 3), clues=12, count=24, split="train", seed=0)


@pytest.mark.parametrize("method", sorted(LOSSES))
def test_every_method_trains_and_lowers_its_loss(method: str, puzzles: Puzzles, tmp_path: Path) -> None:
    model = run(method, puzzles, puzzles[:4], Schedule(40, batch=16, lr=3e-3, warmup=5), out=tmp_path, config=CONFIG)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["step"] == 40
    output = model(puzzles.clues)
    assert output.logits.shape == (24, 36, 7)
    if method == "prism":
        assert ((output.quality > 0) & (output.quality < 1)).all()
    torch.manual_seed(0)
    untrained = build(CONFIG, quality=method == "prism")
    with torch.no_grad():
        before, after = (LOSSES[method](m, puzzles, step_generator(1, 0)).loss for m in (untrained, model))
    assert after < before


def test_an_interrupted_run_goes_on_to_the_same_weights(puzzles: Puzzles, tmp_path: Path) -> None:
    schedule = Schedule(6, batch=8, warmup=2)

    def finish(folder: Path, interrupt_at: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build(CONFIG)
        calls = 0

        def loss(batch: Puzzles, generator: torch.Generator):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls - 1 == interrupt_at:
                raise KeyboardInterrupt
            return LOSSES["mdm"](model, batch, generator)

        where = {"state_file": folder / "state.pt", "log_file": folder / "log.jsonl", "save_every": 2}
        if interrupt_at is not None:
            with pytest.raises(KeyboardInterrupt):
                train(model, loss, puzzles, schedule, **where)  # type: ignore[arg-type]
            model = build(CONFIG)  # other weights: all must come from the file
        return train(model, loss, puzzles, schedule, **where).state_dict()  # type: ignore[arg-type]

    through, resumed = finish(tmp_path / "a", None), finish(tmp_path / "b", 5)
    assert all(torch.equal(through[name], resumed[name]) for name in through)
    assert not list(tmp_path.rglob("*.partial"))


def steps(log: Path) -> list[int]:
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("killed_at", [0, 1, 3, 5])
def test_a_log_holds_no_step_twice(killed_at: int, puzzles: Puzzles, tmp_path: Path) -> None:
    """However a run ended: at a step after the last saved one, or amid a line."""
    model, calls = build(CONFIG), iter(range(100))

    def loss(batch: Puzzles, generator: torch.Generator):  # type: ignore[no-untyped-def]
        if next(calls) == killed_at:
            raise SystemExit
        return LOSSES["mdm"](model, batch, generator)

    log = tmp_path / "log.jsonl"
    where: dict[str, Any] = {"state_file": tmp_path / "state.pt", "log_file": log, "log_every": 1, "save_every": 2}
    with pytest.raises(SystemExit):
        train(model, loss, puzzles, Schedule(6, batch=4, warmup=2), **where)
    with log.open("a") as file:
        file.write('{"step": 9, "los')
    train(model, loss, puzzles, Schedule(6, batch=4, warmup=2), **where)
    saved = killed_at // 2 * 2
    assert steps(log) == list(range(1, 7))
    assert (tmp_path / "log.jsonl.1").exists() == (saved == 0)
    train(model, loss, puzzles, Schedule(6, batch=4, warmup=2), **where)  # there is nothing left to do
    assert steps(log) == list(range(1, 7))


def test_a_state_of_another_schedule_is_refused(puzzles: Puzzles, tmp_path: Path) -> None:
    run("mdm", puzzles, puzzles[:2], Schedule(2, batch=4), out=tmp_path, config=CONFIG)
    with pytest.raises(ValueError, match="holds a run with schedule"):
        run("mdm", puzzles, puzzles[:2], Schedule(3, batch=4), out=tmp_path, config=CONFIG)


def test_checkpoints_keep_what_was_saved(tmp_path: Path) -> None:
    model = build(CONFIG, quality=True).eval()
    save_checkpoint(tmp_path / "m.safetensors", model, {"command": "made here"})
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    board = torch.zeros(1, 36, dtype=torch.int64)
    assert torch.equal(loaded(board).quality, model(board).quality)
    assert read_provenance(tmp_path / "m.safetensors") == {"command": "made here"}
    bare = load_checkpoint(tmp_path / "m.safetensors", quality=False)
    assert isinstance(bare, SudokuTransformer)
    save_checkpoint(tmp_path / "bare.safetensors", bare, {})
    raised = load_checkpoint(tmp_path / "bare.safetensors", quality=True, sees_givens=True)
    assert raised(board).quality.tolist() == [[0.5] * 36]
    assert torch.equal(raised(board).logits, bare(board).logits)
    assert not torch.equal(raised(board, condition=board == 0).logits, bare(board, condition=board == 0).logits)


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="commands that make one"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_command_line_trains_end_to_end(tmp_path: Path) -> None:
    shape = ["--box", "2", "3", "--clues", "12", "--width", "16", "--layers", "1", "--loops", "1"]
    arguments = ["mdm", *shape, "--puzzles", "8", "--steps", "2", "--batch", "4"]
    main([*arguments, "--out", str(tmp_path / "run"), "--data", str(tmp_path / "data")])
    provenance = read_provenance(tmp_path / "run" / "model.safetensors")
    assert provenance["command"].startswith("python -m mdmcorrect.examples.sudoku.train mdm --box 2 3")
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_heads_see_row_column_box_and_board() -> None:
    model = SudokuTransformer(SudokuConfig(3, 3, width=16))
    seen = (model.bias == 0).sum(2)
    assert (seen == torch.tensor([9, 9, 9, 81])[:, None]).all()
