"""Formats csrc/ and the C++ of tests/ as .clang-format says, or checks it: `python tools/clang_format.py [--check]`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    tool = shutil.which("clang-format", path=sysconfig.get_path("scripts")) or shutil.which("clang-format")
    if tool is None:
        print("clang-format was not found: `pip install clang-format`", file=sys.stderr)
        return 1
    sources = [path for folder in ("csrc", "tests") for path in (ROOT / folder).rglob("*")]
    files = sorted(str(path) for path in sources if path.suffix in {".h", ".cpp", ".cu", ".cuh"})
    mode = ["--dry-run", "-Werror"] if "--check" in sys.argv[1:] else ["-i"]
    return subprocess.run([tool, *mode, *files], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
