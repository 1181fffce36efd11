"""``mdmcorrect demo``: shipped Sudoku models find and mend their own mistakes, on held-out puzzles."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser("demo", help="watch a model solve Sudoku and mend its mistakes")
    parser.add_argument("--puzzles", type=int, default=60, help="held-out puzzles to compare samplers on (default 60)")
    parser.add_argument(
        "--order",
        choices=("random", "max_probability"),
        default="random",
        help="order in which cells are committed: random as PRISM published (default), or the surest first",
    )
    parser.add_argument("--picture", type=Path, default=Path("mdmcorrect-demo.png"), help="where the plot is written")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds between the frames of the board (0: none)")
    parser.add_argument("--train", action="store_true", help="train 6x6 models first, in under ten minutes")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/demo6x6"), help="with --train: where checkpoints are kept and resumed"
    )


def run(args: argparse.Namespace) -> int:
    if args.puzzles < 1:
        raise SystemExit(f"--puzzles: expected at least 1, got {args.puzzles}")
    for module in ("rich", "safetensors", "matplotlib"):
        try:
            __import__(module)
        except ImportError as error:
            raise ImportError(
                f"{module} is missing; install the demo's extra: pip install 'mdmcorrect[demo]'"
            ) from error
    from mdmcorrect.examples.sudoku import demo
    from mdmcorrect.examples.sudoku.checkpoints import SHIPPED

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    checkpoints = SHIPPED
    if args.train:
        logging.getLogger("mdmcorrect").setLevel(logging.INFO)
        checkpoints = demo.train_small(args.runs)
    demo.run_demo(
        checkpoints=checkpoints,
        small=args.train,
        puzzles=args.puzzles,
        order=args.order,
        picture=args.picture,
        delay=args.delay,
    )
    return 0
