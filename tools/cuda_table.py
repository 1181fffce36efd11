"""What ptxas made of the CUDA kernels, as a table: `python tools/cuda_table.py [--archs 80 90 ...] [op ...]`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers", re.S
)
REGISTERS = 65536  # of a multiprocessor, on every architecture we compile for
WARPS = {"80": 64, "86": 48, "89": 48, "90": 64, "100": 64, "120": 48}  # of a multiprocessor, at most


def usage(op: str, arch: str) -> list[tuple[str, int, int, int]]:
    """(kernel, registers, stack bytes, spill bytes) of one operator."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", "--fmad=false", f"-arch=sm_{arch}", "-Xptxas=-v", "-cubin"]
        source = ROOT / "csrc" / "cuda" / f"{op}.cu"
        done = subprocess.run(
            [*command, f"-I{ROOT / 'csrc'}", "-o", f"{folder}/kernel.cubin", str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(done.stderr)
    found = ENTRY.findall(done.stderr)
    return sorted((name, int(registers), int(stack), int(spills)) for name, stack, spills, registers in found)


def main() -> int:
    ops = sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", default=ops, metavar="op")
    parser.add_argument("--archs", nargs="+", default=list(WARPS), choices=WARPS)
    arguments = parser.parse_args()
    print("| kernel | arch | registers | stack, spills | warps by registers, of |\n|---|---|---|---|---|")
    for op in arguments.ops:
        for arch in arguments.archs:
            for name, registers, stack, spills in usage(op, arch):
                warps = min(WARPS[arch], REGISTERS // (32 * (-(-registers // 8) * 8)))  # granted by eights
                print(
                    f"| {name} | sm_{arch} | {registers} | {stack}, {spills} | {warps} of {WARPS[arch]} |", flush=True
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
