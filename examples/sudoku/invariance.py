"""How often does the same seed give another board when batch size or thread count change?

    python -m mdmcorrect.examples.sudoku.invariance

The samplers are bit-equal given bit-equal logits. A model's own matrix products may round differently for another batch
or number of threads, and then a draw near a tie can fall the other way: this prints for how many puzzles it did.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mdmcorrect.samplers import PRISM

from .checkpoints import SHIPPED
from .puzzles import Geometry, generate
from .solve import BoardModel, solve

__all__ = ["differing", "main"]


def differing(checkpoint: Path, *, puzzles: int, calls: int) -> dict[str, float]:
    """Share of boards that differ from those of one thread and batch 1, at temperature 1, by batch and threads."""
    held_out = generate(Geometry(), clues=30, count=puzzles, split="test", seed=2)
    model = BoardModel(checkpoint)
    sampler = PRISM(steps=calls, unmask="random", remask="quality", remask_count=2, temperature=1.0)
    available = torch.get_num_threads()

    def boards(threads: int, batch: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        try:
            return solve(model, held_out, sampler, batch=batch).boards
        finally:
            torch.set_num_threads(available)

    alone = boards(1, 1)
    cases = {"1 thread, batch 16": (1, 16), "2 threads, batch 1": (2, 1), "2 threads, batch 16": (2, 16)}
    return {name: (boards(*case) != alone).any(1).float().mean().item() for name, case in cases.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED / "prism.safetensors")
    parser.add_argument("--puzzles", type=int, default=64)
    parser.add_argument("--calls", type=int, default=20)
    args = parser.parse_args(argv)
    for case, share in differing(args.checkpoint, puzzles=args.puzzles, calls=args.calls).items():
        print(f"{case}: {share:.1%} of {args.puzzles} boards differ from 1 thread, batch 1")


if __name__ == "__main__":
    main()
