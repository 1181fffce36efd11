"""``python -m gpu_report``: see the package's docstring. ``make gpu`` calls it."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from .results import FAILURES, Entry, Results
from .running import ROOT, Budget, run
from .steps import Step, build, steps

CONTENT = {"logs", "report.md", "results.json", "speedups.png"}
LEAST = 5.0  # seconds, below which a step is not begun


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_report", description="What a device makes of mdmcorrect, as a folder.")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help='"cuda" (default; CUDA_VISIBLE_DEVICES names another than the first), or "cpu" to try it out',
    )
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-report", help="the folder (default gpu-report)")
    parser.add_argument("--minutes", type=float, default=10.0, help="what all may take, the build apart (default 10)")
    parser.add_argument("--build", metavar="COMMAND", help="builds the library first (default: it is built)")
    parser.add_argument("--only", default="", metavar="WORD", help="operators and benchmarks whose name contains this")
    args = parser.parse_args(argv)
    strangers = sorted({path.name.removesuffix(".new") for path in args.out.glob("*")} - CONTENT)
    if strangers:
        parser.error(f"--out: {args.out} has {strangers[0]}, which is no report's; name another folder")
    shutil.rmtree(args.out, ignore_errors=True)
    results = Results(args.out.resolve(), args.device, facts=surroundings())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.build:
            take(build(shlex.split(args.build)), results, Budget(3600.0), print)
        if not results.failures():
            take_all(steps(results, only=args.only), results, Budget(60.0 * args.minutes), print)
        results.ended = "by itself"
    except (KeyboardInterrupt, SystemExit):
        results.ended = "interrupted, with the steps that had ended by then"
        raise
    finally:
        results.ended += f", {datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %z}"
        why = results.plot()
        results.write()
        print(f"\n{results.verdict().replace('**', '')}")
        print(f"report: {results.folder / 'report.md'}" + (f" (no picture: {why})" if why else ""), flush=True)
    return 1 if results.failures() or not any(entry.status == "ok" for entry in results.entries) else 0


def surroundings() -> dict[str, str]:
    """The commit and, from nvidia-smi, the devices and their limits, where git and nvidia-smi can say."""
    limits = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    commands = {
        "commit": ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        "nvidia-smi": ["nvidia-smi", f"--query-gpu={limits}", "--format=csv,noheader"],
    }
    said = {}
    for name, command in commands.items():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
            said[name] = "; ".join(done.stdout.splitlines())
    return said


def take_all(todo: Iterable[Step], results: Results, budget: Budget, say: Callable[[str], None]) -> None:
    """Every step within what is left of the budget; nothing more where the check could not even begin."""
    for step in todo:
        take(step, results, budget, say)
        if step.part == "check" and any(entry.name == "doctor" for entry in results.failures()):
            return


def take(step: Step, results: Results, budget: Budget, say: Callable[[str], None]) -> None:
    """One step: run, read, write down, say."""
    before = len(results.entries)
    left = budget.left()
    if left < LEAST:
        results.add(Entry(step.part, step.name, "skipped", "the time was up"))
    else:
        log = results.folder / "logs" / step.log
        ended = run(step.command, seconds=min(step.seconds, left), log=log, environment=step.environment)
        step.read(ended, results)
    for entry in results.entries[before:]:
        verdict = entry.status if entry.status not in FAILURES else f"{entry.status}:"
        say(f"{entry.part:<11} {entry.name:<26} {verdict:<10} {entry.message}"[:200])


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
