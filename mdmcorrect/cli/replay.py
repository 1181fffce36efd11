"""``mdmcorrect replay``: a saved run as a page, as text, or as a plot."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  mdmcorrect replay run.json                                   the run in this terminal
  mdmcorrect replay run.json -o run.html                       a page that plays it, for any browser, no network needed
  mdmcorrect replay run.json -o run.html --view sudoku --tokenizer path/to/tokenizer
  mdmcorrect replay run.json -o run.png --rows 0 3             quality, confidence, entropy and counts over the steps

A run is saved by result.save("run.json", tokenizer), where result = sampler(..., history="candidates"), or by
`mdmcorrect generate --runs folder`.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "replay",
        help="play a saved run: as a page, in the terminal, as a plot",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a run saved as JSON")
    parser.add_argument(
        "-o", "--out", type=Path, help="what to write: .html, .txt, .png, .svg or .pdf; default: text on this terminal"
    )
    parser.add_argument("--tokenizer", help="a Hugging Face tokenizer's path or module:factory; default: as saved")
    parser.add_argument("--view", choices=("text", "grid", "sudoku", "smiles"), default="text", help="of a page")
    parser.add_argument("--columns", type=int, help="tokens per line of a grid")
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="rows of the batch to show")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="text: show every N-th step (default 1)")
    parser.add_argument("--title", help="of a page")
    parser.add_argument("--max-mb", type=float, default=8.0, help="a page's run is thinned out to this (default 8)")


def run(args: argparse.Namespace) -> int:
    from mdmcorrect import replay

    from ._loading import tokenizer_of
    from ._told import UserError

    tokenizer = None if args.tokenizer is None else tokenizer_of(args.tokenizer)
    try:
        shown = replay.load(args.run)
        kind = ".txt" if args.out is None else args.out.suffix
        if kind == ".html":
            options = {"view": args.view, "columns": args.columns, "rows": args.rows, "title": args.title}
            page = shown.to_html(tokenizer, max_bytes=int(args.max_mb * 2**20), **options)
            args.out.write_text(page, encoding="utf-8")
        elif kind == ".txt":
            _text(shown, tokenizer, args)
        elif kind in (".png", ".svg", ".pdf"):
            shown.plot(rows=args.rows).savefig(args.out)
        else:
            raise UserError(f"--out: expected a name that ends in .html, .txt, .png, .svg or .pdf, got {args.out}")
    except (OSError, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    if args.out is not None:
        print(f"wrote {args.out}", file=sys.stderr)
    return 0


def _text(shown: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    colour = args.out is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    rows = args.rows or [row.index for row in shown.rows[:1]]
    parts = [shown.text(tokenizer, row=row, columns=args.columns, every=args.every, colour=colour) for row in rows]
    whole = "\n".join(parts)
    if args.out is not None:
        args.out.write_text(whole, encoding="utf-8")
        return
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(whole.encode(encoding, "replace").decode(encoding))
