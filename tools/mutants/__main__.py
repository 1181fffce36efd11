"""See the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

if __package__ in (None, ""):  # python tools/mutants
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "mutants"
    import mutants  # noqa: F401

from . import mapping, running
from .areas import AREAS, ROOT
from .making import Mutant, by_hand, drawn


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/mutants", description="see tools/mutants/__init__.py")
    commands = parser.add_subparsers(dest="command", required=True)
    mapped = commands.add_parser("map", help="note which test runs which line")
    mapped.add_argument("tests", nargs="*", help="these alone, beside what is known")
    hand = commands.add_parser("hand", help="the bugs that people made")
    hand.add_argument("words", nargs="*", help="those whose name or file holds one of these")
    tool = commands.add_parser("tool", help="bugs that cosmic-ray makes")
    tool.add_argument("--area", action="append", choices=AREAS)
    tool.add_argument("--sample", type=int, default=50, help="how many per area")
    tool.add_argument("--seed", type=int, default=0)
    for command in (hand, tool):
        command.add_argument("--seconds", type=float, default=60.0, help="of tests that one bug meets at most")
        command.add_argument("--tests", nargs="+", metavar="FILE", help="ask these, whatever line they run")
        command.add_argument("--only", help="a file of names, as --left writes them: these alone")
        command.add_argument("--left", help="write the names of those that nobody noticed")
        command.add_argument("--verbose", action="store_true", help="show what each survivor changes")
    options = parser.parse_args()
    if options.command == "map":
        return mapping.make(options.tests)
    if options.command == "hand":
        mutants = by_hand(options.words)
    else:
        mutants = [each for area in options.area or AREAS for each in drawn(area, options.sample, options.seed)]
    if options.only:
        names = set(json.loads(Path(options.only).read_text()))
        mutants = [mutant for mutant in mutants if mutant.name in names]
    left = report(mutants, options.seconds, test_files(options.tests), verbose=options.verbose)
    if options.left:
        Path(options.left).write_text(json.dumps([mutant.name for mutant in left], indent=1))
    return 0


def test_files(given: list[str] | None) -> list[str] | None:
    """Files, and those of folders, as pytest names them."""
    if given is None:
        return None
    paths = [ROOT / name for name in given]
    files = [file for path in paths for file in (sorted(path.rglob("test_*.py")) if path.is_dir() else [path])]
    return list(dict.fromkeys(str(file.relative_to(ROOT)) for file in files))


def report(
    mutants: list[Mutant], limit: float, files: list[str] | None = None, *, verbose: bool = False
) -> list[Mutant]:
    """Run the mutants, write a line for each and the score of each area; those that nobody noticed.

    Raises:
        SystemExit: the files fail without a bug.
    """
    known = None if files else mapping.Map()
    running.prepare()
    if files and mutants:
        none = Mutant("no bug", mutants[0].path, mutants[0].path.read_text())
        if running.run(none, files, limit).noticed:
            raise SystemExit(f"--tests: expected files that pass without a bug, got failures in {' '.join(files)}")
    outcomes = defaultdict(list)
    for mutant in mutants:
        if known is None:
            outcome = running.run(mutant, files or [], limit)
        else:
            tests = known.within(known.tests(mutant.path, mutant.lines), limit)
            outcome = running.run(mutant, tests, sum(known.seconds[test] for test in tests))
        outcomes[mutant.area].append(outcome)
        said = f"noticed by {outcome.noticed}" if outcome.noticed else f"SURVIVED {outcome.tests} tests"
        print(f"{said:28} {outcome.seconds:5.1f} s  {mutant.name}", flush=True)
        if verbose and not outcome.noticed:
            print("\n".join(f"    {line}" for line in mutant.change.splitlines()[2:]), flush=True)
    for area, made in outcomes.items():
        seen = sum(bool(outcome.noticed) for outcome in made)
        print(f"{area}: {seen} of {len(made)} noticed ({100 * seen / len(made):.0f} %)")
    return [outcome.mutant for made in outcomes.values() for outcome in made if not outcome.noticed]


if __name__ == "__main__":
    sys.exit(main())
