"""Teach a model Sudoku, then teach it to correct itself.

    python -m mdmcorrect.examples.sudoku.train mdm --out runs/base9
    python -m mdmcorrect.examples.sudoku.train prism --init runs/base9/model.safetensors --out runs/prism9
    python -m mdmcorrect.examples.sudoku.train proseco --init runs/base9/model.safetensors --out runs/proseco9

Each command goes on from `OUT/state.pt` if it was interrupted, appends to `OUT/log.jsonl`, and ends by writing
`OUT/model.safetensors`. The givens of a puzzle are never masked: the model learns p(cell | givens, some other cells).
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mdmcorrect.losses import LossOutput, mdlm_loss, prism_loss, proseco_loss

from .checkpoints import build, load_checkpoint, save_checkpoint
from .files import replacing
from .model import SudokuConfig
from .puzzles import MASK, Geometry, Puzzles, generate
from .training import Schedule, train

__all__ = ["LOSSES", "load_or_generate", "main", "make_probe", "run"]

log = logging.getLogger(__name__)

# With 51 blanks a time below 1/51 masks less than one cell on average: smaller times teach nothing.
T_MIN = 0.02


def _mdm(model: nn.Module, batch: Puzzles, generator: torch.Generator) -> LossOutput:
    return mdlm_loss(
        model, batch.solutions, mask_id=MASK, fixed=batch.clues != MASK, t_min=T_MIN, generator=generator, check=False
    )


def _prism(model: nn.Module, batch: Puzzles, generator: torch.Generator) -> LossOutput:
    """Judged boards shall look like the sampler's: any number of generated cells, a fifth of them wrong.

    With the paper's k = 4 and uniform times one generated cell in thirty is wrong and the rest of the board is true; a
    head taught on that was near chance on the sampler's boards. So k is any number of the blanks, and late times, where
    the model errs as often as the sampler does, are drawn more often (density 3 t^2).
    """
    given = batch.clues != MASK
    blanks = int((batch.clues == MASK).sum(1).max())
    k = int(torch.randint(1, blanks + 1, (), generator=generator))
    t = torch.rand(len(batch), generator=generator).pow(1 / 3).clamp(min=T_MIN)
    return prism_loss(
        model,
        batch.solutions,
        mask_id=MASK,
        fixed=given,
        condition=given,
        k=k,
        t=t,
        mdlm_weight=1.0,
        generator=generator,
        check=False,
    )


def _proseco(model: nn.Module, batch: Puzzles, generator: torch.Generator) -> LossOutput:
    given = batch.clues != MASK
    return proseco_loss(
        model,
        batch.solutions,
        mask_id=MASK,
        fixed=given,
        condition=given,
        t_min=0.1,
        generator=generator,
        check=False,
    )


LOSSES: dict[str, Callable[[nn.Module, Puzzles, torch.Generator], LossOutput]] = {
    "mdm": _mdm,
    "prism": _prism,
    "proseco": _proseco,
}


def run(
    method: str,
    puzzles: Puzzles,
    validation: Puzzles,
    schedule: Schedule,
    *,
    out: Path,
    config: SudokuConfig | None = None,
    init: Path | None = None,
    command: str = "",
) -> nn.Module:
    """Train one model by `method` ("mdm", "prism", "proseco") and write `out/model.safetensors`; returns it."""
    quality, sees_givens = method == "prism", method != "mdm"
    if init is not None:
        model = load_checkpoint(init, quality=quality, sees_givens=sees_givens)
    else:
        torch.manual_seed(schedule.seed)
        model = build(replace(config or SudokuConfig(), sees_givens=sees_givens), quality=quality)
    loss = LOSSES[method]
    trained = train(
        model,
        lambda batch, generator: loss(model, batch, generator),
        puzzles,
        schedule,
        state_file=out / "state.pt",
        log_file=out / "log.jsonl",
        probe=make_probe(validation),
    )
    provenance = {"command": command, "steps": schedule.steps, "batch": schedule.batch, "seed": schedule.seed}
    save_checkpoint(out / "model.safetensors", trained, provenance)
    return trained


def make_probe(validation: Puzzles) -> Callable[[nn.Module], dict[str, float]]:
    """Cells right in one forward from the givens, and puzzles solved when the surest cell is filled call by call."""

    def probe(model: nn.Module) -> dict[str, float]:
        board, blank = validation.clues.clone(), validation.clues == MASK
        first = None
        for _ in range(int(blank.sum(1).max())):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(board, condition=~blank).logits.float()
            logits[..., MASK] = float("-inf")
            confidence, digit = logits.softmax(-1).max(-1)
            first = digit if first is None else first
            surest = confidence.masked_fill(board != MASK, -1).argmax(1, keepdim=True)
            open_rows = (board == MASK).any(1, keepdim=True)
            board.scatter_(1, surest, torch.where(open_rows, digit, board).gather(1, surest))
        assert first is not None
        return {
            "cells_right_at_once": (first == validation.solutions)[blank].float().mean().item(),
            "solved_greedily": (board == validation.solutions).all(1).float().mean().item(),
        }

    return probe


def load_or_generate(folder: Path, geometry: Geometry, *, clues: int, count: int, split: str, seed: int) -> Puzzles:
    """`generate`, kept in `folder` so that the next run starts at once."""
    from safetensors.torch import load_file, save_file

    name = f"{split}_{geometry.box_height}x{geometry.box_width}_{clues}clues_{count}_seed{seed}.safetensors"
    path = folder / name
    if path.exists():
        stored = load_file(path)
        return Puzzles(geometry, stored["clues"].long(), stored["solutions"].long())
    log.info("making %d %s puzzles with %d clues", count, split, clues)
    puzzles = generate(geometry, clues=clues, count=count, split=split, seed=seed)  # type: ignore[arg-type]
    with replacing(path) as whole:
        save_file({"clues": puzzles.clues.to(torch.uint8), "solutions": puzzles.solutions.to(torch.uint8)}, whole)
    return puzzles


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(LOSSES))
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--init", type=Path, help="checkpoint to start from; none: a new model")
    parser.add_argument("--data", type=Path, default=Path("runs/puzzles"), help="where made puzzles are kept")
    parser.add_argument("--box", type=int, nargs=2, default=(3, 3), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--clues", type=int, default=30)
    parser.add_argument("--puzzles", type=int, default=20_000, help="training puzzles, before symmetries")
    parser.add_argument("--layers", type=int, default=SudokuConfig.layers)
    parser.add_argument("--loops", type=int, default=SudokuConfig.loops)
    parser.add_argument("--width", type=int, default=SudokuConfig.width)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=Schedule.batch)
    parser.add_argument("--lr", type=float, default=Schedule.lr)
    parser.add_argument("--warmup", type=int, default=Schedule.warmup)
    parser.add_argument("--decay", type=float, default=Schedule.decay, help="last share of the run, the rate falls")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = SudokuConfig(*args.box, width=args.width, layers=args.layers, loops=args.loops)
    schedule = Schedule(args.steps, args.batch, args.lr, args.warmup, args.decay, seed=args.seed)
    where = {"folder": args.data, "geometry": config.geometry, "clues": args.clues}
    run(
        args.method,
        load_or_generate(**where, count=args.puzzles, split="train", seed=args.seed),
        load_or_generate(**where, count=256, split="validation", seed=args.seed),
        schedule,
        out=args.out,
        config=config,
        init=args.init,
        command=shlex.join(["python", "-m", "mdmcorrect.examples.sudoku.train", *(argv or sys.argv[1:])]),
    )


if __name__ == "__main__":
    main()
