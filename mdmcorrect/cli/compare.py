"""``mdmcorrect compare``: every sampler on the shipped Sudoku models, boards solved against model calls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "compare", help="solve Sudoku with every sampler; print and plot solved against calls"
    )
    parser.add_argument("--puzzles", type=int, help="held-out puzzles (default 32; with --full 500)")
    parser.add_argument("--calls", type=int, nargs="+", help="budgets of model calls (default 12 24; with --full more)")
    parser.add_argument("--temperature", type=float, default=0.25, help="of every sampler that draws (default 0.25)")
    parser.add_argument("--only", default="", help="samplers whose name holds this")
    parser.add_argument("--full", action="store_true", help="500 puzzles and budgets 8 12 16 24 32 51: an hour or two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--picture", type=Path, default=Path("mdmcorrect-compare.png"), help="where the plot is written"
    )
    parser.add_argument("--json", type=Path, help="write the points here")
    parser.add_argument("--markdown", type=Path, help="write the table here as Markdown, one line per sampler")


def run(args: argparse.Namespace) -> int:
    for module in ("rich", "safetensors", "matplotlib"):
        try:
            __import__(module)
        except ImportError as error:
            raise ImportError(
                f"{module} is missing; install the demo's extra: pip install 'mdmcorrect[demo]'"
            ) from error
    from rich.console import Console

    from mdmcorrect.examples.sudoku import comparison
    from mdmcorrect.examples.sudoku.puzzles import Geometry, generate

    count = args.puzzles or (500 if args.full else 32)
    calls = args.calls or ([8, 12, 16, 24, 32, 51] if args.full else [12, 24])
    if count < 1 or min(calls) < 4:
        raise SystemExit(f"--puzzles, --calls: expected at least 1 and at least 4 each, got {count} and {calls}")
    console = Console()
    puzzles = generate(Geometry(), clues=30, count=count, split="test", seed=0)
    with console.status("") as status:
        points = comparison.compare(
            puzzles,
            calls=calls,
            temperature=args.temperature,
            only=args.only,
            seed=args.seed,
            told=lambda point: status.update(f"{point.name}: {point.solved} of {point.boards}"),
        )
    if not points:
        raise SystemExit(f"--only: no sampler's name holds {args.only!r}")
    console.print(_table(points))
    comparison.picture(points, args.picture)
    console.print(f"plotted in {args.picture}")
    if args.json:
        comparison.write_points(points, args.json)
    if args.markdown:
        args.markdown.write_text(comparison.markdown(points))
    return 0


def _table(points: list[Any]) -> Any:
    from rich.table import Table

    from mdmcorrect.examples.sudoku.comparison import wilson

    table = Table(title=f"{points[0].boards} held-out puzzles of 51 blanks, settings untuned, 95 % intervals")
    table.add_column("sampler", no_wrap=True)
    for column in ("budget", "calls", "solved", "from", "to", "seconds"):
        table.add_column(column, justify="right")
    family = None
    for point in points:
        if point.family != family:
            family = point.family
            table.add_section()
            table.add_row(f"[bold]{family}[/bold]")
        low, high = wilson(point.solved, point.boards)
        numbers = (f"{point.nfe:.1f}", f"{point.rate:.2f}", f"{low:.2f}", f"{high:.2f}", f"{point.seconds:.1f}")
        table.add_row(point.name, str(point.calls), *numbers)
    return table
