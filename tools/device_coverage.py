"""Which device lines of csrc/cuda the tests of tests/simt run: `python tools/device_coverage.py [--least PERCENT]`.

Builds the harness with gcov's counters, runs its tests, and prints a line per source with the lines never reached. A
line counts as run if any instance of its template ran it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "simt-coverage"


def run_tests() -> None:
    for stale in BUILD.rglob("*.gcda"):
        stale.unlink()
    environment = {**os.environ, "SIMT_VARIANT": "coverage"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", str(ROOT / "tests" / "simt")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def count_lines() -> dict[str, dict[int, int]]:
    """Source -> line -> how often it ran, over all translation units."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for data in BUILD.rglob("*.gcda"):
        command = ["gcov", "--json-format", "--stdout", str(data)]
        report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=BUILD).stdout)
        for file in report["files"]:
            path = Path(BUILD, file["file"]).resolve()
            if path.parent == ROOT / "csrc" / "cuda" and path.suffix in {".cu", ".cuh"}:
                for line in file["lines"]:
                    counts[path.name][line["line_number"]] += line["count"]
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=0.0, help="fail below this percentage")
    least = parser.parse_args().least
    run_tests()
    counts = count_lines()
    total = reached = 0
    for source, lines in sorted(counts.items()):
        missed = sorted(number for number, count in lines.items() if count == 0)
        total, reached = total + len(lines), reached + len(lines) - len(missed)
        share = 100 * (1 - len(missed) / len(lines))
        print(f"{source:40} {share:5.1f} %  of {len(lines):4} lines" + (f"; not run: {missed}" if missed else ""))
    percent = 100 * reached / max(total, 1)
    print(f"{'all':40} {percent:5.1f} %  of {total:4} lines")
    return percent < least


if __name__ == "__main__":
    raise SystemExit(main())
