"""The property suite on kernels built with AddressSanitizer and UBSan: `python tools/sanitized.py`.

A copy of the sources is built in build/sanitized; what either finds ends the run. Leaks are not looked for: Python and
torch keep what they have until they end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "sanitized"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1 -O1"
SOURCES = (
    "mdmcorrect",
    "csrc",
    "cmake",
    "examples",
    "tests",
    "tools",
    "setup.py",
    "pyproject.toml",
    "CMakeLists.txt",
    "README.md",
    "LICENSE",
)


def copied() -> None:
    """What the copy lacks or has otherwise; libraries that were built stay."""
    for name in SOURCES:
        source, target = ROOT / name, COPY / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            continue
        for path in source.rglob("*"):
            if path.is_dir() or path.suffix in (".so", ".pyc") or "build" in path.relative_to(ROOT).parts:
                continue
            inside = COPY / path.relative_to(ROOT)
            if not inside.exists() or inside.stat().st_mtime < path.stat().st_mtime:
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, inside)


def library(name: str) -> str:
    """Path of a sanitizer's library, as the compiler has it."""
    compiler = os.environ.get("CXX", "g++").split()
    return subprocess.run(
        [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000, help="in all, shared out among the instruction sets")
    parser.add_argument("--isa", action="append", help="these instruction sets alone")
    options = parser.parse_args()
    copied()
    flags = {"CXXFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined", "MDMCORRECT_CUDA": "off"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=COPY, env={**os.environ, **flags}, check=True)
    preload = " ".join(library(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so"))
    asked = {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": str(COPY),
        "PYTHONMALLOC": "malloc",
    }
    words = [f"--cases={options.cases}", *(f"--isa={isa}" for isa in options.isa or ())]
    return subprocess.run(
        [sys.executable, "tools/properties.py", *words], cwd=COPY, env={**os.environ, **asked}, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
