"""What is killed: a training run and a sampling run that save what they have, and go on from it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

STEPS = 40


def train(folder: Path) -> None:
    """A few dozen steps on 2 x 3 Sudoku, saved every second step; the weights at the end are in ``weights.pt``."""
    import torch

    from mdmcorrect.examples.sudoku.checkpoints import build
    from mdmcorrect.examples.sudoku.files import replacing
    from mdmcorrect.examples.sudoku.model import SudokuConfig
    from mdmcorrect.examples.sudoku.puzzles import Geometry, generate
    from mdmcorrect.examples.sudoku.train import LOSSES
    from mdmcorrect.examples.sudoku.training import Schedule
    from mdmcorrect.examples.sudoku.training import train as run

    torch.set_num_threads(1)
    torch.manual_seed(0)
    puzzles = generate(Geometry(2, 3), clues=12, count=24, split="train", seed=0)
    model = build(SudokuConfig(2, 3, width=16, heads=4, layers=1, loops=2))
    where = {"state_file": folder / "state.pt", "log_file": folder / "log.jsonl"}
    loss = LOSSES["mdm"]
    trained = run(
        model, lambda batch, generator: loss(model, batch, generator), puzzles, Schedule(STEPS, batch=8, warmup=2),
        **where, log_every=1, save_every=2,
    )  # fmt: skip
    with replacing(folder / "weights.pt") as path:
        torch.save(trained.state_dict(), path)


def sample(folder: Path) -> None:
    """A run of ProSeCo whose state is saved after each step; the tokens at the end are in ``weights.pt``."""
    import torch

    from mdmcorrect.examples.sudoku.files import replacing
    from mdmcorrect.samplers import ProSeCo, State

    torch.set_num_threads(1)
    saved, preset = folder / "state.pt", ProSeCo(steps=STEPS, corrector_steps=2)
    tokens = torch.full((4, 64), 96)
    state = State.load(torch.load(saved, weights_only=True)) if saved.exists() else None
    while True:
        given = {"tokens": tokens, "seed": 5} if state is None else {"state": state}
        result = preset(model, mask_id=96, callback=lambda event: True, **given)
        state = result.state
        with replacing(saved) as path:
            torch.save(state.state_dict(), path)
        if result.stopped == "finished":
            break
        time.sleep(0.02)
    with replacing(folder / "weights.pt") as path:
        torch.save({"tokens": state.tokens, "nfe": state.nfe}, path)


def model(tokens):  # type: ignore[no-untyped-def]
    """Logits that depend on the whole canvas, the same on every machine."""
    import torch

    context = (tokens * (torch.arange(tokens.shape[1]) + 3)).sum(1, keepdim=True)
    place = context[..., None] % 9973 + torch.arange(tokens.shape[1])[:, None] * 31
    return ((place * 65537 + torch.arange(97) * 40503) % 99991 / 99991 * 8).float()


def left_over(folder: Path) -> Iterator[Path]:
    """Files that a kill left half written, under another name than the one they were for."""
    return (path for path in folder.rglob("*.partial") if path.exists())


def interrupted(name: str) -> None:
    """Sample with a preset of the tests for ever, and say when a forward begins and when the run has come back."""
    import signal
    import sys

    import torch

    sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tests" / folder) for folder in ("", "samplers")]
    from combinations import MASK, PRESETS, canvas  # type: ignore[import-not-found]
    from toys import Toy  # type: ignore[import-not-found]

    signal.signal(signal.SIGINT, signal.default_int_handler)
    toy = Toy()

    def slow(tokens, request):  # type: ignore[no-untyped-def]
        if not toy.rows:
            print("forward", flush=True)
        time.sleep(0.05)
        return toy(tokens, request)

    result = PRESETS[name](slow, canvas(4, 64), mask_id=MASK, seed=1)
    print(result.stopped, flush=True)
    os._exit(0 if result.stopped == "interrupted" and isinstance(result.tokens, torch.Tensor) else 1)
