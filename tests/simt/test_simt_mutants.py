"""Every barrier of the real kernels is needed: with any one removed, the harness finds a fault.

A detector that misses a removed barrier, or a barrier nothing needs, fails here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import harness
import numpy as np
import pytest
import test_simt_remask_step as remask
from harness import ROOT, Fault, Simt

CUDA = ROOT / "csrc" / "cuda"
BARRIER = re.compile(r"^\s*__sync(threads|warp)\(\);")


def barriers(source: str) -> list[int]:
    """Lines of a device source that are a barrier."""
    return [i for i, line in enumerate((CUDA / source).read_text().splitlines()) if BARRIER.match(line)]


def compile_mutant(source: str, line: int, kernel: str, folder: Path) -> Path:
    """The harness's library with one line of `source` left out of `kernel`.cu."""
    build = harness.build().parent
    shutil.copytree(CUDA, folder / "cuda")
    text = (CUDA / source).read_text().splitlines(keepends=True)
    text[line] = "\n"
    (folder / "cuda" / source).write_text("".join(text))
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
    subprocess.run(["g++", "-shared", "-o", str(library), *objects, str(folder / "mutant.o"), "-ldl"], check=True)
    return library


def run_remask(simt: Simt) -> None:
    """Two rankings one after the other, each with ties at its cut and several bytes of the key; then one pool."""
    random = np.random.default_rng(0)
    tokens = np.where(random.random((1, 300)) < 0.5, remask.MASK, 3)
    scores = {
        name: random.choice(np.float32([0.5, 0.25, 0.50000006]), (1, 300)) for name in ("unmask_score", "keep_score")
    }
    proposals = np.ones_like(tokens)
    remask.check(simt, tokens, proposals, **scores, unmask_count=70, remask_count=70)
    remask.check(simt, tokens, proposals, **scores, keep_count=150)


# Device source -> the kernel and the run that reach all of it.
REACHED_BY = {"radix_select.cuh": ("remask_step", run_remask)}


def test_every_source_with_a_barrier_is_listed():
    assert {path.name for path in CUDA.glob("*.cuh") if barriers(path.name)} == REACHED_BY.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("source", "line"), [(source, line) for source in REACHED_BY for line in barriers(source)])
def test_a_removed_barrier_is_found(library, source, line, tmp_path):
    kernel, run = REACHED_BY[source]
    mutant = compile_mutant(source, line, kernel, tmp_path)
    caught = 0
    for order in harness.ORDERS:
        try:
            run(Simt(mutant, order))
        except Fault:
            caught += 1
    assert caught, f"{source}:{line + 1} is a barrier that nothing needs, or the harness misses that it is gone"
