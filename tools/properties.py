"""The property suite at length, once for each instruction set there is: `python tools/properties.py --cases 20000`.

Prints how many cases each property got on each. A case that fails is shrunk and shown with what reproduces it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "tests/properties"


def properties() -> list[str]:
    """Names of the properties."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", FOLDER],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("::")[-1] for line in listed.stdout.splitlines() if "::" in line]


def run(isa: str, each: int, report: Path, options: list[str]) -> tuple[int, dict[str, int]]:
    """pytest's exit status, and the cases that each property got on an instruction set."""
    asked = {"MDMCORRECT_ISA": isa, "MDMCORRECT_CASES": str(each), "MDMCORRECT_CASES_REPORT": str(report)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, FOLDER]
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **asked}, check=False).returncode
    return status, json.loads(report.read_text()) if report.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="in all (default 20000)")
    parser.add_argument("--isa", action="append", help="these instruction sets alone")
    parser.add_argument("pytest", nargs="*", help="options for pytest, after --")
    options = parser.parse_args()
    from mdmcorrect import _native

    isas = options.isa or _native.build_info()["isas_supported"]
    names = properties()
    each = -(-options.cases // (len(isas) * len(names)))
    counts, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for isa in isas:
            status, counts[isa] = run(isa, each, Path(folder) / isa, options.pytest)
            failed += [isa] * bool(status)
    width = max(map(len, names))
    print(f"{'cases':{width}} " + " ".join(f"{isa:>12}" for isa in isas))
    for name in names:
        print(f"{name:{width}} " + " ".join(f"{counts[isa].get(name, 0):12}" for isa in isas))
    totals = {isa: sum(counts[isa].values()) for isa in isas}
    print(f"{'together':{width}} " + " ".join(f"{totals[isa]:12}" for isa in isas))
    print(f"{sum(totals.values())} cases on {len(isas)} instruction sets; failures on: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
