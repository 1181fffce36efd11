"""The ``mdmcorrect`` command. One file per subcommand, each with ``add_parser(subparsers)`` and ``run(args) -> int``.

Nothing is imported before it is needed: ``doctor`` must run, and say what is missing, where torch is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import mdmcorrect

from ._told import UserError

SUBCOMMANDS = ("demo", "compare", "replay", "doctor", "bench", "tune")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mdmcorrect", description="Self-correcting masked diffusion models.")
    parser.add_argument("--version", action="version", version=f"mdmcorrect {mdmcorrect.__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="{" + ",".join(SUBCOMMANDS) + "}")
    for name in SUBCOMMANDS:
        importlib.import_module(f"mdmcorrect.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. What is missing to run a subcommand is one line on stderr, status 1.

    What a user asked for wrongly is one line too, and status 2, as argparse has it. Ctrl-C ends a subcommand with one
    line and 130, the status of a process that SIGINT ended.
    """
    args = build_parser().parse_args(argv)
    try:
        return importlib.import_module(f"mdmcorrect.cli.{args.subcommand}").run(args)
    except UserError as error:
        print(f"mdmcorrect {args.subcommand}: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"mdmcorrect {args.subcommand}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mdmcorrect {args.subcommand}: interrupted", file=sys.stderr)
        return 130
