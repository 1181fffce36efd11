"""The harness's library with one device source changed: for controls that must be caught."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import harness
from harness import ROOT

CUDA = ROOT / "csrc" / "cuda"


def compile_mutant(source: str, text: str, kernel: str, folder: Path) -> Path:
    """The library with `text` for csrc/cuda/<source> in <kernel>.cu, built in an empty folder."""
    build = harness.build().parent
    shutil.copytree(CUDA, folder / "cuda")
    (folder / "cuda" / source).write_text(text)
    entry = next(e for e in json.loads((build / "compile_commands.json").read_text()) if f"/{kernel}.cu" in e["file"])
    command = shlex.split(entry["command"])
    original = command[command.index("-o") + 1]
    command[command.index("-o") + 1] = str(folder / "mutant.o")
    command[command.index("-c") + 1] = str(folder / "cuda" / f"{kernel}.cu")
    command.insert(command.index("-o"), f"-I{folder}")
    command = [part for part in command if part != f"-I{ROOT / 'csrc'}"]
    command += [f"-I{ROOT / 'csrc'}"]
    subprocess.run(command, cwd=build, check=True, capture_output=True)
    objects = [str(path) for path in build.rglob("*.o") if path != build / original]
    library = folder / "libmutant.so"
    # The mutant comes first: of inline functions that other kernels have too the linker takes the first.
    mutant = str(folder / "mutant.o")
    subprocess.run(["g++", "-shared", "-o", str(library), mutant, *objects, "-ldl"], check=True)
    return library
