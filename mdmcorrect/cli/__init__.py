"""The ``mdmcorrect`` command. One file per subcommand, each with ``add_parser(subparsers)`` and ``run(args) -> int``.

Nothing is imported before it is needed: ``doctor`` must run, and say what is missing, where torch is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import mdmcorrect

from ._told import UserError

SUBCOMMANDS = ("demo", "compare", "generate", "score", "replay", "doctor", "bench", "tune")


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
    command = "mdmcorrect"
    args = argparse.Namespace()
    try:
        args = build_parser().parse_args(argv)
        command = f"mdmcorrect {args.subcommand}"
        return importlib.import_module(f"mdmcorrect.cli.{args.subcommand}").run(args)
    except (UserError, ImportError) as error:
        if getattr(args, "traceback", False):
            raise
        print(f"{command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
